"""Where the lips are in a picture: a given box, or one found below the eyes of a face, steady over time."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pyrodvae.video_file import Picture, VideoError

Region = tuple[float, float, float, float]
"""x, y of the upper left corner, width and height, as shares of the picture's width and height."""

MOUTH = (0.5, 0.8, 0.55)
"""Centre (x, y) and side of the lip region, as shares of the box of a face."""
HEIGHT = 180
"""Rows of the picture that is searched; faces down to a sixth of it are found."""
STEADY = 0.4
"""Seconds over which the boxes are smoothed."""


def check_region(region: Region) -> None:
    """Raise ValueError unless the region has an area and lies within the picture."""
    x, y, width, height = region
    inside = min(x, y) >= 0 and max(x + width, y + height) <= 1 + 1e-9
    if not (inside and min(width, height) > 0):
        raise ValueError(
            f"A lip region is (x, y, width, height) as shares of the picture, inside it: got {region}."
        )


def crop(picture: Picture, region: Region, side: int) -> Tensor:
    """The region as a square picture (side, side) of float32 in [0, 1]: each pixel the mean of an area.

    A region that is not square is squeezed; where it leaves the picture, the picture's edge is repeated.
    """
    rows, columns = picture.shape
    x, y, width, height = region
    left, right = round(x * columns), max(round((x + width) * columns), round(x * columns) + 1)
    top, bottom = round(y * rows), max(round((y + height) * rows), round(y * rows) + 1)
    if min(left, top) < 0 or right > columns or bottom > rows:
        down, across = np.arange(top, bottom).clip(0, rows - 1), np.arange(left, right).clip(0, columns - 1)
        part = picture[np.ix_(down, across)]
    else:
        part = picture[top:bottom, left:right]
    grey = torch.from_numpy(np.ascontiguousarray(part)).float()[None, None] / 255
    return torch.nn.functional.interpolate(grey, (side, side), mode="area")[0, 0]


def find_faces(pictures: Iterable[Picture]) -> Tensor:
    """The largest face of each picture: x, y, width, height as shares of the picture (N, 4), NaN for none.

    The detector is scikit-image's cascade of local binary patterns (L. Zhang et al., *Face detection
    based on Multi-Block LBP representation*, 2007) with the frontal-face cascade inside its wheel: it
    needs no network, and some hundredths of a second a picture. MediaPipe and OpenCV 5 ship no model of a
    face in their wheels; OpenCV 4 does (Haar cascades), is about five times as large to install, and
    found the same boxes where both were tried. Only upright faces seen from the front are found: heads
    tilted by ten degrees still, by fifteen no more.

    Raises:
        VideoError: scikit-image is not installed.
    """
    try:
        from skimage.data import lbp_frontal_face_cascade_filename
        from skimage.feature import Cascade
    except ImportError as error:
        raise VideoError('Finding faces needs scikit-image: pip install "pyrodvae[video]".') from error

    detector = Cascade(lbp_frontal_face_cascade_filename())
    return torch.tensor([_largest(detector, picture) for picture in pictures], dtype=torch.double).view(-1, 4)


def _largest(detector: Any, picture: Picture) -> list[float]:
    size = (HEIGHT, max(1, round(HEIGHT * picture.shape[1] / picture.shape[0])))
    grey = torch.from_numpy(np.ascontiguousarray(picture)).double()[None, None] / 255
    small = torch.nn.functional.interpolate(grey, size, mode="area")[0, 0].numpy()
    smallest = (HEIGHT // 6, HEIGHT // 6)
    boxes = detector.detect_multi_scale(small, 1.2, 1, smallest, (min(size), min(size)))
    if not boxes:
        return [math.nan] * 4
    box = max(boxes, key=lambda b: b["width"])
    height, width = size
    return [box["c"] / width, box["r"] / height, box["width"] / width, box["height"] / height]


def lip_regions(faces: Tensor, rate: float) -> Tensor:
    """From boxes of faces (N, 4) to steady boxes of lips (N, 4); no face, no lips: NaN.

    The box is that of :data:`MOUTH`, after a running median, which drops single wrong boxes, and a
    running mean, both over :data:`STEADY` seconds: a mouth that opens must not move its own frame.

    Args:
        faces: as :func:`find_faces` gives them.
        rate: pictures per second.
    """
    half = max(1, round(STEADY * rate / 2))
    steady = _window(faces, half).nanmedian(-1).values
    steady = _window(steady, half).nanmean(-1)
    x, y, width, height = steady.unbind(-1)
    centre_x, centre_y, side = MOUTH
    lips = [
        x + (centre_x - side / 2) * width,
        y + (centre_y - side / 2) * height,
        side * width,
        side * height,
    ]
    return torch.stack(lips, -1).masked_fill(faces.isnan(), math.nan)


def _window(boxes: Tensor, half: int) -> Tensor:
    """Each row with its neighbours: (N, 4) → (N, 4, 2 half + 1), NaN beyond the ends."""
    edge = boxes.new_full((half, 4), math.nan)
    return torch.cat([edge, boxes, edge]).unfold(0, 2 * half + 1, 1)
