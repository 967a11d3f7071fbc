"""What systems are measured on: pairs, mixtures made to order, and clean speech."""

from __future__ import annotations

import math
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from pyrodvae.audio import AudioError, check_waveform, read_audio
from pyrodvae.av_data import beside
from pyrodvae.data import audio_files, scan
from pyrodvae.signal import resample

Array = npt.NDArray[np.float32]

RATE = 16_000
"""Recordings are measured mono at this rate."""


@dataclass(frozen=True)
class Trial:
    """A recording to be worked on, with its reference.

    Args:
        file, noise, snr: what it is called in the results; noise and snr may be empty.
        load: gives (reference, input), both (N,) at :data:`RATE`; the same array twice where the
            reference is the input and there is nothing to improve.
        video: of the speaker: the file of the reference's name beside it, if there is one.
    """

    file: str
    noise: str
    snr: str
    load: Callable[[], tuple[Array, Array]]
    video: Path | None = None


def pairs(folder: Path, limit: int | None = None) -> list[Trial]:
    """Recordings of equal name in ``clean/`` and ``noisy/`` below a folder.

    Raises:
        AudioError: one of the two is missing, or both are empty.
    """
    clean, noisy = folder / "clean", folder / "noisy"
    for side in (clean, noisy):
        if not side.is_dir():
            raise AudioError(
                f"{side} is not a folder: pairs are clean/ and noisy/, with equal names in them."
            )
    names = sorted({p.relative_to(side) for side in (clean, noisy) for p in audio_files(side)})
    if not names:
        raise AudioError(f"There is no recording in {clean} and {noisy}.")

    def trial(name: Path) -> Trial:
        def load() -> tuple[Array, Array]:
            return read_mono(clean / name), read_mono(noisy / name)

        return Trial(name.as_posix(), "", "", load, beside(clean / name))

    return [trial(name) for name in spread(names, limit)]


def clean_speech(
    speech: Path, limit: int | None = None, manifest: Path | None = None, split: str | None = None
) -> list[Trial]:
    """Clean recordings below a folder, each its own reference.

    Raises:
        AudioError: there is none.
    """

    def trial(path: Path) -> Trial:
        def load() -> tuple[Array, Array]:
            s = read_mono(path)
            return s, s

        return Trial(path.relative_to(speech).as_posix(), "", "", load, beside(path))

    return [trial(path) for path in spread(select(speech, manifest, split), limit)]


def mixtures(
    speech: Path,
    noise: Path,
    snrs: Sequence[float],
    limit: int | None = None,
    manifest: Path | None = None,
    split: str | None = None,
    rules: Sequence[tuple[str, str]] = (),
) -> list[Trial]:
    """Each recording of speech in a piece of noise, at each signal-to-noise ratio.

    File and place of the noise follow from the name of the speech, so they are the same at every
    ratio, in every run, and whatever else is selected; noise shorter than the speech is repeated.

    Args:
        speech, noise: folders.
        snrs: in dB, of the whole recordings.
        limit: take so many recordings of speech, evenly spread over the folder.
        manifest, split: select recordings, of speech and noise alike.
        rules: (a, b): noise with a in its path only goes with speech with b in its path.

    Raises:
        AudioError: no speech, no noise, or no noise that a recording may be mixed with.
    """
    noises = select(noise, manifest, split)

    def trial(path: Path, snr: float) -> Trial:
        name = path.relative_to(speech).as_posix()
        chance = np.random.default_rng(zlib.crc32(name.encode()))
        fitting = [n for n in noises if all(b in str(path) or a not in str(n) for a, b in rules)]
        if not fitting:
            raise AudioError(f"The rules leave no noise to mix with {path}.")
        chosen = fitting[chance.integers(len(fitting))]
        place = chance.random()

        def load() -> tuple[Array, Array]:
            return mix(path, chosen, place, snr)

        return Trial(name, chosen.relative_to(noise).as_posix(), f"{snr:g}", load, beside(path))

    return [trial(path, snr) for path in spread(select(speech, manifest, split), limit) for snr in snrs]


def mix(speech: Path, noise: Path, place: float, snr: float) -> tuple[Array, Array]:
    """A recording and its mixture with the part of a noise that starts at a place in [0, 1).

    Raises:
        AudioError: one of them cannot be used, or is silent there.
    """
    s, n = read_mono(speech), read_mono(noise)
    start = int(place * max(1, len(n) - len(s) + 1))
    n = np.take(n, range(start, start + len(s)), mode="wrap")
    level = float(np.sum(n**2, dtype=np.float64))
    if level == 0:
        raise AudioError(f"{noise} is silent where {speech} would be mixed in.")
    ratio = float(np.sum(s**2, dtype=np.float64)) / level
    return s, s + n * np.float32(math.sqrt(ratio / 10 ** (snr / 10)))


def split_of(manifest: Path | None, split: str | None, default: str) -> str:
    """Which split of a manifest is meant.

    Raises:
        ValueError: one is named and there is no manifest.
    """
    if split and not manifest:
        raise ValueError("--split needs the --manifest that names the splits.")
    return split or default


def select(folder: Path, manifest: Path | None = None, split: str | None = None) -> list[Path]:
    """The recordings below a folder (that a manifest names), unreadable ones too: they fail by name.

    Raises:
        AudioError: there is no readable one.
    """
    corpus = scan(folder, manifest, split if manifest else None)
    return sorted([*corpus.files, *(path for path, _ in corpus.skipped)])


def spread(items: Sequence[Path], limit: int | None) -> list[Path]:
    """At most so many items, evenly spread.

    Raises:
        ValueError: less than one is asked for.
    """
    if limit is None or limit >= len(items):
        return list(items)
    if limit < 1:
        raise ValueError(f"The limit must be at least 1, not {limit}.")
    return [items[i * len(items) // limit] for i in range(limit)]


def read_mono(path: Path) -> Array:
    """A recording with its channels averaged, (N,) at :data:`RATE`.

    Raises:
        AudioError: it cannot be used.
    """
    waveform, rate = read_audio(path)
    check_waveform(waveform, path, rate)
    mono: Array = resample(waveform.mean(0), rate, RATE).astype(np.float32)
    return mono
