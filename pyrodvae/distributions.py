"""What Pyro lacks: the proper complex Gaussian, a path drawn frame by frame, a lean diagonal normal."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from pyro.distributions import Normal, TorchDistribution
from torch import Size, Tensor
from torch.autograd.function import once_differentiable
from torch.distributions import Independent, constraints, kl_divergence, register_kl
from torch.distributions.utils import lazy_property

Shape = Size | list[int] | tuple[int, ...]

Step = tuple[TorchDistribution, Any]
"""A conditional on a window of frames, and the memo that the next window needs."""

Conditional = Callable[[Tensor, Tensor | None, Any], Step]
"""``(z_prev (..., L, D), context (..., L, C) | None, memo) -> (p(z | past) on the window, memo)``."""


class _Complex(constraints.Constraint):
    """Any finite complex number."""

    def check(self, value: Tensor) -> Tensor:
        value = torch.as_tensor(value)
        return torch.isfinite(value) & value.is_complex()


class ComplexNormal(TorchDistribution):
    r"""The proper complex Gaussian of zero mean, one per time-frequency bin.

    .. math:: \mathcal N_c(s; 0, v) = \frac{1}{\pi v}\, e^{-|s|^2 / v}

    There is no ½: real and imaginary part share the variance, so :math:`|s|^2` is exponential with
    mean :math:`v`. Up to a constant of the data, ``-log_prob`` is the Itakura-Saito divergence
    :math:`d_{IS}(|s|^2, v)`.

    Args:
        variance: :math:`v > 0`, any shape; linear power. Or instead of it
        log_variance: :math:`\log v`, what decoders compute; scored without a logarithm or a division.

    Source: Févotte, Bertin & Durrieu, *NMF with the Itakura-Saito divergence* (2009).
    """

    arg_constraints = {"variance": constraints.positive, "log_variance": constraints.real}
    support = _Complex()
    has_rsample = True

    def __init__(
        self,
        variance: Tensor | None = None,
        log_variance: Tensor | None = None,
        validate_args: bool | None = None,
    ) -> None:
        if (variance is None) == (log_variance is None):
            raise ValueError("A ComplexNormal is given by its variance or by its log_variance: one of them.")
        if variance is not None:
            self.variance = given = variance
        if log_variance is not None:
            self.log_variance = given = log_variance
        super().__init__(given.shape, validate_args=validate_args)

    @lazy_property
    def variance(self) -> Tensor:
        """The variance :math:`v = E|s|^2`."""
        return self.log_variance.exp()

    @lazy_property
    def log_variance(self) -> Tensor:
        """Its logarithm."""
        return self.variance.log()

    @property
    def mean(self) -> Tensor:
        """Zero, complex."""
        return torch.complex(torch.zeros_like(self.variance), torch.zeros_like(self.variance))

    def expand(self, batch_shape: Shape, _instance: None = None) -> ComplexNormal:
        """The same distribution, broadcast to ``batch_shape``."""
        if "log_variance" in self.__dict__:
            return ComplexNormal(log_variance=self.log_variance.expand(batch_shape), validate_args=False)
        return ComplexNormal(self.variance.expand(batch_shape), validate_args=False)

    def rsample(self, sample_shape: Shape = ()) -> Tensor:
        """A draw with gradients to the variance: :math:`\\sqrt{v/2}\\,(ε_1 + i ε_2)`."""
        variance = self.variance.expand(self._extended_shape(Size(sample_shape)))
        noise = torch.randn((*variance.shape, 2), dtype=variance.dtype, device=variance.device)
        return torch.view_as_complex(noise) * (variance / 2).sqrt()

    def log_prob(self, value: Tensor) -> Tensor:
        """:math:`-\\log π v - |s|^2 / v`, in nats, elementwise."""
        if self._validate_args:
            self._validate_sample(value)
        p = power(value)
        if "log_variance" in self.__dict__ and not p.requires_grad:
            score: Tensor = _Score.apply(*torch.broadcast_tensors(p, self.log_variance))
            return score
        v = self.variance
        return torch.addcdiv(v.log(), p, v).neg_().sub_(math.log(math.pi))


class _Score(torch.autograd.Function):
    """:math:`-\\log π - y - p e^{-y}` with its derivative :math:`p e^{-y} - 1` in y.

    Training spends its element-wise time here: as a function of its own it reads and writes each
    bin half as often as the formula would.
    """

    @staticmethod
    def forward(ctx: Any, p: Tensor, y: Tensor) -> Tensor:
        ratio = y.neg().exp_().mul_(p)
        ctx.save_for_backward(ratio)
        return ratio.add(y).add_(math.log(math.pi)).neg_()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[None, Tensor]:
        (ratio,) = ctx.saved_tensors
        return None, (ratio - 1).mul_(gradient)


class DiagonalNormal(TorchDistribution):
    """N(loc, diag scale²), event (D,): ``Normal(loc, scale).to_event(1)`` with half its overhead.

    A roll-out makes one of these per frame, so what each costs beside its arithmetic counts.

    Args:
        loc, scale: of equal shape (..., D).
    """

    arg_constraints = {
        "loc": constraints.real_vector,
        "scale": constraints.independent(constraints.positive, 1),
    }
    support = constraints.real_vector
    has_rsample = True

    def __init__(self, loc: Tensor, scale: Tensor, validate_args: bool | None = None) -> None:
        self.loc, self.scale = loc, scale
        super().__init__(loc.shape[:-1], loc.shape[-1:], validate_args=validate_args)

    @property
    def mean(self) -> Tensor:
        """loc."""
        return self.loc

    @property
    def variance(self) -> Tensor:
        """scale², per element."""
        return self.scale.square()

    def expand(self, batch_shape: Shape, _instance: None = None) -> DiagonalNormal:
        """The same distribution, broadcast to ``batch_shape``."""
        shape = (*batch_shape, *self.event_shape)
        return DiagonalNormal(self.loc.expand(shape), self.scale.expand(shape), validate_args=False)

    def rsample(self, sample_shape: Shape = ()) -> Tensor:
        """A draw with gradients to both parameters."""
        shape = (*sample_shape, *self.loc.shape)
        noise = torch.randn(shape, dtype=self.loc.dtype, device=self.loc.device)
        return torch.addcmul(self.loc, self.scale, noise)

    def log_prob(self, value: Tensor) -> Tensor:
        """In nats, (...)."""
        if self._validate_args:
            self._validate_sample(value)
        square = ((value - self.loc) / self.scale).square()
        return -(0.5 * square + self.scale.log()).sum(-1) - 0.5 * math.log(2 * math.pi) * self.loc.shape[-1]


@register_kl(DiagonalNormal, DiagonalNormal)
def _kl_of_diagonal_normals(q: DiagonalNormal, p: DiagonalNormal) -> Tensor:
    ratio = q.scale / p.scale
    shift = (q.loc - p.loc) / p.scale
    return 0.5 * (ratio.square() + shift.square() - 1 - 2 * ratio.log()).sum(-1)


@register_kl(DiagonalNormal, Independent)
def _kl_to_independent(q: DiagonalNormal, p: Independent[Any]) -> Tensor:
    return kl_divergence(Normal(q.loc, q.scale, validate_args=False).to_event(1), p)


@register_kl(Independent, DiagonalNormal)
def _kl_from_independent(q: Independent[Any], p: DiagonalNormal) -> Tensor:
    return kl_divergence(q, Normal(p.loc, p.scale, validate_args=False).to_event(1))


def power(x: Tensor) -> Tensor:
    """:math:`|x|^2` of a complex tensor (``abs() ** 2`` would have no gradient at zero).

    Data keep theirs, since guide and model both ask for it at every step.
    """
    kept: tuple[int, Tensor] | None = getattr(x, "_power", None)
    if kept is not None and kept[0] == x._version:
        return kept[1]
    p = torch.addcmul(x.real.square(), x.imag, x.imag)
    if not x.requires_grad and not x.is_inference():
        x._power = (x._version, p)  # type: ignore[attr-defined]
    return p


def select_frames(d: TorchDistribution, frames: slice) -> TorchDistribution:
    """The conditionals of some frames: the same family, its parameters cut along the frame axis."""
    axis = len(d.batch_shape) - 1
    return _rebuild([d], lambda p: p[0][(slice(None),) * axis + (frames,)])


def join_frames(conditionals: list[TorchDistribution]) -> TorchDistribution:
    """Conditionals of consecutive windows as one: parameters joined along the frame axis."""
    axis = len(conditionals[0].batch_shape) - 1
    return _rebuild(conditionals, lambda p: torch.cat(p, axis))


def _rebuild(ds: list[Any], how: Callable[[list[Tensor]], Tensor]) -> Any:
    """One distribution whose every parameter is ``how([the parameter of each])``."""
    d = ds[0]
    if isinstance(d, Independent):
        base = _rebuild([e.base_dist for e in ds], how)
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
        self._drawn: tuple[Tensor, TorchDistribution] | None = None
        super().__init__(Size(batch_shape), Size((frames, len(start))), validate_args=False)

    def expand(self, batch_shape: Shape, _instance: None = None) -> Rollout:
        """The same law for a larger batch; unchanged (with its memory) where the shape is equal."""
        if Size(batch_shape) == self.batch_shape:
            return self
        return Rollout(
            self.conditional,
            self.start,
            self.event_shape[0],
            context=self.context,
            mask=self.frame_mask,
            batch_shape=Size(batch_shape),
            recursive=self.recursive,
            memo=self.first_memo,
        )

    def rsample(self, sample_shape: Shape = ()) -> Tensor:
        """A path (S, B, T, D), with gradients to all that the conditionals depend on."""
        shape = (*sample_shape, *self.batch_shape)
        frames = self.event_shape[0]
        context = self._context(shape)
        z = self.start.expand(*shape, 1 if self.recursive else frames, -1)
        if self.recursive:
            memo, path, conditionals = self.first_memo, [], []
            # Split at once: one gradient for all windows, where slices would each write a whole one.
            windows = [None] * frames if context is None else context.split(1, -2)
            for now in windows:
                p_z, memo = self.conditional(z, now, memo)
                z = p_z.rsample()
                path.append(z)
                conditionals.append(p_z)
            self._path, self._conditionals = torch.cat(path, -2), join_frames(conditionals)
        else:
            self._conditionals, _ = self.conditional(z, context, self.first_memo)
            self._path = self._conditionals.rsample()
        self._drawn = (self._path, self._conditionals)
        self._memo_is_due = True
        return self._path

    def along(self, path: Tensor) -> TorchDistribution:
        """Every conditional :math:`p(z_t | z_{<t})` given the path (S, B, T, D); batch (S, B, T)."""
        if path is not self._path or self._conditionals is None:
            self._conditionals, self._memo = self._pass(path)
            self._path, self._memo_is_due = path, False
        return self._conditionals

    @property
    def memo(self) -> Any:
        """What the pass along the last path left behind; after a draw it is made when asked for."""
        if self._memo_is_due and self._path is not None:
            self._memo, self._memo_is_due = self._pass(self._path)[1], False
        return self._memo

    def _pass(self, path: Tensor) -> Step:
        shape = path.shape[:-2]
        first = self.start.expand(*shape, 1, -1)
        previous = torch.cat([first, path[..., :-1, :]], -2)
        return self.conditional(previous, self._context(shape), self.first_memo)

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


@register_kl(Rollout, Rollout)
def _kl_along_the_path(q: Rollout, p: Rollout) -> Tensor:
    if q._drawn is None:
        raise RuntimeError(
            "The KL of two Rollouts is taken along a path drawn from the first, and none has been "
            "drawn: call q.rsample() before kl_divergence(q, p)."
        )
    path, conditionals = q._drawn
    return q.sum_frames(kl_divergence(conditionals, p.along(path)))
