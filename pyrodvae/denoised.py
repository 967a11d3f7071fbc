"""A guide that knows clean speech only, on a noisy recording."""

from __future__ import annotations

import torch
from torch import Tensor

from pyrodvae.distributions import power
from pyrodvae.program import Program

FLOOR = 0.3
"""So much of its power every bin keeps. Encoders of log-power are lost with far less."""


class Denoised(Program):
    r"""A guide that reads x with the noise turned down, by spectral subtraction of twice its power.

    .. math:: q(z \mid \tilde x), \qquad
        |\tilde x_{tf}|^2 = |x_{tf}|^2 \max\left(1 - 2 n_{tf} / |x_{tf}|^2,\; κ\right)

    The noise is a first guess that stays. Were it what has been learned meanwhile, the two would drive
    each other: what is once taken for noise is taken off, not found in z, and again taken for noise.

    Args:
        guide: of the speech model.
        noise: first guess n of the variance of the noise (B, T, F), linear power.
        floor: κ.

    Source: over-subtraction and floor, Berouti, Schwartz & Makhoul (1979).
    """

    noise: Tensor

    def __init__(self, guide: torch.nn.Module, noise: Tensor, floor: float = FLOOR) -> None:
        super().__init__()
        self.guide = guide
        self.floor = floor
        self.register_buffer("noise", noise, persistent=False)

    def forward(self, x: Tensor, lengths: Tensor | None = None) -> Tensor:
        """The sites of the guide, for noisy x (B, T, F)."""
        z: Tensor = self.guide(subtract(x, self.noise, self.floor), lengths)
        return z


def subtract(x: Tensor, noise: Tensor, floor: float = FLOOR) -> Tensor:
    """x (B, T, F) with twice the variance of the noise taken off the power of every bin, down to a floor."""
    return x * (1 - 2 * noise / power(x).clamp(min=1e-12)).clamp(min=floor).sqrt()
