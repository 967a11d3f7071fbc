"""A noisy recording as the published algorithms see it: its noise, its gain, and their updates."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from pyrodvae.distributions import power
from pyrodvae.dvae import DVAE
from pyrodvae.guide import Guide
from pyrodvae.noise import NMFNoise
from pyrodvae.noisy import NoisySpeech

SILENCE = 1e-12
"""The least |x|². The published code has no floor, and digital silence ends it in 0/0."""


class Mixture:
    r"""One sequence x (T, F), :math:`x_{tf} \sim \mathcal N_c(0,\; V_{tf})`, :math:`V = g v(z) + (WH)^T`.

    Unlike :class:`~pyrodvae.noise.NMFNoise` the noise has no floor here, and neither have the updates.

    Args:
        model: of speech; it is frozen. guide: its encoder.
        x: noisy spectrogram (T, F), complex.
        W: spectral patterns (F, K). H: their activations (K, T). Linear power.

    Attributes: x_power (T, F); W; H; gain (T, 1), ones at first.

    Raises:
        ValueError: the shapes do not fit; or as of :class:`~pyrodvae.noisy.NoisySpeech`.

    Source: Leglaive, Girin & Horaud 2018; without the floors, all public code.
    """

    def __init__(self, model: DVAE, guide: Guide, x: Tensor, W: Tensor, H: Tensor) -> None:
        shapes = f"x {tuple(x.shape)}, W {tuple(W.shape)} and H {tuple(H.shape)}"
        fit = len(x.shape) == len(W.shape) == len(H.shape) == 2 and W.shape[1] == H.shape[0]
        if not (fit and x.is_complex() and x.shape == (H.shape[1], W.shape[0])):
            raise ValueError(f"{shapes} must be one complex sequence (T, F), (F, K) and (K, T).")
        # It refuses models that cannot be used in noise, freezes the others, and gives v(z); the noise
        # that it wants besides is not used.
        self.noisy = NoisySpeech(model, NMFNoise(W[None], H[None]), feedback="own")
        self.model, self.guide = model, guide
        self.x, self.x_power = x, power(x).clamp(min=SILENCE)
        self.W, self.H = W, H
        self.gain = torch.ones_like(self.x_power[:, :1])

    @property
    def noise(self) -> Tensor:
        """(WH)ᵀ, (T, F)."""
        return (self.W @ self.H).mT

    def variance(self, z: Tensor) -> Tensor:
        """v(z), (S, T, F), for z (S, T, D)."""
        return self.noisy.speech_variance(z[:, None])[:, 0]

    def misfit(self, v: Tensor, gain: Tensor | None = None) -> Tensor:
        """−log p(x_t | z) less F log π: Σ_f |x|²/V + log V, (S, T); the gain is its own unless given."""
        speech = (self.gain if gain is None else gain) * v
        total: Tensor = _Misfit.apply(speech, self.noise, self.x_power)
        return total

    def prior(self, z: Tensor) -> Tensor:
        """Σ_d (z − m)²/σ² for p(z_t | z_{<t}) = N(m, diag σ²), (S, T).

        That is twice what −log p has of z, and Σ log σ is missing: the published prior.
        """
        p = self.noisy.speech.prior(z).along(z)
        return ((z - p.mean) / p.stddev).square().sum(-1)

    def energy(self, z: Tensor, v: Tensor, prior_weight: float) -> Tensor:
        """U = misfit + weight · prior, (S, T)."""
        return self.misfit(v) + prior_weight * self.prior(z)

    @torch.no_grad()
    def update_noise(self, v: Tensor) -> None:
        """One multiplicative update of W, then of H, given v (R, T, F); columns of W get unit sum."""
        A, C = self._ratios(v)
        self.W = self.W * ((A.mT @ self.H.mT) / (C.mT @ self.H.mT)).sqrt()
        A, C = self._ratios(v)
        self.H = self.H * ((A @ self.W) / (C @ self.W)).sqrt().mT
        total = self.W.sum(0)
        self.W, self.H = self.W / total, self.H * total[:, None]

    @torch.no_grad()
    def update_gain(self, v: Tensor) -> None:
        """One multiplicative update of the gain, given v (R, T, F)."""
        inverse = self._inverse(v)
        weighted = v * inverse
        below = weighted.sum((0, -1))
        above = weighted.mul_(inverse).mul_(self.x_power).sum((0, -1))
        self.gain = self.gain * (above / below).sqrt()[:, None]

    @torch.no_grad()
    def loss(self, v: Tensor) -> Tensor:
        """The mean of log V + |x|²/V over draws and bins: what the published code reports."""
        return self.misfit(v).mean() / self.x.shape[-1]

    def _ratios(self, v: Tensor) -> tuple[Tensor, Tensor]:
        inverse = self._inverse(v)
        C = inverse.sum(0)
        return inverse.square_().sum(0).mul_(self.x_power), C

    def _inverse(self, v: Tensor) -> Tensor:
        # In place: these arrays are large, and to allocate them costs more than to fill them.
        return (self.gain * v).add_(self.noise).reciprocal_()


class _Misfit(torch.autograd.Function):
    """Σ_f p/V + log V with V = u + n, and its derivative (1 − p/V)/V in u: half the passes over memory."""

    @staticmethod
    def forward(ctx: Any, u: Tensor, n: Tensor, p: Tensor) -> Tensor:
        V = u + n
        ratio = p / V
        ctx.save_for_backward(V, ratio)
        return V.log().add_(ratio).sum(-1)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        V, ratio = ctx.saved_tensors
        return (1 - ratio).div_(V).mul_(gradient[..., None]), None, None


def initial_noise(bins: int, frames: int, rank: int, like: Tensor) -> tuple[Tensor, Tensor]:
    """The published start, W (F, K) and H (K, T): uniform numbers, the seed set to 23 before each of the two.

    So H begins with the very numbers with which W begins.
    """
    shapes = (bins, rank), (rank, frames)
    W, H = (np.random.RandomState(23).rand(*s).clip(np.finfo(float).eps) for s in shapes)
    return torch.from_numpy(W).to(like), torch.from_numpy(H).to(like)
