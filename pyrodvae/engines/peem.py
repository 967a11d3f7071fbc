"""Point estimates: the mode of the posterior, by ascent."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from pyrodvae.engines.base import POSITIVE, Engine, bounded
from pyrodvae.potential import Target

TINY = 1e-8
"""Keeps an element without any gradient where it is."""


class PEEMState(NamedTuple):
    """Where the ascents are, (S, B, T, D), Adam's two moments likewise, and how many steps it has made."""

    z: Tensor
    mean: Tensor
    square: Tensor
    steps: int


@dataclass(frozen=True)
class PEEM(Engine):
    r"""Point-estimate EM: the posterior is taken for a point mass at its mode.

    .. math:: q(z) = δ(z - \hat z), \qquad \hat z = \operatorname*{arg\,max}_z \log p(x, z)

    Every chain climbs from its own start by Adam: with m and v the running means of the gradient and of
    its square, both corrected for their start at zero,

    .. math:: z \leftarrow z + η_n\, m / (\sqrt v + 10^{-8}), \qquad η_n = η\, 2^{-n/h}.

    Chains that start in one basin end in one point, so their spread says nothing of the posterior's. At
    a constant rate (h = 0) the ascent ends in a small cycle around the mode: v falls as fast as the
    gradient does, and the steps do not.

    Args:
        learning_rate: η.
        steps: gradient steps per E-step.
        beta1, beta2: shares of the old value in the two means.
        half_life: h, after how many gradient steps the rate is half; 0 keeps it, which suits a target
            that moves on between the steps. Shorter than that of √v, 1.4 / (1 - beta2) steps, it stops
            the ascent before the mode.

    Source: Kingma & Ba, *Adam* (2015); Girin et al., *Dynamical Variational Autoencoders*.
    """

    learning_rate: float = 0.05
    steps: int = 1
    beta1: float = 0.9
    beta2: float = 0.99
    half_life: int = 0

    def __post_init__(self) -> None:
        bounded(self, POSITIVE, 100, "learning_rate")
        bounded(self, 1, 10_000, "steps")
        bounded(self, 0, 0.99999, "beta1", "beta2")
        bounded(self, 0, 1e6, "half_life")

    @property
    def pointwise(self) -> bool:
        """It is."""
        return True

    def init(self, target: Target, z: Tensor) -> PEEMState:
        """Start at z."""
        return PEEMState(z.detach().requires_grad_(), torch.zeros_like(z), torch.zeros_like(z), 0)

    def step(self, target: Target, state: PEEMState) -> tuple[PEEMState, dict[str, Tensor]]:
        """Climb; ``info["log_joint"]`` is (S, B), of the points before the last step."""
        z, mean, square, count = state
        log_p = torch.zeros(())
        for _ in range(self.steps):
            log_p, gradient = target.gradient(z)
            rate = self.learning_rate * (2 ** (-count / self.half_life) if self.half_life else 1.0)
            count += 1
            mean = mean.lerp(gradient, 1 - self.beta1)
            square = square.lerp(gradient.square(), 1 - self.beta2)
            root = (square / (1 - self.beta2**count)).sqrt()
            move = mean / (1 - self.beta1**count) / (root + TINY)
            z = (z.detach() + rate * move).requires_grad_()
        return PEEMState(z, mean, square, count), {"log_joint": log_p}
