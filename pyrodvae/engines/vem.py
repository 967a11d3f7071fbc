"""Variational EM: fine-tune a copy of the encoder on the recording at hand."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from pyrodvae.engines.base import bounded
from pyrodvae.engines.blocks import InBlocks
from pyrodvae.engines.variational import Variational
from pyrodvae.potential import Target


@dataclass(frozen=True)
class VEM(Variational):
    r"""Variational EM: a copy of the encoder is fine-tuned on the recording at hand.

    .. math:: \max_φ\; E_{q_φ(z|x)}[\log p(x, z) - \log q_φ(z | x)]

    The decoder is frozen, and the guide that came in stays as it was. A guide that is recursive in z
    costs a loop over frames. To make it short, such a guide is fitted and drawn in blocks side by side
    (see :class:`~pyrodvae.engines.blocks.Blocks`): it forgets what is more than ``block`` + ``overlap``
    frames back, and perhaps what is more than ``overlap`` back. The bound that is climbed is that of the
    guide which forgets, a bound on the evidence like the other.

    Args:
        block: frames that a block adds; 0 draws frame by frame, nothing forgotten.
        overlap: frames that a block has in common with the next one.

    The other settings are those of :class:`~pyrodvae.engines.variational.Variational`.

    Raises:
        ValueError: the target has no guide.

    Source: Leglaive et al. 2020 (variational EM).
    """

    learning_rate: float = 1.5e-3
    warmup: int = 10
    block: int = 32
    overlap: int = 16

    def __post_init__(self) -> None:
        super().__post_init__()
        bounded(self, 0, 1e6, "block", "overlap")

    def fresh(self, target: Target, z: Tensor) -> torch.nn.Module:
        """A copy of the target's guide."""
        if target.guide is None:
            raise ValueError("VEM fine-tunes a guide, and the target has none.")
        guide: torch.nn.Module = copy.deepcopy(target.guide).requires_grad_(True)
        return guide

    def drawing(self, guide: torch.nn.Module) -> Callable[..., Any]:
        """In blocks."""
        drawn: Callable[..., Any] = InBlocks(self.block, self.overlap)(guide) if self.block else guide
        return drawn
