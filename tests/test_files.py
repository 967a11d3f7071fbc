"""Files in, files out: which becomes which, formats, segments without seams, and nothing half-written."""

from __future__ import annotations

import os
import re
import signal
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import soundfile
from small_runs import save_small_run, save_sound, sound
from test_audio import disk_of

from pyrodvae.audio import AudioError, info, read_audio
from pyrodvae.audio_writer import write_audio
from pyrodvae.engines import Langevin
from pyrodvae.enhance import enhance
from pyrodvae.enhance_config import EnhanceConfig
from pyrodvae.files import (
    Job,
    Share,
    Transform,
    enhancing,
    plan,
    transform_file,
    transform_files,
)
from pyrodvae.weights import Run, load_run

CONFIG = EnhanceConfig(iterations=2, chains=1, noise_rank=2)


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Run:
    return load_run(save_small_run(tmp_path_factory.mktemp("run")))


@pytest.fixture
def fast(run) -> Transform:
    return enhancing(run, Langevin(), CONFIG)


def half(segment: np.ndarray, rate: int, each: Share) -> np.ndarray:
    each(1.0)
    return segment / 2


def names(folder: Path) -> list[str]:
    return sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file())


# --- which file becomes which


def test_plan(tmp_path: Path) -> None:
    a, b = save_sound(tmp_path / "in/a.wav"), save_sound(tmp_path / "in/deep/b.FLAC")
    (tmp_path / "in/deep/c.aif").touch()
    (tmp_path / "in/notes.txt").touch()
    (tmp_path / "there").mkdir()

    def planned(out: str, *inputs: Path) -> list[str]:
        jobs = plan(inputs, f"{tmp_path}/{out}")
        return [f"{j.source.name} > {j.target.relative_to(tmp_path)}" for j in jobs]

    assert planned("y.flac", a) == ["a.wav > y.flac"]
    assert planned("there", a) == ["a.wav > there/a.wav"]
    assert planned("new/", a) == ["a.wav > new/a.wav"]
    assert planned("new", a, b) == ["a.wav > new/a.wav", "b.FLAC > new/b.FLAC"]
    tree = ["a.wav > new/a.wav", "b.FLAC > new/deep/b.FLAC", "c.aif > new/deep/c.wav"]
    assert planned("new", tmp_path / "in") == tree
    assert planned("new", tmp_path / "in/deep", a) == ["b.FLAC > new/b.FLAC", "c.aif > new/c.wav", tree[0]]
    assert not (tmp_path / "new").exists()


def test_outputs_below_the_input_are_not_inputs_of_the_next_run(tmp_path: Path) -> None:
    a = save_sound(tmp_path / "a.wav")
    for _ in range(2):
        jobs = plan([tmp_path], tmp_path / "out")
        assert jobs == [Job(a, tmp_path / "out/a.wav")]
        transform_files(jobs, half)
    assert len(plan([tmp_path], tmp_path / "other")) == 2  # the control


@pytest.mark.parametrize(
    ("inputs", "out", "sentence"),
    [
        (["a.wav"], "a.wav", "a.wav would be overwritten: choose another output."),
        (["a.wav"], "link.wav", "a.wav would be overwritten"),
        (["a.wav"], ".", "a.wav would be overwritten"),
        (["deep"], "deep", "deep/a.wav would be overwritten"),
        (["a.wav", "deep/a.wav"], "new", "a.wav would both become new/a.wav."),
        (["a.wav", "a.wav"], "new", "a.wav would both become new/a.wav."),
        (["none"], "new", "There is no recording in none."),
        (
            ["a.wav"],
            "y.m4a",
            "y.m4a cannot be written: its name has to end in .wav, .flac, .ogg, .mp3 or .aiff.",
        ),
        (["a.wav"], "y", "y cannot be written: its name has to end in .wav"),
    ],
)
def test_plans_that_are_refused(
    tmp_path: Path, monkeypatch, inputs: list[str], out: str, sentence: str
) -> None:
    monkeypatch.chdir(tmp_path)
    before = save_sound(Path("a.wav")).read_bytes()
    save_sound(Path("deep/a.wav"))
    Path("link.wav").symlink_to("a.wav")
    Path("none").mkdir()
    with pytest.raises(AudioError, match=re.escape(sentence)):
        plan(inputs, out)
    assert Path("a.wav").read_bytes() == before


