"""Where noise and speech sound alike, the estimate leans on the recording."""

import numpy as np
import pytest
import torch
from torch import Tensor

from pyrodvae import EnhanceConfig, Enhanced, enhance, examples
from pyrodvae.audio import read_audio
from pyrodvae.diagnostics import Diagnostics
from pyrodvae.lean import lean
from pyrodvae.metrics import si_sdr
from pyrodvae.posterior import Posterior
from pyrodvae.signal import STFT
from pyrodvae.voicing import periodicity, voicing

RATE, N = 16_000, 32_000
STFTS = (STFT(), STFT(window_length=512, hop=128), STFT(sample_rate=8_000, window_length=512, hop=128))


def buzz(pitch: float, rate: int = RATE) -> Tensor:
    """Pulses at a pitch, as a throat makes them."""
    t = torch.arange(N) / rate
    count = int(rate / 2 / pitch)
    harmonics = torch.arange(1, count).double() * pitch
    return torch.cos(2 * torch.pi * harmonics[:, None] * t).sum(0).float() / count


def hiss(seed: int = 0) -> Tensor:
    return torch.randn(N, generator=torch.Generator().manual_seed(seed)) * 0.1


def hum() -> Tensor:
    """Periodic with 100 Hz, as voices may be, and below their band; with a little hiss."""
    t = torch.arange(N) / RATE
    return torch.sin(2 * torch.pi * 100 * t) + 0.1 * hiss()


def murmur() -> Tensor:
    """Voiced, but not as purely as a tone."""
    return buzz(120.0) + 0.6 * hiss()


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


def found(speech: Tensor, noise: Tensor) -> tuple[Posterior, Tensor]:
    """What EM would have found, had it told speech from noise (N,) each."""
    s, b = STFTS[0](speech[None]), STFTS[0](noise[None])
    one = torch.ones(1, 1)
    return Posterior(s, s.abs(), b, s.abs()[None], b.abs(), one, Diagnostics(()), ("before",)), s + b


def test_alike_it_leans_and_the_parts_still_make_the_whole() -> None:
    posterior, x = found(murmur(), 0.5 * murmur())
    leaned = lean(posterior, RATE, 0.8)
    torch.testing.assert_close(leaned.mean, 0.2 * posterior.mean + 0.8 * x)
    torch.testing.assert_close(leaned.mean + leaned.noise_mean, x)
    assert leaned.warnings[0] == "before"
    assert "80%" in leaned.warnings[1]
    assert leaned.variance is posterior.variance


@pytest.mark.parametrize(
    ("speech", "noise"),
    [
        (buzz(120.0), hiss()),
        (buzz(120.0), hum()),
        (hiss(), hiss(1)),
        (buzz(120.0), murmur()),
        (murmur(), 0.2 * murmur()),
        (0.5 * buzz(120.0) + 3 * hiss(), buzz(99.0)),
    ],
    ids=["hiss", "hum", "neither is voiced", "less voiced", "faint", "a tone"],
)
def test_not_alike_it_stays(speech: Tensor, noise: Tensor) -> None:
    posterior, _ = found(speech, noise)
    leaned = lean(posterior, RATE, 0.8)
    torch.testing.assert_close(leaned.mean, posterior.mean)
    assert leaned.warnings == ("before",)


def test_none_is_none() -> None:
    posterior, _ = found(buzz(120.0), buzz(170.0))
    assert lean(posterior, RATE, 0.0) is posterior


def test_a_share_is_a_share() -> None:
    with pytest.raises(ValueError, match="lean must be from 0 to 1"):
        EnhanceConfig(lean=1.5)


def test_a_talker_among_talkers_is_not_lost() -> None:
    """The clean example among four copies of itself, turned round and shifted, 5 dB louder than it is."""
    s = read_audio(examples.clean())[0][0].astype(np.float32)
    others = sum(np.roll(s[::-1], k * 9_001) for k in range(4))
    x = s + others * np.float32(np.linalg.norm(s) / np.linalg.norm(others) * 10**0.25)

    def run(most: float) -> Enhanced:
        return enhance(x, sample_rate=16_000, config=EnhanceConfig(iterations=20, lean=most))

    leaned, alone = run(0.8), run(0.0)
    assert si_sdr(leaned.speech, s) > si_sdr(x, s) - 0.5
    assert any("other talkers" in sentence for sentence in leaned.warnings)
    assert si_sdr(alone.speech, s) < si_sdr(x, s) - 0.5  # the control
    assert alone.warnings == []
    np.testing.assert_allclose(leaned.speech + leaned.noise, x, atol=1e-6)
