"""Speech through a model and back, and out of a model alone."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from pyro import poutine
from small_runs import save_small_run, sound
from toys import PAIRS, F, make, spectra

from pyrodvae import examples
from pyrodvae.audio import read_audio
from pyrodvae.dvae import SEGMENT
from pyrodvae.metrics import si_sdr
from pyrodvae.synthesis import Means, generate, mean_path, reconstruct, resynthesize
from pyrodvae.weights import load_run


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return load_run(save_small_run(tmp_path_factory.mktemp("run")))


@pytest.mark.parametrize(("model", "guide"), PAIRS)
def test_the_mean_path_is_a_fixed_point(model: str, guide: str) -> None:
    """Each frame of it is the mean of its conditional given the frames before it, and no draw is."""
    _, g = make(model, guide)
    x = spectra()
    w = g.begin(x, None)
    q = g.posterior(x, shared=w)
    z = mean_path(q)
    torch.testing.assert_close(q.along(z).mean, z, rtol=1e-12, atol=1e-12)
    assert torch.equal(z, mean_path(g.posterior(x, shared=w)))
    draw = q.rsample()
    assert (q.along(draw).mean - draw).abs().max() > 0.1


@pytest.mark.parametrize(("model", "guide"), PAIRS)
def test_reconstruction_has_the_decoder_s_magnitude_and_its_own_phase(model: str, guide: str) -> None:
    m, g = make(model, guide)
    s = spectra()
    s[0, 2, :3] = 0
    pair = type("Pair", (), {"model": m, "guide": g})
    with torch.no_grad(), Means():
        w = g.begin(s, None)
        with poutine.condition(data={SEGMENT: w}):
            memo = m.begin(len(s))
        z = mean_path(g.posterior(s, shared=w))
        v = m.likelihood(z, s, m.prior(s, memo=memo)).variance
    back = reconstruct(pair, s)
    heard = s.abs() > 0
    assert back.shape == s.shape == (*v.shape[:-1], F)
    torch.testing.assert_close(back.abs()[heard], v.sqrt()[heard])
    torch.testing.assert_close(back.angle()[heard], s.angle()[heard])
    assert (back[~heard] == 0).all()


def test_resynthesis_of_the_packaged_example(run) -> None:
    """An untrained decoder at the mean spectrum, with the phase of the speech: better than no speech."""
    s, rate = read_audio(examples.clean())
    y = resynthesize(s, rate, run)
    assert (y.shape, y.dtype) == (s.shape, s.dtype)
    assert np.isfinite(y).all()
    assert np.array_equal(y, resynthesize(s, rate, run))
    hiss = np.random.default_rng(0).standard_normal(s.shape)
    assert si_sdr(y, s) > si_sdr(hiss, s) + 10


@pytest.mark.parametrize(("rate", "channels"), [(16_000, 1), (44_100, 2)])
def test_resynthesis_keeps_rate_channels_and_scale(run, rate: int, channels: int) -> None:
    s = sound(0.3, rate, channels)
    y = resynthesize(s, rate, run)
    assert y.shape == s.shape
    np.testing.assert_allclose(resynthesize(s / 8, rate, run), y / 8, rtol=0, atol=1e-4)
    s[0] = 0
    silent = resynthesize(s, rate, run)
    assert not silent[0].any()


@pytest.mark.parametrize("seconds", [0.064, 0.5, 1.2345])
def test_generated_sound(run, seconds: float) -> None:
    y = generate(run, seconds, seed=1)
    assert (y.shape, y.dtype) == ((1, round(16_000 * seconds)), np.float32)
    assert np.isfinite(y).all()
    assert np.abs(y).max() == pytest.approx(0.5)
    assert np.array_equal(y, generate(run, seconds, seed=1))
    assert not np.array_equal(y, generate(run, seconds, seed=2))


@pytest.mark.parametrize("seconds", [0.0, -1.0, 0.05, float("nan"), float("inf")])
def test_lengths_that_cannot_be(run, seconds: float) -> None:
    with pytest.raises(ValueError, match=r"at least 0\.064 seconds, not "):
        generate(run, seconds)


@pytest.mark.parametrize("seed", [-1, 2**31, 0.5])
def test_seeds_that_cannot_be(run, seed: float) -> None:
    with pytest.raises(ValueError, match=f"from 0 to 2147483647, not {seed}"):
        generate(run, 0.5, seed)
