"""Estimates of the speech from draws: both Wiener estimates, and intervals that hold what they promise."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor
from torch.distributions import Categorical
from toys import B, F, T, mixture, spectra

from pyrodvae.distributions import ComplexNormal, power
from pyrodvae.posterior import ESTIMATES, Fit, Posterior

S = 3


def fits(count: int) -> tuple[Tensor, list[Fit]]:
    """Fits of several iterations to one x, each with draws and noise of its own."""
    x = spectra()
    draws = torch.randn(count, S, B, T, F, dtype=torch.double).mul(2).exp()
    noises = torch.rand(count, B, T, F, dtype=torch.double) + 0.1
    return x, [Fit.of(power(x), u, n) for u, n in zip(draws, noises, strict=True)]


def test_a_fit_has_the_objective_of_the_mixture_and_the_share_of_the_wiener_filter() -> None:
    model, _, x, z = mixture()
    u, n = model.scaled(model.speech_variance(z)), model.noise.variance
    fit = Fit.of(power(x), u, n)
    objective = ((u + n).log() + power(x) / (u + n)).mean((0, 2, 3))
    torch.testing.assert_close(fit.objective, objective, rtol=1e-12, atol=0)
    torch.testing.assert_close(fit.inverse, 1 / (u + n), rtol=1e-14, atol=0)
    share = ((u / (u + n)).mean(0) * power(x)).sum((1, 2)) / power(x).sum((1, 2))
    torch.testing.assert_close(fit.share, share, rtol=1e-12, atol=0)
    assert not torch.allclose(fit.share, Fit.of(power(x), 2 * u, n).share)
    silent = Fit.of(0 * power(x), u, n)
    assert torch.isfinite(silent.share).all()


def test_mask_estimate_has_the_moments_of_the_mixture_of_wiener_filters() -> None:
    x, given = fits(2)
    estimate = ESTIMATES["mask"]()
    for fit in given:
        estimate.add(fit)
    mask, variance = estimate.moments(x)
    masks = torch.cat([f.speech / (f.speech + f.noise) for f in given])
    within = torch.cat([f.speech * f.noise / (f.speech + f.noise) for f in given])
    torch.testing.assert_close(mask, masks.mean(0), rtol=1e-12, atol=0)
    wanted = within.mean(0) + masks.var(0, unbiased=False) * power(x)
    torch.testing.assert_close(variance, wanted, rtol=1e-9, atol=1e-12)
    assert not torch.allclose(variance, within.mean(0), rtol=1e-2)


def test_precision_estimate_is_the_formula() -> None:
    x, given = fits(2)
    estimate = ESTIMATES["precision"]()
    for fit in given:
        estimate.add(fit)
    mask, variance = estimate.moments(x)
    gamma = 1 / torch.cat([1 / f.speech for f in given]).mean(0)
    n = torch.stack([f.noise for f in given]).mean(0)
    torch.testing.assert_close(mask, gamma / (gamma + n), rtol=1e-12, atol=0)
    torch.testing.assert_close(variance, gamma * n / (gamma + n), rtol=1e-12, atol=0)
    arithmetic = torch.cat([f.speech for f in given]).mean(0)  # the control: the mean of the variances
    assert not torch.allclose(mask, arithmetic / (arithmetic + n), rtol=1e-2)


def test_estimates_agree_on_one_draw_and_the_precision_is_quieter_on_many() -> None:
    """γ is a harmonic mean, and the mask a concave function of log-variance's exponential: m(γ) ≤ mean m."""
    x = spectra()
    u, n = torch.randn(5, B, T, F, dtype=torch.double).exp(), torch.rand(B, T, F, dtype=torch.double)

    def masks(u: Tensor) -> list[Tensor]:
        found = []
        for key in ("mask", "precision"):
            estimate = ESTIMATES[key]()
            estimate.add(Fit.of(power(x), u, n))
            found.append(estimate.moments(x)[0])
        return found

    torch.testing.assert_close(*masks(u[:1]), rtol=1e-12, atol=0)
    mean, quiet = masks(u)
    assert (quiet < mean).all()
    assert (quiet < 0.9 * mean).any()


# --- intervals

SEQUENCES, FRAMES, BINS, LEVEL = 300, 4, 6, 0.8
SPECTRA = torch.tensor([0.05, 0.5, 4.0, 30.0], dtype=torch.double)[:, None]


