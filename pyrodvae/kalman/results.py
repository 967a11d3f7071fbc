"""What exact inference answers, worked out for all frames at once from the moments of a pass."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from pyrodvae.kalman.chain import Chain, apply, cholesky, update


@dataclass(frozen=True, eq=False)
class Filtered:
    """p(z_t | x_{1:t}), p(z_t | x_{<t}) and log p(x_t | x_{<t}) of every frame."""

    means: Tensor
    """(..., T, D)"""
    covariances: Tensor
    """(..., T, D, D)"""
    predicted_means: Tensor
    """(..., T, D)"""
    predicted_covariances: Tensor
    """(..., T, D, D)"""
    increments: Tensor
    """log p(x_t | x_{<t}) in nats, (..., T); zero where the frame is missing."""

    @property
    def log_evidence(self) -> Tensor:
        """log p(x_{1:T}) in nats, (...)."""
        return self.increments.sum(-1)


@dataclass(frozen=True, eq=False)
class Smoothed:
    """p(z_t, z_{t-1} | x_{1:T}) of every frame."""

    means: Tensor
    """(..., T, D)"""
    covariances: Tensor
    """(..., T, D, D)"""
    cross_covariances: Tensor
    """Cov(z_t, z_{t-1} | x), (..., T, D, D); zero at the first frame."""
    filtered: Filtered


@dataclass(frozen=True, eq=False)
class PosteriorConditionals:
    r"""The exact posterior, factorised forward: q(z_t | z_{t-1}, x_{t:T}) = N(G_t z_{t-1} + g_t, S_t).

    At the first frame G is zero. As z_{t-1} tells all that x_{<t} could, the product over frames is
    p(z_{1:T} | x_{1:T}).
    """

    G: Tensor
    """(..., T, D, D)"""
    g: Tensor
    """(..., T, D)"""
    scale_tril: Tensor
    """Cholesky factor of S, (..., T, D, D)"""

    @property
    def S(self) -> Tensor:
        """(..., T, D, D)."""
        return symmetric(self.scale_tril @ self.scale_tril.mT)

    def over(self, c: Chain) -> PosteriorConditionals:
        """The same for the whole batch."""
        return PosteriorConditionals(
            c.expand(self.G), c.expand(self.g[..., None])[..., 0], c.expand(self.scale_tril)
        )

    def noise(self, c: Chain, draws: int, generator: torch.Generator | None) -> Tensor:
        """What each frame adds to each draw, g_t + N(0, S_t): the draws are columns, (..., T, D, S)."""
        g = c.expand(self.g[..., None])
        shape = (*g.shape[:-1], draws)
        return g + apply(
            self.scale_tril, torch.randn(shape, dtype=g.dtype, device=g.device, generator=generator)
        )


@dataclass(frozen=True, eq=False)
class Forecast:
    """p(x_{T+h} | x_{1:T}), h = 1 … H."""

    means: Tensor
    """(..., H, F)"""
    covariances: Tensor
    """(..., H, F, F)"""


def filtered(c: Chain, means: Tensor, covariances: Tensor) -> Filtered:
    """All that follows from the filtered moments, for all frames at once."""
    predicted_means = apply(c.A, shifted(means)) + c.a
    predicted = symmetric(c.A @ shifted(covariances) @ c.A.mT) + c.Q
    L = cholesky(predicted)
    _, U = update(L, c.H)
    # log |B P⁻ Bᵀ + R| = log |R| + log |U Uᵀ|. The quadratic form of the innovation is a minimum over
    # z, taken at the filtered mean: as a sum of two squares it cancels nothing.
    change = solve(L, means - predicted_means)
    penalty = 0.5 * change.square().sum((-2, -1)) + U.diagonal(dim1=-2, dim2=-1).log().sum(-1)
    return Filtered(
        c.expand(means)[..., 0],
        c.expand(symmetric(covariances)),
        c.expand(predicted_means)[..., 0],
        c.expand(predicted),
        (c.loglikelihood(means) - c.seen(penalty)).expand(*c.batch, -1),
    )


def backward_kernels(c: Chain, means: Tensor, covariances: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """z_t = E_t z_{t+1} + e_t + N(0, V_t) given x_{1:t}, from the filtered moments of all frames.

    At the last frame E is zero, as nothing follows. V is in Joseph's form, a sum of squares.
    """
    m, P = means[..., :-1, :, :], covariances[..., :-1, :, :]
    A, a, Q = (v[..., 1:, :, :] for v in (c.A, c.a, c.Q))
    E = torch.cholesky_solve(A @ P, cholesky(A @ P @ A.mT + Q)).mT
    rest = torch.eye(P.shape[-1], dtype=P.dtype, device=P.device) - E @ A
    e = m - apply(E, apply(A, m) + a)
    V = rest @ P @ rest.mT + E @ Q @ E.mT
    last = covariances[..., -1:, :, :]
    return (
        torch.cat([E, torch.zeros_like(last)], -3),
        torch.cat([e, means[..., -1:, :, :]], -3),
        torch.cat([V, last], -3),
    )


def smoothed(
    c: Chain, moments: tuple[Tensor, Tensor], E: Tensor, means: Tensor, covariances: Tensor
) -> Smoothed:
    """The smoother's answer from its moments: adds Cov(z_t, z_{t-1} | x) = P_t E_{t-1}ᵀ."""
    covariances = symmetric(covariances)
    cross = covariances @ shifted(E.mT)
    return Smoothed(c.expand(means)[..., 0], c.expand(covariances), c.expand(cross), filtered(c, *moments))


def solve(L: Tensor, columns: Tensor) -> Tensor:
    """L^{-1} v for triangular L (..., T, D, D) and columns (..., T, D, 1), again without copies of L."""
    if L.dim() == 3 < columns.dim():
        flat = columns.flatten(0, -4)[..., 0].movedim(0, -1)  # (T, D, B)
        solved = torch.linalg.solve_triangular(L, flat, upper=False)
        return solved.movedim(-1, 0).reshape(columns.shape)
    return torch.linalg.solve_triangular(L, columns, upper=False)


def shifted(v: Tensor) -> Tensor:
    """Entry t - 1 at frame t, along the frame axis -3; zeros at the first."""
    return torch.cat([torch.zeros_like(v[..., :1, :, :]), v[..., :-1, :, :]], -3)


def symmetric(v: Tensor) -> Tensor:
    """½ (V + Vᵀ): rounding must not add up to an asymmetry."""
    return 0.5 * (v + v.mT)
