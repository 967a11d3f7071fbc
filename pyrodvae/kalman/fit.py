"""The parameters of a linear-Gaussian state-space model by expectation-maximisation."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor

from pyrodvae.kalman.model import LinearGaussian
from pyrodvae.kalman.results import Smoothed, symmetric
from pyrodvae.kalman.sequential import smooth

Smoother = Callable[[LinearGaussian, Tensor, Tensor | None], Smoothed]


@torch.no_grad()
def em(
    model: LinearGaussian,
    x: Tensor,
    iterations: int,
    observed: Tensor | None = None,
    smoother: Smoother = smooth,
    initial: bool | None = None,
) -> tuple[LinearGaussian, Tensor]:
    r"""Fit all parameters: each iteration maximises E[log p(x, z)] under the posterior of the last.

    .. math::
        [A, a] &= \textstyle\sum E[z_t \bar z_{t-1}^⊤] \big(\sum E[\bar z_{t-1} \bar z_{t-1}^⊤]\big)^{-1} \\
        Q &= \textstyle\frac1n \sum E[(z_t - A z_{t-1} - a)(z_t - A z_{t-1} - a)^⊤]

    with :math:`\bar z = (z, 1)`, and B, b, R likewise from the observed frames; m1 and P1 from the
    first, where there are enough sequences. An offset that is None stays zero. The evidence never
    decreases.

    Args:
        model: where to start; its parameters constant over time and not batched.
        x: (..., T, F): one sequence, or many with the same parameters.
        iterations: how many.
        observed: (..., T), False where a frame is missing.
        smoother: :func:`pyrodvae.kalman.smooth` or :func:`pyrodvae.kalman.scan.smooth`.
        initial: whether m1 and P1 are fitted. None: only to more than D sequences. The first frames of
            fewer leave P1 singular: the evidence then has no maximum, and P1 and R go to zero together.

    Returns:
        The fitted model, and the log evidence of all sequences together, in nats, at the start and
        after each iteration, (iterations + 1,).

    Raises:
        ValueError: a model that changes over time, a single frame, no frame observed, or what
            :func:`pyrodvae.kalman.filter` refuses. Also where the data lie in fewer dimensions than
            the model has, so that a covariance shrinks to nothing.

    Source: Shumway & Stoffer (1982); Ghahramani & Hinton, *Parameter Estimation for Linear Dynamical
    Systems* (1996).
    """
    for name, dims in {"A": 2, "Q": 2, "B": 2, "R": 2, "m1": 1, "P1": 2, "a": 1, "b": 1}.items():
        value = getattr(model, name)
        if value is not None and value.dim() > dims:
            raise ValueError(f"EM fits constant parameters; {name} has the shape {tuple(value.shape)}.")
    if x.shape[-2] < 2 or (observed is not None and not observed.any()):
        raise ValueError("EM needs at least two frames, and one that is observed.")
    if initial is None:
        initial = x.shape[:-2].numel() > model.latent
    # What is not fitted is handed on as numbers, not as parameters of whatever it came from.
    model = replace(model, m1=model.m1.detach(), P1=model.P1.detach())
    evidence = []
    for _ in range(iterations):
        s = smoother(model, x, observed)
        evidence.append(s.filtered.log_evidence.sum())
        model = maximise(model, s, x, observed, initial)
    evidence.append(smoother(model, x, observed).filtered.log_evidence.sum())
    return model, torch.stack(evidence)


def maximise(
    model: LinearGaussian, s: Smoothed, x: Tensor, observed: Tensor | None, initial: bool = True
) -> LinearGaussian:
    """The M-step: the parameters that maximise E[log p(x, z)] under the smoothed posterior.

    ``initial`` says whether m1 and P1 are among them.
    """
    m, P = s.means, s.covariances
    x = x.expand(*m.shape[:-1], -1)
    m1, P1 = model.m1, model.P1
    if initial:
        first = m[..., 0, :].reshape(-1, model.latent)
        m1 = first.mean(0)
        deviation = first - m1
        spread = P[..., 0, :, :].reshape(-1, *P.shape[-2:]).mean(0)
        P1 = symmetric(spread + deviation.mT @ deviation / len(first))

    A, a, Q = regress(
        m[..., 1:, :].flatten(0, -2),
        m[..., :-1, :].flatten(0, -2),
        total(P[..., 1:, :, :]),
        total(s.cross_covariances[..., 1:, :, :]),
        total(P[..., :-1, :, :]),
        model.a is not None,
    )
    if observed is None:
        seen = torch.ones(m.shape[:-1], dtype=torch.bool, device=m.device)
    else:
        seen = observed.expand(m.shape[:-1])
    none = m.new_zeros(model.observed, model.latent)
    B, b, R = regress(x[seen], m[seen], none @ none.mT, none, total(P[seen]), model.b is not None)
    return replace(model, A=A, Q=Q, B=B, R=R, m1=m1, P1=P1, a=a, b=b)


def regress(
    y: Tensor, u: Tensor, yy: Tensor, yu: Tensor, uu: Tensor, offset: bool
) -> tuple[Tensor, Tensor | None, Tensor]:
    """The map y ≈ W u + w of uncertain points, and the covariance of what is left.

    Args:
        y, u: means (N, n), (N, m) of the points.
        yy, yu, uu: their covariances, summed over the points.
        offset: whether there is a w.
    """
    # Around their means the sums do not cancel, however far from zero the data are.
    y0 = y.mean(0) if offset else torch.zeros_like(y[0])
    u0 = u.mean(0) if offset else torch.zeros_like(u[0])
    Y, U = y - y0, u - u0
    gram = symmetric(U.mT @ U + uu)
    W = torch.linalg.solve(gram, (Y.mT @ U + yu).mT).mT
    left = Y - U @ W.mT
    # E[(y - W u)(y - W u)ᵀ] as two sums of squares, of means and of covariances.
    noise = yy - W @ yu.mT - yu @ W.mT + W @ uu @ W.mT
    return W, y0 - W @ u0 if offset else None, symmetric(left.mT @ left + noise) / len(y)


def total(v: Tensor) -> Tensor:
    """Matrices (..., n, m) summed over all but their own axes."""
    return v.reshape(-1, *v.shape[-2:]).sum(0)
