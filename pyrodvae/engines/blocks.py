"""A long path drawn in blocks side by side, so that the loop over frames is short."""

from __future__ import annotations

from typing import Any

import torch
from pyro.poutine.messenger import Messenger
from torch import Size, Tensor

from pyrodvae.distributions import DiagonalNormal, Shape
from pyrodvae.rollout import Rollout


class Blocks(Rollout):
    r"""A roll-out that remembers the last frames instead of all: between W and W + L − 1 of them.

    .. math:: \tilde q(z_{1:T}) = \prod_t \mathcal N(z_t; μ_t(ε_{b(t):t-1}), σ_t^2(ε_{b(t):t-1})), \qquad
        b(t) = L \lfloor (t - 1 - W) / L \rfloor + 1 \;\text{ or } 1

    where μ and σ are those of q along the path that the noise ε of these frames makes of a blank start.

    Block k covers the frames kL + 1 … kL + L + W. All blocks start at once from a blank memory, with the
    noise that the frames have in common, and each leaves out its first W frames, which the block before
    it knows better; so W + L steps in Python draw T frames. Given the noise of the past, every z_t is
    Gaussian with a known mean and variance: a draw's KL and density are exactly those of q̃, and an
    evidence lower bound of q̃ is a bound. What is approximated is q: how well tells how fast its recursion
    forgets.

    Args:
        whole: the roll-out that it stands in for.
        block: L. overlap: W.

    A path of at most L + W frames, or of other conditionals than
    :class:`~pyrodvae.distributions.DiagonalNormal`, is drawn as by the roll-out itself.
    """

    def __init__(self, whole: Rollout, block: int, overlap: int) -> None:
        self.whole, self.block, self.overlap = whole, block, overlap
        super().__init__(
            whole.conditional,
            whole.start,
            whole.event_shape[0],
            context=whole.context,
            mask=whole.frame_mask,
            batch_shape=whole.batch_shape,
            recursive=whole.recursive,
            memo=whole.first_memo,
        )

    def expand(self, batch_shape: Shape, _instance: None = None) -> Rollout:
        """The same law for a larger batch."""
        if Size(batch_shape) == self.batch_shape:
            return self
        return Blocks(self.whole.expand(batch_shape), self.block, self.overlap)

    def rsample(self, sample_shape: Shape = ()) -> Tensor:
        """A path (S, B, T, D), with gradients to all that the conditionals depend on."""
        T, D = self.event_shape
        L, W = self.block, self.overlap
        if not self.recursive or self.first_memo is not None or T <= L + W:
            return super().rsample(sample_shape)
        shape = (*sample_shape, *self.batch_shape)
        count = -(-(T - W) // L)
        noise = torch.randn(*shape, count * L + W, D, dtype=self.start.dtype, device=self.start.device)
        z = self.start.expand(*shape, count, 1, -1)
        context = self._context(shape)
        windows: Any = [None] * (L + W)
        if context is not None:
            short = count * L + W - T
            windows = self._cut(torch.nn.functional.pad(context, (0, 0, 0, short))).split(1, -2)
        memo, path, locs, scales = None, list[Tensor](), list[Tensor](), list[Tensor]()
        for now, e in zip(windows, self._cut(noise).split(1, -2), strict=True):
            p_z, memo = self.conditional(z, now, memo)
            if not isinstance(p_z, DiagonalNormal):
                return super().rsample(sample_shape)
            z = torch.addcmul(p_z.loc, p_z.scale, e)
            path.append(z)
            locs.append(p_z.loc)
            scales.append(p_z.scale)
        self._path, loc, scale = (self._join(torch.cat(x, -2)) for x in (path, locs, scales))
        self._conditionals = DiagonalNormal(loc, scale, validate_args=False)
        self._drawn = (self._path, self._conditionals)
        self._memo_is_due, self._with_grad = True, torch.is_grad_enabled()
        return self._path

    def _cut(self, x: Tensor) -> Tensor:
        """(..., T, C) → (..., blocks, W + L, C)."""
        return x.unfold(-2, self.block + self.overlap, self.block).mT

    def _join(self, x: Tensor) -> Tensor:
        """(..., blocks, W + L, C) → (..., T, C)."""
        W, T = self.overlap, self.event_shape[0]
        return torch.cat([x[..., 0, :W, :], x[..., W:, :].flatten(-3, -2)], -2)[..., :T, :]


class InBlocks(Messenger):
    """While it is open, every recursive roll-out is drawn in blocks; see :class:`Blocks`."""

    def __init__(self, block: int, overlap: int) -> None:
        super().__init__()
        self.block, self.overlap = block, overlap

    def _pyro_sample(self, msg: Any) -> None:
        if isinstance(msg["fn"], Rollout):
            msg["fn"] = Blocks(msg["fn"], self.block, self.overlap)
