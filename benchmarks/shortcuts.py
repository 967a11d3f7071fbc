"""What the published shortcuts cost in exactness, and what they gain in score: one run, one figure.

python benchmarks/shortcuts.py [--pairs DIR] [--limit 8] [--seed 0] [--out scores.csv] [--plot shortcuts.png]

Exactness: chains that start at draws of the exact posterior of a linear-Gaussian toy, in which x_t depends
on all z up to t as in an RVAE. A kernel that leaves the posterior as it is keeps mean and variance.
Score: improvement of SI-SDR by EM with the shipped RVAE, on pairs of recordings or the packaged example.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor

from pyrodvae import examples
from pyrodvae.engines import MALA, MH, Engine, Langevin
from pyrodvae.enhance_config import EnhanceConfig
from pyrodvae.evaluate import enhancer, evaluate
from pyrodvae.plots import new_figure, save_picture
from pyrodvae.potential import Target
from pyrodvae.program import Program
from pyrodvae.results import Cost, aligned
from pyrodvae.trials import Trial, pairs, read_mono
from pyrodvae.weights import load_run

FRAMES, SIGMA = 8, 0.5
MOVES = 400
STEP = 0.3
"""Of the kernels with a correction, in units of the prior's standard deviation; they do not adapt."""
ETA, EXTRA = 5e-3, 0.1
"""The published step of Langevin dynamics, and the standard deviation of the noise that follows it."""


class Toy(Program):
    """z ~ N(0, I), x_t | z ~ N(Σ_s A_ts z_s, σ²) with s ≤ t; sites z (event (T, 1)), x (event (T, 1))."""

    def __init__(self) -> None:
        super().__init__()
        weights = 0.7 ** (torch.arange(FRAMES)[:, None] - torch.arange(FRAMES)).double()
        self.register_buffer("A", weights.tril())

    def forward(self, x: Tensor) -> Tensor:
        """Sample z and x."""
        with pyro.plate("batch", len(x), dim=-1):
            prior = dist.Normal(torch.zeros(FRAMES, 1, dtype=x.dtype), 1.0)
            z = pyro.sample("z", prior.expand([len(x), FRAMES, 1]).to_event(2))
            pyro.sample("x", dist.Normal(self.A @ z, SIGMA).to_event(2), obs=x)
        return z


@dataclass(frozen=True)
class Doubled(Target):
    """With p(z)² in place of p(z)."""

    def log_joint(self, z: Tensor) -> Tensor:
        """log p(x, z) + log p(z), (S, B)."""
        return super().log_joint(z) - 0.5 * z.square().sum((-2, -1))


@dataclass(frozen=True)
class Off:
    """How far draws are from the posterior, on average over its elements, each with its standard error.

    Args:
        mean: the size of the error of the mean, in posterior standard deviations.
        variance: over that of the posterior.
    """

    mean: tuple[float, float]
    variance: tuple[float, float]


def drifts(chains: int) -> dict[str, Off]:
    """What becomes of exact draws, by kernel; the first is legal and the control."""
    model = Toy()
    x = 2 * torch.randn(1, FRAMES, 1, dtype=torch.double)
    A: Any = model.A
    covariance = torch.linalg.inv(torch.eye(FRAMES, dtype=torch.double) + A.mT @ A / SIGMA**2)
    mean = covariance @ A.mT @ x[0, :, 0] / SIGMA**2
    draws = mean + torch.randn(chains, FRAMES, dtype=torch.double) @ torch.linalg.cholesky(covariance).mT
    target = Target(model, None, (x,))
    legal, dynamics = MALA(STEP, warmup=0), Langevin(2 * ETA, precondition=False, temperature=1.0)
    kernels: dict[str, tuple[Engine, Target, float]] = {
        "legal": (legal, target, 0.0),
        "each frame accepted alone": (legal, replace(target, reach=0), 0.0),
        "prior squared": (legal, Doubled(model, None, (x,)), 0.0),
        "noise after each step": (dynamics, target, EXTRA),
    }
    found = {}
    for name, (engine, density, extra) in kernels.items():
        state = engine.init(density, draws[:, None, :, None])
        for _ in range(MOVES):
            state, _ = engine.step(density, state)
            if extra:
                moved = state.z.detach() + extra * torch.randn_like(state.z)
                state = engine.moved(density, state, moved)
        found[name] = off(state.z.detach().flatten(1), mean, covariance.diagonal())
    return found


