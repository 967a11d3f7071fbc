"""Where the noise is voiced as the speech is, an estimate leans on the recording."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from pyrodvae.distributions import power
from pyrodvae.posterior import TINY, Posterior

BAND = 300.0, 3500.0
"""Hz: where voices are, above hum and rumble, which are periodic, too."""
PITCH = 70.0, 400.0
"""Hz: of voices."""
VOICED, PURE = (0.4, 0.5), (0.92, 0.87)
"""Voicing of a noise that may be voices: rain has 0.2, eight talkers have 0.6, one has 0.8, tones more."""
LESS = 0.12, 0.06
"""By how much less than the speech a noise is voiced, where voices are ruled out, and where they are not."""


def voicing(p: Tensor, rate: int) -> Tensor:
    r"""How periodic a sound is with the pitch of a voice: its harmonicity, between 0 and 1.

    .. math:: \sum_t r_t(0) \max_τ \frac{r_t(τ)\, r_w(0)}{r_t(0)\, r_w(τ)} \Big/ \sum_t r_t(0)

    with the autocorrelation r_t of a frame, which is the inverse Fourier transform of its power, and that of
    the window, r_w; over lags τ of 70 to 400 Hz, in the band of 300 to 3500 Hz, loud frames counting most.

    Args:
        p: power spectrogram (B, T, F), by an :class:`~pyrodvae.signal.STFT`.
        rate: samples per second.

    Returns:
        (B,); 0 for silence, and where windows are too short to hold a period.

    Source: Boersma, *Accurate short-term analysis of the fundamental frequency and the harmonics-to-noise
    ratio of a sampled sound* (1993).
    """
    size = 2 * (p.shape[-1] - 1)
    lags = slice(round(rate / PITCH[1]), min(round(rate / PITCH[0]), size // 2) + 1)
    if lags.start >= lags.stop:
        return torch.zeros_like(p[:, 0, 0])
    frequency = torch.arange(p.shape[-1], device=p.device) * (rate / size)
    inside = (frequency >= BAND[0]) & (frequency <= BAND[1])
    w = (torch.pi * (torch.arange(size, device=p.device) + 0.5) / size).sin().to(p)
    r_w = torch.fft.irfft(torch.fft.rfft(w).abs().square())
    r = torch.fft.irfft(p * inside)
    energy = r[..., 0]
    peak = (r[..., lags] * (r_w[0] / r_w[lags])).amax(-1)
    return torch.minimum(peak, energy).clamp(min=0).sum(-1) / (energy.sum(-1) + TINY)


def lean(posterior: Posterior, rate: int, most: float) -> Posterior:
    r"""The posterior with an estimate that leans on the recording, as far as speech and noise sound alike.

    .. math:: \hat s \leftarrow \hat s + a\, \hat b, \qquad \hat b \leftarrow (1 - a)\, \hat b

    What tells a speaker from noise is, above all, pitch. Where what was taken for noise is voiced, and hardly
    less than what was taken for speech, there are other talkers, and a model of speech cannot know which of
    them is meant: at worst it removes the one that was to be kept. The weight is a = ``most`` there. It falls
    to zero where the noise is not voiced, is a pure tone, or is voiced less than the speech. Variance and
    draws are those of the model.

    Args:
        posterior: of the speech, as EM found it.
        rate: samples per second of the recording.
        most: a at most; 0 leaves the estimate as it is.
    """
    if not most:
        return posterior
    speech, noise = (voicing(power(s), rate) for s in (posterior.mean, posterior.noise_mean))
    a = most * _ramp(noise, *VOICED) * _ramp(noise, *PURE) * _ramp(speech - noise, *LESS)
    sentences = [
        f"The noise of sequence {b} is voiced as the speech is, so it may be other talkers: the estimate "
        f"keeps {a[b]:.0%} of the recording (lean=0 would not)."
        for b in (a >= 0.005).nonzero().flatten().tolist()
    ]
    share = a[:, None, None]
    return replace(
        posterior,
        mean=posterior.mean + share * posterior.noise_mean,
        noise_mean=(1 - share) * posterior.noise_mean,
        warnings=(*posterior.warnings, *sentences),
    )


def _ramp(value: Tensor, zero: float, one: float) -> Tensor:
    """A straight line, 0 at ``zero`` and 1 at ``one``, and flat beyond them."""
    return ((value - zero) / (one - zero)).clamp(0, 1)
