"""Measuring: systems on recordings with a clean reference, one row of scores for each run."""

from __future__ import annotations

import csv
import hashlib
import io
import math
import time
import zlib
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from statistics import fmean, stdev

import numpy.typing as npt
from tqdm import tqdm

from pyrodvae.engines import Engine
from pyrodvae.enhance import EnhanceConfig, enhance
from pyrodvae.metrics import METRICS, Measurement, score
from pyrodvae.settings import check_seed, describe
from pyrodvae.synthesis import resynthesize
from pyrodvae.trials import RATE, Array, Trial
from pyrodvae.weights import Run
from pyrodvae.whole import save, telling

Row = dict[str, str]
RunKey = tuple[str, str, str]  # file, seed and ratio: what tells the runs of one system apart

KEY = ("model", "system", "settings", "seed", "file", "noise", "snr", "content")
"""The columns that tell one run from another."""


@dataclass(frozen=True)
class System:
    """What is measured.

    Args:
        model, name, settings: what it is called in the results.
        process: ``(input (N,), seed) -> estimate (N,)`` at :data:`RATE`.
    """

    model: str
    name: str
    settings: str
    process: Callable[[Array, int], npt.ArrayLike]


def enhancer(
    model: str, run: Run, name: str, engine: Engine, config: EnhanceConfig, device: str = "cpu"
) -> System:
    """Enhancement by an engine, as a system; the seed of ``config`` gives way to that of each run."""

    def process(x: Array, seed: int) -> npt.ArrayLike:
        settings = replace(config, seed=seed)
        return enhance(x, sample_rate=RATE, model=run, engine=engine, config=settings, device=device).speech

    return System(
        f"{model}@{fingerprint(run)}", name, f"{describe(engine)} {describe(config, 'seed')}", process
    )


def resynthesizer(model: str, run: Run) -> System:
    """Analysis and resynthesis of clean speech, as a system."""
    return System(
        f"{model}@{fingerprint(run)}", "resynthesis", "", lambda x, seed: resynthesize(x, RATE, run)
    )


