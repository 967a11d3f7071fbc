"""Audio files whole and in segments, and every refusal in a sentence."""

from __future__ import annotations

import re
import resource
import tracemalloc
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import soundfile

from pyrodvae.audio import (
    AudioError,
    check_waveform,
    info,
    read_audio,
    read_segments,
)
from pyrodvae.audio_writer import OverlapWriter, write_audio
from pyrodvae.whole import NotWritten, save


def noise(*shape: int, scale: float = 0.1) -> np.ndarray:
    drawn = scale * np.random.default_rng(7).standard_normal(shape)
    return drawn.clip(-1, 1).astype(np.float32)


# --- formats


@pytest.mark.parametrize(
    ("suffix", "subtype", "error"),
    [
        (".wav", "PCM_16", 2**-16),
        (".wav", "PCM_24", 2**-24 + 2**-25),  # half a step, and the rounding of float32
        (".wav", "FLOAT", 0.0),
        (".flac", "PCM_16", 2**-16),
        (".flac", "PCM_24", 2**-24 + 2**-25),
        (".aiff", "PCM_16", 2**-16),
    ],
)
def test_round_trip(tmp_path: Path, suffix: str, subtype: str, error: float) -> None:
    x, path = noise(2, 40_001), tmp_path / f"x{suffix}"
    write_audio(path, x, 44_100, subtype)
    y, rate = read_audio(path)
    header = info(path)
    assert (header.rate, header.channels, header.frames) == (44_100, 2, 40_001)
    assert (header.subtype, header.seconds) == (subtype, 40_001 / 44_100)
    assert (y.dtype, y.shape, rate) == (np.float32, x.shape, 44_100)
    assert np.abs(y - x).max() <= error
    assert abs(float((y - x).mean(dtype=np.float64))) <= error / 20  # rounded, not truncated
    assert [p.name for p in tmp_path.iterdir()] == [path.name]


@pytest.mark.parametrize(("suffix", "subtype"), [(".ogg", "VORBIS"), (".mp3", "MPEG_LAYER_III")])
def test_round_trip_of_lossy_formats(tmp_path: Path, suffix: str, subtype: str) -> None:
    """Long enough for several blocks: seeking between them would break the decoding of MP3."""
    x = (0.3 * np.sin(2 * np.pi * 440 * np.arange(80_001) / 16_000)).astype(np.float32)
    path = tmp_path / f"x{suffix}"
    write_audio(path, x, 16_000)
    y, _ = read_audio(path)
    assert info(path).subtype == subtype
    assert y.shape == (1, 80_001)
    assert np.abs(y[0] - x)[1000:-1000].max() < 0.02


def test_defaults_and_16_bit_values_are_kept(tmp_path: Path) -> None:
    levels = (np.arange(-32_768, 32_768) / 32_768).astype(np.float32)
    for name, subtype in (("x.wav", "PCM_16"), ("x.flac", "PCM_16")):
        write_audio(tmp_path / name, levels, 16_000)
        assert info(tmp_path / name).subtype == subtype
        np.testing.assert_array_equal(read_audio(tmp_path / name)[0][0], levels)


@pytest.mark.parametrize("name", ["x.wav", "x.flac", "x.ogg"])
def test_beyond_full_scale_clips_with_a_warning_and_never_wraps(tmp_path: Path, name: str) -> None:
    tone = 1.5 * np.sin(2 * np.pi * 200 * np.arange(16_000) / 16_000)
    with pytest.warns(UserWarning, match=rf"{name}: \d+ samples beyond full scale were clipped"):
        write_audio(tmp_path / name, tone, 16_000)
    y = read_audio(tmp_path / name)[0][0]
    assert np.abs(y - tone.clip(-1, 1))[500:-500].max() < 0.3  # a wrap would be an error of 2
    write_audio(tmp_path / "float.wav", tone, 16_000, "FLOAT")  # no warning: it fits
    assert read_audio(tmp_path / "float.wav")[0].max() == pytest.approx(1.5, rel=1e-6)


