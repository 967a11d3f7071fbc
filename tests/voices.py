"""Sounds with and without a voice, and posteriors that told two of them apart."""

import torch
from torch import Tensor

from pyrodvae.diagnostics import Diagnostics
from pyrodvae.posterior import Posterior
from pyrodvae.signal import STFT

RATE, N = 16_000, 32_000
STFTS = (STFT(), STFT(window_length=512, hop=128), STFT(sample_rate=8_000, window_length=512, hop=128))


def buzz(pitch: float, rate: int = RATE) -> Tensor:
    """Pulses at a pitch, as a throat makes them."""
    t = torch.arange(N) / rate
    count = int(rate / 2 / pitch)
    harmonics = torch.arange(1, count).double() * pitch
    return torch.cos(2 * torch.pi * harmonics[:, None] * t).sum(0).float() / count


def hiss(seed: int = 0) -> Tensor:
    return torch.randn(N, generator=torch.Generator().manual_seed(seed)) * 0.1


def hum() -> Tensor:
    """Periodic with 100 Hz, as voices may be, and below their band; with a little hiss."""
    t = torch.arange(N) / RATE
    return torch.sin(2 * torch.pi * 100 * t) + 0.1 * hiss()


def murmur() -> Tensor:
    """Voiced, but not as purely as a tone."""
    return buzz(120.0) + 0.6 * hiss()


def found(speech: Tensor, noise: Tensor) -> tuple[Posterior, Tensor]:
    """What EM would have found, had it told speech from noise (N,) each."""
    s, b = STFTS[0](speech[None]), STFTS[0](noise[None])
    one = torch.ones(1, 1)
    return Posterior(s, s.abs(), b, s.abs()[None], b.abs(), one, Diagnostics(()), ("before",)), s + b
