"""From a folder of recordings to batches of spectrogram crops."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from pyrodvae.audio import AudioError, check_waveform, info, read_audio
from pyrodvae.signal import STFT, resample
from pyrodvae.whole import save

SUFFIXES = {
    f".{s}" for s in ["wav", "flac", "ogg", "opus", "mp3", "aiff", "aif", "aifc", "au", "caf", "w64", "rf64"]
}
EDGE = 2
"""Frames at either end of a crop that would see the padding; they are cut away."""
CROPS = 0x5EED0000
"""What a seed is changed by for the crops, so that they have a stream of their own."""


@dataclass(frozen=True)
class Corpus:
    """The recordings found in a folder, and what was left out.

    Args:
        files: path of each usable recording.
        seconds: its duration.
        skipped: (path, reason) of each file that cannot be used.
    """

    files: tuple[Path, ...]
    seconds: tuple[float, ...]
    skipped: tuple[tuple[Path, str], ...]

    def without(self, skipped: Sequence[tuple[Path, str]]) -> Corpus:
        """The same, with some of its files moved to the skipped ones."""
        bad = {path for path, _ in skipped}
        kept = [(p, s) for p, s in zip(self.files, self.seconds, strict=True) if p not in bad]
        return Corpus(tuple(p for p, _ in kept), tuple(s for _, s in kept), (*self.skipped, *skipped))

    def write(self, path: Path) -> None:
        """Write the manifest: one row per file, tab-separated, with the reason if skipped."""
        table = io.StringIO(newline="")
        rows = csv.writer(table, delimiter="\t")
        rows.writerow(["path", "seconds", "skipped"])
        rows.writerows((p, f"{s:.3f}", "") for p, s in zip(self.files, self.seconds, strict=True))
        rows.writerows((p, "", why) for p, why in self.skipped)
        save(path, table.getvalue().encode("utf-8", "surrogateescape"))


def audio_files(folder: Path) -> list[Path]:
    """All audio files below a folder but hidden ones, in order of their paths.

    Raises:
        AudioError: the folder is missing.
    """
    if not folder.is_dir():
        raise AudioError(f"{folder} is not a folder.")

    def wanted(path: Path) -> bool:
        hidden = any(part.startswith(".") for part in path.relative_to(folder).parts)
        return path.suffix.lower() in SUFFIXES and not hidden and not path.is_dir()

    return sorted(path for path in folder.rglob("*") if wanted(path))


def scan(folder: Path, manifest: Path | None = None, split: str | None = None) -> Corpus:
    """Find the recordings below a folder; those that cannot be read are listed as skipped.

    Args:
        folder: searched with all its subfolders.
        manifest: a tab-separated table with columns ``path`` (relative to the table) and ``split``; files
            below the folder that it names and that are not there are listed as skipped, too.
        split: take only the rows of the manifest that carry this split.

    Raises:
        AudioError: the folder is missing, holds no recording, or the manifest names none of it.
    """
    files, where = audio_files(folder), f"{folder}"
    if manifest is not None:
        chosen, root = manifest_paths(manifest, split), folder.resolve()
        missing = [p for p in chosen if p.is_relative_to(root) and not p.exists()]
        files = [p for p in files if p.resolve() in chosen]
        files = sorted({*files, *(folder / p.relative_to(root) for p in missing)})
        where += f" with split '{split}'" if split else " listed"
        where += f" in {manifest}, whose paths count from {manifest.parent}"
    seconds: list[float] = []
    usable: list[Path] = []
    skipped: list[tuple[Path, str]] = []
    for path in files:
        try:
            seconds.append(info(path).seconds)
            usable.append(path)
        except AudioError as error:
            skipped.append((path, str(error)))
    if not usable:
        first = f", the first: {skipped[0][1].rstrip('.')}" if skipped else ""
        raise AudioError(f"No readable recording in {where} ({len(skipped)} unreadable{first}).")
    return Corpus(tuple(usable), tuple(seconds), tuple(skipped))


def manifest_paths(manifest: Path, split: str | None) -> set[Path]:
    """The resolved paths of a manifest's rows (of one split).

    Raises:
        AudioError: the table is missing, no text, or lacks a column.
    """
    try:
        text = manifest.read_text(encoding="utf-8-sig")
        rows = list(csv.DictReader(io.StringIO(text), delimiter="\t"))
    except OSError as error:
        raise AudioError(f"Cannot read the manifest {manifest}: {error.strerror}.") from error
    except (UnicodeDecodeError, csv.Error) as error:
        raise AudioError(f"The manifest {manifest} is no table of text in UTF-8.") from error
    columns = {"path"} if split is None else {"path", "split"}
    if "\0" in text or not rows or not columns <= rows[0].keys():
        raise AudioError(f"The manifest {manifest} needs tab-separated columns 'path' and 'split'.")
    paths = [row["path"] for row in rows if split is None or row["split"] == split]
    if not all(paths):
        raise AudioError(f"The manifest {manifest} has a row without a path.")
    return {(manifest.parent / path).resolve() for path in paths}


def prepare(
    waveform: np.ndarray, rate: int, stft: STFT, denoise_db: float = 0.0, top_db: float = 40.0
) -> Tensor:
    """One recording as training speech: mono, at the STFT's rate, trimmed, denoised, peak one.

    A recording's own noise would teach the prior to explain noise. So the noise floor n_f of each
    bin is estimated by the level that a tenth of the frames stay under (for exponential power, that
    is 0.105 n_f), and bins near it are turned down by up to ``denoise_db``:

    .. math:: G_{tf} = \\max(1 - 2 n_f / \\bar P_{tf},\\; 10^{-denoise/20})

    Args:
        waveform: (C, N).
        rate: its samples per second.
        stft: the STFT to come.
        denoise_db: the most by which noise is turned down; 0 leaves it. The floor is exact for a
            recording of noise alone, and too high by the inverse share of frames without speech.
        top_db: leading and trailing parts this far below the loudest are cut.

    Returns:
        (N',) float32.
    """
    import librosa

    mono = resample(waveform.mean(0), rate, stft.sample_rate)
    trimmed, _ = librosa.effects.trim(mono, top_db=top_db, frame_length=1024, hop_length=256)
    y = torch.from_numpy(np.ascontiguousarray(trimmed, dtype=np.float32))
    if denoise_db > 0 and len(y) > stft.window_length:
        s = stft(y)
        p = s.real.square() + s.imag.square()
        floor = torch.quantile(p, 0.1, dim=0) / -math.log(0.9)
        smooth = torch.nn.functional.avg_pool2d(p[None, None], (5, 9), 1, (2, 4), count_include_pad=False)
        least = 10 ** (-denoise_db / 20)
        gain = (1 - 2 * floor / (smooth[0, 0] + 1e-12)).clamp(min=least)
        y = stft.inverse(s * gain, len(y))
    return y / y.abs().max().clamp(min=1e-9)


def load(corpus: Corpus, stft: STFT, denoise_db: float = 0.0) -> tuple[list[Tensor], list[tuple[Path, str]]]:
    """Read and prepare every recording; those that turn out unusable come back with the reason."""
    signals: list[Tensor] = []
    skipped: list[tuple[Path, str]] = []
    for path in corpus.files:
        try:
            waveform, rate = read_audio(path)
            check_waveform(waveform, path, rate)
            signals.append(prepare(waveform, rate, stft, denoise_db))
        except AudioError as error:
            skipped.append((path, str(error)))
    if not signals:
        raise AudioError(f"None of the {len(corpus.files)} recordings can be used: {skipped[0][1]}")
    return signals, skipped


@dataclass(frozen=True)
class Crops:
    """Random crops of a list of signals as batches of spectrograms.

    Args:
        signals: waveforms (N_i,), peak one.
        stft: the transform.
        frames: T of a crop.
        batch_size: B.
        gain_db: each crop is turned down by a uniform random gain between 0 and this, as speech is
            inside a mixture that is scaled to peak one.
    """

    signals: Sequence[Tensor]
    stft: STFT
    frames: int = 50
    batch_size: int = 32
    gain_db: float = 0.0

    @property
    def batches(self) -> int:
        """Batches in an epoch: as many as cover the corpus once on average."""
        total = sum(self.stft.frames(len(y)) for y in self.signals)
        return max(1, round(total / (self.frames * self.batch_size)))

    def epoch(self, seed: int) -> Iterator[tuple[Tensor, Tensor | None]]:
        """Yield (x (B, T, F) complex, lengths (B,) or None); a seed always gives the same batches."""
        # Not the stream of torch.manual_seed(seed): crops must not go along with the draws of z.
        rng = torch.Generator().manual_seed(seed ^ CROPS)
        weights = torch.tensor([float(len(y)) for y in self.signals])
        size = (self.frames - 1 + 2 * EDGE) * self.stft.hop
        for _ in range(self.batches):
            chosen = torch.multinomial(weights, self.batch_size, replacement=True, generator=rng)
            place = torch.rand(self.batch_size, generator=rng)
            gain = 10 ** (-self.gain_db / 20 * torch.rand(self.batch_size, generator=rng))
            batch = torch.zeros(self.batch_size, size)
            lengths = torch.full((self.batch_size,), self.frames)
            for i, which in enumerate(chosen.tolist()):
                y = self.signals[which]
                start = int(place[i] * max(0, len(y) - size))
                part = y[start : start + size]
                batch[i, : len(part)] = part * gain[i]
                if len(part) < size:
                    lengths[i] = max(1, self.stft.frames(len(part)) - 2 * EDGE)
            x = self.stft(batch)[:, EDGE:-EDGE]
            yield x, None if bool((lengths == self.frames).all()) else lengths
