"""Synthetic audio-visual speech: what is seen tells what is heard, in files as in memory."""

from __future__ import annotations

import csv
from functools import cache
from pathlib import Path

import pytest
import soundfile
import torch
from torch import Tensor

from pyrodvae.data import scan
from pyrodvae.signal import STFT
from pyrodvae.synthetic_av import COLUMNS, Spoken, speak, write_corpus
from pyrodvae.video import Video, align, read_video

LONG = STFT()
SEEDS = range(10)
said = cache(speak)


def pair(spoken: Spoken, late: float = 0.0) -> tuple[Tensor, Tensor]:
    """log-energy in bands (T, 33) and pictures (T, 64), the video late by some seconds."""
    small = torch.nn.functional.interpolate(spoken.frames[None], (8, 8), mode="area")[0]
    v, _ = align(Video(small, spoken.times + late, 25.0), LONG, len(spoken.waveform))
    power = LONG(spoken.waveform).abs().square()[:, :-1].unflatten(-1, (32, 16)).mean(-1)
    total = power.sum(-1, keepdim=True)
    return (torch.cat([total, power], -1) + 1e-4).log().double(), v.double()


def explained(late: float = 0.0, shuffled: bool = False) -> Tensor:
    """Share of the variance of each log-energy that a ridge regression from pixels explains on new speech."""
    pairs = [pair(said(2.0, seed), late) for seed in SEEDS]
    pairs = [(y[~v.isnan().any(-1)], v[~v.isnan().any(-1)]) for y, v in pairs]
    if shuffled:
        g = torch.Generator().manual_seed(0)
        pairs = [(y, v[torch.randperm(len(v), generator=g)]) for y, v in pairs]
    half = len(pairs) // 2
    y, v = (torch.cat(parts) for parts in zip(*pairs[:half], strict=True))
    mean, centre = v.mean(0), y.mean(0)
    gram = (v - mean).mT @ (v - mean) + 0.1 * torch.eye(v.shape[1])
    weights = torch.linalg.solve(gram, (v - mean).mT @ (y - centre))
    y, v = (torch.cat(parts) for parts in zip(*pairs[half:], strict=True))
    rest = (y - centre - (v - mean) @ weights).square().mean(0)
    return 1 - rest / y.var(0)


def test_pixels_explain_the_energy_and_shuffled_ones_do_not() -> None:
    r2 = explained()
    assert r2[0] > 0.5
    assert r2[1:5].min() > 0.3  # the voice's bands
    assert explained(shuffled=True).max() < 0.05  # the control
    assert explained(late=0.04)[0] < r2[0] - 0.3  # and by one picture too late, less


def test_the_picture_tells_more_than_the_energy() -> None:
    """F2 goes along with the mouth's width: the balance of 0.8 to 1.2 and 1.6 to 2.4 kHz is seen, too."""

    def balance(y: Tensor) -> Tensor:
        return y[:, 1 + 7] - y[:, 1 + 3]

    y, v = (torch.cat(parts) for parts in zip(*(pair(said(2.0, seed)) for seed in SEEDS), strict=True))
    loud = y[:, 0] > y[:, 0].median()
    y, v = balance(y[loud]), v[loud]
    wide = 0.7 - v.unflatten(-1, (8, 8))[:, 3:5, [1, 6]].mean((1, 2))
    assert torch.corrcoef(torch.stack([y, wide]))[0, 1] > 0.5
    assert torch.corrcoef(torch.stack([y, wide.roll(100)]))[0, 1].abs() < 0.2  # the control


def test_a_seed_says_it_again() -> None:
    a, b, c = speak(1.0, 3), speak(1.0, 3), speak(1.0, 4)
    assert torch.equal(a.waveform, b.waveform)
    assert torch.equal(a.frames, b.frames)
    assert not torch.equal(a.waveform, c.waveform)
    assert a.waveform.shape == (16_000,)
    assert a.waveform.abs().max() == pytest.approx(0.9)
    assert a.frames.shape == (25, 64, 64)
    assert 0 <= a.frames.min() < 0.2 < 0.6 < a.frames.max() <= 1
    assert a.times.tolist() == [n / 25 for n in range(25)]
    assert speak(0.5, side=32).frames.shape == (13, 32, 32)


def test_wrong_wishes_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"at least 0\.25 s"):
        speak(0.1)
    with pytest.raises(ValueError, match="seed"):
        speak(1.0, -1)
    with pytest.raises(ValueError, match="at least 3"):
        write_corpus(tmp_path, 2)
    with pytest.raises(ValueError, match="even"):
        write_corpus(tmp_path, 3, side=15)


def test_a_corpus_is_found_by_its_manifest(tmp_path: Path) -> None:
    table = write_corpus(tmp_path / "deep" / "er", recordings=4, seconds=1.0, seed=7, side=32)
    rows = list(csv.DictReader(table.read_text().splitlines(), delimiter="\t"))
    assert list(rows[0]) == COLUMNS
    assert [row["split"] for row in rows] == ["train", "train", "val", "test"]
    assert [len(scan(table.parent, table, split).files) for split in ("train", "val", "test")] == [2, 1, 1]
    for i, row in enumerate(rows):
        wav, rate = soundfile.read(table.parent / row["path"], dtype="float32")
        spoken = speak(1.0, 7 + i, 32)
        assert rate == 16_000
        assert (torch.from_numpy(wav) - spoken.waveform).abs().max() < 1e-4
        video = read_video((table.parent / row["path"]).with_suffix(".mp4"), 32)
        assert video.warnings == ()
        assert (video.times - spoken.times).abs().max() < 1e-4
        assert (video.frames - spoken.frames).abs().mean() < 0.03
        assert (video.frames[1:] - spoken.frames[:-1]).abs().mean() > (
            video.frames - spoken.frames
        ).abs().mean()
