"""The Kalman model as a Pyro program: with its exact guide, the bound is the evidence."""

from __future__ import annotations

import copy
from dataclasses import replace

import pyro
import pytest
import torch
from pyro.distributions import MultivariateNormal
from pyro.infer import SVI, Trace_ELBO, TraceMeanField_ELBO
from pyro.poutine import trace
from torch import Tensor
from torch.distributions import kl_divergence
from toys import errors

from pyrodvae import kalman
from pyrodvae.distributions import DiagonalNormal
from pyrodvae.guide import Sees
from pyrodvae.guides import PAPER, make_guide
from pyrodvae.models import MODELS, VAE
from pyrodvae.models.kalman import Kalman, KalmanGuide
from pyrodvae.nets import frame_mask
from pyrodvae.program import local_parameters
from pyrodvae.weights import make_pair

F, D, T, B = 3, 2, 12, 4
EXACT = {"rtol": 1e-9, "atol": 1e-9}
SIGHT = Sees(z_past="previous", x_future=True)


def make() -> tuple[Kalman, KalmanGuide, Tensor]:
    """A pair with parameters that no two of are alike, and some data."""
    m = Kalman(F, D).double()
    with torch.no_grad():
        for p in m.parameters():
            p.add_(0.3 * torch.randn_like(p))
    return m, KalmanGuide(m, SIGHT).double(), 2 * torch.randn(B, T, F, dtype=torch.double) + 1


def bound(m: Kalman, g: KalmanGuide, x: Tensor, lengths: Tensor | None = None, kind=Trace_ELBO) -> Tensor:
    """One draw of the ELBO of all sequences."""
    with local_parameters():
        return -kind()(m, g)(x, lengths)


def evidence(m: Kalman, x: Tensor, lengths: Tensor | None = None) -> Tensor:
    """Of each sequence, (B,)."""
    observed = None if lengths is None else frame_mask(lengths, x.shape[1])
    return kalman.filter(m.exact(), x, observed).log_evidence


class Perturbed(KalmanGuide):
    """The exact posterior, but for a mistake in one of its parts."""

    mistake = "g"

    def context(self, x: Tensor, lengths: Tensor | None, shared: None) -> Tensor:
        G, g, S = super().context(x, lengths, shared).split([D * D, D, D * D], -1)
        part = {"G": G, "g": g, "S": S}
        part[self.mistake] = 0.6 * part[self.mistake]
        return torch.cat([*part.values()], -1)


def draws_of_the_bound(
    m: Kalman, g: KalmanGuide, x: Tensor, lengths: Tensor | None = None, draws: int = 400
) -> tuple[Tensor, Tensor]:
    """Of each sequence, fully sampled and with the analytic KL along the path: (S, B) both."""
    with torch.no_grad():
        q, p = g.posterior(x, lengths), m.prior(x, lengths)
        z = q.rsample((draws,))
        log_p = p.sum_frames(m.likelihood(z, x, p).log_prob(x))
        return log_p + p.log_prob(z) - q.log_prob(z), log_p - kl_divergence(q, p)


# --- the bound


@pytest.mark.parametrize("lengths", [None, torch.tensor([T, 3, 7, 1])])
def test_every_draw_of_the_bound_is_the_evidence(lengths: Tensor | None) -> None:
    m, g, x = make()
    truth = evidence(m, x, lengths).detach()
    for _ in range(3):
        torch.testing.assert_close(bound(m, g, x, lengths).detach(), truth.sum(), **EXACT)
    sampled, analytic = draws_of_the_bound(m, g, x, lengths)
    torch.testing.assert_close(sampled, truth.expand_as(sampled), **EXACT)
    # The analytic KL is taken along the drawn path: its draws vary, with the evidence for their mean.
    assert analytic.std(0).min() > 0.1
    assert errors(analytic, truth) < 5
    for mistake in ("G", "g", "S"):
        wrong = Perturbed(m, SIGHT).double()
        wrong.mistake = mistake
        for draws in draws_of_the_bound(m, wrong, x, lengths):
            assert errors(draws.sum(1), truth.sum()) > 5
            assert draws.sum(1).mean() < truth.sum()


def test_pyro_s_analytic_objective_has_the_evidence_for_its_mean() -> None:
    m, g, x = make()
    many = x[:1].expand(2000, -1, -1)  # one call is a mean over 2000 draws
    truth = float(evidence(m, x)[0].detach())
    with torch.no_grad():
        draws = torch.stack([bound(m, g, many, kind=TraceMeanField_ELBO) for _ in range(10)]) / len(many)
        wrong = bound(m, Perturbed(m, SIGHT).double(), many, kind=TraceMeanField_ELBO) / len(many)
    assert draws.std() > 0
    assert errors(draws, truth) < 5
    assert (wrong - truth) / draws.std() < -5


class InSinglePrecision(KalmanGuide):
    """The exact posterior, computed in the type of the model."""

    def context(self, x: Tensor, lengths: Tensor | None, shared: None) -> Tensor:
        q = kalman.posterior_conditionals(self.exact(), x)
        return torch.cat([q.G.flatten(-2), q.g, q.scale_tril.flatten(-2)], -1)


