"""The STFT and its exact inverse, and resampling."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from pyrodvae.signal import STFT, resample

LENGTHS = [1, 255, 1000, 4096, 16_000, 16_001, 16_255]


def noise(*shape: int, scale: float = 0.1) -> np.ndarray:
    drawn = scale * np.random.default_rng(7).standard_normal(shape)
    return drawn.clip(-1, 1).astype(np.float32)


def relative(error: torch.Tensor, of: torch.Tensor) -> float:
    return float(error.abs().max() / of.abs().max())


# --- STFT


@pytest.mark.parametrize("hop", [128, 256, 512])
@pytest.mark.parametrize("pad_mode", ["constant", "reflect"])
@pytest.mark.parametrize("length", LENGTHS)
def test_inverse_is_exact(length: int, pad_mode: str, hop: int) -> None:
    if pad_mode == "reflect":
        length += 512
    stft = STFT(hop=hop, pad_mode=pad_mode)
    x = torch.randn(2, 3, length, dtype=torch.float64)
    spectrum = stft(x)
    assert spectrum.shape == (2, 3, stft.frames(length), stft.bins)
    assert spectrum.dtype == torch.complex128
    assert relative(stft.inverse(spectrum, length) - x, x) < 1e-12


def test_inverse_is_exact_to_rounding_in_single_precision() -> None:
    stft, x = STFT(), torch.randn(16_001)
    back = stft.inverse(stft(x), 16_001)
    assert back.dtype == torch.float32
    assert relative(back - x, x) < 1e-6


def test_inverse_with_another_window_or_hop_fails() -> None:
    x = torch.randn(16_128, dtype=torch.float64)
    spectrum = STFT()(x)
    hann = torch.istft(spectrum.mT, 1024, 256, window=torch.hann_window(1024).double(), length=16_128)
    assert relative(hann - x, x) > 1e-2
    assert relative(STFT(hop=128).inverse(spectrum, 63 * 128) - x[: 63 * 128], x) > 1e-2


def test_frames_follow_the_definition() -> None:
    """Frame t is the transform of the sine-windowed samples around t hop."""
    stft, x = STFT(window_length=64, hop=16), torch.randn(400, dtype=torch.float64)
    window = torch.sin(torch.pi * (torch.arange(64).double() + 0.5) / 64)
    for t in (2, 10):
        frame = x[t * 16 - 32 : t * 16 + 32] * window
        torch.testing.assert_close(stft(x)[t], torch.fft.rfft(frame), rtol=0, atol=1e-12)


def test_padding_at_the_edges() -> None:
    x = torch.randn(400, dtype=torch.float64)
    window = torch.sin(torch.pi * (torch.arange(64).double() + 0.5) / 64)
    for pad_mode, before in (("constant", torch.zeros(32)), ("reflect", x[1:33].flip(0))):
        frame = torch.cat([before, x[:32]]) * window
        first = STFT(window_length=64, hop=16, pad_mode=pad_mode)(x)[0]
        torch.testing.assert_close(first, torch.fft.rfft(frame), rtol=0, atol=1e-12)


def test_energy_is_kept() -> None:
    """Parseval: the squared windows of 75 % overlap sum to 2, the transform multiplies by 1024."""
    x = torch.zeros(20_000, dtype=torch.float64)
    x[2000:18_000] = torch.randn(16_000, dtype=torch.float64)
    power = STFT()(x).abs().square()
    both_sides = 2 * power.sum() - power[:, 0].sum() - power[:, -1].sum()
    assert float(both_sides / (2 * 1024 * x.square().sum())) == pytest.approx(1, abs=1e-12)


def test_gradient_passes_through_the_inverse() -> None:
    stft = STFT(window_length=32, hop=8)
    x = torch.randn(60, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda y: stft.inverse(stft(y), 60), x)


def test_numbers_of_the_default() -> None:
    stft = STFT()
    assert (stft.bins, stft.frame_rate, stft.frames(16_000)) == (513, 62.5, 63)


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"pad_mode": "edge"}, "Unknown pad_mode 'edge'"),
        ({"hop": 300}, "a multiple of the hop"),
        ({"hop": 1024}, "no exact inverse"),
        ({"window_length": 5, "hop": 1}, "has to be even"),
        ({"hop": 0}, "positive"),
    ],
)
def test_settings_without_an_inverse_are_refused(settings: dict, sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        STFT(**settings)


def test_unfit_inputs_of_the_stft_are_refused() -> None:
    with pytest.raises(ValueError, match=r"512 samples is too short.*at least 513"):
        STFT(pad_mode="reflect")(torch.zeros(512))
    with pytest.raises(ValueError, match="0 samples is too short"):
        STFT()(torch.zeros(2, 0))
    with pytest.raises(ValueError, match=r"real floating-point.*int64"):
        STFT()(torch.zeros(1000, dtype=torch.int64))
    spectrum = STFT()(torch.zeros(2560))
    with pytest.raises(ValueError, match=r"shape \(\.\.\., 12, 513\), not .*\(11, 513\)"):
        STFT().inverse(spectrum, 2816)
    with pytest.raises(ValueError, match="complex"):
        STFT().inverse(spectrum.real, 2560)


# --- sampling


@pytest.mark.parametrize(("rate_in", "rate_out"), [(44_100, 16_000), (16_000, 44_100)])
def test_resampled_tone_is_the_tone(rate_in: int, rate_out: int) -> None:
    def tone(rate: int, length: int) -> np.ndarray:
        return np.sin(2 * np.pi * 1000 * np.arange(length) / rate)

    y = resample(np.stack([tone(rate_in, 50_001)] * 2)[None], rate_in, rate_out)
    length = -(-50_001 * rate_out // rate_in)
    assert y.shape == (1, 2, length)
    middle = slice(length // 4, -length // 4)
    np.testing.assert_allclose(y[0, 1, middle], tone(rate_out, length)[middle], rtol=0, atol=1e-5)
    assert np.abs(y[0, 0, middle] - tone(rate_in, length)[middle]).max() > 0.5


@pytest.mark.parametrize("length", [0, 1, 2, 1000, 1001])
def test_resampled_length_is_rounded_up(length: int) -> None:
    for rate_in, rate_out in ((48_000, 16_000), (16_000, 44_100), (44_100, 16_000)):
        y = resample(noise(length), rate_in, rate_out)
        assert y.shape == (int(np.ceil(length * rate_out / rate_in)),)
        assert y.dtype == np.float32


def test_resampled_to_the_last_sample() -> None:
    assert abs(resample(np.ones(1000), 8000, 16_000)[-1] - 1) < 0.5


def test_equal_rates_change_nothing() -> None:
    x = noise(2, 1000)
    assert resample(x, 16_000, 16_000) is x
    with pytest.raises(ValueError, match="from 16000 Hz to 0 Hz"):
        resample(x, 16_000, 0)
    with pytest.raises(ValueError, match="Cannot resample int64 samples"):
        resample(np.arange(9), 16_000, 8000)
