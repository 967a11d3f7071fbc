"""A guide of the latent path alone, with whatever else it looks at held."""

from __future__ import annotations

from typing import Any

import pyro
import torch
from pyro import poutine
from torch import Tensor

from pyrodvae.dvae import BATCH, SEGMENT, check_sequences, given
from pyrodvae.guide import Guide
from pyrodvae.program import Program
from pyrodvae.rollout import Rollout


class Given(Program):
    r"""A guide whose segment latent is held at the mean that it has for some sequences; or its video.

    Of the energies of a sparse model it says nothing: those of noisy speech follow from the draws.

    .. math:: q(z_{1:T} \mid x_{1:T}, \bar w), \qquad \bar w = E_q[w \mid \tilde x_{1:T}]; \qquad
        \text{or} \quad q(z_{1:T} \mid x_{1:T}, v_{1:T})

    It is the guide of a :class:`~pyrodvae.noisy.NoisySpeech` that holds the same.

    Args:
        guide: of a model with a segment latent, or of one that is given video.
        x: the sequences x̃ (B, T, F), such as a first guess of the clean speech.
        v: video (B, T, V), where the model is given one.

    Raises:
        ValueError: there is nothing of that kind.
    """

    shared: Any
    """w̄ (B, W), or what the guide reads of the video; None if it does not look at it."""

    def __init__(self, guide: Guide, x: Tensor, v: Tensor | None = None) -> None:
        super().__init__()
        if not guide.has_segment and v is None and guide.energies is None:
            raise ValueError(
                f"{type(guide).__name__} has no segment latent w here, no energies and no video: "
                "use it as it is."
            )
        self.guide = guide
        with torch.no_grad():
            begun: Any = poutine.trace(guide.begin).get_trace(x, None, *given(v)).nodes
        shared = begun[SEGMENT]["fn"].mean if guide.has_segment else begun["_RETURN"]["value"]
        self.register_buffer("shared", shared)

    def posterior(self, x: Tensor, lengths: Tensor | None = None) -> Rollout:
        """q(z_{1:T} | x, …) for the sequences x (B, T, F)."""
        posterior: Rollout = self.guide.posterior(x, lengths, self.shared)
        return posterior

    def forward(self, x: Tensor, lengths: Tensor | None = None) -> Tensor:
        """Sample the site ``z``; the arguments are the noisy model's."""
        check_sequences(x, self.guide.observed)
        with pyro.plate(BATCH, len(x), dim=-1):
            z: Tensor = pyro.sample("z", self.posterior(x, lengths))
        return z
