"""Audio files: whole and in segments, read in order and written whole or not at all."""

from __future__ import annotations

import math
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import uuid4

import numpy as np
import numpy.typing as npt
import soundfile

Waveform = npt.NDArray[np.floating[Any]]
PathLike = str | os.PathLike[str]

MIN_MILLISECONDS = 64  # one window of 1024 samples at 16 kHz
BLOCK = 16_384  # frames per call: libsndfile overflows its stack on long OGG writes
# What soundfile raises on damaged files, refused settings and full disks (a bare AssertionError).
SOUNDFILE_ERRORS = (OSError, RuntimeError, TypeError, ValueError, AssertionError)


class AudioError(ValueError):
    """A problem with an audio file, told in one sentence that names the file."""


@dataclass(frozen=True)
class AudioInfo:
    """Header of an audio file: rate (Hz), channels C, frames N, subtype and format."""

    rate: int
    channels: int
    frames: int
    subtype: str
    format: str

    @property
    def seconds(self) -> float:
        """Duration in seconds."""
        return self.frames / self.rate


def info(path: PathLike) -> AudioInfo:
    """Read the header of an audio file; a length that it leaves open is counted.

    Raises:
        AudioError: the file is missing, a directory, empty or no audio.
    """
    with _reading(path) as file:
        frames = file.frames if file.frames < 2**62 else sum(map(len, _blocks(file)))
        return AudioInfo(file.samplerate, file.channels, frames, file.subtype, file.format)


def read_audio(path: PathLike) -> tuple[npt.NDArray[np.float32], int]:
    """Read any format of libsndfile as a waveform (C, N) in float32 and its rate (Hz).

    A file that ends before its header says gives what is there, with a warning.

    Raises:
        AudioError: the file is missing, a directory, empty, no audio or damaged.
    """
    with _reading(path) as file:
        blocks = [np.zeros((0, file.channels), np.float32), *_blocks(file)]
        return np.ascontiguousarray(np.concatenate(blocks).T), int(file.samplerate)


def check_finite(waveform: Waveform, name: PathLike) -> None:
    """Raise AudioError if the waveform (C, N) has a NaN or infinite sample."""
    if bad := int(np.count_nonzero(~np.isfinite(waveform))):
        raise AudioError(f"{name} has {bad} samples that are NaN or infinite.")


def check_duration(waveform: Waveform, rate: int, name: PathLike) -> None:
    """Raise AudioError if the waveform (C, N) is empty or lasts less than 64 ms."""
    length = waveform.shape[-1]
    if length == 0:
        raise AudioError(f"{name} holds no samples.")
    if 1000 * length < MIN_MILLISECONDS * rate:
        raise AudioError(
            f"{name} is too short: it lasts {1000 * length / rate:.1f} ms and at least "
            f"{MIN_MILLISECONDS} ms are needed."
        )


def check_sound(waveform: Waveform, name: PathLike) -> None:
    """Raise AudioError if every sample of the waveform (C, N) is zero."""
    if not np.any(waveform):
        raise AudioError(f"{name} is silent: all its samples are zero.")


def check_waveform(waveform: Waveform, name: PathLike, rate: int = 16_000) -> None:
    """Raise AudioError if the waveform (C, N) is empty, too short, not finite or silent."""
    check_duration(waveform, rate, name)
    check_finite(waveform, name)
    check_sound(waveform, name)


def read_segments(path: PathLike, seconds: float, overlap: float) -> Iterator[npt.NDArray[np.float32]]:
    """Read a file in order as overlapping segments (C, n), in memory that a segment bounds.

    Segments last `seconds` and share `overlap` seconds with the next. The last one is shorter; a
    rest that would bring less than the overlap, or than 64 ms, is merged into the one before.
    `OverlapWriter` puts them together again.

    Raises:
        AudioError: as `read_audio`.
        ValueError: `seconds` is not at least twice the overlap, and 64 ms more than it.
    """
    rate = info(path).rate
    size, shared = round(seconds * rate), round(overlap * rate)
    least = max(shared, math.ceil(MIN_MILLISECONDS * rate / 1000))
    if shared < 0 or size - shared < least:
        raise ValueError(
            f"Segments of {seconds} s with an overlap of {overlap} s cannot be cut: they need at "
            f"least twice the overlap, and {MIN_MILLISECONDS} ms more than the overlap."
        )
    return _segments(path, size, shared, least)


def _segments(path: PathLike, size: int, shared: int, least: int) -> Iterator[npt.NDArray[np.float32]]:
    with _reading(path) as file:
        held = file.read(size, "float32", always_2d=True)
        # Reading one step ahead, rather than trusting the header, tells which segment is the last.
        while len(new := file.read(size - shared, "float32", always_2d=True)) >= least:
            yield held.T.copy()  # the caller may overwrite its segment, the shared part is needed
            held = np.concatenate([held[len(held) - shared :], new])
        yield np.concatenate([held, new]).T.copy()


class _Stream(soundfile.SoundFile):  # type: ignore[misc]
    """A sound file read in order: soundfile would seek at every read, which harms MP3 decoding."""

    position = 0

    def seekable(self) -> bool:
        return False

    def read(self, *args: Any, **options: Any) -> Any:
        block = super().read(*args, **options)
        self.position += len(block)
        return block