def simulated(chains: int) -> tuple[Tensor, Tensor, Posterior]:
    """|s| and x drawn from a model, and the posterior: its z, one of four levels a frame, drawn exactly."""
    tilt = torch.rand(4, BINS, dtype=torch.double) + 0.5
    spoken = SPECTRA * tilt
    n = torch.rand(SEQUENCES, FRAMES, BINS, dtype=torch.double) + 0.2
    v = spoken[torch.randint(4, (SEQUENCES, FRAMES))]
    s = ComplexNormal(v).sample()
    x = s + ComplexNormal(n).sample()
    log_p = ComplexNormal(spoken[:, None, None] + n).log_prob(x).sum(-1).movedim(0, -1)
    u = spoken[Categorical(logits=log_p).sample((chains,))]
    none = torch.zeros(1)
    return s.abs(), x, Posterior(x, none, x, u, n, none, {})


def coverage(s: Tensor, low: Tensor, high: Tensor) -> tuple[float, float]:
    """How often |s| is in the interval, and five standard errors of that: sequences are independent."""
    inside = ((low <= s) & (s <= high)).double().mean((1, 2))
    return float(inside.mean()), 5 * float(inside.std()) / math.sqrt(len(inside))


def test_intervals_hold_the_speech_as_often_as_they_say() -> None:
    s, x, posterior = simulated(chains=60)
    low, high = posterior.interval(x, LEVEL, draws=240)
    assert low.shape == high.shape == x.shape
    assert (low < high).all()
    covered, error = coverage(s, low, high)
    assert abs(covered - LEVEL) < error
    middle, half = (low + high) / 2, (high - low) / 4
    narrow, error = coverage(s, middle - half, middle + half)  # the controls: half as wide,
    assert narrow < LEVEL - error
    below, _ = coverage(s, torch.zeros_like(s), low)  # tails of unequal weight,
    assert abs(below - (1 - LEVEL) / 2) < error
    assert abs(coverage(s, torch.zeros_like(s), low * 1.2)[0] - (1 - LEVEL) / 2) > error
    wrong = Posterior(x, s, x, posterior.speech, 3 * posterior.noise, s, {}).interval(x, LEVEL)
    covered, error = coverage(s, *wrong)  # and another noise
    assert abs(covered - LEVEL) > error


def test_the_interval_is_that_of_a_rice_distribution() -> None:
    """One chain: P(|s| < r) from the density, integrated numerically."""
    x = spectra(1, 1, 3)
    u, n = torch.rand(2, 1, 1, 3, dtype=torch.double) + 0.5
    low, high = Posterior(x, u, x, u[None], n, u, {}).interval(x, 0.5, draws=40_000)
    mean, v = (u / (u + n) * x).abs(), u * n / (u + n)
    r = torch.linspace(0, 12, 200_001, dtype=torch.double)[:, None]
    a, b = mean.flatten(), v.flatten()
    density = 2 * r / b * torch.exp(-((r - a) ** 2) / b) * torch.special.i0e(2 * r * a / b)
    cdf = density.cumsum(0) * (r[1] - r[0])
    torch.testing.assert_close(cdf[-1], torch.ones(3, dtype=torch.double), rtol=1e-4, atol=0)
    for bound, p in ((low, 0.25), (high, 0.75)):
        found = torch.stack([cdf[int(bound.flatten()[i] / r[1]), i] for i in range(3)])
        assert ((found - p).abs() < 5 * math.sqrt(0.1875 / 40_000)).all()
        assert not ((found - p - 0.02).abs() < 5 * math.sqrt(0.1875 / 40_000)).any()


def test_an_interval_is_made_in_pieces_of_bounded_size(monkeypatch) -> None:
    _, x, posterior = simulated(chains=2)
    monkeypatch.setattr("pyrodvae.posterior.CHUNK", 100 * x[:, 0].numel())
    torch.manual_seed(1)
    low, _ = posterior.interval(x, 0.5, draws=50)
    torch.manual_seed(1)
    first = Posterior(x, x, x, posterior.speech[..., :2, :], posterior.noise[:, :2], x, {})
    assert torch.equal(low[:, :2], first.interval(x[:, :2], 0.5, draws=50)[0])
    assert low.shape == x.shape


@pytest.mark.parametrize(("level", "draws"), [(0.0, 100), (1.0, 100), (0.99, 20), (-1.0, 100)])
def test_an_interval_that_cannot_be_is_refused(level: float, draws: int) -> None:
    _, x, posterior = simulated(chains=2)
    assert posterior.interval(x, 0.9, draws=20)[0].shape == x.shape  # the control
    with pytest.raises(ValueError, match="draws have no interval of level"):
        posterior.interval(x, level, draws)
