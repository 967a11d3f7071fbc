"""Where the time of enhancement goes: seconds per second of sound, and the share of each part.

python benchmarks/enhance.py [--seconds 10] [--threads 2] [--engine langevin]
"""

from __future__ import annotations

import argparse
import time
from collections import defaultdict
from collections.abc import Callable
from typing import Any
from unittest.mock import patch

import numpy as np
import torch

import pyrodvae
from pyrodvae import examples
from pyrodvae.engines import ENGINES
from pyrodvae.guides import Guide
from pyrodvae.noise import Multiplicative
from pyrodvae.noisy import NoisySpeech
from pyrodvae.posterior import Fit
from pyrodvae.potential import Target
from pyrodvae.weights import load_run

PARTS = {
    "gradient through the decoder": (Target, "gradient"),
    "variance of the new draws": (NoisySpeech, "speech_variance"),
    "noise updates (M-step)": (Multiplicative, "step"),
    "judging the fit": (Fit, "of"),
    "encoder": (Guide, "posterior"),
}


def main() -> None:
    """Enhance the packaged example, repeated to the asked length, and print the profile."""
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--seconds", type=float, default=10.0)
    options.add_argument("--threads", type=int, default=2)
    options.add_argument("--engine", choices=sorted(ENGINES), default="langevin")
    options.add_argument("--rounds", type=int, default=3)
    chosen = options.parse_args()
    torch.set_num_threads(chosen.threads)
    noisy, rate = pyrodvae.read_audio(examples.noisy())
    x = np.resize(noisy[0], int(chosen.seconds * rate))
    run = load_run("rvae")
    engine = ENGINES[chosen.engine]()
    spent: dict[str, float] = defaultdict(float)

    def timed(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def run_timed(*args: Any, **kwargs: Any) -> Any:
            start = time.perf_counter()
            try:
                return function(*args, **kwargs)
            finally:
                spent[name] += time.perf_counter() - start

        return run_timed

    pyrodvae.enhance(x, sample_rate=rate, model=run, engine=engine)
    totals = []
    patches = [patch.object(o, a, timed(n, getattr(o, a))) for n, (o, a) in PARTS.items()]
    for p in patches:
        p.start()
    for _ in range(chosen.rounds):
        start = time.perf_counter()
        pyrodvae.enhance(x, sample_rate=rate, model=run, engine=engine)
        totals.append(time.perf_counter() - start)
    for p in patches:
        p.stop()
    total = sum(totals)
    print(f"{engine}, {chosen.seconds:g} s of sound, {chosen.threads} threads")
    print(f"seconds per second of sound: median {np.median(totals) / chosen.seconds:.3f}")
    for name, seconds in sorted(spent.items(), key=lambda item: -item[1]):
        print(f"{name:32s} {100 * seconds / total:5.1f} %")
    print(f"{'the rest':32s} {100 * (total - sum(spent.values())) / total:5.1f} %")


if __name__ == "__main__":
    main()
