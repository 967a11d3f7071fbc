"""A VAE whose prior is a narrow and a wide Gaussian: zeros that are not exact."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np
import torch
from pyro.distributions import TorchDistribution
from torch import Size, Tensor
from torch.distributions import constraints, register_kl

from pyrodvae.distributions import DiagonalNormal, Shape
from pyrodvae.dvae import DVAE
from pyrodvae.nets import mlp
from pyrodvae.observations import make_head
from pyrodvae.rollout import Step

NODES = 32
"""Of the Gauss-Hermite rule for the divergence."""


class TwoGaussians(TorchDistribution):
    r"""Independent coordinates, each from a wide or a narrow Gaussian, event (D,).

    .. math:: p(z) = \prod_d \left[ α\, \mathcal N(z_d; 0, 1) + (1 - α)\, \mathcal N(z_d; 0, τ^2) \right]

    Unlike a spike this has a density everywhere, so engines that follow gradients feel it. The divergence
    of a Gaussian from it is an integral in one dimension, taken by a Gauss-Hermite rule.

    Args:
        alpha, narrow: α and τ, of equal shape (..., D).
    """

    arg_constraints = {
        "alpha": constraints.independent(constraints.unit_interval, 1),
        "narrow": constraints.independent(constraints.positive, 1),
    }
    support = constraints.real_vector
    has_rsample = True

    def __init__(self, alpha: Tensor, narrow: Tensor, validate_args: bool | None = None) -> None:
        self.alpha, self.narrow = alpha, narrow
        super().__init__(alpha.shape[:-1], alpha.shape[-1:], validate_args=validate_args)

    @property
    def mean(self) -> Tensor:
        """Zero."""
        return torch.zeros_like(self.alpha)

    @property
    def variance(self) -> Tensor:
        """α + (1 − α) τ²."""
        return self.alpha + (1 - self.alpha) * self.narrow.square()

    def expand(self, batch_shape: Shape, _instance: None = None) -> TwoGaussians:
        """The same distribution, broadcast to ``batch_shape``."""
        shape = (*batch_shape, *self.event_shape)
        return TwoGaussians(self.alpha.expand(shape), self.narrow.expand(shape), validate_args=False)

    def rsample(self, sample_shape: Shape = ()) -> Tensor:
        """A draw; it has no parameters that learn, and so no gradients."""
        shape = Size((*sample_shape, *self.alpha.shape))
        wide = torch.rand(shape, dtype=self.alpha.dtype, device=self.alpha.device) < self.alpha
        noise = torch.randn(shape, dtype=self.alpha.dtype, device=self.alpha.device)
        return torch.where(wide, noise, self.narrow * noise)

    def log_prob(self, value: Tensor) -> Tensor:
        """In nats, (...)."""
        return self.per_coordinate(value, self.alpha, self.narrow).sum(-1)

    @staticmethod
    def per_coordinate(value: Tensor, alpha: Tensor, narrow: Tensor) -> Tensor:
        """The logarithm of each factor."""
        wide = alpha.log() - 0.5 * value.square()
        close = torch.log1p(-alpha) - narrow.log() - 0.5 * (value / narrow).square()
        return torch.logaddexp(wide, close) - 0.5 * math.log(2 * math.pi)


@register_kl(DiagonalNormal, TwoGaussians)
def _kl_by_quadrature(q: DiagonalNormal, p: TwoGaussians) -> Tensor:
    x, w = (torch.from_numpy(a).to(q.loc) for a in np.polynomial.hermite_e.hermegauss(NODES))
    z = q.loc[..., None] + q.scale[..., None] * x
    expected = (p.per_coordinate(z, p.alpha[..., None], p.narrow[..., None]) * w).sum(-1) / w.sum()
    return -(expected + q.scale.log() + 0.5 * math.log(2 * math.pi * math.e)).sum(-1)


class TwoGaussianVAE(DVAE):
    r"""The frame-wise VAE with a sparse prior that is a mixture of two Gaussians.

    .. math::
        z_{td} &\sim α\, \mathcal N(0, 1) + (1 - α)\, \mathcal N(0, τ^2), \qquad τ \ll 1 \\
        x_t \mid z_t &\sim \mathcal N_c(0, \operatorname{diag} v_θ(z_t))

    The exact posterior of z_t depends on x_t alone.

    Args:
        observed: F. latent: D.
        hidden: size of the decoder's tanh layer; or dense: the sizes of several.
        alpha, narrow: α and τ.
        data: kind of data, see :mod:`pyrodvae.observations`.

    Raises:
        ValueError: α is no probability between 0 and 1, or τ not between 0 and 1.

    Source: Mathieu, Rainforth, Siddharth & Teh, *Disentangling disentanglement in variational
    autoencoders* (ICML 2019), the sparse prior.
    """

    feedback: ClassVar[bool] = False
    recursive: ClassVar[bool] = False
    reach: ClassVar[int | None] = 0

    def __init__(
        self,
        observed: int = 513,
        latent: int = 32,
        hidden: int = 128,
        *,
        alpha: float = 0.2,
        narrow: float = 0.22,
        dense: Sequence[int] | None = None,
        data: str = "speech",
    ) -> None:
        super().__init__(observed, latent, data)
        if not (0 < alpha < 1 and 0 < narrow < 1):
            raise ValueError(f"alpha and narrow are between 0 and 1, not {alpha} and {narrow}.")
        sizes = [latent, *([hidden] if dense is None else dense)]
        self.config |= {"alpha": alpha, "narrow": narrow, "dense": sizes[1:]}
        self.decoder = mlp(sizes)
        self.head = make_head(data, sizes[-1], observed)

    def transition(self, z_prev: Tensor, x_prev: Tensor | None, memo: Any) -> Step:
        """p(z_t), from the sizes of z_{t-1} alone."""
        alpha, narrow = (
            torch.full(z_prev.shape, self.config[k], dtype=z_prev.dtype, device=z_prev.device)
            for k in ("alpha", "narrow")
        )
        return TwoGaussians(alpha, narrow, validate_args=False), memo

    def emission(self, z: Tensor, x_prev: Tensor | None, memo: Any) -> Step:
        """p(x_t | z_t)."""
        return self.head(self.decoder(z)), memo
