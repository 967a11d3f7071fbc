"""Measuring: what is mixed, what is counted, and what an interrupted run leaves to the next."""

from __future__ import annotations

import math
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from small_runs import save_small_run, save_sound, sound
from test_audio import disk_of

from pyrodvae.audio import AudioError
from pyrodvae.audio_writer import write_audio
from pyrodvae.engines import Langevin
from pyrodvae.enhance_config import EnhanceConfig
from pyrodvae.evaluate import KEY, Results, System, enhancer, evaluate, fingerprint, resynthesizer
from pyrodvae.metrics import si_sdr
from pyrodvae.plots import plot_costs
from pyrodvae.results import Cost
from pyrodvae.trials import Trial, clean_speech, mixtures, pairs
from pyrodvae.weights import load_run
from pyrodvae.whole import NotWritten

METRICS = ("si_sdr", "estoi")


def louder(x: np.ndarray, seed: int) -> np.ndarray:
    """A system that leaves every metric as it is."""
    return 2 * x


def system(process=louder, **names: str) -> System:
    return System(**{"model": "m", "name": "louder", "settings": "", **names, "process": process})


def trial(name: str, seconds: float = 1.0, noise: float = 0.1) -> Trial:
    s = sound(seconds)[0]
    hiss = np.random.default_rng(len(name)).standard_normal(len(s)).astype(np.float32)
    return Trial(name, "", "", lambda: (s, s + noise * hiss))


@pytest.fixture(scope="module")
def corpus(tmp_path_factory) -> Path:
    """Speech of two corpora, three noises, and a manifest of them."""
    folder = tmp_path_factory.mktemp("corpus")
    rows = ["path\tsplit"]
    for i in range(8):
        name = f"speech/{'left' if i % 2 else 'right'}/{i}.wav"
        save_sound(folder / name, 0.3 + 0.01 * i, seed=i)
        rows.append(f"{name}\t{'train' if i < 2 else 'test'}")
    for i, name in enumerate(("babble/a.wav", "rain/b.wav", "street/c.wav")):
        (folder / f"noise/{name}").parent.mkdir(parents=True)
        hiss = np.random.default_rng(i).standard_normal((1, 16_000 if i else 900))
        write_audio(folder / f"noise/{name}", 0.1 * np.tile(hiss, 1 if i else 2).clip(-5, 5), 16_000)
        rows.append(f"noise/{name}\ttest")
    (folder / "manifest.tsv").write_text("\n".join(rows) + "\n")
    return folder


# --- on what


def test_mixtures_have_their_ratio_and_are_the_same_in_every_run(corpus: Path) -> None:
    trials = mixtures(corpus / "speech", corpus / "noise", [-5, 0, 7.5])
    again = mixtures(corpus / "speech", corpus / "noise", [0], limit=3)
    assert [t.snr for t in trials] == ["-5", "0", "7.5"] * 8
    assert len({t.noise for t in trials}) > 1
    by_name = {(t.file, t.snr): t for t in trials}
    for t in trials:
        s, x = t.load()
        ratio = 10 * np.log10((s**2).sum() / ((x - s) ** 2).sum())
        assert ratio == pytest.approx(float(t.snr), abs=1e-3)
        assert si_sdr(x, s) == pytest.approx(float(t.snr), abs=1.0)
        zero_s, zero_x = by_name[t.file, "0"].load()  # the same piece of the same noise
        shape = (x - s) @ (zero_x - zero_s) / np.linalg.norm(x - s) / np.linalg.norm(zero_x - zero_s)
        assert shape == pytest.approx(1, abs=1e-3)
    assert len(again) == 3
    for t in again:
        assert t.noise == by_name[t.file, "0"].noise
        for a, b in zip(t.load(), by_name[t.file, "0"].load(), strict=True):
            np.testing.assert_array_equal(a, b)


def test_rules_keep_noise_from_speech(corpus: Path) -> None:
    def babbled(rules: list[tuple[str, str]]) -> set[str]:
        trials = mixtures(corpus / "speech", corpus / "noise", [0], rules=rules)
        return {t.file.split("/")[0] for t in trials if "babble" in t.noise}

    assert babbled([("babble", "left")]) <= {"left"}
    assert "right" in babbled([])  # the control
    with pytest.raises(AudioError, match="The rules leave no noise to mix with"):
        mixtures(corpus / "speech", corpus / "noise", [0], rules=[("noise", "left")])


