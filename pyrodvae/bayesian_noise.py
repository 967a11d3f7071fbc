"""Noise that is random too: Gamma priors on W and H, as a Pyro program and as an M-step."""

from __future__ import annotations

from dataclasses import dataclass

import pyro
import torch
from pyro.distributions import Gamma
from torch import Tensor

from pyrodvae.noise import FLOOR, TINY, Memory, MStep, NMFNoise, terms_of_H, terms_of_W
from pyrodvae.observations import POWER_FLOOR
from pyrodvae.program import Program


@dataclass(frozen=True)
class GammaPrior:
    r"""Independent Gamma priors on the entries of one factor, mean shape / rate.

    .. math:: p(w) = \frac{β^α}{Γ(α)}\, w^{α - 1} e^{-β w}, \qquad w > 0

    Below shape one the density grows towards zero, so that few entries are large: sparse patterns.

    Args:
        shape: α > 0.
        rate: β > 0.
    """

    shape: float
    rate: float

    def __post_init__(self) -> None:
        if not (self.shape > 0 and self.rate > 0):
            raise ValueError(f"{self} is no density: shape and rate must be positive.")

    def over(self, rows: int, columns: int, like: Tensor) -> Gamma:
        """The prior of a whole matrix, on the device of ``like``: event (rows, columns)."""
        shape, rate = (like.new_tensor(v).expand(rows, columns) for v in (self.shape, self.rate))
        return Gamma(shape, rate).to_event(2)

    def log_prob(self, factor: Tensor) -> Tensor:
        """log p of factors (..., rows, columns), in nats: (...)."""
        rows, columns = factor.shape[-2:]
        log_p: Tensor = self.over(rows, columns, factor).log_prob(factor)
        return log_p

    def mode(self, factor: Tensor, above: Tensor, below: Tensor) -> Tensor:
        r"""Where :math:`-a/w - cw + \log p(w)` is highest, for :math:`a = w_{old}^2` · above, c = below.

        The positive root of :math:`(c + β) w^2 - (α - 1) w - a`, in whichever of its two forms nothing
        cancels.
        """
        a, c, excess = factor.square() * above, below + self.rate, self.shape - 1
        root = (excess**2 + 4 * a * c).sqrt()
        return (excess + root) / (2 * c) if excess >= 0 else 2 * a / (root - excess)


@dataclass(frozen=True)
class NMFPrior:
    """Priors of both factors: nothing else tells how a product is shared among them.

    Args:
        W: of the spectral patterns.
        H: of their activations; with patterns of mean one, K · mean of H is the power of a bin.
    """

    W: GammaPrior
    H: GammaPrior

    @classmethod
    def around(cls, noise: NMFNoise, shape: float = 1.0) -> NMFPrior:
        """Priors of a given shape whose mean power is that of a first guess, all bins together."""
        K = noise.H.shape[1]
        level = float((noise.variance - POWER_FLOOR).mean())
        return cls(GammaPrior(shape, shape), GammaPrior(shape, shape * K / level))

    def log_prob(self, noise: NMFNoise) -> Tensor:
        """log p(W) + log p(H) in nats, (B,)."""
        return self.W.log_prob(noise.W) + self.H.log_prob(noise.H)


class BayesianNMF(Program):
    r"""Noise whose factors are random: sites ``W`` (event (F, K)) and ``H`` (event (K, T)).

    .. math::
        w_{fk} \sim \mathrm{Gamma}(α_W, β_W), \qquad h_{kt} \sim \mathrm{Gamma}(α_H, β_H), \qquad
        b_{tf} \sim \mathcal N_c(0, (WH)_{ft})

    In place of an :class:`NMFNoise` it makes the mixture a program with three latent sites, ready for
    Pyro's SVI, AutoGuides, HMC and NUTS::

        model = NoisySpeech(speech, BayesianNMF(prior, bins=513, rank=8, frames=100))
        mcmc = MCMC(NUTS(model), num_samples=200)

    Args:
        prior: of both factors.
        bins, rank, frames: F, K and T.

    Source: Févotte, Bertin & Durrieu 2009 (Gamma priors on IS-NMF).
    """

    like: Tensor

    def __init__(self, prior: NMFPrior, bins: int, rank: int, frames: int) -> None:
        super().__init__()
        self.prior, self.bins, self.rank, self.frames = prior, bins, rank, frames
        self.register_buffer("like", torch.zeros(()))  # moves with the module

    def forward(self) -> Tensor:
        """Sample W and H, one pair per sequence of the plate around it: the variance (B, T, F)."""
        W = pyro.sample("W", self.prior.W.over(self.bins, self.rank, self.like))
        H = pyro.sample("H", self.prior.H.over(self.rank, self.frames, self.like))
        return (W @ H).mT + POWER_FLOOR


@dataclass(frozen=True)
class MAP(MStep):
    r"""The M-step towards the mode of the posterior of W and H, not of their likelihood.

    Every entry goes to the mode of a minoriser of the log posterior,

    .. math:: W \leftarrow \frac{α - 1 + \sqrt{(α - 1)^2 + 4 (c + β)\, a}}{2 (c + β)}, \qquad
              a = W^2 \odot A H^T,\quad c = C H^T

    with A and C of :class:`~pyrodvae.noise.Multiplicative`; likewise H. So the mean over draws of
    log p(x | z, W, H), plus log p(W) + log p(H), never falls. The columns of W keep their scale, about
    which the priors care; the gain has a flat prior. Nothing falls below 1e-9, where a density of shape
    below one would be infinite.

    Args:
        prior: of both factors.

    Source: Févotte, Bertin & Durrieu 2009, §4 (Gamma and inverse-Gamma priors in IS-NMF).
    """

    prior: NMFPrior

    @torch.no_grad()
    def step(
        self, noise: NMFNoise, gain: Tensor | None, x_power: Tensor, variance: Tensor, memory: Memory
    ) -> tuple[Tensor | None, Memory]:
        """See :meth:`MStep.step`."""
        inverse = torch.empty_like(variance)
        terms = terms_of_W(noise, gain, x_power, variance, inverse)
        noise.W.copy_(self.prior.W.mode(noise.W, *terms).clamp(min=FLOOR))
        terms, of_gain = terms_of_H(noise, gain, x_power, variance, inverse)
        noise.H.copy_(self.prior.H.mode(noise.H, *terms).clamp(min=FLOOR))
        if gain is not None and of_gain is not None:
            above, below = of_gain
            gain = (gain * (above / (below + TINY)).sqrt()).clamp(min=FLOOR)
        return gain, memory._replace(steps=memory.steps + 1)
