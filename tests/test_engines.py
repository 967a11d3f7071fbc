"""Engines: state in, state out; each against a posterior that is known exactly."""

from __future__ import annotations

import copy

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer import TraceMeanField_ELBO
from torch import Tensor
from toys import B, D, T, errors, make, spectra

from pyrodvae.engines import ENGINES, VEM, Langevin
from pyrodvae.noise import NMFNoise
from pyrodvae.noisy import NoisySpeech
from pyrodvae.potential import Target
from pyrodvae.program import Program, local_parameters

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


def run(engine, target: Target, z: Tensor, steps: int) -> Tensor:
    state = engine.init(target, z)
    for _ in range(steps):
        state, _ = engine.step(target, state)
    return state.z.detach()


def products(z: Tensor, mean: Tensor) -> Tensor:
    """(z − mean)(z − mean)ᵀ of draws (S, 1, T, D), whose mean is the covariance: (S, N, N)."""
    c = z.flatten(-2)[:, 0] - mean
    return c[:, :, None] * c[:, None, :]


@pytest.fixture
def linear() -> tuple[Linear, Target, Tensor]:
    model, x = Linear(), torch.randn(1, N, dtype=torch.double)
    return model, Target(model, None, (x,)), model.mean(x)


def test_langevin_has_the_covariance_that_theory_gives_it(linear) -> None:
    r"""z' = z − (η/2) P z + √η ε stands still at Σ = (P − η P²/4)^{-1}, not at P^{-1}."""
    model, target, mean = linear
    P, eta = model.precision(), 0.5
    stationary = torch.linalg.inv(P - eta * P @ P / 4)
    start = torch.zeros(20_000, 1, FRAMES, SIZE, dtype=torch.double)

    def draws(**settings) -> Tensor:
        return run(Langevin(precondition=False, **settings), target, start, 60)

    z = draws(step_size=eta)
    assert errors(z.flatten(-2)[:, 0], mean[0]) < 5
    assert errors(products(z, mean), stationary) < 5
    assert errors(products(z, mean), torch.linalg.inv(P)) > 5  # the bias of having no correction
    assert errors(products(draws(step_size=eta, temperature=0.5), mean), stationary) > 5


def test_langevin_with_short_steps_draws_from_the_posterior(linear) -> None:
    model, target, mean = linear
    start = torch.zeros(4000, 1, FRAMES, SIZE, dtype=torch.double)
    engine = Langevin(step_size=0.02, steps=500, precondition=False)
    z = run(engine, target, start, 1)
    assert errors(products(z, mean), torch.linalg.inv(model.precision())) < 5
    assert errors(products(z, mean), torch.eye(N, dtype=torch.double)) > 5  # the prior


@pytest.mark.parametrize("precondition", [True, False])
def test_cold_langevin_finds_the_mode(linear, precondition: bool) -> None:
    _, target, mean = linear
    start = torch.zeros(2, 1, FRAMES, SIZE, dtype=torch.double)
    engine = Langevin(step_size=0.3, precondition=precondition, temperature=0.0)
    modes = [run(engine, target, start, n).flatten(-2) for n in (3, 300)]
    torch.testing.assert_close(modes[1], mean.expand(2, 1, -1), rtol=1e-8, atol=1e-8)
    assert (modes[0] - mean).abs().max() > 1e-2


def test_preconditioner_is_the_running_mean_of_squared_gradients(linear) -> None:
    """Two steps without noise, by hand; the first divides by |gradient| + 1, whatever the decay."""
    _, target, _ = linear
    z = start = torch.randn(3, 1, FRAMES, SIZE, dtype=torch.double)
    square = torch.zeros_like(z)
    for n in (1, 2):
        gradient = target.gradient(z)[1]
        square = 0.7 * square + 0.3 * gradient**2
        z = z + 0.1 * gradient / ((square / (1 - 0.7**n)).sqrt() + 1)
        given = run(Langevin(0.2, steps=n, decay=0.7, temperature=0.0), target, start, 1)
        torch.testing.assert_close(given, z, rtol=1e-12, atol=1e-14)
    other = run(Langevin(0.2, steps=2, decay=0.9, temperature=0.0), target, start, 1)
    assert not torch.allclose(other, z)


