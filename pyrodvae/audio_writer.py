"""Audio files out: written whole or not at all."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import soundfile

from pyrodvae.audio import (
    BLOCK,
    SOUNDFILE_ERRORS,
    AudioError,
    PathLike,
    Stream,
    Waveform,
    blocks,
    check_finite,
    failing_as,
)
from pyrodvae.whole import temporary

FORMATS = {".wav": "WAV", ".flac": "FLAC", ".ogg": "OGG", ".mp3": "MP3", ".aiff": "AIFF"}
INTEGER_BITS = {"PCM_S8": 8, "PCM_U8": 8, "PCM_16": 16, "PCM_24": 24, "PCM_32": 32}


def format_of(path: PathLike) -> str:
    """The format that the extension of an output asks for.

    Raises:
        AudioError: none that can be written.
    """
    if kind := FORMATS.get(Path(path).suffix.lower()):
        return kind
    *most, last = FORMATS
    raise AudioError(f"{path} cannot be written: its name has to end in {', '.join(most)} or {last}.")


def write_audio(path: PathLike, waveform: npt.ArrayLike, rate: int, subtype: str | None = None) -> None:
    """Write a waveform (C, N) or (N,) to an audio file, whole or not at all.

    The extension gives the format (see `FORMATS`), and `subtype` the samples in libsndfile's words:
    by default PCM_16, for OGG and MP3 their codec. Only FLOAT and DOUBLE hold samples beyond full
    scale; elsewhere they are clipped, with a warning, and never wrap. The file gets its name once
    it is complete: after a failure, an earlier file of that name is untouched.

    Raises:
        AudioError: unknown extension or subtype, no samples, NaN, (N, C), or a failure to write.
    """
    with OverlapWriter(path, rate, 0.0, subtype) as out:
        out.write(waveform)


class OverlapWriter:
    """Write consecutive overlapping segments (C, n) to one file, cross-fading what they share.

    Over the overlap of m samples, y_k + r_k (y'_k - y_k) with r_k = (k + 1/2) / m, where y ends
    one segment and y' starts the next: linear ramps that sum to one, so unmodified segments of
    `read_segments` give the file back. To be used in a `with` block; the file appears, complete,
    at its end, and not at all after an exception. The overlap is in seconds, the rest is as in
    `write_audio`.
    """

    def __init__(self, path: PathLike, rate: int, overlap: float, subtype: str | None = None) -> None:
        self.path, self.rate, self.shared = Path(path), rate, round(overlap * rate)
        if self.shared < 0:
            raise ValueError(f"The overlap cannot be negative: {overlap} s.")
        self._format = format_of(path)
        self.subtype = subtype or str(soundfile.default_subtype(self._format))
        if not soundfile.check_format(self._format, self.subtype):
            raise AudioError(f"{path}: a {self._format} file cannot hold {self.subtype} samples.")
        if not self.path.parent.is_dir():
            raise AudioError(f"{path} cannot be written: its folder does not exist.")
        self._temporary = temporary(self.path)
        self._file: soundfile.SoundFile | None = None
        self._held: Waveform | None = None
        self._frames = self._clipped = 0

    def write(self, segment: npt.ArrayLike) -> None:
        """Add the next segment (C, n) or (n,); from the second on it starts with the overlap."""
        array = np.atleast_2d(np.array(segment))  # a copy: the fade is written into it
        if array.ndim != 2 or not np.issubdtype(array.dtype, np.floating):
            raise AudioError(
                f"{self.path} needs floating-point samples of shape (C, N), not {array.dtype} of "
                f"shape {array.shape}."
            )
        if 0 < array.shape[1] < len(array):
            raise AudioError(f"{self.path} needs channels first, (C, N), not samples of shape {array.shape}.")
        check_finite(array, self.path)
        if self._file is None:
            self.open(len(array))
        if self._held is not None:
            held, shared = self._held, self.shared
            if len(array) != len(held) or min(array.shape[1], held.shape[1]) < shared:
                raise AudioError(
                    f"{self.path}: a segment of shape {array.shape} does not continue one of "
                    f"{len(held)} channels with an overlap of {shared} samples."
                )
            ramp = (np.arange(shared, dtype=array.dtype) + 0.5) / max(shared, 1)
            array[:, :shared] = held + ramp * (array[:, :shared] - held)
        ready = max(array.shape[1] - self.shared, 0)
        self._append(array[:, :ready])
        self._held = array[:, ready:].copy()

    def __enter__(self) -> OverlapWriter:
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        try:
            if kind is None:
                self._finish()
        finally:
            with suppress(*SOUNDFILE_ERRORS):  # what went wrong before is to be told
                if self._file is not None:
                    self._file.close()
            with suppress(OSError):
                self._temporary.unlink()
        if kind is None and self._clipped:
            warnings.warn(
                f"{self.path}: {self._clipped} samples beyond full scale were clipped; scale the "
                "waveform down, or write subtype 'FLOAT' to a .wav file.",
                stacklevel=2,
            )

    def open(self, channels: int) -> None:
        """Start the file before the first segment is there, to be told early that it cannot be written."""
        what = f"{self.path} cannot be written with {channels} channels at {self.rate} Hz"
        if self._format == "OGG" and not (0 < channels < 256 and 0 < self.rate <= 200_000):
            raise AudioError(f"{what}: it is beyond the OGG format.")  # libvorbis would crash
        with failing_as(f"{self.path} cannot be written"):
            self._temporary.unlink(missing_ok=True)  # of a run that was killed
            self._temporary.touch()  # libsndfile would not say why it cannot
        with failing_as(what):
            self._file = soundfile.SoundFile(
                self._temporary, "w", self.rate, channels, self.subtype, format=self._format
            )

    @contextmanager
    def _writing(self) -> Iterator[None]:
        """Tell why a write fails: libsndfile does not, but the system refuses us, too, and does."""
        with failing_as(f"{self.path} cannot be written"):
            try:
                yield
            except SOUNDFILE_ERRORS:
                with self._temporary.open("ab") as file:
                    file.write(bytes(2**20))
                raise

    def _append(self, waveform: Waveform) -> None:
        for start in range(0, waveform.shape[1], BLOCK):
            block = self._encode(waveform[:, start : start + BLOCK].T)
            with self._writing():
                self._file.write(block)  # type: ignore[union-attr]
            self._frames += len(block)

    def _encode(self, block: npt.NDArray[Any]) -> npt.NDArray[Any]:
        if self.subtype in ("FLOAT", "DOUBLE"):
            return block
        self._clipped += int(np.count_nonzero(np.abs(block) > 1))
        bits = INTEGER_BITS.get(self.subtype)
        if bits is None:
            return block.clip(-1, 1)
        # Rounded here, to the nearest: libsndfile truncates, a bias of half a step.
        full = 2.0 ** (bits - 1)
        steps = np.rint(block * full, dtype=np.float64).clip(-full, full - 1)
        return (steps * 2.0 ** (32 - bits)).astype(np.int32)

    def _finish(self) -> None:
        if self._held is not None:
            self._append(self._held)
        if self._file is None or self._frames == 0:
            raise AudioError(f"{self.path} was not written: there are no samples.")
        with self._writing():
            self._file.close()
            # Read back, because libsndfile does not report every write that a full disk cuts short.
            with Stream(self._temporary) as file:
                if file.frames != self._frames or sum(map(len, blocks(file))) != self._frames:
                    raise OSError("it came out incomplete, the disk may be full")
            os.replace(self._temporary, self.path)