def fingerprint(run: Run) -> str:
    """Eight hexadecimal digits that tell these weights from others."""
    digest = hashlib.sha256()
    for module in (run.model, run.guide):
        for name, value in module.state_dict().items():
            digest.update(name.encode())
            digest.update(value.cpu().numpy().tobytes())
    return digest.hexdigest()[:8]


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
        improved least.
        """
        lines = [("system", "snr", "metric", "files", "input", "output", "improvement", "worst")]
        snrs = sorted({row["snr"] for row in self.rows}, key=lambda snr: float(snr or 0))
        systems = list(dict.fromkeys(row["system"] for row in self.rows))
        for system in systems:
            for snr in [*snrs, *(["all"] if len(snrs) > 1 else [])]:
                rows = [r for r in self.rows if r["system"] == system and snr in (r["snr"], "all")]
                lines += [(system, snr, name, *_summary(rows, name)) for name in self.metrics if rows]
        widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
        text = ["  ".join(map(str.ljust, line, widths)).rstrip() for line in lines]
        for system in systems:
            rtf = fmean(float(r["rtf"]) for r in self.rows if r["system"] == system)
            text.append(f"{system}: {rtf:.3f} seconds per second of sound")
        missing = Counter(why for row in self.rows for why in row["reasons"].split(" | ") if why)
        text += [f"not in the means, {count} times: {why}" for why, count in missing.items()]
        return "\n".join(text)


def evaluate(
    systems: Sequence[System],
    trials: Sequence[Trial],
    *,
    seeds: Sequence[int] = (0,),
    metrics: Iterable[str] | None = None,
    out: Path | None = None,
) -> Results:
    """Run every system on every recording with every seed, with a progress bar on stderr.

    Args:
        systems, trials: what, and on what.
        seeds: of the systems.
        metrics: names; all by default.
        out: a CSV file. Each run is added to it as soon as it is done, and runs that it holds already
            are taken from it.

    Raises:
        ValueError: unknown metrics, a seed out of range, or a file with other columns.
        OSError: the file cannot be read or written.
    """
    for seed in seeds:
        check_seed(seed)
    names = tuple(METRICS if metrics is None else metrics)
    score([], [], RATE, names)  # refuses unknown metrics
    scores = [f"{name}_{side}" for name in names for side in ("in", "out")]
    table = Table(out, [*KEY, "seconds", "rtf", *scores, "reasons"])
    results = Results(names)
    runs = [(system, seed) for system in systems for seed in seeds]
    with tqdm(total=len(trials) * len(runs), unit="run") as bar:
        for i, trial in enumerate(trials):
            bar.set_description_str(f"{trial.file} {trial.snr}".strip(), refresh=False)
            try:
                _measure(trial, runs, names, table, results, bar.update)
            except ValueError as error:
                results.failed.append((trial.file, str(error)))
                bar.update((i + 1) * len(runs) - bar.n)
    results.failed = list(dict.fromkeys(results.failed))
    return results


def _measure(
    trial: Trial,
    runs: Sequence[tuple[System, int]],
    metrics: Sequence[str],
    table: Table,
    results: Results,
    each: Callable[[], object],
) -> None:
    """All runs on one recording; its input is scored once, if a run is missing."""
    s, x = trial.load()
    # Of two corpora a name may be the same, and a file may be made anew: the sound itself counts.
    content = f"{zlib.crc32(x.tobytes(), zlib.crc32(s.tobytes())):08x}"
    recording = (trial.file, trial.noise, trial.snr, content)
    keys = [(system.model, system.name, system.settings, str(seed), *recording) for system, seed in runs]
    if any(key not in table.rows for key in keys):
        given = {} if x is s else score(x, s, RATE, metrics)
    for key, (system, seed) in zip(keys, runs, strict=True):
        if key not in table.rows:
            begin = time.perf_counter()
            estimate = system.process(x, seed)
            rtf = (time.perf_counter() - begin) * RATE / len(x)
            cells = _cells(given, score(estimate, s, RATE, metrics))
            numbers = {"seconds": f"{len(x) / RATE:.3f}", "rtf": f"{rtf:.4f}"}
            table.add(dict(zip(KEY, key, strict=True)) | numbers | cells)
        results.rows.append(table.rows[key])
        each()


def _cells(given: dict[str, Measurement], found: dict[str, Measurement]) -> Row:
    cells: Row = {}
    reasons: list[str] = []
    for side, measured in (("in", given), ("out", found)):
        for name, (value, why) in measured.items():
            column = f"{name}_{side}"
            cells[column] = f"{value:.6g}"
            if not math.isfinite(value):
                reasons.append(f"{column}: {why or f'the value is {value}'}")
    return cells | {"reasons": " | ".join(" ".join(r.split()) for r in reasons)}


class Table:
    """Rows in a CSV file that grows by one whole line at a time, or in memory alone.

    A line that an earlier run left unfinished is dropped.

    Args:
        path: the file, or None.
        columns: of the file; :data:`KEY` is among them.

    Raises:
        ValueError: the file has other columns.
        OSError: it cannot be read or written.
    """

    def __init__(self, path: Path | None, columns: list[str]) -> None:
        self.path, self.columns = path, columns
        self.rows: dict[tuple[str, ...], Row] = {}
        if path is None:
            return
        text = path.read_text(encoding="utf-8", errors="replace") if path.exists() else ""
        whole = text[: text.rfind("\n") + 1]
        reader = csv.DictReader(io.StringIO(whole))
        if text and list(reader.fieldnames or []) != columns:
            raise ValueError(
                f"{path} is not a table of these metrics: choose another file, or the same --metrics."
            )
        self.rows = {tuple(row[k] for k in KEY): row for row in reader}
        if whole != text or not text:
            save(path, (whole or self._line({c: c for c in columns})).encode())

    def add(self, row: Row) -> None:
        """Add a row, and write it at once."""
        row = {column: row.get(column, "") for column in self.columns}
        self.rows[tuple(row[k] for k in KEY)] = row
        if self.path is not None:
            with telling(self.path), self.path.open("a", encoding="utf-8") as file:
                file.write(self._line(row))

    def _line(self, row: Row) -> str:
        line = io.StringIO()
        csv.DictWriter(line, self.columns, lineterminator="\n").writerow(row)
        return line.getvalue()


def _summary(rows: list[Row], name: str) -> tuple[str, str, str, str, str]:
    """Cells of the table: recordings, input, output, improvement, and the worst run."""
    inputs: dict[RunKey, float] = {}
    outputs: dict[RunKey, float] = {}
    gains: dict[RunKey, float] = {}
    for row in rows:
        run = (row["file"], row["seed"], row["snr"])
        before, after = (float(row[f"{name}_{side}"] or "nan") for side in ("in", "out"))
        if math.isfinite(after - before):  # so that the three columns are of the same runs
            inputs[run], outputs[run], gains[run] = before, after, after - before
        elif math.isnan(before) and not row[f"{name}_in"] and math.isfinite(after):
            outputs[run] = after  # resynthesis has no input
    digits = 2 if "sdr" in name else 3
    judged = gains or outputs
    worst = ""
    if judged:
        run = min(judged, key=lambda r: judged[r])
        worst = f"{judged[run]:{'+' if gains else ''}.{digits}f} {run[0]} seed {run[1]}"
    files = f"{len({run[0] for run in outputs})} of {len({row['file'] for row in rows})}"
    return files, _mean(inputs, digits), _mean(outputs, digits), _mean(gains, digits, "+"), worst


def _mean(values: dict[RunKey, float], digits: int, sign: str = "") -> str:
    """Mean ± standard error over recordings, the runs of one averaged first."""
    groups: dict[str, list[float]] = {}
    for (file, _, _), value in values.items():
        groups.setdefault(file, []).append(value)
    means = [fmean(group) for group in groups.values()]
    if not means:
        return ""
    text = f"{fmean(means):{sign}.{digits}f}"
    return text if len(means) == 1 else f"{text} ± {stdev(means) / math.sqrt(len(means)):.{digits}f}"
