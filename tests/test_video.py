"""Videos in: their times, what is on screen when, lips in faces, and all that can be wrong with a file."""

from __future__ import annotations

import math
import sys
import warnings
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
import soundfile
import torch
from skimage.data import astronaut
from torch import Tensor

from pyrodvae.lip_region import MOUTH, crop, find_faces, lip_regions
from pyrodvae.signal import STFT
from pyrodvae.video import Video, align, read_video, shown
from pyrodvae.video_file import VideoError, pictures, write_video

LONG = STFT()
RATE = LONG.sample_rate


def levels(count: int, side: int = 16) -> Tensor:
    """Pictures of one grey each, every one brighter than the one before: (N, side, side)."""
    return (torch.arange(count) / max(1, count - 1))[:, None, None].expand(count, side, side).contiguous()


def regular(count: int, rate: float = 25) -> Tensor:
    return torch.arange(count, dtype=torch.double) / rate


def numbered(count: int, rate: float = 25, keep: Tensor | None = None) -> Video:
    """In memory: picture n shows the number n / 1000; some may have been dropped."""
    n = torch.arange(count) if keep is None else keep
    return Video((n / 1000).float()[:, None, None].expand(-1, 2, 2), n.double() / rate, rate)


def numbers(v: Tensor) -> list[int]:
    """The numbers of the pictures in v (T, V), -1 for missing."""
    return torch.nan_to_num(v[:, 0] * 1000, nan=-1).round().int().tolist()


def lossless(path: Path, frames: Tensor, times: Tensor) -> Path:
    write_video(path, frames, times, "ffv1")
    return path


# --- reading


def test_pictures_and_times_come_back(tmp_path: Path) -> None:
    """Of irregular times, too, and without a frame of those that an encoder has dropped."""
    torch.manual_seed(0)
    frames = torch.rand(20, 16, 16)
    kept = torch.tensor([n for n in range(25) if n not in (3, 10, 11, 12, 24)])
    times = kept / 25 + 0.01 * torch.rand(20).double()
    for name, codec, loss in (("a.mkv", "ffv1", 0.003), ("a.mp4", "libx264", 1.0)):
        write_video(tmp_path / name, frames, times, codec)
        video = read_video(tmp_path / name, 16)
        assert video.frames.shape == (20, 16, 16)
        assert (video.times - times).abs().max() < 6e-4  # Matroska rounds to a millisecond
        assert (video.frames - frames).abs().max() < loss
        assert video.warnings == ()
        assert video.rate == pytest.approx(25, rel=0.2)
    assert (regular(20) - times).abs().max() > 0.1  # the control: by index and rate, they would be wrong


def test_a_pixel_is_the_mean_of_its_area(tmp_path: Path) -> None:
    torch.manual_seed(0)
    frames = torch.randint(256, (2, 24, 16)) / 255
    path = lossless(tmp_path / "a.mkv", frames, regular(2))
    mean = frames.unflatten(1, (8, 3)).unflatten(3, (8, 2)).mean((2, 4))
    assert (read_video(path, 8).frames - mean).abs().max() < 1e-5
    assert (frames[:, ::3, ::2] - mean).abs().max() > 0.1  # the control: picking one would not do


def test_grey_has_its_full_range(tmp_path: Path) -> None:
    write_video(tmp_path / "a.mp4", levels(11), regular(11))
    assert (
        read_video(tmp_path / "a.mp4", 8).frames.mean((1, 2)) - torch.linspace(0, 1, 11)
    ).abs().max() < 0.02


def test_a_region_is_cut_and_squeezed(tmp_path: Path) -> None:
    frames = torch.zeros(3, 20, 40)
    frames[:, 5:15, 10:20] = 1
    path = lossless(tmp_path / "a.mkv", frames, regular(3))
    assert read_video(path, 8, (0.25, 0.25, 0.25, 0.5)).frames.min() == 1
    assert read_video(path, 8, (0.25, 0.25, 0.3, 0.5)).frames.min() == 0
    beyond = crop(np.arange(16, dtype=np.uint8).reshape(4, 4), (-0.25, 0.5, 0.5, 0.75), 1)
    assert float(beyond) * 255 == pytest.approx((8 + 12 + 12) / 3)  # its edge repeated
    for bad in ((0.5, 0, 0.6, 1), (-0.1, 0, 0.5, 1), (0, 0, 0, 1)):
        with pytest.raises(ValueError, match="lip region"):
            read_video(path, 8, bad)
    with pytest.raises(ValueError, match="side=0"):
        read_video(path, 0)


