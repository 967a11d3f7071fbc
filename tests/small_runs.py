"""A small untrained run that loads and enhances in no time, and recordings to try it on."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from pyrodvae import examples
from pyrodvae.audio import read_audio
from pyrodvae.audio_writer import write_audio
from pyrodvae.signal import STFT
from pyrodvae.weights import base_card, make_pair, save_run

FAST = ["--iterations", "2", "--chains", "1", "--noise-rank", "2"]


def save_small_run(folder: Path, key: str = "rvae", latent: int = 4, hidden: int = 8) -> Path:
    """A run whose statistics are those of the packaged example."""
    torch.manual_seed(0)
    m, g = make_pair(key, {"observed": 513, "latent": latent, "hidden": hidden}, "paper", {"hidden": hidden})
    s = STFT()(torch.from_numpy(read_audio(examples.clean())[0]))
    m.fit_statistics(s)
    g.fit_statistics(s)
    save_run(folder, m, g, base_card(key, m, "paper", g, STFT()))
    return folder


def sound(seconds: float, rate: int = 16_000, channels: int = 1, seed: int = 0) -> np.ndarray:
    """A buzz that comes and goes, in noise: (C, N)."""
    n = round(seconds * rate)
    t = np.arange(n) / rate
    buzz = sum(np.sin(2 * np.pi * 150 * k * t) / k for k in range(1, 12)) * (np.sin(7 * t) > 0)
    hiss = np.random.default_rng(seed).standard_normal((channels, n))
    return (0.1 * buzz + 0.02 * hiss).astype(np.float32)


def save_sound(path: Path, seconds: float = 0.4, **options: int) -> Path:
    """Such a sound in a file, 16-bit at 16 kHz."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_audio(path, sound(seconds, **options), 16_000)
    return path
