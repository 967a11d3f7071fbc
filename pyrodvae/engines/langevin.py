"""Unadjusted Langevin dynamics, preconditioned by the size of the gradient."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from pyrodvae.engines.base import POSITIVE, Engine, bounded
from pyrodvae.potential import Target


class LangevinState(NamedTuple):
    """Draws (S, B, T, D) and the running mean square of their gradients."""

    z: Tensor
    square: Tensor
    steps: int


@dataclass(frozen=True)
class Langevin(Engine):
    r"""Langevin dynamics: noisy steps along the gradient, nearly exact and fast; the default.

    .. math::
        z \leftarrow z + \tfrac{η}{2} M \nabla \log p(z | x) + \sqrt{τ η M}\, ε, \qquad
        M = 1 / (\sqrt{\bar{G^2}} + 1)

    The mean of squared gradients is over all steps so far, for every chain and element: where the
    posterior is sharp the steps are short. Such an M settles down, so its own derivative, which the
    drift leaves out, dies away; a forgetting mean would never settle, and would bias the draws
    however small the step (by 40 % of a standard normal's variance). With ``precondition=False``,
    M = 1. There is no Metropolis correction: what remains is a bias of O(η).

    Args:
        step_size: η.
        steps: Langevin steps per E-step.
        precondition: whether M adapts.
        temperature: τ of the noise; 1 for draws from the posterior, 0 for its mode. The default is a
            broader posterior on purpose: at 75 % overlap the STFT counts every sample four times, so
            the model is surer of z than the sound allows, and τ between 1 and 4 takes that back.

    Source: Sadeghi & Serizel, *Posterior sampling algorithms for unsupervised speech enhancement
    with recurrent VAE* (2023); the preconditioner after Li et al., *Preconditioned stochastic
    gradient Langevin dynamics* (2016).
    """

    step_size: float = 0.15
    steps: int = 1
    precondition: bool = True
    temperature: float = 3.0

    def __post_init__(self) -> None:
        bounded(self, POSITIVE, 1000, "step_size")
        bounded(self, 1, 10_000, "steps")
        bounded(self, 0, 1000, "temperature")

    @property
    def pointwise(self) -> bool:
        """Without noise, it climbs."""
        return self.temperature == 0

    def init(self, target: Target, z: Tensor) -> LangevinState:
        """Start at z."""
        return LangevinState(z.detach().requires_grad_(), torch.zeros_like(z), 0)

    def moved(self, target: Target, state: LangevinState, z: Tensor) -> LangevinState:
        """The preconditioner stays as it is."""
        return state._replace(z=z.detach().requires_grad_())

    def step(self, target: Target, state: LangevinState) -> tuple[LangevinState, dict[str, Tensor]]:
        """Move every chain; ``info["log_joint"]`` is (S, B), of the draws before the last move."""
        z, square, count = state
        log_p = torch.zeros(())
        for _ in range(self.steps):
            log_p, gradient = target.gradient(z)
            count += 1
            square = square + (gradient.square() - square) / count
            M = 1 / (square.sqrt() + 1) if self.precondition else torch.ones_like(z)
            eta = self.step_size * M
            noise = (self.temperature * eta).sqrt() * torch.randn_like(z)
            z = (z.detach() + 0.5 * eta * gradient + noise).requires_grad_()
        return LangevinState(z, square, count), {"log_joint": log_p}
