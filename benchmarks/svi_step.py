"""What Pyro costs: one training step, as a program, frame by frame, and in plain torch.

All three train the same networks on the same batch in the same run; only ratios are reported.

    python benchmarks/svi_step.py [--model rvae] [--rounds 20] [--threads 2]
"""

from __future__ import annotations

import argparse
import math
import statistics
import time
from collections.abc import Callable

import torch
from pyro.infer import Trace_ELBO
from torch import Tensor

from pyrodvae import make_guide
from pyrodvae.distributions import power
from pyrodvae.dvae import DVAE
from pyrodvae.guides import Guide
from pyrodvae.models import MODELS
from pyrodvae.objective import elbo
from pyrodvae.program import Program, local_parameters


def plain_loss(model: DVAE, guide: Guide, x: Tensor) -> Tensor:
    """The negative ELBO of an RVAE or VAE with nothing but torch: what a research script would do."""
    p = power(x)
    y = ((p + 1e-6).log() - guide.spectrum.loc) / guide.spectrum.scale
    g = guide.summary(y) if hasattr(guide, "summary") else guide.dense(y)
    g = guide.from_x(g)
    B, T, D = len(x), x.shape[1], model.latent
    if hasattr(guide, "memory"):
        cell = guide.memory.lstm
        z_t, means, log_variances, zs = x.real.new_zeros(B, D), [], [], []
        h = c = x.real.new_zeros(B, cell.hidden_size)
        for t in range(T):
            h, c = torch.lstm_cell(z_t, (h, c), *cell.all_weights[0])
            mean, log_variance = (g[:, t] + guide.from_z(h)).chunk(2, -1)
            z_t = mean + (0.5 * log_variance).exp() * torch.randn_like(mean)
            means.append(mean)
            log_variances.append(log_variance)
            zs.append(z_t)
        mean, log_variance, z = (torch.stack(s, 1) for s in (means, log_variances, zs))
    else:
        mean, log_variance = g.chunk(2, -1)
        z = mean + (0.5 * log_variance).exp() * torch.randn_like(mean)
    if not model.causal:
        h = model.memory(z)
    elif hasattr(model, "memory"):
        h, _ = model.memory(z)
    else:
        h = model.decoder(z)
    log_v = model.head.spectrum.loc + model.head.spectrum.scale * model.head.output(h)
    v = log_v.exp() + 1e-6
    nll = (v.log() + p / v + math.log(math.pi)).sum()
    kl = 0.5 * (log_variance.exp() + mean.square() - 1 - log_variance).sum()
    return nll + kl


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


def main() -> None:
    """Time the three in turn, round after round, and print their ratios."""
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--model", choices=sorted(MODELS), default="rvae")
    options.add_argument("--rounds", type=int, default=20)
    options.add_argument("--threads", type=int, default=2)
    chosen = options.parse_args()
    torch.set_num_threads(chosen.threads)
    torch.manual_seed(0)
    x = torch.randn(32, 50, 513, dtype=torch.complex64)
    model = MODELS[chosen.model]()
    guide = make_guide(model)
    model.fit_statistics(x)
    guide.fit_statistics(x)
    optimiser = torch.optim.Adam([*model.parameters(), *guide.parameters()], 1e-4)
    with local_parameters():
        fast = elbo("analytic")(model, guide)
        slow = Trace_ELBO()(Steps(model), StepsGuide(guide))
    contestants: dict[str, Callable[[], Tensor]] = {
        "plain torch": lambda: plain_loss(model, guide, x),
        "pyrodvae, analytic KL": lambda: fast(x),
        "a Pyro site per frame": lambda: slow(x),
    }
    seconds: dict[str, list[float]] = {name: [] for name in contestants}
    for round_ in range(chosen.rounds + 2):
        for name, loss in contestants.items():
            start = time.perf_counter()
            with local_parameters():
                optimiser.zero_grad()
                loss().backward()
                optimiser.step()
            if round_ >= 2:
                seconds[name].append(time.perf_counter() - start)
    base = seconds["plain torch"]
    print(f"{chosen.model}, B = 32, T = 50, F = 513, {chosen.threads} threads, {chosen.rounds} rounds")
    for name, s in seconds.items():
        ratio = statistics.median(a / b for a, b in zip(s, base, strict=True))
        print(f"{name:24s} median {1e3 * statistics.median(s):7.1f} ms   ratio {ratio:5.2f}")


if __name__ == "__main__":
    main()