def test_manifest_and_limit(corpus: Path) -> None:
    manifest = corpus / "manifest.tsv"
    files = [t.file for t in clean_speech(corpus / "speech", manifest=manifest, split="test")]
    assert sorted(Path(f).stem for f in files) == list("234567")
    assert [t.file for t in clean_speech(corpus / "speech", 3, manifest, "test")] == files[::2]
    with pytest.raises(ValueError, match="limit must be at least 1, not 0"):
        clean_speech(corpus / "speech", 0)
    with pytest.raises(AudioError, match="No readable recording"):
        mixtures(corpus / "speech", corpus / "noise", [0], manifest=manifest, split="train")


def test_pairs_without_partner_fail_by_name(tmp_path: Path) -> None:
    for name in ("clean/a.wav", "noisy/a.wav", "clean/deep/b.wav"):
        save_sound(tmp_path / name, seed=len(name))
    results = evaluate([system()], pairs(tmp_path), metrics=["si_sdr"])
    assert [r["file"] for r in results.rows] == ["a.wav"]
    assert results.failed == [("deep/b.wav", f"{tmp_path}/noisy/deep/b.wav does not exist.")]
    with pytest.raises(AudioError, match=r"noisy is not a folder|clean is not a folder"):
        pairs(tmp_path / "clean")


# --- how


def test_rows_tell_input_and_output() -> None:
    results = evaluate([system(), system(lambda x, seed: x[::-1], name="back")], [trial("a"), trial("bb")])
    assert [(r["file"], r["system"]) for r in results.rows] == [
        (file, name) for file in ("a", "bb") for name in ("louder", "back")
    ]
    for row in results.rows:
        assert row["seconds"] == "1.000"
        assert 0 <= float(row["rtf"]) < 1
        same = row["si_sdr_in"] == row["si_sdr_out"] and row["pesq_wb_in"] == row["pesq_wb_out"]
        assert same == (row["system"] == "louder")
        assert row["reasons"] == ""


def test_a_seed_is_given_to_the_system() -> None:
    def seeded(x: np.ndarray, seed: int) -> np.ndarray:
        return x + seed * np.roll(x, 7)

    rows = evaluate([system(seeded)], [trial("a")], seeds=[0, 1, 5], metrics=["si_sdr"]).rows
    assert [r["seed"] for r in rows] == ["0", "1", "5"]
    assert len({r["si_sdr_out"] for r in rows}) == 3


def test_scores_that_do_not_exist_are_counted_with_their_reason_and_drop_no_file() -> None:
    trials = [trial("a"), trial("short", 0.2), trial("clean", noise=0.0)]
    trials.append(
        replace(trials[0], file="broken", load=lambda: (_ for _ in ()).throw(AudioError("broken.")))
    )
    silent = system(lambda x, seed: 0 * x, name="silent")
    results = evaluate([system(), silent], trials, metrics=METRICS)
    assert [r["file"] for r in results.rows] == ["a", "a", "short", "short", "clean", "clean"]
    assert results.failed == [("broken", "broken.")]
    cells = {(r["file"], r["system"]): r for r in results.rows}
    assert cells["clean", "louder"]["si_sdr_out"] == "inf"
    assert cells["a", "silent"]["si_sdr_out"] == "nan"
    assert cells["short", "louder"]["estoi_out"] == "nan"
    table = results.table()
    assert re.search(r"louder +si_sdr +2 of 3 +-?\d", table)
    assert re.search(r"louder +estoi +2 of 3 +0\.\d", table)
    assert re.search(r"silent +si_sdr +0 of 3", table)
    for line in (
        "not in the means, 3 times: si_sdr_out: The estimate is silent.",
        "not in the means, 2 times: si_sdr_in: the value is inf",
        "not in the means, 1 times: si_sdr_out: the value is inf",
        "not in the means, 2 times: estoi_in: There is less than 0.4 s of speech, too little for STOI.",
    ):
        assert line in table.splitlines()


def row(file: str, seed: int, before: float, after: float, snr: str = "", name: str = "x") -> dict[str, str]:
    names = {**dict.fromkeys(KEY, ""), "system": name, "file": file, "seed": str(seed), "snr": snr}
    return {**names, "si_sdr_in": f"{before}", "si_sdr_out": f"{after}", "rtf": "0.5", "reasons": ""}


