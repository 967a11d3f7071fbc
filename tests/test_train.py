"""Training: it learns, and keeps the best."""

from __future__ import annotations

import copy
import csv
import json
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from runs import RATE, TINY, Stop, equal, fit, same, small_trainer, stop_at
from toys import BLIND

from pyrodvae.objective import terms
from pyrodvae.train import CHECKPOINT
from pyrodvae.trainer import TrainConfig, validate
from pyrodvae.weights import CARD, WEIGHTS, WeightsError, load_run

pytestmark = pytest.mark.usefixtures("small")

# --- learning


@pytest.mark.parametrize("objective", ["analytic", "sampled"])
@pytest.mark.parametrize("model", [key for key in BLIND if key != "kalman"])  # that is not of speech
def test_training_lowers_the_loss(corpus: Path, tmp_path: Path, model: str, objective: str) -> None:
    def losses(rate: float) -> list[float]:
        options = {"objective": objective, "warmup": 0, "epochs": 3, "batch_size": 4, "learning_rate": rate}
        # (On the corpus learned from: one held-out tone, of another pitch than all others, says little.)
        return [row["train_loss"] for row in fit(corpus, tmp_path / str(rate), model, **options).history]

    assert losses(1e-2)[-1] < losses(1e-9)[-1] - 20  # the same crops in the same epoch


def test_what_a_run_leaves_behind(uninterrupted: Path) -> None:
    assert {p.name for p in uninterrupted.iterdir()} == {
        WEIGHTS,
        CARD,
        CHECKPOINT,
        "history.csv",
        "manifest.tsv",
    }
    rows = list(csv.DictReader((uninterrupted / "history.csv").read_text().splitlines()))
    assert [int(r["epoch"]) for r in rows] == [1, 2, 3, 4]
    assert [float(r["beta"]) for r in rows] == [0.0, 0.5, 1.0, 1.0]
    for r in rows:
        assert float(r["val_loss"]) == float(r["val_nll"]) + float(r["val_kl"])
    run = load_run(uninterrupted)
    assert run.stft == TINY
    assert run.card["training"]["recordings"] == 5
    assert run.card["training"]["seed"] == 0


