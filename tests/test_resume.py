"""Training stops and goes on as if it had not, refuses what it should, and says what went wrong."""

from __future__ import annotations

import copy
import csv
import os
import re
import shutil
import signal
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from runs import EPOCHS, RATE, TINY, Stop, equal, fit, same, small_trainer, stop_at
from test_audio import disk_of

from pyrodvae.audio import AudioError
from pyrodvae.objective import find_nan
from pyrodvae.train import CHECKPOINT
from pyrodvae.trainer import Trainer, TrainingError
from pyrodvae.weights import WEIGHTS, load_run
from pyrodvae.whole import NotWritten

pytestmark = pytest.mark.usefixtures("small")

# --- stopping and going on


@pytest.mark.parametrize(("epoch", "batch"), [(2, 1), (3, 3)])
def test_a_stopped_run_goes_on_as_if_it_had_not_stopped(
    corpus: Path, tmp_path: Path, uninterrupted: Path, epoch: int, batch: int, monkeypatch
) -> None:
    with monkeypatch.context() as patch:
        stop_at(patch, epoch, batch)
        with pytest.raises(Stop):
            fit(corpus, tmp_path)
    assert not same(tmp_path, uninterrupted)
    torch.rand(5)  # whatever happened meanwhile
    fit(corpus, tmp_path, resume=True)
    assert same(tmp_path, uninterrupted)


def test_the_best_epoch_before_a_stop_is_still_the_best(corpus: Path, tmp_path: Path, monkeypatch) -> None:
    losses = iter([2.0, 1.0, 3.0, 4.0])
    monkeypatch.setattr("pyrodvae.trainer.validate", lambda *_: (next(losses), 0.0))
    with monkeypatch.context() as patch:
        stop_at(patch, 3, 1)
        with pytest.raises(Stop):
            fit(corpus, tmp_path)
    before = (tmp_path / WEIGHTS).read_bytes()
    fit(corpus, tmp_path, resume=True)
    assert (tmp_path / WEIGHTS).read_bytes() == before
    assert load_run(tmp_path).card["validation"]["epoch"] == 2


@pytest.mark.parametrize("forgotten", [torch.optim.Adam, torch.optim.lr_scheduler.OneCycleLR])
def test_going_on_without_the_state_of_the_optimiser_is_noticed(
    corpus: Path, tmp_path: Path, uninterrupted: Path, forgotten, monkeypatch
) -> None:
    with monkeypatch.context() as patch:
        stop_at(patch, 3, 1)
        with pytest.raises(Stop):
            fit(corpus, tmp_path)
    monkeypatch.setattr(forgotten, "load_state_dict", lambda *_: None)
    fit(corpus, tmp_path, resume=True)
    assert not same(tmp_path, uninterrupted)


def test_a_killed_run_goes_on(corpus: Path, tmp_path: Path, uninterrupted: Path, monkeypatch) -> None:
    child = os.fork()
    if child == 0:
        try:
            stop_at(monkeypatch, 3, 2, lambda _: os.kill(os.getpid(), signal.SIGKILL))
            fit(corpus, tmp_path)
        finally:
            os._exit(1)
    _, status = os.waitpid(child, 0)
    assert os.WIFSIGNALED(status)
    fit(corpus, tmp_path, resume=True)
    assert same(tmp_path, uninterrupted)


def test_a_checkpoint_that_was_being_written_is_not_lost(
    corpus: Path, tmp_path: Path, uninterrupted: Path, monkeypatch
) -> None:
    write, count = Path.write_bytes, []

    def half(path: Path, content: bytes) -> None:
        count.append(CHECKPOINT in path.name)
        write(path, content[:1000] if sum(count) == 3 else content)
        if sum(count) == 3:
            raise Stop

    with monkeypatch.context() as patch:
        patch.setattr(Path, "write_bytes", half)
        with pytest.raises(Stop):
            fit(corpus, tmp_path)
    fit(corpus, tmp_path, resume=True)
    assert same(tmp_path, uninterrupted)


def test_a_finished_run_stays_as_it_is(corpus: Path, tmp_path: Path, uninterrupted: Path) -> None:
    fit(corpus, tmp_path)
    assert same(tmp_path, uninterrupted)  # the seed decides everything
    assert fit(corpus, tmp_path, resume=True).epoch == EPOCHS
    assert same(tmp_path, uninterrupted)
    fit(corpus, tmp_path / "other", seed=1)
    assert not same(tmp_path / "other", uninterrupted)


