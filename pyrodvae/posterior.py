"""What inference found out about the speech: estimates, draws and intervals."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

from pyrodvae.diagnostics import Diagnostics

EstimateKey = Literal["mask", "precision"]

TINY = 1e-30
CHUNK = 8_000_000
"""Numbers that an interval holds at once."""


class Fit(NamedTuple):
    """How a mixture model explains what was heard, after an M-step.

    Args:
        speech: draws of g·v, (S, B, T, F).
        noise: WH, (B, T, F).
        inverse: 1/V = 1/(g·v + WH), (S, B, T, F).
        objective: mean over draws and bins of log V + |x|²/V, (B,).
        share: how much of the energy heard the Wiener filter takes for speech, (B,).
    """

    speech: Tensor
    noise: Tensor
    inverse: Tensor
    objective: Tensor
    share: Tensor

    @classmethod
    @torch.no_grad()
    def of(cls, x_power: Tensor, speech: Tensor, noise: Tensor) -> Fit:
        """From |x|² (B, T, F), speech and noise: V is inverted once, for all that is made of it."""
        V = speech + noise
        log_v = V.log().mean((0, 2, 3))
        inverse = V.reciprocal_()
        ratio = inverse.mean(0).mul_(x_power)  # of |x|²/V the mean over draws
        objective = log_v + ratio.mean((1, 2))
        of_noise = ratio.mul_(noise).sum((1, 2))
        return cls(speech, noise, inverse, objective, 1 - of_noise / (x_power.sum((1, 2)) + TINY))


class Estimate(ABC):
    """Gathers fits into the mean and the variance of s given x."""

    @abstractmethod
    def add(self, fit: Fit) -> None:
        """Take in the draws of one more iteration."""

    @abstractmethod
    def moments(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """The mask (B, T, F), by which x is multiplied for the mean of s; and the variance of s."""


class MaskEstimate(Estimate):
    r"""The mean of the masks: the posterior mean of s if the draws are exact.

    .. math:: \hat s = \operatorname{mean}_r \frac{g v_r}{g v_r + WH} \; x

    The variance is by the law of total variance: the Wiener filter's own within each draw, and the
    spread of its estimates over draws.

    Source: Leglaive, Girin & Horaud 2018 (Monte Carlo EM).
    """

    def __init__(self) -> None:
        self.count = 0
        self.mask = self.square = self.within = torch.zeros(())

    def add(self, fit: Fit) -> None:
        """See :meth:`Estimate.add`."""
        m = fit.speech * fit.inverse
        mean = m.mean(0)
        self.mask = self.mask + mean
        self.within = self.within + mean.mul_(fit.noise)
        self.square = self.square + m.square_().mean(0)
        self.count += 1

    def moments(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """See :meth:`Estimate.moments`."""
        mask, square, within = (part / self.count for part in (self.mask, self.square, self.within))
        spread = (square - mask.square()).clamp(min=0)
        return mask, within + spread * x.abs().square()


class PrecisionEstimate(Estimate):
    r"""The mean of the precisions: the speech if r(s) and r(z) are taken for independent.

    .. math:: γ^{-1} = \operatorname{mean}_r \frac{1}{g v_r}, \qquad \hat s = \frac{γ}{γ + WH} \; x, \qquad
              \operatorname{var} s = \frac{γ \, WH}{γ + WH}

    It is the best r(s) beside the r(z) of the draws, if r(s, z) has to be a product. A draw with little
    speech counts most, so where draws differ it is quieter than :class:`MaskEstimate`. WH is its mean over
    iterations.

    Source: Sadeghi & Alameda-Pineda, audio-visual speech enhancement with VAEs (2020; variational EM).
    """

    def __init__(self) -> None:
        self.count = 0
        self.precision = self.noise = torch.zeros(())

    def add(self, fit: Fit) -> None:
        """See :meth:`Estimate.add`."""
        self.precision = self.precision + fit.speech.clamp(min=TINY).reciprocal_().mean(0)
        self.noise = self.noise + fit.noise
        self.count += 1

    def moments(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """See :meth:`Estimate.moments`."""
        noise = self.noise / self.count
        mask = 1 / (1 + noise * (self.precision / self.count))
        return mask, mask * noise


ESTIMATES: dict[EstimateKey, type[Estimate]] = {"mask": MaskEstimate, "precision": PrecisionEstimate}


@dataclass(frozen=True)
class Posterior:
    """What EM found out about the speech in x (B, T, F).

    Args:
        mean: the estimate of s given x, complex (B, T, F), by :class:`MaskEstimate` (then it is E[s | x])
            or :class:`PrecisionEstimate`, from the draws of all chains and averaged iterations; or that
            leaning on x, see :func:`~pyrodvae.lean.lean`.
        variance: of s given x, (B, T, F), as the same class has it.
            Noise and gain count as known in each iteration, so it tends to be too small.
        noise_mean: E[b | x] = x − mean.
        speech: the last draws of g·v, (S, B, T, F).
        noise: WH at the end, (B, T, F), or of every chain (S, B, T, F); see :mod:`pyrodvae.pooling`.
        objective: mean of log V + |x|²/V after each M-step, one number per iteration and sequence; an
            M-step never raises it, fresh draws may.
        diagnostics: what the engine reported in each iteration, and what it says about the draws.
        warnings: what went wrong, and what was done about it, in sentences.
        state: where EM stood at the end, to go on from.
        approximation: what stood in for speech that the model wanted to read, in a sentence; "" for nothing.
        factors: W (B, F, K) and H (B, K, T) of the noise at the end, see :class:`~pyrodvae.noise.NMFNoise`.
        responsibility: of a mixture of audio and video, p(α_t = 1 | x), that a frame is heard alone, (B, T),
            the mean over the averaged iterations; else None.
    """

    mean: Tensor
    variance: Tensor
    noise_mean: Tensor
    speech: Tensor
    noise: Tensor
    objective: Tensor
    diagnostics: Diagnostics
    warnings: tuple[str, ...] = ()
    state: Any = None
    approximation: str = ""
    factors: tuple[Tensor, Tensor] | None = None
    responsibility: Tensor | None = None

    def draw(self, x: Tensor) -> Tensor:
        """Draws of s, one for each last draw of z: (S, B, T, F), complex.

        With u = g v: s | x, z ~ N_c(u/(u + WH) x, u WH/(u + WH)), exact given z and the noise. Bins
        are independent in the model, so an inverse STFT keeps about hop/window of their scatter.
        """
        mean, deviation = _wiener(x, self.speech, self.noise)
        return mean + _standard(mean.shape, deviation) * deviation

    def interval(self, x: Tensor, level: float = 0.9, draws: int = 200) -> tuple[Tensor, Tensor]:
        """Per bin, an interval that holds the magnitude |s| with a given probability: (low, high).

        The tails on both sides are equally probable. |s| is a mixture of Rice distributions, one for
        each last draw of z, and the bounds are order statistics of draws from it: fresh draws of the
        same mixture fall between them with probability ``level``, but for rounding to whole draws, or a
        little more where chains differ. What the mixture does not
        know of z and of the noise, the interval does not either: with one or two chains it is narrow.

        Args:
            x: what was heard, complex (B, T, F).
            level: the probability.
            draws: per bin, at least; spread over the S draws of z.

        Returns:
            Two tensors (B, T, F), magnitudes.

        Raises:
            ValueError: a level that is no probability, or too few draws for it.
        """
        S = len(self.speech)
        each = -(-draws // S)
        out = round((1 - level) / 2 * (each * S + 1))  # so many draws lie outside, on either side
        if not 0 < level < 1 or not 1 <= out <= each * S // 2:
            raise ValueError(
                f"{draws} draws have no interval of level {level}: give a level between 0 and 1, and more "
                f"than 2 / (1 - level) draws."
            )
        frames = max(1, CHUNK // (each * S * x[:, 0].numel()))
        pieces = zip(
            x.split(frames, -2), self.speech.split(frames, -2), self.noise.split(frames, -2), strict=True
        )
        bounds = [_bounds(*piece, each, out) for piece in pieces]
        low, high = zip(*bounds, strict=True)
        return torch.cat(low, -2), torch.cat(high, -2)


def _wiener(x: Tensor, u: Tensor, n: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of s given x and draws of z, both (S, B, T, F)."""
    mask = u / (u + n)
    return mask * x, (mask * n).sqrt()


def _standard(shape: torch.Size, like: Tensor) -> Tensor:
    """Proper complex normal numbers of variance one."""
    return torch.view_as_complex(torch.randn(*shape, 2).to(like)) * 0.5**0.5


def _bounds(x: Tensor, u: Tensor, n: Tensor, each: int, out: int) -> tuple[Tensor, Tensor]:
    """The magnitudes that ``out`` of ``each`` draws per chain lie below, and above: (B, T, F)."""
    mean, deviation = (part[..., None] for part in _wiener(x, u, n))
    s = mean + deviation * _standard(torch.Size((*u.shape, each)), u)
    magnitudes = s.abs().movedim(0, -2).flatten(-2)
    most = magnitudes.shape[-1]
    return magnitudes.kthvalue(out).values, magnitudes.kthvalue(most + 1 - out).values
