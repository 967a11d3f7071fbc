"""The page about measured systems: quality against time, means with standard errors, and every single run."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable
from operator import itemgetter
from pathlib import Path

from pyrodvae.report.charts import Axis, Dot, dots
from pyrodvae.report.page import (
    Html,
    element,
    figure,
    grid,
    page,
    paragraph,
    reproduction,
    save_page,
    section,
    table,
)
from pyrodvae.results import Results, Row

WHERE = {"recording": "file", "noise": "noise", "SNR in dB": "snr", "system": "system", "seed": "seed"}
"""Headings of the columns that tell runs apart."""

Cell = Callable[[Row], str]
"""What a column shows of a row."""


def write_results(results: Results, path: str | Path, *, command: str = "") -> None:
    """Write the page in one step; :func:`~pyrodvae.report.check_page` asks before the work if it can be.

    Args:
        results: what was measured.
        path: of the file.
        command: that makes it again.

    Raises:
        NotWritten: the file cannot be written.
    """
    save_page(Path(path), results_page(results, command=command))


def results_page(results: Results, *, command: str = "") -> str:
    """The page itself; arguments as of :func:`write_results`."""
    models = list(dict.fromkeys(row["model"] for row in results.rows))
    names = " and ".join(dict.fromkeys(model.partition("@")[0] for model in models)) or "nothing"
    seeds = ", ".join(dict.fromkeys(row["seed"] for row in results.rows))
    systems = {row["system"]: row["settings"] for row in results.rows if row["settings"]}
    settings = {"model @ weights": ", ".join(models), **systems, "seeds": seeds}
    measured = [_quality(results), _means(results), _runs(results)] if results.rows else []
    return page(
        f"Evaluation of {names}",
        f"Evaluation of {names}",
        *measured,
        *_not_scored(results),
        *_failures(results),
        reproduction(command, settings.items()),
    )


def _quality(results: Results) -> Html:
    """A picture for each metric that a system improves, or worsens."""
    pictures = [picture for name in results.metrics if (picture := _against_time(results, name))]
    how = "Improvement over the input, ± one standard error: further up is better, further left is cheaper."
    nothing = "There was no noisy input to improve on."
    return section("Quality against time", paragraph(how if pictures else nothing, "soft"), grid(*pictures))


def _against_time(results: Results, name: str) -> Html:
    costs = [c for c in results.costs(name) if math.isfinite(c.gain) and c.seconds > 0]
    if not costs:
        return Html()
    time = Axis.around("seconds of computing per second of sound", (c.seconds for c in costs), log=True)
    said = "; ".join(f"{c.system}: {c.gain:+.3g} in {c.seconds:.3g} s" for c in costs)
    unit = "improvement in dB" if "sdr" in name else "improvement"
    points = [Dot(c.system, c.seconds, c.gain, c.error) for c in costs]
    return figure(
        dots(time, unit, points, f"Improvement in {_title(name)} against time. {said}."), _title(name)
    )


def _means(results: Results) -> Html:
    """A line for each system, ratio and metric."""
    head, *rows = results.summary()
    how = (
        "Means over recordings ± one standard error. The runs of one recording are averaged first; those "
        "with a score that could not be computed are left out."
    )
    caption = "Means; a click on a heading sorts."
    return section("Means", paragraph(how, "soft"), table(head, rows, caption, sorts=True))


def _runs(results: Results) -> Html:
    """A line for each run, whose columns sort; of the metrics one at a time can be looked at."""
    told = {heading: key for heading, key in WHERE.items() if any(row[key] for row in results.rows)}
    columns: dict[str, Cell] = {heading: itemgetter(key) for heading, key in told.items()}
    columns["time ratio"] = itemgetter("rtf")
    for name in results.metrics:
        columns |= {f"{name} {side}": _score(name, side) for side in ("in", "out", "gain")}
    rows = [[cell(row) for cell in columns.values()] for row in results.rows]
    caption = "Runs; a click on a heading sorts. The time ratio is seconds of computing per second of sound."
    choice = element("p", {"class": "choice", "data-metrics": " ".join(results.metrics)})
    return section("Runs", choice, table(list(columns), rows, caption, sorts=True))


def _score(name: str, side: str) -> Cell:
    """A cell: nothing where there is no input to compare with, a dash for what could not be computed."""

    def cell(row: Row) -> str:
        given, found = row[f"{name}_in"], float(row[f"{name}_out"] or "nan")
        if side != "out" and not given:
            return ""
        value = found if side == "out" else float(given) if side == "in" else found - float(given)
        if math.isnan(value):
            return "—"
        return f"{value:{'+' if side == 'gain' else ''}.{2 if 'sdr' in name else 3}f}"

    return cell


def _not_scored(results: Results) -> list[Html]:
    """What stands behind the dashes."""
    reasons = Counter((r["file"], why) for r in results.rows for why in r["reasons"].split(" | ") if why)
    if not reasons:
        return []
    rows = [(file, why, f"{count}") for (file, why), count in reasons.items()]
    caption = "Scores that could not be computed, and in how many runs; those runs are not in the means."
    return [section("Not scored", table(("recording", "reason", "runs"), rows, caption, sorts=True))]


def _failures(results: Results) -> list[Html]:
    """Recordings that could not be used, with the reasons."""
    if not results.failed:
        return []
    caption = "Recordings that could not be used; they are in no mean."
    return [section("Failures", table(("recording", "reason"), results.failed, caption))]


def _title(name: str) -> str:
    return name.replace("_", " ").upper().replace("SI SDR", "SI-SDR")
