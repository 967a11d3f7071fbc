"""Engines: ways to draw from a posterior, each a frozen dataclass with ``init`` and ``step``."""

from __future__ import annotations

from pyrodvae.engines.autoguide import AutoGuide
from pyrodvae.engines.base import Engine
from pyrodvae.engines.chain import Chain
from pyrodvae.engines.encoder import Encoder
from pyrodvae.engines.factorised import Factorised
from pyrodvae.engines.hmc import MALA, BatchedHMC
from pyrodvae.engines.kernel import EngineKernel
from pyrodvae.engines.langevin import Langevin
from pyrodvae.engines.mh import MH
from pyrodvae.engines.peem import PEEM
from pyrodvae.engines.pyro_mcmc import HMC, NUTS
from pyrodvae.engines.vem import VEM

ENGINES: dict[str, type[Engine]] = {
    "langevin": Langevin,
    "vem": VEM,
    "peem": PEEM,
    "mh": MH,
    "mala": MALA,
    "hmc": HMC,
    "nuts": NUTS,
    "hmc-batched": BatchedHMC,
    "autoguide": AutoGuide,
    "encoder": Encoder,
}

ALGORITHMS: dict[str, type[Engine]] = {"factorised": Factorised}
"""Whole algorithms that are chosen like an engine, alone, where they fit."""

__all__ = [
    "ALGORITHMS",
    "ENGINES",
    "HMC",
    "MALA",
    "MH",
    "NUTS",
    "PEEM",
    "VEM",
    "AutoGuide",
    "BatchedHMC",
    "Chain",
    "Encoder",
    "Engine",
    "EngineKernel",
    "Factorised",
    "Langevin",
]
