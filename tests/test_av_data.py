"""Recordings with their videos: cut alike, so that no picture is ever beside another frame than its own."""

from __future__ import annotations

import math
import warnings
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from torch import Tensor

from pyrodvae.audio import AudioError
from pyrodvae.av_data import AVCrops, Recording, load_av, prepare_av
from pyrodvae.data import EDGE, prepare, scan
from pyrodvae.signal import STFT, resample
from pyrodvae.synthetic_av import RATE, speak, write_corpus
from pyrodvae.video_file import write_video

LONG = STFT()
HOP = 64
SMALL = STFT(window_length=4 * HOP, hop=HOP)


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """Three synthetic recordings of a second and a half."""
    folder = tmp_path_factory.mktemp("mouths")
    write_corpus(folder, 3, 1.5, side=32)
    return folder


@pytest.fixture(scope="module")
def recordings(folder: Path) -> list[Recording]:
    return load_av(scan(folder), LONG, 8)[0]


# --- a clock that is heard and seen: both say how late it is


def clock(frames: int, lead: int = 0, stft: STFT = SMALL) -> Recording:
    """A tone whose power is that of its frame's number, and a picture for each frame that shows it."""
    n = torch.arange(frames * stft.hop) / stft.hop
    level = 10 ** ((n.round() - frames) / frames)
    y = level * torch.sin(2 * math.pi * 8 / stft.window_length * torch.arange(len(n)))
    shown = torch.arange(lead, stft.frames(len(y)) + lead).clamp(max=255)
    return Recording(y, torch.arange(256, dtype=torch.uint8)[:, None].expand(-1, 16), shown)


def heard(x: Tensor, frames: int, stft: STFT = SMALL) -> Tensor:
    """The number of the frame, by the level of the tone (..., T)."""
    power = x[..., 8].abs() / (stft.window_length / 2 * 2 / math.pi)
    return frames * (1 + power.log10())


def read(v: Tensor) -> Tensor:
    """The number in the picture (..., T)."""
    return v[..., 0] * 255


def test_sound_and_picture_of_a_crop_are_of_one_time() -> None:
    """To half a frame, at every frame of every crop; a shift by one would be seen."""
    for lead in (0, 1, -1):
        data = AVCrops([clock(200, lead), clock(120, lead)], SMALL, frames=20, batch_size=32)
        x, lengths, v = next(data.epoch(0))
        assert lengths is None
        assert x.shape == (32, 20, SMALL.bins)
        assert v.shape == (32, 20, 16)
        numbers = torch.stack([heard(x, 200), heard(x, 120)])
        late = (numbers - read(v)).abs().amax(-1).amin(0)  # of the recording that it comes of
        assert bool((late < 0.5).all()) == (lead == 0)
        assert bool((late > 0.5).all()) == (lead != 0)


def test_no_frame_sees_the_edge_of_its_crop(monkeypatch) -> None:
    """A crop's frames are the recording's own: its STFT is a part of the whole one's."""
    recording = Recording(torch.randn(4000), torch.arange(64, dtype=torch.uint8)[:, None], torch.arange(63))
    whole = SMALL(recording.signal)

    def same() -> bool:
        x, _, v = next(AVCrops([recording], SMALL, 10, 16).epoch(0))
        n = read(v).round().long()
        return bool((x - whole[n]).abs().max() < 1e-4)

    assert same()
    monkeypatch.setattr("pyrodvae.av_data.EDGE", 1)
    assert not same()  # the control


def test_crops_reach_from_the_first_whole_frame_to_the_last() -> None:
    recording = clock(40)
    data = AVCrops([recording], SMALL, 10, 2000)
    _, _, v = next(data.epoch(0))
    first = read(v)[:, 0].round()
    assert first.min() == EDGE
    assert first.max() == SMALL.frames(len(recording.signal)) - 1 - EDGE - 9
    counts = torch.bincount(first.long() - EDGE)
    assert (counts - counts.double().mean()).abs().max() < 5 * counts.double().mean().sqrt()


@pytest.mark.parametrize(("hops", "wanted"), [(8, 5), (5, 2), (13, 10)])
def test_short_recordings_come_with_their_lengths(hops: int, wanted: int) -> None:
    """And without pictures beyond them."""
    recording = clock(200)
    short = Recording(
        recording.signal[: hops * HOP], recording.pictures, recording.shown[: SMALL.frames(hops * HOP)]
    )
    _, lengths, v = next(AVCrops([short, recording], SMALL, 10, 400).epoch(0))
    there = ~v.isnan().any(-1)
    if wanted == 10:
        assert lengths is None
        assert bool(there.all())
        return
    assert lengths is not None
    assert set(lengths.tolist()) == {wanted, 10}
    assert torch.equal(there.sum(1), lengths)
    assert (read(v)[lengths == wanted][:, :wanted] == EDGE + torch.arange(wanted)).all()


def test_a_seed_gives_the_same_batches(recordings: list[Recording]) -> None:
    data = AVCrops(recordings, LONG, 20, 4, 12.0, corrupt_share=0.3, drop_share=0.2)
    a, b, c = (list(data.epoch(seed)) for seed in (1, 1, 2))
    assert len(a) == data.batches == round(sum(len(r.shown) for r in recordings) / 80)
    for one, same, other in zip(a, b, c, strict=True):
        assert torch.equal(one.x, same.x)
        assert torch.equal(one.v.nan_to_num(-1), same.v.nan_to_num(-1))
        assert not torch.equal(one.x, other.x)


