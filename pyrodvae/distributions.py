"""What Pyro lacks: the proper complex Gaussian, and a lean diagonal normal."""

from __future__ import annotations

import math
from typing import Any

import torch
from pyro.distributions import Normal, TorchDistribution
from torch import Size, Tensor
from torch.distributions import Independent, constraints, kl_divergence, register_kl
from torch.distributions.utils import lazy_property

from pyrodvae.once import once

Shape = Size | list[int] | tuple[int, ...]


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
        if not p.requires_grad:
            of_variance: Tensor = _VarianceScore.apply(*torch.broadcast_tensors(p, v))
            return of_variance
        return torch.addcdiv(v.log(), p, v).neg_().sub_(math.log(math.pi))


class _Score(torch.autograd.Function):
    """:math:`-\\log π - y - p e^{-y}` with its derivative :math:`p e^{-y} - 1` in y.

    Training spends its element-wise time here: as a function of its own it reads and writes each
    bin half as often as the formula would.
    """

    @staticmethod
    def forward(ctx: Any, p: Tensor, y: Tensor) -> Tensor:
        ratio = y.neg().exp_().mul_(p)
        ctx.save_for_backward(p, y, ratio)
        return ratio.add(y).add_(math.log(math.pi)).neg_()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[None, Tensor]:
        p, y, ratio = ctx.saved_tensors
        if torch.is_grad_enabled():  # for second derivatives the ratio has to know of y
            return None, (p * (-y).exp() - 1) * gradient
        return None, (ratio - 1).mul_(gradient)


class _VarianceScore(torch.autograd.Function):
    """:math:`-\\log π v - p / v` with its derivative :math:`(p / v - 1) / v` in v, for the same reason.

    Inference in noise spends its element-wise time here, and it grows with the number of chains.
    """

    @staticmethod
    def forward(ctx: Any, p: Tensor, v: Tensor) -> Tensor:
        ratio = p / v
        ctx.save_for_backward(p, v, ratio)
        return v.log().add_(ratio).add_(math.log(math.pi)).neg_()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[None, Tensor]:
        p, v, ratio = ctx.saved_tensors
        if torch.is_grad_enabled():  # for second derivatives the ratio has to know of v
            return None, (p / v - 1) / v * gradient
        return None, (ratio - 1).div_(v).mul_(gradient)


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


@once
def power(x: Tensor) -> Tensor:
    """:math:`|x|^2` of a complex tensor (``abs() ** 2`` would have no gradient at zero)."""
    return torch.addcmul(x.real.square(), x.imag, x.imag)
