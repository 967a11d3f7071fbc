"""Expectation-maximisation: estimates and draws of the speech, with scripted and with real engines."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import NamedTuple

import pytest
import torch
from torch import Tensor
from toys import B, D, F, errors, make, mixture, spectra

from pyrodvae.distributions import ComplexNormal, power
from pyrodvae.em import Posterior, em
from pyrodvae.engines import ENGINES, VEM, Engine, Langevin
from pyrodvae.noise import PLAIN, MStep, Multiplicative, NMFNoise
from pyrodvae.noisy import NoisySpeech
from pyrodvae.posterior import Fit
from pyrodvae.potential import Target

S = 2


class Path(NamedTuple):
    z: Tensor


class Move(NamedTuple):
    z: Tensor
    next: int


@dataclass(frozen=True)
class Still(Engine):
    """Draws that stay where they are: what is left of EM is its M-step."""

    def init(self, target: Target, z: Tensor) -> Path:
        return Path(z)

    def step(self, target: Target, state: Path) -> tuple[Path, dict[str, Tensor]]:
        return state, {"ones": torch.ones(S, B)}


# --- the estimates


def test_wiener_estimate_of_one_iteration_is_the_formula() -> None:
    model, _, x, z = mixture()
    result = em(model, None, x, Still(), z, iterations=1)
    u, n = model.scaled(model.speech_variance(z)), model.noise.variance
    m = u / (u + n)
    torch.testing.assert_close(result.mean, m.mean(0) * x, rtol=1e-12, atol=0)
    between = ((m - m.mean(0)) * x).abs().square().mean(0)
    torch.testing.assert_close(result.variance, (u * n / (u + n)).mean(0) + between, rtol=1e-9, atol=1e-14)
    assert not torch.allclose(result.variance, (u * n / (u + n)).mean(0))  # the spread of draws counts
    torch.testing.assert_close(result.speech, u)
    torch.testing.assert_close(result.noise, n)


@pytest.mark.parametrize("gain", [True, False])
def test_speech_and_noise_add_up_and_the_objective_falls(gain: bool) -> None:
    model, _, x, z = mixture(gain=gain)
    seen = []
    result = em(model, None, x, Still(), z, iterations=12, each=seen.append)
    torch.testing.assert_close(result.mean + result.noise_mean, x, rtol=1e-14, atol=1e-14)
    assert (result.variance >= 0).all()
    assert result.objective.shape == (12, B)
    assert (result.objective.diff(dim=0) <= 1e-12).all()
    assert result.objective[-1].lt(result.objective[0]).all()
    assert seen == list(range(12))
    assert torch.equal(result.diagnostics.trace("ones"), torch.ones(12, S, B))
    assert result.diagnostics.trace("speech_energy").shape == (12, S, B)


def test_share_of_iterations_in_the_estimate() -> None:
    """All of them, or the last alone: then it is the filter of the final parameters."""
    last, whole = (em(*args(), iterations=10, average=a) for a in (0.01, 1.0))
    m = last.speech / (last.speech + last.noise)
    x = args()[2]
    torch.testing.assert_close(last.mean, m.mean(0) * x, rtol=1e-12, atol=0)
    assert not torch.allclose(whole.mean, last.mean)


def args() -> tuple[NoisySpeech, None, Tensor, Engine, Tensor]:
    model, _, x, z = mixture()
    return model, None, x, Still(), z


@dataclass(frozen=True)
class Scripted(Engine):
    """Draws that were fixed beforehand, one after the other."""

    draws: tuple[Tensor, ...]

    def init(self, target: Target, z: Tensor) -> Move:
        return Move(z, 0)

    def step(self, target: Target, state: Move) -> tuple[Move, dict[str, Tensor]]:
        return Move(self.draws[state.next], state.next + 1), {}


@pytest.mark.parametrize(("average", "kept"), [(1.0, 3), (0.67, 2)])
def test_moments_are_over_all_chains_of_all_kept_iterations(average: float, kept: int) -> None:
    """Every iteration has its own draws, and the noise and gain that its own M-step left."""
    model, _, x, z = mixture()
    draws = tuple(2 * torch.randn(3, *z.shape, dtype=torch.double))
    given = em(model, None, x, Scripted(draws), z, iterations=3, average=average)
    model, _, x, _ = mixture()
    means, variances = [], []
    for path in draws:
        v = model.speech_variance(path).detach()
        model.gain, _ = PLAIN.step(model.noise, model.gain, power(x), v, PLAIN.init())
        u, n = model.gain * v, model.noise.variance
        means.append(u / (u + n) * x)
        variances.append(u * n / (u + n))
    s, within = torch.cat(means[-kept:]), torch.cat(variances[-kept:])

    def spread(s: Tensor) -> Tensor:
        return (s - s.mean(0)).abs().square().mean(0)

    torch.testing.assert_close(given.mean, s.mean(0), rtol=1e-12, atol=1e-14)
    torch.testing.assert_close(given.variance, within.mean(0) + spread(s), rtol=1e-9, atol=1e-12)
    # controls: the spread of the last iteration alone, or within iterations alone
    alone = torch.stack([spread(m) for m in means[-kept:]])
    last = (means[-1] / x).real.square().mean(0) - (s.mean(0) / x).real.square()
    for wrong in (alone[-1], alone.mean(0), last.clamp(min=0) * power(x)):
        assert not torch.allclose(given.variance, within.mean(0) + wrong, rtol=1e-3)


def test_draws_of_the_speech_have_the_exact_moments() -> None:
    x = spectra(1, 2, 3)
    u = torch.rand(1, 2, 3, dtype=torch.double).exp().expand(20_000, -1, -1, -1)
    n = torch.rand(1, 2, 3, dtype=torch.double)
    zero = torch.zeros(1)
    s = Posterior(zero, zero, zero, u, n, zero, {}).draw(x)
    mean, variance = (u / (u + n) * x)[0], (u * n / (u + n))[0]
    deviation = s - mean
    assert errors(deviation.real) < 5
    assert errors(deviation.imag) < 5
    assert errors(deviation.abs() ** 2, variance) < 5
    assert errors((deviation**2).real) < 5  # proper
    noisier = Posterior(zero, zero, zero, u, 1.1 * n, zero, {}).draw(x) - mean
    assert errors(noisier.abs() ** 2, variance) > 5
    assert errors(torch.cat([noisier.real, noisier.imag], -1)) > 5


# --- with engines


@pytest.mark.parametrize("key", ENGINES)
def test_same_seed_same_output(key: str) -> None:
    def run(seed: int) -> Posterior:
        model, guide, x, z = mixture()
        torch.manual_seed(seed)
        return em(model, guide, x, ENGINES[key](), z, iterations=4)

    a, b, c = run(1), run(1), run(2)
    assert torch.equal(a.mean, b.mean)
    assert torch.equal(a.variance, b.variance)
    assert torch.equal(a.mean, c.mean) == (key == "peem")  # which has no chance in it
    traces = [a.diagnostics.trace(name) for name in a.diagnostics.names]
    assert all(len(v) == 4 and torch.isfinite(v).all() for v in traces)


@dataclass(frozen=True)
class Heedless(Engine):
    """Draws from the prior, whatever was heard."""

    def init(self, target: Target, z: Tensor) -> Path:
        return Path(z)

    def step(self, target: Target, state: Path) -> tuple[Path, dict[str, Tensor]]:
        return Path(torch.randn_like(state.z)), {}


def wins(engine: Engine) -> Tensor:
    """Whether EM's last draws explain each sequence better than the draws from the prior before them.

    Both under EM's last noise. The posterior's do, on average, by KL(p(z | x) ‖ p(z)) + KL(p(z) ‖
    p(z | x)): no M-step can bring that about.
    """
    torch.manual_seed(0)
    speech, guide = make("vae")
    for p in speech.parameters():
        p.data *= 2  # a decoder for which z matters
    z = torch.randn(80, 8, D, dtype=torch.double)
    W = torch.rand(80, F, 2, dtype=torch.double)
    noise = NMFNoise(W / W.sum(1, keepdim=True), 5 * torch.rand(80, 2, 8, dtype=torch.double))
    heard = speech.likelihood(z, z, speech.prior(z)).variance + noise.variance
    x, before = ComplexNormal(heard.detach()).sample(), torch.randn(S, 80, 8, D, dtype=torch.double)
    model = NoisySpeech(speech, noise)
    after = em(model, guide, x, engine, before, iterations=30).speech
    v = model.speech_variance(before)
    explained, at_first = (Fit.of(power(x), u, model.noise.variance) for u in (after, v))
    return explained.objective < at_first.objective


@pytest.mark.parametrize("engine", [Langevin(), VEM(learning_rate=0.02)], ids=["langevin", "vem"])
def test_draws_of_em_explain_the_mixture(engine: Engine) -> None:
    """By the sign test: of 80 sequences, more win than fair coins by 5 standard deviations (√80 / 2)."""
    least = 40 + 5 * math.sqrt(80) / 2
    assert wins(engine).sum() > least
    assert wins(Heedless()).sum() < least
    assert wins(Still()).sum() == 0


# --- settings


@pytest.mark.parametrize("engine", [Langevin(), VEM()], ids=["langevin", "vem"])
@pytest.mark.parametrize("m_step", [PLAIN, Multiplicative(kappa=0.6, settle=5)], ids=["plain", "memory"])
def test_a_resumed_run_is_the_uninterrupted_one(engine: Engine, m_step: MStep) -> None:
    """Bit for bit, when chance goes on as well."""

    def run(*parts: tuple[int, float], resume: bool = True) -> list[Posterior]:
        model, guide, x, z = mixture()
        torch.manual_seed(3)
        found: list[Posterior] = []
        for count, average in parts:
            last = found[-1].state if found and resume else None
            settings = {"iterations": count, "average": average, "m_step": m_step, "state": last}
            found.append(em(model, guide, x, engine, z, **settings))
        return found

    (whole,), (first, second) = run((20, 0.5)), run((10, 1.0), (10, 1.0))
    for name in ("mean", "variance", "speech", "noise"):
        assert torch.equal(getattr(second, name), getattr(whole, name)), name
    assert torch.equal(torch.cat([first.objective, second.objective]), whole.objective)
    assert not torch.equal(run((10, 1.0), (10, 1.0), resume=False)[1].speech, whole.speech)


def test_the_estimate_is_chosen_by_a_word() -> None:
    model, _, x, z = mixture()
    quiet = em(model, None, x, Still(), z, iterations=1, estimate="precision")
    u, n = quiet.speech, quiet.noise
    gamma = 1 / (1 / u).mean(0)
    torch.testing.assert_close(quiet.mean, gamma / (gamma + n) * x, rtol=1e-12, atol=0)
    torch.testing.assert_close(quiet.variance, gamma * n / (gamma + n), rtol=1e-12, atol=0)
    mean = em(*args(), iterations=1).mean
    assert (quiet.mean.abs() < mean.abs()).all()


def test_memory_of_the_m_step_steadies_the_noise() -> None:
    """The steps of the last iterations are shorter, with the same engine."""

    def step(m_step: MStep) -> Tensor:
        model, guide, x, z = mixture()
        before = em(model, guide, x, Langevin(), z, iterations=30, m_step=m_step)
        after = em(model, guide, x, Langevin(), z, iterations=1, m_step=m_step, state=before.state)
        return (after.noise.log() - before.noise.log()).abs().mean()

    assert step(Multiplicative(kappa=1.0, settle=5)) < step(PLAIN) / 4


def test_random_noise_is_refused() -> None:
    model, _, x, z = mixture()
    model.noise = torch.nn.Identity()
    with pytest.raises(ValueError, match="EM finds one W and H, and Identity draws them"):
        em(model, None, x, Still(), z)


def test_engine_settings_are_frozen() -> None:
    with pytest.raises(AttributeError):
        Langevin().steps = 3
    assert replace(Langevin(), steps=3).steps == 3
