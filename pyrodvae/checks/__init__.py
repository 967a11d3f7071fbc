"""Is a kernel exact, a posterior calibrated, a bound tight? For engines and guides, ours or anybody's.

::

    z, x = draw(model, blank)                # or model.generate(frames, batch): one pair a replicate
    target = Target(model, guide, (x,))
    print(invariance(engine, target, z))     # does a kernel leave p(z | x) as it is?
    print(calibration(guide, target, z))     # is the truth a draw like any other?
    print(evidence_gap(model, guide, x))     # how far is the ELBO from the evidence?
    print(posterior_errors(draws, *kalman_posterior(parameters, x)))

The first two need no known posterior, only a model that can be drawn from. Chance is torch's: seed
it, and the answer is the same again.
"""

from pyrodvae.checks.evidence import EvidenceGap, evidence_gap
from pyrodvae.checks.joint import Kernel, draw, functionals
from pyrodvae.checks.kernels import Invariance, invariance
from pyrodvae.checks.moments import PosteriorErrors, kalman_posterior, posterior_errors
from pyrodvae.checks.ranks import Calibration, calibration

__all__ = [
    "Calibration",
    "EvidenceGap",
    "Invariance",
    "Kernel",
    "PosteriorErrors",
    "calibration",
    "draw",
    "evidence_gap",
    "functionals",
    "invariance",
    "kalman_posterior",
    "posterior_errors",
]