def test_flac_without_a_length_in_its_header(tmp_path: Path) -> None:
    path, x = tmp_path / "x.flac", noise(1, 40_000)
    write_audio(path, x, 16_000)
    data = bytearray(path.read_bytes())
    data[21:26] = bytes([data[21] & 0xF0, 0, 0, 0, 0])  # STREAMINFO: total samples unknown
    path.write_bytes(data)
    assert info(path).frames == 40_000
    assert np.abs(read_audio(path)[0] - x).max() < 1e-4
    assert sum(s.shape[1] for s in read_segments(path, 1.0, 0.0)) == 40_000


# --- refusals

FORMATS_TOLD = "cannot be written: its name has to end in .wav, .flac, .ogg, .mp3 or .aiff."


@pytest.mark.parametrize("read", [info, read_audio, lambda path: next(read_segments(path, 1, 0))])
def test_files_that_are_no_audio(tmp_path: Path, read) -> None:
    (tmp_path / "empty.wav").touch()
    (tmp_path / "folder.wav").mkdir()
    (tmp_path / "text.wav").write_text("not a recording\n" * 99)
    (tmp_path / "text.raw").write_text("not a recording\n" * 99)
    for name, sentence in (
        ("missing.wav", "missing.wav does not exist."),
        ("folder.wav", "folder.wav is a directory, not an audio file."),
        ("empty.wav", "empty.wav is empty (0 bytes)."),
        ("text.wav", "text.wav cannot be read as audio: Format not recognised."),
        ("text.raw", "text.raw cannot be read as audio: samplerate must be specified."),
    ):
        with pytest.raises(AudioError, match=re.escape(sentence) + "$"):
            read(tmp_path / name)


