"""Langevin dynamics against a posterior that is known exactly."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
import torch
from linear import FRAMES, SIZE, Linear, N, make_linear, products, run
from torch import Tensor
from toys import errors

from pyrodvae.engines import Langevin
from pyrodvae.engines.langevin import LangevinState
from pyrodvae.potential import Target

Scene = tuple[Linear, Target, Tensor]


@pytest.fixture
def linear() -> Scene:
    return make_linear()


def test_langevin_has_the_covariance_that_theory_gives_it(linear) -> None:
    r"""z' = z − (η/2) P z + √η ε stands still at Σ = (P − η P²/4)^{-1}, not at P^{-1}."""
    model, target, mean = linear
    P, eta = model.precision(), 0.5
    stationary = torch.linalg.inv(P - eta * P @ P / 4)
    start = torch.zeros(20_000, 1, FRAMES, SIZE, dtype=torch.double)

    def draws(**settings) -> Tensor:
        return run(Langevin(**{"precondition": False, "temperature": 1.0, **settings}), target, start, 60)

    z = draws(step_size=eta)
    assert errors(z.flatten(-2)[:, 0], mean[0]) < 5
    assert errors(products(z, mean), stationary) < 5
    assert errors(products(z, mean), torch.linalg.inv(P)) > 5  # the bias of having no correction
    assert errors(products(draws(step_size=eta, temperature=0.5), mean), stationary) > 5


def test_langevin_with_short_steps_draws_from_the_posterior(linear) -> None:
    model, target, mean = linear
    start = torch.zeros(4000, 1, FRAMES, SIZE, dtype=torch.double)
    engine = Langevin(step_size=0.02, steps=500, precondition=False, temperature=1.0)
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


def test_preconditioner_is_the_mean_of_all_squared_gradients(linear) -> None:
    """Three steps without noise, by hand; the first divides by |gradient| + 1."""
    _, target, _ = linear
    z = start = torch.randn(3, 1, FRAMES, SIZE, dtype=torch.double)
    squares = []
    for n in (1, 2, 3):
        gradient = target.gradient(z)[1]
        squares.append(gradient**2)
        z = z + 0.1 * gradient / (torch.stack(squares).mean(0).sqrt() + 1)
        whole = run(Langevin(0.2, steps=n, temperature=0.0), target, start, 1)
        pieces = run(Langevin(0.2, temperature=0.0), target, start, n)  # the state carries the mean on
        torch.testing.assert_close(whole, z, rtol=1e-12, atol=1e-14)
        torch.testing.assert_close(pieces, z, rtol=1e-12, atol=1e-14)
    assert not torch.allclose(run(Forgetful(0.2, steps=3, temperature=0.0), target, start, 1), z)


@dataclass(frozen=True)
class Forgetful(Langevin):
    """The control: a mean that forgets, so that the preconditioner follows the path for ever."""

    def step(self, target: Target, state: LangevinState) -> tuple[LangevinState, dict[str, Tensor]]:
        z, square, count = state
        for _ in range(self.steps):
            gradient, count = target.gradient(z)[1], count + 1
            square = 0.9 * square + 0.1 * gradient**2
            eta = self.step_size / ((square / (1 - 0.9**count)).sqrt() + 1)
            z = z + 0.5 * eta * gradient + (self.temperature * eta).sqrt() * torch.randn_like(z)
        return LangevinState(z, square, count), {}


def test_preconditioned_langevin_has_the_covariance_that_theory_gives_it(linear) -> None:
    r"""With M settled at 1/(√E[G²] + 1), E[G²] = diag(P Σ P), it is Σ = (P − η P M P/4)^{-1}."""
    model, target, mean = linear
    P, settings = model.precision(), {"step_size": 0.4, "temperature": 1.0, "steps": 300}
    exact = stationary = torch.linalg.inv(P)
    for _ in range(50):
        M = torch.diag(1 / ((P @ stationary @ P).diag().sqrt() + 1))
        stationary = torch.linalg.inv(P - 0.4 * P @ M @ P / 4)
    start = torch.zeros(8000, 1, FRAMES, SIZE, dtype=torch.double)
    c = products(run(Langevin(**settings), target, start, 1), mean)
    assert errors(c, stationary) < 5
    assert errors(c, exact) > 5  # the bias of having no correction
    assert errors(products(run(Forgetful(**settings), target, start, 1), mean), stationary) > 5


def test_preconditioned_langevin_with_short_steps_draws_from_the_posterior(linear) -> None:
    """At η = 0.05 the bias above is 1 % of a variance, less than a standard error of 2000 draws (3 %)."""
    model, target, mean = linear
    exact = torch.linalg.inv(model.precision())
    start = torch.zeros(2000, 1, FRAMES, SIZE, dtype=torch.double)

    def draws(engine: Langevin) -> Tensor:
        return run(engine, target, start, 1).flatten(-2)[:, 0] - mean

    settings = {"step_size": 0.05, "steps": 400, "temperature": 1.0}
    z, forgetful = draws(Langevin(**settings)), draws(Forgetful(**settings))
    assert errors(z) < 5
    assert errors(z[:, :, None] * z[:, None, :], exact) < 5
    assert errors(forgetful**2, exact.diag()) > 5
    assert ((forgetful**2).mean(0) > 1.2 * exact.diag()).all()


def test_a_temperature_widens_the_posterior_in_proportion(linear) -> None:
    """At a small step, τ multiplies the covariance; the default is a broader posterior on purpose."""
    model, target, mean = linear
    exact, tau = torch.linalg.inv(model.precision()), Langevin().temperature
    start = torch.zeros(2000, 1, FRAMES, SIZE, dtype=torch.double)
    c = products(run(Langevin(step_size=0.05, steps=400, precondition=False), target, start, 1), mean)
    assert tau > 1
    assert errors(c, tau * exact) < 5
    assert errors(c, exact) > 5


def test_gradient_of_the_linear_model(linear) -> None:
    model, target, mean = linear
    z = torch.randn(5, 1, FRAMES, SIZE, dtype=torch.double)
    log_p, gradient = target.gradient(z)
    wanted = -(z.flatten(-2) - mean) @ model.precision()
    torch.testing.assert_close(gradient.flatten(-2), wanted, rtol=1e-12, atol=1e-12)
    assert log_p.shape == (5, 1)
    assert not log_p.requires_grad
