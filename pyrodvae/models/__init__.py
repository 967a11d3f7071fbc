"""The models: one paper, one file."""

from __future__ import annotations

from pyrodvae.dvae import DVAE
from pyrodvae.models.rvae import RVAE, CausalRVAE
from pyrodvae.models.vae import VAE

MODELS: dict[str, type[DVAE]] = {
    "vae": VAE,
    "rvae": RVAE,
    "rvae-causal": CausalRVAE,
}

__all__ = ["MODELS", "RVAE", "VAE", "CausalRVAE"]
