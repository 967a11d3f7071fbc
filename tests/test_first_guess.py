"""The first guess of the noise: from the quiet frames, and not from digital silence."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from toys import errors, spectra

from pyrodvae.distributions import power
from pyrodvae.noise import NMFNoise
from pyrodvae.observations import POWER_FLOOR

B, F, K = 2, 6, 2
DITHER = 3e-5 * 512**0.5
"""Its rms in the spectrogram: a sine window of 1024 samples has the energy 512."""


def guess(x: Tensor, rank: int = K, seed: int = 1, skip: int = 0) -> NMFNoise:
    """The first guess, after some numbers were drawn from its generator."""
    generator = torch.Generator().manual_seed(seed)
    torch.rand(skip, generator=generator)
    return NMFNoise.from_quiet_frames(x, rank, generator)


def means(noise: NMFNoise) -> Tensor:
    """The mean spectra that the guess is made of: (K, B, F), linear power."""
    W, H = noise.W, noise.H[:, None, :, 0]
    return (W * H * H.shape[-1]).permute(2, 0, 1) - POWER_FLOOR


def quietest(x: Tensor, frames: slice = slice(None)) -> Tensor:
    """The mean spectrum of the fifth of some frames that has least energy: (F,)."""
    p = power(x[frames])
    return p[p.mean(-1).argsort()[: round(0.2 * len(p))]].mean(0)


def test_first_guess_is_the_spectrum_of_the_quiet_frames() -> None:
    frames = 20
    quiet = torch.tensor([[3, 8, 9, 17], [0, 1, 2, 19]])
    floor = torch.rand(B, F, dtype=torch.double) + 0.1
    x = 30 * spectra(B, frames, F)
    for b in range(B):
        x[b, quiet[b]] = floor[b].sqrt() * torch.exp(1j * torch.rand(4, F, dtype=torch.double))
    noise = NMFNoise.from_quiet_frames(x, K, torch.Generator().manual_seed(1))
    wanted = floor[:, None].expand(B, frames, F)
    torch.testing.assert_close(noise.variance, wanted, rtol=1e-4, atol=0)
    torch.testing.assert_close(noise.W.sum(1), torch.ones(B, K, dtype=torch.double))
    louder = NMFNoise.from_quiet_frames(x, K, torch.Generator().manual_seed(1), share=1.0)
    assert (louder.variance > 5 * wanted).all()  # the control: all frames


def test_first_guess_has_different_patterns_and_follows_its_generator() -> None:
    x = spectra(B, 40, F)
    a, b, c = (NMFNoise.from_quiet_frames(x, K, torch.Generator().manual_seed(s)) for s in (1, 1, 2))
    assert torch.equal(a.W, b.W)
    assert not torch.equal(a.W, c.W)
    assert (a.W[..., 0] - a.W[..., 1]).abs().max() > 1e-2


# --- digital silence


def silence(frames: int, level: float) -> Tensor:
    return level * spectra(1, frames, F)


def scene(frames: int = 40) -> Tensor:
    """Frames of very different energy, (1, T, F)."""
    return spectra(1, frames, F) * torch.linspace(-1, 1, frames, dtype=torch.double).exp()[:, None]


@pytest.mark.parametrize("level", [0.0, DITHER])
def test_silence_in_front_does_not_change_the_first_guess(level: float) -> None:
    """One pattern: then the numbers that the silent frames take from the generator come first."""
    x = scene()
    longer = torch.cat([silence(25, level), x], 1)
    wanted, given = guess(x, 1, skip=25), guess(longer, 1)
    torch.testing.assert_close(given.W, wanted.W, rtol=1e-12, atol=0)
    assert given.H.shape == (1, 1, 65)
    torch.testing.assert_close(given.H, wanted.H[..., :1].expand(1, 1, 65), rtol=1e-12, atol=0)
    assert not torch.allclose(means(guess(x, 1, skip=24)), means(given))  # other chance
    # the controls: noise that is only 20 dB lower is heard, and ranking all frames finds the silence
    assert means(guess(torch.cat([0.03 * spectra(1, 25, F), x], 1), 1)).max() < 0.1 * means(given).min()
    assert quietest(longer[0]).max() < 1e-4 * means(given).min()


@pytest.mark.parametrize("level", [0.0, DITHER])
def test_every_sequence_passes_over_its_own_silence(level: float) -> None:
    """Patterns are means of random halves of its quiet frames, so on average the mean of them all."""
    x, y = scene(60), 1e-3 * scene(60).flip(1)  # what is silence beside x is none in y
    x[:, 10:45] = silence(35, level)
    live = torch.cat([x[:, :10], x[:, 45:]], 1)
    patterns = means(guess(torch.cat([x, y]), 2000))
    assert errors(patterns[:, 0], quietest(live[0])) < 5
    assert errors(patterns[:, 1], quietest(y[0])) < 5
    assert errors(patterns[:, 0], quietest(x[0])) > 5  # the controls: all frames of x, live ones of y
    assert errors(patterns[:, 1], quietest(torch.cat([y[:, :10], y[:, 45:]], 1)[0])) > 5


@pytest.mark.parametrize("dtype", [torch.cfloat, torch.cdouble])
@pytest.mark.parametrize("frames", [1, 2, 3, 30])
def test_the_first_guess_is_finite_whatever_is_silent(frames: int, dtype: torch.dtype) -> None:
    """Sequences of one frame, with one live frame, and with none, beside one that is all there."""
    x = spectra(3, frames, F).to(dtype)
    x[1, 1:] = 0
    x[2] = 0
    noise = guess(x)
    for factor in (noise.W, noise.H):
        assert torch.isfinite(factor).all()
        assert (factor > 0).all()
    one = power(x[1, :1]).expand(frames, F) + POWER_FLOOR  # the only live frame
    # W H and the variance's own floor, each 1e-6
    torch.testing.assert_close(noise.variance[1], one + POWER_FLOOR, rtol=1e-5, atol=0)
    torch.testing.assert_close(noise.variance[2], torch.full_like(one, 2 * POWER_FLOOR), rtol=1e-5, atol=0)
    assert (noise.variance[0] > 100 * noise.variance[2]).all()  # the control
