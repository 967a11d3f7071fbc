"""The guides by their keys, and those of the papers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from pyrodvae.dvae import DVAE
from pyrodvae.graph import compliant_sight
from pyrodvae.guide import Guide, RecurrentGuide, Sees
from pyrodvae.models import RVAE, VAE, CausalRVAE
from pyrodvae.models.av_dkf import AVDKF
from pyrodvae.models.av_switch import AVSwitch, AVSwitchGuide
from pyrodvae.models.av_vae import AVVAE, AVGuide
from pyrodvae.models.dkf import DKF, DKFGuide
from pyrodvae.models.dsae import DSAE, DSAEGuide
from pyrodvae.models.general import GeneralDVAE, GeneralGuide
from pyrodvae.models.kalman import Kalman, KalmanGuide
from pyrodvae.models.min_vae import MINVAE, MINGuide
from pyrodvae.models.sdm_rvae import SDMRVAE
from pyrodvae.models.sdm_vae import SDMVAE
from pyrodvae.models.selector import SelectorVAE
from pyrodvae.models.srnn import SRNN, SRNNGuide
from pyrodvae.models.storn import STORN, STORNGuide
from pyrodvae.models.transformer import TransformerDVAE, TransformerGuide
from pyrodvae.models.two_gaussians import TwoGaussianVAE
from pyrodvae.models.v_vae import VVAE
from pyrodvae.models.vae_mm import VAEMM, VAEMMGuide
from pyrodvae.models.vrnn import VRNN, VRNNGuide
from pyrodvae.models.vsc import VSC, VSCGuide

PAPER: dict[type[DVAE], tuple[type[Guide], Sees]] = {
    VAE: (RecurrentGuide, Sees()),
    Kalman: (KalmanGuide, Sees(z_past="previous", x_future=True)),
    DKF: (DKFGuide, Sees(z_past="previous", x_future=True)),
    STORN: (STORNGuide, Sees(x_past=True)),
    VRNN: (VRNNGuide, Sees(z_past="all", x_past=True)),
    SRNN: (SRNNGuide, Sees(z_past="previous", x_past=True, x_future=True)),
    RVAE: (RecurrentGuide, Sees(z_past="all", x_past=True, x_future=True)),
    CausalRVAE: (RecurrentGuide, Sees(z_past="all", x_future=True)),
    SDMVAE: (RecurrentGuide, Sees()),
    SDMRVAE: (RecurrentGuide, Sees(z_past="all", x_past=True, x_future=True)),
    VSC: (VSCGuide, Sees()),
    TwoGaussianVAE: (RecurrentGuide, Sees()),
    SelectorVAE: (RecurrentGuide, Sees()),
    DSAE: (DSAEGuide, Sees(x_past=True, x_future=True)),
    GeneralDVAE: (GeneralGuide, Sees(z_past="all", x_past=True, x_future=True)),
    TransformerDVAE: (TransformerGuide, Sees(z_past="all", x_past=True, x_future=True)),
    VVAE: (RecurrentGuide, Sees(audio=False, video=True)),
    AVVAE: (AVGuide, Sees(video=True)),
    VAEMM: (VAEMMGuide, Sees(video=True)),
    AVSwitch: (AVSwitchGuide, Sees(video=True)),
    MINVAE: (MINGuide, Sees(video=True)),
    AVDKF: (RecurrentGuide, Sees(z_past="previous", x_future=True, video=True)),
}
"""The encoder of each model's paper, and what it lets it see."""

GUIDES: dict[str, Sees | Callable[[DVAE], Sees] | None] = {
    "paper": None,
    "compliant": compliant_sight,  # what the exact posterior depends on
    "meanfield": Sees(),  # factorised over frames, and each frame sees its own x_t alone
    "filter": Sees(z_past="previous", x_past=True),
    "smoother": Sees(z_past="all", x_past=True, x_future=True),
}
"""Guide key → what it sees, or how to find out from the model; None asks :data:`PAPER`. Where a model is
given video, they see that as they see x."""


def about(key: str) -> str:
    """What the guide of a key sees, in words."""
    sees = GUIDES[key]
    if sees is None:
        return "what the model's paper lets it see"
    return str(sees) if isinstance(sees, Sees) else "what the model's exact posterior depends on"


def make_guide(model: DVAE, key: str = "paper", **sizes: Any) -> Guide:
    """The guide ``key`` for a model, with the sizes that its constructor takes (``hidden=128``).

    Raises:
        ValueError: no such key, a model whose paper is not known, or a size that it does not have.
    """
    if key not in GUIDES:
        raise ValueError(f"No guide is called '{key}'; there are: {', '.join(GUIDES)}.")
    sees = GUIDES[key]
    kind: type[Guide] = RecurrentGuide
    if callable(sees):
        sees = sees(model)
    elif sees is not None:
        sees = replace(sees, video=model.video > 0)
    else:
        if type(model) not in PAPER:
            raise ValueError(f"No paper's guide is known for {type(model).__name__}: choose another key.")
        kind, sees = PAPER[type(model)]
    try:
        return kind(model, sees, **sizes)
    except TypeError as error:
        raise ValueError(f"The guide '{key}' refuses its sizes: {error}.") from error
