"""The graph of a trained pair, and what new guides reach beside its model."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch
from small_runs import save_small_run, save_sound

from pyrodvae import graph_command
from pyrodvae.cli import main
from pyrodvae.graph_cost import arrow_cost, guides_beside, state_space, trained_cost
from pyrodvae.models.kalman import Kalman
from pyrodvae.signal import STFT
from pyrodvae.weights import Run, make_pair

FRAMES, SIZES = 6, {"hidden": 16}


def test_guides_beside_a_kalman_model_lose_what_their_arrows_cost() -> None:
    """The exact one nothing, the others their gap and little more; untrained ones (the control) far more."""
    model, guide = make_pair("kalman", {"observed": 3, "latent": 2})
    assert isinstance(model, Kalman)
    joint = state_space(model.requires_grad_(False).exact(torch.double), FRAMES)
    run, x = Run(model, guide, STFT(), {}), joint.sample(400).float()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    batches = [(part, None) for part in x.split(50)]
    keys = ("meanfield", "compliant")
    rate = {"learning_rate": 0.02, "sizes": SIZES}
    exact = guides_beside(run, lambda: batches, 1, ("paper",))
    held = joint.sample(100, seed=1).float()
    cost = trained_cost(exact | guides_beside(run, lambda: batches, 150, keys, **rate), held)
    evidence = joint.log_evidence(held).mean() / FRAMES
    assert float(cost.elbo[0]) == pytest.approx(float(evidence), abs=0.03)
    gap = arrow_cost(joint, held, cost.sights).measured
    lost = cost.behind - gap
    assert (lost > -4 * cost.error - 0.03).all()
    assert (lost < 0.2).all()
    assert gap[1] > 0.1  # what is lost without the arrows is more than what training leaves
    untrained = trained_cost(exact | guides_beside(run, lambda: batches, 1, keys, **rate), held)
    assert (untrained.behind - gap)[1:].min() > 0.5
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_every_guide_has_the_same_batches_and_chance_is_kept() -> None:
    run = Run(*make_pair("vae", {"observed": 5, "latent": 2}), STFT(), {})
    x = torch.randn(4, 3, 5, dtype=torch.cfloat)
    state = torch.get_rng_state()
    one, other = (guides_beside(run, lambda: [(x, None)], 3, ("meanfield",), sizes=SIZES) for _ in range(2))
    assert torch.equal(torch.get_rng_state(), state)
    for name, value in one["meanfield"].guide.state_dict().items():
        assert torch.equal(value, other["meanfield"].guide.state_dict()[name])
    ticks: list[tuple[str, int]] = []
    guides_beside(run, lambda: [(x, None)], 12, ("filter",), sizes=SIZES, each=lambda *at: ticks.append(at))
    assert ticks == [("filter", 10), ("filter", 12)]
    with pytest.raises(ValueError, match="one step or more, not 0"):
        guides_beside(run, lambda: [(x, None)], 0)


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.chdir(tmp_path)
    save_small_run(tmp_path / "run", "dkf")
    return "run"


def test_the_verdict_on_a_run_is_that_of_its_own_pair(run: str, capsys) -> None:
    assert main(["graph", run, "--frames", "3"]) == 0
    text = capsys.readouterr().out
    assert "guide      paper: DKFGuide is compliant: q(z_t | z_{t-1}, x_{t:T})." in text
    assert main(["graph", run, "--frames", "3", "--guide", "meanfield", "-o", "g.svg"]) == 0
    assert "misses z_{t-1} and x_{>t}" in capsys.readouterr().out
    assert Path("g.svg").read_text().count("dkf of run, guide meanfield")


def test_costs_on_speech(run: str, capsys, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(graph_command, "HELD", 3)
    for i in range(3):
        save_sound(Path(f"speech/{i}.wav"), 1.0, seed=i)
    options = ["--cost", "--data", "speech", "--steps", "1", "--frames", "3", "-o", "costs.png"]
    assert main(["graph", run, *options]) == 0
    table = capsys.readouterr().out.split("Validation ELBO in nats per frame:\n")[1].splitlines()
    assert {line.split("  ")[0] for line in table[1:]} == {
        "as trained",
        "paper",
        "compliant",
        "meanfield",
        "filter",
        "smoother",
    }
    assert all(re.search(r" -?\d+\.\d{4}  +\d+\.\d{4} ± ", line) for line in table[1:])
    assert Path("costs.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (["dkf", "--frames", "1000"], "--frames 1000 would show no more than 50 do"),
        (["run", "--cost", "--data", "speech", "--steps", "0"], "--steps are 1 or more, not 0."),
        (["no"], "'no' is neither a model key ("),
        (["run", "--guide", "no"], "No guide is called 'no'; there are: paper, "),
        (["run", "--data", "speech"], "--data is what guides are trained on to find their --cost"),
        (["run", "--cost", "--manifest", "m.tsv"], "--manifest selects recordings of --data"),
        (["run", "--cost", "--data", "speech"], "speech is not a folder."),
        (["run", "--cost", "--data", "speech", "--split", "val"], "--split needs the --manifest"),
        (["storn", "--cost", "--data", "speech"], "The package ships no weights for 'storn'"),
        (["dkf", "-o", "g.txt"], "'g.txt' says not what to draw: end it in .png or .svg or .html."),
        (["dkf", "-o", "no/g.png"], "no/g.png cannot be written: its folder does not exist."),
        (["dkf", "--cost", "-o", "g.html"], "'g.html' says not what to draw: end it in .png or .svg."),
    ],
)
def test_graphs_that_are_refused(run: str, capsys, options: list[str], sentence: str) -> None:
    """Before anything is printed, where it is the options that are wrong."""
    assert main(["graph", *options]) == 1
    assert capsys.readouterr().err.startswith(f"pyrodvae: error: {sentence}")
