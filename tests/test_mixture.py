"""The mixture: its density and gradient as samplers see them, and what it keeps."""

from __future__ import annotations

import math

import pytest
import torch
from pyro import poutine
from torch import Tensor
from toys import ALL, B, D, F, T, latents, make, mixture, spectra

from pyrodvae.distributions import power
from pyrodvae.models import VAE
from pyrodvae.noisy import NoisySpeech
from pyrodvae.observations import POWER_FLOOR
from pyrodvae.potential import Target


@pytest.mark.parametrize("gain", [True, False])
@pytest.mark.parametrize("key", ["vae", "rvae", "rvae-causal", "toy-dkf"])
def test_density_and_gradient_of_the_mixture(key: str, gain: bool) -> None:
    model, _, x, z = mixture(key, gain)
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
    other, _, _, _ = mixture(key, not gain)
    assert not torch.allclose(Target(other, None, (x,)).log_joint(z), wanted)


def test_speech_is_frozen_and_feedback_refused() -> None:
    model, _, _, _ = mixture()
    assert not any(p.requires_grad for p in model.speech.parameters())
    for key in ("toy-storn", "toy-vrnn"):
        with pytest.raises(ValueError, match="feeds clean speech frames back"):
            mixture(key)


def test_a_model_of_real_vectors_is_refused() -> None:
    noise = mixture()[0].noise
    with pytest.raises(ValueError, match="VAE here is a model of real vectors, and noise is added to"):
        NoisySpeech(VAE(F, D, data="real"), noise)


def test_a_further_latent_is_refused_not_drawn_anew() -> None:
    with pytest.raises(ValueError, match="DSAE has a segment latent w beside its path z"):
        mixture("dsae")
    m, _ = make("dsae")
    x, values = spectra(), latents(m)
    with pytest.raises(ValueError, match="a latent 'w' besides: condition the model on"):
        Target(m, None, (x,)).log_joint(values["z"])
    target = Target(poutine.condition(m, {"w": values["w"]}), None, (x,))
    assert torch.equal(target.log_joint(values["z"]), target.log_joint(values["z"]))


def test_objective_of_the_mixture_is_its_likelihood() -> None:
    model, _, x, z = mixture()
    speech = model.scaled(model.speech_variance(z))
    p = model.speech.prior(x).log_prob(z)
    log_x = Target(model, None, (x,)).log_joint(z) - p
    wanted = (-log_x / (T * F) - math.log(math.pi)).mean(0)
    torch.testing.assert_close(model.objective(power(x), speech), wanted, rtol=1e-12, atol=0)
    assert not torch.allclose(model.objective(power(x), 2 * speech), wanted)


def test_a_kept_variance_serves_one_run_of_the_program_on_the_same_path() -> None:
    model, _, x, z = mixture()
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
    model, _, x, z = mixture()
    target, z = Target(model, None, (x,)), leaf(z)
    with torch.no_grad():
        model.speech_variance(z)
    torch.testing.assert_close(target.gradient(z)[1], target.gradient(leaf(z.detach()))[1])


def test_a_gradient_may_be_taken_twice() -> None:
    model, _, x, z = mixture()
    target, z = Target(model, None, (x,)), leaf(z)
    assert torch.equal(target.gradient(z)[1], target.gradient(z)[1])


@pytest.mark.parametrize("key", ALL)
def test_padded_sequences_have_their_own_density(key: str) -> None:
    """The log joint of a ragged batch, as engines see it, is that of each sequence alone."""
    m, _ = make(key)
    shared = {k: v for k, v in latents(m).items() if k != "z"}
    x, z, lengths = spectra(), torch.randn(2, B, T, D, dtype=torch.double), torch.tensor([T, 2, 4])
    given = poutine.condition(m, shared)
    ragged, whole = (Target(given, None, (x, *a)).log_joint(z) for a in ((lengths,), ()))
    for i, n in enumerate(lengths):
        one = poutine.condition(m, {k: v[i, None] for k, v in shared.items()})
        alone = Target(one, None, (x[i, None, :n],)).log_joint(z[:, i, None, :n])
        torch.testing.assert_close(ragged[:, i, None], alone, rtol=1e-12, atol=0)
    assert not torch.allclose(ragged[:, 1:], whole[:, 1:])


def test_padded_mixtures_have_their_own_density() -> None:
    model, _, x, z = mixture()
    other = x.clone()
    other[1, 2:] += 1
    lengths = torch.tensor([T, 2, 4])
    a, b = (Target(model, None, (y, lengths)).log_joint(z) for y in (x, other))
    assert torch.equal(a, b)
