"""A guide of the latent path alone, where the model has a segment latent besides."""

from __future__ import annotations

from typing import Any

import pyro
import torch
from pyro import poutine
from torch import Tensor

from pyrodvae.dvae import BATCH, SEGMENT, check_sequences
from pyrodvae.guide import Guide
from pyrodvae.program import Program
from pyrodvae.rollout import Rollout


class GivenSegment(Program):
    r"""A guide whose segment latent is held at the mean that it has for some sequences.

    .. math:: q(z_{1:T} \mid x_{1:T}, \bar w), \qquad \bar w = E_q[w \mid \tilde x_{1:T}]

    It is the guide of a :class:`~pyrodvae.noisy.NoisySpeech` that holds w there too.

    Args:
        guide: of a model with a segment latent.
        x: the sequences x̃ (B, T, F), such as a first guess of the clean speech.

    Raises:
        ValueError: the guide has no segment latent.
    """

    w: Tensor

    def __init__(self, guide: Guide, x: Tensor) -> None:
        super().__init__()
        if not guide.has_segment:
            raise ValueError(f"{type(guide).__name__} has no segment latent w here: use it as it is.")
        self.guide = guide
        with torch.no_grad():
            q: Any = poutine.trace(guide.begin).get_trace(x, None).nodes[SEGMENT]["fn"]
        self.register_buffer("w", q.mean)

    def posterior(self, x: Tensor, lengths: Tensor | None = None) -> Rollout:
        """q(z_{1:T} | x, w) for the sequences x (B, T, F)."""
        posterior: Rollout = self.guide.posterior(x, lengths, self.w)
        return posterior

    def forward(self, x: Tensor, lengths: Tensor | None = None) -> Tensor:
        """Sample the site ``z``; the arguments are the model's."""
        check_sequences(x, self.guide.observed)
        with pyro.plate(BATCH, len(x), dim=-1):
            z: Tensor = pyro.sample("z", self.posterior(x, lengths))
        return z
