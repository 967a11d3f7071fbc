"""LDEM: Langevin dynamics in the E-step, with more noise than Langevin dynamics has."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from pyrodvae.as_published.algorithm import Algorithm, Draw, Gain, Step, around_encoder
from pyrodvae.as_published.mixture import Mixture

FORGET = 0.99
"""β of the running mean square of the gradient, which starts from zero."""


class Chains(NamedTuple):
    """Positions (S, T, D) and the running mean square of their gradients."""

    z: Tensor
    square: Tensor


@dataclass(frozen=True)
class LDEM(Algorithm):
    r"""Langevin steps on S chains, then noise once more.

    .. math::
        z &\leftarrow z - η M \nabla U + \sqrt{2 η M}\, ε, \qquad z \leftarrow z + ρ\, ε' \\
        U &= \sum_{tf} \frac{|x|^2}{V} + \log V + λ \sum_{td} \frac{(z - m)^2}{σ^2}
            + τ \sum_{td} |z_t - z_{t-1}|

    with M = 1, or :math:`M = 1/\sqrt{\bar{G^2}}` with a forgetting mean (pSGLD). The estimate is the
    mean over the chains where they are at the end.

    Args:
        step_size: η. steps: per E-step. chains: S.
        precondition: pSGLD.
        start_noise: of the chains about the encoder's mean, standard deviation.
        extra_noise: ρ.
        prior_weight: λ; ½ for the prior itself, the published 1 for its square.
        total_variation: τ.
        gain: whether the M-step updates it.

    Source: Sadeghi & Serizel 2023 and ps-rvae-se; for VAE and DKF av-dkf, which subtracts ε.
    """

    step_size: float = 5e-3
    steps: int = 1
    chains: int = 10
    precondition: bool = False
    start_noise: float = 0.1
    extra_noise: float = 0.1
    prior_weight: float = 1.0
    total_variation: float = 0.0
    gain: Gain = "updated"

    def start(self, mixture: Mixture, draw: Draw) -> Chains:
        """Around the encoder's mean."""
        z = around_encoder(mixture, draw, self.chains, self.start_noise)
        return Chains(z, torch.zeros_like(z))

    def e_step(self, mixture: Mixture, state: Chains, draw: Draw) -> Step:
        """Move every chain."""
        z, square = state
        for _ in range(self.steps):
            gradient = self._gradient(mixture, z)
            square = FORGET * square + (1 - FORGET) * gradient.square()
            M = 1 / (square.sqrt() + 1e-15) if self.precondition else torch.ones_like(z)
            z = z - self.step_size * M * gradient + (2 * self.step_size * M).sqrt() * draw.normal(z.shape)
        if self.extra_noise:
            z = z + self.extra_noise * draw.normal(z.shape)
        with torch.no_grad():
            v = mixture.variance(z)
        return Step(Chains(z, square), z, v, {})

    def _gradient(self, mixture: Mixture, z: Tensor) -> Tensor:
        with torch.enable_grad():
            z = z.detach().requires_grad_()
            U = mixture.energy(z, mixture.variance(z), self.prior_weight).sum()
            U = U + self.total_variation * z.diff(dim=-2).abs().sum()
            return torch.autograd.grad(U, z)[0]
