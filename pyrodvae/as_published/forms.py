"""Which published algorithm an engine stands for."""

from __future__ import annotations

from pyrodvae.as_published.algorithm import Algorithm
from pyrodvae.as_published.langevin import LDEM
from pyrodvae.as_published.metropolis import MALAEM, MHEM
from pyrodvae.as_published.point import GPEEM, PEEM
from pyrodvae.as_published.variational import VEM
from pyrodvae.engines import ENGINES, Engine
from pyrodvae.weights import Run

ALGORITHMS: dict[str, Algorithm] = {
    # ps-rvae-se, for the non-causal RVAE
    "vem": VEM(),
    "ldem": LDEM(),
    "ldem-psgld": LDEM(precondition=True),
    "ldem-adam": PEEM(steps=1, chains=10, start_noise=0.1),  # an optimiser, without any noise
    "mhem": MHEM(),
    "malaem": MALAEM(),
    # av-dkf, for the VAE
    "peem": PEEM(),
    "gpeem": GPEEM(),
    "ldem-vae": LDEM(steps=20, chains=5, total_variation=5.0),
    # av-dkf, for the DKF
    "dpeem": PEEM(gain="fixed"),
    "gdpeem": GPEEM(
        mean=True, likelihood_weight=0.9, prior_weight=0.1, gain_shape=1.1, gain_rate=1.1, aliased=False
    ),
    "dldem": LDEM(precondition=True, steps=20, chains=1, start_noise=0.0, extra_noise=0.0, gain="fixed"),
}
"""The published algorithms by name, with the published settings."""

FORMS: dict[str, tuple[str, str, str]] = {
    "vem": ("vem", "vem", "vem"),
    "langevin": ("ldem-vae", "dldem", "ldem"),
    "mh": ("mhem", "mhem", "mhem"),
    "mala": ("malaem", "malaem", "malaem"),
    "peem": ("peem", "dpeem", "peem"),
}
"""The published algorithms of engines: for a VAE, for a state space, and for all others."""


def published_form(engine: Engine, run: Run) -> Algorithm:
    """The published algorithm of an engine and a model.

    Raises:
        ValueError: there is none.
    """
    key = next((k for k, kind in ENGINES.items() if type(engine) is kind and k in FORMS), None)
    if key is None:
        raise ValueError(f"{type(engine).__name__} has no published form; there are: {', '.join(FORMS)}.")
    if run.model.segment:
        raise ValueError(
            f"{type(run.model).__name__} has a segment latent, and no published algorithm knows of one."
        )
    reach = run.model.reach
    return ALGORITHMS[FORMS[key][2 if reach is None else reach]]
