"""Pyro's AutoGuides as engines, against the best that their families can do."""

from __future__ import annotations

import pyro
import pyro.distributions as dist
import pytest
import torch
from linear import FRAMES, SIZE, make_linear, products
from pyro.infer import Trace_ELBO
from pyro.infer.autoguide import AutoDiagonalNormal, AutoNormal
from torch import Tensor
from toys import errors, mixture

from pyrodvae.engines.autoguide import GUIDES, LARGEST, AutoGuide
from pyrodvae.potential import Target
from pyrodvae.program import Program, local_parameters


def fit(engine: AutoGuide, target: Target, z: Tensor, steps: int = 1):
    state = engine.init(target, z)
    for _ in range(steps):
        state, _ = engine.step(target, state)
    return state


def test_each_guide_finds_the_best_of_its_family() -> None:
    """Mean field: the exact mean, variances 1/P_ii; with covariances: the posterior itself.

    The controls are each other: mean field misses the covariance, the others its variances.
    """
    model, target, mean = make_linear()
    P = model.precision()
    exact, meanfield = torch.linalg.inv(P), torch.diag(1 / P.diag())
    start = torch.zeros(1500, 1, FRAMES, SIZE, dtype=torch.double)

    def draws(guide: str) -> Tensor:
        z = fit(AutoGuide(guide=guide, rank=4, learning_rate=0.02, steps=250), target, start).z
        assert errors(z[:, 0].flatten(-2), mean[0]) < 5
        return products(z, mean)

    normal = draws("normal")
    assert errors(normal, meanfield) < 5
    assert errors(normal, exact) > 5
    for guide in ("lowrank", "multivariate"):
        full = draws(guide)
        assert errors(full, exact) < 5
        assert errors(full, meanfield) > 5


def test_a_point_is_the_mode() -> None:
    _, target, mean = make_linear()
    engine = AutoGuide(guide="delta", learning_rate=0.02, steps=400)
    state = fit(engine, target, torch.randn(2, 1, FRAMES, SIZE).double())
    assert torch.equal(state.z[0], state.z[1])
    assert (state.z.flatten(-2) - mean).abs().max() < 0.02
    assert (fit(AutoGuide(guide="delta"), target, state.z + 1).z.flatten(-2) - mean).abs().max() > 0.1


class Banana(Program):
    """z ~ N(0, I) of two elements, x | z ~ N(z_1 + z_0², 0.3²): the posterior is curved."""

    def forward(self, x: Tensor) -> Tensor:
        with pyro.plate("batch", len(x), dim=-1):
            z = pyro.sample("z", dist.Normal(torch.zeros(len(x), 1, 2).to(x), 1.0).to_event(2))
            pyro.sample("x", dist.Normal(z[..., 1] + z[..., 0] ** 2, 0.3).to_event(1), obs=x)
        return z


def test_a_flow_bends_where_a_gaussian_cannot() -> None:
    """In its bound on log p(x), against mean field; the control is the flow before it has learned."""
    target = Target(Banana(), None, (torch.full((1, 1), 2.0, dtype=torch.double),))
    elbo = Trace_ELBO(num_particles=1000, vectorize_particles=True, max_plate_nesting=1)

    def bounds(guide: str, steps: int) -> Tensor:
        engine = AutoGuide(guide=guide, learning_rate=0.02, steps=steps)
        state = fit(engine, target, torch.zeros(30, 1, 1, 2).double())
        with local_parameters(), torch.no_grad():
            return -torch.stack(
                [elbo.differentiable_loss(target.model, state.guide, *target.args) for _ in range(10)]
            )

    normal, flow = bounds("normal", 200), bounds("iaf", 200)
    assert errors(flow - normal) > 5
    assert flow.mean() > normal.mean() + 0.1
    assert bounds("iaf", 1).mean() < normal.mean()


@pytest.mark.parametrize("guide", [*GUIDES, AutoNormal, lambda m: AutoDiagonalNormal(m, init_scale=0.001)])
def test_it_starts_at_the_given_path(guide) -> None:
    """Around the mean of the chains, within a few standard deviations; the control starts elsewhere."""
    model, _, x, z = mixture()
    target = Target(model, None, (x,))
    scale = 0.1 if guide is AutoNormal else 0.001  # the first is Pyro's own
    engine = AutoGuide(guide=guide, init_scale=0.001, learning_rate=1e-12)
    off = fit(engine, target, z).z - z.mean(0)
    assert off.abs().max() < 6 * scale
    assert (fit(engine, target, z + 1).z - z.mean(0)).abs().max() > 6 * scale


@pytest.mark.parametrize("chains", [1, 2])
@pytest.mark.parametrize("guide", GUIDES)
def test_it_raises_the_bound_on_a_mixture(guide: str, chains: int) -> None:
    model, _, x, z = mixture(chains=chains)
    target, engine = Target(model, None, (x,)), AutoGuide(guide=guide, learning_rate=0.02)
    before = {k: v.clone() for k, v in model.state_dict().items()}
    state, found = engine.init(target, z), []
    for _ in range(60):
        state, info = engine.step(target, state)
        found.append(info["elbo"])
    assert state.z.shape == z.shape
    assert torch.stack(found[-10:]).mean() > torch.stack(found[:10]).mean()
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())


@pytest.mark.parametrize(
    "setting",
    [
        {"guide": "laplace"},
        {"guide": AutoNormal(Banana())},
        {"rank": 0},
        {"init_scale": 0.0},
        {"learning_rate": 0.0},
        {"steps": 0},
        {"clip": 0.0},
    ],
)
def test_settings_that_cannot_run_are_refused(setting) -> None:
    with pytest.raises(ValueError, match="cannot run"):
        AutoGuide(**setting)


@pytest.mark.parametrize("guide", LARGEST)
def test_a_path_that_is_too_long_is_refused_before_memory_is_asked_for(guide: str) -> None:
    model, _, x, _ = mixture()
    with pytest.raises(ValueError, match="too long for it"):
        AutoGuide(guide=guide).init(Target(model, None, (x,)), torch.zeros(1, 3, 100_000, 2))
