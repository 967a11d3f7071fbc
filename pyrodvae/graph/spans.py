"""Frames relative to t: from sets of offsets to intervals, and how they are written."""

from __future__ import annotations

from collections.abc import Mapping, Set
from dataclasses import dataclass


@dataclass(frozen=True)
class Span:
    """The frames t + first … t + last, as far as there are such; None for no bound."""

    first: int | None
    last: int | None

    def text(self, name: str) -> str:
        """As in ``z_{<t}``, ``z_{t-1}``, ``x_{t:T}``."""
        first, last = self.first, self.last
        if first is None and last is None:
            return f"{name}_{{1:T}}"
        if first is None:
            assert last is not None
            return f"{name}_{{<{_at(last + 1)}}}" if last < 0 else f"{name}_{{1:{_at(last)}}}"
        if last is None:
            return f"{name}_{{>{_at(first - 1)}}}" if first > 0 else f"{name}_{{{_at(first)}:T}}"
        if first == last:
            return f"{name}_t" if first == 0 else f"{name}_{{{_at(first)}}}"
        return f"{name}_{{{_at(first)}:{_at(last)}}}"

    def python(self, name: str) -> str:
        """A slice of a sequence whose first frame has the index 0."""
        first = "" if self.first is None else _index(self.first)
        last = "" if self.last is None else _index(self.last + 1)
        return f"{name}[{first}:{last}]"


def spans(offsets: Mapping[int, Set[int]], frames: int) -> tuple[Span, ...] | None:
    """The intervals that describe the same frames relative to t, for every t.

    Args:
        offsets: t → offsets s − t of the frames s that are meant.
        frames: T; an interval that goes as far as T frames allow is taken to go on.

    Returns:
        The intervals in order; None if no such description holds for all t.
    """
    here = {t: {s - t for s in range(frames)} for t in offsets}
    meant = set[int]().union(*offsets.values())
    if any(offsets[t] != meant & here[t] for t in offsets):
        return None
    ordered = sorted(meant)
    starts = [o for o in ordered if o - 1 not in meant]
    ends = [o for o in ordered if o + 1 not in meant]
    most = set[int]().union(*here.values())
    return tuple(
        Span(None if first == min(most) else first, None if last == max(most) else last)
        for first, last in zip(starts, ends, strict=True)
    )


def series(names: tuple[str, ...]) -> dict[str, tuple[str, ...]]:
    """``z_0, z_1, z_2, …`` by their name z: those of frames 0 … T − 1, T the most there are and ≥ 3."""
    found: dict[str, dict[int, str]] = {}
    for name in names:
        stem, underscore, number = name.rpartition("_")
        if underscore and number.isdecimal() and str(int(number)) == number:
            found.setdefault(stem, {})[int(number)] = name
    frames = max((len(at) for at in found.values()), default=0)
    return {
        stem: tuple(at[t] for t in range(frames))
        for stem, at in found.items()
        if frames >= 3 and at.keys() == set(range(frames)) and stem not in names
    }


def _at(offset: int) -> str:
    return f"t{offset:+d}" if offset else "t"


def _index(offset: int) -> str:
    if offset < 0:
        return f"max(0, t - {-offset})"
    return f"t + {offset}" if offset else "t"
