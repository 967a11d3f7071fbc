"""Every engine by its key, and what its draws are compared with.

=============== ======================================================================================
engine          on a linear-Gaussian model, P the precision of the posterior N(m, P⁻¹)
=============== ======================================================================================
``langevin``    its own stationary law: the mean m, the covariance (P − η P²/4)⁻¹
``vem``         the best mean-field Gaussian: m, variances 1/P_ii; found from a guide that knows nothing
``peem``        the mode m
``mh``          the posterior; invariance and calibration besides
``mala``        the posterior; invariance and calibration besides
``hmc``         the posterior; invariance and calibration besides
``nuts``        the posterior; invariance and calibration besides
``hmc-batched`` the posterior; invariance and calibration besides
``autoguide``   the best mean-field Gaussian; its other guides are in test_autoguide.py
``encoder``     the posterior, by the guide of a Kalman model, whose family holds it
=============== ======================================================================================

Invariance and calibration are in test_exactness.py.
"""

from __future__ import annotations

import io
from collections.abc import Iterable
from typing import NamedTuple

import pyro
import pyro.distributions as dist
import pytest
import torch
from dense import random_model
from linear import make_linear, run
from torch import Tensor, nn
from toys import D, mixture

from pyrodvae.checks import kalman_posterior, posterior_errors
from pyrodvae.engines import (
    ENGINES,
    HMC,
    MALA,
    MH,
    NUTS,
    PEEM,
    VEM,
    AutoGuide,
    BatchedHMC,
    Chain,
    Encoder,
    Engine,
    Langevin,
)
from pyrodvae.engines.autoguide import GUIDES
from pyrodvae.guides import make_guide
from pyrodvae.models import Kalman
from pyrodvae.potential import Target
from pyrodvae.program import Program

T, ETA = 2, 0.2


class Case(NamedTuple):
    """An engine, what it is compared with, and how many draws it takes."""

    engine: Engine
    reference: str
    chains: int
    steps: int = 1  # before the first draw
    draws: int = 1  # of each chain
    sequences: int = 2


COMPARED = {
    "langevin": Case(Langevin(ETA, precondition=False, temperature=1.0), "stationary", 4000, 60),
    "vem": Case(VEM(learning_rate=0.03, steps=250), "mean field", 1000),
    "peem": Case(PEEM(steps=500, beta2=0.9, half_life=25), "mode", 2),
    "mh": Case(MH(step_size=0.5, steps=80, warmup=80), "posterior", 1000, 2),
    "mala": Case(MALA(step_size=0.5, steps=30, warmup=30), "posterior", 1000, 2),
    "hmc": Case(HMC(step_size=0.35, warmup=0, leapfrogs=2), "posterior", 20, 4, 8, 1),
    "nuts": Case(NUTS(step_size=0.35, warmup=0, max_tree_depth=2), "posterior", 20, 4, 8, 1),
    "hmc-batched": Case(BatchedHMC(step_size=0.3, steps=10, warmup=10), "posterior", 1000, 2),
    "autoguide": Case(AutoGuide(learning_rate=0.03, steps=250), "mean field", 1000),
    "encoder": Case(Encoder(), "posterior", 4000),
}
"""To every key of ENGINES."""


class Scene(NamedTuple):
    target: Target
    mean: Tensor
    covariance: Tensor


class Blank(Program):
    """q(z | x) = N(W x + w, diag v): of two sequences, its best is the best mean-field Gaussian."""

    def __init__(self) -> None:
        super().__init__()
        self.map = nn.Linear(T * D, T * D).double()
        self.log_scale = nn.Parameter(torch.zeros(T, D, dtype=torch.double))

    def forward(self, x: Tensor) -> Tensor:
        with pyro.plate("batch", len(x), dim=-1):
            loc = self.map(x.flatten(-2)).unflatten(-1, (T, D))
            return pyro.sample("z", dist.Normal(loc, self.log_scale.exp()).to_event(2))


def state_space(sequences: int, blank: bool = False) -> Scene:
    """A Kalman model, with its own guide or a blank one."""
    torch.manual_seed(2)
    parameters = random_model(D, D, offsets=False)
    model = Kalman(D, D).double().requires_grad_(False)
    model.assign(parameters)
    _, x = model.generate(T, sequences)
    guide = Blank() if blank else make_guide(model, "paper").double()
    return Scene(Target(model, guide, (x,), model.reach), *kalman_posterior(model.exact(), x))


def draws(key: str, scene: Scene) -> Tensor:
    """(n, S, B, T, D), every chain from zero."""
    case, kept = COMPARED[key], []
    state = case.engine.init(scene.target, torch.zeros(case.chains, *scene.mean.shape, dtype=torch.double))
    for _ in range(case.steps + case.draws - 1):
        state, _ = case.engine.step(scene.target, state)
        kept.append(state.z.detach())
    return torch.stack(kept[case.steps - 1 :])


def references(covariance: Tensor) -> dict[str, Tensor]:
    """Covariances (B, N, N) by their names."""
    P = torch.linalg.inv(covariance)
    return {
        "posterior": covariance,
        "mean field": torch.diag_embed(1 / P.diagonal(dim1=-2, dim2=-1)),
        "stationary": torch.linalg.inv(P - ETA * P @ P / 4),
    }


def uncompared(engines: Iterable[str]) -> set[str]:
    """Keys without a row above, or without an entry of COMPARED."""
    rows = {line.split("``")[1] for line in (__doc__ or "").splitlines() if line.startswith("``")}
    return set(engines) ^ rows | set(engines) ^ set(COMPARED)


