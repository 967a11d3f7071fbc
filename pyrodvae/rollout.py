"""A path drawn frame by frame, as one distribution."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from pyro.distributions import TorchDistribution
from torch import Size, Tensor
from torch.distributions import Independent, constraints, kl_divergence, register_kl
from torch.distributions.utils import lazy_property

from pyrodvae.distributions import Shape
from pyrodvae.once import once, tell

Step = tuple[TorchDistribution, Any]
"""A conditional on a window of frames, and the memo that the next window needs."""

Conditional = Callable[[Tensor, Tensor | None, Any], Step]
"""``(z_prev (..., L, D), context (..., L, C) | None, memo) -> (p(z | past) on the window, memo)``."""


def select_frames(d: TorchDistribution, frames: slice) -> TorchDistribution:
    """The conditionals of some frames: the same family, its parameters cut along the frame axis."""
    axis = len(d.batch_shape) - 1
    return rebuild([d], lambda p: p[0][(slice(None),) * axis + (frames,)])


def join_frames(conditionals: list[TorchDistribution]) -> TorchDistribution:
    """Conditionals of consecutive windows as one: parameters joined along the frame axis."""
    axis = len(conditionals[0].batch_shape) - 1
    return rebuild(conditionals, lambda p: torch.cat(p, axis))


def rebuild(ds: list[Any], how: Callable[[list[Tensor]], Tensor]) -> Any:
    """One distribution, of the family of all, whose every parameter is ``how([the parameter of each])``."""
    d = ds[0]
    if isinstance(d, Independent):
        base = rebuild([e.base_dist for e in ds], how)
        return type(d)(base, d.reinterpreted_batch_ndims, validate_args=False)
    # Normal lists loc and scale, Bernoulli probs and logits, of which one is computed when asked
    # for: take what it was made of, the first of those.
    names = [n for n in (k.removeprefix("_") for k in d.__dict__) if n in d.arg_constraints]
    equivalent = [n for n in names if isinstance(getattr(type(d), n, None), lazy_property)]
    names = [n for n in names if n not in equivalent[1:]]
    if not names:
        raise TypeError(
            f"A conditional of type {type(d).__name__} cannot be joined over frames: its parameters "
            "are not plain tensors. Return a distribution such as Normal from the conditional."
        )
    return type(d)(**{n: how([getattr(e, n) for e in ds]) for n in names}, validate_args=False)


class Rollout(TorchDistribution):
    r"""A latent path, each frame drawn given the ones before it.

    .. math:: p(z_{1:T}) = \prod_{t=1}^T p(z_t \mid z_{<t}, c_t)

    ``rsample`` walks through the frames; ``log_prob`` scores a whole path in one pass, because with
    the path known every conditional is known. A draw remembers the conditionals it was drawn from,
    so the KL divergence of two roll-outs is the sum of per-frame analytic divergences *along the
    drawn path*, :math:`\sum_t KL(q(z_t | z_{<t}) \| p(z_t | z_{<t}))`: the objective of the
    dynamical VAE literature (Girin et al. 2021, §4), which ``TraceMeanField_ELBO`` then uses.

    Args:
        conditional: ``(z_prev (..., L, D), context (..., L, C), memo) -> (distribution with batch
            (..., L) and event (D,), memo)`` for a window of any length L; the memo of the first is ``memo``.
        start: :math:`z_0`, the frame before the first, (D,); gives the size, type and device.
        frames: T.
        context: what else the conditional sees, (..., T, C), cut into windows with the frames.
        mask: (..., T), False where a shorter sequence is padded; those frames do not count.
        batch_shape: the shape B of independent sequences.
        recursive: False says that no frame looks at the others: one window draws all.
        memo: what the first window is given for a memo.

    Shapes: a value is (S, B, T, D), the event (T, D).

    Raises:
        RuntimeError: a KL is asked of a roll-out that has not been drawn from.
    """

    arg_constraints = {}
    support = constraints.independent(constraints.real, 2)
    has_rsample = True

    history: tuple[Any, ...] | None = None
    """What the memos follow from beside the path, where those of model and guide are the same ones (else
    None): inside :class:`~pyrodvae.once.Once`, a pass along a path that a roll-out of the same history
    has drawn is given for a memo the list of all that its windows left behind."""

    def __init__(
        self,
        conditional: Conditional,
        start: Tensor,
        frames: int,
        *,
        context: Tensor | None = None,
        mask: Tensor | None = None,
        batch_shape: Shape = (),
        recursive: bool = True,
        memo: Any = None,
    ) -> None:
        self.conditional = conditional
        self.first_memo = memo
        self.start = start
        self.context = context
        self.frame_mask = mask
        self.recursive = recursive
        self._memo: Any = None
        self._memo_is_due = False
        self._path: Tensor | None = None
        self._conditionals: TorchDistribution | None = None
        self._with_grad = False
        self._drawn: tuple[Tensor, TorchDistribution] | None = None
        self._ahead: Tensor | None = None
        super().__init__(Size(batch_shape), Size((frames, len(start))), validate_args=False)

    def expand(self, batch_shape: Shape, _instance: None = None) -> Rollout:
        """The same law for a larger batch; unchanged (with its memory) where the shape is equal."""
        if Size(batch_shape) == self.batch_shape:
            return self
        expanded = Rollout(
            self.conditional,
            self.start,
            self.event_shape[0],
            context=self.context,
            mask=self.frame_mask,
            batch_shape=Size(batch_shape),
            recursive=self.recursive,
            memo=self.first_memo,
        )
        expanded.history = self.history
        return expanded

    def rsample(self, sample_shape: Shape = ()) -> Tensor:
        """A path (S, B, T, D), with gradients to all that the conditionals depend on."""
        if self._ahead is not None and not sample_shape:
            ahead, self._ahead = self._ahead, None
            return ahead
        shape = (*sample_shape, *self.batch_shape)
        frames = self.event_shape[0]
        context = self._context(shape)
        z = self.start.expand(*shape, 1 if self.recursive else frames, -1)
        if self.recursive:
            memo, path, conditionals, memos = self.first_memo, [], [], []
            # Split at once: one gradient for all windows, where slices would each write a whole one.
            windows = [None] * frames if context is None else context.split(1, -2)
            for now in windows:
                p_z, memo = self.conditional(z, now, memo)
                z = p_z.rsample()
                path.append(z)
                conditionals.append(p_z)
                if self.history is not None:
                    memos.append(memo)
            self._path, self._conditionals = torch.cat(path, -2), join_frames(conditionals)
            if self.history is not None:
                tell(memos, left_behind, self._path, *self.history)
        else:
            self._conditionals, _ = self.conditional(z, context, self.first_memo)
            self._path = self._conditionals.rsample()
        self._drawn = (self._path, self._conditionals)
        self._memo_is_due, self._with_grad = True, torch.is_grad_enabled()
        return self._path

    def draw_ahead(self) -> TorchDistribution:
        """Draw the path that the next :meth:`rsample` returns, and give its conditionals, batch (B, T)."""
        self._ahead = self.rsample()
        return self.along(self._ahead)

    def along(self, path: Tensor) -> TorchDistribution:
        """Every conditional :math:`p(z_t | z_{<t})` given the path (S, B, T, D); batch (S, B, T)."""
        lacks_grad = torch.is_grad_enabled() and not self._with_grad
        if path is not self._path or self._conditionals is None or lacks_grad:
            self._conditionals, self._memo = self._pass(path)
            self._path, self._memo_is_due, self._with_grad = path, False, torch.is_grad_enabled()
        return self._conditionals

    @property
    def memo(self) -> Any:
        """What the pass along the last path left behind; after a draw it is made when asked for."""
        if self._memo_is_due and self._path is not None:
            self._memo, self._memo_is_due = self._pass(self._path)[1], False
            self._with_grad = self._with_grad and torch.is_grad_enabled()
        return self._memo

    def _pass(self, path: Tensor) -> Step:
        shape = path.shape[:-2]
        first = self.start.expand(*shape, 1, -1)
        previous = torch.cat([first, path[..., :-1, :]], -2)
        memos = None if self.history is None else left_behind(path, *self.history)
        return self.conditional(previous, self._context(shape), memos or self.first_memo)

    def log_prob(self, value: Tensor) -> Tensor:
        """:math:`\\log p(z_{1:T})` in nats, (S, B)."""
        return self.sum_frames(self.along(value).log_prob(value))

    def sum_frames(self, per_frame: Tensor) -> Tensor:
        """(S, B, T) → (S, B), padded frames left out."""
        if self.frame_mask is not None:
            per_frame = per_frame.masked_fill(~self.frame_mask, 0.0)
        return per_frame.sum(-1)

    def _context(self, shape: tuple[int, ...]) -> Tensor | None:
        context = self.context
        return None if context is None else context.expand(*shape, *context.shape[-2:])


@once
def left_behind(path: Tensor, *history: Any) -> list[Any] | None:
    """The memos of the windows of a path, where a draw has told them."""
    return None


@register_kl(Rollout, Rollout)
def _kl_along_the_path(q: Rollout, p: Rollout) -> Tensor:
    if q._drawn is None:
        raise RuntimeError(
            "The KL of two Rollouts is taken along a path drawn from the first, and none has been "
            "drawn: call q.rsample() before kl_divergence(q, p)."
        )
    path, conditionals = q._drawn
    return q.sum_frames(kl_divergence(conditionals, p.along(path)))