def test_a_turned_camera_is_turned_back(tmp_path: Path) -> None:
    """Of an MP4 whose header says so, as those of telephones do: up is where it was."""
    frames = torch.zeros(3, 32, 32)
    frames[:, :16] = 1
    write_video(tmp_path / "a.mp4", frames, regular(3))
    assert read_video(tmp_path / "a.mp4", 2).frames[0].mean(1).tolist() == pytest.approx([1, 0], abs=0.05)
    content = (tmp_path / "a.mp4").read_bytes()
    one, clockwise = 0x10000, [0, 0x10000, 0, -0x10000, 0, 0, 0, 0, 0x40000000]
    upright = b"".join(x.to_bytes(4, "big", signed=True) for x in [one, 0, 0, 0, one, 0, 0, 0, 0x40000000])
    turned = b"".join(x.to_bytes(4, "big", signed=True) for x in clockwise)
    at = content.index(upright, content.index(b"tkhd"))
    (tmp_path / "b.mp4").write_bytes(content[:at] + turned + content[at + len(upright) :])
    picture = read_video(tmp_path / "b.mp4", 2).frames[0]
    assert picture.mean(0).tolist() == pytest.approx([0, 1], abs=0.05)  # what was above is on the right


def with_sound(path: Path, video_start: float, sound_start: float | None) -> Path:
    """Twelve pictures and half a second of sound in a Matroska file, each from a time of its own."""
    with av.open(str(path), "w") as container:
        film = container.add_stream("ffv1", rate=25)
        film.width = film.height = 16
        film.pix_fmt = "gray"
        sound = None if sound_start is None else container.add_stream("pcm_s16le", rate=RATE, layout="mono")
        packets = []
        for n in range(12):
            frame = av.VideoFrame.from_ndarray(np.full((16, 16), 20 * n, np.uint8), format="gray")
            frame.pts, frame.time_base = n + round(25 * video_start), Fraction(1, 25)
            packets += film.encode(frame)
        packets += film.encode()
        for n in range(0, RATE // 2, 800) if sound else ():
            part = av.AudioFrame.from_ndarray(np.ones((1, 800), np.int16), "s16", "mono")
            part.sample_rate, part.time_base = RATE, Fraction(1, RATE)
            part.pts = n + round(RATE * sound_start)
            packets += sound.encode(part)
        container.mux(sorted(packets, key=lambda p: p.pts * p.time_base))
    return path


@pytest.mark.parametrize(("video", "sound", "first"), [(0.4, 0.4, 0.0), (0.4, 0.2, 0.2), (0.4, None, 0.4)])
def test_zero_is_the_first_sample_of_the_sound(tmp_path: Path, video: float, sound, first: float) -> None:
    """Audio cut out of such a file begins there; without sound, zero is the file's own."""
    read = read_video(with_sound(tmp_path / "a.mkv", video, sound), 4)
    assert read.times[:2].tolist() == pytest.approx([first, first + 0.04], abs=1e-3)
    assert read.warnings == ()


@pytest.mark.parametrize(
    ("name", "codec"), [("a.mpg", "mpeg2video"), ("a.ts", "libx264"), ("a.flv", "libx264")]
)
def test_streams_without_a_zero_start_with_their_first_picture(tmp_path: Path, name: str, codec: str) -> None:
    path = tmp_path / name
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=25)
        stream.width = stream.height = 32
        stream.pix_fmt = "yuv420p"
        for n in range(10):
            frame = av.VideoFrame.from_ndarray(np.full((32, 32), 25 * n, np.uint8), format="gray")
            container.mux(stream.encode(frame.reformat(format="yuv420p")))
        container.mux(stream.encode())
    with av.open(str(path)) as container:
        assert next(container.decode(video=0)).time > 0.07  # the control: the file counts from elsewhere
    video = read_video(path, 4)
    assert video.times.tolist() == pytest.approx(regular(10).tolist(), abs=1e-3)
    assert bool((video.frames.mean((1, 2)).diff() > 0.05).all())
    assert video.warnings == ()


# --- what is on screen when


