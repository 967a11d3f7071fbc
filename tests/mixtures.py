"""Small mixtures of audio and video, and their data, that several tests share."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from toys import B, D, F, H, T, spectra

from pyrodvae.av_mixture import AVMixture
from pyrodvae.guides import make_guide
from pyrodvae.mixture_guide import MixtureGuide
from pyrodvae.models import MODELS
from pyrodvae.noise import NMFNoise

V, LENGTHS = 64, torch.tensor([T, 2, 4])
EACH = {"vae-mm": {}, "av-switch": {}, "min-vae": {}, "min-vae (z alone)": {"sees": False}}
"""The mixtures, and what makes them."""


def make(name: str, latent: int = D, seed: int = 0) -> tuple[AVMixture, MixtureGuide]:
    """A small pair in double precision, its weights about twice as large as torch starts them."""
    torch.manual_seed(seed)
    m = MODELS[name.split()[0]](F, latent, H, video=V, **EACH[name])
    g = make_guide(m, hidden=H)
    assert isinstance(m, AVMixture)
    assert isinstance(g, MixtureGuide)
    with torch.no_grad():
        for p in (*m.parameters(), *g.parameters()):
            p.mul_(2)
        m.log_odds += 0.3
    return m.double(), g.double()


def video(batch: int = B, frames: int = T) -> Tensor:
    """Pictures of which one is missing."""
    v = torch.rand(batch, frames, V, dtype=torch.double)
    v[0, 1] = math.nan
    return v


def heard(batch: int = B, frames: int = T) -> tuple[Tensor, Tensor, NMFNoise]:
    """x, v, and a first guess of the noise."""
    x = 2 * spectra(batch, frames)
    return x, video(batch, frames), NMFNoise.from_quiet_frames(x, 2, torch.Generator().manual_seed(0))
