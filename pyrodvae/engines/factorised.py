"""The factorised posterior of speech, latents and coins: an algorithm of its own, chosen like an engine."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor

from pyrodvae.engines.base import POSITIVE, Engine, bounded, check
from pyrodvae.potential import Target

ALONE = (
    "The engine 'factorised' is a whole algorithm, for mixtures of audio and video (vae-mm, min-vae): choose "
    "it alone, with such a model."
)


@dataclass(frozen=True)
class Factorised(Engine):
    r"""Variational EM with r(s) r(z) r(α), for mixtures alone; see :mod:`pyrodvae.mixture_vem`.

    r(z) is followed by a random walk, z' = z + √ε ξ, that is accepted frame by frame: these are
    independent, so that is exact.

    Args:
        steps: moves of every frame per iteration.
        burn_in_moves: so many of them, the first, do not enter the expectations.
        variance: ε of the proposals.

    Raises:
        ValueError: it is asked for draws from p(z | x), as other engines are.

    Source: Sadeghi & Alameda-Pineda, *Robust unsupervised audio-visual speech enhancement using a mixture
    of variational autoencoders* (2020).
    """

    steps: int = 10
    burn_in_moves: int = 5
    variance: float = 0.01

    def __post_init__(self) -> None:
        bounded(self, 1, 10_000, "steps")
        bounded(self, 0, 10_000, "burn_in_moves")
        bounded(self, POSITIVE, 1e6, "variance")
        check(self, self.burn_in_moves < self.steps, "burn_in_moves must leave a step to average")

    def init(self, target: Target, z: Tensor) -> Any:
        """Refused."""
        raise ValueError(ALONE)

    def step(self, target: Target, state: Any) -> tuple[Any, dict[str, Tensor]]:
        """Refused."""
        raise ValueError(ALONE)
