"""Models that are given video are measured with the one beside each recording."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from pyrodvae.evaluate import System, evaluate
from pyrodvae.synthetic_av import write_corpus
from pyrodvae.trials import clean_speech


@pytest.fixture
def corpus(tmp_path) -> Path:
    write_corpus(tmp_path, recordings=3, seconds=0.6, side=16)
    return tmp_path


def listening(seen: list[Path | None], seeing: bool) -> System:
    def process(x: np.ndarray, seed: int, video: Path | None = None) -> np.ndarray:
        seen.append(video)
        return x

    return System("m", "s", "", process, seeing)


def test_the_video_beside_a_recording_is_handed_on(corpus: Path) -> None:
    trials = clean_speech(corpus)
    seen: list[Path | None] = []
    assert not evaluate([listening(seen, True)], trials, metrics=["si_sdr"]).failed
    assert seen == [corpus / Path(trial.file).with_suffix(".mp4") for trial in trials]
    blind: list[Path | None] = []
    evaluate([listening(blind, False)], trials, metrics=["si_sdr"])
    assert blind == [None] * 3


def test_a_recording_without_a_video_has_none(corpus: Path) -> None:
    gone = next(corpus.rglob("*.mp4"))
    gone.unlink()
    videos = [trial.video for trial in clean_speech(corpus)]
    assert sum(video is None for video in videos) == 1
