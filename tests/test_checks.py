"""The testers, tested: what is exact passes, what is not fails, and p-values are uniform in between."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import dataclass
from typing import NamedTuple

import pyro
import pyro.distributions as dist
import pytest
import torch
from dense import Dense, random_model
from linear import FRAMES, SIGMA, SIZE, Linear, N
from pyro.infer.autoguide import AutoDelta, AutoMultivariateNormal, AutoNormal
from scipy.stats import kstest
from torch import Tensor
from toys import D, F, T, errors, make

from pyrodvae import kalman
from pyrodvae.checks import (
    calibration,
    draw,
    evidence_gap,
    functionals,
    invariance,
    kalman_posterior,
    posterior_errors,
)
from pyrodvae.engines import Engine, Langevin
from pyrodvae.engines.vem import VEM
from pyrodvae.guides import make_guide
from pyrodvae.noise import NMFNoise
from pyrodvae.noisy import NoisySpeech
from pyrodvae.potential import Target
from pyrodvae.program import local_parameters


class At(NamedTuple):
    """The state of the kernels below."""

    z: Tensor


@dataclass(frozen=True)
class Gibbs(Engine):
    """Exact for the linear program, and not reversible: the entries of z in turn, each given the others."""

    prior: float = 1.0  # its weight: 2 is the prior twice
    likelihood: float = 1.0  # 0 does not heed x

    def init(self, target: Target, z: Tensor) -> At:
        return At(z)

    def step(self, target: Target, state: At) -> tuple[At, dict[str, Tensor]]:
        A, x = target.model.A, target.args[0]
        weight = self.likelihood / SIGMA**2
        P = self.prior * torch.eye(N, dtype=torch.double) + weight * A.mT @ A
        c = state.z.flatten(-2) - weight * x @ A @ torch.linalg.inv(P)
        for i in range(N):
            rest = c @ P[i] - c[..., i] * P[i, i]
            c[..., i] = (torch.randn_like(rest) * P[i, i].sqrt() - rest) / P[i, i]
        mean = weight * x @ A @ torch.linalg.inv(P)
        return At((c + mean).unflatten(-1, (FRAMES, SIZE))), {}


@dataclass(frozen=True)
class Walk(Engine):
    """A random walk, exact for any target where it may refuse to go."""

    scale: float = 0.5
    correct: bool = True

    def init(self, target: Target, z: Tensor) -> At:
        return At(z)

    def step(self, target: Target, state: At) -> tuple[At, dict[str, Tensor]]:
        there = state.z + self.scale * torch.randn_like(state.z)
        with torch.no_grad():
            rate = (target.log_joint(there) - target.log_joint(state.z)).exp()
        accepted = (torch.rand_like(rate) < rate) | (not self.correct)
        return At(torch.where(accepted[..., None, None], there, state.z)), {}


@dataclass(frozen=True)
class Shift(Engine):
    """Moves by a constant."""

    by: float = 0.0

    def init(self, target: Target, z: Tensor) -> At:
        return At(z)

    def step(self, target: Target, state: At) -> tuple[At, dict[str, Tensor]]:
        return At(state.z + self.by), {}


class Duck:
    """A kernel that is no engine: has what one needs, and no more."""

    def __init__(self, kernel: Engine) -> None:
        self.kernel = kernel

    def init(self, target: Target, z: Tensor) -> At:
        return self.kernel.init(target, z)

    def step(self, target: Target, state: At) -> tuple[At, dict[str, Tensor]]:
        return self.kernel.step(target, state)


def langevin(step_size: float) -> Langevin:
    return Langevin(step_size, precondition=False, temperature=1.0)


def pairs(model: Linear, replicates: int) -> tuple[Target, Tensor]:
    z, x = draw(model, torch.zeros(replicates, N, dtype=torch.double))
    return Target(model, None, (x,)), z


@pytest.fixture
def model() -> Linear:
    return Linear()


# The joint law


def test_draws_of_a_program_have_its_joint_law(model) -> None:
    target, z = pairs(model, 20_000)
    x, z = target.args[0], z.flatten(-2)
    assert errors(x[:, :, None] * z[:, None, :], model.A) < 5  # E[x zᵀ] = A
    variance = model.A @ model.A.mT + SIGMA**2 * torch.eye(N, dtype=torch.double)
    assert errors(x[:, :, None] * x[:, None, :], variance) < 5
    assert errors(x[:, :, None] * z.roll(1, 0)[:, None, :], model.A) > 5  # pairs that do not belong together


def test_a_model_that_feeds_x_back_is_to_be_drawn_frame_by_frame() -> None:
    with pytest.raises(ValueError, match=r"ToyVRNN feeds x back.*model.generate"):
        draw(make("toy-vrnn")[0], torch.zeros(2, T, F, dtype=torch.cdouble))


def test_functionals_are_the_two_densities_and_entries_of_z(model) -> None:
    target, z = pairs(model, 7)
    paths = torch.stack([z, 2 * z])
    names, values = functionals(target, paths, lambda z, args: {"mine": z.sum((-2, -1)) + args[0][:, 0]})
    assert names[:3] == ["log p(x | z)", "log p(z)", "Σ z_t·z_{t-1}"]
    assert names[3:] == ["z[0, 0]", "z[0, 1]", "z[1, 0]", "z[1, 1]", "mine"]
    p_x = dist.Normal(paths.flatten(-2) @ model.A.mT, SIGMA).to_event(1)
    torch.testing.assert_close(values[0], p_x.log_prob(target.args[0]), rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(values[1], dist.Normal(0.0, 1.0).log_prob(paths).sum((-2, -1)))
    torch.testing.assert_close(values[2], (paths[..., 0, :] * paths[..., 1, :]).sum(-1))
    torch.testing.assert_close(values[5], paths[..., 1, 0])
    assert values.shape == (8, 2, 7)


# Invariance


@pytest.mark.parametrize("engine", [Gibbs(), Walk(), langevin(0.01)], ids=str)
def test_an_exact_kernel_is_invariant(model, engine: Engine) -> None:
    found = invariance(engine, *pairs(model, 1000))
    assert found.passed, found
    assert found.moved > 0.1
    assert str(found).startswith("Invariant: over 5 steps and 1000 replicates, the largest change is ")


WRONG = {
    "no correction": Walk(correct=False),
    "Langevin, long steps": langevin(0.6),
    "x not heeded": Gibbs(likelihood=0.0),
    "the prior twice": Gibbs(prior=2.0),
    "a drift": Shift(0.1),
    "runs away": Shift(torch.nan),
}


@pytest.mark.parametrize("why", WRONG)
def test_a_kernel_that_is_not_exact_is_found(model, why: str) -> None:
    found = invariance(WRONG[why], *pairs(model, 1000))
    assert not found.passed
    assert found.p_value == 1 / 2000  # the smallest there is
    assert str(found).startswith("Not invariant: ")


def test_what_does_not_heed_x_is_found_by_the_likelihood_alone(model) -> None:
    """Its marginal law of z is right: that is why the joint law is compared."""
    changes = invariance(Gibbs(likelihood=0.0), *pairs(model, 1000)).changes
    assert changes["log p(x | z)"] < -10
    assert all(abs(c) < 5 for name, c in changes.items() if "log p(x | z)" not in name)


@pytest.mark.parametrize("by", [0.0, 1e-4])
def test_a_kernel_that_does_not_move_is_not_tested(model, by: float) -> None:
    found = invariance(Shift(by), *pairs(model, 200), steps=1, level=0.0005)
    assert not found.passed
    assert found.moved == pytest.approx(by, rel=0.2)
    if by == 0:
        assert found.p_value == 1
        assert str(found).startswith("Not tested: ")


def mixture() -> tuple[torch.nn.Module, Tensor, Tensor]:
    noise = NMFNoise(torch.ones(1, F, 1, dtype=torch.double) / F, torch.full((1, 1, T), 0.1).double())
    program = NoisySpeech(make("rvae")[0], noise)
    return program, *draw(program, torch.zeros(800, T, F, dtype=torch.cdouble))


def vrnn() -> tuple[torch.nn.Module, Tensor, Tensor]:
    program = make("toy-vrnn")[0]
    return program, *program.generate(T, 800)


@pytest.mark.parametrize("scene", [mixture, vrnn])
def test_invariance_on_models_without_a_known_posterior(scene) -> None:
    program, z, x = scene()
    target = Target(program, None, (x,))
    good, bad = (invariance(Walk(0.3, correct), target, z) for correct in (True, False))
    assert good.passed, good
    assert not bad.passed
    strangers = invariance(Walk(0.3), Target(program, None, (x.roll(1, 0),)), z)
    assert not strangers.passed  # x that was not drawn with z


def p_values(engine: Engine, seeds: int = 100, replicates: int = 50) -> list[float]:
    model = Linear()
    return [invariance(engine, *pairs(model, replicates), steps=2).p_value for _ in range(seeds)]


@pytest.mark.parametrize("engine", [Walk(), Gibbs()], ids=str)
def test_p_values_of_invariance_are_uniform(engine: Engine) -> None:
    assert kstest(p_values(engine), "uniform").pvalue > 0.01


def test_p_values_of_a_wrong_kernel_are_not_uniform() -> None:
    assert kstest(p_values(Gibbs(prior=2.0), 20), "uniform").pvalue < 1e-4


# Calibration


class Gaussian(torch.nn.Module):
    """A guide of the linear program with its posterior mean, and a covariance that may be another."""

    def __init__(self, model: Linear, kind: str = "exact", shift: float = 0.0) -> None:
        super().__init__()
        P = model.precision()
        covariance = {
            "exact": torch.linalg.inv(P),
            "mean-field": torch.diag(1 / P.diag()),  # the best of its family
            "wide": 2 * torch.linalg.inv(P),
        }[kind]
        self.mean, self.shift, self.root = model.mean, shift, torch.linalg.cholesky(covariance)

    def forward(self, x: Tensor) -> None:
        flat = dist.MultivariateNormal(self.mean(x) + self.shift, scale_tril=self.root)
        shape = dist.transforms.ReshapeTransform((N,), (FRAMES, SIZE))
        with pyro.plate("batch", len(x), dim=-1):
            pyro.sample("z", dist.TransformedDistribution(flat, [shape]))


@pytest.fixture
def tight() -> Linear:
    """With a sharp posterior, in which the entries of z depend on each other."""
    model = Linear()
    model.A *= 3
    return model


def test_the_exact_posterior_is_calibrated(tight) -> None:
    target, z = pairs(tight, 300)
    found = calibration(Gaussian(tight), target, z)
    assert found.passed, found
    assert found.draws == 63
    assert found.ranks["log p(z)"].shape == (300,)
    assert str(found).startswith("Calibrated: the truth among 63 draws, 300 replicates, 7 functionals (p = ")


@pytest.mark.parametrize("wrong", [{"kind": "mean-field"}, {"kind": "wide"}, {"shift": 0.3}], ids=str)
def test_a_posterior_of_the_wrong_shape_or_place_is_not_calibrated(tight, wrong: dict) -> None:
    found = calibration(Gaussian(tight, **wrong), *pairs(tight, 300))
    assert not found.passed
    assert found.p_value == 1 / 2000
    assert str(found).startswith("Not calibrated: ")


def test_a_mean_field_guide_is_too_narrow(tight) -> None:
    found = calibration(Gaussian(tight, "mean-field"), *pairs(tight, 300))
    inside = torch.stack([r for name, r in found.ranks.items() if name[0] == "z"])
    assert (inside % 63 == 0).double().mean() > 3 * 2 / 64  # how often the truth is outside of all draws
    assert "outside of all in " in str(found)
    assert str(found).endswith(" % of replicates (3).")


def test_a_prior_is_calibrated_but_for_the_likelihood(model) -> None:
    """The classical functionals are those of z alone: they pass what has not learned anything."""

    def prior(x: Tensor) -> None:
        with pyro.plate("batch", len(x), dim=-1):
            pyro.sample("z", dist.Normal(torch.zeros(FRAMES, SIZE, dtype=x.dtype), 1.0).to_event(2))

    found = calibration(prior, *pairs(model, 300))
    assert not found.passed
    assert found.worst == "log p(x | z)"
    assert all(p > 0.001 for name, p in found.p_values.items() if name != "log p(x | z)")


@pytest.mark.parametrize("local", [True, False])
def test_autoguides_are_calibrated_like_any_other(model, local: bool) -> None:
    """Fitted (here to their known optimum) to the x at hand, in either of Pyro's ways with parameters."""
    target, z = pairs(model, 100)
    (x,), P = target.args, model.precision()
    with local_parameters() if local else nullcontext():
        guide, point = AutoNormal(model), AutoDelta(model)
        guide(x), point(x)
        guide.locs.z = point.z = model.mean(x).unflatten(-1, (FRAMES, SIZE))
        guide.scales.z = P.diag().rsqrt().view(FRAMES, SIZE).expand_as(z)
        found = calibration(guide, target, z, chains=31)
        assert found.ranks["log p(z)"].unique().numel() > 20
        assert not calibration(point, target, z, chains=31).passed
        gap = evidence_gap(model, guide, x, particles=500, evidence=log_evidence(model, x))
    kl = 0.5 * (P.diag().log().sum() - torch.logdet(P))  # of the product of its marginals' conditionals
    assert ((gap.gap - kl).abs() < 5 * gap.error).all()
    assert errors(gap.gap, kl) < 5 < errors(gap.gap, 1.1 * kl)


