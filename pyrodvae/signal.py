"""Waveforms in and out of the short-time Fourier transform, and from one sample rate to another."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import soxr
import torch
from torch import Tensor

Waveform = npt.NDArray[np.floating[Any]]

PAD_MODES = ("constant", "reflect")


@dataclass(frozen=True)
class STFT:
    """Short-time Fourier transform with a sine window, and its exact inverse.

    s_tf = sum_n w_n y_{n + t hop} exp(-2 i pi f n / window_length), w_n = sin(pi (n + 1/2) /
    window_length), where y is the waveform padded by half a window on both sides, so that frame t
    is centred on sample t hop. Frames come before bins: (..., N) becomes complex (..., T, F) with
    T = 1 + N // hop and F = window_length // 2 + 1.

    Args:
        sample_rate: samples per second (Hz), used by `frame_rate` only.
        window_length: samples in a window, even.
        hop: samples between frames; divides `window_length` and is at most half of it.
        pad_mode: "constant" (zeros) or "reflect".

    Raises:
        ValueError: a setting cannot be inverted or is unknown.
    """

    sample_rate: int = 16_000
    window_length: int = 1024
    hop: int = 256
    pad_mode: str = "constant"

    def __post_init__(self) -> None:
        if self.sample_rate < 1 or self.window_length < 2 or self.hop < 1:
            raise ValueError(f"STFT needs positive sizes and a positive rate, not {self}.")
        if self.window_length % 2 or self.window_length % self.hop:
            raise ValueError(
                f"The STFT window ({self.window_length} samples) has to be even and a multiple of "
                f"the hop ({self.hop} samples)."
            )
        if 2 * self.hop > self.window_length:
            raise ValueError(
                f"A hop of {self.hop} samples is more than half the window of "
                f"{self.window_length}: the STFT would have no exact inverse."
            )
        if self.pad_mode not in PAD_MODES:
            raise ValueError(f"Unknown pad_mode {self.pad_mode!r}: choose among {PAD_MODES}.")

    @property
    def bins(self) -> int:
        """Number of frequency bins F."""
        return self.window_length // 2 + 1

    @property
    def frame_rate(self) -> float:
        """Frames per second."""
        return self.sample_rate / self.hop

    def frames(self, length: int) -> int:
        """Number of frames T of a waveform of `length` samples."""
        return 1 + length // self.hop

    def __call__(self, waveform: Tensor) -> Tensor:
        """Transform a real waveform (..., N) into its complex spectrum (..., T, F).

        Raises:
            ValueError: the waveform is not real floating point, empty, or too short to reflect.
        """
        if not waveform.is_floating_point() or waveform.dim() == 0:
            raise ValueError(
                f"The STFT needs a real floating-point waveform (..., N), not {waveform.dtype} of "
                f"shape {tuple(waveform.shape)}."
            )
        length, least = waveform.shape[-1], 1
        if self.pad_mode == "reflect":
            least += self.window_length // 2
        if length < least:
            raise ValueError(
                f"A waveform of {length} samples is too short for the STFT: {self.pad_mode} "
                f"padding needs at least {least}."
            )
        spectrum = torch.stft(
            waveform.reshape(-1, length),
            self.window_length,
            self.hop,
            window=sine_window(self.window_length, waveform),
            center=True,
            pad_mode=self.pad_mode,
            return_complex=True,
        )
        return spectrum.mT.reshape(*waveform.shape[:-1], *spectrum.mT.shape[-2:])

    def inverse(self, spectrum: Tensor, length: int) -> Tensor:
        """Transform a spectrum (..., T, F) back into the waveform (..., N) of `length` samples.

        Raises:
            ValueError: the spectrum is not complex, or T, F and `length` do not belong together.
        """
        expected = (self.frames(length), self.bins)
        if not spectrum.is_complex() or length < 1 or tuple(spectrum.shape[-2:]) != expected:
            raise ValueError(
                f"A waveform of {length} samples has a complex spectrum of shape (..., "
                f"{expected[0]}, {expected[1]}), not {spectrum.dtype} {tuple(spectrum.shape)}."
            )
        waveform = torch.istft(
            spectrum.reshape(-1, *expected).mT,
            self.window_length,
            self.hop,
            window=sine_window(self.window_length, spectrum.real),
            center=True,
            length=length,
        )
        return waveform.reshape(*spectrum.shape[:-2], length)


def sine_window(length: int, like: Tensor) -> Tensor:
    """That of :class:`STFT`, (length,), of the type and on the device of a real tensor."""
    n = torch.arange(length, dtype=like.dtype, device=like.device)
    return torch.sin(math.pi * (n + 0.5) / length)


def resample(waveform: Waveform, rate_in: int, rate_out: int) -> Waveform:
    """Resample a waveform (..., N) from `rate_in` to `rate_out` (Hz), with soxr's high quality.

    The result has ceil(N rate_out / rate_in) samples, and is the input itself at equal rates.

    Raises:
        ValueError: a rate is not positive, or the waveform is not floating point.
    """
    if rate_in < 1 or rate_out < 1:
        raise ValueError(f"Cannot resample from {rate_in} Hz to {rate_out} Hz.")
    if not np.issubdtype(waveform.dtype, np.floating):
        raise ValueError(f"Cannot resample {waveform.dtype} samples: convert them to float.")
    if rate_in == rate_out:
        return waveform
    length = -(-waveform.shape[-1] * rate_out // rate_in)
    result = np.zeros((*waveform.shape[:-1], length), waveform.dtype)
    for index in np.ndindex(waveform.shape[:-1]):
        # soxr rounds the length; the sample it may leave out is zero
        row = soxr.resample(waveform[index], rate_in, rate_out, quality="HQ")[:length]
        result[(*index, slice(len(row)))] = row
    return result


def overlapping(frames: int, size: int, shared: int) -> tuple[list[int], int, list[Tensor]]:
    """Cut a long sequence: first frames of windows, their size, and weights (size, 1) that sum to one.

    Args:
        frames: of the sequence.
        size: of a window, at most.
        shared: frames in which neighbours fade into each other.
    """
    if frames <= size:
        return [0], frames, [torch.ones(frames, 1)]
    count = -(-(frames - shared) // (size - shared))
    size = -(-(frames - shared) // count) + shared  # of equal length, so that none is short
    starts = [min(i * (size - shared), frames - size) for i in range(count)]
    total, ramps = torch.zeros(frames), []
    for start in starts:
        t = torch.arange(size) + 1.0
        ramp = torch.minimum(torch.minimum(t, t.flip(0)) / (shared + 1), torch.ones(size))
        ramps.append(ramp)
        total[start : start + size] += ramp
    return starts, size, [(r / total[s : s + size])[:, None] for s, r in zip(starts, ramps, strict=True)]
