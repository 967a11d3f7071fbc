"""Engines one after the other."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

from torch import Tensor

from pyrodvae.engines.base import Engine, check
from pyrodvae.potential import Target


class ChainState(NamedTuple):
    """Draws, which engine made them, how many steps it has left, and its own state."""

    z: Tensor
    stage: int
    left: int
    inner: Any


@dataclass(frozen=True)
class Chain(Engine):
    """Several engines in turn, each starting from the draws that the one before it left.

    >>> from pyrodvae.engines import BatchedHMC, Encoder, Langevin
    >>> Chain((Encoder(), Langevin(), BatchedHMC())).planned(60).lengths
    (1, 30, 29)

    Args:
        engines: in their order.
        lengths: how many steps each of them takes; the last goes on for ever. Without them,
            :meth:`planned` shares the steps evenly; an engine whose draws do not follow from one
            another (the encoder), unless it is the last, takes one.

    Raises:
        ValueError: no engines, or a number of steps that is missing, or below one.
    """

    engines: tuple[Engine, ...]
    lengths: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        check(self, len(self.engines) > 0, "a chain has at least one engine")
        check(self, all(isinstance(e, Engine) for e in self.engines), "its parts have to be engines")
        complete = len(self.lengths) in (0, len(self.engines)) and all(n >= 1 for n in self.lengths)
        check(self, complete, "lengths are one number of steps, at least 1, for each engine")

    @property
    def first_walker(self) -> int:
        """The place of the first engine that walks; 0 if none does."""
        return next((i for i, e in enumerate(self.engines) if e.walks), 0)

    @property
    def local(self) -> bool:  # type: ignore[override]
        """Whether the first engine that walks is, and when it begins has not been said."""
        return not self.lengths and self.engines[self.first_walker].local

    def planned(self, iterations: int) -> Chain:
        """This chain with lengths that make so many steps in all (or one each, if that is more)."""
        lengths = list(self.lengths) or self._shared(iterations)
        lengths[-1] = max(1, iterations - sum(lengths[:-1]))
        planned = tuple(e.planned(n) for e, n in zip(self.engines, lengths, strict=True))
        return Chain(planned, tuple(lengths))

    def _shared(self, iterations: int) -> list[int]:
        lengths = [1] * len(self.engines)
        walkers = [i for i, e in enumerate(self.engines) if e.walks] or [len(self.engines) - 1]
        for n in range(max(0, iterations - len(self.engines))):
            lengths[walkers[n % len(walkers)]] += 1
        return lengths

    @property
    def pointwise(self) -> bool:
        """Whether any of its engines is."""
        return any(engine.pointwise for engine in self.engines)

    @property
    def burn_in(self) -> int:
        """Until the last engine has settled."""
        return sum(self.lengths[:-1]) + self.engines[-1].burn_in

    def moved(self, target: Target, state: ChainState, z: Tensor) -> ChainState:
        """The same engine goes on."""
        inner = self.engines[state.stage].moved(target, state.inner, z)
        return state._replace(z=inner.z, inner=inner)

    def init(self, target: Target, z: Tensor) -> ChainState:
        """Start the first engine at z."""
        return self._stage(target, z, 0)

    def step(self, target: Target, state: ChainState) -> tuple[ChainState, dict[str, Tensor]]:
        """One step of the engine whose turn it is; its diagnostics."""
        if state.left == 0 and state.stage + 1 < len(self.engines):
            state = self._stage(target, state.z.detach(), state.stage + 1)
        inner, info = self.engines[state.stage].step(target, state.inner)
        return ChainState(inner.z, state.stage, max(0, state.left - 1), inner), info

    def _stage(self, target: Target, z: Tensor, stage: int) -> ChainState:
        inner = self.engines[stage].init(target, z)
        return ChainState(inner.z, stage, self.lengths[stage] if self.lengths else 1, inner)
