"""Draws against a posterior whose mean and covariance are known."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from pyrodvae import kalman
from pyrodvae.kalman import LinearGaussian


@dataclass(frozen=True, eq=False)
class PosteriorErrors:
    """What :func:`posterior_errors` found, in standard errors; as a string, one sentence."""

    mean: Tensor
    """(B, N), N = T · D."""
    covariance: Tensor
    """(B, N, N)."""
    chains: int

    @property
    def worst(self) -> float:
        """The largest of all."""
        return float(torch.maximum(self.mean.abs().max(), self.covariance.abs().max()))

    def __str__(self) -> str:
        return (
            f"Over {self.chains} chains, the mean is within {self.mean.abs().max():.1f} and the covariance "
            f"within {self.covariance.abs().max():.1f} standard errors."
        )


def posterior_errors(z: Tensor, mean: Tensor, covariance: Tensor) -> PosteriorErrors:
    r"""How far draws are from an exact mean m and covariance C, in standard errors.

    .. math::
        \frac{\bar a - m}{\operatorname{sd}(a) / \sqrt S}, \quad a_s = \frac1n \sum_i z_{is}, \\
        \frac{\bar c - C}{\operatorname{sd}(c) / \sqrt S}, \quad
            c_s = \frac1n \sum_i (z_{is} - m)(z_{is} - m)^⊤

    Chains are independent, the n draws of a chain are not: each chain counts once, with its average.

    Args:
        z: draws (S, B, T, D); or (..., S, B, T, D), all but S of one chain.
        mean: (B, T, D), or anything that broadcasts to it.
        covariance: (B, N, N) or (N, N), N = T · D.

    Raises:
        ValueError: fewer than 20 chains, of which no standard error can be told; or shapes that do not fit.
    """
    if z.dim() < 4:
        raise ValueError(
            f"Draws are (..., S, B, T, D), S chains first, and these are {tuple(z.shape)}: chains of one "
            "sequence are z[:, None], and one chain of several is none to tell errors by."
        )
    S, N = z.shape[-4], z.shape[-2] * z.shape[-1]
    if S < 20:
        raise ValueError(f"A standard error needs 20 chains S or more, and draws (..., S, B, T, D) have {S}.")
    if covariance.shape[-2:] != (N, N):
        raise ValueError(
            f"The covariance of paths of {z.shape[-2]} frames of {z.shape[-1]} ends in {(N, N)}; "
            f"its shape is {tuple(covariance.shape)}."
        )
    if not _broadcasts(mean, z.shape[-3:]) or not _broadcasts(covariance, (z.shape[-3], N, N)):
        raise ValueError(
            f"Draws of B, T, D = {tuple(z.shape[-3:])} do not fit a mean of shape {tuple(mean.shape)} and a "
            f"covariance of shape {tuple(covariance.shape)}: give (B, T, D) and (B, T · D, T · D)."
        )
    c = (z - mean).flatten(-2).reshape(-1, S, z.shape[-3], N)
    products = torch.einsum("nsbi,nsbj->sbij", c, c) / len(c)
    return PosteriorErrors(_errors(c.mean(0), 0.0), _errors(products, covariance), S)


def kalman_posterior(
    model: LinearGaussian, x: Tensor, observed: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    r"""Mean (B, T, D) and covariance (B, N, N) of a whole path given x (B, T, F), N = T · D.

    :math:`z_t = G_t z_{t-1} + g_t + \mathcal N(0, S_t)` for all t is :math:`(I - G) z = g +
    \mathcal N(0, S)` with the G_t below the diagonal; for paths that are short enough to write that down.
    """
    q = kalman.posterior_conditionals(model, x, observed)
    T, D = q.g.shape[-2:]
    # Blocks (T, T, D, D) as one matrix.
    later = torch.diag_embed(q.G[..., 1:, :, :].movedim(-3, -1), offset=-1, dim1=-4, dim2=-3)
    noise = torch.diag_embed(q.scale_tril.movedim(-3, -1), dim1=-4, dim2=-3)
    G, root = (v.transpose(-3, -2).reshape(*v.shape[:-4], T * D, T * D) for v in (later, noise))
    columns = torch.cat([q.g.flatten(-2)[..., None], root], -1)
    columns = torch.linalg.solve_triangular(torch.eye(T * D).to(G) - G, columns, upper=False)
    mean, path = columns[..., 0], columns[..., 1:]
    return mean.unflatten(-1, (T, D)), path @ path.mT


def _broadcasts(tensor: Tensor, shape: tuple[int, ...]) -> bool:
    """Whether it can be expanded to that shape."""
    pairs = zip(reversed(tensor.shape), reversed(shape), strict=False)
    return tensor.dim() <= len(shape) and all(size in (1, full) for size, full in pairs)


def _errors(values: Tensor, truth: Tensor | float) -> Tensor:
    """Of the mean over the first axis."""
    difference: Tensor = (values.mean(0) - truth) / (values.std(0) / len(values) ** 0.5)
    return difference
