"""Variational EM: fine-tune a copy of the encoder on the recording at hand."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from pyro import poutine
from pyro.infer import TraceMeanField_ELBO
from torch import Tensor

from pyrodvae.engines.base import Engine
from pyrodvae.potential import Target
from pyrodvae.program import local_parameters


class VEMState(NamedTuple):
    """Draws, and the copy of the guide with its optimiser."""

    z: Tensor
    guide: Any
    optimiser: torch.optim.Optimizer


@dataclass(frozen=True)
class VEM(Engine):
    r"""Maximise the evidence lower bound over the parameters of a fresh copy of the guide.

    .. math:: \max_φ\; E_{q_φ(z|x)}[\log p(x, z) - \log q_φ(z | x)]

    by Adam on Pyro's own ELBO; the decoder is frozen, and the guide that came in stays as it was.

    Args:
        learning_rate: of Adam.
        steps: gradient steps per E-step.
        clip: largest norm of the gradient.

    Raises:
        ValueError: the target has no guide.

    Source: Leglaive et al. 2020 (variational EM).
    """

    learning_rate: float = 1e-3
    steps: int = 1
    clip: float = 100.0

    def __post_init__(self) -> None:
        if self.learning_rate <= 0 or self.steps < 1 or self.clip <= 0:
            raise ValueError(f"{self} cannot run: its settings must be positive.")

    def init(self, target: Target, z: Tensor) -> VEMState:
        """Copy the guide; z only tells how many draws are wanted."""
        if target.guide is None:
            raise ValueError("VEM fine-tunes a guide, and the target has none.")
        guide: torch.nn.Module = copy.deepcopy(target.guide).requires_grad_(True)
        optimiser = torch.optim.Adam(guide.parameters(), self.learning_rate)
        return VEMState(z.detach(), guide, optimiser)

    def step(self, target: Target, state: VEMState) -> tuple[VEMState, dict[str, Tensor]]:
        """Some gradient steps; the new draws are those on which the last of them was taken."""
        guide, optimiser = state.guide, state.optimiser
        S = len(state.z)
        elbo = TraceMeanField_ELBO(num_particles=S, vectorize_particles=True, max_plate_nesting=1)
        with local_parameters(), torch.enable_grad():
            for _ in range(self.steps):
                traced = poutine.trace(guide)
                optimiser.zero_grad()
                loss = elbo.differentiable_loss(target.model, traced, *target.args)
                loss.backward()
                torch.nn.utils.clip_grad_norm_(guide.parameters(), self.clip)
                optimiser.step()
        z = traced.trace.nodes["z"]["value"].detach().reshape(state.z.shape)
        return VEMState(z, guide, optimiser), {"elbo": -loss.detach()}
