"""The tables of benchmarks/lips.py as a picture and as text.

python benchmarks/lips_plot.py docs/images/lips.png OUT.csv [OUT.csv …]
"""

from __future__ import annotations

import csv
import sys
from collections import defaultdict

import numpy as np

from pyrodvae.palette import PALETTE
from pyrodvae.plots import new_figure, save_picture

METRICS = {"si_sdr": "SI-SDR gain in dB", "pesq_wb": "PESQ WB gain", "stoi": "STOI gain"}


def main(picture: str, tables: list[str]) -> None:
    """Print means and standard errors, and draw the means."""
    gains = defaultdict(list)
    for table in tables:
        with open(table, newline="") as file:
            for row in csv.DictReader(file):
                key = row["run"], row["lips"], float(row["snr"])
                gains[key].append([float(row[f"{m}_out"]) - float(row[f"{m}_in"]) for m in METRICS])
    runs = list(dict.fromkeys(run for run, _, _ in gains))
    figure = new_figure(11, 3.6)
    for axis, (i, label) in zip(figure.subplots(1, 3), enumerate(METRICS.values()), strict=True):
        for run, lips in dict.fromkeys((run, lips) for run, lips, _ in gains):
            snrs = sorted(s for r, which, s in gains if (r, which) == (run, lips))
            means = [np.mean([g[i] for g in gains[run, lips, s]]) for s in snrs]
            style = {"color": PALETTE[runs.index(run)], "linestyle": "--" if lips == "damaged" else "-"}
            axis.plot(snrs, means, marker=".", label=f"{run}, {lips}" if lips != "none" else run, **style)
        axis.axhline(0, color="grey", linewidth=0.6)
        axis.set(xlabel="input in dB", ylabel=label)
    figure.axes[-1].legend(fontsize=6)
    save_picture(figure, picture)
    for (run, lips, snr), values in sorted(gains.items()):
        error = np.std(values, 0, ddof=1) / len(values) ** 0.5
        cells = [f"{m:+.3f} ± {e:.3f}" for m, e in zip(np.mean(values, 0), error, strict=True)]
        print(f"{run:<8}{lips:<9}{snr:>6g}  " + "  ".join(cells))


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2:])
