"""The amortised guide alone."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import pyro
import torch
from pyro import poutine
from torch import Tensor

from pyrodvae.engines.base import Engine
from pyrodvae.potential import Target
from pyrodvae.program import local_parameters


class EncoderState(NamedTuple):
    """Draws (S, B, T, D)."""

    z: Tensor


@dataclass(frozen=True)
class Encoder(Engine):
    r"""The encoder as it was trained and nothing else, anew in every step.

    .. math:: z^{(s)} \sim q(z_{1:T} \mid x_{1:T}), \qquad s = 1, \dots, S

    It costs no gradient, and is as good as the guide is on what it reads: one that knows clean speech
    only should be given a :class:`~pyrodvae.denoised.Denoised` recording. All S draws are one pass.

    Raises:
        ValueError: the target has no guide.

    Source: Kingma & Welling, *Auto-encoding variational Bayes* (2014).
    """

    walks: ClassVar[bool] = False

    def init(self, target: Target, z: Tensor) -> EncoderState:
        """z is what there is before the first step, and tells how many draws are wanted."""
        if target.guide is None:
            raise ValueError("The encoder engine draws from a guide, and the target has none.")
        return EncoderState(z.detach())

    def step(self, target: Target, state: EncoderState) -> tuple[EncoderState, dict[str, Tensor]]:
        """New draws, independent of the old ones; there are no diagnostics."""
        assert target.guide is not None
        with local_parameters(), torch.no_grad(), pyro.plate("chains", len(state.z), dim=-2):
            trace = poutine.trace(target.guide).get_trace(*target.args)
        z: Tensor = trace.nodes["z"]["value"]  # type: ignore[assignment]
        return EncoderState(z.reshape(state.z.shape)), {}
