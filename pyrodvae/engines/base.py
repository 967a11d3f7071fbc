"""What an engine is."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, ClassVar

from torch import Tensor

from pyrodvae.potential import Target


class Engine(ABC):
    """A way to draw from p(z | x): a frozen dataclass of settings, state in and state out.

    ::

        state = engine.init(target, z)               # z (S, B, T, D): where the chains start
        state, info = engine.step(target, state)     # one E-step; state.z are the new draws

    A state has a field ``z``; ``info`` holds diagnostics by name. The target may change between
    steps (EM does that), so nothing of it is kept in the state. Engines chain because each starts
    from the draws another left.
    """

    walks: ClassVar[bool] = True
    """Whether each draw follows from the one before it, so that more steps lead further."""
    local: ClassVar[bool] = False
    """Whether it moves too little at a time to find the posterior from afar: another engine leads there."""

    @abstractmethod
    def init(self, target: Target, z: Tensor) -> Any:
        """The state before the first step, from starting points z (S, B, T, D)."""

    @abstractmethod
    def step(self, target: Target, state: Any) -> tuple[Any, dict[str, Tensor]]:
        """One step: the next state, and diagnostics."""

    def planned(self, iterations: int) -> Engine:
        """This engine, knowing how many steps there will be; most do not care."""
        return self

    def moved(self, target: Target, state: Any, z: Tensor) -> Any:
        """A state with other draws, which keeps what it can of what it has learned; here, nothing."""
        return self.init(target, z)

    @property
    def burn_in(self) -> int:
        """How many of the first steps do not yet draw as later ones do."""
        return 0


def check(engine: Engine, holds: bool, otherwise: str) -> None:
    """Raise a ValueError that names the engine and what is wrong with its settings, unless it holds."""
    if not holds:
        raise ValueError(f"{engine} cannot run: {otherwise}.")
