"""The best linear-Gaussian guide of a sight, and by how much its bound misses the evidence."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from pyrodvae.graph_cost.joint import Joint
from pyrodvae.guide import Sees

SWEEPS, SMALL = 5000, 1e-12
"""Sweeps at most, and the gain in nats per frame of one after which there is no other."""


@dataclass(frozen=True, eq=False)
class LinearGuide:
    r"""A guide whose every factor is Gaussian around a linear map of what it sees.

    .. math:: q(z_t \mid z_{<t}, x) = \mathcal N\big(μ_{z_t} + L_t (z - μ_z) + K_t (x - μ_x),\; H_t^{-1}\big)

    with entries of L and K only where the factor looks, and the best covariances for these maps:
    :math:`H_t` is block t of :math:`E^⊤ P E`, :math:`E = (I - L)^{-1}`, P the precision of the posterior.

    Args:
        joint: the model. L: (N, N), strictly lower triangular by variables. K: (N, M).
    """

    joint: Joint
    L: Tensor
    K: Tensor

    @property
    def E(self) -> Tensor:
        """What each draw adds to all draws, (N, N)."""
        return torch.linalg.inv(torch.eye(len(self.L), dtype=self.L.dtype) - self.L)

    @property
    def spread(self) -> Tensor:
        r"""½ (Σ log det H_t − log det P), (): what the gap is for a posterior mean that is met."""
        H = self.E.mT @ self.joint.precision @ self.E
        blocks = [H[s, s].logdet() for s in _blocks(self.joint)]
        return 0.5 * (torch.stack(blocks).sum() - self.joint.precision.logdet())

    @property
    def gap(self) -> Tensor:
        """log p(x) − ELBO in nats per sequence on average over p(x), ()."""
        miss, N = self.E @ self.K - self.joint.regression, self.joint.latent
        square = (self.joint.precision @ miss @ self.joint.covariance[N:, N:] * miss).sum()
        return self.spread + 0.5 * square

    def gaps(self, x: Tensor) -> Tensor:
        """log p(x) − ELBO in nats, of each of the sequences x (B, T, F): (B,)."""
        miss = self.joint.centred(x) @ (self.E @ self.K - self.joint.regression).mT
        return self.spread + 0.5 * (miss @ self.joint.precision * miss).sum(-1)

    def covariance(self) -> Tensor:
        """Of (z, x) where p(x) is the model's and z is drawn from the guide, (N + M, N + M)."""
        E, N = self.E, self.joint.latent
        H = E.mT @ self.joint.precision @ E
        noise = torch.block_diag(*[torch.linalg.inv(H[s, s]) for s in _blocks(self.joint)])
        x = self.joint.covariance[N:, N:]
        zx = E @ self.K @ x
        z = zx @ (E @ self.K).mT + E @ noise @ E.mT
        return torch.cat([torch.cat([z, zx], 1), torch.cat([zx.mT, x], 1)])


def best_guide(joint: Joint, sees: Sees) -> LinearGuide:
    r"""The linear-Gaussian guide of the largest ELBO on average over p(x), among those of one sight.

    .. math:: \min_{L, K}\; \mathbb E_{p(x)} \mathrm{KL}\big(q(z \mid x) \,\|\, p(z \mid x)\big)

    No draws are taken: the objective is known in closed form (:attr:`LinearGuide.gap`).

    - Without z, it is quadratic in K, and the optimum solves one linear system. No other q of that sight,
      linear or not, is better: the optimal q(z_t | ·) is Gaussian, and its mean solves the same equations.
    - With z, the best (L_t, K_t) given those of all other frames are a regression, in closed form; sweeps
      from the last frame to the first go on until nothing is gained. Where each factor knows all that the
      ones before it knew, as far as it matters, what is best at a frame does not depend on how the earlier
      ones draw: the first sweep is the optimum, again among all q (dynamic programming with quadratic
      costs). So it is in a state space for z_{t-1} with x_{1:t}, x_{t:T} or x_{1:T}. In other sights, such
      as z_{t-1} with x_t alone, a latent may pass on what x was: there it is a minimum among linear guides
      only, and may be a local one.

    Args:
        joint: the model. sees: what q(z_t | ·) looks at; a segment latent w is always seen, and sees all x.

    Raises:
        ValueError: the sweeps do not settle.
    """
    N = joint.latent
    looks = _mask(joint, sees)
    guide = _with_best_means(LinearGuide(joint, *looks.double().mul(0).tensor_split([N], -1)), looks[:, N:])
    if not looks[:, :N].any():
        return guide
    gap = guide.gap
    for _ in range(SWEEPS):
        for block in reversed(_blocks(joint)):
            guide = _with_best_map(guide, block, looks[block.start])
        guide = _with_best_means(guide, looks[:, N:])
        before, gap = gap, guide.gap
        if before - gap < SMALL * joint.frames:
            return guide
    raise ValueError(f"The best guide that sees {sees} was not found in {SWEEPS} sweeps: take fewer frames.")


