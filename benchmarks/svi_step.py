"""What Pyro costs: one training step, as a program, in plain torch, and with --sites frame by frame.

All of them train the same networks on the same batch in the same run; only ratios are reported.

    python benchmarks/svi_step.py [--model rvae dkf …] [--rounds 20] [--threads 2] [--sites]
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import plain
import torch
from pyro.infer import Trace_ELBO
from torch import Tensor

from pyrodvae import make_guide
from pyrodvae.dvae import DVAE
from pyrodvae.guides import Guide
from pyrodvae.models import MODELS
from pyrodvae.objective import elbo
from pyrodvae.once import Once
from pyrodvae.program import Program, local_parameters


class Steps(Program):
    """A model with a Pyro site per frame."""

    def __init__(self, model: DVAE) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: Tensor) -> None:
        """The frame-by-frame program."""
        self.model.steps(x)


class StepsGuide(Program):
    """A guide with a Pyro site per frame."""

    def __init__(self, guide: Guide) -> None:
        super().__init__()
        self.guide = guide

    def forward(self, x: Tensor) -> None:
        """Sites z_0, z_1, … as the frame-by-frame model names them."""
        import pyro

        context, memo = self.guide.posterior(x).context, None
        z = self.guide.z_0.expand(len(x), 1, -1)
        with pyro.plate("batch", len(x), dim=-1):
            for t in range(x.shape[1]):
                q, memo = self.guide.conditional(z, context[:, t : t + 1], memo)
                z = pyro.sample(f"z_{t}", q.to_event(1))


def race(key: str, rounds: int, sites: bool) -> dict[str, list[float]]:
    """Seconds per step of each contestant, taking turns."""
    torch.manual_seed(0)
    x = torch.randn(32, 50, 513, dtype=torch.complex64)
    model = MODELS[key]()
    guide = make_guide(model)
    model.fit_statistics(x)
    guide.fit_statistics(x)
    optimiser = torch.optim.Adam([*model.parameters(), *guide.parameters()], 1e-4)
    with local_parameters():
        fast = elbo("analytic")(model, guide)
        slow = Trace_ELBO()(Steps(model), StepsGuide(guide))
    contestants: dict[str, Callable[[Tensor], Tensor]] = {
        "plain torch": lambda x: plain.loss(key, model, guide, x),
        "pyrodvae": fast,
    }
    if sites:
        contestants["a Pyro site per frame"] = slow
    seconds: dict[str, list[float]] = {name: [] for name in contestants}
    for round_ in range(rounds + 2):
        for name, loss in contestants.items():
            batch = x.clone()  # new to everyone, as in training
            start = time.perf_counter()
            with local_parameters(), Once():  # as the trainer does
                optimiser.zero_grad()
                loss(batch).backward()
                optimiser.step()
            if round_ >= 2:
                seconds[name].append(time.perf_counter() - start)
    return seconds


def main() -> None:
    """Time them in turn, round after round, and print their ratios."""
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--model", nargs="+", choices=sorted(plain.PLAIN), default=[*plain.PLAIN])
    options.add_argument("--rounds", type=int, default=20)
    options.add_argument("--threads", type=int, default=2)
    options.add_argument("--sites", action="store_true", help="also a Pyro site per frame")
    chosen = options.parse_args()
    torch.set_num_threads(chosen.threads)
    print(f"B = 32, T = 50, F = 513, {chosen.threads} threads, {chosen.rounds} rounds")
    for key in chosen.model:
        seconds = race(key, chosen.rounds, chosen.sites)
        base = seconds["plain torch"]
        for name, s in seconds.items():
            ratio = statistics.median(a / b for a, b in zip(s, base, strict=True))
            print(f"{key:12s} {name:22s} {1e3 * statistics.median(s):7.1f} ms   ratio {ratio:5.2f}")


if __name__ == "__main__":
    main()