def test_shares_of_pictures_are_corrupted_and_dropped(recordings: list[Recording]) -> None:
    """And the sound and the place of the crops stay what they are."""
    plain, hurt, holes = (
        next(AVCrops(recordings, LONG, 30, 16, **kind).epoch(5))
        for kind in ({}, {"corrupt_share": 0.3}, {"drop_share": 0.2})
    )
    assert torch.equal(plain.x, hurt.x)
    assert torch.equal(plain.x, holes.x)
    assert not plain.v.isnan().any()
    changed = (plain.v != hurt.v).any(-1)
    assert 0.15 < changed.double().mean() <= 0.3 + 1e-9
    missing = holes.v.isnan()
    assert torch.equal(missing.all(-1), missing.any(-1))
    assert missing.any(-1).sum(1).tolist() == [6] * 16
    assert torch.equal(holes.v[~missing], plain.v[~missing])


# --- recordings


@pytest.mark.parametrize("stft", [LONG, SMALL])
@pytest.mark.parametrize("rate", [RATE, 8000])
def test_silence_is_cut_from_both_alike(stft: STFT, rate: int) -> None:
    """Cut off, the video is the one of the very same frames: the spectrum says so."""
    rng = np.random.default_rng(0)
    y = np.concatenate([np.zeros(3333), 0.3 * rng.standard_normal(rate), np.zeros(rate)]).astype(np.float32)
    frames = stft.frames(len(y) * stft.sample_rate // rate)
    signal, shown = prepare_av(y[None], rate, torch.arange(frames), stft)
    assert len(shown) == stft.frames(len(signal)) < frames
    assert signal.abs().max() == 1
    all_of_it = stft(torch.from_numpy(resample(y, rate, stft.sample_rate)))
    whole = all_of_it[shown[EDGE:-EDGE]]
    part = stft(signal)[EDGE:-EDGE]
    scale = (whole.abs().square().sum() / part.abs().square().sum()).sqrt()
    assert (part * scale - whole).abs().max() < 1e-3 * whole.abs().max()
    late = all_of_it[shown[EDGE:-EDGE] + 1]
    assert (part * scale - late).abs().max() > 0.1 * whole.abs().max()  # the control
    if stft.hop == 256:  # as it is without a video
        assert torch.equal(signal, prepare(y[None], rate, stft))


def correlation(a: Tensor, b: Tensor) -> float:
    return float(torch.corrcoef(torch.stack([a, b]))[0, 1])


def test_recordings_are_those_that_were_written(folder: Path, recordings: list[Recording]) -> None:
    for i, r in enumerate(recordings):
        said = speak(1.5, i, 32)
        small = torch.nn.functional.interpolate(said.frames[None], (8, 8), mode="area")[0].flatten(1)
        assert r.pictures.dtype == torch.uint8
        assert r.pictures.shape == (38, 64)
        assert len(r.shown) == LONG.frames(len(r.signal))
        assert (r.video() - small[r.shown]).abs().mean() < 0.02
        assert (r.shown >= 0).all()
        dark = 0.7 - r.video().mean(-1)
        energy = LONG(r.signal).abs().square().sum(-1).add(1e-3).log()
        together = [correlation(dark[6:-6], energy.roll(-s)[6:-6]) for s in range(-6, 7)]
        assert max(together) - 0.1 < together[6]  # nothing is shifted by a picture or more
        assert min(together) < together[6] - 0.3


def test_recordings_that_cannot_be_used_are_named_with_a_reason(folder: Path, tmp_path: Path) -> None:
    for name in ("mouth000.flac", "mouth000.mp4"):
        (tmp_path / name).write_bytes((folder / name).read_bytes())
    y = speak(1.0).waveform.numpy()
    for name in ("alone", "broken", "mute", "short"):
        soundfile.write(tmp_path / f"{name}.wav", 0 * y if name == "mute" else y, RATE)
    (tmp_path / "broken.mp4").write_text("no video")
    said = speak(1.0, side=32)
    write_video(tmp_path / "mute.mp4", said.frames, said.times)
    write_video(tmp_path / "short.mkv", said.frames[:10], said.times[:10])
    with pytest.warns(UserWarning, match=r"short\.mkv ends 0\.60 s before the audio"):
        found, skipped = load_av(scan(tmp_path), LONG, 8)
    assert len(found) == 2
    reasons = {path.name: why for path, why in skipped}
    assert reasons.keys() == {"alone.wav", "broken.wav", "mute.wav"}
    assert "no video of the same name beside it" in reasons["alone.wav"]
    assert "broken.mp4 cannot be read as video" in reasons["broken.wav"]
    assert "is silent" in reasons["mute.wav"]
    short = found[1].video()
    assert 0.5 < short.isnan().any(-1).double().mean() < 0.65
    for name in ("mouth000.mp4", "short.mkv", "mute.mp4"):
        (tmp_path / name).unlink()
    with pytest.raises(AudioError, match=r"None of the 5 recordings can be used: .* has no video"):
        load_av(scan(tmp_path), LONG, 8)


def test_real_recordings_make_batches(data_dir: Path) -> None:
    corpus = scan(data_dir / "av", data_dir / "MANIFEST.tsv", "val")
    few = corpus.without([(path, "") for path in corpus.files[2:]])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found, skipped = load_av(few, LONG)
    assert skipped == []
    x, lengths, v = next(AVCrops(found, LONG, batch_size=8).epoch(0))
    assert lengths is None
    assert x.shape == (8, 50, 513)
    assert v.shape == (8, 50, 1024)
    assert not v.isnan().any()
    assert v.std() > 0.05
