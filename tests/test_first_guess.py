"""First guesses of the noise: from quiet frames, and not from digital silence; from unvoiced ones."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor
from toys import errors, spectra
from voices import buzz, hiss

from pyrodvae import EnhanceConfig, enhance
from pyrodvae.distributions import power
from pyrodvae.first_guess import first_guesses, refit
from pyrodvae.metrics import si_sdr
from pyrodvae.noise import NMFNoise
from pyrodvae.observations import POWER_FLOOR
from pyrodvae.posterior import Fit
from pyrodvae.signal import STFT
from pyrodvae.trials import mixtures

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


# --- several guesses

RATE, RANK = 16_000, 6


def burst_scene() -> tuple[Tensor, Tensor]:
    """A voice in hiss, alone and with clatter now and then, (2, T, 513); the frames of the clatter (T,)."""
    stft = STFT()
    x = stft(torch.stack([buzz(120.0) + 0.02 * hiss()] * 2)).to(torch.cdouble)
    clatter = torch.zeros(x.shape[1], dtype=torch.bool)
    clatter[10::6] = True
    rising = torch.linspace(0, 30, x.shape[-1], dtype=torch.double)
    x[1, clatter] = rising * torch.exp(6j * torch.rand(int(clatter.sum()), x.shape[-1], dtype=torch.double))
    return x, clatter


def test_the_other_guesses_know_noise_that_comes_and_goes() -> None:
    x, clatter = burst_scene()
    noise = first_guesses(x, RANK, RATE, 3, torch.Generator().manual_seed(1))
    alone = NMFNoise.from_quiet_frames(x, RANK, torch.Generator().manual_seed(1))
    assert torch.equal(noise.W[:2], alone.W)
    assert torch.equal(noise.H[:2], alone.H)
    wanted = power(x[1, clatter]).mean(0)

    def match(sequence: int) -> float:
        """The cosine between the clatter's spectrum and the pattern most like it."""
        return float(torch.cosine_similarity(noise.W[sequence].mT, wanted[None], dim=-1).max())

    assert match(3) > 0.9
    assert match(5) > 0.9
    assert match(1) < 0.7  # the controls: quiet frames alone, and a sequence without clatter
    assert match(2) < 0.7
    assert not torch.equal(noise.W[3], noise.W[5])  # each by its own chance


@pytest.mark.parametrize("rank", [1, 2, 5])
@pytest.mark.parametrize("frames", [1, 2, 30])
def test_several_guesses_are_finite_whatever_is_silent(frames: int, rank: int) -> None:
    x = spectra(3, frames, 513).to(torch.cfloat)
    x[1, 1:] = 0
    x[2] = 0
    noise = first_guesses(x, rank, RATE, 2, torch.Generator().manual_seed(1))
    assert noise.W.shape == (6, 513, rank)
    for factor in (noise.W, noise.H):
        assert torch.isfinite(factor).all()
        assert (factor > 0).all()
    torch.testing.assert_close(noise.W.sum(1), torch.ones(6, rank))


def test_refitting_leaves_the_first_guess_and_explains_more_by_the_others() -> None:
    x, _ = burst_scene()
    noise = first_guesses(x, RANK, RATE, 2, torch.Generator().manual_seed(1))
    before = NMFNoise(noise.W.clone(), noise.H.clone())
    x, v = x.repeat(2, 1, 1), torch.rand(2, 4, *x.shape[1:], dtype=torch.double)
    refit(noise, x, v, 2)
    assert torch.equal(noise.W[:2], before.W[:2])
    assert torch.equal(noise.H[:2], before.H[:2])
    now, then = (Fit.of(power(x), v, one.variance).objective for one in (noise, before))
    assert (now[2:] < then[2:] - 0.01).all()
    assert torch.equal(now[:2], then[:2])


def test_two_guesses_hear_dishes(data_dir: Path) -> None:
    """Clatter in a kitchen: quiet frames do not know it, and it is taken for speech."""
    folders = data_dir / "speech", data_dir / "noise"
    trials = mixtures(*folders, [-5.0], manifest=data_dir / "MANIFEST.tsv", split="val")
    trial = next(t for t in trials if t.file == "speechocean762/2897/028970129.flac")
    assert trial.noise == "kitchen/speechcommands_doing_the_dishes.flac"
    s, x = (y[:48_000] for y in trial.load())
    one, two = (
        si_sdr(enhance(x, sample_rate=RATE, config=EnhanceConfig(guesses=g)).speech, s) for g in (1, 2)
    )
    assert two > one + 1.5
    assert one > si_sdr(x, s) + 1  # the control: not because the first is lost


@pytest.mark.parametrize("engine", ["vem", "mala", "peem", "hmc-batched"])
def test_every_engine_follows_several_guesses(engine: str) -> None:
    """Two channels: the second is silent, so it is left out, and the first has 2 x 3 chains."""
    x = torch.stack([(buzz(120.0) + 0.1 * hiss())[:8000], torch.zeros(8000)]).numpy()
    config = EnhanceConfig(iterations=4, chains=3, guesses=2)
    found = enhance(x, sample_rate=RATE, engine=engine, config=config)
    assert found.speech.shape == x.shape
    np.testing.assert_allclose(found.speech + found.noise, x, atol=1e-6)
    assert found.draw().shape == (6, *x.shape)
    assert found.objective.shape == (4, 1, 1)
    (W, H) = found.noise_factors[0]
    assert (W.shape[-1], H.shape[-2]) == (16, 16)
    assert found.diagnostics.trace("speech_energy").shape == (4, 3, 2)  # of each guess: targets differ


def test_recordings_do_not_see_each_others_guesses() -> None:
    """The second channel of two is enhanced as it is beside another."""
    x, y, other = ((buzz(p) + 0.3 * hiss(seed))[:8000] for seed, p in enumerate((120.0, 90.0, 200.0)))
    settings = EnhanceConfig(iterations=4, guesses=2)
    a, b = (
        enhance(torch.stack([x, z]).numpy(), sample_rate=RATE, config=settings).speech for z in (y, other)
    )
    np.testing.assert_allclose(a[0], b[0], atol=1e-4)
    assert np.abs(a[1] - b[1]).max() > 1e-2
