"""The noise: non-negative matrix factorisation of its variance, and the M-step that updates it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn

from pyrodvae.distributions import power
from pyrodvae.observations import POWER_FLOOR

TINY = 1e-30
"""A pattern that has died has zero over zero in its update; it stays dead."""

FLOOR = 1e-9
"""Of activations and gains: far below what is heard, and a product that is never zero can rise again."""


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
        return (self.H.mT @ self.W.mT).add_(POWER_FLOOR)

    def forward(self) -> Tensor:
        """The variance (B, T, F) as a program sees it: given, where a
        :class:`~pyrodvae.bayesian_noise.BayesianNMF` draws it."""
        return self.variance

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
        W = mean_spectra(p, p.mean(-1), share, rank, generator)
        level = W.sum(1, keepdim=True)
        H = (level / rank).mT.expand(-1, -1, x.shape[-2]).clone()
        return cls(W / level, H)


def mean_spectra(p: Tensor, value: Tensor, share: float, rank: int, generator: torch.Generator) -> Tensor:
    """Mean spectra of frames that have least of something: W (B, F, K), each of a random half of them.

    Frames 50 dB under the mean power of their sequence are passed over.

    Args:
        p: power spectrogram (B, T, F).
        value: of which these frames have least, (B, T).
        share: how many they are, of those that are not silent; two at least.
        rank: K.
        generator: the source of chance.
    """
    energy = p.mean(-1)
    live = energy > 1e-5 * energy.mean(-1, keepdim=True)
    rank_of = value.masked_fill(~live, torch.inf).argsort(-1).argsort(-1)
    count = (share * live.sum(-1, keepdim=True)).round().clamp(min=2)
    least = live & (rank_of < count)
    chance = torch.rand(len(p), rank, p.shape[-2], generator=generator).to(p)
    middle = chance.masked_fill(~least[:, None], torch.nan).nanmedian(-1, keepdim=True).values
    chosen = (least[:, None] & (chance <= middle)).to(p)
    return (chosen @ p / chosen.sum(-1, keepdim=True).clamp(min=1)).mT + POWER_FLOOR


class Memory(NamedTuple):
    """What an M-step keeps of earlier draws: the slopes of its majorisers, as wide as what they are of.

    Args:
        W: (B, F, K). H: (B, K, T). gain: (B, T, 1). All zero at the start.
        steps: how many M-steps there were.
    """

    W: Tensor
    H: Tensor
    gain: Tensor
    steps: int


class MStep(ABC):
    """The maximisation over noise (and gain) given draws of the speech variance, state in and state out.

    ::

        memory = m_step.init()
        gain, memory = m_step.step(noise, gain, x_power, variance, memory)   # noise changes in place
    """

    def init(self) -> Memory:
        """The memory before the first step."""
        none = torch.zeros(())
        return Memory(none, none, none, 0)

    @abstractmethod
    def step(
        self, noise: NMFNoise, gain: Tensor | None, x_power: Tensor, variance: Tensor, memory: Memory
    ) -> tuple[Tensor | None, Memory]:
        """Update W, then H and the gain: the noise in place, gain and memory anew.

        Args:
            noise: (W, H) of the sequences.
            gain: g (B, T, 1); None stays None.
            x_power: |x|², (B, T, F).
            variance: draws of v, without gain, (S, B, T, F).
            memory: what the last step, or :meth:`init`, returned.
        """


@dataclass(frozen=True)
class Multiplicative(MStep):
    r"""Multiplicative updates, which can average over the draws of all iterations so far.

    With :math:`V_r = g v_r + WH`, :math:`A = |x|^2 \odot \langle V_r^{-2} \rangle_r` and
    :math:`C = \langle V_r^{-1} \rangle_r`, means over the draws,

    .. math::
        W &\leftarrow W \odot \sqrt{\frac{A H^T}{C H^T}}, \qquad
        H \leftarrow H \odot \sqrt{\frac{W^T A}{W^T C}}, \\
        g_t &\leftarrow g_t \sqrt{\frac{\sum_f |x|^2 \langle v_r V_r^{-2} \rangle}
                                      {\sum_f \langle v_r V_r^{-1} \rangle}}

    H and g together, from the same V: it is linear in both. None ever raises the objective
    :math:`\langle \log V_r + |x|^2 / V_r \rangle`, because each finds the minimum of a majoriser of it,
    :math:`a/W + cW` with :math:`a = W_{old}^2 \odot A H^T` and :math:`c = C H^T` (likewise for H and g).

    The draws change in every iteration, and so would the minimum. With ``kappa`` above zero a and c
    are means over iterations, :math:`\bar c_i = (1 - ρ_i)\, \bar c_{i-1} + ρ_i c_i`. As the last
    minimum was at :math:`\bar a / W^2 = \bar c`, one of the two is enough to remember, and the update is

    .. math::
        W \leftarrow W \odot \sqrt{\frac{(1 - ρ) \bar c + ρ A H^T}{(1 - ρ) \bar c + ρ\, C H^T}},
        \qquad ρ_i = \max(1, i + 1 - \text{settle})^{-κ}

    Args:
        kappa: κ. 0 forgets all earlier draws; between ½ and 1 the updates converge although each has
            few draws.
        settle: the number of first steps, far from the optimum, that are forgotten all the same.

    Source: Leglaive, Girin & Horaud 2018 (M-step); Lefèvre, Bach & Févotte, *Online algorithms for
    nonnegative matrix factorization with the Itakura-Saito divergence* (2011; sums of majorisers);
    Delyon, Lavielle & Moulines 1999 (stochastic approximation EM, ρ).
    """

    kappa: float = 0.0
    settle: int = 10

    def __post_init__(self) -> None:
        if not 0 <= self.kappa <= 1 or self.settle < 0:
            raise ValueError(f"{self} cannot run: kappa is between 0 and 1, settle not negative.")

    @torch.no_grad()
    def step(
        self, noise: NMFNoise, gain: Tensor | None, x_power: Tensor, variance: Tensor, memory: Memory
    ) -> tuple[Tensor | None, Memory]:
        """See :meth:`MStep.step`; columns of W keep unit sum."""
        rho = max(1, memory.steps + 1 - self.settle) ** -self.kappa
        inverse = torch.empty_like(variance)
        above, below = terms_of_W(noise, gain, x_power, variance, inverse)
        ratio, W = _damped(above, below, memory.W, rho)
        noise.W *= ratio
        (above, below), of_gain = terms_of_H(noise, gain, x_power, variance, inverse)
        ratio, H = _damped(above, below, memory.H, rho)
        noise.H *= ratio
        g = memory.gain
        if gain is not None and of_gain is not None:
            ratio, g = _damped(*of_gain, g, rho)
            gain = (gain * ratio).clamp(min=FLOOR)
        total = noise.W.sum(1, keepdim=True).clamp(min=POWER_FLOOR)
        noise.W /= total
        noise.H.mul_(total.mT).clamp_(min=FLOOR)
        return gain, Memory(W * total, H / total.mT, g, memory.steps + 1)


PLAIN = Multiplicative()
"""The M-step of Monte Carlo EM: every iteration has its own draws alone."""


def _damped(above: Tensor, below: Tensor, kept: Tensor, rho: float) -> tuple[Tensor, Tensor]:
    """By what a factor is multiplied, and the slope c that is to be kept."""
    above, below = (rho * new + (1 - rho) * kept for new in (above, below))
    return (above / (below + TINY)).sqrt(), below


def terms_of_W(
    noise: NMFNoise, gain: Tensor | None, x_power: Tensor, variance: Tensor, inverse: Tensor
) -> tuple[Tensor, Tensor]:
    """A Hᵀ and C Hᵀ of :class:`Multiplicative`, (B, F, K); ``inverse`` is room for 1/V."""
    _invert(noise, gain, variance, inverse)
    C = inverse.mean(0)
    A = inverse.square_().mean(0).mul_(x_power)
    Ht = noise.H.mT
    return A.mT @ Ht, C.mT @ Ht


def terms_of_H(
    noise: NMFNoise, gain: Tensor | None, x_power: Tensor, variance: Tensor, inverse: Tensor
) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor] | None]:
    """Wᵀ A and Wᵀ C, (B, K, T), and the two sums of the gain, (B, T, 1), if there is one."""
    _invert(noise, gain, variance, inverse)
    C = inverse.mean(0)
    of_gain = None
    if gain is not None:
        weighted = variance * inverse
        below = weighted.mean(0).sum(-1, keepdim=True)
        above = weighted.mul_(inverse).mean(0).mul_(x_power).sum(-1, keepdim=True)
        of_gain = above, below
    A = inverse.square_().mean(0).mul_(x_power)
    return ((A @ noise.W).mT, (C @ noise.W).mT), of_gain


def _invert(noise: NMFNoise, gain: Tensor | None, variance: Tensor, out: Tensor) -> None:
    """1/V, (S, B, T, F): the costly part, so it is done once for each V, and in the same memory."""
    if gain is None:
        torch.add(variance, noise.variance, out=out)
    else:
        torch.addcmul(noise.variance, gain, variance, out=out)
    out.reciprocal_()