@pytest.mark.parametrize("engine", [Gibbs(), langevin(0.02)], ids=str)
def test_an_engine_that_has_arrived_is_calibrated(model, engine: Engine) -> None:
    found = calibration(engine, *pairs(model, 150), chains=31, warmup=200)
    assert found.passed, found


@pytest.mark.parametrize(
    ("engine", "how"),
    [
        (langevin(0.6), {"warmup": 40}),  # a bias
        (Gibbs(prior=2.0), {"warmup": 10}),
        (Gibbs(likelihood=0.0), {"warmup": 10}),
        (langevin(0.02), {"warmup": 1}),  # not there yet
        (langevin(0.02), {"warmup": 200, "chains": 2, "draws": 16}),  # the draws of a chain are alike
    ],
    ids=str,
)
def test_an_engine_that_is_biased_or_not_there_yet_is_not_calibrated(
    model, engine: Engine, how: dict
) -> None:
    assert not calibration(engine, *pairs(model, 400), **{"chains": 31, **how}).passed


def test_a_kernel_need_not_be_an_engine(model) -> None:
    target, z = pairs(model, 300)
    for kernel, passes in ((Gibbs(), True), (Gibbs(likelihood=0.0), False)):
        assert invariance(Duck(kernel), target, z).passed == passes
        assert calibration(Duck(kernel), target, z, chains=15, warmup=5).passed == passes