def test_damaged_files(tmp_path: Path) -> None:
    x = noise(1, 100_000)
    for suffix in (".flac", ".mp3"):
        write_audio(tmp_path / f"x{suffix}", x, 16_000)
        data = (tmp_path / f"x{suffix}").read_bytes()
        (tmp_path / f"cut{suffix}").write_bytes(data[: len(data) // 2])
    with pytest.raises(AudioError, match=r"cut\.flac cannot be read as audio: .*lost sync"):
        read_audio(tmp_path / "cut.flac")
    with pytest.warns(
        UserWarning, match=r"cut.mp3 ends early: [234]\.\d\d of 6\.25 seconds could be read\.$"
    ):
        y, _ = read_audio(tmp_path / "cut.mp3")
    assert 30_000 < y.shape[1] < 70_000
    write_audio(tmp_path / "x.ogg", x, 16_000)
    data = (tmp_path / "x.ogg").read_bytes()
    (tmp_path / "cut.ogg").write_bytes(data[: len(data) // 2])
    y, _ = read_audio(tmp_path / "cut.ogg")  # OGG does not say how long it was
    assert info(tmp_path / "cut.ogg").frames == y.shape[1]
    assert 10_000 < y.shape[1] < 70_000


@pytest.mark.parametrize(
    ("suffix", "format"), [(".wav", "WAV"), (".wav", "WAVEX"), (".aiff", "AIFF"), (".au", "AU")]
)
def test_a_header_that_promises_more_is_told_and_what_is_there_is_read(
    tmp_path: Path, suffix: str, format: str
) -> None:
    x, path = noise(2, 32_000), tmp_path / f"x{suffix}"
    soundfile.write(path, x.T, 16_000, "PCM_16", format=format)
    whole = path.read_bytes()
    assert read_audio(path)[0].shape == x.shape  # the control: no warning
    path.write_bytes(whole[: len(whole) - 4 * 20_000])
    for read in (read_audio, lambda path: sum(s.shape[1] for s in read_segments(path, 0.5, 0.0))):
        with pytest.warns(UserWarning, match=r"ends early: 0\.75 of 2\.00 seconds could be read\.$"):
            read(path)
    assert info(path).frames == 12_000


@pytest.mark.parametrize("length", [0xFFFFFFFF, 0x7FFFF000])
def test_a_length_that_is_left_open_is_no_early_end(tmp_path: Path, length: int) -> None:
    """What ffmpeg and sox write into a pipe, where they cannot go back to the header."""
    x, path = noise(1, 16_000), tmp_path / "x.wav"
    write_audio(path, x, 16_000)
    data = bytearray(path.read_bytes())
    data[40:44] = length.to_bytes(4, "little")
    path.write_bytes(data)
    assert read_audio(path)[0].shape == x.shape


def test_a_link_to_nothing_is_told_as_that(tmp_path: Path) -> None:
    (tmp_path / "x.wav").symlink_to("gone.wav")
    with pytest.raises(AudioError, match=r"x\.wav is a link to gone\.wav, which does not exist\.$"):
        read_audio(tmp_path / "x.wav")


def test_a_file_that_may_not_be_read_is_told_with_the_reason(tmp_path: Path, monkeypatch) -> None:
    """Root may read everything, so the refusal is made up."""
    write_audio(tmp_path / "x.wav", noise(1, 5000), 16_000)

    def refuse(self: Path, *_: object) -> None:
        raise PermissionError(13, "Permission denied", str(self))

    monkeypatch.setattr(Path, "open", refuse)
    with pytest.raises(AudioError, match=r"x\.wav cannot be read as audio: Permission denied\.$"):
        read_audio(tmp_path / "x.wav")


@pytest.mark.parametrize(
    ("waveform", "sentence"),
    [
        (np.zeros((1, 0)), "x.wav holds no samples."),
        (np.ones((1, 1023)), "x.wav is too short: it lasts 63.9 ms and at least 64 ms are needed."),
        (np.zeros((2, 1024)), "x.wav is silent: all its samples are zero."),
        (np.r_[np.ones(2000), np.nan, -np.inf], "x.wav has 2 samples that are NaN or infinite."),
    ],
)
def test_waveforms_that_cannot_be_used(waveform: np.ndarray, sentence: str) -> None:
    with pytest.raises(AudioError, match="^" + re.escape(sentence) + "$"):
        check_waveform(waveform, "x.wav")


def test_one_window_is_enough() -> None:
    """The least that passes, at two rates, next to the most that does not."""
    check_waveform(np.ones((1, 1024)), "x.wav")
    check_waveform(np.ones((2, 2823)), "x.wav", 44_100)
    with pytest.raises(AudioError, match="too short"):
        check_waveform(np.ones((2, 2822)), "x.wav", 44_100)


@pytest.mark.parametrize(
    ("name", "waveform", "options", "sentence"),
    [
        ("x.m4a", noise(1, 99), {}, f"x.m4a {FORMATS_TOLD}"),
        ("x", noise(1, 99), {}, f"x {FORMATS_TOLD}"),
        ("x.wav", noise(99, 2), {}, "x.wav needs channels first, (C, N), not samples of shape (99, 2)."),
        ("no/x.wav", noise(1, 99), {}, "x.wav cannot be written: its folder does not exist."),
        ("x.flac", noise(1, 99), {"subtype": "FLOAT"}, "a FLAC file cannot hold FLOAT samples."),
        ("x.flac", noise(9, 99), {}, "x.flac cannot be written with 9 channels at 16000 Hz: "),
        ("x.mp3", noise(1, 99), {"rate": 17_000}, "x.mp3 cannot be written with 1 channels at "),
        ("x.ogg", noise(1, 99), {"rate": 400_000}, "it is beyond the OGG format."),
        ("x.wav", noise(1, 99), {"rate": 0}, "x.wav cannot be written with 1 channels at 0 Hz"),
        ("x.wav", noise(1, 0), {}, "x.wav was not written: there are no samples."),
        ("x.wav", np.array([0.1, np.nan]), {}, "x.wav has 1 samples that are NaN"),
        ("x.wav", np.arange(99), {}, "x.wav needs floating-point samples of shape (C, N), not int"),
        ("x.wav", noise(1, 2, 9), {}, "not float32 of shape (1, 2, 9)."),
        ("folder.wav", noise(1, 99), {}, "folder.wav cannot be written: Is a directory."),
    ],
)
def test_writing_is_refused_and_leaves_nothing(
    tmp_path: Path, name: str, waveform: np.ndarray, options: dict, sentence: str
) -> None:
    (tmp_path / "folder.wav").mkdir()
    with pytest.raises(AudioError, match=re.escape(sentence)):
        write_audio(tmp_path / name, waveform, **{"rate": 16_000, **options})
    assert [p.name for p in tmp_path.iterdir()] == ["folder.wav"]


def test_unwritable_folder() -> None:
    with pytest.raises(AudioError, match=r"x\.wav cannot be written"):
        write_audio("/proc/x.wav", noise(1, 99), 16_000)  # not even for root


def test_what_a_killed_run_left_is_overwritten(tmp_path: Path) -> None:
    path, left = tmp_path / "x.wav", []

    class Killed(BaseException):
        pass

    def kill(*_: object) -> None:
        left.extend(tmp_path.iterdir())
        left.append(left[0].read_bytes())
        raise Killed

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("os.replace", kill)
        with pytest.raises(Killed):
            write_audio(path, noise(1, 9000), 16_000)
    left[0].write_bytes(left[1])  # as kill -9 would have left it: nothing was cleaned up
    write_audio(path, noise(1, 5000), 16_000)
    assert list(tmp_path.iterdir()) == [path]
    assert info(path).frames == 5000


@contextmanager
def disk_of(size: int) -> Iterator[None]:
    """Let every file end at `size` bytes: a disk that fills up, seen by the C library itself."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.parametrize("suffix", [".wav", ".flac", ".ogg", ".mp3"])
@pytest.mark.parametrize("missing", ["start", "middle", "end"])
def test_full_disk_keeps_the_earlier_file(tmp_path: Path, suffix: str, missing: str) -> None:
    """At the end, libsndfile reports nothing for FLAC, OGG and MP3: only reading back shows it."""
    path = tmp_path / f"x{suffix}"
    write_audio(path, noise(1, 60_000), 16_000)
    earlier = path.read_bytes()
    size = {"start": 500, "middle": len(earlier) // 2, "end": len(earlier) - 400}[missing]
    sentence = rf"x\{suffix} cannot be written: File too large\.$"  # what the system says at this limit
    with disk_of(size), pytest.raises(AudioError, match=sentence):
        write_audio(path, noise(1, 60_000), 16_000)
    assert path.read_bytes() == earlier
    assert list(tmp_path.iterdir()) == [path]
    with disk_of(len(earlier) + 5000):  # the control: the same write fits a larger disk
        write_audio(path, noise(1, 60_000), 16_000)


def test_a_read_only_folder_is_told_with_the_name_of_the_file(tmp_path: Path, monkeypatch) -> None:
    """Root may write everywhere, so the refusals are made up: there, even taking away what is not is one."""

    def refuse(self: Path, *_: object, **__: object) -> None:
        raise OSError(30, "Read-only file system", str(self))

    for name in ("touch", "unlink", "write_bytes"):
        monkeypatch.setattr(Path, name, refuse)
    with pytest.raises(AudioError, match=r"/x\.wav cannot be written: Read-only file system\.$"):
        write_audio(tmp_path / "x.wav", noise(1, 5000), 16_000)
    with pytest.raises(NotWritten, match=r"/x\.csv cannot be written: Read-only file system\.$"):
        save(tmp_path / "x.csv", b"1,2")


def test_failure_to_rename_keeps_the_earlier_file(tmp_path: Path, monkeypatch) -> None:
    path = tmp_path / "x.wav"
    write_audio(path, noise(1, 5000), 16_000)
    earlier = path.read_bytes()

    def fail(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.replace", fail)
    with pytest.raises(AudioError, match=r"x\.wav cannot be written: No space left on device\.$"):
        write_audio(path, noise(1, 6000), 16_000)
    assert path.read_bytes() == earlier
    assert list(tmp_path.iterdir()) == [path]


# --- segments


@pytest.mark.parametrize("suffix", [".wav", ".mp3"])
@pytest.mark.parametrize(
    ("seconds", "overlap"),
    [(1.0, 0.25), (0.5, 0.25), (0.3, 0.0), (0.7, 0.123), (2.9, 0.1), (60.0, 1.0)],
)
@pytest.mark.parametrize("length", [500, 24_000, 48_017])
def test_segments_give_the_file_back(
    tmp_path: Path, length: int, seconds: float, overlap: float, suffix: str
) -> None:
    source, copy = tmp_path / f"x{suffix}", tmp_path / "y.wav"
    write_audio(source, noise(2, length), 16_000)
    with OverlapWriter(copy, 16_000, overlap, "FLOAT") as out:
        for segment in read_segments(source, seconds, overlap):
            out.write(segment)
            segment[:] = 9.0  # the caller owns what it was given
    np.testing.assert_array_equal(read_audio(copy)[0], read_audio(source)[0])


def test_wrong_overlap_does_not_give_the_file_back(tmp_path: Path) -> None:
    write_audio(tmp_path / "x.wav", noise(1, 48_000), 16_000)
    with OverlapWriter(tmp_path / "y.wav", 16_000, 0.2) as out:
        for segment in read_segments(tmp_path / "x.wav", 1.0, 0.25):
            out.write(segment)
    assert info(tmp_path / "y.wav").frames != 48_000


@pytest.mark.parametrize("overlap", [0, 2000])
def test_segment_sizes(tmp_path: Path, overlap: int) -> None:
    """All but the last are whole, and none brings less than the overlap or 64 ms of new samples."""
    least = max(overlap, 1024)
    for length in (8000, 8000 + least - 1, 8000 + least, 50_001):
        write_audio(tmp_path / "x.wav", noise(1, length), 16_000)
        sizes = [s.shape[1] for s in read_segments(tmp_path / "x.wav", 0.5, overlap / 16_000)]
        assert sum(sizes) - overlap * (len(sizes) - 1) == length
        assert sizes[:-1] == [8000] * (len(sizes) - 1)
        assert len(sizes) == 1 or sizes[-1] >= overlap + least
        assert sizes[-1] < 8000 + least
    with pytest.raises(ValueError, match=r"0\.5 s with an overlap of 0\.3 s cannot be cut"):
        read_segments(tmp_path / "x.wav", 0.5, 0.3)
    with pytest.raises(ValueError, match="cannot be cut"):
        read_segments(tmp_path / "x.wav", 0.5, -0.1)


def test_cross_fade_is_linear_and_sums_to_one(tmp_path: Path) -> None:
    with OverlapWriter(tmp_path / "y.wav", 1000, 0.1, "DOUBLE") as out:
        out.write(np.full(300, 0.0))
        out.write(np.full(300, 1.0))
    y = soundfile.read(tmp_path / "y.wav")[0]
    expected = np.r_[np.zeros(200), (np.arange(100) + 0.5) / 100, np.ones(200)]
    np.testing.assert_allclose(y, expected, rtol=0, atol=1e-15)


def write_segments(path: Path, segments: Iterable[np.ndarray], overlap: float = 0.1) -> None:
    with OverlapWriter(path, 16_000, overlap) as out:
        for segment in segments:
            out.write(segment)


def test_exception_between_segments_leaves_nothing(tmp_path: Path) -> None:
    seen = []

    def interrupted() -> Iterator[np.ndarray]:
        yield noise(1, 50_000)
        seen.extend(p.name for p in tmp_path.iterdir())
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_segments(tmp_path / "y.wav", interrupted())
    assert len(seen) == 1  # the temporary file, under another name
    assert seen != ["y.wav"]
    assert list(tmp_path.iterdir()) == []


def test_full_disk_between_segments_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(AudioError, match=r"y\.flac cannot be written"), disk_of(40_000):
        write_segments(tmp_path / "y.flac", [noise(1, 16_000)] * 9)
    assert list(tmp_path.iterdir()) == []


def test_segments_that_do_not_follow_are_refused(tmp_path: Path) -> None:
    path, sentence = tmp_path / "y.wav", r"y\.wav: a segment of shape .* does not continue"
    for second in (noise(2, 9000), noise(1, 999)):
        with pytest.raises(AudioError, match=sentence):
            write_segments(path, [noise(1, 9000), second], 1000 / 16_000)
    with pytest.raises(AudioError, match=r"y\.wav was not written: there are no samples"):
        write_segments(path, [])
    with pytest.raises(ValueError, match="cannot be negative"):
        write_segments(path, [], -0.1)
    assert list(tmp_path.iterdir()) == []


def test_memory_is_bounded_by_the_segment(tmp_path: Path) -> None:
    source, segment = tmp_path / "x.wav", 4 * 2 * 16_000  # bytes of one second in stereo
    write_audio(source, noise(2, 16_000 * 60), 16_000)
    tracemalloc.start()
    try:
        with OverlapWriter(tmp_path / "y.wav", 16_000, 0.1) as out:
            for piece in read_segments(source, 1.0, 0.1):
                out.write(piece)
        streaming = tracemalloc.get_traced_memory()[1]
        tracemalloc.reset_peak()
        read_audio(source)
        whole = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert streaming < 15 * segment < 60 * segment <= whole
