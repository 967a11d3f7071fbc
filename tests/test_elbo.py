"""The objective: two estimators of one bound, and the weight of its KL term."""

from __future__ import annotations

import pytest
import torch
from pyro import poutine
from pyro.infer import Trace_ELBO, TraceMeanField_ELBO
from torch import Tensor
from toys import BLIND, PAIRS, data, errors, make, spectra

from pyrodvae.objective import KLWeight, elbo, terms
from pyrodvae.program import local_parameters

PAPER_OR_SMOOTHER = [(m, g) for m, g in PAIRS if g == ("smoother" if m.startswith("toy") else "paper")]
LENGTHS = torch.tensor([6, 2, 4])
every_pair = pytest.mark.parametrize(("key", "guide"), PAIRS)


def loss(
    pair, objective: str, x: Tensor, lengths: Tensor | None = None, *, beta: float = 1.0, seed: int
) -> Tensor:
    """Minus the bound for one draw, with the KL term weighted."""
    torch.manual_seed(seed)
    with local_parameters(), KLWeight(beta), torch.no_grad():
        return elbo(objective)(*pair)(x, lengths)


def losses(pair, objective: str, x: Tensor, draws: int, beta: float = 1.0) -> Tensor:
    return torch.stack([loss(pair, objective, x, beta=beta, seed=i) for i in range(draws)])


@pytest.mark.parametrize(("key", "guide"), PAPER_OR_SMOOTHER)
def test_both_objectives_agree_in_expectation(key: str, guide: str) -> None:
    pair = make(key, guide)
    x = spectra(1).expand(400, -1, -1)  # equal sequences: each call is a mean over 400 draws
    analytic, sampled = losses(pair, "analytic", x, 25), losses(pair, "sampled", x, 25)
    assert analytic.std() > 0
    assert errors(analytic - sampled) < 5
    assert errors(analytic - losses(pair, "sampled", x, 25, beta=0.5)) > 5


@every_pair
def test_analytic_objective_is_the_likelihood_and_the_kl_along_the_path(key: str, guide: str) -> None:
    pair, x = make(key, guide), spectra()
    torch.manual_seed(7)
    log_p, kl = terms(*pair, x, LENGTHS)
    assert log_p.shape == kl.shape == (3,)
    given = loss(pair, "analytic", x, LENGTHS, seed=7)
    torch.testing.assert_close(given, (kl - log_p).sum(), rtol=1e-12, atol=0)
    other = loss(pair, "sampled", x, LENGTHS, seed=7)
    assert abs(other - given) > 1e-3


@pytest.mark.parametrize("objective", ["analytic", "sampled"])
@every_pair
def test_beta_weighs_the_kl_alone(key: str, guide: str, objective: str) -> None:
    pair, x = make(key, guide), spectra()
    bare, half, full = (loss(pair, objective, x, LENGTHS, beta=b, seed=3) for b in (0.0, 0.5, 1.0))
    torch.manual_seed(3)
    log_p, _ = terms(*pair, x, LENGTHS)
    torch.testing.assert_close(bare, -log_p.sum(), rtol=1e-12, atol=0)
    torch.testing.assert_close(half, (bare + full) / 2, rtol=1e-12, atol=0)
    assert abs(full - bare) > 1e-3


def test_beta_of_zero_leaves_only_the_likelihood_gradient() -> None:
    m, g = make("rvae", "paper")
    with local_parameters(), KLWeight(0.0):
        elbo("analytic")(m, g)(spectra()).backward()
    without = [p.grad.clone() for p in g.parameters()]
    m.zero_grad()
    g.zero_grad()
    with local_parameters():
        elbo("analytic")(m, g)(spectra()).backward()
    assert all(w.abs().sum() > 0 for w in without)
    assert not any(torch.allclose(w, p.grad) for w, p in zip(without, g.parameters(), strict=True))


def test_kl_of_independent_frames_is_taken_in_closed_form() -> None:
    """No silent fall-back to a sampled KL: it has no variance over seeds, the sampled one has."""
    pair, x = make("vae", "paper"), spectra()

    def kl(objective: str) -> Tensor:
        draws = [
            loss(pair, objective, x, seed=i) - loss(pair, objective, x, beta=0.0, seed=i) for i in range(5)
        ]
        return torch.stack(draws)

    assert kl("analytic").std() < 1e-10
    assert kl("sampled").std() > 0.1


@pytest.mark.parametrize("objective", [Trace_ELBO, TraceMeanField_ELBO])
@pytest.mark.parametrize(("key", "guide"), [("rvae", "paper"), ("toy-vrnn", "smoother")])
def test_vectorised_particles_agree_with_a_loop(key: str, guide: str, objective: type) -> None:
    pair, x = make(key, guide), spectra(100)

    def draws(x: Tensor, **more) -> Tensor:
        with local_parameters(), torch.no_grad():
            f = objective(num_particles=3, max_plate_nesting=1, **more)(*pair)
            return torch.stack([f(x) for _ in range(25)])

    loop, vectorised = draws(x), draws(x, vectorize_particles=True)
    assert loop.std() > 0
    assert errors(loop - vectorised) < 5
    assert errors(loop - draws(1.05 * x, vectorize_particles=True)) > 5


def test_an_unknown_objective_is_refused() -> None:
    with pytest.raises(ValueError, match="'analytic' or 'sampled', not 'both'"):
        elbo("both")


def test_beta_multiplies_a_scale_that_is_there_already() -> None:
    pair, x = make("rvae", "paper"), spectra()

    def scaled(by: float, beta: float) -> Tensor:
        torch.manual_seed(3)
        with local_parameters(), torch.no_grad(), KLWeight(beta), poutine.scale(scale=by):
            return elbo("analytic")(*pair)(x)

    for beta in (0.0, 0.5):
        torch.testing.assert_close(scaled(3.0, beta), 3 * scaled(1.0, beta), rtol=1e-12, atol=0)
    assert scaled(3.0, 0.5) != scaled(3.0, 1.0)


@pytest.mark.parametrize("key", BLIND)
def test_statistics_make_the_start_better(key: str) -> None:
    m, g = make(key)
    x = data(m) * torch.logspace(-3, 1, 5)
    before = -terms(m, g, x)[0].sum()
    m.fit_statistics(x)
    g.fit_statistics(x)
    assert -terms(m, g, x)[0].sum() < before
