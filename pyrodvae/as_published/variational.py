"""VEM: the encoder fine-tuned on the recording."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from pyrodvae.as_published.algorithm import Algorithm, Draw, Gain, Path, Step, encode
from pyrodvae.as_published.mixture import Mixture
from pyrodvae.guide import Guide


class Encoder(NamedTuple):
    """A copy of the guide and its optimiser."""

    guide: Guide
    optimiser: torch.optim.Adam


@dataclass(frozen=True)
class VEM(Algorithm):
    r"""Steps of Adam on the encoder's parameters φ, down a one-draw estimate of the negative bound.

    .. math:: \sum_{tf} \frac{|x|^2}{V} + \log V + \sum_t KL(q_φ(z_t | z_{<t}, x) \,\|\, N(0, I))

    A new path goes to the M-step, and another one is all of the final estimate. At this learning rate
    it collapses on some seeds, the gain falling to zero.

    Args:
        learning_rate: of Adam. steps: per E-step.
        gain: whether the M-step updates it.

    Raises:
        ValueError: a prior of z that is not N(0, I).

    Source: Leglaive et al. 2020; ps-rvae-se.
    """

    learning_rate: float = 5e-3
    steps: int = 1
    gain: Gain = "updated"

    def start(self, mixture: Mixture, draw: Draw) -> Encoder:
        """The encoder as it was trained."""
        if mixture.model.recursive:
            raise ValueError(
                f"VEM as published knows the prior N(0, I) alone, and {type(mixture.model).__name__} has a "
                "transition: take the engine 'vem'."
            )
        guide = copy.deepcopy(mixture.guide).requires_grad_(True)
        return Encoder(guide, torch.optim.Adam(guide.parameters(), self.learning_rate))

    @torch.enable_grad()
    def e_step(self, mixture: Mixture, state: Encoder, draw: Draw) -> Step:
        """Fine-tune, then draw."""
        for _ in range(self.steps):
            path = encode(state.guide, mixture.x, draw)
            state.optimiser.zero_grad()
            (mixture.misfit(mixture.variance(path.z[None])).sum() + _kl(path)).backward()
            state.optimiser.step()
        z, v = _draw(mixture, state, draw)
        return Step(state, z, v, {})

    def last(self, mixture: Mixture, step: Step, draw: Draw) -> Tensor:
        """One new draw."""
        return _draw(mixture, step.state, draw)[1]


@torch.no_grad()
def _draw(mixture: Mixture, state: Encoder, draw: Draw) -> tuple[Tensor, Tensor]:
    z = encode(state.guide, mixture.x, draw).z[None]
    return z, mixture.variance(z)


def _kl(path: Path) -> Tensor:
    return 0.5 * (path.mean.square() + path.std.square() - 2 * path.std.log() - 1).sum()
