"""Unadjusted Langevin dynamics, preconditioned by the size of the gradient."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from pyrodvae.engines.base import Engine
from pyrodvae.potential import Target


class LangevinState(NamedTuple):
    """Draws (S, B, T, D) and the running mean square of their gradients."""

    z: Tensor
    square: Tensor
    steps: int


@dataclass(frozen=True)
class Langevin(Engine):
    r"""Follow the gradient of the log posterior, with noise to match.

    .. math::
        z \leftarrow z + \tfrac{η}{2} M \nabla \log p(z | x) + \sqrt{τ η M}\, ε, \qquad
        M = 1 / (\sqrt{\bar G^2} + 1)

    G² is a running mean of squared gradients: where the posterior is sharp the steps are short. With
    ``precondition=False``, M = 1. There is no Metropolis correction, so the draws are biased by
    O(η).

    Args:
        step_size: η.
        steps: Langevin steps per E-step.
        precondition: whether M adapts.
        decay: of the running mean.
        temperature: τ of the noise; 1 for draws from the posterior, 0 for its mode.

    Source: Sadeghi & Serizel, *Posterior sampling algorithms for unsupervised speech enhancement
    with recurrent VAE* (2023), eq. (12); the preconditioner, Li et al. 2016, eq. (8).
    """

    step_size: float = 0.3
    steps: int = 1
    precondition: bool = True
    decay: float = 0.9
    temperature: float = 1.0

    def __post_init__(self) -> None:
        if self.step_size <= 0 or self.steps < 1 or self.temperature < 0 or not 0 <= self.decay < 1:
            raise ValueError(
                f"{self} cannot run: step_size must be positive, steps at least 1, decay in [0, 1) and "
                "temperature not negative."
            )

    def init(self, target: Target, z: Tensor) -> LangevinState:
        """Start at z."""
        return LangevinState(z.detach().requires_grad_(), torch.zeros_like(z), 0)

    def step(self, target: Target, state: LangevinState) -> tuple[LangevinState, dict[str, Tensor]]:
        """Move every chain; ``info["log_joint"]`` is (S, B), of the draws before the last move."""
        z, square, count = state
        log_p = torch.zeros(())
        for _ in range(self.steps):
            log_p, gradient = target.gradient(z)
            count += 1
            square = self.decay * square + (1 - self.decay) * gradient.square()
            if self.precondition:
                M = 1 / ((square / (1 - self.decay**count)).sqrt() + 1)
            else:
                M = torch.ones_like(z)
            eta = self.step_size * M
            noise = (self.temperature * eta).sqrt() * torch.randn_like(z)
            z = (z.detach() + 0.5 * eta * gradient + noise).requires_grad_()
        return LangevinState(z, square, count), {"log_joint": log_p}
