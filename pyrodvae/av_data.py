"""From a folder of recordings with videos of the same name to batches of crops of both."""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor

from pyrodvae.audio import AudioError, check_waveform, read_audio
from pyrodvae.corruption import Kind, corrupt, runs
from pyrodvae.data import CROPS, EDGE, Corpus, prepare
from pyrodvae.lip_region import Region
from pyrodvae.signal import STFT, resample
from pyrodvae.video import SIDE, on_grid, read_video
from pyrodvae.video_file import VideoError

SUFFIXES = (".mp4", ".mkv", ".mov", ".avi", ".webm", ".mpg")
TOP_DB = 40.0
"""Leading and trailing parts this far below the loudest are cut, as in :func:`pyrodvae.data.prepare`."""


class Recording(NamedTuple):
    """What is heard and seen of one utterance.

    Args:
        signal: (N,) float32, peak one.
        pictures: (M, V) uint8, as many as the video has.
        shown: (T,) the picture on screen at each frame of the STFT, -1 for none.
    """

    signal: Tensor
    pictures: Tensor
    shown: Tensor

    def video(self, start: int = 0, stop: int | None = None) -> Tensor:
        """The pictures v (stop - start, V) of some frames of the STFT, float32 in [0, 1], NaN for none."""
        n = self.shown[start:stop]
        return (self.pictures[n.clamp(min=0)].float() / 255).masked_fill((n < 0)[:, None], math.nan)


class AVBatch(NamedTuple):
    """A batch of crops.

    Args:
        x: (B, T, F) complex.
        lengths: (B,) or None where all have T frames.
        v: (B, T, V) float32 in [0, 1]; NaN where a picture is missing, and in the padding.
    """

    x: Tensor
    lengths: Tensor | None
    v: Tensor


def video_of(path: Path) -> Path:
    """The video beside a recording: its name with another suffix.

    Raises:
        VideoError: there is none.
    """
    if (video := beside(path)) is None:
        raise VideoError(f"{path} has no video of the same name beside it ({', '.join(SUFFIXES)}).")
    return video


def beside(path: Path) -> Path | None:
    """The video of a recording, if there is one."""
    return next((video for end in SUFFIXES if (video := path.with_suffix(end)).exists()), None)


def prepare_av(
    waveform: np.ndarray, rate: int, shown: Tensor, stft: STFT, denoise_db: float = 0.0
) -> tuple[Tensor, Tensor]:
    """One recording as :func:`pyrodvae.data.prepare` makes it, and its video cut with it.

    Silence is cut away in whole hops, so frame t of what is left is frame t + start of what was given.

    Args:
        waveform: (C, N).
        rate: its samples per second.
        shown: (T,) one entry for each STFT frame of the whole recording.
        stft: the STFT to come.
        denoise_db: see there.

    Returns:
        The signal (N',), and (T',) of ``shown`` with T' = ``stft.frames(N')``.
    """
    import librosa

    mono = resample(waveform.mean(0), rate, stft.sample_rate)
    _, (start, stop) = librosa.effects.trim(mono, top_db=TOP_DB, frame_length=1024, hop_length=stft.hop)
    signal = prepare(mono[None, start:stop], stft.sample_rate, stft, denoise_db, top_db=math.inf)
    first = int(start) // stft.hop
    return signal, shown[first : first + stft.frames(len(signal))]


def load_av(
    corpus: Corpus,
    stft: STFT,
    side: int = SIDE,
    denoise_db: float = 0.0,
    region: Region | Literal["face"] | None = None,
) -> tuple[list[Recording], list[tuple[Path, str]]]:
    """Read and prepare every recording with its video.

    Args:
        corpus: the recordings, see :func:`pyrodvae.data.scan`; videos lie beside them.
        stft: the STFT to come.
        side: rows and columns of a picture, V = side².
        denoise_db: how far the recordings' own noise is turned down.
        region: where the lips are, see :func:`pyrodvae.video.read_video`.

    Returns:
        The recordings, and (path, reason) of each that cannot be used: without a video, or with one
        that cannot be read, or as in :func:`pyrodvae.data.load`. What merely does not fit, such as a
        video that ends early, is told by a warning.

    Raises:
        AudioError: none of them can be used.
    """
    recordings: list[Recording] = []
    skipped: list[tuple[Path, str]] = []
    for path in corpus.files:
        try:
            recordings.append(_read(path, stft, side, denoise_db, region))
        except (AudioError, VideoError) as error:
            skipped.append((path, str(error)))
    if not recordings:
        raise AudioError(f"None of the {len(corpus.files)} recordings can be used: {skipped[0][1]}")
    return recordings, skipped


