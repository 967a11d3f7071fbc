"""Metrics against their closed forms, their reference packages, and every NaN with its reason."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pesq
import pystoi
import pytest
import torch

from pyrodvae.audio import read_audio
from pyrodvae.metrics import METRICS, hoyer, raw_pesq, score, sdr, si_sdr
from pyrodvae.signal import resample

RATE = 16_000


def speech(seconds: float, rate: int = RATE, syllable: float = 0.25) -> np.ndarray:
    """Harmonics of 150 Hz in syllables of varying loudness, separated by as long a pause."""
    generator = np.random.default_rng(3)
    t = np.arange(round(seconds * rate)) / rate
    voice = sum(np.sin(2 * np.pi * 150 * k * t + k * k) / k for k in range(1, 25))
    loudness = generator.uniform(0.3, 1.0, math.ceil(seconds / syllable) + 1)
    loudness[1::2] = 1e-4
    return 0.1 * voice * loudness[(t / syllable).astype(int)]


def noise(length: int) -> np.ndarray:
    return 0.03 * np.random.default_rng(5).standard_normal(length)


@pytest.fixture(scope="module")
def pair() -> tuple[np.ndarray, np.ndarray]:
    """A noisy estimate and its reference."""
    clean = speech(3.0)
    return clean + noise(len(clean)), clean


# --- distortion


@pytest.mark.parametrize("decibels", [-20.0, 0.0, 7.5, 60.0])
def test_orthogonal_noise_of_known_level(decibels: float) -> None:
    s, n = speech(1.0), noise(RATE)
    n -= (n @ s) / (s @ s) * s
    n *= np.sqrt((s @ s) / (n @ n)) * 10 ** (-decibels / 20)
    assert si_sdr(s + n, s) == pytest.approx(decibels, abs=1e-9)
    assert sdr(s + n, s) == pytest.approx(decibels, abs=1e-9)
    for scale in (1e-3, -2.0, 50.0):
        assert si_sdr(scale * (s + n), s) == pytest.approx(decibels, abs=1e-9)
        assert si_sdr(s + n, scale * s) == pytest.approx(decibels, abs=1e-9)


def test_sdr_depends_on_scale(pair) -> None:
    """Half the reference: |s|^2 / |s/2|^2 is 6.02 dB, and nothing is wrong up to scale."""
    _, s = pair
    assert sdr(s / 2, s) == pytest.approx(20 * math.log10(2), abs=1e-9)
    assert si_sdr(s / 2, s) > 250


def test_mean_is_not_removed() -> None:
    """s + 1 has the angle of (2, 1) to s = (1, 0): 20 log10 2. Without means they are equal."""
    s = np.tile([1.0, 0.0], 500)
    assert si_sdr(s + 1, s) == pytest.approx(20 * math.log10(2), abs=1e-9)


def test_limits_are_infinite() -> None:
    s = np.array([1.0, 0.0, 2.0, 0.0])
    assert si_sdr(s, s) == sdr(s, s) == math.inf
    assert si_sdr(np.array([0.0, 1.0, 0.0, 3.0]), s) == -math.inf


# --- intelligibility and quality


def test_values_are_those_of_the_reference_packages(pair) -> None:
    """In the right order, too: swapped arguments give other values."""
    e, s = pair
    values = {name: m.value for name, m in score(e, s, RATE).items()}
    assert values["stoi"] == pytest.approx(pystoi.stoi(s, e, RATE), abs=1e-9)
    assert values["estoi"] == pytest.approx(pystoi.stoi(s, e, RATE, extended=True), abs=1e-9)
    assert values["pesq_wb"] == pytest.approx(pesq.pesq(RATE, s, e, "wb"), abs=1e-9)
    assert values["pesq_nb"] == pytest.approx(pesq.pesq(RATE, s, e, "nb"), abs=1e-9)
    assert values["pesq_mos"] == raw_pesq(values["pesq_nb"])
    swapped = {name: m.value for name, m in score(s, e, RATE).items()}
    assert min(abs(values[n] - swapped[n]) for n in ("stoi", "estoi", "pesq_wb", "pesq_nb")) > 1e-3


def test_perfect_estimate(pair) -> None:
    _, s = pair
    values = {name: m.value for name, m in score(s, s, RATE).items()}
    assert values["stoi"] == pytest.approx(1, abs=1e-9)
    assert values["estoi"] == pytest.approx(1, abs=1e-9)
    assert values["pesq_wb"] == pytest.approx(4.644, abs=1e-3)
    assert values["pesq_mos"] == pytest.approx(4.5, abs=1e-3)
    assert values["si_sdr"] == values["sdr"] == math.inf


def test_rates_are_brought_to_what_a_metric_demands(pair) -> None:
    at_8k = [w[::2] for w in pair]
    at_16k, at_48k = (score(*(resample(w, 8000, rate) for w in at_8k), rate) for rate in (RATE, 48_000))
    for name in METRICS:
        assert at_48k[name].value == pytest.approx(at_16k[name].value, rel=0.01)
    wrong = score(*(resample(w, 8000, RATE) for w in at_8k), 48_000)
    for name in ("stoi", "estoi", "pesq_wb", "pesq_mos"):  # the control: the rate does matter
        assert wrong[name].value != pytest.approx(at_16k[name].value, rel=0.01)


@pytest.mark.parametrize("mode", ["wb", "nb"])
def test_pesq_of_long_signals_is_the_mean_of_its_pieces(mode: str) -> None:
    """60 utterances in one call would overrun the 50 that pesq has room for, and end Python."""
    s = speech(30.0)
    e = s + 0.03 * noise(len(s))
    halves = [pesq.pesq(RATE, s[i : i + 15 * RATE], e[i : i + 15 * RATE], mode) for i in (0, 15 * RATE)]
    assert halves[0] != pytest.approx(halves[1], abs=1e-4)
    whole = score(e, s, RATE, [f"pesq_{mode}"])[f"pesq_{mode}"].value
    assert whole == pytest.approx(np.mean(halves), abs=1e-9)


@pytest.mark.parametrize("silent_too", [False, True])
def test_pieces_without_speech_do_not_count(silent_too: bool) -> None:
    s, e = speech(30.0), noise(30 * RATE)
    s[15 * RATE :] = 0
    e += s
    if silent_too:
        e[15 * RATE :] = 0
    first = pesq.pesq(RATE, s[: 15 * RATE], e[: 15 * RATE], "wb")
    assert METRICS["pesq_wb"](e, s, RATE) == pytest.approx(first, abs=1e-9)


@pytest.mark.parametrize("raw", np.linspace(-0.5, 4.5, 11))
def test_raw_pesq_inverts_the_map(raw: float) -> None:
    nb = 0.999 + 4 / (1 + math.exp(4.6607 - 1.4945 * raw))
    assert raw_pesq(nb) == pytest.approx(raw, abs=1e-9)


@pytest.mark.parametrize(
    ("nb", "mos"),
    [
        (3.31, 3.33),
        (3.61, 3.55),
        (3.75, 3.65),
        (3.52, 3.48),
        (3.15, 3.22),
        (3.34, 3.35),
        (3.42, 3.41),
        (3.39, 3.39),
    ],
)
def test_raw_pesq_agrees_with_the_lecture(nb: float, mos: float) -> None:
    """Both columns of its tables are rounded to 0.01, and the map has a slope below one here."""
    assert raw_pesq(nb) == pytest.approx(mos, abs=0.01)


@pytest.mark.parametrize("nb", [0.999, 5.0, -1.0, math.nan])
def test_raw_pesq_outside_the_map(nb: float) -> None:
    with pytest.raises(ValueError, match=r"between 0\.999 and 4\.999"):
        raw_pesq(nb)


def test_real_recordings_rank_as_they_sound(data_dir: Path) -> None:
    """A supervised system's output is better than the noisy recording, by every metric."""
    folder = data_dir / "pairs" / "vbdemand_cmgan"
    clean = sorted((folder / "clean").iterdir())[0]
    s, rate = read_audio(clean)
    noisy = score(read_audio(folder / "noisy" / clean.name)[0], s, rate)
    enhanced = score(read_audio(folder / "enhanced_cmgan" / clean.name)[0], s, rate)
    for name in METRICS:
        assert enhanced[name].value > noisy[name].value, name


