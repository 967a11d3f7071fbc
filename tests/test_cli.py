"""The command line: results on stdout, all else on stderr, and one sentence for whatever is wrong."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from small_runs import FAST, save_small_run, save_sound, sound
from test_audio import disk_of

import pyrodvae
from pyrodvae import examples
from pyrodvae.audio import info, read_audio
from pyrodvae.audio_writer import write_audio
from pyrodvae.cli import main, parse
from pyrodvae.commands import configured, one_thread
from pyrodvae.engines import ALGORITHMS, ENGINES, MALA, Chain, Langevin
from pyrodvae.enhance import enhance
from pyrodvae.enhance_config import EnhanceConfig
from pyrodvae.guides import GUIDES
from pyrodvae.matrix import try_all
from pyrodvae.metrics import METRICS
from pyrodvae.models import MODELS
from pyrodvae.settings import apply, describe
from pyrodvae.weights import CARD, WEIGHTS


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    return save_small_run(tmp_path_factory.mktemp("run"))


@pytest.fixture
def here(tmp_path: Path, monkeypatch) -> Path:
    """An empty working folder, with one noisy recording in it."""
    monkeypatch.chdir(tmp_path)
    save_sound(Path("noisy.wav"))
    return tmp_path


@pytest.fixture
def call(capsys):
    """Run a command: (exit status, stdout, the lines of stderr that are no progress bar)."""

    def call(*arguments: str | Path) -> tuple[int, str, str]:
        capsys.readouterr()
        status = main([str(a) for a in arguments])
        out, err = capsys.readouterr()
        assert "Traceback" not in err
        lines = [line[line.index("pyrodvae: ") :] for line in err.splitlines() if "pyrodvae: " in line]
        return status, out, "\n".join(lines)

    return call


def files() -> list[str]:
    return sorted(p.as_posix() for p in Path().rglob("*") if p.is_file())


# --- enhance


def test_enhance_a_file(here: Path, call, run: Path) -> None:
    assert call("enhance", "noisy.wav", "-o", "clean.wav", "--model", run, *FAST) == (0, "", "")
    assert files() == ["clean.wav", "noisy.wav"]
    config = EnhanceConfig(iterations=2, chains=1, noise_rank=2)
    wanted = enhance("noisy.wav", model=run, config=config).speech
    assert np.abs(read_audio("clean.wav")[0] - wanted).max() <= 2**-16


def test_options_and_settings_arrive(here: Path, call, run: Path, monkeypatch) -> None:
    seen = []

    def look(segment, **options):
        seen.append((options["config"], options["engine"]))
        return enhance(segment, **options)

    monkeypatch.setattr("pyrodvae.files.enhance", look)
    options = ["--engine", "vem", *FAST, "--seed", "5", "--set", "average=0.25", "learning_rate=1e-4"]
    assert call("enhance", "noisy.wav", "-o", "y.wav", "--model", run, *options)[0] == 0
    config = EnhanceConfig(iterations=2, chains=1, noise_rank=2, seed=5, average=0.25)
    assert seen == [(config, ENGINES["vem"](learning_rate=1e-4))]


def test_settings_reach_every_engine_of_a_chain() -> None:
    assignments = ["step_size=0.02", "steps=3", "chains=4", "target_accept=0.4"]
    config, (alone, chained) = configured(["mala", "langevin+mala"], assignments)
    assert config == EnhanceConfig(chains=4)
    mala = MALA(step_size=0.02, steps=3, target_accept=0.4)
    assert alone == mala
    assert chained == Chain((Langevin(step_size=0.02, steps=3), mala))
    assert configured(["langevin+mala"], [])[1] == [Chain((Langevin(), MALA()))]  # the control
    with pytest.raises(ValueError, match="No setting is called 'learning_rate'"):
        configured(["mala", "langevin+mala"], ["learning_rate=1"])
    with pytest.raises(ValueError, match="No engine is called 'no'"):
        configured(["langevin+no"], [])


def test_the_seed_decides_every_bit(here: Path, call, run: Path) -> None:
    for name, seed in (("a.wav", 0), ("b.wav", 0), ("c.wav", 1)):
        call("enhance", "noisy.wav", "-o", name, "--model", run, *FAST, "--seed", str(seed))
    a, b, c = (Path(name).read_bytes() for name in ("a.wav", "b.wav", "c.wav"))
    assert a == b
    assert a != c


def test_stereo_at_44_kHz_in_24_bits_stays_that(here: Path, call, run: Path) -> None:
    write_audio("stereo.wav", sound(0.5, 44_100, 2), 44_100, "PCM_24")
    assert call("enhance", "stereo.wav", "-o", "y.wav", "--model", run, *FAST)[0] == 0
    header = info("y.wav")
    assert (header.rate, header.channels, header.subtype) == (44_100, 2, "PCM_24")
    assert header.frames == info("stereo.wav").frames


def test_a_folder_with_good_and_bad_files(here: Path, call, run: Path) -> None:
    for name in ("in/a.wav", "in/deep/b.flac"):
        save_sound(Path(name))
    Path("in/bad.wav").write_text("no sound")
    Path("in/empty.wav").touch()
    status, out, err = call("enhance", "in", "-o", "out", "--model", run, *FAST)
    assert (status, out) == (1, "")
    assert err == "pyrodvae: error: 2 of 4 files failed:"
    assert [f for f in files() if f.startswith("out")] == ["out/a.wav", "out/deep/b.flac"]
    for name in ("bad", "empty"):
        Path(f"in/{name}.wav").unlink()
    status, out, err = call("enhance", "in", "-o", "out", "--model", run, *FAST)
    assert (status, out) == (0, "")
    assert err.splitlines() == [
        f"pyrodvae: skipped in/{f}: out/{f} is done already (--force does it again)"
        for f in ("a.wav", "deep/b.flac")
    ]
    before = Path("out/a.wav").stat().st_mtime_ns
    assert call("enhance", "in", "-o", "out", "--model", run, *FAST, "--force") == (0, "", "")
    assert Path("out/a.wav").stat().st_mtime_ns > before


def test_failures_are_told_with_their_reasons_and_progress_stays_off_stdout(
    here: Path, run: Path, capsys
) -> None:
    Path("bad.wav").write_text("no sound")
    assert main(["enhance", "noisy.wav", "bad.wav", "-o", "out", "--model", str(run), *FAST]) == 1
    out, err = capsys.readouterr()
    assert out == ""
    assert "100%" in err
    assert "(2 of 2)" in err
    tail = "error: 1 of 2 files failed:\n  bad.wav cannot be read as audio: Format not recognised.\n"
    assert err.endswith(tail)


def test_warnings_are_one_line(here: Path, call, run: Path) -> None:
    loud = sound(0.4) * 999
    soundfile.write("loud.wav", loud.T, 16_000, "FLOAT")
    status, _, err = call("resynthesize", run, "loud.wav", "-o", "y.flac")
    assert status == 0
    assert re.fullmatch(r"pyrodvae: warning: y\.flac: \d+ samples beyond full scale were clipped; .*", err)


# --- what is wrong with the input


def bad_inputs() -> None:
    Path("empty.wav").touch()
    Path("text.wav").write_text("not a recording\n" * 99)
    soundfile.write("nothing.wav", np.zeros((0, 1)), 16_000)
    soundfile.write("zeros.wav", np.zeros(9000), 16_000)
    soundfile.write("short.wav", sound(0.05).T, 16_000)
    nan = sound(0.4)
    nan[0, 99] = np.nan
    soundfile.write("nan.wav", nan.T, 16_000, "FLOAT")


@pytest.mark.parametrize(
    ("source", "sentence"),
    [
        ("missing.wav", "missing.wav does not exist."),
        ("empty.wav", "empty.wav is empty (0 bytes)."),
        ("text.wav", "text.wav cannot be read as audio: Format not recognised."),
        ("nothing.wav", "nothing.wav holds no samples."),
        ("zeros.wav", "zeros.wav is silent: all its samples are zero."),
        ("nan.wav", "nan.wav has 1 samples that are NaN or infinite."),
        ("short.wav", "short.wav is too short: it lasts 50.0 ms and at least 64 ms are needed."),
    ],
)
@pytest.mark.parametrize("command", ["enhance", "resynthesize"])
def test_recordings_that_cannot_be_used(
    here: Path, call, run: Path, command: str, source: str, sentence: str
) -> None:
    bad_inputs()
    before = files()
    if command == "enhance":
        answer = call("enhance", source, "-o", "y.wav", "--model", run, *FAST)
    else:
        answer = call("resynthesize", run, source, "-o", "y.wav")
    assert answer == (1, "", f"pyrodvae: error: {sentence}")
    assert files() == before


def test_a_rate_that_is_no_sound(here: Path, call, run: Path) -> None:
    soundfile.write("slow.wav", sound(0.4, 2000).T, 2000)
    sentence = "pyrodvae: error: slow.wav: sample_rate is in Hz, between 4000 and 384000, not 2000."
    assert call("enhance", "slow.wav", "-o", "y.wav", "--model", run, *FAST) == (1, "", sentence)
    assert files() == ["noisy.wav", "slow.wav"]


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (["--model", "no"], "'no' is neither a model key (vae, "),
        (["--engine", "no"], "No engine is called 'no'; there are: langevin, vem"),
        (["--set", "no=1"], "No setting is called 'no'; there are: iterations, chains, noise_rank, "),
        (["--set", "learning_rate=1"], "No setting is called 'learning_rate'; there are: iterations, "),
        (["--set", "step_size=big"], "The setting 'step_size' takes a finite number, not 'big'."),
        (["--set", "chains=2.5"], "The setting 'chains' takes a whole number, not '2.5'."),
        (["--set", "gain=maybe"], "The setting 'gain' takes true or false, not 'maybe'."),
        (["--set", "seed"], "A setting is written key=value, not 'seed'."),
        (["--iterations", "0"], "iterations must be a whole number from 1 to 10000, not 0."),
        (["--chains", "-1"], "chains must be a whole number from 1 to 256, not -1."),
        (["--noise-rank", "100000"], "noise_rank must be a whole number from 1 to 512, not 100000."),
        (["--seed", "-1"], "A seed is a whole number from 0 to 2147483647, not -1."),
        (["--seed", "99999999999999999999"], "A seed is a whole number from 0 to 2147483647, not 9999"),
        (["--device", "tpu"], "The device 'tpu' cannot be used here: leave --device out"),
        (["-o", "noisy.wav"], "noisy.wav would be overwritten: choose another output."),
        (
            ["-o", "y.xyz"],
            "y.xyz cannot be written: its name has to end in .wav, .flac, .ogg, .mp3 or .aiff.",
        ),
        (["-o", "y.m4a"], "y.m4a cannot be written: its name has to end in .wav, "),
        (["-o", "y"], "y cannot be written: its name has to end in .wav, "),
        (["-o", "noisy.wav/y.wav"], "noisy.wav/y.wav cannot be written: its folder cannot be made"),
        (["-o", "/proc/y.wav"], "/proc/y.wav cannot be written"),
    ],
)
def test_options_that_cannot_be_used(here: Path, call, run: Path, options: list[str], sentence: str) -> None:
    status, out, err = call("enhance", "noisy.wav", "-o", "y.wav", "--model", run, *FAST, *options)
    assert (status, out) == (1, "")
    assert err.startswith(f"pyrodvae: error: {sentence}")
    assert "\n" not in err
    assert files() == ["noisy.wav"]


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_device_that_is_not_there(here: Path, call, run: Path) -> None:
    status, _, err = call("enhance", "noisy.wav", "-o", "y.wav", "--model", run, *FAST, "--device", "cuda")
    assert status == 1
    assert err.startswith("pyrodvae: error: The device 'cuda' cannot be used here")


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["no"],
        ["enhance", "noisy.wav"],
        ["enhance", "noisy.wav", "-o", "y.wav", "--no"],
        ["enhance", "noisy.wav", "-o", "y.wav", "--seed", "a"],
        ["list", "no"],
    ],
)
def test_wrong_usage_exits_with_2(here: Path, arguments: list[str], capsys) -> None:
    with pytest.raises(SystemExit, match="2"):
        main(arguments)
    out, err = capsys.readouterr()
    assert out == ""
    command = " enhance" if arguments[:1] == ["enhance"] else " list" if arguments[:1] == ["list"] else ""
    assert re.fullmatch(rf"pyrodvae: error: [A-Z][^\n]+; see 'pyrodvae{command} --help'\.\n", err)


@pytest.mark.parametrize(
    ("how", "sentence"),
    [
        ("cut", "weights.safetensors is damaged"),
        ("card", "card.json is damaged"),
        ("other", "belong to another model or configuration: model."),
        ("gone", "is neither a model key"),
    ],
)
def test_weights_that_cannot_be_used(here: Path, call, run: Path, how: str, sentence: str) -> None:
    shutil.copytree(run, "run")
    weights, card = Path("run", WEIGHTS), Path("run", CARD)
    if how == "cut":
        weights.write_bytes(weights.read_bytes()[:-99])
    elif how == "card":
        card.write_text(card.read_text()[:-30])
    elif how == "other":
        card.write_text(json.dumps({**json.loads(card.read_text()), "model": "rvae-causal"}))
    else:
        weights.unlink()
    status, out, err = call("enhance", "noisy.wav", "-o", "y.wav", "--model", "run", *FAST)
    assert (status, out) == (1, "")
    assert re.fullmatch(f"pyrodvae: error: .*{sentence}.*", err)
    assert not Path("y.wav").exists()


def test_a_full_disk_leaves_nothing(here: Path, call, run: Path) -> None:
    save_sound(Path("long.wav"), 2.0)
    with disk_of(30_000):
        status, _, err = call("enhance", "long.wav", "-o", "y.wav", "--model", run, *FAST)
    assert status == 1
    assert err.splitlines()[-1] == "pyrodvae: error: y.wav cannot be written: File too large."
    assert files() == ["long.wav", "noisy.wav"]


@pytest.mark.parametrize(
    ("name", "command"),
    [
        ("copy.wav", ["resynthesize", "RUN", "long.wav", "-o", "copy.wav"]),
        ("speech.wav", ["generate", "RUN", "-o", "speech.wav"]),
        ("r.csv", ["evaluate", "RUN", "--speech", "speech", "--out", "r.csv", "--metrics", "si_sdr"]),
        ("run/checkpoint.pt", ["train", "vae", "--data", "speech", "--out", "run", "--epochs", "1"]),
    ],
)
def test_a_full_disk_is_told_with_the_name_that_was_asked_for(
    corpus: Path, call, run: Path, monkeypatch, name: str, command: list[str]
) -> None:
    save_sound(Path("long.wav"), 2.0)
    monkeypatch.setattr("pyrodvae.train.save_run", lambda *_: None)  # so that the checkpoint comes first
    monkeypatch.setattr("pyrodvae.plots.plot_history", lambda *_: None)
    small = ["--set", "hidden=2", "latent=2", "batch_size=2", "frames=8"] if command[0] == "train" else []
    arguments = [*(run if part == "RUN" else part for part in command), *small]
    # Once on a disk that is not full: libraries write caches of their own when they are used first.
    first = {"copy.wav": "first.wav", "speech.wav": "first.wav", "r.csv": "first.csv", "run": "first"}
    assert call(*(first.get(part, part) for part in arguments))[0] == 0
    with disk_of(200 if name == "r.csv" else 20_000):
        status, _, err = call(*arguments)
    assert (status, err.splitlines()[-1]) == (
        1,
        f"pyrodvae: error: {name} cannot be written: File too large.",
    )
    assert not list(Path().rglob(".*.tmp"))


@pytest.mark.parametrize("command", ["enhance", "resynthesize", "generate"])
def test_a_format_that_cannot_be_written_is_told_before_any_work(here: Path, call, command: str) -> None:
    arguments = {
        "enhance": ["noisy.wav", "--model", "no-run"],
        "resynthesize": ["no-run", "noisy.wav"],
        "generate": ["no-run"],
    }[command]
    status, _, err = call(command, *arguments, "-o", "y.m4a")
    assert status == 1
    assert err.startswith("pyrodvae: error: y.m4a cannot be written: its name has to end in .wav, ")
    assert "no-run" in call(command, *arguments, "-o", "y.flac")[2]  # the control: what comes next


def test_a_file_that_ends_early_is_done_with_a_warning(here: Path, call, run: Path) -> None:
    save_sound(Path("cut.wav"), 2.0)
    whole = Path("cut.wav").read_bytes()
    Path("cut.wav").write_bytes(whole[: len(whole) - 2 * 24_000])
    status, _, err = call("enhance", "cut.wav", "-o", "y.wav", "--model", run, *FAST)
    assert (status, info("y.wav").frames) == (0, 8000)
    assert err == "pyrodvae: warning: cut.wav ends early: 0.50 of 2.00 seconds could be read."


def test_hidden_files_are_no_recordings_and_dead_links_are_told(here: Path, call, run: Path) -> None:
    save_sound(Path("in/a.wav"))
    save_sound(Path("in/.b.wav"))
    Path("in/._a.wav").write_bytes(b"a resource fork")
    assert call("resynthesize", run, "in", "-o", "out") == (0, "", "")
    assert [f for f in files() if f.startswith("out")] == ["out/a.wav"]
    Path("in/c.wav").symlink_to("gone.wav")
    status, _, err = call("resynthesize", run, "in", "-o", "out", "--force")
    assert (status, err) == (1, "pyrodvae: error: 1 of 2 files failed:")


@pytest.mark.parametrize(
    "options",
    [
        ["IN", "--set", "average=0.25", "learning_rate=1e-4"],
        ["--set", "average=0.25", "learning_rate=1e-4", "IN"],
        ["--set", "average=0.25", "--set", "learning_rate=1e-4", "IN"],
        ["--set=average=0.25", "learning_rate=1e-4", "IN"],
        ["--set", "average = 0.25", "learning_rate =1e-4", "IN", "--set", "seed=0"],
    ],
)
def test_settings_do_not_swallow_inputs(options: list[str]) -> None:
    for name in ("noisy.wav", "./a=b.wav", "in/a=b.wav"):
        read = parse(["enhance", "-o", "y", *(name if text == "IN" else text for text in options)])
        assert read.inputs == [name]
        config, engine = apply(read.set, EnhanceConfig(), ENGINES["vem"]())
        assert (config.average, engine.learning_rate) == (0.25, 1e-4)


def test_an_interrupted_run_leaves_what_is_whole(here: Path, call, run: Path, monkeypatch) -> None:
    for name in ("in/a.wav", "in/b.wav"):
        save_sound(Path(name))
    done = []

    def enhance_once(*arguments, **options):
        if done:
            options["each"](0.5)
            raise KeyboardInterrupt
        done.append(1)
        return enhance(*arguments, **options)

    monkeypatch.setattr("pyrodvae.files.enhance", enhance_once)
    status, out, err = call("enhance", "in", "-o", "out", "--model", run, *FAST)
    assert (status, out, err) == (130, "", "pyrodvae: interrupted; what was finished is kept.")
    assert files() == ["in/a.wav", "in/b.wav", "noisy.wav", "out/a.wav"]


# --- the other commands


@pytest.mark.parametrize(
    "command", ["enhance", "train", "resynthesize", "generate", "evaluate", "score", "list"]
)
def test_help_says_what_and_how(command: str, capsys) -> None:
    with pytest.raises(SystemExit, match="0"):
        main([command, "--help"])
    examples = capsys.readouterr().out.split("examples:\n")[1].splitlines()
    assert examples
    for example in examples:
        assert example.startswith(f"  pyrodvae {command}")
        parse(example.partition(">")[0].split()[1:])  # it can be read


def test_resynthesize_the_packaged_example(here: Path, call, run: Path) -> None:
    assert call("resynthesize", run, examples.clean(), "-o", "y.flac") == (0, "", "")
    assert info("y.flac").frames == info(examples.clean()).frames
    status, out, _ = call("score", examples.clean(), "y.flac", "--metrics", "si_sdr", "estoi")
    assert status == 0
    assert re.fullmatch(r"si_sdr +-?\d+\.\d{3}\nestoi +0\.\d{3}\n", out)


def test_generate(here: Path, call, run: Path) -> None:
    for name, seed in (("a.wav", 0), ("b.wav", 0), ("c.wav", 1)):
        assert call("generate", run, "-o", name, "--seconds", "0.5", "--seed", seed) == (0, "", "")
    y, rate = read_audio("a.wav")
    assert (y.shape, rate) == ((1, 8000), 16_000)
    assert np.abs(y).max() == pytest.approx(0.5, abs=2**-15)
    a, b, c = (Path(name).read_bytes() for name in ("a.wav", "b.wav", "c.wav"))
    assert a == b != c
    status, _, err = call("generate", run, "-o", "d.wav", "--seed", "-1")
    assert (status, err) == (1, "pyrodvae: error: A seed is a whole number from 0 to 2147483647, not -1.")
    for options, sentence in (
        (["-o", "d.wav", "--seconds", "1e9"], "--seconds takes at most 600, not 1e+09"),
        (["-o", "d.wav", "--plot", "d.xyz"], "'d.xyz' says not what to draw: end it in .png or .svg."),
        (["-o", "no/d.wav"], "no/d.wav cannot be written: its folder does not exist."),
    ):
        assert call("generate", run, *options)[2].startswith(f"pyrodvae: error: {sentence}")
    status, _, err = call("generate", run, "-o", "d.wav", "--seconds", "0")
    assert (status, err) == (1, "pyrodvae: error: The length has to be at least 0.064 seconds, not 0.0.")


def test_score(here: Path, call) -> None:
    status, out, _ = call("score", examples.clean(), examples.noisy(), "--json")
    table = json.loads(out)
    assert status == 0
    assert list(table) == [*METRICS, "reasons"]
    assert table["si_sdr"] == pytest.approx(0.086, abs=0.005)
    assert table["reasons"] == {}
    call("score", examples.clean(), examples.clean(), "--json")
    _, out, _ = call("score", examples.clean(), examples.clean(), "--json", "--metrics", "si_sdr")
    assert json.loads(out) == {"si_sdr": None, "reasons": {"si_sdr": "the value is inf"}}
    _, out, _ = call("score", "noisy.wav", examples.clean(), "--metrics", "si_sdr")
    assert re.fullmatch(r"si_sdr +nan  The estimate has \d+ samples and the reference \d+: they .*\n", out)
    write_audio("other.wav", sound(0.4, 8000), 8000)
    status, out, err = call("score", "noisy.wav", "other.wav")
    assert (status, out) == (1, "")
    assert err == "pyrodvae: error: noisy.wav has 16000 Hz and other.wav 8000 Hz: resample one."
    assert call("score", "noisy.wav", "noisy.wav", "--metrics", "mos")[2].startswith(
        "pyrodvae: error: Unknown metrics ['mos']: choose among"
    )


def test_list(call) -> None:
    _, everything, _ = call("list")
    engines = ENGINES | ALGORITHMS
    for what, table in (("models", MODELS), ("guides", GUIDES), ("engines", engines)):
        status, out, err = call("list", what)
        assert (status, err) == (0, "")
        assert out.startswith(f"{what}: ")
        assert out in everything
        assert re.findall(r"^  ([a-z-]+) ", out, re.M) == list(table)
    told = [f"--set {text}\n" for text in (describe(kind()) for kind in engines.values()) if text]
    assert all(text in everything for text in told)
    assert everything.count("--set ") == len(told)  # and no line without settings


def test_a_reader_of_the_list_may_go_early() -> None:
    command = [sys.executable, "-m", "pyrodvae", "list"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as listing:
        assert listing.stdout is not None
        assert listing.stderr is not None
        listing.stdout.close()
        assert listing.stderr.read() == b""
    assert listing.returncode == 141


def test_the_list_has_no_markup(call) -> None:
    _, out, _ = call("list", "engines")
    assert "see pyrodvae.mixture_vem" in out
    assert ":mod:" not in out


def test_list_matrix(call, monkeypatch) -> None:
    """The table that is tested elsewhere, of a few keys here."""
    monkeypatch.setattr("pyrodvae.listing.try_all", lambda: try_all(["vae", "kalman"], ["langevin"]))
    status, out, err = call("list", "matrix")
    assert (status, err) == (0, "")
    assert re.fullmatch(r" +langevin\nvae +works\nkalman +\[1\]\n\[1\] Kalman [^\n]+\.\n", out)


@pytest.fixture
def corpus(here: Path) -> Path:
    for i in range(2):
        save_sound(Path(f"speech/{i}.wav"), 0.5, seed=i)
        hiss = np.random.default_rng(i + 9).standard_normal(4800)
        Path("noise").mkdir(exist_ok=True)
        write_audio(f"noise/{i}.wav", 0.1 * hiss, 16_000)
    return here


def test_evaluate(corpus: Path, call, run: Path) -> None:
    arguments = ["evaluate", run, "--speech", "speech", "--noise", "noise", "--snr", "-5", "0", *FAST]
    arguments += ["--seed", "0", "1", "--engine", "langevin", "vem", "--metrics", "si_sdr", "--out", "r.csv"]
    status, out, err = call(*arguments)
    assert (status, err) == (0, "")
    rows = Path("r.csv").read_text().splitlines()
    assert len(rows) == 1 + 2 * 2 * 2 * 2
    lines = [re.split(r" {2,}", line) for line in out.splitlines()]
    assert lines[0] == ["system", "snr", "metric", "files", "input", "output", "improvement", "worst"]
    blocks = [(name, snr) for name in ("langevin", "vem") for snr in ("-5", "0", "all")]
    assert [tuple(line[:2]) for line in lines[1:7]] == blocks
    assert float(lines[1][4].split(" ± ")[0]) == pytest.approx(-5, abs=0.5)
    assert [line[0] for line in lines[7:]] == ["", "system", "langevin", "vem"]
    assert lines[8][1:] == ["si_sdr improvement", "worst", "seconds per second of sound"]
    assert call(*arguments, "--plot", "costs.png") == (0, out, "")  # from the file
    assert Path("r.csv").read_text().splitlines() == rows
    assert Path("costs.png").read_bytes().startswith(b"\x89PNG")


def test_evaluate_pairs_and_resynthesis(corpus: Path, call, run: Path) -> None:
    shutil.copytree("speech", "pairs/clean")
    shutil.copytree("noise", "pairs/noisy")
    Path("pairs/noisy/1.wav").write_text("no sound")
    Path("pairs/clean/2.wav").write_text("no sound")
    status, out, err = call("evaluate", run, "--pairs", "pairs", "--metrics", "si_sdr", *FAST)
    assert status == 1
    assert err == "pyrodvae: error: 2 of 3 recordings failed:"
    assert "nan" not in out
    status, out, err = call("evaluate", run, "--speech", "speech", "--metrics", "si_sdr")
    assert (status, err) == (0, "")
    assert re.search(r"^resynthesis +si_sdr +2 of 2", out, re.M)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ([], "Give the recordings: --pairs DIR, --speech DIR --noise DIR, or --speech DIR alone."),
        (["--noise", "noise"], "Give the recordings"),
        (["--pairs", "speech", "--speech", "speech"], "--pairs stands alone"),
        (["--pairs", "speech"], "speech/clean is not a folder: pairs are clean/ and noisy/"),
        (["--speech", "speech", "--snr", "5"], "--snr and --pair-rule are for mixtures: give"),
        (["--speech", "speech", "--out", "speech"], "speech is a folder: give the name of a file."),
        (["--speech", "no"], "no is not a folder."),
        (["--speech", "speech", "--noise", "no"], "no is not a folder."),
        (["--speech", "speech", "--split", "test"], "--split needs the --manifest"),
        (["--speech", "speech", "--manifest", "no.tsv"], "Cannot read the manifest no.tsv"),
        (
            ["--speech", "speech", "--noise", "noise", "--pair-rule", "a"],
            "A pair rule is written NOISE:SPEECH",
        ),
        (["--speech", "speech", "--metrics", "mos"], "Unknown metrics ['mos']"),
        (["--speech", "speech", "--engine", "no"], "No engine is called 'no'"),
        (["--speech", "speech", "--set", "no=1"], "No setting is called 'no'"),
        (["--speech", "speech", "--plot", "c.png"], "--plot shows what enhancement gains: give --pairs"),
        (["--pairs", "speech", "--plot", "no/c.png"], "no/c.png cannot be written: its folder does not"),
        (["--pairs", "speech", "--plot", "c.xyz"], "'c.xyz' says not what to draw: end it in .png or .svg."),
        (
            ["--speech", "speech", "--noise", "noise", "--engine", "mh", "mh"],
            "The system 'mh' is there twice: measure it once.",
        ),
        (["--speech", "speech", "--seed", "1", "1"], "The seed 1 is there twice"),
        (["--speech", "speech", "--metrics", "estoi", "estoi"], "The metric 'estoi' is there twice"),
        (["--speech", "speech", "--noise", "noise", "--snr", "5", "5"], "The recording '"),
        (["--speech", "speech", "--limit", "0"], "The limit must be at least 1, not 0."),
        (
            ["--speech", "speech", "--seed", "1", "-7"],
            "A seed is a whole number from 0 to 2147483647, not -7.",
        ),
        (
            ["--speech", "speech", "--out", "no/r.csv"],
            "no/r.csv cannot be written: its folder does not exist.",
        ),
    ],
)
def test_evaluations_that_are_refused(
    corpus: Path, call, run: Path, options: list[str], sentence: str
) -> None:
    before = files()
    status, out, err = call("evaluate", run, *options)
    assert (status, out) == (1, "")
    assert err.startswith(f"pyrodvae: error: {sentence}")
    assert "\n" not in err
    assert files() == before


def test_train_and_enhance_with_the_run(corpus: Path, call) -> None:
    options = [
        "--epochs",
        "2",
        "--set",
        "batch_size=2",
        "frames=8",
        "hidden=4",
        "latent=2",
        "objective=sampled",
    ]
    status, out, err = call("train", "vae", "--data", "speech", "--out", "run", *options)
    assert (status, err) == (0, "")
    assert re.fullmatch(r"run: best validation loss -?\d+\.\d\d nats per frame, in epoch [12]\n", out)
    card = json.loads(Path("run", CARD).read_text())
    assert (card["training"]["objective"], card["training"]["epochs"]) == ("sampled", 2)
    assert call("enhance", "noisy.wav", "-o", "y.wav", "--model", "run", *FAST)[0] == 0
    status, _, err = call("train", "vae", "--data", "speech", "--out", "run", *options)
    assert status == 1
    assert err.startswith("pyrodvae: error: run already holds a run: add --resume to go on")
    status, again, _ = call("train", "vae", "--data", "speech", "--out", "run", *options, "--resume")
    assert (status, again) == (0, out)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (["no", "--out", "run"], "No model is called 'no'; there are: vae, "),
        (["vae", "--out", "run", "--guide", "no"], "No guide is called 'no'"),
        (["vae", "--out", "run", "--data", "no"], "no is not a folder."),
        (["vae", "--out", "run", "--val", "no"], "no is not a folder."),
        (["vae", "--out", "run", "--resume"], "There is no checkpoint in run to resume from."),
        (
            ["vae", "--out", "run", "--set", "objective=exact"],
            "The setting 'objective' takes 'analytic' or 'sampled'",
        ),
        (
            ["vae", "--out", "run", "--set", "epochs=many"],
            "The setting 'epochs' takes a whole number, not 'many'.",
        ),
        (["vae", "--out", "run", "--set", "no=1"], "No setting is called 'no'; there are: epochs, "),
        (["vae", "--out", "run", "--set", "batch_size=0"], "batch_size must be more than 0, not 0."),
        (["vae", "--out", "run", "--set", "beta=-1"], "beta cannot be negative: -1.0."),
        (["vae", "--out", "run", "--split", "train"], "--split needs the --manifest"),
        (["vae", "--out", "run", "--device", "tpu"], "The device 'tpu' cannot be used here"),
        (["vae", "--out", "run", "--seed", "-1"], "A seed is a whole number from 0 to 2147483647, not -1."),
        (["vae", "--out", "run", "--set", "start=no"], "'no' is neither a model key"),
        (
            ["vae", "--out", "run", "--set", "start=rvae"],
            "Training cannot start from 'rvae': its model is rvae",
        ),
        (["vae", "--out", "noisy.wav/run"], "noisy.wav/run cannot be written: Not a directory."),
    ],
)
def test_trainings_that_are_refused(corpus: Path, call, options: list[str], sentence: str) -> None:
    before = files()
    status, out, err = call("train", "--data", "speech", *options)
    assert (status, out) == (1, "")
    assert err.startswith(f"pyrodvae: error: {sentence}")
    assert "\n" not in err
    assert files() == before


def test_the_program_as_it_is_started(here: Path, run: Path) -> None:
    """Exit status, and both streams, of a process of its own."""

    def start(*arguments: object) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "pyrodvae", *map(str, arguments)]
        path = {"PYTHONPATH": str(Path(pyrodvae.__file__).parents[1])}  # where nothing is installed
        return subprocess.run(command, capture_output=True, text=True, check=False, env=os.environ | path)

    bad = start("enhance", "missing.wav", "-o", "y.wav", "--model", run)
    assert (bad.returncode, bad.stdout) == (1, "")
    assert bad.stderr.rstrip().endswith("pyrodvae: error: missing.wav does not exist.")
    assert "Traceback" not in bad.stderr


def test_one_thread_unless_told(monkeypatch) -> None:
    threads: list[int] = []
    monkeypatch.setattr(torch, "set_num_threads", threads.append)
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    one_thread()
    assert threads == []
    monkeypatch.delenv("OMP_NUM_THREADS")
    one_thread()
    assert threads == [1]


def test_an_interruption_of_the_start_is_no_traceback(tmp_path: Path) -> None:
    """The signal comes while torch is imported: a stand-in for it sends it."""
    (tmp_path / "torch.py").write_text("import os, signal\nos.kill(os.getpid(), signal.SIGINT)\n")
    (tmp_path / "pyrodvae").write_text("import sys\nfrom pyrodvae.cli import main\nsys.exit(main())\n")
    path = {"PYTHONPATH": f"{tmp_path}{os.pathsep}{Path(pyrodvae.__file__).parents[1]}"}

    def start(*arguments: str) -> tuple[int, str]:
        ended = subprocess.run(
            [sys.executable, *arguments],
            capture_output=True,
            text=True,
            check=False,
            env=os.environ | path,
            # What a shell starts in the background is told to ignore the signal, and so are its children.
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        )
        return ended.returncode, ended.stderr

    assert start("-m", "pyrodvae", "list") == (130, "Interrupted.\n")
    assert start(str(tmp_path / "pyrodvae"), "list") == (130, "Interrupted.\n")  # as pip installs it
    status, told = start("-c", "import pyrodvae")  # the control: another program keeps its own ways
    assert status != 130
    assert "KeyboardInterrupt" in told


def test_what_is_there_is_not_replaced_unasked(corpus: Path, call) -> None:
    Path("precious.wav").write_bytes(b"precious")
    status, _, err = call("generate", "tiny", "-o", "precious.wav", "--seconds", "1")
    assert status == 1
    assert "precious.wav exists: add --force" in err
    assert Path("precious.wav").read_bytes() == b"precious"
    Path("mine").mkdir()
    Path("mine", WEIGHTS).write_bytes(b"precious")
    status, _, err = call("train", "vae", "--data", "speech", "--out", "mine", "--epochs", "1")
    assert status == 1
    assert "already holds a run" in err
    assert Path("mine", WEIGHTS).read_bytes() == b"precious"


@pytest.mark.parametrize("snr", ["1e9", "nan"])
def test_ratios_that_make_no_sense_are_refused(corpus: Path, call, snr: str) -> None:
    status, _, err = call("evaluate", "tiny", "--speech", "speech", "--noise", "speech", "--snr", snr)
    assert status == 1
    assert "--snr takes ratios between" in err


def test_an_empty_name_is_refused(corpus: Path, call) -> None:
    status, _, err = call("enhance", "", "-o", "x.wav")
    assert status == 1
    assert "An empty name" in err
