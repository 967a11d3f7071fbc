"""Pyro's own Hamiltonian kernels as engines."""

from __future__ import annotations

import copy
from abc import abstractmethod
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import NamedTuple

import pyro
import torch
from pyro.infer import mcmc
from torch import Tensor

from pyrodvae.engines.adaptive import Adaptive
from pyrodvae.engines.base import POSITIVE, bounded
from pyrodvae.potential import Target

Potential = Callable[[dict[str, Tensor]], Tensor]
"""−log p(x, z) of one path ``{"z": (T, D)}``, a scalar, as Pyro's kernels want it."""


class PyroState(NamedTuple):
    """Draws (S, B, T, D); one of Pyro's kernels for each path, S · B of them; how many moves they made."""

    z: Tensor
    kernels: tuple[mcmc.HMC, ...]
    moves: int


ENOUGH_FOR_MASS = 50
"""Moves of warm-up with which a mass matrix is adapted."""


@dataclass(frozen=True)
class PyroEngine(Adaptive):
    r"""What the two of them share.

    Pyro's kernels hold one chain and accept it as a whole, so every chain of every sequence has a kernel
    of its own, and they move in turn. Where a target has several sequences each move evaluates them
    all to move one: these engines are made for one or few, :class:`~pyrodvae.engines.hmc.BatchedHMC`
    for many.

    During ``warmup`` moves Pyro adapts the step by dual averaging and, if they are 50 or more, a diagonal
    mass matrix by windows (of fewer, none are left to find the step that fits it); then both stand
    still. A kernel keeps nothing of a target from one E-step to the next, so the target may change, and
    a state can be pickled.

    Args:
        step_size: at the start; with a warm-up Pyro first looks for a better one.
        steps: moves per E-step.
        warmup: so many moves adapt.
        target_accept: the rate of acceptance that warm-up aims at.
    """

    warmup: int = 50
    target_accept: float = 0.8

    @abstractmethod
    def kernel(self, potential: Potential) -> mcmc.HMC:
        """Pyro's kernel for one path."""

    def before_move(self, kernel: mcmc.HMC) -> None:
        """What has to follow the step size as it adapts."""

    def init(self, target: Target, z: Tensor) -> PyroState:
        """Start at z; a warm-up begins with a search for the step size, on this target."""
        kernels = []
        for s, b in _paths(z):
            kernel = self.kernel(_potential(target, s, b, z.shape))
            kernel.initial_params = {"z": z[s, b].detach().clone()}
            with _unchecked():
                kernel.setup(self.warmup)
            kernels.append(_rid_of_target(kernel))
        return PyroState(z.detach(), tuple(kernels), 0)

    def step(self, target: Target, state: PyroState) -> tuple[PyroState, dict[str, Tensor]]:
        """Move every path.

        ``info``, each (S, B): ``accept``, the mean rate since the warm-up (during it, since the start);
        ``divergences``, the share of moves since the warm-up that lost the energy; ``log_joint``.
        """
        z = state.z.clone()
        kernels = copy.deepcopy(state.kernels)
        moves = state.moves + self.steps
        accept, divergences = torch.zeros_like(z[..., 0, 0]), torch.zeros_like(z[..., 0, 0])
        for kernel, (s, b) in zip(kernels, _paths(z), strict=True):
            kernel.potential_fn = _potential(target, s, b, z.shape)
            path = {"z": z[s, b].clone()}
            with _unchecked():
                for _ in range(self.steps):
                    self.before_move(kernel)
                    path = kernel.sample(path)
            z[s, b] = path["z"]
            accept[s, b] = float(kernel.logging()["acc. prob"])
            if moves > self.warmup:
                divergences[s, b] = len(kernel.diagnostics()["divergences"]) / (moves - self.warmup)
            _rid_of_target(kernel)
        with torch.no_grad():
            log_joint = target.log_joint(z)
        info = {"accept": accept, "divergences": divergences, "log_joint": log_joint}
        return PyroState(z, kernels, moves), info