def test_single_precision_is_enough_for_a_small_noise() -> None:
    m = Kalman(2, 3)
    m.R_tril = 1e-2 * torch.eye(2)
    x = m.generate(200, 4)[1]
    truth = evidence(copy.deepcopy(m).double(), x.double()).sum().detach()

    def off(guide: type[KalmanGuide]) -> float:
        g = guide(m, SIGHT)
        draws = torch.stack([bound(m, g, x).detach() for _ in range(5)])
        return float((draws - truth).abs().max())

    assert off(KalmanGuide) < 1e-2
    assert off(InSinglePrecision) > 1e-2


def test_the_gradient_of_one_draw_is_that_of_the_evidence() -> None:
    m, g, x = make()
    parameters = [*m.parameters()]
    wanted = torch.autograd.grad(evidence(m, x).sum(), parameters)
    for given in (torch.autograd.grad(bound(m, g, x), parameters) for _ in range(2)):
        for one, other in zip(given, wanted, strict=True):
            torch.testing.assert_close(one, other, **EXACT)
    noisy = torch.autograd.grad(bound(m, g, x, kind=TraceMeanField_ELBO), parameters)
    assert not any(torch.allclose(one, other) for one, other in zip(noisy, wanted, strict=True))


@torch.no_grad()
def test_draws_of_the_guide_are_of_the_posterior() -> None:
    m, g, x = make()
    s = kalman.smooth(m.exact(), x)
    z = g.posterior(x).rsample((4000,))
    assert errors(z, s.means) < 5
    assert errors((z - s.means).square(), s.covariances.diagonal(dim1=-2, dim2=-1)) < 5
    assert errors(z, kalman.filter(m.exact(), x).means) > 5
    ahead = (z - s.means)[..., 1:, :, None] * (z - s.means)[..., :-1, None, :]
    assert errors(ahead, s.cross_covariances[:, 1:]) < 5
    assert errors(ahead.mT, s.cross_covariances[:, 1:]) > 5


def test_the_kl_from_a_network_s_guide_is_taken_in_closed_form() -> None:
    """Of a diagonal Gaussian and a full one: the mean of the log ratio, and known where both are diagonal."""
    loc, scale = torch.randn(2, 3, D, dtype=torch.double), torch.rand(3, D, dtype=torch.double) + 0.5
    q, zero = DiagonalNormal(loc[0], scale), torch.zeros(3, D, dtype=torch.double)
    full = torch.tensor([[1.0, 0.0], [0.7, 0.5]], dtype=torch.double)
    p = MultivariateNormal(loc[1], scale_tril=full)
    z = q.rsample((4000,))
    ratio = q.log_prob(z) - p.log_prob(z)
    assert errors(ratio, kl_divergence(q, p)) < 5
    straight = MultivariateNormal(loc[1], scale_tril=torch.eye(D, dtype=torch.double))
    assert errors(ratio, kl_divergence(q, straight)) > 5
    diagonal = DiagonalNormal(loc[1], zero + 1)
    torch.testing.assert_close(kl_divergence(q, straight), kl_divergence(q, diagonal), **EXACT)


# --- the model


@torch.no_grad()
def test_the_program_draws_from_the_model_it_says() -> None:
    """Moments of generated paths, frame by frame, are those of the prior without observations."""
    m, _, _ = make()
    z, x = m.generate(T, 8000)
    nothing = torch.zeros(T, dtype=torch.bool)
    prior = kalman.filter(m.exact(), torch.zeros(T, F, dtype=torch.double), nothing)
    assert errors(z, prior.means) < 5
    assert errors((z - prior.means).square(), prior.covariances.diagonal(dim1=-2, dim2=-1)) < 5
    means = prior.means @ m.B.mT + m.b
    variance = (m.B @ prior.covariances @ m.B.mT + m.exact().R).diagonal(dim1=-2, dim2=-1)
    assert errors(x, means) < 5
    assert errors((x - means).square(), variance) < 5
    late = kalman.filter(m.exact(), torch.zeros(T + 1, F, dtype=torch.double), torch.zeros(T + 1) > 0)
    assert errors(z, late.means[1:]) > 5  # one transition too many


def test_parameters_come_and_go() -> None:
    m, g, x = make()
    fitted, history = kalman.em(m.exact(), x, 5)
    m.assign(fitted)
    torch.testing.assert_close(evidence(m, x).sum(), history[-1], **EXACT)
    torch.testing.assert_close(bound(m, g, x), history[-1], **EXACT)  # the guide looks at its model
    for name, value in vars(m.exact()).items():
        if value is not None:
            torch.testing.assert_close(value, getattr(fitted, name), **EXACT)
    with pytest.raises(ValueError, match="no offset a in its transition"):
        m.assign(replace(fitted, a=fitted.m1))
    with pytest.raises(ValueError, match=r"A is \(2, 2\) in this model, not \(12, 2, 2\)"):
        m.assign(replace(fitted, A=fitted.A.expand(T, D, D)))


