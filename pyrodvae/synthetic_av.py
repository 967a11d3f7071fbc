"""Synthetic audio-visual speech: one movement of a mouth makes the sound and is seen."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from pyrodvae.audio_writer import write_audio
from pyrodvae.settings import check_seed
from pyrodvae.video_file import write_video
from pyrodvae.whole import make_folder, save

RATE = 16_000
PICTURES = 25
"""Pictures per second."""
SYLLABLES = 4
"""Openings of the mouth per second."""
HARMONICS = 40
"""Of the voice, up to about 6 kHz."""
COLUMNS = ["path", "kind", "split", "speaker", "duration_s", "use"]


@dataclass(frozen=True)
class Spoken:
    """What was said and seen.

    Args:
        waveform: (N,) float32 at 16 kHz, peak 0.9.
        frames: (M, side, side) float32, grey in [0, 1].
        times: (M,) float64, seconds, 25 per second.
    """

    waveform: Tensor
    frames: Tensor
    times: Tensor


def speak(seconds: float = 3.0, seed: int = 0, side: int = 64) -> Spoken:
    r"""A mouth that opens some four times a second, its voice, and its picture.

    How far it opens, o(t) in [0, 1], and how wide it is, w(t) in [0, 1], are smooth random movements.
    The voice is a source and a filter:

    .. math::
        y(t) = o(t) \sum_k \frac{1}{k} |H_t(k f_0(t))| \sin\Big(2πk \int_0^t f_0\Big) + c(t)\, n(t), \qquad
        H_t(f) = \prod_j \big(1 - (f / F_j)^2 + i f b_j / F_j^2\big)^{-1}

    with the glottal pulse's and the lips' slopes together 1 / k, formants F_1 = 250 + 600 o (Hz), F_2 =
    800 + 1400 w and F_3 = 2600, and a hiss n above 3 kHz where the mouth is about to open or has just
    closed. The picture is an ellipse of dark, as high as o and as wide as w, in lips, in skin.

    Args:
        seconds: how long.
        seed: the same again.
        side: rows and columns of a picture.

    Raises:
        ValueError: a wrong seed, or less than a quarter of a second.
    """
    check_seed(seed)
    if seconds < 0.25:
        raise ValueError(f"A synthetic utterance lasts at least 0.25 s, not {seconds}.")
    rng = torch.Generator().manual_seed(seed)
    count = round(seconds * RATE)
    opening, width = _movement(count, rng), _movement(count, rng, turns=2)
    voice, hiss = _voice(opening, width, rng), _hiss(opening, rng)
    y = voice + hiss
    times = torch.arange(math.ceil(count / RATE * PICTURES), dtype=torch.double) / PICTURES
    seen = (times * RATE).long()
    frames = _mouth(opening[seen], width[seen], side, rng)
    return Spoken((0.9 * y / y.abs().max()).float(), frames, times)


def _movement(count: int, rng: torch.Generator, turns: int = SYLLABLES) -> Tensor:
    """A smooth random path in [0, 1]: a sinusoid of wandering phase, each swing of its own height."""
    knots = 2 + math.ceil(count / RATE * turns)
    steps = 0.5 + torch.rand(1, 1, knots, generator=rng, dtype=torch.double)
    heights = torch.rand(1, 1, knots, generator=rng, dtype=torch.double)
    smooth = torch.nn.functional.interpolate(torch.cat([steps, heights], 1), count, mode="linear")[0]
    phase = (smooth[0] / RATE * turns).cumsum(0)
    return (0.2 + 0.8 * smooth[1]) * (0.5 - 0.5 * (2 * math.pi * phase).cos())


def _voice(opening: Tensor, width: Tensor, rng: torch.Generator) -> Tensor:
    t = torch.arange(len(opening), dtype=torch.double) / RATE
    low = 100 + 60 * float(torch.rand((), generator=rng))
    f0 = low * (1 + 0.1 * (2 * math.pi * 0.7 * t).sin())
    k = torch.arange(1, HARMONICS + 1, dtype=torch.double)[:, None]
    f = k * f0
    formants = ((250 + 600 * opening, 80.0), (800 + 1400 * width, 100.0), (torch.full_like(t, 2600), 160.0))
    gain = torch.ones_like(f)
    for centre, bandwidth in formants:
        gain = (
            gain / ((1 - (f / centre).square()).square() + (f * bandwidth / centre.square()).square()).sqrt()
        )
    phase = 2 * math.pi * (f0 / RATE).cumsum(0)
    return opening * (gain / k * (k * phase).sin()).sum(0)


def _hiss(opening: Tensor, rng: torch.Generator) -> Tensor:
    noise = torch.randn(len(opening), generator=rng, dtype=torch.double)
    spectrum = torch.fft.rfft(noise)
    spectrum[torch.fft.rfftfreq(len(opening), 1 / RATE) < 3000] = 0
    narrow = (-0.5 * ((opening - 0.12) / 0.04).square()).exp()  # neither closed nor open
    return 0.3 * narrow * torch.fft.irfft(spectrum, len(opening))


def _mouth(opening: Tensor, width: Tensor, side: int, rng: torch.Generator) -> Tensor:
    """Grey pictures (M, side, side) of mouths: skin, lips around, dark inside, and a little grain."""
    at = ((torch.arange(side, dtype=torch.double) + 0.5) / side - 0.5) * 2
    x, y = at[None, None, :], at[None, :, None]
    across, up = 0.35 + 0.3 * width[:, None, None], 0.02 + 0.5 * opening[:, None, None]

    def ellipse(a: Tensor, b: Tensor) -> Tensor:
        radius = torch.hypot(x / a, y / b)
        slope = torch.hypot(x / a.square(), y / b.square()) / radius  # so far is the edge, about
        return ((1 - radius) / slope * side / 2).sigmoid()

    lips, inside = ellipse(across + 0.15, up + 0.15), ellipse(across, up)
    picture = 0.7 - 0.3 * lips
    picture = picture + (0.1 - picture) * inside
    grain = 0.01 * torch.randn(picture.shape, generator=rng, dtype=torch.double)
    return (picture + grain).clamp(0, 1).float()


def write_corpus(
    folder: Path, recordings: int = 20, seconds: float = 3.0, seed: int = 0, side: int = 64
) -> Path:
    """Write synthetic recordings as ``.flac`` with an ``.mp4`` of the same name, and their MANIFEST.tsv.

    Eight in ten are for training, one for validation, one for the test (at least one each).

    Args:
        folder: made where it is missing.
        recordings: how many, at least three.
        seconds: of each.
        seed: the same again.
        side: rows and columns of the pictures, even.

    Returns:
        The path of the manifest.

    Raises:
        ValueError: fewer than three recordings, or as :func:`speak`.
        VideoError: PyAV is missing, or the side is odd.
        NotWritten: the folder cannot be written to.
    """
    if recordings < 3:
        raise ValueError(f"A corpus needs a recording in each split, so at least 3, not {recordings}.")
    make_folder(folder)
    held = max(1, recordings // 10)
    splits = ["train"] * (recordings - 2 * held) + ["val"] * held + ["test"] * held
    rows = [COLUMNS]
    for i, split in enumerate(splits):
        said, name = speak(seconds, seed + i, side), f"mouth{i:03d}"
        write_audio(folder / f"{name}.flac", said.waveform.numpy(), RATE)
        write_video(folder / f"{name}.mp4", said.frames, said.times)
        rows.append([f"{name}.flac", "av", split, "synthetic", f"{seconds:.3f}", "train-ok"])
    table = "\n".join("\t".join(row) for row in rows) + "\n"
    save(folder / "MANIFEST.tsv", table.encode())
    return folder / "MANIFEST.tsv"
