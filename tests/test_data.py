"""From a folder of recordings to batches: what is found, what is cut, and that chance is seeded."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from torch import Tensor

from pyrodvae.audio import AudioError
from pyrodvae.data import Crops, audio_files, load, prepare, scan
from pyrodvae.signal import STFT
from pyrodvae.trainer import TrainConfig

RATE, HOP = 16_000, 64
SMALL = STFT(window_length=4 * HOP, hop=HOP)


def tone(length: int, amplitude: float = 1.0) -> Tensor:
    """A sine in the middle of bin 8: its spectrum has the same power in every whole frame."""
    return amplitude * torch.sin(2 * math.pi * 8 / SMALL.window_length * torch.arange(length))


def level(x: Tensor) -> Tensor:
    """Power of the tone, (B, T), one for a whole frame of unit amplitude."""
    whole = SMALL(tone(100 * HOP))[50, 8].abs() ** 2
    return x[..., 8].abs() ** 2 / whole


def crops(*lengths: int, frames: int = 10, batch_size: int = 16, gain_db: float = 0.0) -> Crops:
    return Crops([tone(n) for n in lengths], SMALL, frames, batch_size, gain_db)


# --- crops


def test_a_seed_gives_the_same_batches() -> None:
    data = Crops([torch.randn(4000), torch.randn(900)], SMALL, 10, 4, 12.0)
    a, b, c = (list(data.epoch(seed)) for seed in (1, 1, 2))
    assert len(a) == data.batches == round((1 + 4000 // HOP + 1 + 900 // HOP) / 40)
    for (x, n), (y, m), (z, _) in zip(a, b, c, strict=True):
        assert x.shape == (4, 10, SMALL.bins)
        assert torch.equal(x, y)
        assert (n is None and m is None) or torch.equal(n, m)
        assert not torch.equal(x, z)


def test_crops_have_a_stream_of_their_own(monkeypatch) -> None:
    """Their gain is none of the numbers that the same seed gives to everything else."""

    def correlation() -> float:
        x, _ = next(crops(4000, batch_size=400, gain_db=12.0).epoch(3))
        torch.manual_seed(3)
        torch.multinomial(torch.ones(1), 400, replacement=True), torch.rand(400)
        return float(torch.corrcoef(torch.stack([level(x)[:, 5].log10(), torch.rand(400)]))[0, 1].abs())

    assert correlation() < 5 / math.sqrt(400)
    monkeypatch.setattr("pyrodvae.data.CROPS", 0)
    assert correlation() > 0.99  # the control


def test_crops_are_drawn_in_place_and_in_proportion() -> None:
    """Of signals of 1 and 3 parts, a quarter and three quarters; and from all over a signal."""
    signals = [torch.full((6400,), 1.0), torch.linspace(2.0, 3.0, 3 * 6400)]
    data = Crops(signals, SMALL, 10, 2000)
    x, _ = next(data.epoch(0))
    where = (x[:, 5, 0].abs() / SMALL(torch.ones(6400))[50, 0].abs()).double()
    share = (where > 1.5).double().mean()
    assert abs(share - 0.75) < 5 * math.sqrt(0.75 * 0.25 / 2000)
    assert where[where > 1.5].min() < 2.06
    assert where.max() > 2.94


@pytest.mark.parametrize(("edge", "whole"), [(2, True), (1, False)])
def test_no_frame_sees_the_padding(edge: int, whole: bool, monkeypatch) -> None:
    """One frame less cut away at either end, and there is one that does."""
    monkeypatch.setattr("pyrodvae.data.EDGE", edge)
    x, lengths = next(crops(4000).epoch(0))
    assert lengths is None
    assert x.shape[1] == 10
    assert bool((level(x) - 1).abs().max() < 0.01) == whole


def test_gain_turns_down_within_its_range() -> None:
    x, _ = next(crops(4000, batch_size=500, gain_db=12.0).epoch(0))
    decibel = 10 * level(x)[:, 5].log10()
    assert decibel.min() > -12.05
    assert decibel.max() < 0.05
    assert decibel.std() == pytest.approx(12 / math.sqrt(12), rel=0.15)
    x, _ = next(crops(4000).epoch(0))
    assert (10 * level(x).log10()).abs().max() < 0.05


@pytest.mark.parametrize(("length", "wanted"), [(8 * HOP, 5), (5 * HOP, 2), (4 * HOP - 1, 1), (13 * HOP, 10)])
def test_short_signals_come_with_their_lengths(length: int, wanted: int) -> None:
    data = crops(length, 4000, batch_size=200)
    x, lengths = next(data.epoch(0))
    if wanted == 10:
        assert lengths is None
        return
    assert set(lengths.tolist()) == {wanted, 10}
    short = level(x[lengths == wanted])
    if wanted > 1:  # one frame is given even where none is whole
        assert (short[:, :wanted] - 1).abs().max() < 0.01
    assert (short[:, wanted] < 0.99).all()  # the next one does see the end


# --- recordings


def write(path: Path, y: np.ndarray, rate: int = RATE, **options) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, y, rate, **options)
    return path


def noise(length: int, scale: float = 0.1) -> np.ndarray:
    return scale * np.random.default_rng(length).standard_normal(length)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two good recordings, one in a subfolder, and all that can be wrong with others."""
    write(tmp_path / "good.wav", noise(RATE))
    write(tmp_path / "deep" / "er" / "good.flac", noise(8000), 8000)
    (tmp_path / "notes.txt").write_text("not audio")
    (tmp_path / "empty.wav").touch()
    (tmp_path / "text.wav").write_text("not audio" * 99)
    write(tmp_path / "silent.wav", np.zeros(RATE))
    write(tmp_path / "short.wav", noise(500))
    bad = noise(RATE)
    bad[7] = np.nan
    write(tmp_path / "nan.wav", bad, subtype="FLOAT")
    return tmp_path


