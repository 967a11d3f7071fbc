"""What a frame of data is: the features that networks read of it, and the density they write.

======== ========================= =================================== ==========================
``data`` a frame x_t               networks read                       networks write
======== ========================= =================================== ==========================
speech   complex spectrum (F,)     its standardised log-power          complex Gaussian, around the
                                                                       mean log-power spectrum
power    complex spectrum (F,)     its power |x|², as published        complex Gaussian, its
                                   weights do                          log-variance bare
real     real vector (F,)          its standardised values             Gaussian, standardised
======== ========================= =================================== ==========================
"""

from __future__ import annotations

import math
from abc import abstractmethod
from typing import ClassVar

import torch
from pyro.distributions import TorchDistribution
from torch import Tensor, nn

from pyrodvae.distributions import ComplexNormal, DiagonalNormal, power

POWER_FLOOR = 1e-6
"""Linear power, with speech scaled to a peak of one: under the noise of nearly every recording, so
it only keeps digital silence from sending a log-variance to minus infinity."""

LOG_CEILING = 20.0


class Features(nn.Module):
    """Data (..., F) → real features (..., F)."""

    is_complex: ClassVar[bool] = True

    @abstractmethod
    def forward(self, x: Tensor) -> Tensor:
        """The features of each frame."""

    def fit(self, x: Tensor) -> None:
        """Take scales and means from training data (..., F)."""

    def blank(self) -> Tensor | None:
        """The frame that is read before the first, (F,); None for zeros, which are silence."""
        return None


class LogSpectrum(Features):
    r"""The standardised log-power of each bin: what encoders of speech read.

    .. math:: y_f = (\log(|x_f|^2 + ε) - m_f) / r_f

    Encoders that read log-power train many times faster than on raw power, and a decoder that
    starts from the mean spectrum m has only the deviations to learn.

    Args:
        bins: F. Until :meth:`fit`, m = 0 and r = 1.
    """

    loc: Tensor
    scale: Tensor

    def __init__(self, bins: int) -> None:
        super().__init__()
        self.register_buffer("loc", torch.zeros(bins))
        self.register_buffer("scale", torch.ones(bins))

    @torch.no_grad()
    def fit(self, x: Tensor) -> None:
        """Take m and r from a spectrogram (..., F) of training speech (complex)."""
        y = (power(x) + POWER_FLOOR).log().flatten(0, -2)
        self.loc.copy_(y.mean(0))
        self.scale.copy_(y.std(0).clamp(min=0.1))

    def forward(self, x: Tensor) -> Tensor:
        """Complex (..., F) → real (..., F), about zero mean and unit variance on speech."""
        return ((power(x) + POWER_FLOOR).log() - self.loc) / self.scale


class PowerSpectrum(Features):
    """The power :math:`|x_f|^2`, linear and unscaled: what the encoders of published weights read."""

    def __init__(self, bins: int) -> None:
        super().__init__()

    def forward(self, x: Tensor) -> Tensor:
        """Complex (..., F) → real (..., F)."""
        return power(x)


class Standardised(Features):
    """Real data, each coordinate about zero mean and unit variance on the training data."""

    is_complex = False
    loc: Tensor
    scale: Tensor

    def __init__(self, size: int) -> None:
        super().__init__()
        self.register_buffer("loc", torch.zeros(size))
        self.register_buffer("scale", torch.ones(size))

    @torch.no_grad()
    def fit(self, x: Tensor) -> None:
        """Take mean and spread from real data (..., F)."""
        y = x.flatten(0, -2)
        self.loc.copy_(y.mean(0))
        self.scale.copy_(y.std(0).clamp(min=1e-6))

    def blank(self) -> Tensor:
        """The mean, whose features are zero: so the zero of the data's scale is nothing special."""
        return self.loc

    def forward(self, x: Tensor) -> Tensor:
        """Real (..., F) → same."""
        return (x - self.loc) / self.scale


