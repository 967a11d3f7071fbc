"""The video that belongs to a recording, as a model reads it."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from pyrodvae.lips import check_video
from pyrodvae.video import align, read_video
from pyrodvae.weights import Run


@dataclass(frozen=True)
class Excerpt:
    """A stretch of a video file, from one second to another, that belongs to a stretch of its sound."""

    path: Path
    start: float
    end: float = math.inf

    def __str__(self) -> str:
        return str(self.path)


def video_for(
    run: Run,
    video: str | Path | Excerpt | npt.ArrayLike | None,
    frames: int,
    samples: int,
    face: bool = False,
) -> tuple[Tensor | None, tuple[str, ...]]:
    """The video v (T, V) beside a spectrogram of so many frames and samples; and what to tell of it.

    Raises:
        VideoError: it cannot be used.
        ValueError: the model is given video and there is none, or the other way round.
    """
    size, name = run.model.video, run.card["model"]
    if size == 0 and video is not None:
        raise ValueError(f"The model '{name}' does not look at video: leave it out, or take an av- model.")
    if size == 0 or video is None:
        if size:
            raise ValueError(f"The model '{name}' is given video of the lips: name a file with --video.")
        return None, ()
    if not isinstance(video, str | Path | Excerpt):
        v = torch.as_tensor(np.asarray(video), dtype=torch.float32)
        check_video(v[None], size, 1, frames)
        return v.to(run.model.z_0), ()
    side = math.isqrt(size)
    if side * side != size:
        raise ValueError(f"'{name}' reads {size} features of each picture, not pictures: give v (T, {size}).")
    path, span = (video.path, (video.start, video.end)) if isinstance(video, Excerpt) else (video, None)
    film = read_video(path, side, "face" if face else None, span)
    v, told = align(film, run.stft, samples)
    return v.to(run.model.z_0), (*film.warnings, *told)