# --- formats


@pytest.mark.parametrize(
    ("suffix", "subtype", "out", "expected"),
    [
        (".wav", "PCM_24", ".wav", "PCM_24"),
        (".wav", "PCM_U8", ".wav", "PCM_U8"),
        (".wav", "FLOAT", ".wav", "FLOAT"),
        (".wav", "FLOAT", ".flac", "PCM_16"),
        (".flac", "PCM_24", ".wav", "PCM_24"),
        (".wav", "PCM_24", ".ogg", "VORBIS"),
        (".ogg", "VORBIS", ".wav", "PCM_16"),
        (".mp3", "MPEG_LAYER_III", ".mp3", "MPEG_LAYER_III"),
        (".mp3", "MPEG_LAYER_III", ".wav", "PCM_16"),
        (".wav", "IMA_ADPCM", ".wav", "PCM_16"),
    ],
)
def test_rate_channels_and_where_possible_samples_are_kept(
    tmp_path: Path, suffix: str, subtype: str, out: str, expected: str
) -> None:
    source, target = tmp_path / f"x{suffix}", tmp_path / f"y{out}"
    soundfile.write(source, sound(0.5, 44_100, 2).T, 44_100, subtype)
    transform_file(source, target, half)
    before, after = info(source), info(target)
    assert (after.rate, after.channels, after.frames) == (44_100, 2, before.frames)
    assert after.subtype == expected
    x, y = read_audio(source)[0], read_audio(target)[0]
    assert np.abs(y - x / 2).max() < 0.05
    assert y.std() == pytest.approx(x.std() / 2, rel=0.02)


def test_a_file_is_enhanced_as_its_waveform_would_be(tmp_path: Path, run, fast) -> None:
    x = sound(0.7, 44_100, 2)
    write_audio(tmp_path / "x.wav", x, 44_100, "PCM_24")
    transform_file(tmp_path / "x.wav", tmp_path / "y.wav", fast)
    y, rate = read_audio(tmp_path / "y.wav")
    wanted = enhance(tmp_path / "x.wav", model=run, config=CONFIG).speech
    assert (rate, info(tmp_path / "y.wav").subtype) == (44_100, "PCM_24")
    assert np.abs(y - wanted).max() < 2**-23
    assert np.abs(y - x).max() > 0.01  # the control: something was done


# --- segments


def test_segments_fade_into_each_other_without_a_step(tmp_path: Path) -> None:
    """A level that changes by a half from one segment to the next, on a constant."""
    write_audio(tmp_path / "x.wav", np.full(80_000, 0.5), 16_000, "FLOAT")

    def steps(shared: float) -> float:
        count = iter(range(99))

        def alternate(segment: np.ndarray, rate: int, each: Share) -> np.ndarray:
            return segment * (1.0 - 0.5 * (next(count) % 2))

        transform_file(tmp_path / "x.wav", tmp_path / "y.wav", alternate, window=1.0, shared=shared)
        y = read_audio(tmp_path / "y.wav")[0][0]
        assert (len(y), y.min(), y.max()) == (80_000, 0.25, 0.5)
        return float(np.abs(np.diff(y)).max())

    assert steps(0.25) == pytest.approx(0.25 / 4000, rel=0.01)
    assert steps(0.0) == 0.25  # the control


def test_a_long_file_in_segments_sounds_as_in_one_piece(tmp_path: Path, fast) -> None:
    """On a steady sound, the level in 50 ms never differs much; it does where segments do not overlap."""
    t = np.arange(128_000) / 16_000
    buzz = sum(np.sin(2 * np.pi * 150 * k * t) / k for k in range(1, 12))
    hiss = np.random.default_rng(0).standard_normal(len(t))
    write_audio(tmp_path / "x.wav", 0.1 * buzz + 0.02 * hiss, 16_000, "FLOAT")

    def level(window: float, shared: float) -> np.ndarray:
        transform_file(tmp_path / "x.wav", tmp_path / "y.wav", fast, window=window, shared=shared)
        return 10 * np.log10((read_audio(tmp_path / "y.wav")[0][0].reshape(-1, 800) ** 2).mean(1))

    whole = level(9.0, 0.5)
    assert 0 < np.abs(level(2.0, 0.5) - whole).max() < 1.5
    assert np.abs(level(2.0, 0.0) - whole).max() > 2.0  # the control


