"""Dynamical variational autoencoders as probabilistic programs, and speech enhancement with them."""

from __future__ import annotations

from importlib.metadata import version

from pyrodvae import starting  # noqa: F401  (before all that takes long to import)
from pyrodvae.audio import AudioError, read_audio
from pyrodvae.audio_writer import write_audio
from pyrodvae.engines import ENGINES
from pyrodvae.enhance import Enhanced, enhance
from pyrodvae.enhance_config import EnhanceConfig
from pyrodvae.guides import GUIDES, make_guide
from pyrodvae.models import MODELS
from pyrodvae.signal import STFT
from pyrodvae.weights import Run, WeightsError, load_run

__version__ = version("pyrodvae")

__all__ = [
    "ENGINES",
    "GUIDES",
    "MODELS",
    "STFT",
    "AudioError",
    "EnhanceConfig",
    "Enhanced",
    "Run",
    "WeightsError",
    "enhance",
    "load_run",
    "make_guide",
    "read_audio",
    "write_audio",
]