def test_draws_of_one_chain_far_apart_are_as_good_as_many_chains(model) -> None:
    found = calibration(Gibbs(), *pairs(model, 150), chains=2, draws=16, warmup=10, thin=10)
    assert found.passed, found
    assert found.draws == 32


@pytest.mark.parametrize("kind", ["exact", "mean-field"])
def test_the_picture_agrees_with_the_verdict(tight, kind: str) -> None:
    """The test is passed if all curves are within the band."""
    found = calibration(Gaussian(tight, kind), *pairs(tight, 200), chains=31)
    low, high = found.band
    curves = torch.stack([(r[:, None] <= torch.arange(31)).sum(0) for r in found.ranks.values()])
    assert ((low <= curves) & (curves <= high)).all() == found.passed == (kind == "exact")
    (axis,) = found.plot().axes
    assert [line.get_label() for line in axis.lines[:-1]] == list(found.ranks)
    drawn = axis.lines[0].get_ydata() + torch.arange(1, 32).numpy() / 32
    assert abs(drawn * 200 - curves[0].numpy()).max() < 1e-4


def calibration_p_values(shift: float, seeds: int) -> list[tuple[float, float]]:
    model = Linear()
    found = [calibration(Gaussian(model, "exact", shift), *pairs(model, 60), chains=15) for _ in range(seeds)]
    return [(c.p_value, c.p_values["log p(x | z)"]) for c in found]