class Head(nn.Module):
    """Hidden features (..., I) → the density of a frame, event (F,)."""

    @abstractmethod
    def forward(self, h: Tensor) -> TorchDistribution:
        """p(x_t | h_t)."""

    def fit(self, x: Tensor) -> None:
        """Start where a constant h is best for training data (..., F)."""


class SpectrumHead(Head):
    """Independent complex Gaussians, one per bin, around the mean log-power spectrum."""

    def __init__(self, inputs: int, bins: int) -> None:
        super().__init__()
        self.output = nn.Linear(inputs, bins)
        self.spectrum = LogSpectrum(bins)

    def forward(self, h: Tensor) -> TorchDistribution:
        """N_c(0, diag v(h)), v in linear power, between the floor and e^20."""
        loc, scale = self.spectrum.loc, self.spectrum.scale
        # Scale and mean go into the layer's weights: one matrix product gives the log-variance.
        weight, bias = scale[:, None] * self.output.weight, torch.addcmul(loc, scale, self.output.bias)
        y = torch.addmm(bias, h.reshape(-1, h.shape[-1]), weight.mT)
        # hardtanh clamps in place, with a pass less each way than clamp (but not on a view: so 2-D).
        y = nn.functional.hardtanh_(y, math.log(POWER_FLOOR), LOG_CEILING).view(*h.shape[:-1], -1)
        return ComplexNormal(log_variance=y, validate_args=False).to_event(1)

    @torch.no_grad()
    def fit(self, x: Tensor) -> None:
        """Start from the mean power of each bin of x (..., F): there a constant v is optimal."""
        self.spectrum.fit(x)
        mean_power = power(x).flatten(0, -2).mean(0) + POWER_FLOOR
        self.output.bias.copy_((mean_power.log() - self.spectrum.loc) / self.spectrum.scale)


class VarianceHead(Head):
    """Independent complex Gaussians whose log-variance is a bare linear layer, as published."""

    def __init__(self, inputs: int, bins: int) -> None:
        super().__init__()
        self.output = nn.Linear(inputs, bins)

    def forward(self, h: Tensor) -> TorchDistribution:
        """N_c(0, diag e^y), y = W h + b."""
        return ComplexNormal(log_variance=self.output(h), validate_args=False).to_event(1)

    @torch.no_grad()
    def fit(self, x: Tensor) -> None:
        """Start from the mean power of each bin of x (..., F)."""
        self.output.bias.copy_((power(x).flatten(0, -2).mean(0) + POWER_FLOOR).log())


class GaussianHead(Head):
    """A diagonal Gaussian of standardised real data, its variance learned per frame."""

    def __init__(self, inputs: int, size: int) -> None:
        super().__init__()
        self.output = nn.Linear(inputs, 2 * size)
        self.standard = Standardised(size)

    def forward(self, h: Tensor) -> TorchDistribution:
        """N(μ(h), diag σ²(h)), σ between e^-7 and e^3 times the spread of the data."""
        mean, log_variance = self.output(h).chunk(2, -1)
        loc, scale = self.standard.loc, self.standard.scale
        spread = scale * (0.5 * log_variance).clamp(-7.0, 3.0).exp()
        return DiagonalNormal(torch.addcmul(loc, scale, mean), spread, validate_args=False)

    def fit(self, x: Tensor) -> None:
        """Take mean and spread from real data (..., F)."""
        self.standard.fit(x)


DATA: dict[str, tuple[type[Features], type[Head]]] = {
    "speech": (LogSpectrum, SpectrumHead),
    "power": (PowerSpectrum, VarianceHead),
    "real": (Standardised, GaussianHead),
}


def check_data(data: str) -> None:
    """Raise a ValueError for a kind of data that is not in :data:`DATA`."""
    if data not in DATA:
        raise ValueError(f"No kind of data is called '{data}'; there are: {', '.join(DATA)}.")


def make_features(data: str, size: int) -> Features:
    """What networks read of frames (F,) of a kind of data."""
    check_data(data)
    return DATA[data][0](size)


def make_head(data: str, inputs: int, size: int) -> Head:
    """What networks write: the density of frames (F,) from features (I,)."""
    check_data(data)
    return DATA[data][1](inputs, size)
