"""Video files in and out, picture by picture, each with its time."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from torch import Tensor

from pyrodvae.audio import PathLike
from pyrodvae.whole import telling, temporary

Picture = npt.NDArray[np.uint8]
"""Grey, (height, width)."""
SLACK = 1e-3
"""Seconds by which times may be rounded: some containers know milliseconds only."""
TICKS = 90_000
"""Units of time per second in the files we write."""
FORMATS = {".mp4": "mp4", ".mkv": "matroska", ".mov": "mov"}
NO_ZERO = {"avi", "flv", "mpeg", "mpegts"}
"""Containers whose times start anywhere, or later by what the codec looks ahead."""


class VideoError(ValueError):
    """A problem with a video file, told in one sentence that names the file."""


def pictures(path: PathLike, warnings: list[str], start: float = 0.0) -> Iterator[tuple[float, Picture]]:
    """Yield (seconds, grey picture) of a video file in order; at the end, say what could not be read.

    Those before ``start`` (seconds) may be left out, where the container knows how to go there.

    Raises:
        VideoError: as :func:`~pyrodvae.video.read_video`.
    """
    with _opened(path) as container:
        stream = next((s for s in container.streams.video if not _is_cover(s)), None)
        if stream is None:
            what = "sound only" if container.streams.audio else "no video"
            raise VideoError(f"{path} holds {what}: it has no stream of pictures.")
        stream.thread_type = "AUTO"
        zero, rate = _zero(container), float(stream.average_rate or 25)
        count, damaged, first, time = 0, 0, 0.0, 0.0
        if start > 0 and zero is not None and not NO_ZERO & set(container.format.name.split(",")):
            container.seek(round((start + zero) * 1e6), backward=True)
        for frame in _decoded(container, stream):
            if frame is None:
                damaged += 1
                continue
            stamp = frame.dts if frame.pts is None else frame.pts
            time = count / rate if stamp is None else float(stamp * frame.time_base)
            zero = time if zero is None else zero
            time -= zero
            first = time if count == 0 else first
            count += 1
            turned = np.rot90(frame.to_ndarray(format="gray"), round(frame.rotation / 90))
            yield time, turned
        if zero is None or not count:
            raise VideoError(f"{path} has no picture that can be decoded.")
        if damaged:
            warnings.append(f"{path} is damaged: {damaged} of its parts cannot be decoded and are missing.")
        period = (time - first) / (count - 1) if count > 1 else 1 / rate
        if (promised := _end(container, stream, zero)) > time + 2 * period + SLACK:
            warnings.append(f"{path} ends early: its header promises pictures up to {promised:.2f} s.")


@contextmanager
def _opened(path: PathLike) -> Iterator[Any]:
    av, path = _library(), Path(path)
    if not path.exists():
        raise VideoError(f"{path} does not exist.")
    if path.is_dir():
        raise VideoError(f"{path} is a directory, not a video file.")
    if path.stat().st_size == 0:
        raise VideoError(f"{path} is empty (0 bytes).")
    try:
        with av.open(str(path)) as container:
            if container.format.name == "tty":  # FFmpeg would draw any text as pictures
                raise VideoError(f"{path} is text, not a video.")
            yield container
    except (av.FFmpegError, OSError) as error:
        why = getattr(error, "strerror", None) or str(error)
        raise VideoError(f"{path} cannot be read as video: {why[:1].lower() + why[1:]}.") from error


def _library() -> Any:
    try:
        import av
    except ImportError as error:
        raise VideoError('Video needs PyAV: pip install "pyrodvae[video]".') from error
    return av


def _is_cover(stream: Any) -> bool:
    """Whether it is the picture on a record's cover, and no film."""
    return bool(stream.disposition & _library().stream.Disposition.attached_pic)


def _zero(container: Any) -> float | None:
    """Where times count from: the first sample, or the file's zero; None for the first picture."""
    sound = next(iter(container.streams.audio), None)
    if sound is not None and sound.start_time is not None:
        return float(sound.start_time * sound.time_base)
    return None if container.format.name in NO_ZERO else 0.0


def _end(container: Any, stream: Any, zero: float) -> float:
    """Second up to which there are pictures by the header, 0 where it does not say."""
    if stream.duration is not None:
        return float(((stream.start_time or 0) + stream.duration) * stream.time_base) - zero
    known = container.duration is not None and not container.streams.audio
    return float(container.duration / 1e6) - zero if known else 0.0


def _decoded(container: Any, stream: Any) -> Iterator[Any]:
    """The frames in order of presentation, and None for each packet that cannot be decoded."""
    av = _library()
    packets = container.demux(stream)
    while True:
        try:
            packet = next(packets, None)
        except av.FFmpegError:  # the container itself breaks off
            yield None
            return
        if packet is None:
            return
        try:
            frames = packet.decode()
        except av.FFmpegError:
            yield None
            continue
        yield from (None if frame.is_corrupt else frame for frame in frames)


def write_video(path: PathLike, frames: Tensor, times: Tensor, codec: str = "libx264") -> None:
    """Write grey pictures as a video file, whole or not at all; the extension gives the container.

    Args:
        frames: (N, rows, columns) in [0, 1], both sizes even.
        times: (N,), when each appears (seconds), increasing; they need not be regular.
        codec: a name of FFmpeg's; ``"ffv1"`` (in .mkv) loses nothing.

    Raises:
        VideoError: sizes, times or a name that cannot be written, or PyAV is missing.
        NotWritten: the file cannot be written.
    """
    av, path = _library(), Path(path)
    if frames.dim() != 3 or len(frames) != len(times) or any(n % 2 for n in frames.shape[1:]):
        raise VideoError(f"{path} cannot be written: pictures (N, even, even) and N times are needed.")
    if bool((times.diff() <= 0).any()) or not len(times):
        raise VideoError(f"{path} cannot be written: the times of its pictures have to increase.")
    if path.suffix.lower() not in FORMATS:
        raise VideoError(f"{path} cannot be written: its name has to end in {', '.join(FORMATS)}.")
    stay = round(TICKS * float(times.diff().median() if len(times) > 1 else 1 / 25))
    grey = (frames * 255).round().clamp(0, 255).byte().cpu().numpy()
    unfinished = temporary(path)
    with telling(path):
        try:
            with av.open(str(unfinished), "w", format=FORMATS[path.suffix.lower()]) as container:
                stream = container.add_stream(codec, rate=Fraction(TICKS, stay))
                stream.height, stream.width = frames.shape[1:]
                stream.pix_fmt = "gray" if codec == "ffv1" else "yuv420p"
                stream.codec_context.time_base = Fraction(1, TICKS)
                for picture, time in zip(grey, times.tolist(), strict=True):
                    frame = av.VideoFrame.from_ndarray(picture, format="gray")
                    frame.pts, frame.time_base = round(time * TICKS), Fraction(1, TICKS)
                    _mux(container, stream.encode(frame), stay)
                _mux(container, stream.encode(), stay)
            os.replace(unfinished, path)
        finally:
            unfinished.unlink(missing_ok=True)


def _mux(container: Any, packets: Any, stay: int) -> None:
    for packet in packets:
        packet.duration = stay  # or the last picture would go at once
        container.mux(packet)