def test_silence_within_a_file_stays_and_a_silent_file_is_refused(tmp_path: Path, fast) -> None:
    x = sound(4.0)
    x[:, 16_000:48_000] = 0
    write_audio(tmp_path / "x.wav", x, 16_000)
    transform_file(tmp_path / "x.wav", tmp_path / "y.wav", fast, window=1.0, shared=0.25)
    y = read_audio(tmp_path / "y.wav")[0]
    assert not y[:, 20_000:44_000].any()
    assert y[:, :16_000].std() > 0.01
    assert y[:, 48_000:].std() > 0.01
    write_audio(tmp_path / "silent.wav", 0 * x, 16_000)
    with pytest.raises(AudioError, match=r"silent\.wav is silent: all its samples are zero\.$"):
        transform_file(tmp_path / "silent.wav", tmp_path / "z.wav", fast, window=1.0, shared=0.25)
    assert names(tmp_path) == ["silent.wav", "x.wav", "y.wav"]


def test_progress_rises_to_one(tmp_path: Path, fast) -> None:
    save_sound(tmp_path / "x.wav", 3.0)
    shares: list[float] = []
    transform_file(tmp_path / "x.wav", tmp_path / "y.wav", fast, shares.append, window=1.0, shared=0.25)
    assert len(shares) >= 1 + 3 * CONFIG.iterations
    assert shares == sorted(shares)
    assert 0 < shares[0] < 0.5
    assert shares[-1] == 1.0


# --- nothing half-written


def break_second(how: Callable[[np.ndarray], np.ndarray]) -> Transform:
    """Something that happens at the second segment."""
    count = iter(range(99))
    return lambda segment, rate, each: how(segment) if next(count) == 1 else segment


def interrupt(segment: np.ndarray) -> np.ndarray:
    raise KeyboardInterrupt("by hand")


@pytest.mark.parametrize("earlier", [False, True])
@pytest.mark.parametrize(
    ("case", "error", "sentence"),
    [
        ("nan in the input", AudioError, "x.wav has 1 samples that are NaN or infinite."),
        ("nan in the output", AudioError, "y.wav has 1 samples that are NaN or infinite."),
        ("interrupted", KeyboardInterrupt, "by hand"),
        ("disk full", AudioError, "y.wav cannot be written: "),
    ],
)
def test_a_failure_on_the_way_leaves_what_was_there(
    tmp_path: Path, case: str, error: type[BaseException], sentence: str, earlier: bool
) -> None:
    x = sound(4.0)
    if case == "nan in the input":
        x[0, 40_000] = np.nan
    source, target = tmp_path / "in/x.wav", tmp_path / "out/y.wav"
    source.parent.mkdir()
    soundfile.write(source, x.T, 16_000, "FLOAT")
    if earlier:
        save_sound(target)
    before = target.read_bytes() if earlier else None
    how = {
        "nan in the output": break_second(lambda s: np.where(np.arange(s.shape[1]) == 9_000, np.nan, s)),
        "interrupted": break_second(interrupt),
    }.get(case, half)
    limit = 40_000 if case == "disk full" else 10**7
    with disk_of(limit), pytest.raises(error, match=re.escape(sentence)):
        transform_file(source, target, how, window=1.0, shared=0.25)
    assert names(tmp_path / "out") == ["y.wav"] * earlier
    assert not earlier or target.read_bytes() == before


def test_a_folder_that_cannot_be_made(tmp_path: Path) -> None:
    source = save_sound(tmp_path / "x.wav")
    (tmp_path / "file").touch()
    for out in ("file/y.wav", "file/deep/y.wav"):
        with pytest.raises(AudioError, match=r"y\.wav cannot be written: its folder cannot be made \("):
            transform_file(source, tmp_path / out, half)
    with pytest.raises(AudioError, match="cannot be written"):
        transform_file(source, Path("/proc/y.wav"), half)  # not even by root


