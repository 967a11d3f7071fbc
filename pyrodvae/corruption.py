"""Damage to what is seen and heard, on a share of the frames, in runs: for training and for studies."""

from __future__ import annotations

import math
from typing import Literal, get_args

import torch
from torch import Tensor
from torch.nn.functional import grid_sample, interpolate

Kind = Literal["occlusion", "blur", "turn", "freeze", "mixed"]
"""Something before the mouth; out of focus; the head turned away; the picture stands still; any of these."""
PERIOD = 62
"""Frames of the STFT (about a second) in each of which there is one run."""
COARSE = 4
"""Rows and columns of the texture that covers a mouth, before it is drawn smooth."""


def runs(batch: int, frames: int, share: float, generator: torch.Generator | None = None) -> Tensor:
    """Mark a share of the frames: one run of neighbours, at a random place, in each :data:`PERIOD`.

    Args:
        batch: B. frames: T.
        share: of the frames, in [0, 1]; kept in every period, up to rounding.
        generator: on the CPU.

    Returns:
        (B, T) bool.

    Raises:
        ValueError: no such share.
    """
    if not 0 <= share <= 1:
        raise ValueError(f"A share of the frames is between 0 and 1, not {share}.")
    t = torch.arange(frames)
    size = (frames - t // PERIOD * PERIOD).clamp(max=PERIOD)  # of the period that t is in: the last is short
    length = (share * size).round().long()
    place = torch.rand(batch, -(-frames // PERIOD), generator=generator)[:, t // PERIOD]
    start = (place * (size - length + 1)).long()
    return (start <= t % PERIOD) & (t % PERIOD < start + length)


def corrupt(
    v: Tensor, share: float = 1 / 3, kind: Kind = "mixed", generator: torch.Generator | None = None
) -> tuple[Tensor, Tensor]:
    """Corrupt the video on a share of its frames, in contiguous runs.

    * ``"occlusion"``: a patch of random texture over the mouth, 0.6 to 0.9 of the side;
    * ``"blur"``: a Gaussian blur, its deviation an eighth of the side;
    * ``"turn"``: a surrogate of a head not seen from the front: the picture squeezed across, in
      perspective, sheared, shifted and darkened;
    * ``"freeze"``: the last picture before the run stays;
    * ``"mixed"``: one of the four for each run, by chance.

    Draws are made once a run: the hand before the mouth is the same one throughout.

    Args:
        v: (B, T, V), V = side² grey pixels row by row; missing frames (NaN) stay missing.
        share: of the frames.
        kind: see above.
        generator: makes it repeatable; on the CPU.

    Returns:
        v (B, T, V), a new tensor, the given one but for the frames hit; and these (B, T), bool: never a
        missing one.

    Raises:
        ValueError: no such kind or share, or V is no square.

    Source: the experiment is of Sadeghi & Alameda-Pineda, *Mixture of Inference Networks for VAE-based
    Audio-visual Speech Enhancement* (2021); the kinds beside occlusion are ours.
    """
    if kind not in get_args(Kind):
        raise ValueError(f"Video is corrupted by {', '.join(get_args(Kind))}; there is no '{kind}'.")
    batch, frames, size = v.shape
    side = math.isqrt(size)
    if side * side != size:
        raise ValueError(f"Only square pictures can be corrupted, and V = {size} is no square.")
    marked = runs(batch, frames, share, generator)
    per = -(-frames // PERIOD)
    run = per * torch.arange(batch)[:, None] + torch.arange(frames) // PERIOD
    draws = torch.rand(batch * per, 4 + COARSE * COARSE, generator=generator).to(v)
    four = get_args(Kind)[:4]
    chosen = torch.randint(4, (batch * per,), generator=generator)
    if kind != "mixed":
        chosen.fill_(four.index(kind))
    marked, run, chosen = marked.to(v.device), run.to(v.device), chosen.to(v.device)

    seen = ~v.isnan().any(-1)
    hit, result = marked & seen, v.clone()
    for i, damage in enumerate((_occlude, _blur, _turn)):
        mine = hit & (chosen[run] == i)
        pictures = v[mine].unflatten(-1, (side, side))
        result[mine] = damage(pictures, draws[run[mine]]).flatten(1)
    mine = hit & (chosen[run] == 3)
    result[mine] = _still(v, seen & ~marked, hit)[mine]
    return result, hit


def _occlude(pictures: Tensor, draws: Tensor) -> Tensor:
    side = pictures.shape[-1]
    texture = draws[:, 4:].unflatten(-1, (1, COARSE, COARSE))
    texture = interpolate(texture, (side, side), mode="bilinear")[:, 0]
    half = (0.6 + 0.3 * draws[:, 0]) / 2
    centre = 0.5 + 0.3 * (draws[:, 1:3] - 0.5)  # row and column
    at = (torch.arange(side).to(pictures) + 0.5) / side
    inside = (at - centre[..., None]).abs() < half[:, None, None]  # (n, 2, side)
    return torch.where(inside[:, 0, :, None] & inside[:, 1, None, :], texture, pictures)


def _blur(pictures: Tensor, draws: Tensor) -> Tensor:
    side = pictures.shape[-1]
    at = torch.arange(side).to(pictures) / side
    weights = (-0.5 * ((at[:, None] - at) * 8).square()).softmax(-1)
    return weights @ pictures @ weights.mT


def _turn(pictures: Tensor, draws: Tensor) -> Tensor:
    side = pictures.shape[-1]
    way = torch.where(draws[:, 0] < 0.5, -1.0, 1.0)[:, None, None]  # to the left or to the right
    much = draws[:, 1, None, None]
    at = torch.linspace(-1, 1, side).to(pictures)
    x, y = at[None, None, :], at[None, :, None]
    from_x = x * (1.4 + 0.6 * much) + way * (0.3 + 0.2 * y)
    from_y = y * (1 + 0.3 * way * x) + 0.1 * way
    grid = torch.stack(torch.broadcast_tensors(from_x, from_y), -1)
    seen = grid_sample(pictures[:, None], grid, padding_mode="border", align_corners=True)[:, 0]
    return seen * (0.4 + 0.3 * draws[:, 2, None, None])


def _still(v: Tensor, good: Tensor, hit: Tensor) -> Tensor:
    """At each frame the last good one; before the first good one, the first that is hit."""
    t = torch.arange(v.shape[1], device=v.device)
    last = torch.where(good, t, -1).cummax(-1).values
    first = hit.int().argmax(-1, keepdim=True)
    index = torch.where(last < 0, first, last)
    return v.gather(1, index[..., None].expand_as(v))


def corrupt_audio(
    x: Tensor, share: float = 1 / 3, snr_db: float = 0.0, generator: torch.Generator | None = None
) -> tuple[Tensor, Tensor]:
    r"""Add white noise to a share of the spectrogram's frames, in contiguous runs.

    .. math:: x'_t = x_t + n_t,\quad n_t \sim N_c(0, σ^2 I),\quad
              σ^2 = 10^{-\mathrm{snr}/10}\, \mathrm{mean}_{tf} |x_{tf}|^2

    Args:
        x: (B, T, F) complex.
        share: of the frames.
        snr_db: mean power of the sequence over that of the noise.
        generator: makes it repeatable; on the CPU.

    Returns:
        x' (B, T, F), a new tensor; and which frames were hit (B, T), bool.

    Raises:
        ValueError: x is not complex, or no such share.
    """
    if not x.is_complex():
        raise ValueError(f"Noise is added to complex spectra, not to {x.dtype}.")
    hit = runs(x.shape[0], x.shape[1], share, generator).to(x.device)
    power = (x.real.square() + x.imag.square()).mean((-2, -1), keepdim=True)
    noise = torch.randn(x.shape, dtype=x.dtype, generator=generator).to(x.device)  # of unit power
    sigma = (power * 10 ** (-snr_db / 10)).sqrt()
    return x + noise * sigma * hit[..., None], hit
