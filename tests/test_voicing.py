"""How voiced sounds are."""

import pytest
import torch
from torch import Tensor
from voices import RATE, STFTS, N, buzz, hiss, hum, murmur

from pyrodvae.signal import STFT
from pyrodvae.voicing import periodicity, voicing


def voiced(y: Tensor, stft: STFT = STFTS[0]) -> float:
    p = stft(y[None]).abs().square()
    return float(voicing(p, p, stft.sample_rate).speech)


@pytest.mark.parametrize("stft", STFTS, ids=str)
@pytest.mark.parametrize("pitch", [90.0, 137.0, 250.0, 390.0])
def test_a_periodic_sound_is_voiced_and_hiss_is_not(stft: STFT, pitch: float) -> None:
    assert voiced(buzz(pitch, stft.sample_rate), stft) > 0.75  # lags are whole samples: few at 8 kHz
    assert voiced(hiss(), stft) < 0.35


def test_a_steady_sound_of_whole_periods_has_one() -> None:
    """A bin in the middle of the band, alone, repeats itself after every lag."""
    p = torch.zeros(1, 5, 513)
    p[:, 1:4, 63:66] = torch.tensor([0.25, 1.0, 0.25])  # a sine of 1 kHz under a window
    c, energy = periodicity(p, RATE)
    torch.testing.assert_close(c, torch.tensor([[0.0, 1.0, 1.0, 1.0, 0.0]]), atol=0.05, rtol=0)
    assert energy[0].tolist() == pytest.approx([0, 2 * 1.5 / 1024, 2 * 1.5 / 1024, 2 * 1.5 / 1024, 0])
    assert (periodicity(torch.rand_like(p), RATE)[0] < 0.4).all()  # the control: no period
    assert (periodicity(torch.rand(2, 3, 9), RATE)[0] == 0).all()  # windows of 16 samples hold none


def test_hum_below_voices_does_not_count() -> None:
    assert voiced(hum()) < 0.35
    assert voiced(hum() + 0.3 * buzz(100.0)) > 0.75  # the control: the same pitch, in the band of voices


def test_sequences_do_not_see_each_other_and_level_does_not_matter() -> None:
    p = STFTS[0](torch.stack([buzz(120.0), hiss(), torch.zeros(N)])).abs().square()
    q = STFTS[0](torch.stack([hiss(1), murmur(), torch.zeros(N)])).abs().square()
    both = voicing(p, q, RATE)
    for i in (0, 1):
        alone = voicing(p[i : i + 1] * 1e4, q[i : i + 1] * 1e4, RATE)
        torch.testing.assert_close(torch.stack(both)[:, i], torch.cat(alone))
    assert [float(part[2]) for part in both] == [0, 0, 0, 0]  # silence


def test_what_leaks_from_the_speech_does_not_make_the_noise_voiced() -> None:
    """Half a second of the buzz is left in the noise, where the speech is louder still."""
    burst = buzz(120.0) * (torch.arange(N) < RATE // 2)
    p, q = (STFTS[0](y[None]).abs().square() for y in (3 * burst, burst + 0.1 * hiss()))
    found = voicing(p, q, RATE)
    assert found.speech > 0.75
    assert found.noise < 0.4
    assert found.loud > 0.75  # the control: by energy the noise is voiced


def test_the_share_is_that_of_the_energy() -> None:
    p, q = (torch.rand(2, 4, 513) for _ in range(2))
    band = slice(20, 225)  # 300 to 3500 Hz
    inside = [x[..., band].sum((-2, -1)) for x in (p, q)]
    torch.testing.assert_close(voicing(p, q, RATE).share, inside[1] / (inside[0] + inside[1]))
    assert (voicing(p, 0 * q, RATE).share == 0).all()


def test_windows_too_short_for_a_pitch_say_nothing() -> None:
    short = STFT(window_length=256, hop=64)
    assert voiced(buzz(137.0), short) == voiced(hiss(), short) == 0
    assert voiced(buzz(137.0), STFT(window_length=512, hop=128)) > 0.5  # the control