def test_table_has_mean_and_standard_error_over_recordings_and_the_worst_run() -> None:
    """Seeds are no recordings: they are averaged before the standard error is taken."""
    rows = [row("a", 0, 1, 4), row("a", 1, 1, 6), row("b", 0, 3, 3.5), row("b", 1, 3, 2.5), row("c", 0, 2, 4)]
    line = Results(("si_sdr",), rows).table().splitlines()[1]

    def cell(*means: float) -> str:
        return f"{np.mean(means):.2f} ± {np.std(means, ddof=1) / math.sqrt(len(means)):.2f}"

    columns = [cell(1, 3, 2), cell(5, 3, 4), "+" + cell(4, 0, 2), "-0.50 b seed 1"]
    assert re.split(r" {2,}", line) == ["x", "si_sdr", "3 of 3", *columns]


def test_table_has_a_block_for_each_system_and_ratio_and_one_for_all() -> None:
    rows = [row(f, 0, float(snr), 9, snr, name) for name in "xy" for snr in ("5", "-5") for f in "ab"]
    table = Results(("si_sdr",), rows).table().splitlines()
    found = [tuple(line.split()[:2]) for line in table[1:7]]
    assert found == [(name, snr) for name in "xy" for snr in ("-5", "5", "all")]
    assert "0.00 ± 0.00" in table[3]
    assert table[7:] == [
        "",
        "system  si_sdr improvement  worst  seconds per second of sound",
        *[f"{name}       +9.00 ± 0.00        +4.00  0.500" for name in "xy"],
    ]


def test_quality_against_time() -> None:
    """Over all recordings, seeds and ratios; a system that could not be scored has no quality."""
    rows = [row(file, 0, snr, 2 * snr, f"{snr}") for file, snr in (("a", 2), ("a", 4), ("b", -1))]
    rows += [row("a", 0, 2, 3, "2", "y") | {"rtf": "0.1"}, row("b", 0, 1, 2, "2", "y") | {"rtf": "0.3"}]
    rows += [row("a", 0, 2, math.nan, "2", "none")]
    x, y, none = Results(("si_sdr",), rows).costs()
    means = (3, -1)
    assert (x.system, x.gain, x.worst, x.seconds) == ("x", np.mean(means), -1, 0.5)
    assert x.error == pytest.approx(np.std(means, ddof=1) / math.sqrt(2))
    assert (y.gain, y.error, y.worst, y.seconds) == (1, 0, 1, pytest.approx(0.2))
    assert all(math.isnan(v) for v in (none.gain, none.error, none.worst))
    last = Results(("si_sdr",), rows).table().splitlines()[-3:]
    assert [re.split(r" {2,}", line) for line in last] == [
        ["x", "+1.00 ± 2.00", "-1.00", "0.500"],
        ["y", "+1.00 ± 0.00", "+1.00", "0.200"],
        ["none", "0.500"],
    ]
    assert Results(("si_sdr",), rows[:3]).table().endswith("\nx: 0.500 seconds per second of sound")


def test_picture_of_quality_against_time(tmp_path: Path) -> None:
    """A dot and a bar for each system that has a quality, at its time, with its name."""
    costs = [Cost("slow", 5.0, 0.5, 1.0, 2.0), Cost("fast", 4.0, math.nan, 4.0, 0.1)]
    costs.append(Cost("unknown", math.nan, math.nan, math.nan, 1.0))
    axis = plot_costs(costs, "si_sdr", tmp_path / "costs.png").axes[0]
    assert (tmp_path / "costs.png").read_bytes().startswith(b"\x89PNG")
    dots = [tuple(line.get_xydata()[0]) for line in axis.get_lines() if line.get_marker() == "o"]
    assert dots == [(2.0, 5.0), (0.1, 4.0)]
    assert [text.get_text() for text in axis.texts] == ["slow", "fast"]
    low, high = axis.get_ylim()
    assert low < 4.0
    assert high > 5.5  # the bar is inside
    assert axis.get_xscale() == "log"


# --- the file of results