def test_a_copy_of_both_is_a_pair_of_its_own() -> None:
    m, g, x = make()
    other, guide = copy.deepcopy((m, g))
    with torch.no_grad():
        other.A.mul_(0.5)
    torch.testing.assert_close(bound(other, guide, x), evidence(other, x).sum(), **EXACT)
    torch.testing.assert_close(bound(m, g, x), evidence(m, x).sum(), **EXACT)
    assert abs(evidence(other, x).sum() - evidence(m, x).sum()) > 1e-3
    assert not [*guide.parameters()]
    assert sorted(guide.state_dict()) == ["read.loc", "read.scale"]


def test_statistics_make_a_start_of_the_right_size() -> None:
    m, _, x = make()
    x = x * torch.tensor([1e-3, 1.0, 1e3]) + torch.tensor([1.0, -10.0, 500.0])
    before = evidence(m, x).sum()
    m.fit_statistics(x)
    assert evidence(m, x).sum() > before
    variance = m.exact().R + m.B @ m.B.mT
    torch.testing.assert_close(variance.diagonal(), x.flatten(0, 1).var(0))
    torch.testing.assert_close(m.b.detach(), x.mean((0, 1)))


def test_what_is_not_linear_is_refused() -> None:
    with pytest.raises(ValueError, match="its data are 'real', not 'speech'"):
        Kalman(F, D, data="speech")
    with pytest.raises(ValueError, match="known of Kalman models, not of VAE"):
        KalmanGuide(VAE(F, D, 4), SIGHT)


def test_it_is_there_by_its_key() -> None:
    assert MODELS["kalman"] is Kalman
    m = MODELS["kalman"](F, D)
    g = make_guide(m)
    assert isinstance(g, KalmanGuide)
    assert (type(g), g.sees) == PAPER[Kalman]
    assert str(g.sees) == "q(z_t | z_{t-1}, x_{t:T})"
    again, guide = make_pair("kalman", m.config, "paper", g.config)
    again.load_state_dict(m.state_dict())
    assert isinstance(guide, KalmanGuide)
    assert all(map(torch.equal, again.parameters(), m.parameters()))


# --- learning


def oscillation() -> Tensor:
    """A turning state, seen in noise."""
    turn = torch.tensor([[0.8, -0.5], [0.5, 0.8]], dtype=torch.double)
    seen = torch.tensor([[1.0, 0.0], [0.5, 1.0], [0.0, 2.0]], dtype=torch.double)
    two, three = torch.eye(2, dtype=torch.double), torch.eye(3, dtype=torch.double)
    truth = kalman.LinearGaussian(turn, 0.1 * two, seen, 0.3 * three, 0 * two[0], two)
    z = kalman.sample(truth, torch.zeros(30, 3, dtype=torch.double), 8, torch.zeros(30) > 0)
    return z @ seen.mT + 0.3**0.5 * torch.randn(8, 30, 3, dtype=torch.double) + 1


def test_svi_with_the_exact_guide_climbs_to_where_em_does() -> None:
    """Pyro's own SVI: gradient ascent of the evidence, without noise, ends where EM stands still."""
    x = oscillation()
    m = Kalman(3, 2).double()
    m.fit_statistics(x)
    with torch.no_grad():
        m.A.add_(torch.tensor([[0.0, -0.1], [0.1, 0.0]]))
    start = evidence(m, x).sum().detach()
    by_em, history = kalman.em(m.exact(), x, 100, smoother=kalman.scan.smooth)
    g = KalmanGuide(m, SIGHT).double()
    svi = SVI(m, g, pyro.optim.ClippedAdam({"lr": 0.1, "lrd": 0.965}), Trace_ELBO())
    losses = [svi.step(x) for _ in range(120)]
    torch.testing.assert_close(-svi.evaluate_loss(x), float(evidence(m, x).detach().sum()), **EXACT)
    gain = float(history[-1] - start)
    assert gain > 100
    assert abs(-losses[-1] - float(history[-1])) < 1e-4 * gain
    _, more = kalman.em(m.exact(), x, 20, smoother=kalman.scan.smooth)
    assert more[-1] - more[0] < 1e-4 * gain  # nothing is left for EM to do
    # The states are known up to a change of basis: compare what does not depend on it.
    ours, theirs = (torch.linalg.eigvals(v).abs().sort().values for v in (m.A.detach(), by_em.A))
    torch.testing.assert_close(ours, theirs, rtol=0.02, atol=0)
    # The control: a guide that is off by a little ends below.
    wrong = Kalman(3, 2).double()
    wrong.load_state_dict(m.state_dict())
    off = Perturbed(wrong, SIGHT).double()
    off.mistake = "S"
    assert bound(wrong, off, x) < history[-1] - 1e-3 * gain


def test_sites_are_those_of_every_model() -> None:
    m, _, x = make()
    with local_parameters():
        t = trace(m.steps).get_trace(x)
    assert [n for n in t.stochastic_nodes if n != "batch"] == [f"z_{i}" for i in range(T)]
    assert t.nodes["z_0"]["fn"].base_dist.mean[0, 0].tolist() == m.m1.tolist()
