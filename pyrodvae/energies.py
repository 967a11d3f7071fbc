"""The energies γ of latents, one for each frame and coordinate: what is believed of them, and their best."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar

import torch
from pyro.distributions import ImproperUniform, InverseGamma, StudentT, TorchDistribution
from torch import Size, Tensor
from torch.distributions import constraints

from pyrodvae.distributions import Shape

ENERGIES = "γ"
"""Name of the site of γ (B, T, N)."""
FLOOR = 1e-6
"""Least energy, about the least variance that a Gaussian of a network has."""


class Energies(ABC):
    r"""What is believed of the energies of latents a.

    .. math:: a_{tn} \mid γ_{tn} \sim \mathcal N(0, γ_{tn})

    The guide says the γ that is best for its q(a), in closed form, a point: it is a parameter of each
    frame, and learning alternates between it and the networks. Where γ is best, the bound has no slope in
    it, so it is said as a number without history: gradients are the same and less noisy.
    """

    bounded: ClassVar[bool]
    """Whether the density of a and γ together is; if not, a point estimate of a runs into a = γ = 0."""

    @abstractmethod
    def prior(self, shape: Size, mask: Tensor | None, like: Tensor) -> TorchDistribution:
        """p(γ), batch (...), event (T, N), for a shape (..., T, N); a mask (..., T) leaves frames out."""

    @abstractmethod
    def best(self, square: Tensor) -> Tensor:
        """The γ that maximises E_q[log p(a | γ)] + log p(γ), from E_q[a²]; both (..., T, N)."""

    def of(self, q: TorchDistribution) -> Tensor:
        """The γ (..., T, N) for a guide's q(a_t | ·), batch (..., T), event (N,): numbers without history."""
        square = q.mean.detach().square() + q.variance.detach()
        return self.best(square).clamp(min=FLOOR)


@dataclass(frozen=True)
class FreeEnergies(Energies):
    r"""Nothing is believed of γ: a parameter that maximises the bound.

    .. math:: γ = E_q[a^2] = μ^2 + σ^2, \qquad
              KL(q(a) \,\|\, p(a \mid γ)) = \tfrac12 \sum_n \log(1 + μ_n^2 / σ_n^2) \text{ there}

    As a Pyro program, γ is a site with a flat and improper density, of value zero for its logarithm.

    Raises:
        ValueError: γ is to be drawn, which a flat density does not allow.

    Source: Sadeghi & Magron, *A Sparsity-promoting Dictionary Model for Variational Autoencoders*
    (Interspeech 2022); as in sparse Bayesian learning, Tipping (2001).
    """

    bounded: ClassVar[bool] = False

    def prior(self, shape: Size, mask: Tensor | None, like: Tensor) -> TorchDistribution:
        """See :meth:`Energies.prior`."""
        return _Flat(constraints.positive, shape[:-2], shape[-2:])

    def best(self, square: Tensor) -> Tensor:
        """E_q[a²]."""
        return square


@dataclass(frozen=True)
class InverseGammaEnergies(Energies):
    r"""The hierarchical form: γ is random, and a without it has heavy tails.

    .. math::
        γ \sim \mathrm{InverseGamma}(α, β), \qquad
        a \sim \mathrm{StudentT}_{2α}\left(0, \sqrt{β/α}\right), \qquad
        γ_{\text{best}} = \frac{2β + E_q[a^2]}{2α + 3}

    It can be drawn from. The flat density is its limit α → −1, β → 0.

    Args:
        shape, rate: α and β, both positive.

    Raises:
        ValueError: they are not.

    Source: Tipping, *Sparse Bayesian learning and the relevance vector machine* (2001).
    """

    shape: float
    rate: float
    bounded: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if not (self.shape > 0 and self.rate > 0):
            raise ValueError(
                f"An inverse-Gamma has a positive shape and rate, not {self.shape} and {self.rate}."
            )

    def prior(self, shape: Size, mask: Tensor | None, like: Tensor) -> TorchDistribution:
        """See :meth:`Energies.prior`."""
        alpha, beta = (torch.full(shape, v, dtype=like.dtype) for v in (self.shape, self.rate))
        p = InverseGamma(alpha.to(like.device), beta.to(like.device)).to_event(1)
        return (p if mask is None else p.mask(mask)).to_event(1)

    def best(self, square: Tensor) -> Tensor:
        """See the class."""
        return (2 * self.rate + square) / (2 * self.shape + 3)

    def marginal(self) -> TorchDistribution:
        """p(a) of one coefficient, γ integrated out."""
        return StudentT(2 * self.shape, 0.0, (self.rate / self.shape) ** 0.5)


class _Flat(ImproperUniform):
    """An improper density whose draws are refused in words."""

    def expand(self, batch_shape: Shape, _instance: None = None) -> _Flat:
        return _Flat(self._support, Size(batch_shape), self.event_shape)

    def sample(self, sample_shape: Shape = ()) -> Tensor:
        raise ValueError(
            "The energies γ belong to each recording, and only its data tell them: there is no unconditional "
            "sampling, and a guide has to say them. Give them, model.given(γ), or believe in an "
            "inverse-Gamma, hyper=(shape, rate)."
        )
