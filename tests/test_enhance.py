"""Enhancement: windows that fade into each other, chance that is its own, and what a waveform may be."""

from __future__ import annotations

import importlib
import math
import re
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from small_runs import save_sound, sound
from torch import Tensor

from pyrodvae import AudioError, EnhanceConfig, enhance, examples, read_audio
from pyrodvae.distributions import power
from pyrodvae.engines import MALA, MH, Chain, Encoder, Langevin
from pyrodvae.enhance import SHARED_SECONDS, WINDOW_SECONDS, Enhanced, Waveform
from pyrodvae.metrics import si_sdr
from pyrodvae.noise import NMFNoise
from pyrodvae.observations import POWER_FLOOR
from pyrodvae.separation import _approached, enhance_spectrum
from pyrodvae.signal import STFT, overlapping
from pyrodvae.waveforms import centred
from pyrodvae.weights import Run, base_card, make_pair

RATE = 4000
FRAME_RATE = 62.5
SIZE, SHARED = round(WINDOW_SECONDS * FRAME_RATE), round(SHARED_SECONDS * FRAME_RATE)
FAST = EnhanceConfig(iterations=2, chains=1, noise_rank=2)


@pytest.fixture(scope="module")
def run() -> Run:
    """Untrained, at 4 kHz, with the frame rate of the shipped runs."""
    torch.manual_seed(0)
    stft = STFT(RATE, 256, 64)
    m, g = make_pair("rvae", {"observed": stft.bins, "latent": 2, "hidden": 4}, "paper", {"hidden": 4})
    s = stft(torch.from_numpy(sound(2, RATE)))
    m.fit_statistics(s)
    g.fit_statistics(s)
    return Run(m.requires_grad_(False), g.requires_grad_(False), stft, base_card("rvae", m, "paper", g, stft))


def enhanced(x: Waveform, run: Run, seed: int = 0, **options) -> Enhanced:
    config = EnhanceConfig(iterations=2, chains=1, noise_rank=2, seed=seed)
    return enhance(x, sample_rate=RATE, model=run, config=config, **options)


# --- windows


def cover(frames: int, starts: list[int], size: int, ramps: list[Tensor]) -> Tensor:
    """What the weights sum to, (T,)."""
    total = torch.zeros(frames)
    for start, ramp in zip(starts, ramps, strict=True):
        total[start : start + size] += ramp[:, 0]
    return total


def lengths() -> list[int]:
    """Up to 200 frames, and around every multiple of what a window adds, where the number changes."""
    new = SIZE - SHARED
    around = [SHARED + k * new + d for k in (1, 2, 3, 7) for d in range(-3, 4)]
    return [*range(1, 201), *around, SIZE + SHARED, 2 * SIZE, 10_000, 60_001]


def test_weights_of_the_windows_sum_to_one() -> None:
    for frames in lengths():
        starts, size, ramps = overlapping(frames, SIZE, SHARED)
        assert size == frames if frames <= SIZE else SIZE / 2 < size <= SIZE  # and none is short
        assert [len(r) for r in ramps] == [size] * len(starts)  # none is empty, none is cut
        assert starts[0] == 0
        assert starts[-1] + size == frames
        # weights are sums and quotients of a few numbers near one, in single precision
        torch.testing.assert_close(cover(frames, starts, size, ramps), torch.ones(frames), rtol=1e-6, atol=0)
        plain = cover(frames, starts, size, [torch.ones(size, 1)] * len(starts))
        assert bool(plain.max() > 1) == (len(starts) > 1)  # the control: without weights they do not
        assert (len(starts) > 1) == (frames > SIZE)


def test_windows_fade_into_each_other() -> None:
    """Linearly over the shared second."""
    for frames in (SIZE + 1, 3 * SIZE, 10_000):
        starts, size, ramps = overlapping(frames, SIZE, SHARED)
        assert all(a + size - b >= SHARED for a, b in pairwise(starts))
        for ramp in ramps:
            assert (ramp > 0).all()
            assert ramp.diff(dim=0).abs().max() < 1.1 / SHARED
            assert (ramp > 0.5).float().diff(dim=0).abs().max() > 1.1 / SHARED  # the control: a switch


