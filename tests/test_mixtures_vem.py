"""The factorised posterior r(s) r(z) r(α): closed-form steps climb, and the walk is r(z)."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from mixtures import EACH, heard, make
from torch import Tensor
from toys import B, D, T, errors

from pyrodvae.av_mixture import CERTAIN
from pyrodvae.distributions import power
from pyrodvae.engines import Factorised
from pyrodvae.mixture_vem import (
    Drawn,
    Speech,
    Walk,
    both,
    bound,
    factorised_em,
    mean,
    update_choice,
    update_noise,
    update_share,
    update_speech,
)
from pyrodvae.noise import PLAIN
from pyrodvae.program import local_parameters

each = pytest.mark.parametrize("name", EACH)


@pytest.fixture(autouse=True)
def local():
    with local_parameters():
        yield


class Now:
    """All that the bound is made of, with some draws of z that stay."""

    def __init__(self, name: str, seed: int) -> None:
        m, _ = make(name, seed=seed)
        self.x, self.v, self.noise = heard()
        self.walk = Walk(m, self.x, self.v, Factorised(steps=4, burn_in_moves=1))
        self.seen = self.walk.coins.log_odds < CERTAIN
        self.log_prior = both(self.walk.coins.log_odds).detach()
        self.r = self.log_prior.exp()
        self.speech = Speech(0.5 * self.x, torch.rand_like(self.x.real) + 0.1)
        z = torch.randn(2, B, T, D, dtype=torch.double)
        _, kept, _ = self.walk(z, self.r, self.speech)
        self.drawn = mean(kept)

    def bound(self) -> Tensor:
        return bound(self.x, self.noise.variance, self.speech, self.drawn, self.r, self.log_prior)

    def speech_step(self, wrong: float = 1.0) -> None:
        self.speech = update_speech(self.x, wrong * self.noise.variance, self.drawn, self.r)

    def choice_step(self, wrong: float = 1.0) -> None:
        self.r = update_choice(
            self.speech, Drawn(self.drawn.score, wrong * self.drawn.precision), self.log_prior
        )

    def share_step(self, wrong: float = 1.0) -> None:
        self.log_prior = update_share(self.r if wrong == 1 else self.r.flip(0), self.seen)

    def noise_step(self, wrong: float = 1.0) -> None:
        speech = self.speech if wrong == 1 else Speech(-self.speech.mean, self.speech.variance)
        update_noise(self.x, speech, self.noise, PLAIN, PLAIN.init())


STEPS: dict[str, Callable[..., None]] = {
    "r(s)": Now.speech_step, "r(α)": Now.choice_step, "π": Now.share_step, "W, H": Now.noise_step
}  # fmt: skip


@each
def test_no_closed_form_step_lowers_the_bound(name: str) -> None:
    least = {step: 0.0 for step in STEPS}
    for seed in range(4):
        now = Now(name, seed)
        before = now.bound()
        for _ in range(12):
            for step, make_it in STEPS.items():
                make_it(now)
                after = now.bound()
                assert torch.isfinite(after).all()
                assert (after >= before - 1e-9 * before.abs()).all(), step
                least[step] = max(least[step], float((after - before).max()))
                before = after
    assert all(gain > 1e-3 for gain in least.values())  # each of them has something to do


@pytest.mark.parametrize("step", STEPS)
def test_a_wrong_step_lowers_it(step: str) -> None:
    """The control: the noise taken double, the precisions double, r the other way round, −m for m."""
    lost = []
    for seed in range(4):
        now = Now("vae-mm", seed)
        for _ in range(12):
            for make_it in STEPS.values():
                make_it(now)
        before = now.bound()
        STEPS[step](now, 2.0)
        lost.append(bool((now.bound() < before - 1e-6).any()))
    assert any(lost)


def test_each_factor_is_the_best_beside_the_others() -> None:
    """Slopes of the bound vanish at r(s), and r(α) is its Gibbs form; not so elsewhere."""
    now = Now("vae-mm", 0)
    now.speech_step()
    m, log_ν = now.speech.mean.clone().requires_grad_(), now.speech.variance.log().requires_grad_()

    def at(m: Tensor, log_ν: Tensor) -> Tensor:
        speech = Speech(m, log_ν.exp())
        return bound(now.x, now.noise.variance, speech, now.drawn, now.r, now.log_prior).sum()

    for slope in torch.autograd.grad(at(m, log_ν), [m, log_ν]):
        assert slope.abs().max() < 1e-9
    assert torch.autograd.grad(at(1.1 * m, log_ν), m)[0].abs().max() > 1e-3
    now.choice_step()
    audio, visual = now.drawn.readings(now.speech) + now.log_prior
    torch.testing.assert_close(now.r[0], (audio - visual).sigmoid(), rtol=1e-12, atol=1e-12)
    assert (now.r[0, 0, 1] == 1).all()  # no picture


def test_the_walk_draws_from_r_of_z() -> None:
    """Means and squares of z over chains, against a grid of r(z); of another r(α) they are others."""
    m, _ = make("vae-mm", latent=1, seed=1)
    x, v, _ = heard(2, 3)
    walk = Walk(m, x, v, Factorised(steps=60, burn_in_moves=40, variance=1.0))
    speech = Speech(0.6 * x, 0.3 * torch.ones_like(x.real))
    r = torch.stack([torch.full((2, 3), 0.1), torch.full((2, 3), 0.9)]).double()
    z, _, rate = walk(torch.randn(1500, 2, 3, 1, dtype=torch.double), r, speech)
    assert 0.1 < rate.mean() < 0.95

    def moments(r: Tensor) -> tuple[Tensor, Tensor]:
        grid = torch.linspace(-9, 9, 1801, dtype=torch.double)[:, None, None, None].expand(-1, 2, 3, 1)
        with torch.no_grad():
            weight = (r[:, None] * walk.decode(grid).readings(speech)).sum(0).softmax(0)
        return (weight * grid[..., 0]).sum(0), (weight * grid[..., 0] ** 2).sum(0)

    for value, wanted, other in zip((z[..., 0], z[..., 0] ** 2), moments(r), moments(r.flip(0)), strict=True):
        assert errors(value, wanted) < 4.5
        assert errors(value, other) > 4.5


@each
def test_a_run_is_the_algorithm(name: str) -> None:
    """The estimate is m = γ/(γ + WH) x; π_n is 1 without a picture; the bound ends above where it began."""
    m, _ = make(name)
    x, v, noise = heard()
    z = torch.randn(2, B, T, D, dtype=torch.double)
    found = factorised_em(m, noise, None, x, v, z, Factorised(), iterations=40, average=0.025)
    γ = found.speech.reciprocal().mean(0).reciprocal()
    torch.testing.assert_close(found.mean, γ / (γ + found.noise) * x, rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(found.noise, noise.variance)
    assert found.responsibility[0, 1] == 1
    reached = found.diagnostics.trace("elbo")
    assert reached[-5:].mean() > reached[:5].mean()
    assert found.diagnostics.acceptance().shape == (2, B)
    assert (power(found.mean) <= power(x)).all()
    assert torch.isfinite(found.draw(x)).all()