def test_curves_are_drawn(corpus: Path, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.undo()
    monkeypatch.setattr("pyrodvae.train.STFT", lambda: TINY)
    fit(corpus, tmp_path, "vae", epochs=1)
    assert (tmp_path / "curves.png").stat().st_size > 10_000


@pytest.mark.parametrize(
    ("beta", "warmup", "wanted"),
    [(1.0, 0, [1, 1, 1]), (0.5, 2, [0, 0.25, 0.5, 0.5]), (0.01, 50, [0, 0.0002]), (0.0, 3, [0, 0, 0, 0])],
)
def test_weight_of_the_kl_rises_linearly(beta: float, warmup: int, wanted: list[float]) -> None:
    trainer = small_trainer(TrainConfig(beta=beta, warmup=warmup, hidden=3, latent=2))
    assert [trainer.beta(e) for e in range(len(wanted))] == pytest.approx(wanted)
    assert trainer.beta(1000) == beta


def test_a_step_reads_its_loss_without_the_graph(monkeypatch) -> None:
    read = []
    monkeypatch.setattr(
        torch.Tensor, "__float__", lambda self: read.append(self.requires_grad) or self.detach().item()
    )
    small_trainer().step((torch.ones(4, 10, TINY.bins, dtype=torch.cfloat), None), 1.0, "here")
    assert read
    assert not any(read)


def test_validation_is_the_same_every_time_and_costs_no_chance() -> None:
    t = small_trainer()
    torch.manual_seed(4)
    wanted = torch.rand(3)
    torch.manual_seed(4)
    first = validate(t.model, t.guide, t.validation, 0)
    assert torch.equal(torch.rand(3), wanted)
    assert validate(t.model, t.guide, t.validation, 0) == first
    assert validate(t.model, t.guide, t.validation, 1) != first


def test_validation_is_a_mean_over_real_frames() -> None:
    t = small_trainer()
    crops = replace(t.validation, signals=[0.1 * torch.randn(n) for n in (300, 350)])
    nll = kl = frames = 0.0
    torch.manual_seed(3)
    for x, lengths in crops.epoch(3):
        log_p, divergence = terms(t.model, t.guide, x, lengths)
        assert lengths is not None
        nll, kl, frames = nll - log_p.sum(), kl + divergence.sum(), frames + lengths.sum()
    wanted = pytest.approx((float(nll.detach() / frames), float(kl.detach() / frames)))
    assert validate(t.model, t.guide, crops, 3) == wanted
    assert validate(t.model, t.guide, t.validation, 3) != wanted


def test_a_step_does_not_look_at_padding() -> None:
    def step(x: torch.Tensor) -> float:
        torch.manual_seed(1)
        return small_trainer().step((x, torch.tensor([10, 4, 7, 2])), 1.0, "here")

    x = torch.randn(4, 10, TINY.bins, dtype=torch.cfloat)
    padded, real = x.clone(), x.clone()
    padded[1, 4:] = 9
    real[1, 3] = 9
    assert step(padded) == step(x) != step(real)


def test_best_weights_are_kept_not_the_last(corpus: Path, tmp_path: Path, monkeypatch) -> None:
    losses, states = iter([3.0, 1.0, 2.0, 5.0]), []

    def rising(model, guide, crops, seed) -> tuple[float, float]:
        states.append(copy.deepcopy(model.state_dict()))
        return next(losses), 0.0

    monkeypatch.setattr("pyrodvae.trainer.validate", rising)
    fit(corpus, tmp_path)
    kept = load_run(tmp_path).model.state_dict()
    assert [equal(dict(kept), dict(s)) for s in states] == [False, True, False, False]
    assert json.loads((tmp_path / CARD).read_text())["validation"]["epoch"] == 2


@pytest.mark.parametrize(("warmup", "wanted"), [(0, 3), (2, 4)])
def test_patience_counts_from_the_best_epoch_after_the_warmup(
    corpus: Path, tmp_path: Path, monkeypatch, warmup: int, wanted: int
) -> None:
    losses = iter([3.0, 4.0, 5.0, 6.0, 7.0, 8.0])
    monkeypatch.setattr("pyrodvae.trainer.validate", lambda *_: (next(losses), 0.0))
    assert fit(corpus, tmp_path, patience=2, warmup=warmup, epochs=6).epoch == wanted + (warmup > 0)


# --- starting from weights


def other_corpus(folder: Path) -> Path:
    """The same sort of recordings, a hundred times brighter: statistics of their own would differ."""
    folder.mkdir()
    for i in range(3):
        y = np.random.default_rng(i).standard_normal(RATE // 2)
        soundfile.write(folder / f"{i}.wav", 0.1 * y, RATE)
    return folder


def test_a_run_starts_from_the_weights_of_another(tmp_path: Path, uninterrupted: Path) -> None:
    data, before = other_corpus(tmp_path / "data"), load_run(uninterrupted)
    given = {**before.model.state_dict(), **before.guide.state_dict()}

    def distance(name: str, **options) -> float:
        """How far the weights are from those of the run before, at a learning rate of next to nothing."""
        fit(data, tmp_path / name, epochs=1, learning_rate=1e-12, **options)
        run = load_run(tmp_path / name)
        after = {**run.model.state_dict(), **run.guide.state_dict()}
        return max(float((after[k] - v).abs().max()) for k, v in given.items())

    assert distance("tuned", start=str(uninterrupted)) < 1e-6
    assert distance("fresh") > 0.5  # the control
    card = json.loads((tmp_path / "tuned" / CARD).read_text())
    assert card["training"]["start"] == str(uninterrupted)


def test_a_run_that_started_from_weights_is_resumed_exactly(
    tmp_path: Path, uninterrupted: Path, monkeypatch
) -> None:
    data = other_corpus(tmp_path / "data")
    fit(data, tmp_path / "whole", start=str(uninterrupted))
    with monkeypatch.context() as patch:
        stop_at(patch, 3, 1)
        with pytest.raises(Stop):
            fit(data, tmp_path / "cut", start=str(uninterrupted))
    fit(data, tmp_path / "cut", start=str(uninterrupted), resume=True)
    assert same(tmp_path / "whole", tmp_path / "cut")


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"model": "rvae"}, "its model is rvae-causal, and rvae is asked for."),
        ({"guide": "filter"}, "its guide is paper, and filter is asked for."),
        ({"latent": 3}, "its latent is 2, and 3 is asked for."),
        ({"hidden": 5}, "its hidden is 6, and 5 is asked for."),
        ({"start": "vae"}, "its model is vae, and rvae-causal is asked for."),
        ({"start": "nowhere"}, "'nowhere' is neither a model key"),
    ],
)
def test_weights_that_do_not_fit_are_no_start(
    corpus: Path, tmp_path: Path, uninterrupted: Path, changes: dict, sentence: str
) -> None:
    with pytest.raises(WeightsError, match=re.escape(sentence)):
        fit(corpus, tmp_path / "run", **{"start": str(uninterrupted), **changes})
    assert not (tmp_path / "run").exists()


def test_a_front_end_that_does_not_fit_is_no_start(
    corpus: Path, tmp_path: Path, uninterrupted: Path, monkeypatch
) -> None:
    monkeypatch.setattr("pyrodvae.train.STFT", lambda: replace(TINY, hop=64))
    with pytest.raises(WeightsError, match="its hop is 32, and 64 is asked for"):
        fit(corpus, tmp_path / "run", start=str(uninterrupted))


def test_scheduled_sampling_ends_in_a_model_on_its_own(corpus: Path, tmp_path: Path, small) -> None:
    """The share rises from 0 to 1; only epochs on its own are compared, and the card keeps the share."""
    t = fit(corpus, tmp_path / "run", "srnn", own_from=1, own_until=3, epochs=5)
    assert [t.own_share(epoch) for epoch in range(5)] == [0, 0, 0.5, 1, 1]
    assert t.best[1] >= 3
    run = load_run(tmp_path / "run")
    assert run.model.own_share == 1
    assert not run.model.feedback
    for settings, sentence in (
        ({"own_from": 3, "own_until": 3}, "has to come after"),
        ({"own_from": -1}, "cannot be negative"),
        ({"own_until": 5, "epochs": 5}, r"own_until \(5\) has to be at most epochs - 1 \(4\)"),
    ):
        with pytest.raises(ValueError, match=sentence):
            fit(corpus, tmp_path / "no", "srnn", **settings)
    with pytest.raises(ValueError, match="no VAE reads its own output"):
        fit(corpus, tmp_path / "vae", "vae", own_until=2)


def test_a_model_of_real_vectors_is_not_trained_on_speech(corpus: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="a model of real vectors, not of speech: fit it to arrays with"):
        fit(corpus, tmp_path / "run", "kalman")
    assert not (tmp_path / "run").exists()
