"""Exact inference in linear-Gaussian state-space models.

::

    model = LinearGaussian(A, Q, B, R, m1, P1)
    kalman.filter(model, x).log_evidence
    kalman.smooth(model, x, observed).means
    kalman.sample(model, x, draws=100)
    kalman.em(model, x, iterations=50)

Every function takes sequences x (..., T, F) and a mask ``observed`` (..., T), False where a frame is
missing, and is differentiable (but for ``em``). They walk from frame to frame; :mod:`~pyrodvae.kalman.scan`
has ``filter``, ``smooth``, ``posterior_conditionals`` and ``sample`` by parallel scans.
"""

from pyrodvae.kalman import scan
from pyrodvae.kalman.fit import em
from pyrodvae.kalman.model import LinearGaussian
from pyrodvae.kalman.results import Filtered, Forecast, PosteriorConditionals, Smoothed
from pyrodvae.kalman.sequential import filter, forecast, posterior_conditionals, sample, smooth

__all__ = [
    "Filtered",
    "Forecast",
    "LinearGaussian",
    "PosteriorConditionals",
    "Smoothed",
    "em",
    "filter",
    "forecast",
    "posterior_conditionals",
    "sample",
    "scan",
    "smooth",
]
