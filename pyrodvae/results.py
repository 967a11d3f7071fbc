"""Results: what was measured, as rows, and what they say in tables."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from statistics import fmean, stdev

Row = dict[str, str]
RunKey = tuple[str, str, str]  # file, seed and ratio: what tells the runs of one system apart
Scores = dict[RunKey, float]


@dataclass(frozen=True)
class Cost:
    """What a system gains, and what it takes.

    Args:
        system: its name.
        gain: mean improvement of a metric over recordings; NaN if no run could be scored.
        error: standard error of it; NaN for a single recording.
        worst: the least improvement of all runs.
        seconds: of computing per second of sound.
    """

    system: str
    gain: float
    error: float
    worst: float
    seconds: float


@dataclass
class Results:
    """What was measured, and what could not be.

    Args:
        metrics: names.
        rows: one for each system, recording and seed; numbers as text, as in the CSV file.
        failed: (file, reason) of each recording that could not be used.
    """

    metrics: tuple[str, ...]
    rows: list[Row] = field(default_factory=list)
    failed: list[tuple[str, str]] = field(default_factory=list)

    def table(self) -> str:
        """Mean ± standard error over recordings of input, output and improvement, as text.

        The runs of one recording (seeds, and ratios in the lines "all") are averaged first; the
        recordings of one speaker count as independent. Runs with a score that is NaN or infinite are
        left out of the means, and counted with their reasons below. The worst run is the one that
        improved least. Where there are several systems, a last table sets what each gains in the first
        metric against its time.
        """
        text = aligned(self.summary())
        missing = Counter(why for row in self.rows for why in row["reasons"].split(" | ") if why)
        notes = [f"not in the means, {count} times: {why}" for why, count in missing.items()]
        costs = self.costs()
        if len(costs) == 1:
            one = f"{costs[0].system}: {costs[0].seconds:.3f} seconds per second of sound"
            return "\n".join([*text, one, *notes])
        name = self.metrics[0]
        against = [("system", f"{name} improvement", "worst", "seconds per second of sound")]
        for c in costs:
            gain = _number(c.gain, name, "+") + _error(c.error, name)
            against.append((c.system, gain, _number(c.worst, name, "+"), f"{c.seconds:.3f}"))
        return "\n".join([*text, *notes, "", *aligned(against)])

    def summary(self) -> list[tuple[str, ...]]:
        """The first table: a heading, and a line for each system, ratio and metric."""
        head = ("system", "snr", "metric", "files", "input", "output", "improvement", "worst")
        lines: list[tuple[str, ...]] = [head]
        snrs = sorted({row["snr"] for row in self.rows}, key=lambda snr: float(snr or 0))
        for system in self.systems:
            for snr in [*snrs, *(["all"] if len(snrs) > 1 else [])]:
                rows = [r for r in self._of(system) if snr in (r["snr"], "all")]
                lines += [(system, snr, name, *_summary(rows, name)) for name in self.metrics if rows]
        return lines

    def costs(self, name: str | None = None) -> list[Cost]:
        """What each system gains in a metric (the first), and its time, over all ratios."""
        found = []
        for system in self.systems:
            rows = self._of(system)
            _, _, gains = _runs(rows, name or self.metrics[0])
            seconds = fmean(float(row["rtf"]) for row in rows)
            found.append(Cost(system, *_mean(gains), min(gains.values(), default=math.nan), seconds))
        return found

    @property
    def systems(self) -> list[str]:
        """Their names, as they came."""
        return list(dict.fromkeys(row["system"] for row in self.rows))

    def _of(self, system: str) -> list[Row]:
        return [row for row in self.rows if row["system"] == system]


def aligned(lines: Sequence[tuple[str, ...]]) -> list[str]:
    """Lines of text whose cells stand in columns."""
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return ["  ".join(map(str.ljust, line, widths)).rstrip() for line in lines]


def _runs(rows: Iterable[Row], name: str) -> tuple[Scores, Scores, Scores]:
    """Input, output and improvement in a metric, of all runs that have them."""
    inputs: Scores = {}
    outputs: Scores = {}
    gains: Scores = {}
    for row in rows:
        run = (row["file"], row["seed"], row["snr"])
        before, after = (float(row[f"{name}_{side}"] or "nan") for side in ("in", "out"))
        if math.isfinite(after - before):  # so that the three columns are of the same runs
            inputs[run], outputs[run], gains[run] = before, after, after - before
        elif math.isnan(before) and not row[f"{name}_in"] and math.isfinite(after):
            outputs[run] = after  # resynthesis has no input
    return inputs, outputs, gains


def _summary(rows: list[Row], name: str) -> tuple[str, str, str, str, str]:
    """Cells of the table: recordings, input, output, improvement, and the worst run."""
    inputs, outputs, gains = _runs(rows, name)
    judged, sign = gains or outputs, "+" if gains else ""
    worst = ""
    if judged:
        run = min(judged, key=lambda r: judged[r])
        worst = f"{_number(judged[run], name, sign)} {run[0]} seed {run[1]}"
    files = f"{len({run[0] for run in outputs})} of {len({row['file'] for row in rows})}"
    cells = [
        _number(mean, name, sign) + _error(error, name)
        for sign, (mean, error) in (("", _mean(inputs)), ("", _mean(outputs)), ("+", _mean(gains)))
    ]
    return files, cells[0], cells[1], cells[2], worst


def _mean(values: Scores) -> tuple[float, float]:
    """Mean and standard error over recordings, the runs of one averaged first; NaN where there is none."""
    groups: dict[str, list[float]] = {}
    for (file, _, _), value in values.items():
        groups.setdefault(file, []).append(value)
    means = [fmean(group) for group in groups.values()]
    error = stdev(means) / math.sqrt(len(means)) if len(means) > 1 else math.nan
    return (fmean(means) if means else math.nan), error


def _number(value: float, name: str, sign: str = "") -> str:
    return "" if math.isnan(value) else f"{value:{sign}.{2 if 'sdr' in name else 3}f}"


def _error(value: float, name: str) -> str:
    text = _number(value, name)
    return text and f" ± {text}"
