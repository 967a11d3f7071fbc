"""Enhancement algorithms as they were published, with all that makes them differ from our engines.

They are here to be compared with, number by number: the deviations are listed, with what each does,
in ``docs/as-published.md``. Every algorithm is a frozen dataclass of settings whose defaults are the
published ones; a setting also undoes most deviations (``prior_weight=0.5``, ``extra_noise=0``,
``acceptance="joint"``, …).

Sources: Sadeghi & Serizel, *Posterior sampling algorithms for unsupervised speech enhancement with
recurrent variational autoencoder* (2023), and its code ps-rvae-se (VEM, LDEM, MHEM, MALAEM);
Golmohammadi et al., *Audio-visual speech enhancement with a deep Kalman filter generative model*
(2023), Sadeghi & Serizel, *Fast and efficient speech enhancement with variational autoencoders*
(2023), and their code av-dkf (PEEM and its kin, the other LDEMs).
"""

from __future__ import annotations

from pyrodvae.as_published.algorithm import Algorithm, Draw, Step, TorchDraw
from pyrodvae.as_published.forms import ALGORITHMS, published_form
from pyrodvae.as_published.langevin import LDEM
from pyrodvae.as_published.loop import Iteration, Separated, separate
from pyrodvae.as_published.metropolis import MALAEM, MHEM
from pyrodvae.as_published.mixture import Mixture, initial_noise
from pyrodvae.as_published.point import GPEEM, PEEM
from pyrodvae.as_published.spectrum import enhance_spectrum_as_published
from pyrodvae.as_published.variational import VEM

__all__ = [
    "ALGORITHMS",
    "GPEEM",
    "LDEM",
    "MALAEM",
    "MHEM",
    "PEEM",
    "VEM",
    "Algorithm",
    "Draw",
    "Iteration",
    "Mixture",
    "Separated",
    "Step",
    "TorchDraw",
    "enhance_spectrum_as_published",
    "initial_noise",
    "published_form",
    "separate",
]
