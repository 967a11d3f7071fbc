"""Variational EM: a copy of the guide, and the bound that it climbs."""

from __future__ import annotations

import copy
import itertools

import pyro
import pyro.distributions as dist
import pytest
import torch
from linear import FRAMES, SIGMA, SIZE, Linear, make_linear
from pyro.infer import TraceMeanField_ELBO
from torch import Tensor, nn
from toys import errors, mixture

from pyrodvae.distributions import power
from pyrodvae.engines import VEM
from pyrodvae.noise import NMFNoise
from pyrodvae.noisy import NoisySpeech
from pyrodvae.potential import Target
from pyrodvae.program import Program, local_parameters
from pyrodvae.weights import load_run


def scene() -> tuple[Target, Tensor]:
    model, guide, x, z = mixture()
    return Target(model, guide, (x,)), z


@pytest.mark.parametrize("block", [0, 2])
def test_vem_raises_the_bound_of_a_copy(block: int) -> None:
    target, z = scene()

    def bound(guide) -> Tensor:
        torch.manual_seed(5)
        with local_parameters(), torch.no_grad():
            loss = TraceMeanField_ELBO()(target.model, guide)
            return -torch.stack([loss(*target.args) for _ in range(100)])

    before = copy.deepcopy(target.guide.state_dict())
    model = copy.deepcopy(target.model.speech.state_dict())
    engine = VEM(learning_rate=1e-2, steps=20, block=block, overlap=1)
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


def test_too_large_steps_do_not_lose_the_speech() -> None:
    """At five times the default rate; the control takes steps of any size. The noise stands still."""
    run = load_run("rvae")
    _, s = run.model.generate(60, 1)
    x = s + 0.3 * power(s).mean().sqrt() * torch.randn_like(s)
    noise = NMFNoise.from_quiet_frames(x, 4, torch.Generator().manual_seed(0))
    model = NoisySpeech(run.model, noise)
    target = Target(model, run.guide, (x,))

    def share(engine: VEM) -> Tensor:
        """Of the energy of the speech, how much the last draws give back."""
        state = engine.init(target, torch.zeros(2, 1, 60, run.model.latent))
        for _ in range(20):
            state, _ = engine.step(target, state)
        with torch.no_grad():
            v = model.speech_variance(state.z)
        return power(v / (v + noise.variance) * x).mean() / power(s).mean()

    assert 0.7 < share(VEM(learning_rate=5 * VEM().learning_rate)) < 1.1
    assert not 0.7 < share(VEM(learning_rate=1.0, warmup=0, clip=1e9)) < 1.1


def test_the_rate_rises_to_its_value() -> None:
    """Adam's first step is the rate, in every parameter; the eleventh is made at the whole of it."""
    model, target, _ = make_linear()
    target = Target(model, Factorised(), target.args)
    for warmup, step in ((10, 0.01), (0, 0.11)):
        engine = VEM(learning_rate=0.11, warmup=warmup)
        state = engine.init(target, torch.zeros(2, 1, FRAMES, SIZE).double())
        before = copy.deepcopy(state.guide.loc.detach())
        state, _ = engine.step(target, state)
        moved = (state.guide.loc.detach() - before).abs()
        torch.testing.assert_close(moved, torch.full_like(moved, step), rtol=1e-4, atol=0)
        for _ in range(10):
            state, _ = engine.step(target, state)
        assert state.optimiser.param_groups[0]["lr"] == 0.11


@pytest.mark.parametrize("setting", [{"warmup": -1}, {"block": -1}, {"overlap": -1}])
def test_settings_that_cannot_run_are_refused(setting: dict[str, int]) -> None:
    with pytest.raises(ValueError, match="cannot run"):
        VEM(**setting)


class Steep(Factorised):
    """A guide whose gradient, once in a while, is infinite."""

    def forward(self, x: Tensor) -> Tensor:
        z = super().forward(x)
        if torch.rand(()) < 0.3:
            z.register_hook(lambda gradient: gradient * torch.inf)
        return z


def test_a_step_without_a_gradient_is_left_out() -> None:
    """The others lead on; the control, Adam alone, is lost with the first of them."""
    model, target, _ = make_linear()
    engine, target = VEM(learning_rate=0.03), Target(model, Steep(), target.args)
    state = engine.init(target, torch.zeros(20, 1, FRAMES, SIZE).double())

    def parameters() -> Tensor:
        return torch.cat([p.detach().flatten() for p in state.guide.parameters()])

    at, infinite = [parameters()], 0
    for _ in range(20):
        state, _ = engine.step(target, state)
        at.append(parameters())
        infinite += not all(p.grad.isfinite().all() for p in state.guide.parameters())
    still = sum(torch.equal(a, b) for a, b in itertools.pairwise(at))
    assert torch.isfinite(at[-1]).all()
    assert 0 < still == infinite < 20
    state.guide.loc.grad = torch.full_like(state.guide.loc, torch.inf)
    state.optimiser.step()
    assert not torch.isfinite(parameters()).all()
