"""The mixture: its density and gradient as samplers see them, and what it keeps."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from pyro import poutine
from torch import Tensor
from toys import ALL, B, D, F, T, latents, make, mixture, moved, spectra

from pyrodvae.distributions import ComplexNormal, power
from pyrodvae.dvae import DVAE, SEGMENT
from pyrodvae.em import em
from pyrodvae.engines import VEM, Engine, Langevin
from pyrodvae.given import Given
from pyrodvae.guide import Guide
from pyrodvae.models import SRNN, VAE
from pyrodvae.noise import NMFNoise
from pyrodvae.noisy import NoisySpeech
from pyrodvae.observations import POWER_FLOOR
from pyrodvae.posterior import Fit
from pyrodvae.potential import Target

FED_BACK = [key for key in ALL if make(key)[0].feedback]
APPROXIMATE = [(key, how) for key in FED_BACK for how in ("estimate", "own")] + [("dsae", "estimate")]
every_approximation = pytest.mark.parametrize(("key", "how"), APPROXIMATE)


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


def test_speech_is_frozen() -> None:
    model, _, _, _ = mixture()
    assert not any(p.requires_grad for p in model.speech.parameters())


def test_what_is_needed_and_missing_is_asked_for() -> None:
    noise = mixture()[0].noise
    for key in FED_BACK:
        speech, _ = make(key)
        with pytest.raises(ValueError, match=f"{type(speech).__name__} feeds clean speech frames back into"):
            NoisySpeech(speech, noise)
    with pytest.raises(ValueError, match="feedback is 'estimate' or 'own', not 'none'"):
        NoisySpeech(speech, noise, feedback="none")


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
    found, other = (Fit.of(power(x), u, model.noise.variance).objective for u in (speech, 2 * speech))
    torch.testing.assert_close(found, wanted, rtol=1e-12, atol=0)
    assert not torch.allclose(other, wanted)


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


# --- what noise hides from the model


def approximate(
    key: str, how: str, gain: bool = True, **changes: Any
) -> tuple[NoisySpeech, Guide, Tensor, Tensor]:
    """A mixture in which something stands in for what is hidden: with guide, x and z (2, B, T, D)."""
    torch.manual_seed(0)
    speech, guide = make(key)
    x = 2 * spectra()
    noise = NMFNoise.from_quiet_frames(x, 2, torch.Generator().manual_seed(0))
    given = {"heard": 0.7 * x, "w": torch.randn(B, max(1, speech.segment), dtype=torch.double)} | changes
    g = torch.rand(B, T, 1, dtype=torch.double) + 0.5 if gain else None
    model = NoisySpeech(speech, noise, g, feedback=how, **given)
    return model, guide, x, torch.randn(2, B, T, D, dtype=torch.double)


def by_frames(model: DVAE, z: Tensor, heard: Tensor | None, w: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """log p(z_t | ·) (S, B, T) and v (S, B, T, F), one frame after the other, by the conditionals alone."""
    memo = None if w is None else poutine.condition(model.begin, {SEGMENT: w})(B)
    z_t, x_t = 0 * z[..., :1, :], model.before_first(*z.shape[:-2], 1)
    log_p, v = [], []
    for t in range(T):
        p_z, memo = model.transition(z_t, x_t, memo)
        z_t = z[..., t : t + 1, :]
        p_x, memo = model.emission(z_t, x_t, memo)
        log_p.append(p_z.log_prob(z_t))
        v.append(p_x.variance)
        x_t = (
            v[-1].sqrt().to(x_t.dtype) if heard is None else heard[:, t : t + 1].expand(*z.shape[:-2], 1, -1)
        )
    return torch.cat(log_p, -1), torch.cat(v, -2)


@every_approximation
def test_an_approximate_mixture_is_the_one_it_is_said_to_be(key: str, how: str) -> None:
    """Density and gradient, against a loop over frames and against differences."""
    w = torch.randn(B, D, dtype=torch.double)
    model, _, x, z = approximate(key, how, w=w)
    speech, _ = make(key)
    speech.load_state_dict({k.removeprefix("model."): v for k, v in model.speech.state_dict().items()})
    read = model.heard if speech.feedback else x
    log_p, v = by_frames(speech, z, read, w if speech.segment else None)
    noisy = ComplexNormal(model.gain * v + model.noise.variance)
    wanted = log_p.sum(-1) + noisy.log_prob(x).sum((-1, -2))
    target = Target(model, None, (x,))
    for _ in range(2):  # the second time, the pass along z is done already
        torch.testing.assert_close(target.log_joint(z), wanted, rtol=1e-11, atol=0)
        torch.testing.assert_close(model.speech_variance(z), v, rtol=1e-11, atol=0)
    gradient = target.gradient(z)[1]
    for index in ((0, 0, 0, 0), (1, 2, T - 1, 1), (0, 1, 2, 0)):
        h = torch.zeros_like(z)
        h[index] = 1e-5
        slope = (target.log_joint(z + h) - target.log_joint(z - h)).sum() / 2e-5
        torch.testing.assert_close(gradient[index], slope, rtol=1e-5, atol=1e-7)
    # The control: with another guess, or with the other approximation, it would have been another one.
    other = approximate(key, "estimate", w=w + 1, heard=2 * x)[0]
    assert not torch.allclose(Target(other, None, (x,)).log_joint(z), wanted)


@every_approximation
def test_what_stands_in_keeps_the_order_of_time(key: str, how: str) -> None:
    """A z_t enters the terms from its own on, no further than the model's reach; x_t its own alone."""
    model, _, x, z = approximate(key, how)
    t, s = torch.meshgrid(torch.arange(T), torch.arange(T), indexing="ij")
    terms = [lambda u: Target(model, None, (x,)).frames(u)[0, ..., None]]
    terms.append(lambda y: Target(model, None, (y,)).frames(z)[0, ..., None])
    by_z, by_x = moved(terms[0], z[:1]), moved(terms[1], x)
    assert torch.equal(by_z, (s <= t) & (t - s <= (T if model.reach is None else model.reach)))
    assert torch.equal(by_x, s == t)
    if key == "srnn":  # the control: what is read of x̂ makes the difference
        assert model.reach == {"estimate": 1, "own": None}[how]


