"""Pictures for pages: SVG whose colours are the page's own, so that they fit light and dark screens."""

from __future__ import annotations

import base64
import io
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import adaptive_avg_pool2d

from pyrodvae.report.page import Attributes, Html, element

WIDTH, HEIGHT, TOP, BELOW = 400, 210, 10, 38
"""Of a picture, in units of which a letter is 12 high: readable where 400 pixels are all there is."""
COLOURS = 7
"""As many as lines and dots have in the page's style: Okabe and Ito's, which colour-blind people can tell."""
MOST_POINTS, MOST_COLUMNS, MOST_ROWS, MOST_CELLS = 400, 640, 257, 8192


@dataclass(frozen=True)
class Axis:
    """What is measured along a side of a picture.

    Args:
        label: with its unit.
        low, high: its ends; on a logarithmic axis they are positive.
        log: a logarithmic one.
        whole: only whole numbers are marked.
    """

    label: str
    low: float
    high: float
    log: bool = False
    whole: bool = False

    @classmethod
    def around(cls, label: str, values: Iterable[float], *, log: bool = False, margin: float = 0.08) -> Axis:
        """One that holds all values that are finite, with a margin."""
        finite = [v for v in values if math.isfinite(v) and (v > 0 or not log)] or [1.0]
        low, high = min(finite), max(finite)
        if log:
            wide = max((high / low) ** margin, 1.6)
            return cls(label, low / wide, high * wide, log=True)
        wide = margin * (high - low) or 0.05 * abs(high) or 1.0
        return cls(label, low - wide, high + wide)

    def share(self, value: float) -> float:
        """Where a value stands: 0 at the low end and 1 at the high one."""
        if self.log:
            return math.log(value / self.low) / math.log(self.high / self.low)
        return (value - self.low) / (self.high - self.low)

    def ticks(self, most: int = 6) -> list[tuple[float, str]]:
        """Round values with their names."""
        if self.log:
            decades = range(math.floor(math.log10(self.low)), math.ceil(math.log10(self.high)) + 1)
            for steps in ((1, 1.5, 2, 3, 4, 5, 6, 7, 8), (1, 2, 3, 5), (1, 2, 5), (1, 3), (1,)):
                found = [s * 10.0**d for d in decades for s in steps if self.low <= s * 10.0**d <= self.high]
                if len(found) <= most:
                    break
            return [(value, f"{value:g}") for value in found[:: -(-len(found) // most) or 1]]
        rough = (self.high - self.low) / most
        power = 10.0 ** math.floor(math.log10(rough))
        step = next(m * power for m in (1, 2, 5, 10) if m * power >= rough * (1 - 1e-9))
        step = max(step, 1.0) if self.whole else step
        digits = max(0, -math.floor(math.log10(step) + 1e-9))
        first, last = math.ceil(self.low / step - 1e-9), math.floor(self.high / step + 1e-9)
        return [(i * step, f"{i * step:.{digits}f}".replace("-", "−")) for i in range(first, last + 1)]


@dataclass(frozen=True)
class Frame:
    """Two axes, and places between them."""

    x: Axis
    y: Axis
    right: float = WIDTH - 8
    height: float = HEIGHT

    @property
    def left(self) -> float:
        """Where the y axis is: its names have room before it."""
        return 27.0 + 7 * max([2, *(len(name) for _, name in self.y.ticks())])

    @property
    def bottom(self) -> float:
        """Where the x axis is."""
        return self.height - BELOW

    def at(self, x: float, y: float) -> tuple[float, float]:
        """The place of a point."""
        across = self.left + self.x.share(x) * (self.right - self.left)
        return round(across, 1), round(self.bottom - self.y.share(y) * (self.bottom - TOP), 1)

    def draw(self, alt: str, *inside: Html, kind: str | None = None) -> Html:
        """The picture: what is inside, and the axes around it."""
        left, w, h = self.left, self.right - self.left, self.bottom - TOP
        border = element("rect", {"class": "border", "x": left, "y": TOP, "width": w, "height": h})
        across = [(*self.at(v, self.y.low), name) for v, name in self.x.ticks()]
        up = [(*self.at(self.x.low, v), name) for v, name in self.y.ticks()]
        names = [
            *(words("x", x, y + 15, name) for x, y, name in across),
            *(words("y", x - 5, y + 4, name) for x, y, name in up),
            words("x", left + w / 2, self.height - 6, self.x.label),
        ]
        turned = {"class": "x", "transform": f"translate(13 {TOP + h / 2}) rotate(-90)"}
        names.append(element("text", turned, self.y.label))
        of_svg = {"viewBox": f"0 0 {WIDTH} {self.height:g}", "role": "img", "aria-label": alt, "class": kind}
        return element("svg", of_svg, *inside, border, *names)


def words(kind: str, x: float, y: float, text: str) -> Html:
    """Text in a picture; ``kind`` says whether it is centred (x), ends (y) or begins (name) there."""
    return element("text", {"class": kind, "x": round(x, 1), "y": round(y, 1)}, text)


def lines(
    x: Axis, label: str, traces: Sequence[Sequence[float]], shaded: tuple[float, float], alt: str
) -> Html:
    """Traces over 0, 1, …, each a line that is broken where it is not finite.

    Args:
        x: their axis.
        label: of the other axis.
        traces: one after the other in the page's colours.
        shaded: from where to where the ground is grey.
        alt: what is said of the picture to those who do not see it.
    """
    frame = Frame(x, Axis.around(label, (v for trace in traces for v in trace)))
    (left, top), (right, _) = (frame.at(i, frame.y.high) for i in shaded)
    size = {"width": round(right - left, 1), "height": frame.bottom - top}
    ground = element("rect", {"class": "shaded", "x": left, "y": top, **size})
    drawn = [
        element("path", {"class": f"line c{k % COLOURS}", "d": _path(frame, trace)})
        for k, trace in enumerate(traces)
    ]
    return frame.draw(alt, ground, *drawn)


def _path(frame: Frame, trace: Sequence[float]) -> str:
    step = -(-len(trace) // MOST_POINTS)
    kept = sorted({*range(0, len(trace), step), len(trace) - 1})
    found, under_way = [], False
    for i in kept:
        if math.isfinite(trace[i]):
            x, y = frame.at(i, trace[i])
            # A line of no length, under a round cap, is a dot: a value alone is seen, too.
            found.append(f"L{x} {y}" if under_way else f"M{x} {y}h0")
        under_way = math.isfinite(trace[i])
    return "".join(found)


class Dot(NamedTuple):
    """A named point with the standard error of its y; NaN for none."""

    name: str
    x: float
    y: float
    error: float


def dots(x: Axis, label: str, points: Sequence[Dot], alt: str) -> Html:
    """Points with their names, and with bars of one standard error up and down."""
    bars = [0.0 if math.isnan(point.error) else point.error for point in points]
    ends = [point.y + sign * bar for point, bar in zip(points, bars, strict=True) for sign in (-1, 1)]
    frame = Frame(x, Axis.around(label, ends, margin=0.15), height=260)
    centres = [frame.at(point.x, point.y) for point in points]
    drawn, names = [], []
    in_the_way, taken = list[Box](), [Box(px - 5, py - 5, px + 5, py + 5) for px, py in centres]
    for k, (point, bar, (px, _)) in enumerate(zip(points, bars, centres, strict=True)):
        high, low = (frame.at(point.x, point.y + sign * bar)[1] for sign in (1, -1))
        line = f"M{px} {low}V{high}M{px - 4} {low}h8M{px - 4} {high}h8"
        drawn.append(element("path", {"class": f"line c{k % COLOURS}", "d": line}))
        in_the_way.append(Box(px - 5, high - 2, px + 5, low + 2))
    for k, (point, (px, py)) in enumerate(zip(points, centres, strict=True)):
        boxes = [Box.beside(px, py + up, 7.6 * len(point.name), side) for up in SHIFTS for side in (1, -1)]
        taken.append(box := min(boxes, key=lambda box: box.cost(frame, taken, in_the_way)))
        kind, at = ("name", px + 9) if box.left > px else ("y", px - 9)
        names.append(words(f"{kind} c{k % COLOURS}", at, box.low - 3, point.name))
        names.append(element("circle", {"class": f"dot c{k % COLOURS}", "cx": px, "cy": py, "r": 4}))
    return frame.draw(alt, *drawn, *names)


SHIFTS = (0, -13, 13, -26, 26, -39, 39, -52, 52)
"""By which a name may be moved up or down to keep clear of others."""


class Box(NamedTuple):
    """Where something is in a picture; ``low`` is further down, a larger number."""

    left: float
    high: float
    right: float
    low: float

    @classmethod
    def beside(cls, x: float, y: float, width: float, side: int) -> Box:
        """Of a name, to the right of a dot (1) or to the left of it (-1)."""
        left = x + 9 if side > 0 else x - 9 - width
        return cls(left, y - 7, left + width, y + 7)

    def meets(self, other: Box) -> bool:
        """Whether they share a place."""
        apart = self.right <= other.left or other.right <= self.left
        return not (apart or self.low <= other.high or other.low <= self.high)

    def cost(self, frame: Frame, taken: Sequence[Box], in_the_way: Sequence[Box]) -> int:
        """How bad a place it is: beyond the axes, upon what is taken, or just upon what is in the way."""
        across = frame.left <= self.left and self.right <= frame.right
        inside = across and self.high >= TOP and self.low <= frame.bottom
        return 100 * (not inside) + 10 * sum(map(self.meets, taken)) + sum(map(self.meets, in_the_way))


def heat(
    x: Axis,
    y: Axis,
    decibel: Tensor,
    key: Axis,
    alt: str,
    *,
    colours: str = "viridis",
    plays: bool = False,
) -> Html:
    """A matrix (rows upwards, columns) as colours, and beside it their key.

    Args:
        x, y: the axes.
        decibel: what is shown.
        key: from the first to the last colour.
        alt: what is said of the picture to those who do not see it.
        colours: matplotlib's name for a row of them that grows evenly from dark to light.
        plays: whether a line shows how far the sound is that plays.
    """
    frame = Frame(x, y, right=342)
    left, h = frame.left, frame.bottom - TOP
    beside = replace(frame, x=Axis("", 0, 1), y=key)
    ramp = torch.linspace(key.low, key.high, 64)[:, None]
    drawn = [
        _image(decibel, key, colours, {"x": left, "y": TOP, "width": frame.right - left, "height": h}),
        _image(ramp, key, colours, {"x": frame.right + 8, "y": TOP, "width": 9, "height": h}),
        *(words("name", frame.right + 20, beside.at(0, v)[1] + 4, name) for v, name in key.ticks(5)),
        words("name", frame.right + 20, frame.bottom + 15, key.label),
    ]
    if plays:
        ends = {"x1": left, "x2": left, "y1": TOP, "y2": frame.bottom}
        drawn.append(element("line", {"class": "now", **ends, "style": f"--width: {frame.right - left}px"}))
    return frame.draw(alt, *drawn, kind="plays" if plays else None)


def _image(values: Tensor, key: Axis, colours: str, place: Attributes) -> Html:
    """Values as an image, in a place of a picture; a small one has sharp cells."""
    import matplotlib
    from matplotlib.image import imsave

    shares = ((values - key.low) / (key.high - key.low)).clamp(0, 1).flip(0).numpy()
    small = values.numel() <= MOST_CELLS
    out = io.BytesIO()
    options = {"lossless": True} if small else {"quality": 80}
    imsave(out, matplotlib.colormaps[colours](shares), format="webp", pil_kwargs=options)
    address = f"data:image/webp;base64,{base64.b64encode(out.getvalue()).decode()}"
    more = {"class": "cells" if small else None, "preserveAspectRatio": "none", "href": address}
    return element("image", {**place, **more})


def decibel(power: Tensor) -> Tensor:
    """10 log10 of a power (rows, columns), at least -120 dB; of a large one, of neighbours' mean."""
    size = min(power.shape[0], MOST_ROWS), min(power.shape[1], MOST_COLUMNS)
    return 10 * adaptive_avg_pool2d(power[None], size)[0].clamp(min=1e-12).log10()


def span(values: Tensor, most: float) -> Axis:
    """The key for values in dB: up to their maximum, from where nearly all are above it, within a limit."""
    top = float(values.max())
    return Axis("dB", max(top - most, min(float(values.quantile(0.02)), top - 10)), top)