def test_seams_have_the_level_that_one_window_has(run: Run, monkeypatch) -> None:
    """70 s of a steady hiss. The yardstick: how seconds elsewhere differ, by the chance in z and noise."""
    x = 0.1 * np.random.default_rng(0).standard_normal(70 * RATE).astype(np.float32)
    cut = enhanced(x, run)
    monkeypatch.setattr(importlib.import_module("pyrodvae.enhance"), "WINDOW_SECONDS", 1000.0)
    whole = enhanced(x, run)
    frames = whole.mean.shape[-2]
    assert [len(r.objective[0, 0]) for r in (cut, whole)] == [3, 1]
    size = cut._windows[0][1].mean.shape[-2]
    seams = [(start, start + SHARED) for start, _ in cut._windows[1:]]
    assert all(a < b == start + size for (start, _), (a, b) in zip(cut._windows, seams, strict=False))

    def ratio(s: Tensor, first: int, last: int) -> float:
        p, q = (power(one[:, first:last]).mean() for one in (s, whole.mean))
        return 10 * math.log10(float(p / q))

    apart = [t for t in range(0, frames - SHARED, SHARED) if all(abs(t - a) > SHARED for a, _ in seams)]
    others = torch.tensor([ratio(cut.mean, t, t + SHARED) for t in apart])
    twice = torch.zeros_like(cut.mean)  # the control: no weights
    for start, posterior in cut._windows:
        twice[:, start : start + size] += posterior.mean
    for a, b in seams:
        assert abs(ratio(cut.mean, a, b) - others.mean()) < 5 * others.std()
        assert abs(ratio(twice, a, b) - others.mean()) > 5 * others.std()
    w = (torch.arange(SHARED) + 1.0)[:, None] / (SHARED + 1)
    for (_, one), (a, two) in pairwise(cut._windows):
        left, right = one.mean[:, -SHARED:], two.mean[:, :SHARED]
        torch.testing.assert_close(cut.mean[:, a : a + SHARED], (1 - w) * left + w * right)
        assert not torch.allclose(left, right)  # the control
    alone = slice(size, cut._windows[2][0])
    start, middle = cut._windows[1]
    assert torch.equal(cut.mean[:, alone], middle.mean[:, alone.start - start : alone.stop - start])


# --- waveforms


@pytest.mark.parametrize("channels", [None, 1, 2])
def test_speech_and_noise_add_up_to_the_input(run: Run, channels: int | None) -> None:
    x = sound(0.5, RATE, channels or 1)
    x -= x.mean(-1, keepdims=True)  # a constant offset would not be in the spectrogram
    x = x[0] if channels is None else x
    result = enhanced(x, run)
    assert result.speech.shape == result.noise.shape == x.shape
    assert result.speech.dtype == x.dtype
    assert result.sample_rate == RATE
    # two roundings of numbers below a half: 2^-25 each
    assert np.abs(result.speech + result.noise - x).max() <= 2**-24
    for part in (result.speech, result.noise):
        assert np.abs(part).max() > 2**-10  # the control: neither is nothing
    torch.testing.assert_close(
        run.stft(torch.from_numpy(x / np.abs(x).max(-1, keepdims=True))).reshape(result.noisy.shape),
        result.noisy,
    )


