"""Which engine works with which model: found out by trying."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch

from pyrodvae.engines import ENGINES
from pyrodvae.enhance_config import EnhanceConfig
from pyrodvae.models import MODELS, is_given_video
from pyrodvae.results import aligned
from pyrodvae.separation import enhance_spectrum, make_engine
from pyrodvae.signal import STFT
from pyrodvae.weights import Run, make_pair

BINS, LATENT, FRAMES, PIXELS = 9, 2, 6, 64
TINY = EnhanceConfig(iterations=2, chains=2, noise_rank=2)

NOT_FINITE = "The estimate is not finite."


@dataclass(frozen=True)
class Matrix:
    """Models against engines.

    Args:
        reasons: (model, engine) → a sentence that says why they do not work together; empty if they do.
    """

    reasons: dict[tuple[str, str], str]

    def table(self) -> str:
        """A line for each model, a column for each engine: "works", or the number of a sentence below."""
        models, engines = (list(dict.fromkeys(keys)) for keys in zip(*self.reasons, strict=True))
        notes = [why for why in dict.fromkeys(self.reasons.values()) if why]
        lines = [("", *engines)]
        for model in models:
            cells = [self.reasons[model, engine] for engine in engines]
            lines.append((model, *(f"[{notes.index(why) + 1}]" if why else "works" for why in cells)))
        return "\n".join([*aligned(lines), *(f"[{i}] {why}" for i, why in enumerate(notes, 1))])


def try_all(models: Iterable[str] = tuple(MODELS), engines: Iterable[str] = tuple(ENGINES)) -> Matrix:
    """Try every model with every engine, by their keys."""
    columns = list(engines)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # for so little work others are more hindrance than help
    try:
        return Matrix({(model, engine): attempt(model, engine) for model in models for engine in columns})
    finally:
        torch.set_num_threads(threads)


def attempt(model: str, engine: str) -> str:
    """Two iterations of EM on a few frames of noise with a tiny model that knows nothing.

    Returns:
        Why they do not work together, in a sentence; empty if they do.
    """
    with torch.random.fork_rng():
        torch.manual_seed(0)
        x = torch.randn(1, FRAMES, BINS, dtype=torch.cfloat)
        try:
            sizes = {"observed": BINS, "latent": LATENT}
            if model in MODELS and is_given_video(model):
                sizes["video"] = PIXELS
            run = Run(*make_pair(model, sizes), STFT(), {"model": model})
            v = torch.rand(1, FRAMES, PIXELS) if run.model.video else None
            chance = torch.Generator().manual_seed(0)
            found = enhance_spectrum(x, run, make_engine(engine), TINY, chance, v=v)
        except ValueError as error:
            return str(error)
    if not found.mean.isfinite().all():
        return NOT_FINITE
    return found.warnings[0] if found.warnings else ""
