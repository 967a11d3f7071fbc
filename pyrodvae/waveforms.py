"""What users hand in: a file, or a waveform of some kind with its rate."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from pyrodvae.audio import AudioError, Waveform, check_waveform, read_audio


def read_input(audio: str | Path | npt.ArrayLike, sample_rate: int | None) -> tuple[Waveform, int, str]:
    """A file, or a waveform with its rate: the waveform (N,) or (C, N), its rate and its name, checked.

    Raises:
        AudioError: the audio cannot be used.
        ValueError: a rate for a file, none for a waveform, or one that makes no sense.
    """
    if audio is None:
        raise AudioError("There is no audio: give a file or a waveform.")
    if isinstance(audio, str | Path):
        if sample_rate is not None:
            raise ValueError("A file knows its sample rate: leave sample_rate out.")
        waveform, rate = read_audio(audio)
        check_waveform(waveform, audio, rate)
        return waveform, rate, str(audio)
    if sample_rate is None:
        raise ValueError("A waveform needs its sample_rate in Hz: enhance(x, sample_rate=16_000).")
    number: Any = sample_rate  # whatever the caller gave
    if (
        not isinstance(number, int | float | np.number)
        or not 4000 <= float(number) <= 384_000
        or float(number) % 1
    ):
        raise ValueError(f"sample_rate is in Hz, between 4000 and 384000, not {sample_rate!r}.")
    waveform = _array(audio)
    if waveform.ndim not in (1, 2) or not np.issubdtype(waveform.dtype, np.floating):
        raise AudioError(
            f"The waveform must be floats of shape (N,) or (C, N), not {waveform.dtype} of shape "
            f"{waveform.shape}."
        )
    if waveform.ndim == 2 and waveform.shape[0] > waveform.shape[1]:
        raise AudioError(f"The waveform has shape {waveform.shape}: give channels first, (C, N).")
    check_waveform(waveform, "The waveform", int(sample_rate))
    return waveform, int(sample_rate), "waveform"


def _array(audio: Any) -> npt.NDArray[Any]:
    """As an array; floats of any width become those of 32 or 64 bits that can be resampled."""
    if isinstance(audio, Tensor):
        audio = audio.detach().cpu()
        audio = audio.float() if audio.dtype in (torch.bfloat16, torch.float16) else audio
    try:
        waveform = np.asarray(audio)
    except (TypeError, ValueError) as error:
        raise AudioError("The waveform cannot be read as an array of numbers.") from error
    floating = np.issubdtype(waveform.dtype, np.floating)
    return waveform.astype(np.float32, copy=False) if floating and waveform.dtype != np.float64 else waveform


def centred(channels: Waveform) -> Waveform:
    """The waveform (C, N) without its offset, which would click at the ends; silence stays silent."""
    sounding = channels != 0
    count = sounding.sum(-1, keepdims=True).clip(1)
    offset = (channels.sum(-1, keepdims=True, dtype=np.float64) / count).astype(channels.dtype)
    audible = np.abs(offset) > 0.01 * np.abs(channels).max(-1, keepdims=True)
    return channels - offset * (sounding & audible)
