"""The models: one paper, one file."""

from __future__ import annotations

from inspect import signature

from pyrodvae.dvae import DVAE
from pyrodvae.models.av_dkf import AVDKF
from pyrodvae.models.av_vae import AVVAE
from pyrodvae.models.dkf import DKF
from pyrodvae.models.dsae import DSAE
from pyrodvae.models.general import GeneralDVAE
from pyrodvae.models.kalman import Kalman
from pyrodvae.models.rvae import RVAE, CausalRVAE
from pyrodvae.models.srnn import SRNN
from pyrodvae.models.storn import STORN
from pyrodvae.models.transformer import TransformerDVAE
from pyrodvae.models.v_vae import VVAE
from pyrodvae.models.vae import VAE
from pyrodvae.models.vrnn import VRNN

MODELS: dict[str, type[DVAE]] = {
    "vae": VAE,
    "kalman": Kalman,
    "dkf": DKF,
    "storn": STORN,
    "vrnn": VRNN,
    "srnn": SRNN,
    "rvae": RVAE,
    "rvae-causal": CausalRVAE,
    "dsae": DSAE,
    "dvae": GeneralDVAE,
    "transformer": TransformerDVAE,
    "v-vae": VVAE,
    "av-vae": AVVAE,
    "av-dkf": AVDKF,
}


def is_given_video(key: str) -> bool:
    """Whether a model, by its key, is given video of lips beside the sound."""
    return "video" in signature(MODELS[key]).parameters


__all__ = [
    "AVDKF",
    "AVVAE",
    "DKF",
    "DSAE",
    "MODELS",
    "RVAE",
    "SRNN",
    "STORN",
    "VAE",
    "VRNN",
    "VVAE",
    "CausalRVAE",
    "GeneralDVAE",
    "Kalman",
    "TransformerDVAE",
    "is_given_video",
]
