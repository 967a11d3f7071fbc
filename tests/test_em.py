"""Expectation-maximisation: estimates and draws of the speech, and the bridge to the samplers."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor
from toys import ALL, B, D, F, T, errors, make, spectra

from pyrodvae.distributions import power
from pyrodvae.em import Posterior, em
from pyrodvae.engines import ENGINES, Engine, Langevin
from pyrodvae.nets import POWER_FLOOR
from pyrodvae.noise import NMFNoise
from pyrodvae.noisy import NoisySpeech
from pyrodvae.potential import Target

S, K = 2, 2


class Path(NamedTuple):
    z: Tensor


@dataclass(frozen=True)
class Still(Engine):
    """Draws that stay where they are: what is left of EM is its M-step."""

    def init(self, target: Target, z: Tensor) -> Path:
        return Path(z)

    def step(self, target: Target, state: Path) -> tuple[Path, dict[str, Tensor]]:
        return state, {"ones": torch.ones(S, B)}


def scene(key: str = "rvae", gain: bool = True, seed: int = 0) -> tuple[NoisySpeech, Any, Tensor, Tensor]:
    """A mixture model, the guide of its speech, what was heard, and where the chains start."""
    torch.manual_seed(seed)
    speech, guide = make(key)
    x = 2 * spectra()
    noise = NMFNoise.from_quiet_frames(x, K, torch.Generator().manual_seed(0))
    g = torch.rand(B, T, 1, dtype=torch.double) + 0.5 if gain else None
    return NoisySpeech(speech, noise, g), guide, x, torch.randn(S, B, T, D, dtype=torch.double)


# --- the mixture


@pytest.mark.parametrize("gain", [True, False])
@pytest.mark.parametrize("key", ["vae", "rvae", "rvae-causal", "toy-dkf"])
def test_density_and_gradient_of_the_mixture(key: str, gain: bool) -> None:
    model, _, x, z = scene(key, gain)
    prior = model.speech.prior(x)
    v = model.speech.likelihood(z, x, prior).variance
    total = (v if model.gain is None else model.gain * v) + (model.noise.W @ model.noise.H).mT + POWER_FLOOR
    wanted = prior.log_prob(z) - ((math.pi * total).log() + x.abs() ** 2 / total).sum((-1, -2))
    target = Target(model, None, (x,))
    torch.testing.assert_close(target.log_joint(z), wanted, rtol=1e-12, atol=0)
    log_p, gradient = target.gradient(z)
    torch.testing.assert_close(log_p, wanted, rtol=1e-12, atol=0)
    for index in ((0, 0, 0, 0), (1, 2, T - 1, 1)):
        h = torch.zeros_like(z)
        h[index] = 1e-5
        slope = (target.log_joint(z + h) - target.log_joint(z - h)).sum() / 2e-5
        torch.testing.assert_close(gradient[index], slope, rtol=1e-6, atol=1e-7)
    other, _, _, _ = scene(key, not gain)
    assert not torch.allclose(Target(other, None, (x,)).log_joint(z), wanted)


def test_speech_is_frozen_and_feedback_refused() -> None:
    model, _, _, _ = scene()
    assert not any(p.requires_grad for p in model.speech.parameters())
    for key in ("toy-storn", "toy-vrnn"):
        with pytest.raises(ValueError, match="feeds clean speech frames back"):
            scene(key)


def test_objective_of_the_mixture_is_its_likelihood() -> None:
    model, _, x, z = scene()
    speech = model.scaled(model.speech_variance(z))
    p = model.speech.prior(x).log_prob(z)
    log_x = Target(model, None, (x,)).log_joint(z) - p
    wanted = (-log_x / (T * F) - math.log(math.pi)).mean(0)
    torch.testing.assert_close(model.objective(power(x), speech), wanted, rtol=1e-12, atol=0)
    assert not torch.allclose(model.objective(power(x), 2 * speech), wanted)


def test_a_kept_variance_serves_one_run_of_the_program_on_the_same_path() -> None:
    model, _, x, z = scene()
    target, asked = Target(model, None, (x,)), []
    likelihood = model.speech.likelihood
    model.speech.likelihood = lambda z, *rest: asked.append(z) or likelihood(z, *rest)
    fresh = target.log_joint(z)
    model.speech_variance(z)
    assert len(asked) == 2
    assert torch.equal(target.log_joint(z), fresh)
    assert len(asked) == 2  # the decoder was not run again
    assert torch.equal(target.log_joint(z), fresh)
    assert len(asked) == 3  # but it is the next time
    model.speech_variance(z)
    moved = z + 1
    wanted = Target(model, None, (x,)).log_joint(moved.clone())
    model.speech_variance(z)
    torch.testing.assert_close(target.log_joint(moved), wanted, rtol=1e-13, atol=0)
    assert not torch.allclose(wanted, fresh)


def leaf(z: Tensor) -> Tensor:
    return z.clone().requires_grad_()


def test_a_path_once_looked_at_without_gradients_has_its_gradient() -> None:
    model, _, x, z = scene()
    target, z = Target(model, None, (x,)), leaf(z)
    with torch.no_grad():
        model.speech_variance(z)
    torch.testing.assert_close(target.gradient(z)[1], target.gradient(leaf(z.detach()))[1])


def test_a_gradient_may_be_taken_twice() -> None:
    model, _, x, z = scene()
    target, z = Target(model, None, (x,)), leaf(z)
    assert torch.equal(target.gradient(z)[1], target.gradient(z)[1])


# --- the estimates


def test_wiener_estimate_of_one_iteration_is_the_formula() -> None:
    model, _, x, z = scene()
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
    model, _, x, z = scene(gain=gain)
    seen = []
    result = em(model, None, x, Still(), z, iterations=12, each=seen.append)
    torch.testing.assert_close(result.mean + result.noise_mean, x, rtol=1e-14, atol=1e-14)
    assert (result.variance >= 0).all()
    assert result.objective.shape == (12, B)
    assert (result.objective.diff(dim=0) <= 1e-12).all()
    assert result.objective[-1].lt(result.objective[0]).all()
    assert seen == list(range(12))
    assert torch.equal(result.diagnostics["ones"], torch.ones(12))


def test_share_of_iterations_in_the_estimate() -> None:
    """All of them, or the last alone: then it is the filter of the final parameters."""
    last, whole = (em(*args(), iterations=10, average=a) for a in (0.01, 1.0))
    m = last.speech / (last.speech + last.noise)
    x = args()[2]
    torch.testing.assert_close(last.mean, m.mean(0) * x, rtol=1e-12, atol=0)
    assert not torch.allclose(whole.mean, last.mean)


def args() -> tuple[NoisySpeech, None, Tensor, Engine, Tensor]:
    model, _, x, z = scene()
    return model, None, x, Still(), z


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
        model, guide, x, z = scene()
        torch.manual_seed(seed)
        return em(model, guide, x, ENGINES[key](), z, iterations=4)

    a, b, c = run(1), run(1), run(2)
    assert torch.equal(a.mean, b.mean)
    assert torch.equal(a.variance, b.variance)
    assert not torch.equal(a.mean, c.mean)
    assert all(len(v) == 4 and torch.isfinite(v).all() for v in a.diagnostics.values())


@pytest.mark.parametrize("key", ENGINES)
def test_em_explains_the_mixture_better_and_better(key: str) -> None:
    model, guide, x, z = scene()
    result = em(model, guide, x, ENGINES[key](), z, iterations=40)
    assert (result.objective[-5:].mean(0) < result.objective[0] - 0.1).all()


def test_engine_settings_are_frozen() -> None:
    with pytest.raises(AttributeError):
        Langevin().steps = 3
    assert replace(Langevin(), steps=3).steps == 3


@pytest.mark.parametrize("key", ALL)
def test_padded_sequences_have_their_own_density(key: str) -> None:
    """The log joint of a ragged batch, as engines see it, is that of each sequence alone."""
    m, _ = make(key)
    x, z, lengths = spectra(), torch.randn(S, B, T, D, dtype=torch.double), torch.tensor([T, 2, 4])
    ragged, whole = (Target(m, None, (x, *a)).log_joint(z) for a in ((lengths,), ()))
    for i, n in enumerate(lengths):
        alone = Target(m, None, (x[i, None, :n],)).log_joint(z[:, i, None, :n])
        torch.testing.assert_close(ragged[:, i, None], alone, rtol=1e-12, atol=0)
    assert not torch.allclose(ragged[:, 1:], whole[:, 1:])


def test_padded_mixtures_have_their_own_density() -> None:
    model, _, x, z = scene()
    other = x.clone()
    other[1, 2:] += 1
    lengths = torch.tensor([T, 2, 4])
    a, b = (Target(model, None, (y, lengths)).log_joint(z) for y in (x, other))
    assert torch.equal(a, b)
