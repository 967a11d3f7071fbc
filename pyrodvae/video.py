"""Video files in: grey pictures with their times, and which of them is on screen at each frame of an STFT."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from pyrodvae.audio import PathLike
from pyrodvae.lip_region import Region, check_region, crop, find_faces, lip_regions
from pyrodvae.signal import STFT
from pyrodvae.video_file import SLACK, Picture, VideoError, pictures

SIDE = 32
"""Rows and columns of a picture unless said otherwise: V = 1024 (67 in the sources: V = 4489)."""
WHOLE: Region = (0.0, 0.0, 1.0, 1.0)
STAY = 1.5
"""Periods that a picture stays on screen where no other follows."""
MISMATCH = 0.1
"""Seconds by which the ends of audio and video may differ without a word."""
LEAD = 1.0
"""Seconds before an excerpt of which pictures are read: the last may still be on screen when it starts."""


@dataclass(frozen=True)
class Video:
    """Pictures and their times.

    Args:
        frames: (N, side, side) float32, grey in [0, 1]; NaN where no face was found.
        times: (N,) float64, when each appears (seconds), not decreasing.
        rate: pictures per second: one over the median distance of the times.
        name: what warnings call it.
        warnings: a sentence for each thing that is wrong and could be lived with.
    """

    frames: Tensor
    times: Tensor
    rate: float
    name: str = "The video"
    warnings: tuple[str, ...] = ()

    @property
    def end(self) -> float:
        """When the last picture goes (seconds)."""
        return float(self.times[-1]) + 1 / self.rate


def read_video(
    path: PathLike,
    side: int = SIDE,
    region: Region | Literal["face"] | None = None,
    span: tuple[float, float] | None = None,
) -> Video:
    """Read a video file of lips, or of a face, as small grey pictures.

    Times are those the file gives to its pictures, whatever its rate says, so a rate that varies and
    pictures that were dropped come out right. Zero is the first sample of the sound in the same file
    where there is one; else the file's own zero (in MPEG streams, AVI and FLV: the first picture).

    Args:
        path: any format of FFmpeg.
        side: rows and columns of the pictures; other shapes are squeezed into a square.
        region: None takes whole pictures (they show lips); a box is cut from each; ``"face"`` cuts
            the lips of the largest face (:func:`~pyrodvae.lip_region.find_faces`), and a picture
            without a face is NaN.
        span: from which second to which, not counting the latter; times count from the former, so pictures
            still on screen then have negative ones. Where there is none at all, one is missing (NaN).

    Raises:
        VideoError: the file is missing, no video, without a picture, or its times go backwards; or PyAV
            (or for ``"face"`` scikit-image) is not installed.
        ValueError: no such side or region.

    What can be read of a damaged file is returned; the rest is missing, and ``warnings`` tell it.
    """
    if side < 1:
        raise ValueError(f"Pictures need at least one row, not side={side}.")
    if region is not None and region != "face":
        check_region(region)
    warnings: list[str] = []
    none = torch.full((side, side), math.nan)
    times = torch.zeros(0, dtype=torch.double)
    if region == "face":
        times = torch.tensor([time for time, _ in _excerpt(path, [], span)], dtype=torch.double)
    if region == "face" and len(times):
        faces = find_faces(picture for _, picture in _excerpt(path, [], span))
        boxes = lip_regions(faces, _rate(times)).tolist()
        if (lost := int(faces[:, 0].isnan().sum())) > len(faces) / 2:
            warnings.append(f"{path} shows no face in {lost} of its {len(faces)} pictures: no lips there.")
        film = zip(_excerpt(path, warnings, span), boxes, strict=True)
        parts = [
            (time, none if math.isnan(lips[0]) else crop(picture, tuple(lips), side))
            for (time, picture), lips in film
        ]
    else:
        box = WHOLE if region is None or region == "face" else region
        parts = [(time, crop(picture, box, side)) for time, picture in _excerpt(path, warnings, span)]
    parts = parts or [(0.0, none)]
    times = torch.tensor([time for time, _ in parts], dtype=torch.double)
    if bool((back := times.diff() < 0).any()):
        raise VideoError(f"{path} has times that go backwards after picture {int(back.nonzero()[0, 0]) + 1}.")
    return Video(torch.stack([part for _, part in parts]), times, _rate(times), str(path), tuple(warnings))


def _excerpt(
    path: PathLike, warnings: list[str], span: tuple[float, float] | None
) -> Iterator[tuple[float, Picture]]:
    if span is None:
        yield from pictures(path, warnings)
        return
    start, end = span
    for time, picture in pictures(path, warnings, start - LEAD):
        if time >= end:
            return
        if time >= start - LEAD:
            yield time - start, picture


def _rate(times: Tensor) -> float:
    steps = times.diff()
    steps = steps[steps > 0]
    return 1 / float(steps.median()) if len(steps) else 25.0


def shown(times: Tensor, rate: float, centres: Tensor) -> Tensor:
    r"""Which picture is on screen: the last one that has appeared, unless that was too long ago.

    .. math:: n(t) = \max \{ n : τ_n \le t \} \text{ if } t - τ_n < 1.5 / \text{rate, else } -1

    Published audio-visual work takes the picture of index ``floor(t N / T)`` instead, which stretches
    the video to the length of the audio: equal to this where both last equally long and no picture is
    missing, and a growing shift where not.

    Args:
        times: τ (N,), seconds. centres: t (T,), seconds.

    Returns:
        (T,) integers, -1 for none.
    """
    n = torch.searchsorted(times, centres + SLACK, right=True) - 1
    age = centres - times[n.clamp(min=0)]
    return torch.where((n >= 0) & (age < STAY / rate - SLACK), n, -1)


def on_grid(video: Video, stft: STFT, length: int) -> tuple[Tensor, tuple[str, ...]]:
    """Index of the picture for each STFT frame (T,), -1 where there is none, and warnings.

    Args:
        length: samples of the waveform, at the STFT's rate; T = ``stft.frames(length)``.
    """
    centres = torch.arange(stft.frames(length), dtype=torch.double) / stft.frame_rate
    n = shown(video.times, video.rate, centres)
    missing = video.frames.flatten(1).isnan().any(-1)
    n = torch.where((n >= 0) & ~missing[n.clamp(min=0)], n, -1)
    return n, _mismatch(video, n, centres, length / stft.sample_rate)


def _mismatch(video: Video, n: Tensor, centres: Tensor, seconds: float) -> tuple[str, ...]:
    told = []
    start, end = float(video.times[0]), video.end
    if start > MISMATCH:
        told.append(f"{video.name} starts {start:.2f} s after the audio: no lips before.")
    doubt = f"(are its {video.rate:.4g} pictures per second right?)"
    if end < seconds - MISMATCH:
        told.append(
            f"{video.name} ends {seconds - end:.2f} s before the audio: no lips from then on {doubt}."
        )
    if end > seconds + MISMATCH:
        told.append(f"{video.name} goes on for {end - seconds:.2f} s after the audio: left out {doubt}.")
    gaps = int(((n < 0) & (centres >= start) & (centres < end)).sum())
    if gaps:
        told.append(f"{video.name} has gaps: {gaps} of {len(n)} frames of the audio have no picture.")
    return tuple(told)


def align(video: Video, stft: STFT, length: int) -> tuple[Tensor, tuple[str, ...]]:
    """A picture for every frame of the audio, and a sentence for each thing that does not fit.

    STFT frame t is centred on second ``t hop / sample_rate`` and gets the picture on screen then (see
    :func:`shown`). Nothing is stretched or shifted: what the video has beyond the audio is cut, and a
    frame of the audio before, after or in a gap of the video is NaN.

    Args:
        video: N pictures of side × side.
        stft: the transform of the audio.
        length: samples of the waveform, at the STFT's rate.

    Returns:
        v (T, V) float32 with V = side² and T = ``stft.frames(length)``, in [0, 1] or NaN; and the
        warnings, without those of ``video`` itself.
    """
    n, told = on_grid(video, stft, length)
    v = video.frames.flatten(1)[n.clamp(min=0)]
    return v.masked_fill((n < 0)[:, None], math.nan), told
