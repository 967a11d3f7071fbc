"""The models: one paper, one file."""

from __future__ import annotations

from inspect import signature

from pyrodvae.dvae import DVAE
from pyrodvae.models.av_dkf import AVDKF
from pyrodvae.models.av_switch import AVSwitch
from pyrodvae.models.av_vae import AVVAE
from pyrodvae.models.dkf import DKF
from pyrodvae.models.dsae import DSAE
from pyrodvae.models.general import GeneralDVAE
from pyrodvae.models.kalman import Kalman
from pyrodvae.models.min_vae import MINVAE
from pyrodvae.models.rvae import RVAE, CausalRVAE
from pyrodvae.models.sdm_rvae import SDMRVAE
from pyrodvae.models.sdm_vae import SDMVAE
from pyrodvae.models.selector import SelectorVAE
from pyrodvae.models.srnn import SRNN
from pyrodvae.models.storn import STORN
from pyrodvae.models.transformer import TransformerDVAE
from pyrodvae.models.two_gaussians import TwoGaussianVAE
from pyrodvae.models.v_vae import VVAE
from pyrodvae.models.vae import VAE
from pyrodvae.models.vae_mm import VAEMM
from pyrodvae.models.vrnn import VRNN
from pyrodvae.models.vsc import VSC

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
    "sdm-vae": SDMVAE,
    "sdm-rvae": SDMRVAE,
    "vsc": VSC,
    "mixture-vae": TwoGaussianVAE,
    "selector-vae": SelectorVAE,
    "v-vae": VVAE,
    "av-vae": AVVAE,
    "av-dkf": AVDKF,
    "vae-mm": VAEMM,
    "av-switch": AVSwitch,
    "min-vae": MINVAE,
}


def is_given_video(key: str) -> bool:
    """Whether a model, by its key, is given video of lips beside the sound."""
    return "video" in signature(MODELS[key]).parameters


__all__ = [
    "AVDKF",
    "AVVAE",
    "DKF",
    "DSAE",
    "MINVAE",
    "MODELS",
    "RVAE",
    "SDMRVAE",
    "SDMVAE",
    "SRNN",
    "STORN",
    "VAE",
    "VAEMM",
    "VRNN",
    "VSC",
    "VVAE",
    "AVSwitch",
    "CausalRVAE",
    "GeneralDVAE",
    "Kalman",
    "SelectorVAE",
    "TransformerDVAE",
    "TwoGaussianVAE",
    "is_given_video",
]