def test_gradient_of_the_linear_model(linear) -> None:
    model, target, mean = linear
    z = torch.randn(5, 1, FRAMES, SIZE, dtype=torch.double)
    log_p, gradient = target.gradient(z)
    wanted = -(z.flatten(-2) - mean) @ model.precision()
    torch.testing.assert_close(gradient.flatten(-2), wanted, rtol=1e-12, atol=1e-12)
    assert log_p.shape == (5, 1)
    assert not log_p.requires_grad


# --- on speech


def scene() -> tuple[Target, Tensor]:
    speech, guide = make("rvae", "paper")
    x = 2 * spectra()
    noise = NMFNoise.from_quiet_frames(x, 2, torch.Generator().manual_seed(0))
    z = torch.randn(2, B, T, D, dtype=torch.double)
    return Target(NoisySpeech(speech, noise), guide, (x,)), z


@pytest.mark.parametrize("key", ENGINES)
def test_what_an_engine_is(key: str) -> None:
    """Every chain of every sequence moves, the state that went in is left alone, and S stays."""
    engine = ENGINES[key]()
    target, z = scene()
    given = z.clone()
    first = engine.init(target, z)
    before = first.z.detach().clone()
    second, info = engine.step(target, first)
    assert torch.equal(z, given)
    assert torch.equal(first.z, before)
    assert second.z.shape == z.shape
    assert (second.z != before).flatten(2).any(-1).all()
    assert all(torch.isfinite(v).all() for v in info.values())


def test_engines_chain() -> None:
    target, z = scene()
    for name in [*ENGINES, *ENGINES]:
        z = run(ENGINES[name](), target, z, 1)
    assert torch.isfinite(z).all()


def test_langevin_says_how_likely_its_draws_were() -> None:
    target, z = scene()
    state, info = Langevin().step(target, Langevin().init(target, z))
    torch.testing.assert_close(info["log_joint"], target.log_joint(z))
    assert not torch.allclose(info["log_joint"], target.log_joint(state.z.detach()))


def test_vem_raises_the_bound_of_a_copy() -> None:
    target, z = scene()

    def bound(guide) -> Tensor:
        torch.manual_seed(5)
        with local_parameters(), torch.no_grad():
            loss = TraceMeanField_ELBO()(target.model, guide)
            return -torch.stack([loss(*target.args) for _ in range(100)])

    before = copy.deepcopy(target.guide.state_dict())
    model = copy.deepcopy(target.model.speech.state_dict())
    engine = VEM(learning_rate=1e-2, steps=20)
    state = engine.init(target, z)
    for _ in range(3):
        state, info = engine.step(target, state)
    assert all(torch.equal(v, before[k]) for k, v in target.guide.state_dict().items())
    assert all(torch.equal(v, model[k]) for k, v in target.model.speech.state_dict().items())
    assert not any(torch.equal(v, before[k]) for k, v in state.guide.named_parameters())
    assert errors(bound(state.guide) - bound(target.guide)) > 5
    assert bound(state.guide).mean() > bound(target.guide).mean()
    assert info["elbo"].ndim == 0
    twice = engine.init(target, z).guide
    assert all(torch.equal(v, before[k]) for k, v in twice.state_dict().items())  # a fresh copy each time


def test_vem_needs_a_guide() -> None:
    target, z = scene()
    with pytest.raises(ValueError, match="VEM fine-tunes a guide"):
        VEM().init(Target(target.model, None, target.args), z)


@pytest.mark.parametrize(
    ("engine", "setting"),
    [
        (Langevin, {"step_size": -0.1}),
        (Langevin, {"steps": 0}),
        (Langevin, {"temperature": -1.0}),
        (Langevin, {"decay": 1.0}),
        (VEM, {"learning_rate": 0.0}),
        (VEM, {"steps": 0}),
    ],
)
def test_settings_that_cannot_run_are_refused(engine: type, setting: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="cannot run"):
        engine(**setting)