def test_bad_files_are_named_with_a_reason(folder: Path) -> None:
    corpus = scan(folder)
    assert [p.name for p in corpus.files] == ["good.flac", "good.wav", "nan.wav", "short.wav", "silent.wav"]
    assert dict(zip(corpus.files, corpus.seconds, strict=True))[folder / "good.wav"] == 1.0
    signals, skipped = load(corpus, SMALL)
    assert len(signals) == 2
    reasons = {p.name: why for p, why in (*corpus.skipped, *skipped)}
    assert reasons.keys() == {"empty.wav", "text.wav", "silent.wav", "short.wav", "nan.wav"}
    for name, words in (
        ("empty", "is empty"),
        ("silent", "is silent"),
        ("short", "too short"),
        ("nan", "NaN"),
    ):
        assert words in reasons[f"{name}.wav"]


def test_manifests_choose_by_split(folder: Path) -> None:
    table = folder / "MANIFEST.tsv"
    table.write_text("path\tsplit\ngood.wav\ttrain\ndeep/er/good.flac\tval\n")
    assert [p.name for p in scan(folder, table, "train").files] == ["good.wav"]
    assert [p.name for p in scan(folder, table, "val").files] == ["good.flac"]
    assert len(scan(folder, table).files) == 2
    with pytest.raises(AudioError, match="with split 'test' in"):
        scan(folder, table, "test")
    table.write_text("file\nx\n")
    with pytest.raises(AudioError, match="columns 'path' and 'split'"):
        scan(folder, table, "train")
    table.write_text("path\tsplit\n\ttrain\n")
    with pytest.raises(AudioError, match="has a row without a path"):
        scan(folder, table, "train")
    for content in (b"\x89PNG\r\n\xff\xfe", b"path\tsplit\n" + b"x" * 200_000 + b"\ttrain\n"):
        table.write_bytes(content)
        with pytest.raises(AudioError, match=r"MANIFEST\.tsv is no table of text in UTF-8\.$"):
            scan(folder, table, "train")
    table.write_bytes(b"path\tsplit\na\0.wav\ttrain\n")
    with pytest.raises(AudioError, match="columns 'path' and 'split'"):
        scan(folder, table, "train")
    with pytest.raises(AudioError, match="Cannot read the manifest"):
        scan(folder, folder / "none.tsv", "train")