def test_what_cannot_be_written_is_told_before_any_work(tmp_path: Path) -> None:
    """MP3 has no rate of 96 kHz."""
    source = save_sound(tmp_path / "x.wav")
    fast = tmp_path / "fast.wav"
    write_audio(fast, sound(0.4, 96_000), 96_000)
    with pytest.raises(AudioError, match=r"y\.mp3 cannot be written with 1 channels at 96000 Hz: "):
        transform_file(fast, tmp_path / "y.mp3", None)  # nothing is called
    with pytest.raises(TypeError):  # the control
        transform_file(source, tmp_path / "y.mp3", None)
    assert names(tmp_path) == ["fast.wav", "x.wav"]


def test_a_killed_run_leaves_nothing_behind_the_next_one(tmp_path: Path) -> None:
    source, target = save_sound(tmp_path / "x.wav"), tmp_path / "y.wav"
    child = os.fork()
    if child == 0:
        try:
            transform_file(source, target, lambda *_: os.kill(os.getpid(), signal.SIGKILL))
        finally:
            os._exit(1)
    assert os.WIFSIGNALED(os.waitpid(child, 0)[1])
    assert len(names(tmp_path)) == 2  # the control: something is left
    transform_file(source, target, half)
    assert names(tmp_path) == ["x.wav", "y.wav"]


# --- many files


def test_good_files_are_finished_and_bad_ones_come_back(tmp_path: Path, capsys) -> None:
    for name in ("a.wav", "c.flac", "deep/d.wav"):
        save_sound(tmp_path / "in" / name)
    (tmp_path / "in/b.wav").write_text("no sound")
    (tmp_path / "in/deep/e.wav").touch()
    (tmp_path / "in/f.aif").write_bytes((tmp_path / "in/a.wav").read_bytes())
    said: list[str] = []
    failed = transform_files(plan([tmp_path / "in"], tmp_path / "out"), half, log=said.append)
    assert [(p.name, why.split(" ", 1)[1]) for p, why in failed] == [
        ("b.wav", "cannot be read as audio: Format not recognised."),
        ("e.wav", "is empty (0 bytes)."),
    ]
    assert names(tmp_path / "out") == ["a.wav", "c.flac", "deep/d.wav", "f.wav"]
    assert said == [f"{tmp_path}/in/f.aif becomes {tmp_path}/out/f.wav: its own format can only be read"]
    out, err = capsys.readouterr()
    assert out == ""
    assert "100%" in err
    assert "f.aif (6 of 6)" in err


def test_a_rerun_does_what_is_missing_or_older(tmp_path: Path) -> None:
    for name in "abc":
        save_sound(tmp_path / f"in/{name}.wav")
    jobs = plan([tmp_path / "in"], tmp_path / "out")
    done: list[int] = []

    def counting(segment: np.ndarray, rate: int, each: Share) -> np.ndarray:
        done.append(segment.shape[1])
        return segment

    def interrupting(segment: np.ndarray, rate: int, each: Share) -> np.ndarray:
        if done:
            raise KeyboardInterrupt
        return counting(segment, rate, each)

    with pytest.raises(KeyboardInterrupt):
        transform_files(jobs, interrupting)
    assert names(tmp_path / "out") == ["a.wav"]
    said: list[str] = []
    transform_files(jobs, counting, log=said.append)
    assert len(done) == 3
    assert said == [
        f"skipped {tmp_path}/in/a.wav: {tmp_path}/out/a.wav is done already (--force does it again)"
    ]
    source = tmp_path / "in/b.wav"
    later = (tmp_path / "out/b.wav").stat().st_mtime + 10
    os.utime(source, (later, later))
    transform_files(jobs, counting)
    assert len(done) == 4
    transform_files(jobs, counting, force=True)
    assert len(done) == 7


def test_what_is_there_counts_as_done_only_if_it_may_be_the_output(tmp_path: Path) -> None:
    short, long = save_sound(tmp_path / "short.wav", 1.0), save_sound(tmp_path / "long.wav", 2.0)
    target = tmp_path / "y.wav"
    assert not Job(short, target).done
    transform_file(short, target, half)
    assert Job(short, target).done
    assert not Job(long, target).done
    target.write_text("not a sound")
    assert not Job(short, target).done
