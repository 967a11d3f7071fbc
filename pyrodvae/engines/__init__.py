"""Engines: ways to draw from a posterior, each a frozen dataclass with ``init`` and ``step``."""

from __future__ import annotations

from pyrodvae.engines.base import Engine
from pyrodvae.engines.langevin import Langevin
from pyrodvae.engines.vem import VEM

ENGINES: dict[str, type[Engine]] = {"langevin": Langevin, "vem": VEM}

__all__ = ["ENGINES", "VEM", "Engine", "Langevin"]
