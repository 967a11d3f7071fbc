"""The noise: non-negative matrix factorisation of its variance."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from pyrodvae.distributions import power
from pyrodvae.observations import POWER_FLOOR

TINY = 1e-30
"""A pattern that has died has zero over zero in its update; it stays dead."""


class NMFNoise(nn.Module):
    r"""Noise whose power spectrogram is a product of non-negative factors, one pair per sequence.

    .. math:: b_{tf} \sim \mathcal N_c(0, (WH)_{ft}), \qquad W \ge 0,\; H \ge 0

    (:attr:`variance` adds the floor of linear power, 1e-6, so that no bin is without noise.)

    Args:
        W: spectral patterns (B, F, K), columns of unit sum.
        H: their activations (B, K, T), linear power.

    Source: Févotte, Bertin & Durrieu 2009; in speech enhancement Leglaive, Girin & Horaud 2018.
    """

    W: Tensor
    H: Tensor

    def __init__(self, W: Tensor, H: Tensor) -> None:
        super().__init__()
        self.register_buffer("W", W)
        self.register_buffer("H", H)

    @property
    def variance(self) -> Tensor:
        """(WH)ᵀ, (B, T, F), linear power."""
        return (self.W @ self.H).mT + POWER_FLOOR

    @classmethod
    def from_quiet_frames(
        cls, x: Tensor, rank: int, generator: torch.Generator, share: float = 0.2
    ) -> NMFNoise:
        """A first guess from the frames with least energy, where the speaker most likely pauses.

        Every pattern is the mean spectrum of a random half of those frames, so that the patterns
        differ; the activations start flat, at the level of those frames. Digital silence tells
        nothing of the noise: frames 50 dB under the mean power are passed over.

        Args:
            x: noisy spectrogram (B, T, F), complex.
            rank: K.
            generator: the source of chance.
            share: which part of the frames counts as quiet.
        """
        p = power(x)
        B, T, _ = p.shape
        energy = p.mean(-1)
        live = energy > 1e-5 * energy.mean(-1, keepdim=True)
        rank_of = energy.masked_fill(~live, torch.inf).argsort(-1).argsort(-1)
        count = (share * live.sum(-1, keepdim=True)).round().clamp(min=2)
        quiet = live & (rank_of < count)
        chance = torch.rand(B, rank, T, generator=generator).to(p)
        middle = chance.masked_fill(~quiet[:, None], torch.nan).nanmedian(-1, keepdim=True).values
        chosen = (quiet[:, None] & (chance <= middle)).to(p)
        W = (chosen @ p / chosen.sum(-1, keepdim=True).clamp(min=1)).mT + POWER_FLOOR
        level = W.sum(1, keepdim=True)
        H = (level / rank).mT.expand(B, rank, T).clone()
        return cls(W / level, H)


class MStep:
    r"""The maximisation over noise (and gain) given draws of the speech variance.

    With :math:`V_r = g v_r + WH`, :math:`A = |x|^2 \odot \sum_r V_r^{-2}` and
    :math:`C = \sum_r V_r^{-1}`,

    .. math::
        W \leftarrow W \odot \sqrt{\frac{A H^T}{C H^T}}, \qquad
        H \leftarrow H \odot \sqrt{\frac{W^T A}{W^T C}}, \qquad
        g_t \leftarrow g_t \sqrt{\frac{\sum_f |x|^2 \sum_r v_r V_r^{-2}}{\sum_f \sum_r v_r V_r^{-1}}}

    each with V refreshed in between; none of them ever raises the objective
    :math:`\sum_{r,t,f} \log V_r + |x|^2 / V_r`.

    Source: Leglaive, Girin & Horaud 2018 (the M-step of Monte Carlo EM).
    """

    @staticmethod
    @torch.no_grad()
    def noise(noise: NMFNoise, x_power: Tensor, speech: Tensor) -> None:
        """Update W, then H, in place; columns of W keep unit sum.

        Args:
            x_power: |x|², (B, T, F).
            speech: draws of g·v, (S, B, T, F).
        """
        A, C = _ratios(x_power, speech, noise.variance)
        Ht = noise.H.mT
        noise.W *= ((A.mT @ Ht) / (C.mT @ Ht + TINY)).sqrt()
        A, C = _ratios(x_power, speech, noise.variance)
        noise.H *= ((A @ noise.W) / (C @ noise.W + TINY)).sqrt().mT
        total = noise.W.sum(1, keepdim=True).clamp(min=POWER_FLOOR)
        noise.W /= total
        noise.H *= total.mT

    @staticmethod
    @torch.no_grad()
    def gain(gain: Tensor, noise: NMFNoise, x_power: Tensor, variance: Tensor) -> Tensor:
        """The gain (B, T, 1) after one update, given draws of v (without gain), (S, B, T, F)."""
        inverse = 1 / (gain * variance + noise.variance)
        weighted = variance * inverse
        above = (x_power * weighted * inverse).sum((0, -1))
        below = weighted.sum((0, -1))
        return gain * (above / (below + TINY)).sqrt()[..., None]


def _ratios(x_power: Tensor, speech: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
    """A and C of the updates, both (B, T, F), from one pass over 1/V."""
    inverse = (speech + noise).reciprocal_()
    C = inverse.sum(0)
    return inverse.square_().sum(0).mul_(x_power), C