def test_every_engine_is_compared_with_something() -> None:
    assert not uncompared(ENGINES)
    assert uncompared([*ENGINES, "new"]) == {"new"}
    assert uncompared(set(ENGINES) - {"mh"}) == {"mh"}
    assert all(type(case.engine) is ENGINES[key] for key, case in COMPARED.items())


@pytest.mark.parametrize("key", [key for key, case in COMPARED.items() if case.reference != "mode"])
def test_draws_are_within_five_standard_errors(key: str) -> None:
    """The controls: a mean one deviation off, twice the covariance; the posterior, for what is not exact."""
    case = COMPARED[key]
    scene = state_space(case.sequences, blank=key == "vem")
    z, known = draws(key, scene), references(scene.covariance)
    covariance, sd = known[case.reference], scene.covariance.diagonal(dim1=-2, dim2=-1).sqrt()
    found = posterior_errors(z, scene.mean, covariance)
    assert found.worst < 5, found
    assert posterior_errors(z, scene.mean + sd.view_as(scene.mean), covariance).mean.abs().max() > 5
    assert posterior_errors(z, scene.mean, 2 * covariance).covariance.abs().max() > 5
    if case.reference != "posterior":
        assert posterior_errors(z, scene.mean, known["posterior"]).covariance.abs().max() > 5


def test_a_point_is_the_mode() -> None:
    scene = state_space(2)
    assert (draws("peem", scene) - scene.mean).abs().max() < 1e-6
    early = run(PEEM(steps=10), scene.target, torch.zeros(1, *scene.mean.shape).double(), 1)
    assert (early - scene.mean).abs().max() > 0.1


# Langevin without correction: its bias falls in proportion to the step, and the correction removes it


ETAS = torch.tensor([0.1, 0.2, 0.3, 0.4], dtype=torch.double)


def bias(engine: Engine, scene: Scene) -> tuple[float, float]:
    """Of the variance of draws, mean over elements, started in the posterior; and its standard error."""
    root, chains = torch.linalg.cholesky(scene.covariance[0]), 25_000
    start = scene.mean + (torch.randn(chains, T * D, dtype=torch.double) @ root.mT).view(chains, 1, T, D)
    c = run(engine, scene.target, start, 1) - scene.mean
    excess = c.square().mean((1, 2, 3)) - scene.covariance[0].diag().mean()
    return float(excess.mean()), float(excess.std() / chains**0.5)


def slope(values: Tensor, errors: Tensor) -> tuple[float, float]:
    """a of the weighted fit a η + b η², and its standard error."""
    powers = torch.stack([ETAS, ETAS**2], -1) / errors[:, None]
    C = torch.linalg.inv(powers.mT @ powers)
    return float((C @ powers.mT @ (values / errors))[0]), float(C[0, 0].sqrt())


def test_the_bias_of_langevin_falls_in_proportion_to_its_step() -> None:
    r"""(P − η P²/4)^{-1} = P^{-1} + η/4 + O(η²), whatever P. The control is the same move with correction."""
    model, target, mean = make_linear()
    P = model.precision()
    scene = Scene(target, mean.view(1, T, D), torch.linalg.inv(P)[None])
    stationary = torch.stack([torch.linalg.inv(P - eta * P @ P / 4) for eta in ETAS])
    theory = (stationary - scene.covariance).diagonal(dim1=-2, dim2=-1).mean(-1)

    def moves(eta: float) -> int:
        return round(2.5 / eta)  # where it started it forgets by exp(-2.5) at least: P >= 1

    def uncorrected(eta: float) -> Engine:
        return Langevin(eta, moves(eta), precondition=False, temperature=1.0)

    def corrected(eta: float) -> Engine:
        return MALA(eta**0.5, moves(eta), warmup=0, acceptance="joint")

    none = torch.zeros_like(theory)
    for engine, right, wrong in ((uncorrected, theory, none), (corrected, none, theory)):
        values, errors = torch.tensor([bias(engine(float(eta)), scene) for eta in ETAS]).double().T
        assert ((values - right).abs() < 5 * errors).all()
        found, error = slope(values, errors)
        assert abs(found - slope(right, errors)[0]) < 5 * error < abs(found - slope(wrong, errors)[0])


# Resuming

RESUMED = {
    **{key: kind() for key, kind in ENGINES.items()},
    **{f"autoguide {guide}": AutoGuide(guide=guide) for guide in GUIDES},
    "hmc": HMC(leapfrogs=2),
    "nuts": NUTS(max_tree_depth=2),
    "chain": Chain((Encoder(), Langevin(), VEM()), (1, 2, 9)),
}


@pytest.mark.parametrize("key", RESUMED)
def test_a_state_goes_on_from_disk_as_if_it_had_stayed(key: str) -> None:
    """Bit for bit. The control starts anew from the same draws: only the encoder remembers nothing."""
    model, guide, x, z = mixture(chains=1)
    engine, target = RESUMED[key], Target(model, guide, (x,))
    state = engine.init(target, z)
    for _ in range(2):
        state, _ = engine.step(target, state)
    file, anew = io.BytesIO(), engine.init(target, state.z.detach().clone())
    torch.save(state, file)
    file.seek(0)
    loaded = torch.load(file, weights_only=False)
    assert type(loaded) is type(state)

    def onwards(state: object) -> Tensor:
        torch.manual_seed(1)
        for _ in range(3):
            state, _ = engine.step(target, state)
        return state.z

    z = onwards(loaded)
    assert torch.equal(onwards(state), z)
    assert torch.equal(onwards(anew), z) == (key == "encoder")
