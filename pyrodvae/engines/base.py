"""What an engine is."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import fields
from numbers import Integral, Real
from typing import Any, ClassVar, cast

from torch import Tensor

from pyrodvae.potential import Target


class Engine(ABC):
    """A way to draw from p(z | x): a frozen dataclass of settings, state in and state out.

    >>> import torch
    >>> from pyrodvae.engines import MALA
    >>> from pyrodvae.weights import make_pair
    >>> model, guide = make_pair("dkf", {"observed": 5, "latent": 2})
    >>> x = torch.randn(1, 8, 5, dtype=torch.cfloat)  # (B, T, F)
    >>> engine, target = MALA(), Target(model, guide, (x,), model.reach)
    >>> state = engine.init(target, torch.zeros(3, 1, 8, 2))  # z (S, B, T, D): where the chains start
    >>> state, info = engine.step(target, state)  # one E-step
    >>> state.z.shape, sorted(info)  # the new draws, and what there is to tell
    (torch.Size([3, 1, 8, 2]), ['accept', 'energy', 'log_joint'])

    A state has a field ``z``; ``info`` holds diagnostics by name. The target may change between
    steps (EM does that), so nothing of it is kept in the state. Engines chain because each starts
    from the draws another left.
    """

    walks: ClassVar[bool] = True
    """Whether each draw follows from the one before it, so that more steps lead further."""
    local: ClassVar[bool] = False
    """Whether it moves too little at a time to find the posterior from afar: another engine leads there."""

    @property
    def pointwise(self) -> bool:
        """Whether what it finds is a point, the mode, and no draw."""
        return False

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


POSITIVE = 1e-12
"""The least of a setting that has to be more than nothing."""


def bounded(engine: Engine, least: float, most: float, *names: str) -> None:
    """Raise a ValueError unless these settings are numbers in a range, whole where their defaults are."""
    defaults = {field.name: field.default for field in fields(cast(Any, engine))}
    for name in names:
        value: Any = getattr(engine, name)
        whole = isinstance(defaults[name], int)
        number = type(value) is not bool and isinstance(value, Integral if whole else Real)
        good = number and least <= value <= most
        what = f"a whole number from {least:g} to {most:g}" if whole else f"from {least:g} to {most:g}"
        check(engine, good, f"{name} must be {what}")


def check(engine: Engine, holds: bool, otherwise: str) -> None:
    """Raise a ValueError that names the engine and what is wrong with its settings, unless it holds."""
    if not holds:
        raise ValueError(f"{engine} cannot run: {otherwise}.")
