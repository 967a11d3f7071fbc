"""Random noise: its density, its posterior by Pyro's own inference, and the M-step towards its mode."""

from __future__ import annotations

import math
from collections.abc import Callable

import pyro
import pytest
import torch
from pyro import poutine
from pyro.infer import HMC, MCMC, Trace_ELBO
from pyro.infer.autoguide import AutoNormal
from torch import Tensor
from toys import B, D, F, T, errors, make, mixture, spectra

from pyrodvae.bayesian_noise import MAP, BayesianNMF, GammaPrior, NMFPrior
from pyrodvae.distributions import ComplexNormal, power
from pyrodvae.em import em
from pyrodvae.engines import VEM
from pyrodvae.noise import PLAIN, MStep, NMFNoise
from pyrodvae.noisy import NoisySpeech
from pyrodvae.observations import POWER_FLOOR
from pyrodvae.potential import Target
from pyrodvae.program import local_parameters

K = 2
PRIOR = NMFPrior(GammaPrior(2.0, 3.0), GammaPrior(0.7, 0.4))


def gamma(w: Tensor, p: GammaPrior) -> Tensor:
    """log p, one entry at a time, by the docstring's formula."""
    return p.shape * math.log(p.rate) - math.lgamma(p.shape) + (p.shape - 1) * w.log() - p.rate * w


def random(prior: NMFPrior = PRIOR, key: str = "rvae", gain: bool = True) -> tuple[NoisySpeech, Tensor]:
    model, _, x, _ = mixture(key, gain)
    noise = BayesianNMF(prior, F, K, T).double()
    return NoisySpeech(model.speech, noise, model.gain), x


# --- the density


def test_log_joint_is_the_formula() -> None:
    model, x = random()
    z, W = torch.randn(B, T, D, dtype=torch.double), torch.rand(B, F, K, dtype=torch.double)
    H = torch.rand(B, K, T, dtype=torch.double).requires_grad_()
    given = poutine.condition(model, {"W": W, "H": H})
    log_p = Target(given, None, (x,)).log_joint(z[None])[0]
    prior = model.speech.prior(x)
    v = model.scaled(model.speech.likelihood(z, x, prior).variance) + (W @ H).mT + POWER_FLOOR
    wanted = prior.log_prob(z) - ((math.pi * v).log() + power(x) / v).sum((-1, -2))
    heard = wanted
    wanted = wanted + gamma(W, PRIOR.W).sum((-1, -2)) + gamma(H, PRIOR.H).sum((-1, -2))
    torch.testing.assert_close(log_p, wanted, rtol=1e-12, atol=0)
    slopes = [torch.autograd.grad(f.sum(), H, retain_graph=True)[0] for f in (log_p, wanted, heard)]
    torch.testing.assert_close(slopes[0], slopes[1], rtol=1e-10, atol=1e-12)
    assert not torch.allclose(
        slopes[0], slopes[2], rtol=1e-2
    )  # the controls: without, and with another prior
    other = NMFPrior(PRIOR.H, PRIOR.W)
    assert not torch.allclose(wanted - heard, other.log_prob(NMFNoise(W, H.detach())))
    torch.testing.assert_close(wanted - heard, PRIOR.log_prob(NMFNoise(W, H)), rtol=1e-10, atol=0)


def test_a_latent_noise_is_refused_where_the_density_is_of_z_alone() -> None:
    model, x = random()
    with pytest.raises(ValueError, match="the model has a latent 'W' besides"):
        Target(model, None, (x,)).log_joint(torch.randn(1, B, T, D, dtype=torch.double))
    with pytest.raises(ValueError, match="EM finds one W and H, and BayesianNMF draws them"):
        em(model, None, x, None, None)


def test_draws_have_the_moments_of_their_priors() -> None:
    noise = BayesianNMF(PRIOR, F, K, T).double()
    with pyro.plate("batch", 4000), poutine.trace() as tracer:
        variance = noise()
    assert variance.shape == (4000, T, F)
    sites = tracer.trace.nodes
    for name, p, other in (("W", PRIOR.W, PRIOR.H), ("H", PRIOR.H, PRIOR.W)):
        draws = sites[name]["value"].flatten(1)
        assert errors(draws, p.shape / p.rate) < 5
        assert errors(draws.square(), p.shape * (p.shape + 1) / p.rate**2) < 5
        assert errors(draws, other.shape / other.rate) > 5
    product = (sites["W"]["value"] @ sites["H"]["value"]).mT + POWER_FLOOR
    assert torch.equal(variance, product)