@dataclass(frozen=True)
class HMC(PyroEngine):
    r"""Pyro's Hamiltonian Monte Carlo: exact, one chain of one sequence at a time, so slow.

    .. math:: H(z, p) = -\log p(x, z) + \tfrac12 p^\top M^{-1} p, \qquad
        \Pr(\text{accept}) = \min(1, e^{H(z, p) - H(z', p')})

    The settings are those of :class:`PyroEngine`, and:

    Args:
        trajectory_length: in units of posterior standard deviations, once the mass matrix knows them;
            a quarter of a turn makes draws of a Gaussian independent.
        leapfrogs: no move takes more steps of the integrator.

    Source: Neal, *MCMC using Hamiltonian dynamics* (2011); ``pyro.infer.HMC``.
    """

    trajectory_length: float = 1.5
    leapfrogs: int = 10

    def __post_init__(self) -> None:
        super().__post_init__()
        bounded(self, POSITIVE, 1000, "trajectory_length")
        bounded(self, 1, 1000, "leapfrogs")

    def kernel(self, potential: Potential) -> mcmc.HMC:
        """``pyro.infer.HMC``."""
        return mcmc.HMC(
            potential_fn=potential,
            step_size=self.step_size,
            trajectory_length=self.trajectory_length,
            adapt_step_size=self.warmup > 0,
            adapt_mass_matrix=self.warmup >= ENOUGH_FOR_MASS,
            target_accept_prob=self.target_accept,
        )

    def before_move(self, kernel: mcmc.HMC) -> None:
        """Pyro takes as many steps as the trajectory holds: cut it short where they are many."""
        most = (self.leapfrogs + 0.5) * kernel.step_size
        kernel.trajectory_length = min(self.trajectory_length, most)


@dataclass(frozen=True)
class NUTS(PyroEngine):
    r"""Pyro's No-U-Turn sampler: exact, paths as long as they need to be, slow likewise.

    A path of the dynamics of :class:`HMC` is doubled, forward or backward, until its ends turn back,

    .. math:: (z^+ - z^-)^\top M^{-1} p^- < 0 \quad \text{or} \quad (z^+ - z^-)^\top M^{-1} p^+ < 0,

    and the next draw is one of its points, with probability in proportion to :math:`e^{-H}`.

    The settings are those of :class:`PyroEngine`, and:

    Args:
        max_tree_depth: a move takes fewer than two to this power steps of the integrator.

    Source: Hoffman & Gelman, *The No-U-Turn sampler* (2014); ``pyro.infer.NUTS``.
    """

    max_tree_depth: int = 5

    def __post_init__(self) -> None:
        super().__post_init__()
        bounded(self, 1, 20, "max_tree_depth")

    def kernel(self, potential: Potential) -> mcmc.HMC:
        """``pyro.infer.NUTS``."""
        return mcmc.NUTS(
            potential_fn=potential,
            step_size=self.step_size,
            adapt_step_size=self.warmup > 0,
            adapt_mass_matrix=self.warmup >= ENOUGH_FOR_MASS,
            target_accept_prob=self.target_accept,
            max_tree_depth=self.max_tree_depth,
        )


def _paths(z: Tensor) -> list[tuple[int, int]]:
    """(s, b) of every path of z (S, B, T, D)."""
    return [(s, b) for s in range(z.shape[0]) for b in range(z.shape[1])]


def _potential(target: Target, s: int, b: int, shape: torch.Size) -> Potential:
    """That of path (s, b): its sequence decides, and the others of the batch go along unread."""

    def potential(params: dict[str, Tensor]) -> Tensor:
        with torch.enable_grad():
            return -target.log_joint(params["z"].expand(1, *shape[1:]))[0, b]

    return potential


def _unchecked() -> AbstractContextManager[None]:
    """A path that diverges passes through values that distributions refuse; it is to be rejected."""
    return pyro.validation_enabled(False)


def _rid_of_target(kernel: mcmc.HMC) -> mcmc.HMC:
    """The kernel with what it learned, but without the density and what was cached of it."""
    kernel.potential_fn = None
    kernel.clear_cache()
    return kernel