def _read(
    path: Path, stft: STFT, side: int, denoise_db: float, region: Region | Literal["face"] | None
) -> Recording:
    video_path = video_of(path)
    waveform, rate = read_audio(path)
    check_waveform(waveform, path, rate)
    video = read_video(video_path, side, region)
    length = -(-waveform.shape[-1] * stft.sample_rate // rate)
    shown, told = on_grid(video, stft, length)
    for sentence in (*video.warnings, *told):
        warnings.warn(sentence, stacklevel=2)
    signal, shown = prepare_av(waveform, rate, shown, stft, denoise_db)
    pictures = (video.frames.flatten(1).nan_to_num(0.0) * 255).round().byte()
    return Recording(signal, pictures, shown)


@dataclass(frozen=True)
class AVCrops:
    """Random crops of recordings as batches of spectrograms and videos: as :class:`pyrodvae.data.Crops`.

    A crop starts on a frame of its recording's STFT, so frame t of x and frame t of v are of one time.

    Args:
        recordings: what is heard and seen.
        stft: the transform.
        frames: T of a crop.
        batch_size: B.
        gain_db: each crop is turned down by a uniform random gain between 0 and this.
        corrupt_share: share of the frames whose pictures are corrupted, in runs; see
            :func:`pyrodvae.corruption.corrupt`.
        corrupt_kind: how.
        drop_share: share of the frames whose pictures are taken away, in runs: a model learns what to
            think of missing ones.
    """

    recordings: Sequence[Recording]
    stft: STFT
    frames: int = 50
    batch_size: int = 32
    gain_db: float = 0.0
    corrupt_share: float = 0.0
    corrupt_kind: Kind = "mixed"
    drop_share: float = 0.0

    @property
    def batches(self) -> int:
        """Batches in an epoch: as many as cover the corpus once on average."""
        total = sum(len(r.shown) for r in self.recordings)
        return max(1, round(total / (self.frames * self.batch_size)))

    def epoch(self, seed: int) -> Iterator[tuple[Tensor, Tensor | None, Tensor]]:
        """Yield (x (B, T, F) complex, lengths (B,) or None, v (B, T, V)); a seed gives the same batches."""
        rng = torch.Generator().manual_seed(seed ^ CROPS)  # not the stream of the draws of z
        weights = torch.tensor([float(len(r.signal)) for r in self.recordings])
        hops = self.frames - 1 + 2 * EDGE
        size, pixels = hops * self.stft.hop, self.recordings[0].pictures.shape[-1]
        for _ in range(self.batches):
            chosen = torch.multinomial(weights, self.batch_size, replacement=True, generator=rng)
            place = torch.rand(self.batch_size, generator=rng)
            gain = 10 ** (-self.gain_db / 20 * torch.rand(self.batch_size, generator=rng))
            batch = torch.zeros(self.batch_size, size)
            lengths = torch.full((self.batch_size,), self.frames)
            v = torch.full((self.batch_size, self.frames, pixels), math.nan)
            for i, which in enumerate(chosen.tolist()):
                recording = self.recordings[which]
                spare = max(0, len(recording.signal) - size) // self.stft.hop
                first = int(place[i] * (spare + 1))
                part = recording.signal[first * self.stft.hop :][:size]
                batch[i, : len(part)] = part * gain[i]
                if len(part) < size:
                    lengths[i] = max(1, self.stft.frames(len(part)) - 2 * EDGE)
                start = first + EDGE
                seen = recording.video(start, start + int(lengths[i]))
                v[i, : len(seen)] = seen
            x = self.stft(batch)[:, EDGE:-EDGE]
            yield AVBatch(x, None if bool((lengths == self.frames).all()) else lengths, self._damaged(v, rng))

    def _damaged(self, v: Tensor, rng: torch.Generator) -> Tensor:
        if self.corrupt_share:
            v, _ = corrupt(v, self.corrupt_share, self.corrupt_kind, rng)
        if self.drop_share:
            v = v.masked_fill(runs(len(v), v.shape[1], self.drop_share, rng)[..., None], math.nan)
        return v