@every_approximation
@pytest.mark.parametrize("engine", [Langevin(), VEM()], ids=["langevin", "vem"])
def test_whatever_is_hidden_engines_find_their_way(key: str, how: str, engine: Engine) -> None:
    model, guide, x, z = approximate(key, how)
    if model.speech.segment:
        guide = Given(guide, x)
    frozen = [p.clone() for p in model.speech.parameters()]
    found = em(model, guide, x, engine, z, iterations=2)
    assert torch.isfinite(found.mean).all()
    assert torch.isfinite(found.objective).all()
    assert found.speech.shape == (2, B, T, F)
    assert all(map(torch.equal, model.speech.parameters(), frozen))


def test_each_approximation_has_its_name() -> None:
    names = {how: approximate("srnn", how)[0].approximation for how in ("estimate", "own")}
    assert "SRNN reads, in place of the clean frames x_{<t} that noise hides, a running" in names["estimate"]
    assert "what its own decoder said" in names["own"]
    assert approximate("dsae", "own")[0].approximation.startswith("The segment latent w of DSAE is held")
    assert approximate("vae", "estimate")[0].approximation == ""


def test_an_srnn_that_can_do_without_frames_is_told_an_estimate_all_the_same() -> None:
    model, _, x, z = approximate("srnn", "estimate")
    alone = SRNN(**make("srnn")[0].config | {"own_share": 1.0}).double()
    alone.load_state_dict(model.speech.state_dict())
    told = NoisySpeech(alone, model.noise, model.gain, heard=model.heard)
    wanted = Target(model, None, (x,)).log_joint(z)
    torch.testing.assert_close(Target(told, None, (x,)).log_joint(z), wanted, rtol=1e-13, atol=0)
    assert told.approximation == model.approximation
    assert alone.own_share == 1  # the model itself stays as it was
    for how in ({}, {"feedback": "own", "heard": model.heard}):  # unless there is none, or it is not wanted
        exact = NoisySpeech(alone, model.noise, model.gain, **how)
        assert exact.speech is alone
        assert exact.approximation == ""
        assert not torch.allclose(Target(exact, None, (x,)).log_joint(z), wanted)


