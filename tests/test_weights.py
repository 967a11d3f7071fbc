"""Runs on disk: what is saved is what is loaded, and nothing else is."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from toys import PAIRS, D, F, H, spectra

from pyrodvae.signal import STFT
from pyrodvae.weights import CARD, WEIGHTS, WeightsError, base_card, load_run, make_pair, save_run

KEYS = [(m, g) for m, g in PAIRS if not m.startswith("toy")]


def save(folder: Path, key: str = "vae", guide: str = "paper", latent: int = D):
    """A run in a folder, its statistics taken from data."""
    m, g = make_pair(key, {"observed": F, "latent": latent, "hidden": H}, guide, {"hidden": H})
    x = spectra(dtype=torch.cfloat)
    m.fit_statistics(x)
    g.fit_statistics(x)
    save_run(folder, m, g, base_card(key, m, guide, g, STFT(window_length=8, hop=2)))
    return m, g


@pytest.mark.parametrize(("key", "guide"), KEYS)
def test_round_trip(tmp_path: Path, key: str, guide: str) -> None:
    m, g = save(tmp_path / "run", key, guide)
    run = load_run(tmp_path / "run")
    assert type(run.model) is type(m)
    assert run.guide.sees == g.sees
    assert run.stft == STFT(window_length=8, hop=2)
    for ours, theirs in ((m, run.model), (g, run.guide)):
        assert dict(ours.state_dict()).keys() == dict(theirs.state_dict()).keys()
        assert all(torch.equal(v, theirs.state_dict()[k]) for k, v in ours.state_dict().items())
        assert not any(p.requires_grad for p in theirs.parameters())
        ours.requires_grad_(False)  # frozen layers may run through other kernels: other roundings
    x = spectra(dtype=torch.cfloat)
    torch.manual_seed(1)
    q = g.posterior(x, shared=g.begin(x, None))
    wanted = q.rsample()
    torch.manual_seed(1)
    w = run.guide.begin(x, None)
    assert torch.equal(run.guide.posterior(x, shared=w).rsample(), wanted)
    other = run.guide.posterior(1.1 * x, shared=w)
    assert not torch.equal(other.along(wanted).mean, q.along(wanted).mean)
    assert {p.name for p in (tmp_path / "run").iterdir()} == {WEIGHTS, CARD}


def test_saving_again_replaces_in_one_step(tmp_path: Path, monkeypatch) -> None:
    save(tmp_path)
    before = (tmp_path / WEIGHTS).read_bytes()

    def fail(*_: object) -> None:
        raise OSError("no space")

    monkeypatch.setattr("os.replace", fail)
    with pytest.raises(OSError, match="no space"):
        save(tmp_path)
    assert (tmp_path / WEIGHTS).read_bytes() == before
    monkeypatch.undo()
    save(tmp_path)
    assert (tmp_path / WEIGHTS).read_bytes() != before
    load_run(tmp_path)


def damage(folder: Path, how: str) -> None:
    weights, card = folder / WEIGHTS, folder / CARD
    tensors = load_file(weights)
    settings = json.loads(card.read_text())
    if how == "cut":
        weights.write_bytes(weights.read_bytes()[:-20])
    elif how == "empty":
        weights.write_bytes(b"")
    elif how == "noise":
        weights.write_bytes(b"\xff" * 500)
    elif how == "tensor missing":
        save_file({k: v for k, v in tensors.items() if k != "guide.from_x.bias"}, weights)
    elif how == "tensor too many":
        save_file({**tensors, "model.other": torch.zeros(2)}, weights)
    elif how == "card cut":
        card.write_text(card.read_text()[:-30])
    elif how == "card binary":
        card.write_bytes(b"\xff\xfe\x00")
    elif how == "card is a list":
        card.write_text("[]")
    elif how == "no card":
        card.unlink()
    elif how == "no weights":
        weights.unlink()
    else:
        name, value = how.split("=")
        card.write_text(json.dumps({**settings, name: json.loads(value)}))


@pytest.mark.parametrize(
    ("how", "sentence"),
    [
        ("cut", "weights.safetensors is damaged"),
        ("empty", "weights.safetensors is damaged"),
        ("noise", "weights.safetensors is damaged"),
        ("tensor missing", r"another model or configuration: guide.from_x.bias does not fit \(1 such"),
        ("tensor too many", r"another model or configuration: model.other does not fit \(1 such"),
        ("card cut", "card.json is damaged"),
        ("card binary", "card.json is damaged"),
        ("card is a list", "card.json is damaged"),
        ("no card", "neither a model key .* nor the folder of a run"),
        ("no weights", "neither a model key .* nor the folder of a run"),
        ('model="rvae"', "card.json: The model 'rvae' refuses its configuration"),
        ('model="no"', "No model is called 'no'; there are: vae, "),
        ('guide="smoother"', "another model or configuration: guide."),
        ('guide="no"', "No guide is called 'no'"),
        ('config={"observed": 9, "latent": 2, "hidden": 4}', "another model or configuration: model.head"),
        ('config={"depth": 9}', "refuses its configuration: .*unexpected keyword argument 'depth'"),
        ('guide_config={"hidden": 9}', "another model or configuration: guide."),
        ("guide_config=9", r"card\.json is damaged or cannot be read \(.+\): take a whole copy of the run"),
        ('config={"latent": "two"}', "card.json: The model 'vae' refuses its configuration"),
        ('config={"latent": -2}', r"card\.json is damaged or cannot be read \(.+\): take a whole copy"),
        ("model=[1]", r"card\.json is damaged or cannot be read \(.+\): take a whole copy of the run"),
        ('stft={"hop": 0}', r"card\.json is damaged or cannot be read \(STFT needs positive sizes"),
    ],
)
def test_damaged_or_foreign_runs_are_refused_in_a_sentence(tmp_path: Path, how: str, sentence: str) -> None:
    save(tmp_path)
    load_run(tmp_path)  # the control
    damage(tmp_path, how)
    with pytest.raises(WeightsError, match=sentence) as error:
        load_run(tmp_path)
    assert "\n" not in str(error.value)


def test_a_folder_that_is_no_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match="neither a model key"):
        load_run(tmp_path / "missing")


def test_weights_that_are_not_shipped_are_refused(tmp_path: Path, monkeypatch) -> None:
    save(tmp_path / "rvae")
    monkeypatch.setattr("pyrodvae.weights.SHIPPED", tmp_path)
    with pytest.raises(WeightsError, match="no weights for 'vae', only for rvae: train your own"):
        load_run("vae")
