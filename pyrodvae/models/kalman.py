"""Kalman: the linear-Gaussian state space, whose posterior is known."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from pyro.distributions import MultivariateNormal
from pyro.nn import PyroParam
from torch import Tensor, nn
from torch.distributions import constraints, kl_divergence, register_kl, transform_to

from pyrodvae.distributions import DiagonalNormal
from pyrodvae.dvae import DVAE
from pyrodvae.guide import Guide, Sees
from pyrodvae.kalman import LinearGaussian, scan
from pyrodvae.nets import frame_mask
from pyrodvae.rollout import Step


class Kalman(DVAE):
    r"""A state space with linear maps and Gaussian noise.

    .. math::
        z_1 &\sim \mathcal N(m_1, P_1) \\
        z_t \mid z_{t-1} &\sim \mathcal N(A z_{t-1}, Q) \\
        x_t \mid z_t &\sim \mathcal N(B z_t + b, R)

    The exact posterior of z_t depends on z_{t-1} and x_{t:T}, is Gaussian, and needs no network: see
    :class:`KalmanGuide`. Covariances are parametrised by their Cholesky factors.

    Args:
        observed: F. latent: D.
        data: ``"real"``, the one kind that is Gaussian around a linear map.

    Raises:
        ValueError: another kind of data.

    Source: Kalman (1960); as a dynamical VAE, Girin et al. (2021), §3.
    """

    feedback: ClassVar[bool] = False
    reach: ClassVar[int | None] = 1
    speech: ClassVar[bool] = False

    Q_tril: Tensor
    R_tril: Tensor
    P1_tril: Tensor

    def __init__(self, observed: int, latent: int = 16, *, data: str = "real") -> None:
        if data != "real":
            raise ValueError(f"A Kalman model is of real vectors: its data are 'real', not '{data}'.")
        super().__init__(observed, latent, data)
        # Each state keeps the variance one and decays slowly; observations mix them.
        self.A = nn.Parameter(0.9 * torch.eye(latent))
        self.B = nn.Parameter(torch.randn(observed, latent) / latent**0.5)
        self.b = nn.Parameter(torch.zeros(observed))
        self.m1 = nn.Parameter(torch.zeros(latent))
        for name, factor in {
            "Q_tril": 0.19**0.5 * torch.eye(latent),
            "R_tril": torch.eye(observed),
            "P1_tril": torch.eye(latent),
        }.items():
            setattr(self, name, PyroParam(factor, constraints.lower_cholesky))

    def transition(self, z_prev: Tensor, x_prev: Tensor | None, memo: Any) -> Step:
        """p(z_1) for the first frame, p(z_t | z_{t-1}) for others; the memo says which have been."""
        mean, scale = z_prev @ self.A.mT, self.Q_tril
        if memo is None:
            later = mean[..., 1:, :]
            mean = torch.cat([self.m1.expand(*mean.shape[:-2], 1, -1), later], -2)
            scale = torch.cat([self.P1_tril[None], scale.expand(later.shape[-2], -1, -1)])
        return MultivariateNormal(mean, scale_tril=scale, validate_args=False), "begun"

    def emission(self, z: Tensor, x_prev: Tensor | None, memo: Any) -> Step:
        """p(x_t | z_t)."""
        mean = torch.nn.functional.linear(z, self.B, self.b)
        return MultivariateNormal(mean, scale_tril=self.R_tril, validate_args=False), memo

    def exact(self, dtype: torch.dtype | None = None) -> LinearGaussian:
        """The parameters as they are now, for :mod:`pyrodvae.kalman`; for any number of frames.

        Args:
            dtype: to compute in; None for the parameters' own.
        """
        A, B, b, m1 = (p.to(dtype or p.dtype) for p in (self.A, self.B, self.b, self.m1))
        factors = (L.to(dtype or L.dtype) for L in (self.Q_tril, self.R_tril, self.P1_tril))
        Q, R, P1 = (L @ L.mT for L in factors)
        return LinearGaussian(A, Q, B, R, m1, P1, b=b)

    @torch.no_grad()
    def assign(self, parameters: LinearGaussian) -> None:
        """Take the parameters from elsewhere, for example from :func:`pyrodvae.kalman.em`.

        Raises:
            ValueError: of another size, changing over time, or with an offset of the transition.
        """
        if parameters.a is not None:
            raise ValueError("A Kalman model has no offset a in its transition: fit without one.")
        b = torch.zeros_like(self.b) if parameters.b is None else parameters.b
        plain = {"A": parameters.A, "B": parameters.B, "m1": parameters.m1, "b": b}
        for name, value in {**plain, "Q": parameters.Q, "R": parameters.R, "P1": parameters.P1}.items():
            own = getattr(self, name if name in plain else f"{name}_tril_unconstrained")
            if value.shape != own.shape:
                raise ValueError(f"{name} is {tuple(own.shape)} in this model, not {tuple(value.shape)}.")
            if name in plain:
                own.copy_(value)
            else:
                own.copy_(transform_to(constraints.lower_cholesky).inv(torch.linalg.cholesky(value)))

    @torch.no_grad()
    def fit_statistics(self, x: Tensor, v: Tensor | None = None) -> None:
        """Half of the variance of each coordinate of x (..., F) comes from the state, half is noise."""
        y = x.flatten(0, -2)
        deviation = y.std(0).clamp(min=1e-6)
        B = (0.5**0.5 * deviation / self.B.norm(dim=-1))[:, None] * self.B
        # Every state has the variance one, so this is the share of the state in x.
        start = self.exact()
        self.assign(
            LinearGaussian(
                start.A, start.Q, B, (0.5 * deviation.square()).diag(), start.m1, start.P1, b=y.mean(0)
            )
        )


@register_kl(DiagonalNormal, MultivariateNormal)
def _kl_of_a_diagonal_normal(q: DiagonalNormal, p: MultivariateNormal) -> Tensor:
    # Without it Pyro's analytic objective takes the KL from a network's guide to be sampled, silently.
    full = MultivariateNormal(q.loc, scale_tril=torch.diag_embed(q.scale), validate_args=False)
    return kl_divergence(full, p)


class KalmanGuide(Guide):
    r"""The exact posterior of a Kalman model, as the guide that no network can surpass.

    .. math:: q(z_t \mid z_{t-1}, x_{t:T}) = \mathcal N(G_t z_{t-1} + g_t, S_t)

    with :func:`pyrodvae.kalman.posterior_conditionals` of the model's present parameters. It has none
    of its own, and the ELBO is the log evidence, for every single draw. So the gradient of
    ``Trace_ELBO`` in the model's parameters is that of the evidence, without any noise.

    Args:
        model: a :class:`Kalman` model. It is looked at and not owned: its parameters are not the
            guide's, and a copy of the guide alone has a model of its own.
        sees: what the exact posterior depends on, z_{t-1} and x_{t:T}.

    Raises:
        ValueError: another kind of model.
    """

    def __init__(self, model: DVAE, sees: Sees) -> None:
        if not isinstance(model, Kalman):
            raise ValueError(f"The exact posterior is known of Kalman models, not of {type(model).__name__}.")
        super().__init__(model, sees)
        self.exact = model.exact  # a method: a module would be registered as a part of the guide
        self.latent = model.latent

    def context(self, x: Tensor, lengths: Tensor | None, shared: Any) -> Tensor:
        """G, g and the Cholesky factor of S side by side, (..., T, D² + D + D²)."""
        observed = None if lengths is None else frame_mask(lengths, x.shape[-2])
        # In single precision the posterior of a small R would be off; what it answers needs no more.
        q = scan.posterior_conditionals(self.exact(torch.float64), x.double(), observed)
        return torch.cat([q.G.flatten(-2), q.g, q.scale_tril.flatten(-2)], -1).to(x.dtype)

    def conditional(self, z_prev: Tensor, context: Tensor | None, memo: Any) -> Step:
        """q(z_t | z_{t-1}, x_{t:T}) on a window."""
        assert context is not None
        D = self.latent
        G, g, scale = context.split([D * D, D, D * D], -1)
        mean = (G.unflatten(-1, (D, D)) @ z_prev[..., None])[..., 0] + g
        return MultivariateNormal(mean, scale_tril=scale.unflatten(-1, (D, D)), validate_args=False), memo
