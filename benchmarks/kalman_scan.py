"""What parallel scans gain: exact inference in log₂ T levels against T steps, in one run.

    python benchmarks/kalman_scan.py [--latent 4] [--batch 1] [--rounds 3] [--threads 1] [-o FILE.png]

Both forms give equal numbers; only the ratio of their times is reported as a result.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from pyrodvae.kalman import LinearGaussian, scan, sequential
from pyrodvae.plots import new_figure

TASKS = ["filter", "smooth", "posterior_conditionals", "sample"]


def make_model(latent: int, observed: int) -> LinearGaussian:
    """A random rotation that decays slowly, seen in noise."""
    turn = torch.linalg.qr(torch.randn(latent, latent))[0]
    B = torch.randn(observed, latent)
    eye, noise = torch.eye(latent), torch.eye(observed)
    values = (0.99 * turn, 0.1 * eye, B, noise, torch.zeros(latent), eye)
    return LinearGaussian(*(v.double() for v in values))


def seconds(run: Callable[[], object]) -> float:
    """What one call takes."""
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def call(form: object, task: str, model: LinearGaussian, x: Tensor) -> object:
    """One task by one form."""
    more = (1,) if task == "sample" else ()
    return getattr(form, task)(model, x, *more)


def main() -> None:
    """Time both forms in turn, round after round, at each length."""
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--latent", type=int, default=4)
    options.add_argument("--batch", type=int, default=1)
    options.add_argument("--rounds", type=int, default=3)
    options.add_argument("--threads", type=int, default=1)
    options.add_argument("--longest", type=int, default=5, help="log10 of the longest T")
    options.add_argument("-o", "--output", type=Path, help="save a picture")
    chosen = options.parse_args()
    torch.set_num_threads(chosen.threads)
    torch.manual_seed(0)
    model = make_model(chosen.latent, 2 * chosen.latent)
    lengths = [10**k for k in range(2, chosen.longest + 1)]
    ratios: dict[str, list[float]] = {task: [] for task in TASKS}
    print(
        f"D = {chosen.latent}, F = {2 * chosen.latent}, B = {chosen.batch}, float64, "
        f"{chosen.threads} threads, {torch.get_default_device()}, median of {chosen.rounds} rounds"
    )
    print(f"{'task':24s}{'T':>8s}{'sequential':>14s}{'parallel':>14s}{'ratio':>9s}")
    with torch.no_grad():
        for T in lengths:
            x = torch.randn(chosen.batch, T, model.observed, dtype=torch.double)
            for task in TASKS:
                for form in (sequential, scan):
                    call(form, task, model, x[:, :100])  # warm up
                pairs = [
                    [seconds(lambda f=f: call(f, task, model, x)) for f in (sequential, scan)]  # noqa: B023
                    for _ in range(chosen.rounds)
                ]
                ratio = statistics.median(p / s for s, p in pairs)
                ratios[task].append(ratio)
                slow, fast = (statistics.median(v) for v in zip(*pairs, strict=True))
                print(f"{task:24s}{T:8d}{1e3 * slow:11.1f} ms{1e3 * fast:11.1f} ms{ratio:9.3f}", flush=True)
    if chosen.output is not None:
        figure = new_figure(6, 3.6)
        axis = figure.subplots()
        for task, values in ratios.items():
            axis.loglog(lengths, values, "o-", label=task.replace("_", " "))
        axis.axhline(1, color="0.6", linewidth=0.8)
        axis.set(xlabel="frames T", ylabel="time, parallel / sequential")
        axis.legend()
        chosen.output.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(chosen.output, dpi=110)


if __name__ == "__main__":
    main()