def test_a_prior_around_a_first_guess_has_its_power() -> None:
    x = 3 * spectra(B, 30)
    guess = NMFNoise.from_quiet_frames(x, 3, torch.Generator().manual_seed(0))
    for shape in (1.0, 4.0):
        noise = BayesianNMF(NMFPrior.around(guess, shape), F, 3, 30).double()
        with pyro.plate("batch", 3000):
            mean = noise().mean((1, 2))
        assert errors(mean, float(guess.variance.mean())) < 5
        assert errors(mean, 1.2 * float(guess.variance.mean())) > 5


def test_no_density_is_refused() -> None:
    for shape, rate in ((0.0, 1.0), (1.0, -1.0), (math.nan, 1.0)):
        with pytest.raises(ValueError, match="is no density: shape and rate must be positive"):
            GammaPrior(shape, rate)


# --- inference by Pyro

SEQUENCES = 12


def one_level(prior: GammaPrior) -> tuple[Callable, Tensor, Callable[[GammaPrior], Tensor]]:
    """A model whose only unknown is the level of one pattern, h per sequence; and the exact mean of h.

    One frame: z and W are given, so the posterior of h is a density on a line, integrated numerically.
    """
    torch.manual_seed(0)
    model, z = make("vae")[0], torch.randn(SEQUENCES, 1, D, dtype=torch.double)
    W = torch.rand(SEQUENCES, F, 1, dtype=torch.double) + 0.2
    u = model.likelihood(z, z, model.prior(z)).variance.detach()
    x = ComplexNormal(u + 2 * W.mT).sample()
    noise = BayesianNMF(NMFPrior(GammaPrior(1.0, 1.0), prior), F, 1, 1).double()

    def mean(prior: GammaPrior) -> Tensor:
        h = torch.linspace(-12, 6, 4000, dtype=torch.double).exp()
        V = u + W.mT * h[:, None, None, None] + POWER_FLOOR
        log_p = -(V.log() + power(x) / V).sum((-1, -2)) + (gamma(h, prior) + h.log())[:, None]
        return (log_p.softmax(0) * h[:, None]).sum(0)

    return poutine.condition(NoisySpeech(model, noise), {"z": z, "W": W}), x, mean


def test_hamiltonian_monte_carlo_finds_the_level_of_the_noise() -> None:
    prior = GammaPrior(1.5, 0.5)
    model, x, exact = one_level(prior)
    with local_parameters():
        kernel = HMC(model, step_size=0.35, num_steps=4, adapt_step_size=False)
        mcmc = MCMC(kernel, num_samples=300, warmup_steps=30, disable_progbar=True)
        mcmc.run(x)
    h = mcmc.get_samples()["H"].squeeze((-1, -2))
    assert h.shape == (300, SEQUENCES)
    blocks = h.reshape(20, 15, SEQUENCES).mean(1)  # nearly independent of each other
    assert errors(blocks, exact(prior)) < 5
    assert errors(blocks, exact(GammaPrior(1.5, 2.0))) > 5
    assert errors(blocks, exact(GammaPrior(4.0, 0.5))) > 5


def test_an_autoguide_fits_speech_and_noise_together() -> None:
    model, x = random()
    with local_parameters():
        guide = AutoNormal(model)
        guide(x)
        loss, values = Trace_ELBO()(model, guide), []
        optimiser = torch.optim.Adam(guide.parameters(), 0.05)
        for _ in range(40):
            optimiser.zero_grad()
            value = loss(x)
            value.backward()
            optimiser.step()
            values.append(float(value.detach()))
        draws = guide(x)
    assert sum(values[-10:]) < sum(values[:10])
    assert {k: tuple(v.shape) for k, v in draws.items()} == {"z": (B, T, D), "W": (B, F, K), "H": (B, K, T)}
    assert (draws["W"] > 0).all()
    assert all(p.grad is not None and p.grad.any() for p in guide.parameters())


# --- the M-step


def log_posterior(noise: NMFNoise, x: Tensor, speech: Tensor, prior: NMFPrior) -> Tensor:
    """The mean over draws of log p(x | z, W, H), and the log priors of W and H: (B,)."""
    heard = ComplexNormal((speech + noise.variance).to(x.real)).log_prob(x).mean(0).sum((1, 2))
    return heard + (gamma(noise.W, prior.W)).sum((1, 2)) + gamma(noise.H, prior.H).sum((1, 2))


