"""Posteriors that are known exactly, and how far draws of a chain are from them."""

from __future__ import annotations

from typing import NamedTuple

import pyro
import pyro.distributions as dist
import torch
from dense import Dense, random_model
from linear import make_linear
from pyro.ops.stats import effective_sample_size
from torch import Tensor
from toys import errors

from pyrodvae.models import Kalman
from pyrodvae.potential import Target
from pyrodvae.program import Program

T, D, F, SIGMA = 3, 2, 2, 1.0


class Frames(Program):
    """z ~ N(0, I), x | z ~ N(A z, σ²), where frame t of x sees frame s of z if (t, s) is among those seen."""

    def __init__(self, seen: Tensor) -> None:
        super().__init__()
        blocks = seen.double().repeat_interleave(F, 0).repeat_interleave(D, 1)
        self.register_buffer("A", blocks * torch.randn(T * F, T * D, dtype=torch.double))

    def forward(self, x: Tensor) -> Tensor:
        """Sites z (event (T, D)) and x (event (T, F))."""
        with pyro.plate("batch", len(x), dim=-1):
            zero = torch.zeros(T, D, dtype=x.dtype)
            z = pyro.sample("z", dist.Normal(zero, 1.0).expand([len(x), T, D]).to_event(2))
            mean = (z.flatten(-2) @ self.A.mT).unflatten(-1, (T, F))
            pyro.sample("x", dist.Normal(mean, SIGMA).to_event(2), obs=x)
        return z


class Scene(NamedTuple):
    """A target of one sequence, its posterior mean (T·D,) and covariance, and the prior's variance."""

    target: Target
    mean: Tensor
    covariance: Tensor
    shape: tuple[int, int]


def every_frame_sees_all() -> Scene:
    """As an RVAE's do; and its terms are known frame by frame, which must not mislead anyone."""
    return _linear(torch.ones(T, T), None)


def every_frame_sees_itself() -> Scene:
    """As a VAE's do."""
    return _linear(torch.eye(T), 0)


def _linear(seen: Tensor, reach: int | None) -> Scene:
    model, x = Frames(seen), torch.randn(1, T, F, dtype=torch.double)
    precision = torch.eye(T * D, dtype=torch.double) + model.A.mT @ model.A / SIGMA**2
    mean = torch.linalg.solve(precision, model.A.mT @ x.flatten() / SIGMA**2)
    return Scene(Target(model, None, (x,), reach), mean, torch.linalg.inv(precision), (T, D))


def one_site() -> Scene:
    """A program whose terms are not known frame by frame."""
    model, target, mean = make_linear()
    return Scene(target, mean[0], torch.linalg.inv(model.precision()), (2, 2))


def state_space() -> Scene:
    """z_t given z_{t-1}, by a Kalman model of an odd number of frames."""
    frames = 5
    model = Kalman(F, D).double().requires_grad_(False)
    model.assign(random_model(D, F, offsets=False))
    dense, x = Dense(model.exact(), frames), 2 * torch.randn(1, frames, F, dtype=torch.double)
    z_of, x_of = dense.index(z=[*range(frames)]), dense.index(x=[*range(frames)])
    W, w, C = dense.given(z_of, x_of)
    return Scene(Target(model, None, (x,), model.reach), W @ x.flatten() + w, C, (frames, D))


SCENES = {s.__name__: s for s in (one_site, every_frame_sees_all, every_frame_sees_itself, state_space)}


def start(scene: Scene, chains: int) -> Tensor:
    """Where chains start: at zero, (S, 1, T, D)."""
    return torch.zeros(chains, 1, *scene.shape, dtype=torch.double)


def off(z: Tensor, scene: Scene) -> float:
    """Standard errors between independent draws (S, 1, T, D) and the posterior, the worst of first and
    second moments."""
    c = z.flatten(1) - scene.mean
    return max(errors(c), errors(c[:, :, None] * c[:, None, :], scene.covariance))


def off_along(z: Tensor, scene: Scene) -> float:
    """The same of successive draws of chains (N, S, 1, T, D), which depend on each other."""
    c = z.flatten(2) - scene.mean
    squares = (c[..., :, None] * c[..., None, :] - scene.covariance).flatten(2)
    worst = 0.0
    for deviation in (c, squares):
        count = effective_sample_size(deviation, chain_dim=1, sample_dim=0)
        se = deviation.flatten(0, 1).std(0) / count.sqrt()
        worst = max(worst, float((deviation.mean((0, 1)).abs() / se).max()))
    return worst