# --- what cannot be measured


def reasons(estimate: np.ndarray, reference: np.ndarray, rate: int = RATE) -> dict[str, str]:
    """The reason of every metric that is NaN; the others have a value, and no reason."""
    result = score(estimate, reference, rate)
    assert list(result) == list(METRICS)
    for measurement in result.values():
        assert isinstance(measurement.value, float)
        assert math.isnan(measurement.value) == bool(measurement.reason)
    return {name: m.reason for name, m in result.items() if m.reason}


def test_nothing_is_missing_from_a_sound_pair(pair) -> None:
    assert reasons(*pair) == {}
    assert reasons(pair[0][None].astype(np.float32), pair[1]) == {}  # (1, N) is mono too


def test_unfit_waveforms_are_nan_with_a_reason(pair) -> None:
    e, s = pair
    broken = e.copy()
    broken[7] = math.inf
    for estimate, reference, reason in (
        (0 * e, s, "The estimate is silent."),
        (e, 0 * s, "The reference is silent."),
        (1e-170 * e, s, "The estimate is silent."),  # its power is below the least float
        (broken, s, "The estimate has NaN or infinite samples."),
        (np.stack([e, e]), s, "The estimate has shape (2, 48000): metrics need one channel"),
        (e, s[:0], "The reference has shape (0,): metrics need one channel"),
        (e[:-257], s, "The estimate has 47743 samples and the reference 48000: they differ by"),
    ):
        found = reasons(estimate, reference)
        assert set(found) == set(METRICS)
        assert all(text.startswith(reason) for text in found.values())