def test_p_values_of_calibration_are_uniform() -> None:
    together, one = zip(*calibration_p_values(0.0, 100), strict=True)
    assert kstest(together, "uniform").pvalue > 0.01
    assert kstest(one, "uniform").pvalue > 0.01
    wrong, _ = zip(*calibration_p_values(0.3, 20), strict=True)
    assert kstest(wrong, "uniform").pvalue < 1e-4


def test_equal_values_are_ranked_by_lot(model) -> None:
    """A functional that is the same for all has uniform ranks, and not the first or the last."""
    target, z = pairs(model, 300)
    flat = calibration(Gaussian(model), target, z, extra=lambda z, _: {"flat": torch.zeros(z.shape[:2])})
    assert flat.p_values["flat"] > 0.001
    assert errors(flat.ranks["flat"].double(), 31.5) < 5


# The evidence


def log_evidence(model: Linear, x: Tensor) -> Tensor:
    variance = model.A @ model.A.mT + SIGMA**2 * torch.eye(N, dtype=torch.double)
    return dist.MultivariateNormal(torch.zeros(N, dtype=torch.double), variance).log_prob(x)


def test_the_exact_guide_has_no_gap() -> None:
    model, guide = make("kalman", "paper")
    _, x = model.generate(T, 4)
    lengths = torch.tensor([6, 2, 4, 6])
    for args in ((x,), (x, lengths)):
        found = evidence_gap(model, guide, *args, particles=5)
        assert found.exact
        assert found.gap.abs().max() < 1e-9
        assert found.error.max() < 1e-9
        assert (found.effective - 5).abs().max() < 1e-9
    assert "exact; mean over 4" in str(found)
    learned = evidence_gap(model, make("kalman", "smoother")[1], x, particles=500)
    assert (learned.gap > 5 * learned.error).all()