@pytest.mark.parametrize("rate", [25, 30, 29.97, 50, 12.5])
def test_a_frame_gets_the_picture_on_screen(rate: float) -> None:
    """The last one that has appeared by its centre, at every rate; a silent shift would be caught."""
    length = 3 * RATE
    count = math.ceil(3 * rate)
    v, told = align(numbered(count, rate), LONG, length)
    assert v.shape == (LONG.frames(length), 4)
    assert told == ()
    wanted = [min(math.floor((256 * t / RATE + 1e-3) * rate), count - 1) for t in range(len(v))]
    assert numbers(v) == wanted
    for shift in (-0.02, 0.02):  # the control: by half a picture at 25 per second
        late = numbered(count, rate)
        shifted, _ = align(Video(late.frames, late.times + shift, rate), LONG, length)
        assert numbers(shifted) != wanted


def test_where_nothing_is_missing_it_is_what_was_published() -> None:
    """Index floor(t N / T), where audio and video last the same and T is a multiple of the ratio."""
    frames, count = 150, 60
    n = shown(regular(count), 25, torch.arange(frames, dtype=torch.double) / LONG.frame_rate)
    assert n.tolist() == [t * count // frames for t in range(frames)]
    lost = shown(regular(count)[:50], 25, torch.arange(frames, dtype=torch.double) / LONG.frame_rate)
    assert lost.tolist() != [t * 50 // frames for t in range(frames)]  # it would stretch 50 to 60
    assert lost[:125].tolist() == n[:125].tolist()


def test_dropped_pictures_leave_a_gap_and_no_shift() -> None:
    keep = torch.tensor([n for n in range(75) if not 20 <= n < 30 and n != 50])
    v, told = align(numbered(75, keep=keep), LONG, 3 * RATE)
    whole, _ = align(numbered(75), LONG, 3 * RATE)
    here = ~v[:, 0].isnan()
    time = torch.arange(len(v)) / LONG.frame_rate
    # A picture stays for 1.5 periods: the last half of the period of a single loss is bare.
    gap = ((time >= 0.82) & (time < 1.199)) | ((time >= 2.02) & (time < 2.039))
    assert torch.equal(~here, gap)
    kept = here & ~((time >= 0.8) & (time < 0.82)) & ~((time >= 2.0) & (time < 2.02))
    assert torch.equal(v[kept], whole[kept])
    assert told == (f"The video has gaps: {int(gap.sum())} of {len(v)} frames of the audio have no picture.",)


def test_longer_and_shorter_videos_are_told_and_never_stretched() -> None:
    right, told = align(numbered(75), LONG, 3 * RATE)
    assert told == ()
    short, told = align(numbered(60), LONG, 3 * RATE)
    assert told[0].startswith("The video ends 0.60 s before the audio")
    assert torch.equal(short[:150], right[:150])
    assert bool(short[152:].isnan().all())
    long, told = align(numbered(100), LONG, 3 * RATE)
    assert told[0].startswith("The video goes on for 1.00 s after the audio")
    assert torch.equal(long[:187], right[:187])
    _, told = align(numbered(77), LONG, 3 * RATE)  # two pictures more are not worth a word
    assert told == ()
    late = numbered(75)
    v, told = align(Video(late.frames, late.times + 0.5, 25), LONG, round(3.5 * RATE))
    assert told == ("The video starts 0.50 s after the audio: no lips before.",)
    assert bool(v[:31].isnan().all())
    assert not v[32:].isnan().any()


def test_a_wrong_rate_is_told() -> None:
    """75 pictures of three seconds, in a file that says 30 per second."""
    v, told = align(numbered(75, rate=30), LONG, 3 * RATE)
    assert len(told) == 1
    assert told[0].startswith("The video ends 0.50 s before the audio")
    assert told[0].endswith("(are its 30 pictures per second right?).")
    assert bool(v[160:].isnan().all())


# --- faces


@pytest.fixture(scope="module")
def woman() -> np.ndarray:
    """A face (grey, 300 x 400), its mouth at MOUTH_AT."""
    return astronaut()[:300, 60:460].mean(-1).astype(np.uint8)


MOUTH_AT = (163 / 400, 146 / 300)


def moving(woman: np.ndarray, count: int) -> list[np.ndarray]:
    """The camera moves right by two pixels a picture: the face moves left."""
    return [np.roll(woman, -2 * n, 1) for n in range(count)]


def test_lips_are_found_in_a_moving_face(woman: np.ndarray) -> None:
    count = 21
    faces = find_faces(moving(woman, count))
    boxes = lip_regions(faces, 25.0)
    assert not boxes.isnan().any()
    centre = boxes[:, :2] + boxes[:, 2:] / 2
    moves = torch.arange(count) * 2 / 400
    mouth = torch.stack([MOUTH_AT[0] - moves, torch.full((count,), MOUTH_AT[1])], -1)
    wrong = (centre - mouth).abs() / boxes[:, 2:]
    assert wrong.max() < 0.25
    assert (centre[0] - mouth).abs().max() / boxes[0, 2] > 0.6  # the control: a box that stands still
    assert boxes[4, 2] * 400 == pytest.approx(boxes[4, 3] * 300)  # a square
    assert boxes[4, 2] < faces[4, 2]


def test_boxes_are_steady_and_single_errors_dropped() -> None:
    torch.manual_seed(0)
    faces = torch.tensor([0.3, 0.2, 0.4, 0.4]).double().repeat(50, 1)
    noisy = faces + 0.01 * torch.randn(50, 4).double()
    noisy[20] = torch.tensor([0.8, 0.8, 0.1, 0.1])  # another face
    noisy[30] = math.nan
    boxes, right = lip_regions(noisy, 25.0), lip_regions(faces, 25.0)
    assert bool(boxes[30].isnan().all())
    assert int(boxes.isnan().any(-1).sum()) == 1
    seen = [n for n in range(50) if n != 30]
    assert (boxes - right)[seen].abs().max() < 0.012
    x, y, side = MOUTH
    wanted = torch.tensor([0.3 + 0.4 * (x - side / 2), 0.2 + 0.4 * (y - side / 2), 0.4 * side, 0.4 * side])
    assert (right - wanted).abs().max() < 1e-6
    assert (noisy[20] - faces[20]).abs().max() > 0.4  # the control: not smoothed, it is far away


def test_pictures_without_a_face_are_missing(tmp_path: Path, woman: np.ndarray) -> None:
    film = torch.from_numpy(np.stack(moving(woman, 6))).float() / 255
    film[2] = 0.5
    video = read_video(lossless(tmp_path / "a.mkv", film, regular(6)), 16, "face")
    assert video.frames.isnan().flatten(1).any(-1).tolist() == [n == 2 for n in range(6)]
    assert video.warnings == ()
    v, told = align(video, LONG, round(0.24 * RATE))
    assert v.isnan().any(-1).tolist() == [4.99 <= t < 7.5 for t in range(len(v))]
    assert "has gaps" in told[0]
    film[3:] = 0.5
    video = read_video(lossless(tmp_path / "b.mkv", film, regular(6)), 16, "face")
    assert video.warnings == (f"{tmp_path}/b.mkv shows no face in 4 of its 6 pictures: no lips there.",)


# --- files that are wrong


def test_files_that_are_no_videos_are_refused_in_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "empty.mp4").touch()
    (tmp_path / "text.mp4").write_text("not a video " * 99)
    (tmp_path / "text.txt").write_text("not a video " * 99)
    soundfile.write(tmp_path / "sound.wav", np.zeros(9999), RATE)
    write_video(tmp_path / "whole.mp4", levels(20), regular(20))
    content = (tmp_path / "whole.mp4").read_bytes()
    (tmp_path / "cut.mp4").write_bytes(content[: content.index(b"moov")])  # its index is at the end
    for name, words in (
        ("none.mp4", "does not exist"),
        ("", "is a directory"),
        ("empty.mp4", r"is empty \(0 bytes\)"),
        ("text.mp4", "cannot be read as video: invalid data"),
        ("text.txt", "is text, not a video"),
        ("sound.wav", "holds sound only"),
        ("cut.mp4", "cannot be read as video"),
    ):
        with pytest.raises(VideoError, match=words) as told:
            read_video(tmp_path / name)
        assert str(told.value).startswith(str(tmp_path / name))
        assert str(told.value).endswith(".")
        assert "\n" not in str(told.value)


def test_the_cover_of_a_record_is_no_film(tmp_path: Path) -> None:
    def record(path: Path, cover: bool) -> Path:
        with av.open(str(path), "w", format="mp4") as container:
            picture = container.add_stream("mjpeg", rate=25)
            picture.width = picture.height = 16
            picture.pix_fmt = "yuvj420p"
            if cover:
                picture.disposition = av.stream.Disposition.attached_pic
            sound = container.add_stream("aac", rate=RATE, layout="mono")
            frame = av.VideoFrame.from_ndarray(np.full((16, 16), 99, np.uint8), format="gray")
            container.mux(picture.encode(frame.reformat(format="yuvj420p")) + picture.encode())
            part = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), "fltp", "mono")
            part.sample_rate = RATE
            container.mux(sound.encode(part) + sound.encode())
        return path

    with pytest.raises(VideoError, match="holds sound only"):
        read_video(record(tmp_path / "cover.m4a", cover=True))
    assert len(read_video(record(tmp_path / "film.m4a", cover=False)).times) == 1  # the control


