"""Random-walk Metropolis-Hastings."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from pyrodvae.engines.metropolis import Metropolis, Proposal, Score


@dataclass(frozen=True)
class MH(Metropolis):
    r"""Random-walk Metropolis-Hastings: exact, without gradients, in small steps.

    .. math:: z' = z + ε ξ, \qquad ξ \sim \mathcal N(0, I)

    It needs no gradient, and pays in small steps where many elements are accepted as one. The settings
    are those of :class:`~pyrodvae.engines.metropolis.Metropolis`.

    Source: Metropolis et al. 1953; the rate, Roberts, Gelman & Gilks 1997.
    """

    steps: int = 10
    warmup: int = 300
    target_accept: float = 0.234

    uses_gradient: ClassVar[bool] = False

    def propose(
        self, score: Callable[[Tensor], Score], z: Tensor, at_z: Score, step: Tensor, M: Tensor
    ) -> Proposal:
        """A step of the walk, as likely forth as back."""
        there = z + step * torch.randn_like(z)
        return there, score(there), torch.zeros_like(at_z[0]), None
