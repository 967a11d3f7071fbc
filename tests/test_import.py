"""Published weights on the command line: imported, and then used like any others."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from test_published import Given

from pyrodvae.cli import main
from pyrodvae.published import translate
from pyrodvae.weights import load_run


@pytest.fixture(scope="module")
def noisy(tmp_path_factory) -> Path:
    """Half a second of harmonics in noise."""
    t = np.arange(8000) / 16_000
    y = sum(np.sin(2 * np.pi * 140 * k * t) / k for k in range(1, 20))
    path = tmp_path_factory.mktemp("sound") / "noisy.wav"
    soundfile.write(path, 0.1 * y + 0.02 * np.random.default_rng(0).standard_normal(len(t)), 16_000)
    return path


def checkpoint(golden_dir: Path, name: str) -> tuple[str, str]:
    folder = golden_dir / "checkpoints" / name
    return str(next(folder.glob("*.pt"))), str(folder / "config.ini")


@pytest.mark.parametrize(
    ("name", "key"),
    [
        ("wsj_vae", "vae"),
        ("wsj_dkf", "dkf"),
        ("wsj_rvae", "rvae"),
        ("wsj_srnn", "srnn"),
        ("av_A-VAE", "vae"),
        ("av_A-DKF", "dkf"),
    ],
)
def test_an_imported_run_works_in_every_command(
    name: str, key: str, golden_dir, noisy, tmp_path, capsys
) -> None:
    file, config = checkpoint(golden_dir, name)
    run = str(tmp_path / "run")
    assert main(["import-weights", file, "--config", config, "-o", run]) == 0
    assert f"{run}: {key}, " in capsys.readouterr().out
    card = json.loads((tmp_path / "run" / "card.json").read_text())
    assert card["stft"] == {"sample_rate": 16_000, "window_length": 1024, "hop": 256, "pad_mode": "reflect"}
    assert card["imported"]["file"] == Path(file).name
    out = [str(tmp_path / f"{i}.wav") for i in range(3)]
    assert main(["resynthesize", run, str(noisy), "-o", out[0]]) == 0
    assert main(["generate", run, "-o", out[1], "--seconds", "0.5"]) == 0
    enhanced = main(["enhance", str(noisy), "-o", out[2], "--model", run, "--iterations", "2"])
    assert enhanced == 0
    assert all(np.isfinite(soundfile.read(o)[0]).all() for o in out)
    # Once there, it is not replaced by accident.
    assert main(["import-weights", file, "--config", config, "-o", run]) == 1
    assert "already holds a run" in capsys.readouterr().err


def test_what_cannot_be_imported_is_told_in_a_sentence(golden_dir, tmp_path, capsys) -> None:
    dkf, _ = checkpoint(golden_dir, "wsj_dkf")
    lips, config = checkpoint(golden_dir, "av_AV-VAE")
    weights = torch.load(lips, map_location="cpu", weights_only=True)
    more = tmp_path / "more.pt"
    torch.save(weights | {"mlp_z_x.other": torch.zeros(2)}, more)
    run = str(tmp_path / "run")
    for arguments, sentence in (
        ([dkf], "(--config)"),
        ([str(more), "--config", config], "1 unknown tensors"),
        ([dkf, "--config", lips], "cannot be read"),
        (["nothing.pt"], "no file nothing.pt"),
    ):
        assert main(["import-weights", *arguments, "-o", run]) == 1
        told = capsys.readouterr().err
        assert sentence in told
        assert told.count("\n") == 1
        assert not (tmp_path / "run").exists()


NAMES_OF_2019 = {
    "tiny_vae": {
        "mlp_x_z.linear0": "encoder_layers.0",
        "mlp_x_z.linear1": "encoder_layers.1",
        "inf_mean": "latent_mean_layer",
        "inf_logvar": "latent_logvar_layer",
        "mlp_z_x.linear0": "decoder_layers.0",
        "mlp_z_x.linear1": "decoder_layers.1",
        "gen_out": "output_layer",
    },
    "tiny_rvae": {
        "rnn_g_x": "enc_rnn_s",
        "rnn_g_z": "enc_rnn_z",
        "mlp_g_z.linear0": "enc_dense.linear0",
        "inf_mean": "enc_mean",
        "inf_logvar": "enc_logvar",
        "rnn_h": "dec_rnn",
        "gen_out": "dec_logvar",
    },
}


@pytest.mark.parametrize("name", NAMES_OF_2019)
def test_names_of_2019(name: str, golden_dir) -> None:
    """The same tensors under the names that they had at first."""
    given, old = Given(golden_dir, name), NAMES_OF_2019[name]
    split = {k: k.rpartition(".") for k in given.theirs}
    renamed = {f"{old.get(layer, layer)}.{end}": given.theirs[k] for k, (layer, _, end) in split.items()}
    assert {layer for layer, _, _ in split.values()} >= set(old)
    key, sizes, tensors = translate(renamed)
    assert (key, sizes) == translate(given.theirs)[:2]
    assert all(torch.equal(v, given.ours[k]) for k, v in tensors.items())


def test_a_front_end_that_does_not_fit_is_refused(golden_dir, tmp_path, capsys) -> None:
    file, config = checkpoint(golden_dir, "wsj_vae")
    other = tmp_path / "other.ini"
    other.write_text(Path(config).read_text().replace("64e-3", "32e-3"))
    assert main(["import-weights", file, "--config", str(other), "-o", str(tmp_path / "run")]) == 1
    assert "513 bins" in capsys.readouterr().err
    other.write_text(Path(config).read_text().replace("64e-3", "long"))
    assert main(["import-weights", file, "--config", str(other), "-o", str(tmp_path / "run")]) == 1
    assert "section STFT" in capsys.readouterr().err


def test_without_its_configuration_a_run_has_the_usual_front_end(golden_dir, tmp_path) -> None:
    file, _ = checkpoint(golden_dir, "wsj_rvae")
    assert main(["import-weights", file, "-o", str(tmp_path / "run")]) == 0
    assert load_run(tmp_path / "run").stft.bins == 513