def test_a_hop_of_difference_is_trimmed(pair) -> None:
    e, s = pair
    assert reasons(e[:-256], s) == {}
    assert si_sdr(e[:-256], s) == si_sdr(e[:-256], s[:-256])


def test_too_short_for_some_metrics(pair) -> None:
    e, s = pair
    perceptual = {"stoi", "estoi", "pesq_wb", "pesq_nb", "pesq_mos"}
    found = reasons(e[:3000], s[:3000])
    assert set(found) == perceptual
    assert found["stoi"] == "There is less than 0.4 s of speech, too little for STOI."
    assert "at least 1/4 of a second" in found["pesq_mos"]
    assert set(reasons(e[:3], s[:3])) == perceptual
    assert set(reasons(e[:8000], s[:8000])) == {"stoi", "estoi"}  # half of it is a pause


@pytest.mark.parametrize("samples", [1, 200, 3000])
def test_little_speech_in_a_long_file(samples: int) -> None:
    """pystoi would answer 1e-5, which passes for a score."""
    s = np.zeros(2 * RATE)
    s[9000 : 9000 + samples] = 0.5
    found = reasons(s + noise(len(s)), s)
    assert {"stoi", "estoi"} <= set(found) <= {"stoi", "estoi", "pesq_wb", "pesq_nb", "pesq_mos"}


def test_no_utterance() -> None:
    s = 1e-30 * speech(1.0)
    found = reasons(s + noise(RATE), s)
    for name in ("pesq_wb", "pesq_nb", "pesq_mos"):
        assert found[name] == "PESQ cannot be computed: No utterances detected."


def test_metrics_are_chosen_by_name(pair) -> None:
    assert list(score(*pair, RATE, ["sdr", "si_sdr"])) == ["sdr", "si_sdr"]
    with pytest.raises(ValueError, match=r"Unknown metrics \['pesq'\]: choose among \['si_sdr'"):
        score(*pair, RATE, ["pesq", "sdr"])


# --- sparsity


def test_hoyer_of_known_vectors() -> None:
    one_hot = torch.eye(4, dtype=torch.float64)
    assert hoyer(one_hot).item() == pytest.approx(1, abs=1e-12)
    assert hoyer(-torch.ones(3, 16, dtype=torch.float64)).item() == pytest.approx(0, abs=1e-12)
    three_four = torch.tensor([[3.0, -4.0, 0.0, 0.0]], dtype=torch.float64)
    assert hoyer(three_four).item() == pytest.approx(2 - 7 / 5, abs=1e-12)


def test_hoyer_is_averaged_over_frames_and_scale_free() -> None:
    z = torch.randn(2, 3, 50, 16, dtype=torch.float64)
    assert hoyer(z).shape == (2, 3)
    frames = torch.stack([hoyer(z[:, :, t : t + 1]) for t in range(50)])
    torch.testing.assert_close(hoyer(z), frames.mean(0), rtol=1e-12, atol=0)
    torch.testing.assert_close(hoyer(1e-200 * z), hoyer(z), rtol=1e-12, atol=0)
    pooled = hoyer(z.reshape(2, 3, 1, 800))  # the control: one long vector is something else
    assert ((pooled - hoyer(z)).abs() > 1e-3).all()


def test_hoyer_without_a_value() -> None:
    frames = torch.tensor([[0.0, 0.0], [0.0, 5.0]])
    assert hoyer(frames).item() == pytest.approx(1, abs=1e-6)
    assert math.isnan(hoyer(torch.zeros(3, 2)).item())
    for unfit in (torch.ones(5, 1), torch.ones(5)):
        with pytest.raises(ValueError, match="D >= 2"):
            hoyer(unfit)
