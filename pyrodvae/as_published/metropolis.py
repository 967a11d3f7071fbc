"""MHEM and MALAEM: Metropolis-Hastings in the E-step, each frame accepted on its own."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from pyrodvae.as_published.algorithm import Algorithm, Draw, Gain, Step, around_encoder
from pyrodvae.as_published.mixture import Mixture


class Place(NamedTuple):
    """Where the chains are, z (S, T, D): v there (S, T, F), U (S, T), and the drift (S, T, D), if any."""

    z: Tensor
    v: Tensor
    energy: Tensor
    drift: Tensor


@dataclass(frozen=True)
class Metropolis(Algorithm):
    r"""All frames proposed at once, and every frame accepted by its own term of the density.

    .. math:: \log u_t < U_t(z) - U_t(z') + \log q_t(z | z') - \log q_t(z' | z)

    Exact only where neither x_t nor the prior of z_t depends on other frames; then, too, only with λ = ½.

    Args:
        steps: per E-step; those after the burn_in first go to the M-step. A chain of as many more
            steps gives the final estimate.
        chains: S.
        start_noise: of the chains about the encoder's mean, standard deviation.
        acceptance: by ``"frame"``, or ``"joint"``: all frames of a sequence or none, which is correct.
        prior_weight: λ of :class:`~pyrodvae.as_published.langevin.LDEM`'s U.
        extra_noise: added to z after an E-step, outside of any acceptance, standard deviation.
        gain: whether the M-step updates it.

    Source: Sadeghi & Serizel 2023 and ps-rvae-se.
    """

    steps: int = 10
    burn_in: int = 5
    chains: int = 1
    start_noise: float = 0.1
    acceptance: Literal["frame", "joint"] = "frame"
    prior_weight: float = 0.5
    extra_noise: float = 0.0
    gain: Gain = "updated"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.burn_in >= self.steps:
            raise ValueError(f"{type(self).__name__}: burn_in must be less than steps, not {self.burn_in}.")

    @abstractmethod
    def look(self, mixture: Mixture, z: Tensor) -> Place:
        """All that is to be known of a place."""

    @abstractmethod
    def propose(self, here: Place, draw: Draw) -> Tensor:
        """Where to go."""

    @abstractmethod
    def correction(self, here: Place, there: Place) -> Tensor:
        """log q_t(here | there) − log q_t(there | here), (S, T)."""

    def start(self, mixture: Mixture, draw: Draw) -> Tensor:
        """Around the encoder's mean."""
        return around_encoder(mixture, draw, self.chains, self.start_noise)

    def e_step(self, mixture: Mixture, state: Tensor, draw: Draw) -> Step:
        """A chain, and the variances along it after the burn-in."""
        z, v, acceptance = self._chain(mixture, state, draw)
        if self.extra_noise:
            z = z + self.extra_noise * draw.normal(z.shape)
        return Step(z, z, v, {"acceptance": acceptance})

    def last(self, mixture: Mixture, step: Step, draw: Draw) -> Tensor:
        """A chain of its own."""
        return self._chain(mixture, step.state, draw)[1]

    def _chain(self, mixture: Mixture, z: Tensor, draw: Draw) -> tuple[Tensor, Tensor, Tensor]:
        here = self.look(mixture, z)
        kept, accepted = [], []
        for k in range(self.steps):
            there = self.look(mixture, self.propose(here, draw))
            ratio = here.energy - there.energy + self.correction(here, there)
            u = draw.uniform(ratio.shape)
            if self.acceptance == "joint":
                ratio, u = ratio.sum(-1, keepdim=True).expand_as(ratio), u[..., :1]
            moves = u.log() < ratio
            accepted.append(moves.to(ratio).mean())
            # Old and new frames stand side by side now, and each decodes in the light of all.
            here = self.look(mixture, torch.where(moves[..., None], there.z, here.z))
            if k >= self.burn_in:
                kept.append(here.v)
        return here.z, torch.cat(kept), torch.stack(accepted).mean()


@dataclass(frozen=True)
class MHEM(Metropolis):
    """A random walk, :math:`z' = z + \\sqrt{σ^2}\\, ε`; otherwise :class:`Metropolis`.

    Args:
        proposal_variance: σ².
    """

    proposal_variance: float = 0.01

    @torch.no_grad()
    def look(self, mixture: Mixture, z: Tensor) -> Place:
        """Without a drift."""
        v = mixture.variance(z)
        return Place(z, v, mixture.energy(z, v, self.prior_weight), torch.zeros(()))

    def propose(self, here: Place, draw: Draw) -> Tensor:
        """A step in any direction."""
        return here.z + self.proposal_variance**0.5 * draw.normal(here.z.shape)

    def correction(self, here: Place, there: Place) -> Tensor:
        """None: the proposal is symmetric."""
        return torch.zeros_like(here.energy)


@dataclass(frozen=True)
class MALAEM(Metropolis):
    r"""A Langevin step with a tamed gradient, :math:`z' = z - η G + \sqrt{2 η}\, ε`.

    .. math:: G = \nabla U / (1 + η \|\nabla U\|)

    the norm being that of the whole path; otherwise :class:`Metropolis`.

    Args:
        step_size: η.
        taming: False for G = ∇U.
    """

    prior_weight: float = 1.0
    extra_noise: float = 0.1
    step_size: float = 5e-3
    taming: bool = True

    @torch.enable_grad()
    def look(self, mixture: Mixture, z: Tensor) -> Place:
        """With the tamed gradient for a drift."""
        z = z.detach().requires_grad_()
        v = mixture.variance(z)
        U = mixture.energy(z, v, self.prior_weight)
        (gradient,) = torch.autograd.grad(U.sum(), z)
        if self.taming:
            gradient = gradient / (1 + self.step_size * gradient.norm(dim=(-2, -1), keepdim=True))
        return Place(z.detach(), v.detach(), U.detach(), gradient)

    def propose(self, here: Place, draw: Draw) -> Tensor:
        """A Langevin step."""
        noise = draw.normal(here.z.shape)
        return here.z - self.step_size * here.drift + (2 * self.step_size) ** 0.5 * noise

    def correction(self, here: Place, there: Place) -> Tensor:
        """By the two Gaussians, frame by frame."""
        return self._log_q(here, there) - self._log_q(there, here)

    def _log_q(self, to: Place, start: Place) -> Tensor:
        shift = to.z - start.z + self.step_size * start.drift
        return -shift.square().sum(-1) / (4 * self.step_size)