def off(z: Tensor, mean: Tensor, variance: Tensor) -> Off:
    """Of independent draws z (S, N)."""
    c = (z - mean) / variance.sqrt()
    each = c.mean(0)
    along = (c * each.sign()).mean(-1)  # each chain's share in the mean size
    spread = (c - each).square().mean(-1)
    root = len(z) ** 0.5
    return Off(
        (float(each.abs().mean()), float(along.std()) / root),
        (float(spread.mean()), float(spread.std()) / root),
    )


SYSTEMS: dict[str, tuple[Engine, bool]] = {
    "langevin, exact temperature": (Langevin(temperature=1.0), False),
    "langevin, tempered (default)": (Langevin(), False),
    "langevin as published": (Langevin(), True),
    "mala, exact": (MALA(), False),
    "mh as published": (MH(), True),
}
"""Name → engine, and whether its published form runs instead."""


def scores(trials: Sequence[Trial], seeds: Sequence[int], out: Path | None) -> list[Cost]:
    """Improvement of SI-SDR by each system."""
    run = load_run("rvae")
    systems = []
    for name, (engine, published) in SYSTEMS.items():
        config = EnhanceConfig(as_published=published, iterations=100 if published else 60)
        systems.append(enhancer("rvae", run, name, engine, config))
    return evaluate(systems, trials, seeds=seeds, metrics=("si_sdr",), out=out).costs()


def example() -> list[Trial]:
    """The packaged one."""
    return [Trial("example", "", "", lambda: (read_mono(examples.clean()), read_mono(examples.noisy())))]


def picture(drifted: dict[str, Off], costs: Sequence[Cost], path: Path) -> None:
    """Left what is lost in exactness, right what is gained in score."""
    figure = new_figure(11, 3.8)
    left, right = figure.subplots(1, 2)
    names = [*drifted][::-1]
    for shift, field, label, color, exact in (
        (0.12, "mean", "error of the mean, in posterior deviations", "#b5472f", 0),
        (-0.12, "variance", "variance, over the posterior's", "#2f6db5", 1),
    ):
        values, errors = zip(*(getattr(drifted[name], field) for name in names), strict=True)
        at = [i + shift for i in range(len(names))]
        left.errorbar(values, at, xerr=errors, fmt="o", color=color, capsize=3, label=label)
        left.axvline(exact, color=color, linewidth=0.8, linestyle=":", zorder=0)
    left.set_yticks(range(len(names)), names)
    left.set(title="exactness: exact draws after 400 moves", xlabel="dotted: a kernel without error")
    left.legend(loc="upper center", bbox_to_anchor=(0.5, -0.18), ncols=2, frameon=False, fontsize=8)
    bars = costs[::-1]
    colors = ["#999999" if SYSTEMS[c.system][1] else "#2f8a5b" for c in bars]
    right.barh([c.system for c in bars], [c.gain for c in bars], xerr=[c.error for c in bars], color=colors)
    right.set(title="score (grey: as published)", xlabel="SI-SDR improvement in dB")
    for axis in (left, right):
        axis.margins(y=0.12)
        axis.spines[["top", "right"]].set_visible(False)
    save_picture(figure, path)


def main() -> None:
    """Measure, print and draw."""
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--pairs", type=Path, metavar="DIR", help="holds clean/ and noisy/")
    options.add_argument("--limit", type=int, default=8, help="of the pairs")
    options.add_argument("--seed", type=int, nargs="+", default=[0])
    options.add_argument("--chains", type=int, default=4000, help="of the toy")
    options.add_argument("--out", type=Path, metavar="CSV", help="of the scores; a rerun goes on")
    options.add_argument("--plot", type=Path, metavar="PNG")
    chosen = options.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    drifted = drifts(chosen.chains)
    lines = [("kernel", "error of the mean", "variance")]
    for name, found in drifted.items():
        cells = (f"{value:.3f} ± {error:.3f}" for value, error in (found.mean, found.variance))
        lines.append((name, *cells))
    print("\n".join(aligned(lines)), flush=True)
    costs = scores(pairs(chosen.pairs, chosen.limit) if chosen.pairs else example(), chosen.seed, chosen.out)
    table = [("system", "SI-SDR improvement in dB", "worst", "seconds per second")]
    table += [
        (c.system, f"{c.gain:+.2f} ± {c.error:.2f}", f"{c.worst:+.2f}", f"{c.seconds:.2f}") for c in costs
    ]
    print("\n".join(["", *aligned(table)]))
    if chosen.plot:
        picture(drifted, costs, chosen.plot)


if __name__ == "__main__":
    main()
