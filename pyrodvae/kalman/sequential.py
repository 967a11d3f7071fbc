"""Exact inference frame by frame: filter, smoother, posterior, draws, forecasts."""

from __future__ import annotations

import torch
from torch import Tensor

from pyrodvae.kalman.chain import Chain, apply, cholesky, condition, make_chain, update
from pyrodvae.kalman.model import LinearGaussian
from pyrodvae.kalman.results import (
    Filtered,
    Forecast,
    PosteriorConditionals,
    Smoothed,
    backward_kernels,
    filtered,
    smoothed,
    symmetric,
)


def filter(model: LinearGaussian, x: Tensor, observed: Tensor | None = None) -> Filtered:
    r"""The Kalman filter: what is known of z_t at frame t, and the log evidence.

    .. math::
        m_t^- &= A_t m_{t-1} + a_t, & P_t^- &= A_t P_{t-1} A_t^⊤ + Q_t \\
        P_t &= \big((P_t^-)^{-1} + B_t^⊤ R_t^{-1} B_t\big)^{-1} \\
        m_t &= m_t^- + P_t B_t^⊤ R_t^{-1} (x_t - b_t - B_t m_t^-)

    Args:
        model: its parameters constant or with T entries.
        x: (..., T, F).
        observed: (..., T), False where a frame is missing; what x holds there does not matter. A NaN
            in a frame that is not marked is an error: nothing is taken for missing unasked.

    Raises:
        ValueError: shapes or types that do not fit the model's; an observed frame that is not finite.

    Source: Särkkä, *Bayesian Filtering and Smoothing* (2013), §4.3; the update in information form.
    """
    c = make_chain(model, x, observed)
    return filtered(c, *_forward(c))


def _forward(c: Chain) -> tuple[Tensor, Tensor]:
    """Filtered means (..., T, D, 1) and covariances (..., T, D, D)."""
    m, scale = torch.zeros_like(c.a[..., 0, :, :]), torch.zeros_like(c.Q[..., 0, :, :])
    means, scales = [], []
    for A, a, Q, H, y in zip(*(v.unbind(-3) for v in (c.A, c.a, c.Q, c.H, c.y)), strict=True):
        m, root = apply(A, m) + a, A @ scale
        scale, _ = update(cholesky(root @ root.mT + Q), H)
        m = m + apply(scale, apply(scale.mT, y - apply(H, m)))
        means.append(m)
        scales.append(scale)
    stacked = torch.stack(scales, -3)
    return torch.stack(means, -3), stacked @ stacked.mT


def smooth(model: LinearGaussian, x: Tensor, observed: Tensor | None = None) -> Smoothed:
    r"""The Rauch-Tung-Striebel smoother: what all of x says about z_t, and about two frames together.

    .. math::
        E_t &= P_t A_{t+1}^⊤ (P_{t+1}^-)^{-1} \\
        z_t \mid z_{t+1}, x_{1:t} &\sim \mathcal N\big(m_t + E_t (z_{t+1} - m_{t+1}^-),\;
        P_t - E_t P_{t+1}^- E_t^⊤\big)

    Arguments and errors: as :func:`filter`.

    Source: Särkkä, *Bayesian Filtering and Smoothing* (2013), §8.2.
    """
    c = make_chain(model, x, observed)
    moments = _forward(c)
    E, e, V = backward_kernels(c, *moments)
    m, P = torch.zeros_like(e[..., 0, :, :]), torch.zeros_like(V[..., 0, :, :])
    means, covariances = [], []
    for E_t, e_t, V_t in zip(*(reversed(v.unbind(-3)) for v in (E, e, V)), strict=True):
        m, P = apply(E_t, m) + e_t, E_t @ P @ E_t.mT + V_t
        means.append(m)
        covariances.append(P)
    return smoothed(c, moments, E, torch.stack(means[::-1], -3), torch.stack(covariances[::-1], -3))


def posterior_conditionals(
    model: LinearGaussian, x: Tensor, observed: Tensor | None = None
) -> PosteriorConditionals:
    r"""The exact posterior as a forward chain, from one pass backward over what the future says.

    .. math:: p(z_{1:T} \mid x_{1:T}) = \prod_t \mathcal N(z_t; G_t z_{t-1} + g_t, S_t)

    Arguments and errors: as :func:`filter`.

    Source: the backward information filter of Mayne (1966), Fraser & Potter (1969), in the direction
    that dynamical VAEs factorise their posterior (Girin et al. 2021, §3.3).
    """
    c = make_chain(model, x, observed)
    return _conditionals(c).over(c)


def _conditionals(c: Chain) -> PosteriorConditionals:
    """The same, but what does not depend on x without the batch shape of x."""
    J, j = torch.zeros_like(c.H[..., 0, :, :]), torch.zeros_like(c.y[..., 0, :, :])
    backward = []
    columns = (c.A, c.a, cholesky(c.Q), c.H, c.y)
    for A, a, L, H, y in zip(*(reversed(v.unbind(-3)) for v in columns), strict=True):
        q = condition(A, a, L, H + J, y + j)
        J, j = q.J, q.j
        backward.append(q)
    G, g, scale = (torch.stack([getattr(q, k) for q in backward[::-1]], -3) for k in ("G", "g", "scale"))
    return PosteriorConditionals(G, g[..., 0], scale)


def sample(
    model: LinearGaussian,
    x: Tensor,
    draws: int,
    observed: Tensor | None = None,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Independent draws of the latent path from the exact posterior: (S, ..., T, D), S = draws.

    Where nothing is observed they are draws from the prior. Other arguments and errors: as
    :func:`filter`.
    """
    c = make_chain(model, x, observed)
    q = _conditionals(c)
    noise = q.noise(c, draws, generator)
    z, path = torch.zeros_like(noise[..., 0, :, :]), []
    for G_t, noise_t in zip(q.G.unbind(-3), noise.unbind(-3), strict=True):
        z = apply(G_t, z) + noise_t
        path.append(z)
    return torch.stack(path, -3).movedim(-1, 0)


def forecast(model: LinearGaussian, x: Tensor, frames: int, observed: Tensor | None = None) -> Forecast:
    r"""What to expect of the H = ``frames`` observations after x.

    .. math:: p(x_{T+h} \mid x_{1:T}) = \mathcal N(B m_{T+h}^- + b, B P_{T+h}^- B^⊤ + R)

    Args:
        model: a parameter that changes over time has T + H entries here.
        x, observed: as in :func:`filter`.
        frames: H.

    Raises:
        ValueError: fewer than one frame ahead, or what :func:`filter` refuses.
    """
    if frames < 1:
        raise ValueError(f"A forecast is of at least one frame ahead, not {frames}.")
    if x.dim() < 2:
        raise ValueError(f"x is (..., T, F); got a tensor of shape {tuple(x.shape)}.")
    T = x.shape[-2]
    if observed is None:
        observed = torch.ones(T, dtype=torch.bool, device=x.device)
    # The future is a stretch of missing frames: there the filter only predicts.
    ahead = filter(
        model,
        torch.nn.functional.pad(x, (0, 0, 0, frames)),
        torch.nn.functional.pad(observed, (0, frames)),
    )
    m, P = ahead.predicted_means[..., T:, :, None], ahead.predicted_covariances[..., T:, :, :]
    B, R = (v[..., -frames:, :, :] if v.dim() > 2 and v.shape[-3] > 1 else v for v in (model.B, model.R))
    means = (B @ m)[..., 0]
    if model.b is not None:
        means = means + (model.b[..., -frames:, :] if model.b.dim() > 1 else model.b)
    return Forecast(means, symmetric(B @ P @ B.mT) + R)