def test_what_forbids_or_spares_going_on_is_told_before_the_corpus_is_read(
    tmp_path: Path, uninterrupted: Path
) -> None:
    nowhere, run = tmp_path / "nowhere", tmp_path / "run"
    shutil.copytree(uninterrupted, run)
    assert fit(nowhere, run, resume=True).best == fit(nowhere, run, resume=True).best
    assert same(run, uninterrupted)
    with pytest.raises(TrainingError, match="other settings"):
        fit(nowhere, run, resume=True, epochs=EPOCHS + 1)
    (run / WEIGHTS).unlink()
    with pytest.raises(TrainingError, match=f"has lost {WEIGHTS}, its best weights: train into a new folder"):
        fit(nowhere, run, resume=True)
    with pytest.raises(AudioError, match="nowhere is not a folder"):  # the control: it is read otherwise
        fit(nowhere, tmp_path / "new")
    assert not (tmp_path / "new").exists()


def test_a_run_that_was_stopped_in_its_first_epoch_can_be_begun_again(
    corpus: Path, tmp_path: Path, uninterrupted: Path, monkeypatch
) -> None:
    with monkeypatch.context() as patch:
        stop_at(patch, 1, 2)
        with pytest.raises(Stop):
            fit(corpus, tmp_path)
    assert list(tmp_path.iterdir()) == []
    fit(corpus, tmp_path)
    assert same(tmp_path, uninterrupted)


# --- refusing


def test_runs_are_not_overwritten_nor_mixed(corpus: Path, tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match=r"no checkpoint in .* to resume from"):
        fit(corpus, tmp_path, resume=True)
    fit(corpus, tmp_path, epochs=2)
    before = (tmp_path / CHECKPOINT).read_bytes()
    with pytest.raises(TrainingError, match="already holds a run: add --resume"):
        fit(corpus, tmp_path, epochs=2)
    with pytest.raises(TrainingError, match=r"other settings \(batch_size, beta\): resume with the same"):
        fit(corpus, tmp_path, epochs=2, beta=0.5, batch_size=2, resume=True)
    assert (tmp_path / CHECKPOINT).read_bytes() == before
    (tmp_path / CHECKPOINT).write_bytes(before[:1000])
    with pytest.raises(TrainingError, match=r"checkpoint\.pt is damaged .*: the run cannot go on, but"):
        fit(corpus, tmp_path, epochs=2, resume=True)


def test_a_checkpoint_with_something_else_in_it_is_damaged(
    tmp_path: Path, uninterrupted: Path, corpus: Path
) -> None:
    shutil.copytree(uninterrupted, tmp_path / "run")
    path = tmp_path / "run" / CHECKPOINT
    state = torch.load(path, weights_only=True)
    for content in (
        [1, 2],
        {},
        {**state, "settings": 3},
        {k: v for k, v in state.items() if k != "optimiser"},
        {**state, "model": {k: v[:1] for k, v in state["model"].items()}},
    ):
        torch.save(content, path)
        with pytest.raises(TrainingError, match=r"checkpoint\.pt is damaged or .* \(.+\): ") as error:
            fit(corpus, tmp_path / "run", resume=True)
        assert "\n" not in str(error.value)
    torch.save(state, path)
    fit(corpus, tmp_path / "run", resume=True)  # the control


@pytest.mark.parametrize("limit", [2_000, 15_000])
def test_a_full_disk_is_told_with_the_name_of_the_file(corpus: Path, tmp_path: Path, limit: int) -> None:
    with disk_of(limit), pytest.raises(NotWritten) as error:
        fit(corpus, tmp_path / "run")
    assert re.fullmatch(
        rf"{tmp_path}/run/[a-z]+\.[a-z]+ cannot be written: File too large\.", str(error.value)
    )
    assert not list(tmp_path.rglob(".*"))


def test_a_folder_that_cannot_be_written_is_told_before_the_recordings_are_read(
    corpus: Path, monkeypatch
) -> None:
    monkeypatch.setattr("pyrodvae.train.load", None)
    with pytest.raises(NotWritten, match=r"^/proc/run cannot be written: "):  # not even by root
        fit(corpus, Path("/proc/run"))


