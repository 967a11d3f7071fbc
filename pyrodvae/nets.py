"""Networks on windows of frames, and the Gaussian they end in."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import Literal

import torch
from pyro.distributions import TorchDistribution
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from pyrodvae.distributions import DiagonalNormal
from pyrodvae.once import once

Cell = Literal["lstm", "rnn"]
State = list[tuple[Tensor, ...]]
"""Of each layer of a :class:`Memory`: (h, c) of an LSTM, (h,) of a plain RNN, each (N, H)."""


@once
def from_start(x: Tensor, first: Tensor | None = None) -> Tensor:
    """The frame ``first`` (F,), zeros if None, and then the frames: (..., T, F) → (..., T + 1, F)."""
    if first is None:
        return nn.functional.pad(x, (0, 0, 1, 0))
    return torch.cat([first.to(x.dtype).expand(*x.shape[:-2], 1, -1), x], -2)


@once
def shift(x: Tensor, first: Tensor | None = None) -> Tensor:
    """The frame before: ``x_{t-1}`` for every t, ``first`` (or zeros) at the first; (..., T, F) → same."""
    return from_start(x[..., :-1, :], first)


def reverse(x: Tensor, lengths: Tensor | None = None) -> Tensor:
    """Frames (axis -2) in reverse order, each sequence by its own length; padding stays in place."""
    if lengths is None:
        return x.flip(-2)
    t = torch.arange(x.shape[-2], device=x.device)
    end = lengths[..., None]
    order = torch.where(t < end, end - 1 - t, t)[..., None]
    return x.gather(-2, order.expand(x.shape))


def frame_mask(lengths: Tensor, frames: int) -> Tensor:
    """(B,) lengths → (B, T), True where a frame is real."""
    return torch.arange(frames, device=lengths.device) < lengths[..., None]


def join(*parts: Tensor) -> Tensor:
    """Features side by side, their leading dimensions broadcast: (..., I) and (..., J) → (..., I + J)."""
    shape = torch.broadcast_shapes(*(p.shape[:-1] for p in parts))
    return torch.cat([p if p.shape[:-1] == shape else p.expand(*shape, -1) for p in parts], -1)


def mlp(sizes: Sequence[int], activation: type[nn.Module] = nn.Tanh) -> nn.Sequential:
    """Dense layers with an activation after each; one size alone is the identity."""
    layers = [(nn.Linear(i, o), activation()) for i, o in itertools.pairwise(sizes)]
    return nn.Sequential(*(module for pair in layers for module in pair))


def tail(sizes: Sequence[int]) -> nn.Sequential:
    """What follows a linear layer of the first size: tanh and a linear layer, to each of the others."""
    layers = [(nn.Tanh(), nn.Linear(i, o)) for i, o in itertools.pairwise(sizes)]
    return nn.Sequential(*(module for pair in layers for module in pair))


class Memory(nn.Module):
    """A recurrent network that reads windows of any length and takes up where the last window ended.

    A window of one frame and a window of all frames share the parameters and give equal results, so
    a conditional written once runs both frame by frame and in one pass.

    Args:
        inputs, hidden: sizes I and H.
        layers: one on top of the other; the last one's h is what is returned.
        cell: ``"lstm"``, or ``"rnn"`` for the plain tanh recursion.

    Shapes: ``(u (..., L, I), state) -> (h (..., L, H), state)``; state is None at the start.
    """

    def __init__(self, inputs: int, hidden: int, layers: int = 1, cell: Cell = "lstm") -> None:
        super().__init__()
        self.cell = torch.lstm_cell if cell == "lstm" else _rnn_cell
        self.states = 2 if cell == "lstm" else 1
        self.rnn = (nn.LSTM if cell == "lstm" else nn.RNN)(inputs, hidden, layers)

    def forward(self, u: Tensor, state: State | None = None) -> tuple[Tensor, State]:
        """The hidden path on the window, and the state after it."""
        *batch, length, size = u.shape
        if state is None:
            zeros = torch.zeros(math.prod(batch), self.rnn.hidden_size, dtype=u.dtype, device=u.device)
            state = [(zeros,) * self.states] * self.rnn.num_layers
        if length == 1:  # the cells alone: a third of the cost of a whole call
            h, after = u.reshape(-1, size), list[tuple[Tensor, ...]]()
            for weights, before in zip(self.rnn.all_weights, state, strict=True):
                now = self.cell(h, before, *weights)
                h = now[0]
                after.append(now)
            return h.view(*batch, 1, -1), after
        stacked = [torch.stack(parts) for parts in zip(*state, strict=True)]
        u = u.reshape(-1, length, size).transpose(0, 1)
        out, last = self.rnn(u, tuple(stacked) if self.states == 2 else stacked[0])
        last = last if self.states == 2 else (last,)
        return out.transpose(0, 1).reshape(*batch, length, -1), list(zip(*last, strict=True))


def _rnn_cell(u: Tensor, state: tuple[Tensor, ...], *weights: Tensor) -> tuple[Tensor, ...]:
    return (torch.rnn_tanh_cell(u, state[0], *weights),)


Direction = Literal["forward", "backward", "both"]


class Summary(nn.Module):
    """What an RNN over a whole sequence says at each frame about the past, the future, or both.

    Args:
        inputs, hidden: sizes I and H.
        direction: ``"forward"`` sees u_{1:t}, ``"backward"`` u_{t:T}, ``"both"`` all of it.
        layers, cell: as of :class:`Memory`.

    Shapes: (..., T, I), lengths (...) → (..., T, ``size``), with size H, or 2H for both directions
    (the forward one first). A backward pass starts at each sequence's own last frame, so padding
    changes nothing.
    """

    def __init__(
        self, inputs: int, hidden: int, direction: Direction = "both", layers: int = 1, cell: Cell = "lstm"
    ) -> None:
        super().__init__()
        self.direction = direction
        both = direction == "both"
        self.size = hidden * (1 + both)
        self.rnn = (nn.LSTM if cell == "lstm" else nn.RNN)(
            inputs, hidden, layers, batch_first=True, bidirectional=both
        )

    def forward(self, u: Tensor, lengths: Tensor | None = None) -> Tensor:
        """The summary of each frame."""
        *batch, frames, size = u.shape
        u = u.reshape(-1, frames, size)
        n = None if lengths is None else lengths.expand(batch).reshape(-1)
        if self.direction == "backward":
            out = reverse(self.rnn(reverse(u, n))[0], n)
        elif self.direction == "forward" or n is None:
            out = self.rnn(u)[0]
        else:
            packed = pack_padded_sequence(u, n.cpu(), batch_first=True, enforce_sorted=False)
            out = pad_packed_sequence(self.rnn(packed)[0], batch_first=True, total_length=frames)[0]
        return out.reshape(*batch, frames, -1)


def gaussian(parameters: Tensor) -> TorchDistribution:
    """A diagonal Gaussian, event (D,), from its mean and log-variance side by side, (..., 2D).

    The log-variance is kept within [-14, 6], which no posterior of a standardised latent leaves.
    """
    mean, log_variance = parameters.chunk(2, -1)
    return DiagonalNormal(mean, (0.5 * log_variance).clamp(-7.0, 3.0).exp(), validate_args=False)


def standard_normal(like: Tensor) -> TorchDistribution:
    """N(0, I) of the shape of ``like``: made from its sizes alone, so that no value of it leaks in."""
    zeros = torch.zeros(like.shape, dtype=like.dtype, device=like.device)
    return DiagonalNormal(zeros, torch.ones_like(zeros), validate_args=False)
