"""The colours of pictures, as they are seen by those who lack a kind of cone."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest

from pyrodvae.palette import PALETTE, coloured
from pyrodvae.plots import new_figure

# From linear RGB to linear RGB, as a protanope and a deuteranope see it.
# Source: Machado, Oliveira & Fernandes, *IEEE TVCG* 15 (2009), severity 1.
SEEN = {
    "protanope": [
        [0.152286, 1.052583, -0.204868],
        [0.114503, 0.786281, 0.099216],
        [-0.003882, -0.048116, 1.051998],
    ],
    "deuteranope": [
        [0.367322, 0.860646, -0.227968],
        [0.280085, 0.672501, 0.047413],
        [-0.011820, 0.042940, 0.968881],
    ],
}
# From linear RGB to CIE XYZ, relative to the white D65.
XYZ = np.array([[0.4339, 0.3762, 0.1899], [0.2126, 0.7152, 0.0722], [0.0178, 0.1094, 0.8729]])
LAB = np.array([[0, 116, 0], [500, -500, 0], [0, 200, -200]])


def lab(colour: str, matrix: object) -> np.ndarray:
    """CIE Lab of a colour "#rrggbb" behind a matrix on linear RGB: distances are those that one sees."""
    v = np.array([int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)])
    linear = np.where(v <= 0.04045, v / 12.92, ((v + 0.055) / 1.055) ** 2.4)
    return LAB @ np.cbrt(XYZ @ np.clip(np.asarray(matrix) @ linear, 0, 1))


def nearest(colours: tuple[str, ...], matrix: object) -> float:
    """The distance of the two colours that are most alike."""
    return min(np.linalg.norm(lab(a, matrix) - lab(b, matrix)) for a, b in combinations(colours, 2))


@pytest.mark.parametrize("eye", SEEN)
def test_colours_are_told_apart(eye: str) -> None:
    assert nearest(PALETTE, SEEN[eye]) > 10


@pytest.mark.parametrize("eye", SEEN)
def test_the_usual_ones_are_not(eye: str) -> None:
    """The control: matplotlib's own; they are far apart to the others."""
    usual = ("#1f77b4", "#ff7f0e", "#2ca02c", "#d62728", "#9467bd", "#8c564b")
    assert nearest(usual, SEEN[eye]) < 10
    assert nearest(usual, np.eye(3)) > 10


def test_no_two_lines_look_alike() -> None:
    axis = coloured(new_figure(3, 2).subplots())
    lines = [axis.plot([0, 1])[0] for _ in range(3 * len(PALETTE))]
    assert len({(line.get_color(), line.get_linestyle()) for line in lines}) == len(lines)
    assert lines[0].get_color() == PALETTE[0]
