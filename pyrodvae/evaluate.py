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
from dataclasses import dataclass, replace
from pathlib import Path

import numpy.typing as npt
from tqdm import tqdm

from pyrodvae.engines import Engine
from pyrodvae.enhance import enhance
from pyrodvae.enhance_config import EnhanceConfig
from pyrodvae.metrics import METRICS, Measurement, score
from pyrodvae.results import Results, Row
from pyrodvae.settings import check_seed, describe
from pyrodvae.synthesis import resynthesize
from pyrodvae.trials import RATE, Array, Trial
from pyrodvae.weights import Run
from pyrodvae.whole import save, telling

KEY = ("model", "system", "settings", "seed", "file", "noise", "snr", "content")
"""The columns that tell one run from another."""


@dataclass(frozen=True)
class System:
    """What is measured.

    Args:
        model, name, settings: what it is called in the results.
        process: ``(input (N,), seed) -> estimate (N,)`` at :data:`RATE`.
        seeing: whether it takes ``video=path``, too: the one that lies beside the reference, if any.
    """

    model: str
    name: str
    settings: str
    process: Callable[..., npt.ArrayLike]
    seeing: bool = False


def enhancer(
    model: str, run: Run, name: str, engine: Engine, config: EnhanceConfig, device: str = "cpu"
) -> System:
    """Enhancement by an engine, as a system; the seed of ``config`` gives way to that of each run."""

    def process(x: Array, seed: int, video: Path | None = None) -> npt.ArrayLike:
        return enhance(
            x,
            sample_rate=RATE,
            model=run,
            engine=engine,
            config=replace(config, seed=seed),
            device=device,
            video=video,
        ).speech

    settings = f"{describe(engine)} {describe(config, 'seed')}"
    return System(f"{model}@{fingerprint(run)}", name, settings, process, run.model.video > 0)


def resynthesizer(model: str, run: Run) -> System:
    """Analysis and resynthesis of clean speech, as a system."""
    return System(
        f"{model}@{fingerprint(run)}",
        "resynthesis",
        "",
        lambda x, seed, video=None: resynthesize(x, RATE, run, video),
        run.model.video > 0,
    )


def fingerprint(run: Run) -> str:
    """Eight hexadecimal digits that tell these weights from others."""
    digest = hashlib.sha256()
    for module in (run.model, run.guide):
        for name, value in module.state_dict().items():
            digest.update(name.encode())
            digest.update(value.cpu().numpy().tobytes())
    return digest.hexdigest()[:8]


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
        ValueError: unknown metrics, a seed out of range, a file with other columns, or systems, seeds
            or recordings that are told twice: rows would be taken for one another.
        OSError: the file cannot be read or written.
    """
    for seed in seeds:
        check_seed(seed)
    names = tuple(METRICS if metrics is None else metrics)
    _once("system", [system.name for system in systems])
    _once("seed", seeds)
    _once("metric", names)
    _once("recording", [f"{trial.file} {trial.noise} {trial.snr}".strip() for trial in trials])
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


def _once(what: str, names: Iterable[object]) -> None:
    """Raise a ValueError if a name is there twice."""
    twice = [name for name, count in Counter(names).items() if count > 1]
    if twice:
        raise ValueError(f"The {what} {twice[0]!r} is there twice: measure it once.")


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
            seen = {"video": trial.video} if system.seeing else {}
            estimate = system.process(x, seed, **seen)
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
