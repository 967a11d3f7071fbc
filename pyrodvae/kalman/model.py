"""The linear-Gaussian state-space model: its parameters, and whether they fit each other."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, eq=False)
class LinearGaussian:
    r"""A linear-Gaussian state-space model with known parameters.

    .. math::
        z_1 &\sim \mathcal N(m_1, P_1) \\
        z_t \mid z_{t-1} &\sim \mathcal N(A_t z_{t-1} + a_t, Q_t), \quad t = 2 \dots T \\
        x_t \mid z_t &\sim \mathcal N(B_t z_t + b_t, R_t), \quad t = 1 \dots T

    The first observation sees z_1 with no transition before it. Entry t of a parameter that changes
    over time belongs to frame t, so A_t, a_t and Q_t describe the transition *into* frame t, and
    their first entry is never looked at.

    Args:
        A, Q, R: (D, D), (D, D), (F, F); or (T, ·, ·) where they change over time.
        B: (F, D) or (T, F, D).
        m1, P1: (D,) and (D, D).
        a, b: offsets (D,) and (F,), or (T, ·); None for zero.

    Further leading dimensions are a batch of models; then the axis of frames must be there as well,
    of size T or 1 (A is (N, 1, D, D) for N models that are constant over time), but not in m1 (N, D)
    and P1 (N, D, D).

    Raises:
        ValueError: shapes or types that do not fit each other; a Q, R or P1 that is not symmetric and
            positive definite.

    Source: Kalman, *A New Approach to Linear Filtering and Prediction Problems* (1960); the letters
    are those of Girin et al., *Dynamical Variational Autoencoders* (2021), §3.
    """

    A: Tensor
    Q: Tensor
    B: Tensor
    R: Tensor
    m1: Tensor
    P1: Tensor
    a: Tensor | None = None
    b: Tensor | None = None

    def __post_init__(self) -> None:
        if self.m1.dim() < 1 or self.B.dim() < 2:
            raise ValueError("m1 is a vector (D,) and B a matrix (F, D), or a batch of them.")
        D, F = self.latent, self.observed
        events = {"A": (D, D), "Q": (D, D), "B": (F, D), "R": (F, F), "P1": (D, D), "a": (D,), "b": (F,)}
        for name, event in events.items():
            value = getattr(self, name)
            if value is None:
                continue
            if value.dim() < len(event) or value.shape[-len(event) :] != event:
                raise ValueError(
                    f"With D = {D} (from m1) and F = {F} (from B), {name} ends in {event}; "
                    f"its shape is {tuple(value.shape)}."
                )
            if value.dtype != self.m1.dtype or value.device != self.m1.device:
                raise ValueError(
                    f"All parameters are of one type on one device; {name} is {value.dtype} on "
                    f"{value.device}, m1 is {self.m1.dtype} on {self.m1.device}."
                )
        _check_covariance("P1", self.P1)
        _check_covariance("R", self.R)
        changes = self.Q.dim() > 2 and self.Q.shape[-3] > 1
        _check_covariance("Q", self.Q[..., 1:, :, :] if changes else self.Q, first=int(changes))

    @property
    def latent(self) -> int:
        """D."""
        return self.m1.shape[-1]

    @property
    def observed(self) -> int:
        """F."""
        return self.B.shape[-2]


@torch.no_grad()
def _check_covariance(name: str, value: Tensor, first: int = 0) -> None:
    """Raise a ValueError that names the matrix, and its entry where there are several."""
    asymmetry = (value - value.mT).abs().amax((-2, -1))
    scale = value.abs().amax((-2, -1))
    # The comparison is so written that a NaN does not pass.
    bad = ~(asymmetry <= math.sqrt(torch.finfo(value.dtype).eps) * scale)
    bad |= torch.linalg.cholesky_ex(value).info != 0
    if bad.any():
        where = bad.nonzero()[0].tolist()
        if where:
            where[-1] += first if value.dim() > 2 else 0
        entry = f"[{', '.join(map(str, where))}]" if where else ""
        raise ValueError(f"{name}{entry} is not a covariance: it has to be symmetric and positive definite.")