def test_a_file_cut_off_gives_what_is_there_and_says_so(tmp_path: Path) -> None:
    torch.manual_seed(0)
    frames = torch.rand(50, 32, 32)
    path = lossless(tmp_path / "a.mkv", frames, regular(50))
    whole = path.read_bytes()
    assert read_video(path, 32).warnings == ()  # the control
    (tmp_path / "cut.mkv").write_bytes(whole[: len(whole) // 2])
    video = read_video(tmp_path / "cut.mkv", 32)
    assert 20 <= len(video.times) <= 30
    assert (video.frames - frames[: len(video.times)]).abs().max() < 0.003
    assert any("ends early" in sentence for sentence in video.warnings)
    v, told = align(video, LONG, 2 * RATE)
    assert "before the audio" in told[0]
    assert bool(v[-50:].isnan().all())


def test_a_damaged_part_is_missing_and_shifts_nothing(tmp_path: Path) -> None:
    torch.manual_seed(0)
    frames = torch.rand(50, 32, 32)
    path = lossless(tmp_path / "a.mkv", frames, regular(50))
    content = bytearray(path.read_bytes())
    at = len(content) // 2
    content[at : at + 2500] = bytes(2500)
    path.write_bytes(content)
    video = read_video(path, 32)
    assert 35 <= len(video.times) < 50
    assert any("damaged" in sentence or "ends early" in sentence for sentence in video.warnings)
    n = (video.times * 25).round().long()
    same = (video.frames - frames[n]).abs().amax((1, 2)) < 0.003
    assert int((~same).sum()) <= 1  # at their own times
    assert int(n[-1]) == 49
    by_order = (video.frames - frames[: len(n)]).abs().amax((1, 2)) < 0.003
    assert int((~by_order).sum()) > 10  # the control: put in order, they would be shifted


def test_times_that_go_backwards_are_refused(monkeypatch, tmp_path: Path) -> None:
    grey = np.zeros((4, 4), np.uint8)
    monkeypatch.setattr("pyrodvae.video.pictures", lambda *_: iter([(0.0, grey), (0.04, grey), (0.02, grey)]))
    with pytest.raises(VideoError, match=r"^film has times that go backwards after picture 2\.$"):
        read_video("film")


def test_a_missing_library_is_named_with_the_way_to_get_it(monkeypatch, tmp_path: Path) -> None:
    path = lossless(tmp_path / "a.mkv", levels(2), regular(2))
    with monkeypatch.context() as patch:
        patch.setitem(sys.modules, "av", None)
        with pytest.raises(VideoError, match=r'needs PyAV: pip install "pyrodvae\[video\]"\.$'):
            read_video(path)
    monkeypatch.setitem(sys.modules, "skimage.feature", None)
    with pytest.raises(VideoError, match=r'needs scikit-image: pip install "pyrodvae\[video\]"\.$'):
        read_video(path, region="face")


def test_what_cannot_be_written_is_told(tmp_path: Path) -> None:
    for name, frames, times, words in (
        ("a.mp4", levels(3, 15), regular(3), "even"),
        ("a.mp4", levels(3), regular(4), "N times"),
        ("a.mp4", levels(3), torch.zeros(3), "increase"),
        ("a.gif", levels(3), regular(3), "end in .mp4"),
    ):
        with pytest.raises(VideoError, match=words):
            write_video(tmp_path / name, frames, times)
    assert list(tmp_path.iterdir()) == []


# --- real lips


def test_real_videos_fit_their_audio(data_dir: Path) -> None:
    folder = data_dir / "av" / "grid" / "s1"
    for path in sorted(folder.glob("*.mp4"))[:2]:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            video = read_video(path)
        assert video.frames.shape == (75, 32, 32)
        assert video.rate == pytest.approx(25)
        assert video.warnings == ()
        v, told = align(video, LONG, soundfile.info(path.with_suffix(".flac")).frames)
        assert told == ()
        assert v.shape == (188, 1024)
        assert 0 <= v.min() < v.max() <= 1
    assert read_video(path, 67).frames.shape == (75, 67, 67)
    none, _ = zip(*pictures(path, []), strict=True)
    assert bool(find_faces(p for _, p in list(pictures(path, []))[:3]).isnan().all())  # lips are no face
    assert len(none) == 75
