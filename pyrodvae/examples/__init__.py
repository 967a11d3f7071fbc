"""A noisy recording and its clean original, made for this package; README.md tells how."""

from importlib.resources import files
from pathlib import Path


def noisy() -> Path:
    """Path of `noisy.flac`: one spoken sentence in babble at 0 dB SNR, 16 kHz, mono."""
    return _path("noisy.flac")


def clean() -> Path:
    """Path of `clean.flac`: the same speech, at the same scale, without the noise."""
    return _path("clean.flac")


def _path(name: str) -> Path:
    return Path(str(files(__name__) / name))
