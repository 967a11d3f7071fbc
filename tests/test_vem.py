"""Variational EM: a copy of the guide, and the bound that it climbs."""

from __future__ import annotations

import copy

import pyro
import pyro.distributions as dist
import pytest
import torch
from linear import FRAMES, SIGMA, SIZE, Linear, make_linear
from pyro.infer import TraceMeanField_ELBO
from torch import Tensor, nn
from toys import errors, mixture

from pyrodvae.engines import VEM
from pyrodvae.potential import Target
from pyrodvae.program import Program, local_parameters


def scene() -> tuple[Target, Tensor]:
    model, guide, x, z = mixture()
    return Target(model, guide, (x,)), z


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


class Factorised(Program):
    """q(z) = N(loc, scale²), every element on its own."""

    def __init__(self) -> None:
        super().__init__()
        self.loc = nn.Parameter(torch.ones(1, FRAMES, SIZE, dtype=torch.double))
        self.log_scale = nn.Parameter(torch.zeros(1, FRAMES, SIZE, dtype=torch.double))

    def forward(self, x: Tensor) -> Tensor:
        with pyro.plate("batch", len(x), dim=-1):
            return pyro.sample("z", dist.Normal(self.loc, self.log_scale.exp()).to_event(2))

    def kl(self, model: Linear, mean: Tensor) -> float:
        """log p(x) less the ELBO: KL(q ‖ p(z | x)) of two Gaussians, in closed form."""
        P, variance = model.precision(), (2 * self.log_scale.detach()).exp().flatten()
        off = (self.loc.detach().flatten(1) - mean)[0]
        logs = torch.logdet(P) + variance.log().sum()
        return float(0.5 * ((P.diag() * variance).sum() + off @ P @ off - len(off) - logs))


def test_vem_closes_the_gap_to_what_factorised_gaussians_leave() -> None:
    r"""The least KL(q ‖ p(z | x)) is ½ (Σ log P_ii − log |P|), with the mean exact and variances 1/P_ii.

    Near it, Adam's steps of rate a against gradients of standard deviation s leave every parameter an
    excess of about a s/4. One draw here has s of 1 to 3, and s falls as 1/√S: 8 parameters, a = 0.03
    and S = 100 leave 0.02 at most.
    """
    model, target, mean = make_linear()
    target = Target(model, Factorised(), target.args)
    P = model.precision()
    least = float(0.5 * (P.diag().log().sum() - torch.logdet(P)))
    assert least > 0.1

    def gap(steps: int) -> float:
        engine = VEM(learning_rate=0.03, steps=steps)
        state, _ = engine.step(target, engine.init(target, torch.zeros(100, 1, FRAMES, SIZE).double()))
        return state.guide.kl(model, mean) - least

    assert 0 <= gap(300) < 0.02
    assert gap(20) > 0.1  # the control: too few steps


def test_vem_reports_the_bound() -> None:
    model, target, mean = make_linear()
    (x,) = target.args
    covariance = SIGMA**2 * torch.eye(x.shape[-1], dtype=x.dtype) + model.A @ model.A.mT
    evidence = dist.MultivariateNormal(torch.zeros_like(x[0]), covariance).log_prob(x).sum()
    engine = VEM(learning_rate=1e-12)  # the guide stays where it is
    state = engine.init(Target(model, Factorised(), (x,)), torch.zeros(50, 1, FRAMES, SIZE).double())
    given = []
    for _ in range(100):
        state, info = engine.step(Target(model, None, (x,)), state)
        given.append(info["elbo"])
    wanted = evidence - Factorised().kl(model, mean)
    assert errors(torch.stack(given), wanted) < 5
    assert errors(torch.stack(given), evidence) > 5