@pytest.mark.parametrize("other", [{"model": "vae"}, {"guide": "filter"}])
def test_another_model_is_refused_on_resuming(corpus: Path, tmp_path: Path, other: dict[str, str]) -> None:
    fit(corpus, tmp_path, epochs=1)
    with pytest.raises(TrainingError, match="other"):
        fit(corpus, tmp_path, **other, epochs=1, resume=True)


def test_bad_recordings_are_listed_and_skipped(corpus: Path, tmp_path: Path, uninterrupted: Path) -> None:
    folder, lines = tmp_path / "data", []
    folder.mkdir()
    for p in corpus.iterdir():
        (folder / p.name).write_bytes(p.read_bytes())
    (folder / "empty.wav").touch()
    soundfile.write(folder / "silent.wav", np.zeros(RATE), RATE)
    fit(folder, tmp_path / "run", log=lines.append)
    assert [row.split(":")[0] for row in lines[:2]] == [
        f"skipped {folder / n}.wav" for n in ("empty", "silent")
    ]
    assert lines[2].startswith("5 recordings, 0.0 minutes")
    table = (tmp_path / "run" / "manifest.tsv").read_text().splitlines()
    reasons = {Path(r["path"]).name: r["skipped"] for r in csv.DictReader(table, delimiter="\t")}
    assert len(reasons) == 8
    assert {k for k, v in reasons.items() if v} == {"empty.wav", "silent.wav"}
    assert same(tmp_path / "run", uninterrupted)  # they make no difference


def test_bad_recordings_for_validation_are_listed_too(corpus: Path, tmp_path: Path) -> None:
    val, lines = tmp_path / "val", []
    shutil.copytree(corpus, val)
    (val / "empty.wav").touch()
    soundfile.write(val / "silent.wav", np.zeros(RATE), RATE)
    fit(corpus, tmp_path / "run", val=val, epochs=1, log=lines.append)
    assert [row.split(":")[0] for row in lines[:2]] == [f"skipped {val / n}.wav" for n in ("empty", "silent")]
    assert lines[2].startswith("6 recordings, 0.0 minutes of speech; 6 held out")


def test_one_recording_is_not_enough(corpus: Path, tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "0.wav").write_bytes((corpus / "0.wav").read_bytes())
    with pytest.raises(TrainingError, match="at least two recordings"):
        fit(tmp_path / "data", tmp_path / "run")
    fit(tmp_path / "data", tmp_path / "run", val=corpus, epochs=1)


# --- not a number


def spoil_model(trainer: Trainer) -> None:
    trainer.model.head.output.bias.data[3] = torch.nan


def spoil_guide(trainer: Trainer) -> None:
    next(p for n, p in trainer.guide.named_parameters() if "from_x" in n).data[0] = torch.nan


@pytest.mark.filterwarnings("ignore:Encountered NaN")
@pytest.mark.parametrize(
    ("spoil", "site"), [(spoil_model, "x (given z)"), (spoil_guide, "z (drawn from the guide)")]
)
def test_not_a_number_stops_with_its_place(
    corpus: Path, tmp_path: Path, monkeypatch, spoil, site: str
) -> None:
    stop_at(monkeypatch, 3, 2, spoil)
    with pytest.raises(TrainingError) as error:
        fit(corpus, tmp_path)
    assert f"Not a number in epoch 3, batch 2: site {site}, sequence 0 of the batch, frame 0." in str(
        error.value
    )
    assert "the last good epoch is kept" in str(error.value)
    run = load_run(tmp_path)
    assert all(torch.isfinite(v).all() for v in (*run.model.state_dict().values(), *run.guide.parameters()))
    assert torch.load(tmp_path / CHECKPOINT, weights_only=True)["epoch"] == 2


@pytest.mark.filterwarnings("ignore:Encountered NaN")
def test_a_bad_batch_leaves_the_weights_alone() -> None:
    t = small_trainer()
    before = copy.deepcopy(t.model.state_dict())
    x = torch.randn(4, 10, TINY.bins, dtype=torch.cfloat)
    x[1, 3, 5] = torch.nan
    with pytest.raises(
        TrainingError, match=r"in here: site x \(its data\), sequence 1 of the batch, frame 3\."
    ):
        t.step((x, None), 1.0, "here")
    assert equal(dict(before), dict(t.model.state_dict()))
    assert "no single site" in find_nan(t.model, t.guide, torch.ones_like(x), None)
    t.step((torch.ones_like(x), None), 1.0, "here")
    assert not equal(dict(before), dict(t.model.state_dict()))
