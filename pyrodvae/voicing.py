"""How voiced sounds are: how periodic, with the pitch of a voice."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from pyrodvae.signal import sine_window

TINY = 1e-30
BAND = 300.0, 3500.0
"""Hz: where voices are, above hum and rumble, which are periodic, too."""
PITCH = 70.0, 400.0
"""Hz: of voices."""


class Voicing(NamedTuple):
    """How voiced two sounds are that were told from each other, between 0 and 1, (B,) each.

    Args:
        speech: where it is loud.
        noise: where it is most of what there is: in pauses little of the speech leaks into it.
        loud: the noise, where it is loud.
        share: of the energy that is the noise's.
    """

    speech: Tensor
    noise: Tensor
    loud: Tensor
    share: Tensor


def periodicity(p: Tensor, rate: int) -> tuple[Tensor, Tensor]:
    r"""How periodic each frame is with the pitch of a voice, and its energy in the band of voices.

    .. math:: c_t = \max_τ \frac{r_t(τ)\, r_w(0)}{r_t(0)\, r_w(τ)}

    with the autocorrelation r_t of the frame, which is the inverse Fourier transform of its power, and that
    of the window, r_w; over lags τ of 70 to 400 Hz, in the band of 300 to 3500 Hz.

    Args:
        p: power spectrogram (B, T, F), by an :class:`~pyrodvae.signal.STFT`.
        rate: samples per second.

    Returns:
        c between 0 and 1 and r_t(0), (B, T) each. Where a window holds less than two periods of the lowest
        pitch, c is 0.

    Source: Boersma, *Accurate short-term analysis of the fundamental frequency and the harmonics-to-noise
    ratio of a sampled sound* (1993).
    """
    size = 2 * (p.shape[-1] - 1)
    frequency = torch.arange(p.shape[-1], device=p.device) * (rate / size)
    r = torch.fft.irfft(p * ((frequency >= BAND[0]) & (frequency <= BAND[1])))
    energy = r[..., 0]
    lags = slice(round(rate / PITCH[1]), round(rate / PITCH[0]) + 1)
    if lags.stop > size // 2 + 1:
        return torch.zeros_like(energy), energy
    r_w = torch.fft.irfft(torch.fft.rfft(sine_window(size, p)).abs().square())
    peak = (r[..., lags] * (r_w[0] / r_w[lags])).amax(-1)
    return (peak / (energy + TINY)).clamp(0, 1), energy


def voicing(speech: Tensor, noise: Tensor, rate: int) -> Voicing:
    r"""Means of periodicity over frames, in the band of voices.

    .. math:: \frac{\sum_t e_t c_t}{\sum_t e_t}, \qquad \frac{\sum_t η_t c'_t}{\sum_t η_t}, \qquad
              \frac{\sum_t e'_t c'_t}{\sum_t e'_t}, \qquad \frac{\sum_t e'_t}{\sum_t (e_t + e'_t)}

    with periodicity c and energy e of the speech, c' and e' of the noise, and η = e' / (e + e').

    Args:
        speech, noise: power spectrograms (B, T, F).
        rate: samples per second.
    """
    (c, e), (c_n, e_n) = periodicity(speech, rate), periodicity(noise, rate)
    both = e + e_n
    return Voicing(
        _mean(c, e), _mean(c_n, e_n / (both + TINY)), _mean(c_n, e_n), _mean(e_n / (both + TINY), both)
    )


def _mean(value: Tensor, weight: Tensor) -> Tensor:
    """Over frames, (B, T) to (B,); zero where all weights are."""
    return (weight * value).sum(-1) / (weight.sum(-1) + TINY)
