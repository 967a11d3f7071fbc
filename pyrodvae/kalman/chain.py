"""A model and a sequence together, as a chain of Gaussian factors, and Bayes' rule for one of them."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from pyrodvae.kalman.model import LinearGaussian


@dataclass(frozen=True, eq=False)
class Chain:
    """A model and a sequence as T transitions, the first from nowhere, and what x_t says about z_t.

    The frame axis is -3 everywhere and vectors are columns, so that one line serves a frame and all
    frames alike. Frame 1 is a transition with A = 0, a = m1 and Q = P1. What does not depend on x
    keeps the batch shape of the model alone: covariances are worked out once for a whole batch.

    x_t enters as its information about z_t, :math:`H_t = B_t^⊤ R_t^{-1} B_t` and :math:`y_t = B_t^⊤
    R_t^{-1} (x_t - b_t)`, both zero where the frame is missing. So no cost per frame grows with F;
    the price is about one digit for every order of magnitude by which R is smaller than B P Bᵀ.
    """

    A: Tensor
    """(..., T, D, D)"""
    a: Tensor
    """(..., T, D, 1)"""
    Q: Tensor
    """(..., T, D, D)"""
    H: Tensor
    """(..., T, D, D)"""
    y: Tensor
    """(..., T, D, 1)"""
    white_B: Tensor
    """R^{-1/2} B, (F, D) or (..., T, F, D)"""
    white_x: Tensor
    """R^{-1/2} (x - b), (..., T, F)"""
    log_norm: Tensor
    """-½ log |2π R|, () or (..., T)"""
    observed: Tensor | None
    """(..., T)"""
    batch: torch.Size
    """The batch shape of all of it together."""

    def expand(self, v: Tensor) -> Tensor:
        """(..., T, ·, ·) broadcast to the whole batch shape."""
        return v.expand(*self.batch, *v.shape[-3:])

    def loglikelihood(self, z: Tensor) -> Tensor:
        """log p(x_t | z_t) for columns z (..., T, D, 1): (..., T), zero where the frame is missing."""
        square = (self.white_x - times(self.white_B, z[..., 0])).square().sum(-1)
        return self.seen(self.log_norm - 0.5 * square)

    def seen(self, per_frame: Tensor) -> Tensor:
        """(..., T) with zeros where the frame is missing."""
        return per_frame if self.observed is None else per_frame.where(self.observed, 0.0)


def make_chain(model: LinearGaussian, x: Tensor, observed: Tensor | None = None) -> Chain:
    """Put a model and sequences x (..., T, F) together; ``observed`` (..., T) is False where x is missing.

    Raises:
        ValueError: shapes or types that do not fit; a value that is not finite in a frame not missing.
    """
    batch = _common_batch(model, x, observed)
    if observed is not None:
        # A missing frame may hold anything, NaN too, and must not reach a gradient.
        x = x.where(observed[..., None], 0.0)
    finite = torch.isfinite(x).all(-1)
    if not finite.all():
        raise ValueError(
            f"x is not finite at {tuple((~finite).nonzero()[0].tolist())} (the last index is the frame): "
            "where frames are missing, say so by observed=~x.isnan().any(-1)."
        )
    D, T = model.latent, x.shape[-2]
    a = model.m1.new_zeros(D) if model.a is None else model.a
    A = _after_first(model.A.new_zeros(D, D), model.A, T)
    offset = _after_first(model.m1[..., None], a[..., None], T)
    Q = _after_first(model.P1, model.Q, T)

    factor = torch.linalg.cholesky(model.R)
    white_B = torch.linalg.solve_triangular(factor, model.B, upper=False)
    white_x = _whiten(factor, x if model.b is None else x - model.b)
    log_det = 2 * factor.diagonal(dim1=-2, dim2=-1).log().sum(-1)
    H = white_B.mT @ white_B
    H = H.expand(*H.shape[:-3], T, D, D)
    y = times(white_B.mT, white_x)[..., None]
    if observed is not None:
        H, y = (v.where(observed[..., None, None], 0.0) for v in (H, y))
    log_norm = -0.5 * (model.observed * math.log(2 * math.pi) + log_det)
    return Chain(A, offset, Q, H, y, white_B, white_x, log_norm, observed, batch)


def _common_batch(model: LinearGaussian, x: Tensor, observed: Tensor | None) -> torch.Size:
    """The batch shape of all of it together, or a ValueError that says what does not fit."""
    F = model.observed
    if x.dim() < 2 or x.shape[-1] != F or x.shape[-2] < 1 or x.dtype != model.m1.dtype:
        raise ValueError(
            f"x is (..., T, F) with F = {F} and at least one frame, of type {model.m1.dtype} as the model; "
            f"got {x.dtype} of shape {tuple(x.shape)}."
        )
    T = x.shape[-2]
    leading = {"x": x.shape[:-2], "m1": model.m1.shape[:-1], "P1": model.P1.shape[:-2]}
    for name, dims in (("A", 2), ("Q", 2), ("B", 2), ("R", 2), ("a", 1), ("b", 1)):
        value = getattr(model, name)
        if value is None or value.dim() == dims:
            continue
        if value.shape[-1 - dims] not in (1, T):
            raise ValueError(
                f"x has {T} frames, but {name} has entries for {value.shape[-1 - dims]}: its shape is "
                f"{tuple(value.shape)}."
            )
        leading[name] = value.shape[: -1 - dims]
    if observed is not None:
        if observed.dtype != torch.bool or observed.dim() < 1 or observed.shape[-1] != T:
            raise ValueError(
                f"observed is a mask (..., T) of booleans with T = {T}; "
                f"got {observed.dtype} of shape {tuple(observed.shape)}."
            )
        leading["observed"] = observed.shape[:-1]
    try:
        return torch.broadcast_shapes(*leading.values())
    except RuntimeError:
        shapes = ", ".join(f"{tuple(shape)} of {name}" for name, shape in leading.items())
        raise ValueError(f"The batch shapes do not go together: {shapes}.") from None


def _after_first(first: Tensor, later: Tensor, T: int) -> Tensor:
    """(..., T, ·, ·): ``first``, then the entries 1, 2, … of ``later``, or itself if it is constant."""
    if later.dim() == 2:
        later = later[None]
    if later.shape[-3] == T:
        later = later[..., 1:, :, :]
    first = first[..., None, :, :]
    shape = torch.broadcast_shapes(first.shape[:-3], later.shape[:-3])
    return torch.cat([first.expand(*shape, -1, -1, -1), later.expand(*shape, T - 1, -1, -1)], -3)


def times(matrix: Tensor, vectors: Tensor) -> Tensor:
    """Matrices (n, m) or (..., T, n, m) times vectors (..., T, m), without copies of a constant one."""
    return vectors @ matrix.mT if matrix.dim() == 2 else (matrix @ vectors[..., None])[..., 0]


def apply(matrix: Tensor, columns: Tensor) -> Tensor:
    """Matrices (..., T, n, m) times columns (..., T, m, k), or those of one frame without the T.

    A matrix that is the same for a whole batch is not copied for each sequence, as ``@`` would: the
    batch becomes more columns.
    """
    if matrix.dim() >= columns.dim() or matrix.dim() > 3:
        return matrix @ columns
    if matrix.dim() == 2:
        return (columns.mT @ matrix.mT).mT
    return torch.einsum("tnm,...tmk->...tnk", matrix, columns)


def _whiten(factor: Tensor, vectors: Tensor) -> Tensor:
    """L^{-1} v for a Cholesky factor (F, F) or (..., T, F, F) and vectors (..., T, F)."""
    if factor.dim() > 2:
        return torch.linalg.solve_triangular(factor, vectors[..., None], upper=False)[..., 0]
    flat = torch.linalg.solve_triangular(factor, vectors.reshape(-1, vectors.shape[-1]).mT, upper=False)
    return flat.mT.reshape(vectors.shape)


@dataclass(frozen=True, eq=False)
class Conditioned:
    """A transition that knows something of its end; see :func:`condition`."""

    G: Tensor
    """(..., D, D)"""
    g: Tensor
    """(..., D, 1)"""
    scale: Tensor
    """Cholesky factor of S, (..., D, D)"""
    J: Tensor
    """(..., D, D)"""
    j: Tensor
    """(..., D, 1)"""


def condition(A: Tensor, a: Tensor, L: Tensor, H: Tensor, h: Tensor) -> Conditioned:
    r"""Bayes' rule for a transition z → z' = A z + a + N(0, L Lᵀ) and information (H, h) about z'.

    .. math::
        \mathcal N(z'; A z + a, L L^⊤)\, e^{-½ z'^⊤ H z' + h^⊤ z'}
        ∝ \mathcal N(z'; G z + g, S)\, e^{-½ z^⊤ J z + j^⊤ z}

    as functions of z and z'. This one step is the backward pass, the elements of the parallel scan,
    and most of its operator. Neither Q nor H is inverted, and S and J are sums of squares, so both
    stay positive however long the chain.
    """
    scale, factor = update(L, H)
    Z = scale.mT @ (H @ A)
    G = A - scale @ Z
    surprise = h - apply(H, a)
    # Joseph's form: J is what H says through G, and what the step itself costs, L^{-1} (A - G).
    cost = torch.linalg.solve_triangular(factor.mT, Z, upper=False)
    return Conditioned(
        G,
        a + apply(scale, apply(scale.mT, surprise)),
        scale,
        G.mT @ (H @ G) + cost.mT @ cost,
        apply(G.mT, surprise),
    )


def update(L: Tensor, H: Tensor) -> tuple[Tensor, Tensor]:
    """The Cholesky factor of (Q^{-1} + H)^{-1} for Q = L Lᵀ, and U with U Uᵀ = I + Lᵀ H L, upper.

    An upper U makes L U^{-⊤} lower triangular, so it is the factor, and no covariance is factorised.
    """
    M = L.mT @ (H @ L)
    M = M + torch.eye(M.shape[-1], dtype=M.dtype, device=M.device)
    U = cholesky(M.flip((-2, -1))).flip((-2, -1))
    return torch.linalg.solve_triangular(U.mT, L, upper=False, left=False), U


def cholesky(V: Tensor) -> Tensor:
    """The Cholesky factor of a matrix that is positive definite but for rounding.

    Raises:
        ValueError: rounding was too much.
    """
    try:
        return torch.linalg.cholesky(V)
    except torch.linalg.LinAlgError:  # type: ignore[attr-defined]
        raise ValueError(
            "A covariance along the chain is not positive definite: Q, R and P1 lie further apart than "
            f"{V.dtype} has digits, or the model explodes; use float64, or bring them closer."
        ) from None
