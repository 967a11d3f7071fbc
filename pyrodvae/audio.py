"""Audio files in: whole and in segments, read in order; and what a waveform has to be."""

from __future__ import annotations

import math
import os
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import soundfile

Waveform = npt.NDArray[np.floating[Any]]
PathLike = str | os.PathLike[str]

MIN_MILLISECONDS = 64  # one window of 1024 samples at 16 kHz
BLOCK = 16_384  # frames per call: libsndfile overflows its stack on long OGG writes
# What soundfile raises on damaged files, refused settings and full disks (a bare AssertionError).
SOUNDFILE_ERRORS = (OSError, RuntimeError, TypeError, ValueError, AssertionError)
CUT_DOWN = re.compile(r"^\s*(?:data|SSND|Data Size)\s*: (\d+) \(should be (\d+)\)", re.M)
"""In libsndfile's log: bytes of samples by the header of a WAV, AIFF or AU file, and in the file."""
OPEN_LENGTH = 2**31 - 10_000
"""From so many bytes on, a header leaves the length open: its writer could not go back to fill it in."""


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
        frames = file.frames if 0 < file.frames < 2**62 else sum(map(len, blocks(file)))
        return AudioInfo(file.samplerate, file.channels, frames, file.subtype, file.format)


def read_audio(path: PathLike) -> tuple[npt.NDArray[np.float32], int]:
    """Read any format of libsndfile as a waveform (C, N) in float32 and its rate (Hz).

    A file that ends before its header says gives what is there, with a warning.

    Raises:
        AudioError: the file is missing, a directory, empty, no audio or damaged.
    """
    with _reading(path) as file:
        read = [np.zeros((0, file.channels), np.float32), *blocks(file)]
        return np.ascontiguousarray(np.concatenate(read).T), int(file.samplerate)


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


class Stream(soundfile.SoundFile):  # type: ignore[misc]
    """A sound file read in order: soundfile would seek at every read, which harms MP3 decoding."""

    position = 0

    def seekable(self) -> bool:
        """No, so that soundfile does not."""
        return False

    def read(self, *args: Any, **options: Any) -> Any:
        """As soundfile does, and count."""
        block = super().read(*args, **options)
        self.position += len(block)
        return block

    @property
    def promised(self) -> int:
        """Frames that the header speaks of, where libsndfile has cut its number down to what is there."""
        cut = CUT_DOWN.search(self.extra_info)
        if not cut or int(cut[1]) > OPEN_LENGTH:
            return int(self.frames)
        return int(self.frames) * int(cut[1]) // max(1, int(cut[2]))


@contextmanager
def _reading(path: PathLike) -> Iterator[Stream]:
    path = Path(path)
    with failing_as(f"{path} cannot be read as audio"):
        if not path.exists():
            link = f" is a link to {os.readlink(path)}, which" if path.is_symlink() else ""
            raise AudioError(f"{path}{link} does not exist.")
        if path.is_dir():
            raise AudioError(f"{path} is a directory, not an audio file.")
        if path.stat().st_size == 0:
            raise AudioError(f"{path} is empty (0 bytes).")
        path.open("rb").close()  # libsndfile would not say why it cannot
        with Stream(path) as file:
            yield file
            if 0 < file.position < (promised := file.promised) < 2**62:
                read, whole = (frames / file.samplerate for frames in (file.position, promised))
                warnings.warn(
                    f"{path} ends early: {read:.2f} of {whole:.2f} seconds could be read.", stacklevel=2
                )


def blocks(file: Stream) -> Iterator[npt.NDArray[np.float32]]:
    """The rest of a file, in blocks (n, C)."""
    while len(block := file.read(BLOCK, "float32", always_2d=True)):
        yield block


@contextmanager
def failing_as(what: str) -> Iterator[None]:
    """Tell failures of soundfile and of the system as an AudioError ``what: why.``."""
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
