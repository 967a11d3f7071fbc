"""The noise model: its updates against their formulas, and what they never do."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from toys import spectra

from pyrodvae.distributions import power
from pyrodvae.noise import MStep, NMFNoise
from pyrodvae.observations import POWER_FLOOR

S, B, T, F, K = 3, 2, 7, 6, 2
Factors = tuple[Tensor, Tensor]


def objective(x: Tensor, speech: Tensor, noise: Tensor) -> Tensor:
    """Σ over draws and bins of log V + |x|²/V, for each sequence."""
    v = speech + noise
    return (v.log() + x / v).sum((0, 2, 3))


def start() -> tuple[NMFNoise, Tensor, Tensor]:
    """Random factors, |x|² and draws of the speech variance, over several orders of magnitude."""
    W, H = torch.rand(B, F, K, dtype=torch.double), torch.randn(B, K, T, dtype=torch.double).exp()
    x = power(spectra(B, T, F)) * torch.randn(B, T, 1, dtype=torch.double).exp()
    return NMFNoise(W, H), x, torch.randn(S, B, T, F, dtype=torch.double).mul(2).exp() / 4


def update(x: Tensor, speech: Tensor, W: Tensor, H: Tensor, exponent: float = 0.5) -> Factors:
    """The docstring's equations, one index at a time, and no normalisation."""

    def ratios(W: Tensor, H: Tensor) -> Factors:
        v = speech + torch.einsum("bfk,bkt->btf", W, H) + POWER_FLOOR
        return x * (v**-2).sum(0), (1 / v).sum(0)

    A, C = ratios(W, H)
    W = W * (torch.einsum("btf,bkt->bfk", A, H) / torch.einsum("btf,bkt->bfk", C, H)) ** exponent
    A, C = ratios(W, H)
    return W, H * (torch.einsum("bfk,btf->bkt", W, A) / torch.einsum("bfk,btf->bkt", W, C)) ** exponent


def largest_rise(step: Callable[[NMFNoise, Tensor, Tensor], None]) -> float:
    """The most by which 20 steps ever raise the objective, over 40 random starts of two sequences."""
    worst = -torch.inf
    for _ in range(40):
        noise, x, speech = start()
        before = objective(x, speech, noise.variance)
        for _ in range(20):
            step(noise, x, speech)
            after = objective(x, speech, noise.variance)
            worst, before = max(worst, float((after - before).max())), after
    return worst


def test_objective_never_increases() -> None:
    assert largest_rise(MStep.noise) <= 1e-10


def by_hand(**changes) -> Callable[[NMFNoise, Tensor, Tensor], None]:
    def step(noise: NMFNoise, x: Tensor, speech: Tensor) -> None:
        noise.W, noise.H = update(x, speech, noise.W, noise.H, **changes)

    return step


def test_wrong_updates_do_increase_it() -> None:
    """The controls: the ratio upside down, and a step too long."""
    assert largest_rise(by_hand()) <= 1e-10
    assert largest_rise(by_hand(exponent=-0.5)) > 1e-3
    assert largest_rise(by_hand(exponent=4.0)) > 1e-3
    assert largest_rise(lambda noise, x, s: MStep.noise(noise, x.roll(1, -1), s)) > 1e-3


def test_updates_are_those_of_the_docstring() -> None:
    """The product of the factors is, that is: normalised columns do not change it."""
    noise, x, speech = start()
    W, H = update(x, speech, noise.W, noise.H)
    other = update(x, speech, noise.W, noise.H, exponent=0.6)
    MStep.noise(noise, x, speech)
    torch.testing.assert_close(noise.W @ noise.H, W @ H, rtol=1e-13, atol=0)
    assert not torch.allclose(noise.W @ noise.H, other[0] @ other[1])
    torch.testing.assert_close(noise.W.sum(1), torch.ones(B, K, dtype=torch.double))
    assert not torch.allclose(W.sum(1), torch.ones(B, K, dtype=torch.double))


def test_gain_never_increases_the_objective_and_finds_the_level() -> None:
    worst = wrong = -torch.inf
    for _ in range(40):
        noise, x, v = start()
        gain = torch.randn(B, T, 1, dtype=torch.double).exp()
        for _ in range(10):
            new = MStep.gain(gain, noise, x, v)
            assert new.shape == gain.shape
            before, after, inverse = (objective(x, g * v, noise.variance) for g in (gain, new, gain**2 / new))
            worst, wrong = (
                max(worst, float((after - before).max())),
                max(wrong, float((inverse - before).max())),
            )
            gain = new
    assert worst <= 1e-10
    assert wrong > 1
    noise, _, v = start()
    noise.W.zero_()
    level, gain = torch.rand(B, T, 1, dtype=torch.double) + 0.5, torch.ones(B, T, 1, dtype=torch.double)
    v = v[:1] + 1
    for _ in range(40):
        gain = MStep.gain(gain, noise, level * v[0], v)
    torch.testing.assert_close(gain, level, rtol=1e-5, atol=0)


def test_an_exact_factorisation_is_recovered() -> None:
    truth, _, _ = start()
    rising = torch.linspace(0.1, 2, F, dtype=torch.double)
    truth.W = torch.stack([rising, rising.flip(0)], -1).expand(B, F, K)
    x, none = truth.variance, torch.zeros(1, B, T, F, dtype=torch.double)
    best = objective(x, none, x)

    def gap(rank: int) -> Tensor:
        W, H = torch.rand(B, F, rank, dtype=torch.double), torch.rand(B, rank, T, dtype=torch.double)
        noise = NMFNoise(W, H)
        for _ in range(500):
            MStep.noise(noise, x, none)
        return (objective(x, none, noise.variance) - best) / (T * F)

    assert (gap(K) < 1e-3).all()
    assert (gap(1) > 1e-2).all()  # one pattern too few


def test_every_sequence_has_its_own_factors() -> None:
    noise, x, speech = start()
    one = NMFNoise(noise.W[1:].clone(), noise.H[1:].clone())
    MStep.noise(noise, x, speech)
    MStep.noise(one, x[1:], speech[:, 1:])
    torch.testing.assert_close(noise.variance[1:], one.variance, rtol=1e-13, atol=0)
    assert not torch.allclose(noise.variance[0], one.variance[0])


def test_digital_silence_in_some_frames_is_harmless() -> None:
    noise, x, speech = start()
    x[:, 2:4] = 0
    for _ in range(50):
        MStep.noise(noise, x, speech)
    assert torch.isfinite(noise.variance).all()


@pytest.mark.parametrize("dtype", [torch.float, torch.double])
def test_digital_silence_throughout_is_harmless(dtype: torch.dtype) -> None:
    """Patterns die there, and zero over zero must not become a number that is none."""
    noise, x, speech = (v.to(dtype) for v in start())
    x[1] = 0
    for _ in range(50):
        MStep.noise(noise, x, speech)
    assert torch.isfinite(noise.W).all()
    assert torch.isfinite(noise.variance).all()
    assert (noise.variance[1] < 1e-3 * noise.variance[0].max()).all()
