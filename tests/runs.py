"""Small training runs, and ways to stop them, that two test files share."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch

from pyrodvae.data import Crops
from pyrodvae.signal import STFT
from pyrodvae.train import CHECKPOINT, train
from pyrodvae.trainer import TrainConfig, Trainer
from pyrodvae.weights import CARD, WEIGHTS, make_pair

RATE, EPOCHS = 16_000, 4
TINY = STFT(window_length=128, hop=32)
CONFIG = TrainConfig(epochs=EPOCHS, batch_size=16, frames=20, hidden=6, latent=2, warmup=2)


@pytest.fixture(scope="session")
def corpus(tmp_path_factory) -> Path:
    """Six recordings of half a second: harmonics that come and go."""
    folder = tmp_path_factory.mktemp("corpus")
    t = np.arange(RATE // 2) / RATE
    for i in range(6):
        voice = sum(np.sin(2 * np.pi * (300 + 90 * i) * k * t) / k for k in range(1, 9))
        hiss = np.random.default_rng(i).standard_normal(len(t))
        y = 0.2 * voice * (np.sin(2 * np.pi * (3 + i) * t) > 0) + 2e-4 * hiss
        soundfile.write(folder / f"{i}.wav", y, RATE)
    return folder


def shrink(patch: pytest.MonkeyPatch) -> None:
    """Short windows, and no curves (they take longer than all the rest)."""
    patch.setattr("pyrodvae.train.STFT", lambda: TINY)
    patch.setattr("pyrodvae.plots.plot_history", lambda *_: None)


@pytest.fixture
def small(monkeypatch) -> None:
    """All runs of a test are small."""
    shrink(monkeypatch)


def fit(corpus: Path, out: Path, model: str = "rvae-causal", resume: bool = False, **changes: Any) -> Trainer:
    """Train with some settings (or options of ``train``) changed."""
    options = {k: changes.pop(k) for k in ("guide", "log", "val") if k in changes}
    return train(model, corpus, out, config=replace(CONFIG, **changes), resume=resume, **options)


@pytest.fixture(scope="session")
def uninterrupted(corpus: Path, tmp_path_factory) -> Path:
    """A run that nothing stopped."""
    out = tmp_path_factory.mktemp("run")
    with pytest.MonkeyPatch.context() as patch:
        shrink(patch)
        fit(corpus, out)
    return out


class Stop(BaseException):
    """As sudden as a key or a signal."""


def stop_at(monkeypatch, epoch: int, batch: int, how=None) -> None:
    """Let a run end in the middle of an epoch."""
    step = Trainer.step

    def stopping(self, arguments, beta, where):
        if where == f"epoch {epoch}, batch {batch}":
            if how:
                how(self)
            else:
                raise Stop
        return step(self, arguments, beta, where)

    monkeypatch.setattr(Trainer, "step", stopping)


def equal(a: Any, b: Any) -> bool:
    """Whether two nests of tensors are equal, bit for bit."""
    if isinstance(a, torch.Tensor):
        return torch.equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(equal(a[k], b[k]) for k in a)
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(map(equal, a, b))
    return a == b


def same(a: Path, b: Path) -> bool:
    """Bit for bit: weights, card, history, and all that is needed to go on."""
    states = [torch.load(p / CHECKPOINT, weights_only=True) for p in (a, b)]
    files = all((a / n).read_bytes() == (b / n).read_bytes() for n in (WEIGHTS, CARD, "history.csv"))
    return files and equal(*states)


def small_trainer(config: TrainConfig = CONFIG, model: str = "vae") -> Trainer:
    """A trainer without any files."""
    pair = make_pair(model, {"observed": TINY.bins, "latent": 2, "hidden": 3}, "paper", {"hidden": 3})
    data = Crops([0.1 * torch.randn(4000)], TINY, 10, 4)
    return Trainer(*pair, data, data, config)
