"""What engines cost: seconds per second of speech, and how that grows with frames and chains.

python benchmarks/engines.py [--engine langevin mala ...] [--iterations 10] [--rounds 3] [--plot costs.png]

All times are of EM on the packaged example with the shipped RVAE, of so many iterations that include the
engine's warm-up; the rounds of all engines are interleaved, and medians are told with ratios of one run.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from statistics import median

import numpy as np
import torch
from torch import Tensor

from pyrodvae import examples, read_audio
from pyrodvae.engines import ENGINES
from pyrodvae.enhance_config import EnhanceConfig
from pyrodvae.palette import coloured
from pyrodvae.plots import new_figure
from pyrodvae.separation import enhance_spectrum, make_engine
from pyrodvae.weights import Run, load_run

FRAMES = (125, 250, 500, 1000)
CHAINS = (1, 2, 5, 10)
GROWN = ("langevin", "mala", "hmc-batched")
"""Engines whose growth with frames and chains is measured."""

Case = tuple[str, int, int]  # engine, frames, chains


def seconds(run: Run, x: Tensor, engine: str, config: EnhanceConfig) -> float:
    """Of EM on the spectrogram x (1, T, F)."""
    torch.manual_seed(config.seed)
    start = time.perf_counter()
    enhance_spectrum(x, run, make_engine(engine), config, torch.Generator().manual_seed(config.seed))
    return time.perf_counter() - start


def measure(
    run: Run, x: Tensor, cases: Sequence[Case], config: EnhanceConfig, rounds: int
) -> dict[Case, float]:
    """Median seconds of each case; x (1, T, F) is repeated to the frames that are wanted."""
    times: dict[Case, list[float]] = {case: [] for case in cases}
    for case in cases:  # what is done once is done before
        seconds(run, x[:, :50], case[0], replace(config, iterations=2, chains=case[2]))
    for _ in range(rounds):
        for engine, frames, chains in times:
            part = x.repeat(1, -(-frames // x.shape[1]), 1)[:, :frames]
            spent = seconds(run, part, engine, replace(config, chains=chains))
            times[engine, frames, chains].append(spent)
    return {case: median(found) for case, found in times.items()}


def line(xs: Sequence[int], ys: Sequence[float]) -> str:
    """The straight line through the times, and how far the worst of them is from it."""
    per, fixed = np.polyfit(xs, ys, 1)
    off = max(abs(y / (fixed + per * x) - 1) for x, y in zip(xs, ys, strict=True))
    return f"{fixed:.2f} s + {1000 * per:.2f} ms each, within {off:.0%}"


def picture(times: dict[Case, float], frames: int, chains: int, path: Path) -> None:
    """Seconds against frames and against chains, both from zero: linear cost is a straight line."""
    figure = new_figure(9, 3.6)
    left, right = map(coloured, figure.subplots(1, 2))
    for engine in GROWN:
        left.plot(FRAMES, [times[engine, T, chains] for T in FRAMES], "o-", label=engine)
        right.plot(CHAINS, [times[engine, frames, S] for S in CHAINS], "o-", label=engine)
    left.set(xlabel=f"frames ({chains} chains)", ylabel="seconds", xlim=(0, None), ylim=(0, None))
    right.set(xlabel=f"chains ({frames} frames)", xlim=(0, None), ylim=(0, None))
    left.legend()
    figure.savefig(path, dpi=110)


def main() -> None:
    """Measure and print."""
    default = EnhanceConfig()
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--engine", nargs="+", default=list(ENGINES), help="keys; all by default")
    options.add_argument("--iterations", type=int, default=default.iterations)
    options.add_argument("--rounds", type=int, default=3)
    options.add_argument("--threads", type=int, default=2)
    options.add_argument("--plot", type=Path, metavar="PNG", help="a picture of the growth")
    chosen = options.parse_args()
    torch.set_num_threads(chosen.threads)
    config = replace(default, iterations=chosen.iterations)
    noisy, _ = read_audio(examples.noisy())
    run = load_run("rvae")
    x = run.stft(torch.from_numpy(noisy / np.abs(noisy).max()))
    T, S = x.shape[1], config.chains
    sound = T / run.stft.frame_rate
    print(f"{chosen.iterations} iterations, {chosen.threads} threads, median of {chosen.rounds} rounds")
    print(f"{sound:.1f} s of sound, {S} chains")
    engines = dict.fromkeys(["langevin", *chosen.engine])
    costs = measure(run, x, [(engine, T, S) for engine in engines], config, chosen.rounds)
    for (engine, _, _), spent in sorted(costs.items(), key=lambda item: item[1]):
        ratio = spent / costs["langevin", T, S]
        print(f"{engine:16s} {spent / sound:8.3f} seconds per second   {ratio:7.2f} times langevin")
    cases = {(e, frames, S) for e in GROWN for frames in FRAMES}
    cases |= {(e, FRAMES[1], chains) for e in GROWN for chains in CHAINS}
    times = measure(run, x, sorted(cases), config, chosen.rounds)
    for engine in GROWN:
        by_frames = [times[engine, frames, S] for frames in FRAMES]
        by_chains = [times[engine, FRAMES[1], chains] for chains in CHAINS]
        for name, sizes, found in (("frames", FRAMES, by_frames), ("chains", CHAINS, by_chains)):
            ratios = ", ".join(f"{n}: {t / found[0]:.2f}" for n, t in zip(sizes, found, strict=True))
            print(f"{engine:16s} {name}, times the first  {ratios};  {line(sizes, found)}")
    if chosen.plot:
        picture(times, FRAMES[1], S, chosen.plot)


if __name__ == "__main__":
    main()