def _with_best_means(guide: LinearGuide, looks: Tensor) -> LinearGuide:
    """The guide with the best K for its L: the gap is quadratic in it."""
    E, P, W = guide.E, guide.joint.precision, guide.joint.regression
    S = guide.joint.covariance[len(E) :, len(E) :]
    rows, columns = looks.nonzero().unbind(-1)
    K = torch.zeros_like(guide.K)
    if len(rows):
        pairs = (E.mT @ P @ E)[rows][:, rows] * S[columns][:, columns]
        K[rows, columns] = torch.linalg.solve(pairs, (E.mT @ P @ W @ S)[rows, columns])
    return replace(guide, K=K)


def _with_best_map(guide: LinearGuide, block: slice, looks: Tensor) -> LinearGuide:
    """The guide with the best map at one variable, those of the others held."""
    joint, N, seen = guide.joint, guide.joint.latent, looks.nonzero()[:, 0]
    if not len(seen):
        return guide
    # With u the latents less the posterior's means when this map is zero, the mean of
    # ½ (u + e R o)ᵀ P (u + e R o) is to be least in R: -(eᵀ P e)^{-1} eᵀ P u regressed on what is seen, o.
    e = guide.E[:, block]
    now = torch.cat([guide.L, guide.K], -1)[block]
    second = guide.covariance()
    u = torch.cat([torch.eye(N, dtype=e.dtype), -joint.regression], -1) - e @ now
    pull = -torch.linalg.solve(e.mT @ joint.precision @ e, e.mT @ joint.precision @ u)
    best = torch.zeros_like(now)
    best[:, seen] = torch.linalg.solve(second[seen][:, seen], second[seen] @ pull.mT).mT
    L, K = guide.L.clone(), guide.K.clone()
    L[block], K[block] = best[:, :N], best[:, N:]
    return replace(guide, L=L, K=K)


def _blocks(joint: Joint) -> list[slice]:
    """The coordinates of each latent."""
    ends = torch.tensor(joint.sizes[: joint.latents]).cumsum(0).tolist()
    return [slice(e - s, e) for e, s in zip(ends, joint.sizes, strict=False)]


def _mask(joint: Joint, sees: Sees) -> Tensor:
    """Which coordinates each coordinate of the latents looks at, (N, N + M)."""
    mask = torch.zeros(joint.latent, len(joint.mean), dtype=torch.bool)
    T = joint.frames
    for block, name in zip(_blocks(joint), joint.names, strict=False):
        if not name.startswith("z_"):  # w, drawn first
            mask[block, joint.latent :] = True
            continue
        t = int(name[2:])
        past = {"none": range(0), "previous": range(max(0, t - 1), t), "all": range(t)}[sees.z_past]
        x = [*range(t)] * sees.x_past + [t] * sees.x_present + [*range(t + 1, T)] * sees.x_future
        shared = [n for n in joint.names[: joint.latents] if not n.startswith("z_")]
        seen = [*shared, *(f"z_{s}" for s in past), *(f"x_{s}" for s in x)]
        mask[block, joint.coordinates(seen)] = True
    return mask