def least_gain(m: MStep, prior: NMFPrior, normalise: bool = False) -> float:
    """By how much 15 steps ever lower the log posterior, over 20 random starts (negative if ever)."""
    worst = torch.inf
    for _ in range(20):
        x = spectra(B, T, F) * torch.randn(B, T, 1, dtype=torch.double).exp()
        speech = torch.randn(3, B, T, F, dtype=torch.double).mul(2).exp() / 4
        W, H = torch.rand(B, F, K, dtype=torch.double), torch.randn(B, K, T, dtype=torch.double).exp()
        noise, memory = NMFNoise(W, H), m.init()
        before = log_posterior(noise, x, speech, prior)
        for _ in range(15):
            _, memory = m.step(noise, None, power(x), speech, memory)
            after = log_posterior(noise, x, speech, prior)
            worst, before = min(worst, float((after - before).min())), after
    return worst


@pytest.mark.parametrize("prior", [PRIOR, NMFPrior(GammaPrior(1.0, 5.0), GammaPrior(3.0, 1.0))])
def test_map_updates_never_lower_the_log_posterior(prior: NMFPrior) -> None:
    assert least_gain(MAP(prior), prior) > -1e-9
    assert least_gain(PLAIN, prior) < -1e-2  # the controls: no prior, and another one
    assert least_gain(MAP(NMFPrior(prior.H, prior.W)), prior) < -1e-2


def test_map_reaches_a_stationary_point_of_the_log_posterior() -> None:
    """With shapes above one the mode is inside: there all slopes are zero."""
    prior = NMFPrior(GammaPrior(2.0, 3.0), GammaPrior(1.5, 0.4))
    x, speech = spectra(B, T, F), torch.rand(3, B, T, F, dtype=torch.double)
    W, H = torch.rand(B, F, K, dtype=torch.double), torch.rand(B, K, T, dtype=torch.double)
    noise, memory, m = NMFNoise(W, H), PLAIN.init(), MAP(prior)
    for _ in range(1500):
        _, memory = m.step(noise, None, power(x), speech, memory)

    def slopes(prior: NMFPrior) -> float:
        factors = NMFNoise(noise.W.clone().requires_grad_(), noise.H.clone().requires_grad_())
        found = torch.autograd.grad(log_posterior(factors, x, speech, prior).sum(), [factors.W, factors.H])
        return max(float(s.abs().max()) for s in found)

    assert slopes(prior) < 1e-6
    assert slopes(PRIOR) > 1e-2


def test_map_draws_the_noise_towards_its_prior_in_em() -> None:
    """A prior that knows the noise to be 100 times weaker leaves more to the speech."""

    def power_of_noise(m: MStep | None) -> Tensor:
        model, guide, x, z = mixture()
        settings = {} if m is None else {"m_step": m}
        engine = VEM()
        torch.manual_seed(0)
        return em(model, guide, x, engine, z, iterations=20, **settings).noise.mean((1, 2))

    weak = NMFPrior(GammaPrior(20.0, 20.0), GammaPrior(50.0, 2500.0))
    assert (power_of_noise(MAP(weak)) < 0.2 * power_of_noise(None)).all()
    flat = NMFPrior(GammaPrior(1.0, 1e-9), GammaPrior(1.0, 1e-9))
    torch.testing.assert_close(power_of_noise(MAP(flat)), power_of_noise(PLAIN), rtol=1e-6, atol=0)


@pytest.mark.parametrize("gain", [True, False])
def test_map_has_the_gain_of_the_plain_m_step(gain: bool) -> None:
    flat = NMFPrior(GammaPrior(1.0, 1e-12), GammaPrior(1.0, 1e-12))
    found = []
    for m in (PLAIN, MAP(flat), MAP(PRIOR)):
        model, _, x, z = mixture(gain=gain)
        v = model.speech_variance(z).detach()
        g, memory = m.step(model.noise, model.gain, power(x), v, m.init())
        assert memory.steps == 1
        found.append(model.noise.variance if g is None else model.noise.variance + g)
    torch.testing.assert_close(found[1], found[0], rtol=1e-8, atol=0)
    assert not torch.allclose(found[2], found[0], rtol=1e-2)