def test_a_rerun_computes_what_is_missing(tmp_path: Path) -> None:
    out, done = tmp_path / "r.csv", []

    def counting(x: np.ndarray, seed: int) -> np.ndarray:
        if len(done) == 3:
            raise KeyboardInterrupt
        done.append(seed)
        return 2 * x

    def go(process, trials="abc", metrics=METRICS, **names: str) -> Results:
        chosen = [trial(name) for name in trials]
        return evaluate([system(process, **names)], chosen, seeds=[0, 1], metrics=metrics, out=out)

    with pytest.raises(KeyboardInterrupt):
        go(counting)
    whole = out.read_text()
    assert whole.count("\n") == 1 + 3
    out.write_text(whole[:-20])  # as if killed while it wrote the third
    done[:] = [9]
    with pytest.raises(KeyboardInterrupt):
        go(counting)
    assert done == [9, 0, 1]  # b, and then the interruption
    del done[:]
    results = go(lambda x, seed: done.append(seed) or 2 * x)
    assert len(done) == 2
    assert len(results.rows) == 6
    table = results.table()
    before = out.read_bytes()
    again = go(None)  # nothing is called
    assert again.rows == results.rows
    assert again.table() == table
    assert out.read_bytes() == before
    for change in ({"settings": "other"}, {"model": "other"}, {"name": "other"}):
        del done[:]
        go(lambda x, seed: done.append(seed) or 2 * x, "a", **change)
        assert len(done) == 2
    with pytest.raises(ValueError, match=r"r\.csv is not a table of these metrics: choose another file"):
        go(None, metrics=["si_sdr"])
    assert sorted(p.name for p in tmp_path.iterdir()) == ["r.csv"]


def test_files_of_results_that_cannot_be(tmp_path: Path) -> None:
    (tmp_path / "notes.csv").write_text("what,ever\n1,2\n")
    with pytest.raises(ValueError, match="is not a table of these metrics"):
        evaluate([system()], [trial("a")], out=tmp_path / "notes.csv")
    assert (tmp_path / "notes.csv").read_text() == "what,ever\n1,2\n"
    with pytest.raises(OSError, match="No such file"):
        evaluate([system()], [trial("a")], out=tmp_path / "no/r.csv")
    with pytest.raises(ValueError, match=r"Unknown metrics \['mos'\]"):
        evaluate([system()], [trial("a")], metrics=["mos"], out=tmp_path / "r.csv")
    with pytest.raises(ValueError, match="A seed is a whole number from 0"):
        evaluate([system()], [trial("a")], seeds=[0, -1], out=tmp_path / "r.csv")
    assert not (tmp_path / "r.csv").exists()


def test_a_disk_that_fills_up_is_told_with_the_name_of_the_file(tmp_path: Path) -> None:
    out = tmp_path / "r.csv"
    with disk_of(300), pytest.raises(NotWritten, match=r"r\.csv cannot be written: File too large\.$"):
        evaluate([system()], [trial("a")], seeds=range(9), metrics=METRICS, out=out)
    results = evaluate([system()], [trial("a")], seeds=range(9), metrics=METRICS, out=out)
    assert len(results.rows) == 9  # and the next run goes on from what was written whole
    assert len(out.read_text().splitlines()) == 10


# --- our systems


def test_systems_made_of_a_run(tmp_path: Path) -> None:
    run, other = (load_run(save_small_run(tmp_path / str(size), hidden=size)) for size in (8, 9))
    assert fingerprint(run) == fingerprint(load_run(tmp_path / "8"))
    assert fingerprint(run) != fingerprint(other)
    config = EnhanceConfig(iterations=2, chains=1, noise_rank=2, seed=3)
    enhancing = enhancer("key", run, "langevin", Langevin(), config)
    assert enhancing.model == f"key@{fingerprint(run)}"
    assert enhancing.settings.startswith("step_size=")
    assert "iterations=2" in enhancing.settings
    assert "seed" not in enhancing.settings
    _, x = trial("a", 0.3).load()
    for system, chance in ((enhancing, True), (resynthesizer("key", run), False)):
        y = system.process(x, 1)
        assert y.shape == x.shape
        assert np.array_equal(y, system.process(x, 1))
        assert np.array_equal(y, system.process(x, 2)) != chance


def test_resynthesis_has_no_input_to_improve_on(corpus: Path, tmp_path: Path) -> None:
    system = resynthesizer("key", load_run(save_small_run(tmp_path)))
    results = evaluate([system], clean_speech(corpus / "speech", 2), metrics=["si_sdr"])
    assert all(r["si_sdr_in"] == "" and math.isfinite(float(r["si_sdr_out"])) for r in results.rows)
    assert re.search(r"resynthesis +si_sdr +2 of 2 +-?\d+\.\d\d ± \d+\.\d\d +-?\d", results.table())


def test_a_recording_of_the_same_name_is_measured_anew(tmp_path: Path) -> None:
    out = tmp_path / "r.csv"
    a, b, again = (
        evaluate([system()], [trial("a", noise=noise)], metrics=["si_sdr"], out=out).rows[0]
        for noise in (0.1, 0.4, 0.1)
    )
    assert float(a["si_sdr_in"]) > float(b["si_sdr_in"]) + 6
    assert again == a
    assert len(out.read_text().splitlines()) == 3  # a header and two rows
