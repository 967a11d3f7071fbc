"""What kernels have in common that adapt for a while and then stand still."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar, Self

from pyrodvae.engines.base import POSITIVE, Engine, bounded


@dataclass(frozen=True)
class Adaptive(Engine):
    """A kernel that accepts or rejects, and adapts its step in the first moves.

    Args:
        step_size: at the start.
        steps: moves per E-step.
        warmup: so many moves adapt.
        target_accept: the rate of acceptance that warm-up aims at.
    """

    step_size: float = 0.1
    steps: int = 1
    warmup: int = 200
    target_accept: float = 0.5

    local: ClassVar[bool] = True

    def __post_init__(self) -> None:
        bounded(self, POSITIVE, 1000, "step_size")
        bounded(self, 1, 10_000, "steps")
        bounded(self, 0, 1e6, "warmup")
        bounded(self, 0.01, 0.99, "target_accept")

    def planned(self, iterations: int) -> Self:
        """With a warm-up that ends after a quarter of so many E-steps."""
        return replace(self, warmup=min(self.warmup, iterations * self.steps // 4))

    @property
    def burn_in(self) -> int:
        """The E-steps in which it adapts."""
        return -(-self.warmup // self.steps)