@pytest.mark.parametrize("gain", [True, False])
def test_what_is_heard_is_renewed_after_an_m_step(gain: bool) -> None:
    """It has the power of the speech given x, as draws have it, but not less than the first guess."""
    model, _, x, z = approximate("srnn", "estimate", gain)
    speech, n = model.scaled(model.speech_variance(z)), model.noise.variance
    first = power(model.heard)
    model.refresh(power(x), speech)
    renewed = power(model.heard) * (model.gain if gain else 1)
    mask, draws = speech / (speech + n), 4000
    total = torch.zeros(2, 2, B, T, F, dtype=torch.double)
    for _ in range(draws):
        p = power(mask * x + ComplexNormal(mask * n).sample())
        total += torch.stack([p, p.square()])
    mean, square = (total / draws).mean(1)
    least = first >= mean
    se = ((square - mean.square()) / (2 * draws)).sqrt()
    assert least.any()
    assert not least.all()
    torch.testing.assert_close(renewed[least], first[least])
    assert ((renewed - mean) / se)[~least].abs().max() < 5
    # The control: the power of the mean is less.
    wiener = mask.mean(0).square() * power(x)
    assert ((wiener - mean) / se)[~least].min() < -5


def test_a_pass_is_forgotten_when_what_is_heard_changes() -> None:
    model, _, x, z = approximate("vrnn", "estimate")
    target = Target(model, None, (x,))
    before = target.log_joint(z)
    speech = model.scaled(model.speech_variance(z))
    model.refresh(power(x), 100 * speech)
    fresh = approximate("vrnn", "estimate", heard=model.heard)[0]
    wanted = Target(fresh, None, (x,)).log_joint(z)
    torch.testing.assert_close(target.log_joint(z), wanted, rtol=1e-13, atol=0)
    assert not torch.allclose(before, wanted)
    for key, how in (("vrnn", "own"), ("rvae", "estimate")):  # where nothing is heard, nothing changes
        model, _, x, z = approximate(key, how)
        before = Target(model, None, (x,)).log_joint(z)
        model.refresh(power(x), 100 * speech)
        assert torch.equal(Target(model, None, (x,)).log_joint(z), before)


@pytest.mark.parametrize("key", ["rvae", "srnn"])
def test_a_pass_of_other_lengths_is_not_taken(key: str) -> None:
    model, _, x, z = approximate(key, "own")
    lengths = torch.tensor([T, 2, 4])
    wanted = Target(model, None, (x, lengths)).log_joint(z)
    whole = Target(model, None, (x,)).log_joint(z)
    model.speech_variance(z)
    assert torch.equal(Target(model, None, (x, lengths)).log_joint(z), wanted)
    model.speech_variance(z, lengths)
    assert torch.equal(Target(model, None, (x,)).log_joint(z), whole)
    assert not torch.allclose(wanted[:, 1:], whole[:, 1:])


@every_approximation
def test_padding_of_approximate_mixtures_changes_nothing(key: str, how: str) -> None:
    model, _, x, z = approximate(key, how)
    lengths = torch.tensor([T, 2, 4])
    for frame, irrelevant in ((slice(4, None), True), (slice(1, 2), False)):
        other = [x.clone(), z.clone()]
        for values in other:
            values[..., 1:, frame, :] += 1
        a, b = (Target(model, None, (v, lengths)).log_joint(w) for v, w in ((x, z), other))
        assert torch.equal(a, b) == irrelevant


def test_the_guide_of_a_segment_held() -> None:
    _, g = make("dsae", "paper")
    x = spectra()
    held = Given(g, x)
    q = g.segment(g.dense(g.read(x)), None)
    torch.testing.assert_close(held.shared, q.mean, rtol=0, atol=0)
    torch.manual_seed(1)
    z = g.posterior(2 * x, None, q.mean).rsample()
    torch.manual_seed(1)
    assert torch.equal(held(2 * x), z)
    assert not torch.allclose(
        held.posterior(2 * x).along(z).mean, g.posterior(2 * x, None, -q.mean).along(z).mean
    )
    with pytest.raises(ValueError, match="RecurrentGuide has no segment latent w here"):
        Given(make("rvae")[1], x)
