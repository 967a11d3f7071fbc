"""Linear-Gaussian chains by brute force: one joint Gaussian of all frames, and its conditionals."""

from __future__ import annotations

import torch
from torch import Tensor

from pyrodvae.kalman import LinearGaussian


def covariance(n: int, *shape: int) -> Tensor:
    """Random and well-conditioned, (*shape, n, n)."""
    a = torch.randn(*shape, n, n, dtype=torch.double)
    return a @ a.mT / n + 0.3 * torch.eye(n, dtype=torch.double)


def random_model(D: int = 3, F: int = 2, T: int | None = None, offsets: bool = True) -> LinearGaussian:
    """Constant, or with other parameters at each of T frames; the unused first ones are NaN."""
    over = () if T is None else (T,)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, dtype=torch.double)

    A, Q = 0.7 * normal(*over, D, D), covariance(D, *over)
    a = normal(*over, D) if offsets else None
    if T is not None:
        for unused in (A, Q, a):
            if unused is not None:
                unused[0] = torch.nan
    return LinearGaussian(
        A, Q, normal(*over, F, D), covariance(F, *over), normal(D), covariance(D), a,
        normal(*over, F) if offsets else None,
    )  # fmt: skip


class Dense:
    """The joint Gaussian of z_1 … z_T, x_1 … x_T; T <= 10 or so.

    ``index(z=…, x=…)`` are coordinates of frames, ``given`` conditions some coordinates on others.
    """

    def __init__(self, model: LinearGaussian, T: int) -> None:
        D, F = model.latent, model.observed
        self.D, self.F, self.T = D, F, T

        def at(v: Tensor | None, t: int, dims: int) -> Tensor:
            if v is None:
                return torch.zeros((), dtype=torch.double)
            return v if v.dim() == dims else v[t] if len(v) > 1 else v[0]

        # Every variable as a row of weights on the independent noises, and a mean.
        noise = T * (D + F)
        z_weights, z_means, x_weights, x_means = [], [], [], []
        roots = [torch.linalg.cholesky(model.P1 if t == 0 else at(model.Q, t, 2)) for t in range(T)]
        for t in range(T):
            new = torch.zeros(D, noise, dtype=torch.double)
            new[:, t * D : (t + 1) * D] = roots[t]
            if t == 0:
                weights, mean = new, model.m1
            else:
                A = at(model.A, t, 2)
                weights, mean = A @ weights + new, A @ mean + at(model.a, t, 1)
            z_weights.append(weights)
            z_means.append(mean)
            B, start = at(model.B, t, 2), T * D + t * F
            own = torch.zeros(F, noise, dtype=torch.double)
            own[:, start : start + F] = torch.linalg.cholesky(at(model.R, t, 2))
            x_weights.append(B @ weights + own)
            x_means.append(B @ mean + at(model.b, t, 1))
        weights = torch.cat(z_weights + x_weights)
        self.mean, self.cov = torch.cat(z_means + x_means), weights @ weights.mT

    def index(self, z: list[int] | None = None, x: list[int] | None = None) -> Tensor:
        """Coordinates of some frames of z and of x."""
        D, F = self.D, self.F
        parts = [torch.arange(t * D, (t + 1) * D) for t in z or []]
        parts += [self.T * D + torch.arange(t * F, (t + 1) * F) for t in x or []]
        return torch.cat(parts) if parts else torch.zeros(0, dtype=torch.long)

    def given(self, of: Tensor, on: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """E[of | on] = W on + w and its covariance: (W, w, C)."""
        W = torch.linalg.solve(self.cov[on][:, on], self.cov[on][:, of]).mT
        C = self.cov[of][:, of] - W @ self.cov[on][:, of]
        return W, self.mean[of] - W @ self.mean[on], C

    def log_prob(self, x: Tensor, frames: list[int]) -> Tensor:
        """Of some frames of x (T, F)."""
        i = self.index(x=frames)
        if not len(i):
            return torch.zeros((), dtype=torch.double)
        normal = torch.distributions.MultivariateNormal(self.mean[i], self.cov[i][:, i])
        return normal.log_prob(x[frames].flatten())