def test_importance_weights_find_the_evidence(model) -> None:
    """Copies of one x: its evidence is found, and estimates scatter by as much as they say."""
    target, _ = pairs(model, 1)
    x = target.args[0].expand(300, -1)
    guide, truth = Gaussian(model, "wide"), log_evidence(model, x)
    found, exact = (evidence_gap(model, guide, x, particles=400, evidence=e) for e in (None, truth))
    assert errors(found.evidence, truth) < 5
    assert errors(found.elbo, truth) > 5
    P, scatter = model.precision(), found.gap.std()
    kl = 0.5 * (N * 2 - N - N * torch.tensor(2.0).log())  # of N(m, 2C) from N(m, C)
    assert P.shape == (N, N)
    assert errors(exact.gap, kl) < 5
    assert 0.85 < scatter / found.error.mean() < 1.15
    assert not 0.85 < scatter / exact.error.mean() < 1.15  # that of the bound alone
    assert 100 < found.effective.min() < found.effective.max() < 300
    assert str(found).startswith("The gap is at least ")


def test_a_density_of_all_sequences_together_is_refused(model) -> None:
    (x,) = pairs(model, 3)[0].args
    with local_parameters():
        guide = AutoMultivariateNormal(model)
        guide(x)
        with pytest.raises(ValueError, match=r"_latent' has densities \(2, 1\) where others have \(2, 3\)"):
            evidence_gap(model, guide, x, particles=2)
        one = AutoMultivariateNormal(model)
        one(x[:1])
        root = torch.linalg.cholesky(torch.linalg.inv(model.precision()))
        one.loc.data, one.scale, one.scale_tril = model.mean(x)[0], root.diag(), root / root.diag()[:, None]
        found = evidence_gap(model, one, x[:1], particles=2, evidence=log_evidence(model, x[:1]))
    assert found.gap.abs() < 1e-9


# Known moments


