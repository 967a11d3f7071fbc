"""What engines share that fit a guide to the recording at hand."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import pyro
import torch
from pyro import poutine
from pyro.infer import TraceMeanField_ELBO
from torch import Tensor

from pyrodvae.engines.base import POSITIVE, Engine, bounded
from pyrodvae.potential import Target
from pyrodvae.program import local_parameters

BETAS = (0.9, 0.99)
"""Of Adam. Few steps are made, and the noise changes meanwhile: a mean over a thousand is too slow."""


class VariationalState(NamedTuple):
    """Draws (S, B, T, D), the guide that is being fitted, its optimiser, and how many steps were made."""

    z: Tensor
    guide: torch.nn.Module
    optimiser: torch.optim.Optimizer
    steps: int


@dataclass(frozen=True)
class Variational(Engine):
    r"""Maximise the evidence lower bound over the parameters of a guide r.

    .. math:: \max_φ\; E_{r_φ(z)}[\log p(x, z) - \log r_φ(z)]

    by Adam on Pyro's own ELBO, with S draws side by side; the model is frozen. A step whose gradient is
    not finite is left out.

    Args:
        learning_rate: of Adam.
        steps: gradient steps per E-step.
        clip: largest norm of the gradient.
        warmup: over so many gradient steps the rate rises to its value. Adam's first steps are of full
            size in every parameter, however small its gradient, and can undo what a guide has learned.
    """

    learning_rate: float = 1e-3
    steps: int = 1
    clip: float = 100.0
    warmup: int = 0

    def __post_init__(self) -> None:
        bounded(self, POSITIVE, 100, "learning_rate")
        bounded(self, 1, 10_000, "steps")
        bounded(self, POSITIVE, 1e12, "clip")
        bounded(self, 0, 1e6, "warmup")

    @abstractmethod
    def fresh(self, target: Target, z: Tensor) -> torch.nn.Module:
        """A guide to be fitted, its parameters in place, from starting points z (S, B, T, D)."""

    def drawing(self, guide: torch.nn.Module) -> Callable[..., Any]:
        """The guide as it is drawn from while it is fitted."""
        return guide

    def init(self, target: Target, z: Tensor) -> VariationalState:
        """Make the guide and its optimiser."""
        with local_parameters():
            guide = self.fresh(target, z.detach())
        optimiser = torch.optim.Adam(guide.parameters(), self.learning_rate, BETAS)
        return VariationalState(z.detach(), guide, optimiser, 0)

    def step(self, target: Target, state: VariationalState) -> tuple[VariationalState, dict[str, Tensor]]:
        """Some gradient steps; the new draws are those on which the last of them was taken."""
        z, guide, optimiser, count = state
        elbo = TraceMeanField_ELBO(num_particles=len(z), vectorize_particles=True, max_plate_nesting=1)
        loss = torch.zeros(())
        # A step too far leads to values that distributions would refuse: it is to be skipped.
        with local_parameters(), torch.enable_grad(), pyro.validation_enabled(False):
            for _ in range(self.steps):
                traced = poutine.trace(self.drawing(guide))
                optimiser.zero_grad()
                loss = elbo.differentiable_loss(target.model, traced, *target.args)
                loss.backward()
                norm = torch.nn.utils.clip_grad_norm_(guide.parameters(), self.clip)
                count += 1
                for group in optimiser.param_groups:
                    group["lr"] = self.learning_rate * min(1.0, count / (self.warmup + 1))
                if torch.isfinite(norm):
                    optimiser.step()
        drawn: Tensor = traced.trace.nodes["z"]["value"]  # type: ignore[assignment]
        return VariationalState(drawn.detach().reshape(z.shape), guide, optimiser, count), {
            "elbo": -loss.detach()
        }
