"""Sparsity against quality: a line of the table for each run, and pictures of which atoms speak when.

python benchmarks/sparse_latents.py RUN [RUN ...] --speech $PYRODVAE_DATA/speech \
    --manifest $PYRODVAE_DATA/MANIFEST.tsv --out scores.csv [--pictures FOLDER]

Each run resynthesises clean test speech from the means of its latents, with the phase of the original;
quality is of the waveform, sparsity (Hoyer) of the means, frame by frame. Errors are standard errors over
recordings. The last columns are paired differences from the first run, on the same recordings.
"""

from __future__ import annotations

import argparse
import csv
import math
from pathlib import Path
from statistics import fmean, stdev

import numpy as np
import torch

from pyrodvae.atoms import mean_latents, plot_atoms
from pyrodvae.evaluate import evaluate, resynthesizer
from pyrodvae.metrics import hoyer
from pyrodvae.trials import Trial, clean_speech
from pyrodvae.weights import Run, load_run

METRICS = ("pesq_mos", "pesq_wb", "stoi", "si_sdr")


def main() -> None:
    """Measure, print the table and draw the pictures."""
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("runs", nargs="+", type=Path)
    options.add_argument("--speech", type=Path, required=True)
    options.add_argument("--manifest", type=Path)
    options.add_argument("--split", default="test")
    options.add_argument("--limit", type=int)
    options.add_argument("--out", type=Path, required=True)
    options.add_argument("--pictures", type=Path)
    given = options.parse_args()
    torch.set_num_threads(1)
    trials = clean_speech(given.speech, given.limit, given.manifest, given.split)
    scores = {path.name: measure(load_run(path), path.name, trials, given.out) for path in given.runs}
    print_table(scores)
    if given.pictures:
        given.pictures.mkdir(parents=True, exist_ok=True)
        for path in given.runs:
            run = load_run(path)
            plot_atoms(
                run, spectrum(run, trials[0])[: 3 * 63], given.pictures / f"{path.name}.png", path.name
            )


def spectrum(run: Run, trial: Trial) -> torch.Tensor:
    """Of a recording, scaled to a peak of one as for resynthesis: (T, F)."""
    s = torch.from_numpy(np.asarray(trial.load()[0]))
    return run.stft((s / s.abs().max().clamp(min=1e-12))[None])[0]


def measure(run: Run, name: str, trials: list[Trial], out: Path) -> dict[str, dict[str, float]]:
    """Metric → file → value; what is in the table already is taken from there."""
    rows = evaluate([resynthesizer(name, run)], trials, metrics=METRICS, out=out).rows
    found = {m: {row["file"]: float(row[f"{m}_out"]) for row in rows} for m in METRICS}
    kept = out.with_name(f"{out.stem}.{name}.hoyer.csv")
    known: dict[str, str | float] = {}
    if kept.exists():
        with kept.open(newline="") as file:
            known |= {file_name: value for file_name, value in csv.reader(file)}
    for t in trials:
        known[t.file] = known.get(t.file) or float(hoyer(mean_latents(run, spectrum(run, t)[None]))[0])
    with kept.open("w", newline="") as file:
        csv.writer(file).writerows(known.items())
    found["hoyer"] = {t.file: float(known[t.file]) for t in trials}
    return found


def print_table(scores: dict[str, dict[str, dict[str, float]]]) -> None:
    """As Markdown."""
    metrics = [*METRICS, "hoyer"]
    first = next(iter(scores))
    print("| run | " + " | ".join(metrics) + " | " + " | ".join(f"Δ {m}" for m in metrics) + " |")
    print("|---" * (2 * len(metrics) + 1) + "|")
    for name, of in scores.items():
        cells = [mean(list(of[m].values())) for m in metrics]
        if name != first:
            cells += [mean([of[m][f] - scores[first][m][f] for f in of[m]], "+") for m in metrics]
        print(f"| {name} | " + " | ".join(cells) + " |")


def mean(values: list[float], sign: str = "") -> str:
    """Mean ± standard error of what is finite."""
    finite = [v for v in values if math.isfinite(v)]
    return f"{fmean(finite):{sign}.3f} ± {stdev(finite) / math.sqrt(len(finite)):.3f}"


if __name__ == "__main__":
    main()