def test_what_a_manifest_names_and_is_not_there_is_skipped_by_name(folder: Path) -> None:
    table = folder / "MANIFEST.tsv"
    table.write_text("path\tsplit\ngood.wav\ttrain\ndeep/gone.wav\ttrain\nother.wav\tval\n")
    corpus = scan(folder, table, "train")
    assert [p.name for p in corpus.files] == ["good.wav"]
    assert corpus.skipped == ((folder / "deep/gone.wav", f"{folder}/deep/gone.wav does not exist."),)
    with pytest.raises(AudioError, match=r"\(1 unreadable, the first: .*/other\.wav does not exist\)\.$"):
        scan(folder, table, "val")
    table.write_text("path\tsplit\nsomewhere/else/good.wav\ttrain\n")
    with pytest.raises(AudioError, match=f"whose paths count from {folder} "):
        scan(folder, table, "train")
    (folder / "link").symlink_to(folder)
    table.write_text("path\tsplit\ngood.wav\ttrain\ngone.wav\ttrain\n")
    corpus = scan(folder / "link", table, "train")
    assert [p.name for p in corpus.files] == ["good.wav"]
    assert [p.name for p, _ in corpus.skipped] == ["gone.wav"]


def test_hidden_files_are_passed_over_and_dead_links_told(tmp_path: Path) -> None:
    folder = tmp_path / ".cache"  # that the folder itself is hidden does not matter
    for name in ("a.wav", "._a.wav", ".trash/b.wav", "deep/.c.wav", "folder.wav/d.wav"):
        write(folder / name, noise(RATE))
    (folder / "e.wav").symlink_to("gone.wav")
    assert [p.relative_to(folder).as_posix() for p in audio_files(folder)] == [
        "a.wav",
        "e.wav",
        "folder.wav/d.wav",
    ]
    assert scan(folder).skipped == (
        (folder / "e.wav", f"{folder}/e.wav is a link to gone.wav, which does not exist."),
    )


def test_folders_without_recordings_are_refused(tmp_path: Path) -> None:
    with pytest.raises(AudioError, match="is not a folder"):
        scan(tmp_path / "none")
    with pytest.raises(AudioError, match=r"No readable recording in .* \(0 unreadable\)"):
        scan(tmp_path)
    write(tmp_path / "silent.wav", np.zeros(RATE))
    with pytest.raises(AudioError, match=r"None of the 1 recordings can be used: .*silent"):
        load(scan(tmp_path), SMALL)


@pytest.mark.parametrize(("rate", "channels"), [(RATE, 1), (8000, 2)])
def test_recordings_become_mono_trimmed_and_of_peak_one(rate: int, channels: int) -> None:
    y = np.concatenate([np.zeros(rate), noise(rate), np.zeros(rate)]) * 0.3
    p = prepare(np.stack([y] * channels).astype(np.float32), rate, STFT())
    assert float(p.abs().max()) == pytest.approx(1)
    assert p.dtype == torch.float32
    assert 0.9 * RATE < len(p) < 1.3 * RATE  # of three seconds, the one in the middle


def test_noise_of_a_recording_is_turned_down_and_its_speech_kept() -> None:
    n = 3 * RATE
    y = noise(n, 0.01)
    y[RATE : 2 * RATE] += np.sin(2 * np.pi * 1000 / RATE * np.arange(RATE))
    before, after = (prepare(y[None].astype(np.float32), RATE, STFT(), d, top_db=80) for d in (0.0, 15.0))
    assert len(before) == len(after) == n

    def ratio(part: slice) -> float:
        return 10 * math.log10(after[part].square().mean() / before[part].square().mean())

    assert ratio(slice(RATE // 2)) == pytest.approx(-15, abs=2.5)
    assert ratio(slice(RATE + 2000, 2 * RATE - 2000)) == pytest.approx(0, abs=0.5)
    assert TrainConfig().denoise_db == 0  # nothing is changed unasked
