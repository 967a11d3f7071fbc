"""Recordings of several windows: each window has the pictures that belong to it, of arrays and of files."""

from __future__ import annotations

import importlib
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from small_runs import save_sound, sound
from torch import Tensor

from pyrodvae.enhance_config import EnhanceConfig
from pyrodvae.files import Job, transform_file, transform_files, with_videos
from pyrodvae.posterior import Posterior
from pyrodvae.signal import STFT
from pyrodvae.video import align, read_video
from pyrodvae.video_file import pictures, write_video
from pyrodvae.video_for import Excerpt, video_for
from pyrodvae.weights import Run, base_card, make_pair

ENHANCE = importlib.import_module("pyrodvae.enhance")  # the package's name of it is the function
FRONT, SIDE = STFT(), 8
RATE, PICTURES = FRONT.sample_rate, 25


def film(path: Path, seconds: float, codec: str = "libx264") -> Path:
    """Every picture has a grey of its own."""
    n = round(seconds * PICTURES)
    grey = (torch.arange(n) / n)[:, None, None].expand(n, 16, 16)
    write_video(path, grey, torch.arange(n, dtype=torch.double) / PICTURES, codec)
    return path


def lips_of(path: Path | Excerpt, samples: int) -> tuple[Tensor, tuple[str, ...]]:
    """As a model would be given them; and what is told."""
    run: Any = SimpleNamespace(
        model=SimpleNamespace(video=SIDE**2, z_0=torch.zeros(1)), card={"model": "av-vae"}, stft=FRONT
    )
    v, told = video_for(run, path, FRONT.frames(samples), samples)
    assert v is not None
    return v, told


@pytest.mark.parametrize(("name", "codec"), [("a.mkv", "ffv1"), ("a.mp4", "libx264"), ("a.mkv", "libx264")])
def test_an_excerpt_is_what_the_whole_has_there(tmp_path: Path, name: str, codec: str) -> None:
    """Also from between two key frames, and to the end; of a start one picture later the frames differ."""
    path, total = film(tmp_path / name, 12, codec), 12 * RATE
    whole, _ = align(read_video(path, SIDE), FRONT, total)
    for first, last in ((0, 100), (150, 260), (610, 700), (640, whole.shape[0] - 1)):
        start, end = (t / FRONT.frame_rate for t in (first, last))
        samples = round((end - start) * RATE)
        v, told = lips_of(Excerpt(path, start, end), samples)
        frames = slice(first, first + FRONT.frames(samples) - 1)  # the last is centred on the end
        torch.testing.assert_close(v[: frames.stop - first], whole[frames], rtol=0, atol=0)
        assert told == ()
        late, _ = lips_of(Excerpt(path, start + 1 / PICTURES, end), samples)
        assert not torch.equal(late[: frames.stop - first], whole[frames])


def test_only_the_pictures_of_an_excerpt_are_decoded(tmp_path: Path) -> None:
    path = film(tmp_path / "a.mkv", 20, "ffv1")  # every picture is a key frame
    after = [time for time, _ in pictures(path, [], 15.0)]
    assert 14.5 < after[0] <= 15.0
    assert after == [time for time, _ in pictures(path, [])][-len(after) :]
    assert len(read_video(path, SIDE, span=(5, 7)).frames) == 3 * PICTURES  # a second ahead, and two


def test_where_a_video_has_ended_lips_are_missing(tmp_path: Path) -> None:
    v, told = lips_of(Excerpt(film(tmp_path / "a.mp4", 2), 10.0, 12.0), 2 * RATE)
    assert v.isnan().all()
    assert any("ends" in sentence for sentence in told)
    gone = read_video(tmp_path / "a.mp4", SIDE, "face", (10.0, 12.0))
    assert gone.frames.isnan().all()
    assert gone.times.tolist() == [0.0]


def test_a_long_file_and_its_video_are_cut_alike(tmp_path: Path, monkeypatch) -> None:
    """Segment by segment, v is the part of the whole v; with the video of the segment before it is not."""
    seconds, window, shared = 6.0, 2.0, 0.5
    y = save_sound(tmp_path / "a.wav", seconds)
    path = film(tmp_path / "a.mp4", seconds)
    (job,) = with_videos([Job(y, tmp_path / "b.wav")], [y], path)
    whole, _ = align(read_video(path, SIDE), FRONT, round(seconds * RATE))
    seen: list[Tensor] = []

    def listen(segment: np.ndarray, rate: int, each: Any, video: Path | Excerpt | None = None) -> np.ndarray:
        assert video is not None
        seen.append(lips_of(video, segment.shape[-1])[0])
        return segment

    monkeypatch.setitem(transform_file.__kwdefaults__, "window", window)
    monkeypatch.setitem(transform_file.__kwdefaults__, "shared", shared)
    assert transform_files([job], listen) == []
    assert len(seen) == 4
    for i, v in enumerate(seen):
        nearest = round(i * (window - shared) * FRONT.frame_rate)
        inner = slice(2, len(v) - 2)  # segments do not start on frames of the whole: up to a picture's edge
        part = whole[nearest : nearest + len(v)]
        same = (v[inner] - part[inner]).abs().amax(-1) < 1e-6
        assert same.float().mean() > 0.7
        if i:
            earlier = (seen[i - 1][inner] - part[inner]).abs().amax(-1) < 1e-6
            assert earlier.float().mean() < 0.1


def test_windows_of_a_long_waveform_have_their_frames_of_v(monkeypatch) -> None:
    """A recording of a second, repeated: every window of enhance is given v from its own first frame on."""
    monkeypatch.setattr(ENHANCE, "WINDOW_SECONDS", 2.0)
    monkeypatch.setattr(ENHANCE, "SHARED_SECONDS", 0.5)
    torch.manual_seed(0)
    m, g = make_pair(
        "min-vae", {"observed": 513, "latent": 2, "hidden": 4, "video": SIDE**2}, "paper", {"hidden": 4}
    )
    run = Run(m, g, FRONT, base_card("min-vae", m, "paper", g, FRONT))
    y = np.tile(sound(1.0), 7)
    v = torch.rand(FRONT.frames(y.shape[-1]), SIDE**2)
    seen: list[Tensor] = []
    inner = ENHANCE.enhance_spectrum

    def spy(x: Tensor, *args: Any, v: Tensor) -> Posterior:
        seen.append(v)
        assert v.shape[:2] == x.shape[:2]
        return inner(x, *args, v=v)

    monkeypatch.setattr(ENHANCE, "enhance_spectrum", spy)
    config = EnhanceConfig(iterations=2, noise_rank=2)
    result = ENHANCE.enhance(y, sample_rate=RATE, model=run, video=v, config=config)
    assert len(seen) > 3
    assert max(part.shape[1] for part in seen) <= 2 * FRONT.frame_rate
    for (start, _), part in zip(result._windows, seen, strict=True):
        assert torch.equal(part[0], v[start : start + part.shape[1]])
    assert not torch.equal(seen[1], seen[0])
    assert np.isfinite(result.speech).all()
    assert result.responsibility.shape == (1, len(v))