def test_the_posterior_of_a_kalman_path_is_that_of_the_dense_gaussian() -> None:
    parameters, x = random_model(3, 2, T), torch.randn(4, T, 2, dtype=torch.double)
    mean, covariance = kalman_posterior(parameters, x)
    joint, frames = Dense(parameters, T), list(range(T))
    W, w, C = joint.given(joint.index(z=frames), joint.index(x=frames))
    torch.testing.assert_close(mean.flatten(-2), x.flatten(-2) @ W.mT + w, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(covariance, C.expand_as(covariance), rtol=1e-9, atol=1e-9)
    observed = torch.ones(4, T, dtype=torch.bool)
    observed[:, 2] = False
    assert (kalman_posterior(parameters, x, observed)[1] - covariance).abs().max() > 1e-3


def test_exact_draws_are_within_five_standard_errors() -> None:
    parameters, x = random_model(2, 2, T), torch.randn(2, T, 2, dtype=torch.double)
    exact = kalman_posterior(parameters, x)
    z = kalman.sample(parameters, x, draws=4000)
    found = posterior_errors(z, *exact)
    assert found.worst < 5
    assert found.mean.shape == (2, 2 * T)
    assert found.covariance.shape == (2, 2 * T, 2 * T)
    assert str(found).startswith("Over 4000 chains, the mean is within ")
    assert posterior_errors(z + 0.1, *exact).mean.abs().max() > 5
    wide = posterior_errors(exact[0] + 1.1 * (z - exact[0]), *exact)
    assert wide.mean.abs().max() < 5 < wide.covariance.abs().max()
    entries = posterior_errors(z[..., torch.randperm(T), :], *exact)  # frames out of order
    assert entries.worst > 5


def test_a_chain_counts_once_however_many_draws_it_gives(model) -> None:
    """Of a chain that stands still, a hundred draws tell no more than one."""
    target, _ = pairs(model, 1)
    mean, C = model.mean(*target.args).view(FRAMES, SIZE), torch.linalg.inv(model.precision())
    z = mean + (torch.randn(200, 1, N, dtype=torch.double) @ torch.linalg.cholesky(C).mT).view(
        200, 1, FRAMES, SIZE
    )
    once, often = posterior_errors(z, mean, C), posterior_errors(z.expand(100, *z.shape), mean, C)
    torch.testing.assert_close(often.mean, once.mean)
    torch.testing.assert_close(often.covariance, once.covariance)
    assert once.worst < 5 < posterior_errors(z.repeat(100, 1, 1, 1), mean, C).worst  # as if independent


# What cannot be done


def without_z(x: Tensor) -> None:
    pyro.sample("x", dist.Normal(x, 1.0), obs=x)


def test_refusals_name_what_is_wrong(model) -> None:
    target, z = pairs(model, 30)
    guide = Gaussian(model)
    refused = [
        (lambda: invariance(Walk(), target, z[:5]), r"\(B, T, D\) with B of at least 20 .* \(5, 2, 2\)"),
        (lambda: invariance(Walk(), target, z[None]), r"got a tensor of shape \(1, 30, 2, 2\)"),
        (lambda: invariance(Walk(), target, z, level=1e-5), "A level is between 0.0005.*not 1e-05"),
        (lambda: calibration(guide, target, z), "B of at least 64 replicates"),
        (lambda: calibration(guide, target, z, chains=0), "chains=0, draws=1, warmup=100 and thin=1"),
        (lambda: evidence_gap(model, guide, *target.args, particles=1), "at least two particles, not 1"),
        (lambda: posterior_errors(z[:9, None], z[0], torch.eye(N)), "needs 20 chains S or more.* have 9"),
        (lambda: posterior_errors(z[:, None], z[0], torch.eye(3)), r"ends in \(4, 4\); .* \(3, 3\)"),
        (lambda: functionals(Target(without_z, None, (z,)), z), "site 'z' .* this one has none"),
        (lambda: invariance(Walk(), target, z, steps=0), "takes steps=0 cannot be tested"),
        (lambda: invariance(Walk, target, z), "an object with init and step.* the class Walk is none"),
        (lambda: invariance(guide, target, z), r"such as MALA\(\), and a Gaussian is none"),
        (lambda: invariance(Walk(), target, z[:20]), r"there are 20 paths, and x has the shape \(30, 4\)"),
        (lambda: calibration(Walk(), target, z[:20], chains=3), "there are 20 paths"),
        (lambda: calibration("guide", target, z, chains=3), "and a str is neither"),
        (lambda: calibration(Gibbs, target, z, chains=3), "the class Gibbs is neither"),
        (lambda: posterior_errors(z[:2], z[0], torch.eye(N)), r"S chains first, .* \(2, 2, 2\)"),
        (lambda: posterior_errors(z[:, None], z[:3], torch.eye(N)), r"fit a mean of shape \(3, 2, 2\)"),
        (
            lambda: posterior_errors(z[:, None], z[0], torch.eye(N).expand(3, N, N)),
            r"covariance of shape \(3, 4, 4\)",
        ),
        (lambda: calibration(VEM(), target, z, chains=3), "VEM fine-tunes a guide"),
    ]  # fmt: skip
    for call, why in refused:
        with pytest.raises(ValueError, match=why):
            call()


def test_the_same_seed_gives_the_same_answer() -> None:
    model, guide = make("kalman", "paper")
    answers = []
    for seed in (0, 0, 1):
        torch.manual_seed(seed)
        z, x = draw(model, torch.zeros(40, T, F, dtype=torch.double))
        found = calibration(make_guide(model), Target(model, guide, (x,)), z, chains=7)
        answers.append(found.ranks["log p(z)"])
    assert z.shape == (40, T, D)
    assert torch.equal(answers[0], answers[1])
    assert not torch.equal(answers[0], answers[2])
