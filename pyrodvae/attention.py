"""Self-attention with the interfaces of a recurrent network: a memory on windows, and a summary."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from pyrodvae.nets import frame_mask

Cache = list[tuple[Tensor, Tensor]]
"""Of each block: the keys and the values of all frames so far, both (N, heads, P, E)."""


def recency(heads: int, window: int, frames: int, like: Tensor, both: bool = False) -> Tensor:
    r"""What each head adds to its scores, for the distance of the frames alone (ALiBi).

    .. math:: b_{hij} = -2^{-8h/n}\,|i - j|,
        \quad -\infty \text{ where head } h \text{ of } n \text{ does not look}

    Only distances count, so a network trained on short crops reads long recordings. Heads look back;
    with ``both``, every second one looks ahead instead (a distance has no sign, so a head that looked
    both ways could not tell the past from the future).

    Args:
        heads, window, frames: the queries i are the last frames of all, the keys j.
        like: gives type and device.

    Shapes: → (1, heads, window, frames), as torch's fast kernels want it.

    Source: Press, Smith & Lewis, *Train Short, Test Long* (2022).
    """
    t = torch.arange(frames, dtype=like.dtype, device=like.device)
    h = torch.arange(1, heads + 1, dtype=like.dtype, device=like.device)[:, None, None]
    back = t[frames - window :, None] - t
    back = torch.where(h % 2 == 0, -back, back) if both else back.expand(heads, -1, -1)
    return (-(2 ** (-8 * h / heads)) * back).masked_fill(back < 0, -math.inf)[None]


class Block(nn.Module):
    r"""One layer of a transformer, normalised before each of its two parts.

    .. math::
        u \leftarrow u + \mathrm{Attention}(\mathrm{Norm}(u)), \qquad
        u \leftarrow u + \mathrm{MLP}(\mathrm{Norm}(u))

    Args:
        hidden: H. heads: of size E = ⌈H / heads⌉.

    Shapes: ``(u (N, L, H), bias (N or 1, heads, L, P + L), cache of P frames) -> (u (N, L, H), cache)``.
    """

    def __init__(self, hidden: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        inner = heads * math.ceil(hidden / heads)
        self.norm = nn.LayerNorm(hidden)
        self.ask = nn.Linear(hidden, 3 * inner, bias=False)  # a bias of the keys would change nothing
        self.answer = nn.Linear(inner, hidden)
        self.dense = nn.Sequential(
            nn.LayerNorm(hidden), nn.Linear(hidden, 2 * hidden), nn.GELU(), nn.Linear(2 * hidden, hidden)
        )

    def forward(
        self, u: Tensor, bias: Tensor, cache: tuple[Tensor, Tensor] | None = None
    ) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        """The frames of the window after the layer, and keys and values with theirs added."""
        q, k, v = self.ask(self.norm(u)).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        if cache is not None:
            k, v = torch.cat([cache[0], k], -2), torch.cat([cache[1], v], -2)
        y = nn.functional.scaled_dot_product_attention(q, k, v, attn_mask=bias)
        u = u + self.answer(y.transpose(1, 2).flatten(-2))
        return u + self.dense(u), (k, v)


class AttentionMemory(nn.Module):
    """Causal self-attention that reads windows of any length, and remembers keys and values.

    To attention what :class:`~pyrodvae.nets.Memory` is to recurrent networks: a window of one frame
    and a window of all frames give equal results.

    Args:
        inputs, hidden: sizes I and H.
        blocks, heads: how many :class:`Block` of how many heads.

    Shapes: ``(u (..., L, I), state) -> (h (..., L, H), state)``; state is None at the start.
    """

    def __init__(self, inputs: int, hidden: int, blocks: int = 2, heads: int = 4) -> None:
        super().__init__()
        self.heads = heads
        self.read = nn.Linear(inputs, hidden)
        self.blocks = nn.ModuleList(Block(hidden, heads) for _ in range(blocks))
        self.norm = nn.LayerNorm(hidden)

    def forward(self, u: Tensor, state: Cache | None = None) -> tuple[Tensor, Cache]:
        """What u_{1:t} says at each frame t of the window, and the state after it."""
        *batch, length, size = u.shape
        h, after = self.read(u.reshape(-1, length, size)), Cache()
        past = state[0][0].shape[-2] if state else 0
        bias = recency(self.heads, length, past + length, h)
        for i, block in enumerate(self.blocks):
            h, cache = block(h, bias, state[i] if state else None)
            after.append(cache)
        return self.norm(h).view(*batch, length, -1), after


class AttentionSummary(nn.Module):
    """Self-attention over a whole sequence, past and future: a :class:`~pyrodvae.nets.Summary`.

    Args:
        inputs, hidden, blocks, heads: as of :class:`AttentionMemory`; every second head looks ahead.

    Shapes: (..., T, I), lengths (...) → (..., T, H); padding is not looked at.

    Raises:
        ValueError: a number of heads that is not even.
    """

    def __init__(self, inputs: int, hidden: int, blocks: int = 2, heads: int = 4) -> None:
        super().__init__()
        if heads % 2:
            raise ValueError(f"Half of the heads look back and half ahead, so {heads} is no number of them.")
        self.heads = heads
        self.read = nn.Linear(inputs, hidden)
        self.blocks = nn.ModuleList(Block(hidden, heads) for _ in range(blocks))
        self.norm = nn.LayerNorm(hidden)

    def forward(self, u: Tensor, lengths: Tensor | None = None) -> Tensor:
        """What u_{1:T} says at each frame."""
        *batch, frames, size = u.shape
        h = self.read(u.reshape(-1, frames, size))
        bias = recency(self.heads, frames, frames, h, both=True)
        if lengths is not None:
            # A padded frame may look at itself: with nothing to look at it would be no number.
            real = frame_mask(lengths.expand(batch).reshape(-1), frames)[:, None, None]
            itself = torch.eye(frames, dtype=torch.bool, device=u.device)
            bias = bias.masked_fill(~(real | itself), -math.inf)
        for block in self.blocks:
            h, _ = block(h, bias)
        return self.norm(h).view(*batch, frames, -1)
