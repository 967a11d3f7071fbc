"""Filter, smoother, posterior and draws by parallel scans: log₂ T levels in place of T steps.

Filtering, smoothing and drawing are each a chain of T maps, and composing maps is associative: so
pairs are composed at once, then pairs of pairs. It does about twice the arithmetic, in batched calls
that do not wait for each other.

Source: Särkkä & García-Fernández, *Temporal Parallelization of Bayesian Smoothers* (2021).
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from pyrodvae.kalman.chain import Chain, apply, cholesky, condition, make_chain
from pyrodvae.kalman.model import LinearGaussian
from pyrodvae.kalman.results import (
    Filtered,
    PosteriorConditionals,
    Smoothed,
    backward_kernels,
    filtered,
    smoothed,
    symmetric,
)

Element = tuple[Tensor, ...]
"""Tensors with the frames along axis -3."""

Compose = Callable[[Element, Element], Element]
"""``(earlier, later) -> both``, for many pairs along the frame axis; associative."""


def filter(model: LinearGaussian, x: Tensor, observed: Tensor | None = None) -> Filtered:
    """The Kalman filter; see :func:`pyrodvae.kalman.filter`."""
    c = make_chain(model, x, observed)
    return filtered(c, *_forward(c))


def smooth(model: LinearGaussian, x: Tensor, observed: Tensor | None = None) -> Smoothed:
    """The Rauch-Tung-Striebel smoother; see :func:`pyrodvae.kalman.smooth`."""
    c = make_chain(model, x, observed)
    moments = _forward(c)
    kernels = backward_kernels(c, *moments)
    # Kernels run from the future to the past: there the later frame comes first.
    _, means, covariances = scan(lambda i, j: follow(j, i), kernels, reverse=True)
    return smoothed(c, moments, kernels[0], means, covariances)


def posterior_conditionals(
    model: LinearGaussian, x: Tensor, observed: Tensor | None = None
) -> PosteriorConditionals:
    """The exact posterior as a forward chain; see :func:`pyrodvae.kalman.posterior_conditionals`."""
    c = make_chain(model, x, observed)
    return _conditionals(c).over(c)


def _conditionals(c: Chain) -> PosteriorConditionals:
    """The same, but what does not depend on x without the batch shape of x."""
    L = cholesky(c.Q)
    *_, J, j = scan(compose, _elements(c, L), reverse=True)
    # What x_{t+1:T} says about z_t stands at t + 1; nothing follows the last frame.
    J, j = (torch.cat([v[..., 1:, :, :], torch.zeros_like(v[..., :1, :, :])], -3) for v in (J, j))
    q = condition(c.A, c.a, L, c.H + J, c.y + j)
    return PosteriorConditionals(q.G, q.g[..., 0], q.scale)


def sample(
    model: LinearGaussian,
    x: Tensor,
    draws: int,
    observed: Tensor | None = None,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Draws from the exact posterior; with equal generators those of :func:`pyrodvae.kalman.sample`."""
    c = make_chain(model, x, observed)
    q = _conditionals(c)
    _, path = scan(_follow_path, (q.G, q.noise(c, draws, generator)))
    return path.movedim(-1, 0)


def _elements(c: Chain, L: Tensor) -> Element:
    """p(z_t | z_{t-1}, x_t) and p(x_t | z_{t-1}) of each frame: (F, f, C, J, j)."""
    q = condition(c.A, c.a, L, c.H, c.y)
    C = q.scale @ q.scale.mT
    shape = torch.broadcast_shapes(q.G.shape[:-3], C.shape[:-3], q.J.shape[:-3])
    return q.G.expand(*shape, *q.G.shape[-3:]), q.g, C, q.J, q.j


def _forward(c: Chain) -> tuple[Tensor, Tensor]:
    """Filtered means (..., T, D, 1) and covariances (..., T, D, D)."""
    _, means, covariances, _, _ = scan(compose, _elements(c, cholesky(c.Q)))
    return means, covariances


def compose(earlier: Element, later: Element) -> Element:
    r"""Two stretches of frames as one.

    A stretch i…k is :math:`p(z_k | z_{i-1}, x_{i:k}) = \mathcal N(F z_{i-1} + f, C)` together with
    :math:`p(x_{i:k} | z_{i-1}) ∝ \exp(-½ z^⊤ J z + j^⊤ z)`. What the later stretch says about its
    start conditions the earlier one, and its map then goes on from there.
    """
    F1, f1, C1, J1, j1 = earlier
    F2, f2, C2, J2, j2 = later
    q = condition(F1, f1, cholesky(C1), J2, j2)
    root = F2 @ q.scale
    return F2 @ q.G, apply(F2, q.g) + f2, root @ root.mT + C2, J1 + q.J, j1 + q.j


def follow(first: Element, second: Element) -> Element:
    """z → E z + e + N(0, V), one after the other."""
    E1, e1, V1 = first
    E2, e2, V2 = second
    return E2 @ E1, apply(E2, e1) + e2, symmetric(E2 @ V1 @ E2.mT) + V2


def _follow_path(first: Element, second: Element) -> Element:
    """z → G z + e with the noise e drawn: many draws side by side."""
    (G1, e1), (G2, e2) = first, second
    return G2 @ G1, apply(G2, e1) + e2


def scan(compose: Compose, elements: Element, reverse: bool = False) -> Element:
    """All prefixes 1…t of a chain of elements, or all suffixes t…T, composed.

    Args:
        compose: associative, ``(earlier, later) -> both``.
        elements: tensors with T frames along axis -3.
        reverse: suffixes.

    Recursive doubling: pairs are composed, their prefixes found by the same means, and the frames in
    between filled in. At most 2 log₂ T calls of ``compose``, on 2 T pairs in all.
    """
    if reverse:
        flipped = tuple(e.flip(-3) for e in elements)
        return tuple(e.flip(-3) for e in scan(lambda i, j: compose(j, i), flipped))
    T = elements[0].shape[-3]
    if T == 1:
        return elements
    evens, odds = (tuple(e[..., k::2, :, :] for e in elements) for k in (0, 1))
    n = T // 2
    at_odds = scan(compose, compose(tuple(e[..., :n, :, :] for e in evens), odds))
    if T == 2:
        at_evens = evens
    else:
        before = tuple(e[..., : (T - 1) // 2, :, :] for e in at_odds)
        filled = compose(before, tuple(e[..., 1:, :, :] for e in evens))
        at_evens = tuple(
            torch.cat([e[..., :1, :, :].expand(*f.shape[:-3], 1, -1, -1), f], -3)
            for e, f in zip(evens, filled, strict=True)
        )
    return tuple(_interleave(e, o) for e, o in zip(at_evens, at_odds, strict=True))


def _interleave(evens: Tensor, odds: Tensor) -> Tensor:
    """Entries 0, 2, 4, … and 1, 3, 5, … along axis -3, in their order."""
    n = odds.shape[-3]
    evens = evens.expand(*odds.shape[:-3], -1, -1, -1)
    both = torch.stack([evens[..., :n, :, :], odds], -3).flatten(-4, -3)
    return both if evens.shape[-3] == n else torch.cat([both, evens[..., n:, :, :]], -3)