@contextmanager
def _reading(path: PathLike) -> Iterator[_Stream]:
    path = Path(path)
    if not path.exists():
        raise AudioError(f"{path} does not exist.")
    if path.is_dir():
        raise AudioError(f"{path} is a directory, not an audio file.")
    if path.stat().st_size == 0:
        raise AudioError(f"{path} is empty (0 bytes).")
    with _failing_as(f"{path} cannot be read as audio"), _Stream(path) as file:
        yield file
        if 0 < file.position < file.frames < 2**62:
            warnings.warn(
                f"{path} ends early: {file.position} of {file.frames} frames could be read.",
                stacklevel=2,
            )


def _blocks(file: _Stream) -> Iterator[npt.NDArray[np.float32]]:
    while len(block := file.read(BLOCK, "float32", always_2d=True)):
        yield block


@contextmanager
def _failing_as(what: str) -> Iterator[None]:
    try:
        yield
    except AudioError:
        raise
    except SOUNDFILE_ERRORS as error:
        told: object = error
        # In their own words, without the temporary file that their text names.
        if isinstance(error, soundfile.LibsndfileError):
            told = error.error_string
        elif isinstance(error, OSError):
            told = error.strerror or error
        why = str(told).strip().rstrip(".") or type(error).__name__
        raise AudioError(f"{what}: {why}.") from error


FORMATS = {".wav": "WAV", ".flac": "FLAC", ".ogg": "OGG", ".mp3": "MP3", ".aiff": "AIFF"}
INTEGER_BITS = {"PCM_S8": 8, "PCM_U8": 8, "PCM_16": 16, "PCM_24": 24, "PCM_32": 32}


def write_audio(path: PathLike, waveform: npt.ArrayLike, rate: int, subtype: str | None = None) -> None:
    """Write a waveform (C, N) or (N,) to an audio file, whole or not at all.

    The extension gives the format (see `FORMATS`), and `subtype` the samples in libsndfile's words:
    by default PCM_16, for OGG and MP3 their codec. Only FLOAT and DOUBLE hold samples beyond full
    scale; elsewhere they are clipped, with a warning, and never wrap. The file gets its name once
    it is complete: after a failure, an earlier file of that name is untouched.

    Raises:
        AudioError: unknown extension or subtype, no samples, NaN, or a failure to write.
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
        self._format = FORMATS.get(self.path.suffix.lower(), "")
        if not self._format:
            raise AudioError(f"{path} has an unknown extension: choose among {', '.join(FORMATS)}.")
        self.subtype = subtype or str(soundfile.default_subtype(self._format))
        if not soundfile.check_format(self._format, self.subtype):
            raise AudioError(f"{path}: a {self._format} file cannot hold {self.subtype} samples.")
        if not self.path.parent.is_dir():
            raise AudioError(f"{path} cannot be written: its folder does not exist.")
        self._temporary = self.path.parent / f".{uuid4().hex}.tmp"
        self._file: soundfile.SoundFile | None = None
        self._held: Waveform = np.zeros((0, 0))
        self._frames = self._clipped = 0

    def write(self, segment: npt.ArrayLike) -> None:
        """Add the next segment (C, n) or (n,); from the second on it starts with the overlap."""
        array = np.atleast_2d(np.array(segment))  # a copy: the fade is written into it
        if array.ndim != 2 or not np.issubdtype(array.dtype, np.floating):
            raise AudioError(
                f"{self.path} needs floating-point samples of shape (C, N), not {array.dtype} of "
                f"shape {array.shape}."
            )
        check_finite(array, self.path)
        if self._file is None:
            self._file = self._open(len(array))
        else:
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
                self._append(self._held)
                self._finish()
        finally:
            if self._file is not None:
                with suppress(*SOUNDFILE_ERRORS):
                    self._file.close()
            self._temporary.unlink(missing_ok=True)
        if kind is None and self._clipped:
            warnings.warn(
                f"{self.path}: {self._clipped} samples beyond full scale were clipped; scale the "
                "waveform down, or write subtype 'FLOAT' to a .wav file.",
                stacklevel=2,
            )

    def _open(self, channels: int) -> soundfile.SoundFile:
        what = f"{self.path} cannot be written with {channels} channels at {self.rate} Hz"
        if self._format == "OGG" and not (0 < channels < 256 and 0 < self.rate <= 200_000):
            raise AudioError(f"{what}: it is beyond the OGG format.")  # libvorbis would crash
        with _failing_as(what):
            return soundfile.SoundFile(
                self._temporary, "w", self.rate, channels, self.subtype, format=self._format
            )

    def _append(self, waveform: Waveform) -> None:
        for start in range(0, waveform.shape[1], BLOCK):
            block = self._encode(waveform[:, start : start + BLOCK].T)
            with _failing_as(f"{self.path} cannot be written"):
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
        if self._file is None or self._frames == 0:
            raise AudioError(f"{self.path} was not written: there are no samples.")
        with _failing_as(f"{self.path} cannot be written"):
            self._file.close()
            # Read back, because libsndfile does not report every write that a full disk cuts short.
            with _Stream(self._temporary) as file:
                if file.frames != self._frames or sum(map(len, _blocks(file))) != self._frames:
                    raise OSError("it came out incomplete, the disk may be full")
            os.replace(self._temporary, self.path)