def test_the_seed_decides_and_the_callers_chance_is_left_alone(run: Run) -> None:
    x = sound(0.5, RATE)
    torch.manual_seed(1)
    state, numpy_state = torch.get_rng_state(), np.random.get_state()[1].copy()  # noqa: NPY002
    a = enhanced(x, run)
    assert torch.equal(torch.get_rng_state(), state)
    assert np.array_equal(np.random.get_state()[1], numpy_state)  # noqa: NPY002
    torch.manual_seed(2)
    b, c = enhanced(x, run), enhanced(x, run, seed=1)
    assert np.array_equal(a.speech, b.speech)
    assert torch.equal(a.std, b.std)
    assert not np.array_equal(a.speech, c.speech)
    state = torch.get_rng_state()
    enhance_spectrum(a.noisy, run, Langevin(), FAST, torch.Generator())
    assert not torch.equal(torch.get_rng_state(), state)  # the control: what runs inside draws from it


def test_a_silent_channel_stays_silent_and_the_other_is_enhanced_as_alone(run: Run) -> None:
    x = sound(0.5, RATE, 2)
    both = enhanced(x, run)
    x[1] = 0
    result, alone = enhanced(x, run), enhanced(x[0], run)
    assert np.array_equal(result.speech[0], alone.speech)
    assert (result.speech[1] == 0).all()
    assert (result.noise[1] == 0).all()
    draws = result.draw()
    assert draws.shape == (1, *x.shape)
    assert (draws[:, 1] == 0).all()
    assert np.isfinite(draws).all()
    assert np.abs(draws[:, 0]).max() > 0.01
    assert np.abs(both.speech[1]).max() > 0.01  # the control: there was sound in it


@pytest.mark.parametrize(
    ("rate", "message"),
    [
        (None, "A waveform needs its sample_rate in Hz"),
        (True, "between 4000 and 384000, not True"),
        (16_000.5, "between 4000 and 384000, not 16000.5"),
        (16.0, "between 4000 and 384000, not 16.0"),
        (-16_000, "between 4000 and 384000, not -16000"),
        (1_000_000, "between 4000 and 384000, not 1000000"),
    ],
)
def test_an_impossible_sample_rate_is_refused(run: Run, rate: float | None, message: str) -> None:
    x = sound(0.5, RATE)
    assert enhance(x, sample_rate=4000.0, model=run, config=FAST).sample_rate == RATE  # the control
    with pytest.raises(ValueError, match=message):
        enhance(x, sample_rate=rate, model=run, config=FAST)


@pytest.mark.parametrize("kind", [torch.float16, torch.bfloat16, np.float16, np.longdouble])
def test_floats_of_any_width_are_enhanced(run: Run, kind: object) -> None:
    x = sound(0.5, RATE)
    given = torch.from_numpy(x).to(kind) if isinstance(kind, torch.dtype) else x.astype(kind)
    rounded = given.float().numpy() if isinstance(kind, torch.dtype) else given.astype(np.float32)
    result = enhanced(given, run)
    assert result.speech.dtype == np.float32
    assert np.array_equal(result.speech, enhanced(rounded, run).speech)
    assert result.speech.any()


@pytest.mark.parametrize(
    ("audio", "sentence"),
    [
        (None, "There is no audio: give a file or a waveform."),
        ([[0.1, 0.2], [0.1]], "The waveform cannot be read as an array of numbers."),
        (
            torch.zeros(900, dtype=torch.int16),
            "The waveform must be floats of shape (N,) or (C, N), not int16",
        ),
        (np.zeros((900, 2)), "The waveform has shape (900, 2): give channels first, (C, N)."),
    ],
)
def test_what_is_no_waveform_is_refused(run: Run, audio: object, sentence: str) -> None:
    with pytest.raises(AudioError, match=re.escape(sentence)):
        enhanced(audio, run)


def test_a_file_is_not_given_a_sample_rate(run: Run, tmp_path: Path) -> None:
    path = save_sound(tmp_path / "x.wav")
    assert enhance(path, model=run, config=FAST).sample_rate == 16_000
    with pytest.raises(ValueError, match="A file knows its sample rate"):
        enhance(path, sample_rate=16_000, model=run, config=FAST)


# --- silence


