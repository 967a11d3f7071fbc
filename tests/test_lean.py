"""Where noise and speech sound alike, the estimate leans on the recording."""

import numpy as np
import pytest
import torch
from torch import Tensor
from voices import RATE, buzz, found, hiss, hum, murmur

from pyrodvae import EnhanceConfig, Enhanced, enhance, examples
from pyrodvae.audio import read_audio
from pyrodvae.lean import lean
from pyrodvae.metrics import si_sdr


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
