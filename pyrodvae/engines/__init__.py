"""Engines: ways to draw from a posterior, each a frozen dataclass with ``init`` and ``step``."""

from __future__ import annotations

from pyrodvae.engines.base import Engine
from pyrodvae.engines.hmc import MALA, BatchedHMC
from pyrodvae.engines.langevin import Langevin
from pyrodvae.engines.mh import MH
from pyrodvae.engines.vem import VEM

ENGINES: dict[str, type[Engine]] = {
    "langevin": Langevin,
    "vem": VEM,
    "mh": MH,
    "mala": MALA,
    "hmc-batched": BatchedHMC,
}

__all__ = ["ENGINES", "MALA", "MH", "VEM", "BatchedHMC", "Engine", "Langevin"]