def from_all_frames(x: Tensor, rank: int, generator: torch.Generator) -> NMFNoise:
    """The control: a first guess that takes digital silence for the quietest noise."""
    p = power(x)
    W = p.gather(1, p.mean(-1).argsort(-1)[:, : p.shape[1] // 5, None].expand(-1, -1, p.shape[-1])).mean(1)
    W = (W[..., None] + POWER_FLOOR) * (0.5 + torch.rand(*W.shape, rank, generator=generator))
    level = W.sum(1, keepdim=True)
    return NMFNoise(W / level, (level / rank).mT.expand(-1, rank, p.shape[1]).clone())


def test_silence_in_front_does_not_spoil_the_packaged_example(monkeypatch) -> None:
    """Draws of z and of the patterns move the score by 0.1 to 0.2 dB; an empty first guess spoils it."""
    clean, rate = read_audio(examples.clean())
    noisy, _ = read_audio(examples.noisy())

    def improvement(seconds: float) -> float:
        n = round(seconds * rate)
        x = np.pad(noisy, ((0, 0), (n, 0)))
        result = enhance(x, sample_rate=rate, model="vae", config=EnhanceConfig(iterations=10))
        return si_sdr(result.speech[0, n:], clean[0], rate) - si_sdr(noisy[0], clean[0], rate)

    without = improvement(0)
    assert without > 1.5
    assert abs(improvement(1.2) - without) < 0.5
    monkeypatch.setattr(NMFNoise, "from_quiet_frames", from_all_frames)
    assert improvement(0) > 1.5
    assert improvement(1.2) < without - 1


@pytest.mark.parametrize("offset", [0.1, 0.3])
def test_an_offset_is_taken_off_and_silence_stays_silent(offset: float) -> None:
    x = np.random.default_rng(0).standard_normal((2, 4000)).astype(np.float32)
    x -= x.mean(-1, keepdims=True)
    shifted = x + np.float32(offset)
    shifted[:, :1000] = 0
    x[:, :1000] = 0
    found = centred(shifted)
    assert not found[:, :1000].any()
    assert np.abs(found[:, 1000:].mean(-1)).max() < 1e-6
    assert np.abs(shifted[:, 1000:].mean(-1)).min() > offset / 2
    constant = np.full((1, 500), 0.1, np.float32)
    assert not centred(constant).any()


def test_a_constant_is_no_sound() -> None:
    with pytest.raises(AudioError, match="only a constant offset"):
        enhance(np.full(8000, 0.5), sample_rate=16_000, config=FAST)


def test_what_is_no_engine_and_no_estimate_is_told(run) -> None:
    with pytest.raises(ValueError, match="An engine is a key or an instance"):
        enhance(sound(0.3, RATE)[0], sample_rate=RATE, model=run, engine=Langevin, config=FAST)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="estimate is 'mask' or 'precision', not 'median'"):
        EnhanceConfig(estimate="median")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="memory must be from 0 to 1, not a"):
        EnhanceConfig(memory="a")  # type: ignore[arg-type]


def test_langevin_leads_to_where_small_steps_begin() -> None:
    config = EnhanceConfig(iterations=60)
    found = _approached(Chain((Encoder(), MALA(), MH())), config).planned(60)
    assert isinstance(found, Chain)
    assert [type(e) for e in found.engines] == [Encoder, Langevin, Chain]
    assert found.lengths == (1, 20, 39)
    assert _approached(MALA(), EnhanceConfig(iterations=30)).planned(30).lengths == (10, 20)  # type: ignore[attr-defined]
    for as_it_is in (Langevin(), Chain((Langevin(), MALA())), Chain((MALA(), MH()), (5, 5))):
        assert _approached(as_it_is, config) is as_it_is
    assert _approached(MALA(), EnhanceConfig(approach=0)) == MALA()


def test_settings_are_no_dictionary() -> None:
    with pytest.raises(ValueError, match=r"Settings are an EnhanceConfig.*, not \{'iterations': 5\}"):
        enhance(examples.noisy(), config={"iterations": 5})
