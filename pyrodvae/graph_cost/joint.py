"""Latents and observations as one joint Gaussian: of a state space, or of the linear twin of any graph."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from pyrodvae.dvae import SEGMENT
from pyrodvae.graph import Graph
from pyrodvae.kalman import LinearGaussian
from pyrodvae.settings import check_seed

NEAR = 0.5
"""By how much the arrow of a frame is weaker than that of the next one, in a twin."""


@dataclass(frozen=True, eq=False)
class Joint:
    r"""All latents and all frames of x of a linear-Gaussian model.

    .. math:: \begin{pmatrix} z \\ x \end{pmatrix} \sim \mathcal N(μ, Σ), \qquad
              p(z \mid x) = \mathcal N\big(μ_z + W (x - μ_x),\, P^{-1}\big)

    Args:
        names: the variables, latents in the order in which a guide draws them, then x_0, x_1, ….
        latents: how many of them are latent.
        sizes: how many coordinates each of them has.
        mean: μ, all coordinates side by side. covariance: Σ. Both of 64 bits.
    """

    names: tuple[str, ...]
    latents: int
    sizes: tuple[int, ...]
    mean: Tensor
    covariance: Tensor

    @property
    def frames(self) -> int:
        """T."""
        return len(self.names) - self.latents

    @cached_property
    def latent(self) -> int:
        """N, the number of latent coordinates, which come first."""
        return sum(self.sizes[: self.latents])

    @cached_property
    def precision(self) -> Tensor:
        """P of the posterior, (N, N); the same for every x."""
        N = self.latent
        zx = self.covariance[:N, N:]
        given = self.covariance[:N, :N] - self.regression @ zx.mT
        inverse = torch.linalg.inv(given)
        return 0.5 * (inverse + inverse.mT)

    @cached_property
    def regression(self) -> Tensor:
        """W, (N, M)."""
        N = self.latent
        return torch.linalg.solve(self.covariance[N:, N:], self.covariance[N:, :N]).mT

    def coordinates(self, names: Iterable[str]) -> Tensor:
        """The places of some variables, latent or observed, in :attr:`mean`."""
        ends = torch.tensor(self.sizes).cumsum(0).tolist()
        at = {n: range(e - s, e) for n, e, s in zip(self.names, ends, self.sizes, strict=True)}
        return torch.tensor([i for name in names for i in at[name]], dtype=torch.long)

    def centred(self, x: Tensor) -> Tensor:
        """x (B, T, F) less its mean, frames side by side: (B, M) of 64 bits.

        Raises:
            ValueError: x is of another shape.
        """
        T, F = self.frames, self.sizes[-1]
        if x.dim() != 3 or x.shape[1:] != (T, F):
            raise ValueError(f"x is (B, T, F) with T = {T} and F = {F}; its shape is {tuple(x.shape)}.")
        return x.double().flatten(1) - self.mean[self.latent :]

    def log_evidence(self, x: Tensor) -> Tensor:
        """log p(x) in nats for sequences x (B, T, F): (B,)."""
        u, covariance = self.centred(x), self.covariance[self.latent :, self.latent :]
        normal = torch.distributions.MultivariateNormal(torch.zeros_like(u[0]), covariance)
        score: Tensor = normal.log_prob(u)
        return score

    def sample(self, sequences: int, seed: int = 0) -> Tensor:
        """Draws of x, (B, T, F) with B = ``sequences``, of 64 bits.

        Raises:
            ValueError: less than one, or no seed.
        """
        if sequences < 1:
            raise ValueError(f"Draw one sequence or more, not {sequences}.")
        check_seed(seed)
        root = torch.linalg.cholesky(self.covariance[self.latent :, self.latent :])
        rng = torch.Generator().manual_seed(seed)
        noise = torch.randn(sequences, len(root), generator=rng, dtype=torch.double)
        return (noise @ root.mT + self.mean[self.latent :]).unflatten(-1, (self.frames, -1))


def state_space(model: LinearGaussian, frames: int) -> Joint:
    """The joint Gaussian of z_{1:T} and x_{1:T} of a state space with constant parameters.

    Args:
        model: one, not a batch. frames: T; the matrices have T² blocks.

    Raises:
        ValueError: parameters that change over time, or a batch of models; less than one frame.
    """
    if any(v.dim() != 2 for v in (model.A, model.Q, model.B, model.R)) or frames < 1:
        raise ValueError("A joint Gaussian is of one model with constant parameters, over a frame or more.")
    A, Q, B, R, m, P1 = (v.double() for v in (model.A, model.Q, model.B, model.R, model.m1, model.P1))
    D, F, T = model.latent, model.observed, frames
    a, b = (m.new_zeros(n) if v is None else v.double() for n, v in ((D, model.a), (F, model.b)))
    # z = (I - shifted A)^{-1} of its noises, x = B z + its own.
    eye = torch.eye(T, dtype=torch.double)
    walk = torch.linalg.inv(torch.eye(T * D, dtype=torch.double) - torch.kron(eye.roll(1, 0).tril(-1), A))
    z = walk @ torch.block_diag(P1, *[Q] * (T - 1)) @ walk.mT
    look = torch.kron(eye, B)
    zx = z @ look.mT
    x = look @ zx + torch.kron(eye, R)
    z_mean = walk @ torch.cat([m, a.repeat(T - 1)])
    return Joint(
        tuple(f"{v}_{t}" for v in "zx" for t in range(T)),
        T,
        (D,) * T + (F,) * T,
        torch.cat([z_mean, look @ z_mean + b.repeat(T)]),
        torch.cat([torch.cat([z, zx], 1), torch.cat([zx.mT, x], 1)]),
    )


def linear_twin(graph: Graph, coupling: float = 0.9, signal: float = 0.5) -> Joint:
    r"""A linear-Gaussian model with the arrows of a graph, every variable a number of variance one.

    .. math:: v = \sqrt{c}\, s / \operatorname{std}(s) + \sqrt{1 - c}\, ε, \qquad
              s = \sum_{u → v} 2^{-\text{frames between } u \text{ and } v}\, u

    Of a Kalman model, z_t = √c z_{t-1} + √(1-c) ε_t and x_t = √s z_t + √(1-s) η_t. What a posterior
    needs follows from the arrows alone, so it is the same for the twin; by how much is the twin's own.

    Args:
        graph: of a model of latents z_0, z_1, … and w at most, with x_0, x_1, … observed.
        coupling, signal: c of the latents and of x, between 0 and 1: what parents explain.

    Raises:
        ValueError: other variables, or a share out of range.
    """
    for name, share in {"coupling": coupling, "signal": signal}.items():
        if not 0 < share < 1:
            raise ValueError(f"{name} is a share between 0 and 1, not {share}.")
    T = len(graph.observed)
    x, z = ([f"{v}_{t}" for t in range(T)] for v in "xz")
    latent = [n for n in graph.latent if n == SEGMENT] + z
    if set(graph.nodes) != {*latent, *x}:
        others = ", ".join(sorted(set(graph.nodes) ^ {*latent, *x}))
        raise ValueError(
            f"A twin has latents z_0, z_1, …, perhaps w, and as many x_0, x_1, …; this differs by {others}."
        )
    names = (*latent, *x)
    # Every variable as a row of weights on the independent noises.
    rows = torch.zeros(len(names), len(names), dtype=torch.double)
    for node in graph.nodes:
        i, share = names.index(node), coupling if node in latent else signal
        above = graph.parents(node)
        if above:
            weights = torch.tensor([NEAR ** _between(node, u) for u in above], dtype=torch.double)
            s = weights @ rows[[names.index(u) for u in above]]
            rows[i] = math.sqrt(share) * s / s.norm()
        rows[i, i] = math.sqrt(1 - share) if above else 1.0
    return Joint(names, len(latent), (1,) * len(names), rows.new_zeros(len(names)), rows @ rows.mT)


def _between(node: str, other: str) -> int:
    """Frames between two variables; none from what a sequence shares."""
    if SEGMENT in (node, other):
        return 0
    return abs(int(node[2:]) - int(other[2:]))
