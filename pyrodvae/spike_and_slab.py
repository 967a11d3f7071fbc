"""The spike-and-slab distribution: exactly zero, or Gaussian."""

from __future__ import annotations

import math

import torch
from pyro.distributions import TorchDistribution
from torch import Size, Tensor
from torch.distributions import constraints, kl_divergence, register_kl

from pyrodvae.distributions import DiagonalNormal, Shape

SLOPE = 10.0
"""c of the gate that gradients go through."""
EPS = 1e-6
"""Probabilities of gates keep this distance from 0 and 1 where their logarithms are taken."""


class SpikeAndSlab(TorchDistribution):
    r"""Independent coordinates, each of them zero or Gaussian, event (D,).

    .. math:: p(z) = \prod_d \left[ π_d\, \mathcal N(z_d; μ_d, σ_d^2) + (1 - π_d)\, δ(z_d) \right]

    Densities are with respect to the Lebesgue measure and a unit mass at zero together: a zero counts
    log(1 − π), any other value log π + log N. A draw has exact zeros, and gradients as if its gate
    [η > 1 − π] were the paper's sigmoid, σ(c (η − 1 + π)) with a uniform η.

    The divergence of two is in closed form,

    .. math:: KL = \sum_d π_d\, KL(\mathcal N_d \,\|\, \mathcal N'_d)
              + π_d \log\frac{π_d}{π'_d} + (1 - π_d) \log\frac{1 - π_d}{1 - π'_d},

    and a Gaussian is one with π = 1. Objectives that sample it are right on average, but their gradients
    lack a term (what a gate's flip does to the density): train with the analytic one.

    Args:
        probability: π of the slab. loc, scale: μ and σ, all of equal shape (..., D).

    Source: Tonolini, Jensen & Murray-Smith, *Variational Sparse Coding* (UAI 2020).
    """

    arg_constraints = {
        "probability": constraints.independent(constraints.unit_interval, 1),
        "loc": constraints.real_vector,
        "scale": constraints.independent(constraints.positive, 1),
    }
    support = constraints.real_vector
    has_rsample = True

    def __init__(
        self, probability: Tensor, loc: Tensor, scale: Tensor, validate_args: bool | None = None
    ) -> None:
        self.probability, self.loc, self.scale = probability, loc, scale
        super().__init__(loc.shape[:-1], loc.shape[-1:], validate_args=validate_args)

    @property
    def mean(self) -> Tensor:
        """π μ."""
        return self.probability * self.loc

    @property
    def variance(self) -> Tensor:
        """π (σ² + μ²) − π² μ²."""
        return self.probability * (self.scale.square() + self.loc.square()) - self.mean.square()

    def expand(self, batch_shape: Shape, _instance: None = None) -> SpikeAndSlab:
        """The same distribution, broadcast to ``batch_shape``."""
        shape = (*batch_shape, *self.event_shape)
        probability, loc, scale = (p.expand(shape) for p in (self.probability, self.loc, self.scale))
        return SpikeAndSlab(probability, loc, scale, validate_args=False)

    def rsample(self, sample_shape: Shape = ()) -> Tensor:
        """A draw with exact zeros, and gradients to all parameters."""
        shape = Size((*sample_shape, *self.loc.shape))
        noise, uniform = (
            f(shape, dtype=self.loc.dtype, device=self.loc.device) for f in (torch.randn, torch.rand)
        )
        open_by = uniform - 1 + self.probability
        relaxed = (SLOPE * open_by).sigmoid()
        gate = (open_by > 0).to(relaxed) + (relaxed - relaxed.detach())
        return gate * torch.addcmul(self.loc, self.scale, noise)

    def log_prob(self, value: Tensor) -> Tensor:
        """In nats, (...)."""
        if self._validate_args:
            self._validate_sample(value)
        p = self.probability.clamp(EPS, 1 - EPS)
        square = ((value - self.loc) / self.scale).square()
        slab = p.log() - 0.5 * square - self.scale.log() - 0.5 * math.log(2 * math.pi)
        return torch.where(value == 0, torch.log1p(-p).expand_as(slab), slab).sum(-1)


@register_kl(SpikeAndSlab, SpikeAndSlab)
def _kl_of_spikes_and_slabs(q: SpikeAndSlab, p: SpikeAndSlab) -> Tensor:
    a, b = (d.probability.clamp(EPS, 1 - EPS) for d in (q, p))
    gates = a * (a / b).log() + (1 - a) * ((1 - a) / (1 - b)).log()
    return (gates + a * _of_slabs(q, p)).sum(-1)


@register_kl(DiagonalNormal, SpikeAndSlab)
def _kl_from_a_gaussian(q: DiagonalNormal, p: SpikeAndSlab) -> Tensor:
    return (_of_slabs(q, p) - p.probability.clamp(EPS, 1 - EPS).log()).sum(-1)


def _of_slabs(q: DiagonalNormal | SpikeAndSlab, p: SpikeAndSlab) -> Tensor:
    """KL of the Gaussians, coordinate by coordinate."""
    one = [DiagonalNormal(d.loc[..., None], d.scale[..., None], validate_args=False) for d in (q, p)]
    return kl_divergence(*one)
