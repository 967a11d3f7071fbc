"""Hamiltonian Monte Carlo on all chains at once, and MALA, its one-step case."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from pyrodvae.engines.base import bounded
from pyrodvae.engines.metropolis import Metropolis, Proposal, Score


@dataclass(frozen=True)
class MALA(Metropolis):
    r"""The Metropolis-adjusted Langevin algorithm: exact, one gradient a move.

    .. math:: z' = z + \tfrac{ε^2}{2} M \nabla \log p(z | x) + ε M^{1/2} ξ, \qquad ξ \sim \mathcal N(0, I)

    accepted with both proposal densities in the ratio. It is Hamiltonian Monte Carlo with one leapfrog
    step, whose change of kinetic energy *is* log q(z|z') − log q(z'|z). The settings are those of
    :class:`~pyrodvae.engines.metropolis.Metropolis`.

    Source: Roberts & Tweedie 1996; the rate, Roberts & Rosenthal 1998.
    """

    target_accept: float = 0.574

    def propose(
        self, score: Callable[[Tensor], Score], z: Tensor, at_z: Score, step: Tensor, M: Tensor
    ) -> Proposal:
        """One leapfrog step."""
        return leapfrog(score, z, at_z, step, M, 1)


@dataclass(frozen=True)
class BatchedHMC(Metropolis):
    r"""Hamiltonian Monte Carlo: exact, some gradients a move, all chains and sequences side by side.

    .. math:: H(z, p) = -\log p(x, z) + \tfrac12 p^\top M p

    Momenta are drawn, the leapfrog integrator follows the dynamics, and the path's end is accepted by
    its change of energy. The other settings are those of :class:`~pyrodvae.engines.metropolis.Metropolis`.

    Args:
        leapfrogs: steps of the integrator per move.
        jitter: each move of a chain takes a step up to this share longer or shorter, so that none closes
            a cycle.

    Source: Neal, *MCMC using Hamiltonian dynamics* (2011).
    """

    target_accept: float = 0.65
    leapfrogs: int = 5
    jitter: float = 0.2

    def __post_init__(self) -> None:
        super().__post_init__()
        bounded(self, 1, 1000, "leapfrogs")
        bounded(self, 0, 0.99, "jitter")

    def propose(
        self, score: Callable[[Tensor], Score], z: Tensor, at_z: Score, step: Tensor, M: Tensor
    ) -> Proposal:
        """The end of a path of several leapfrog steps."""
        stretch = 1 + self.jitter * (2 * torch.rand(*z.shape[:2], 1, 1, dtype=z.dtype, device=z.device) - 1)
        return leapfrog(score, z, at_z, stretch * step, M, self.leapfrogs)


def leapfrog(
    score: Callable[[Tensor], Score], z: Tensor, at_z: Score, step: Tensor, M: Tensor, count: int
) -> Proposal:
    """The end of a path from z with fresh momenta; what kinetic energy it lost corrects the ratio."""
    scale = step * M.sqrt()
    momentum = start = torch.randn_like(z)  # of the coordinates M^{-1/2} z, where it has unit variance
    for _ in range(count):
        momentum = momentum + 0.5 * scale * at_z[1]
        z = z + scale * momentum
        at_z = score(z)
        momentum = momentum + 0.5 * scale * at_z[1]
    before, after = (0.5 * m.square().sum(-1) for m in (start, momentum))
    return z, at_z, before - after, before
