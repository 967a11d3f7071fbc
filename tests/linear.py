"""A linear Gaussian program, whose posterior is known exactly."""

from __future__ import annotations

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor

from pyrodvae.engines import Engine
from pyrodvae.potential import Target
from pyrodvae.program import Program

FRAMES, SIZE, SIGMA = 2, 2, 0.8
N = FRAMES * SIZE


class Linear(Program):
    """z ~ N(0, I), x | z ~ N(A z, σ²): every frame of x sees every frame of z."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("A", torch.randn(N, N, dtype=torch.double) / 2)

    def forward(self, x: Tensor) -> Tensor:
        """Sites z (event (T, D)) and x (event (N,))."""
        with pyro.plate("batch", len(x), dim=-1):
            zero = torch.zeros(FRAMES, SIZE, dtype=x.dtype)
            z = pyro.sample("z", dist.Normal(zero, 1.0).expand([len(x), FRAMES, SIZE]).to_event(2))
            pyro.sample("x", dist.Normal(z.flatten(-2) @ self.A.mT, SIGMA).to_event(1), obs=x)
        return z

    def precision(self) -> Tensor:
        """P of the posterior."""
        return torch.eye(N, dtype=torch.double) + self.A.mT @ self.A / SIGMA**2

    def mean(self, x: Tensor) -> Tensor:
        """Of the posterior, (B, N)."""
        return torch.linalg.solve(self.precision(), (x @ self.A / SIGMA**2).mT).mT


def run(engine: Engine, target: Target, z: Tensor, steps: int) -> Tensor:
    """The draws of the last of some steps of an engine."""
    state = engine.init(target, z)
    for _ in range(steps):
        state, _ = engine.step(target, state)
    return state.z.detach()


def products(z: Tensor, mean: Tensor) -> Tensor:
    """(z − mean)(z − mean)ᵀ of draws (S, 1, T, D), whose mean is the covariance: (S, N, N)."""
    c = z.flatten(-2)[:, 0] - mean
    return c[:, :, None] * c[:, None, :]


def make_linear() -> tuple[Linear, Target, Tensor]:
    """The program, its posterior given some x, and the mean of that, (1, N)."""
    model, x = Linear(), torch.randn(1, N, dtype=torch.double)
    return model, Target(model, None, (x,)), model.mean(x)
