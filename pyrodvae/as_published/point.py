"""PEEM and GPEEM: a point in place of a posterior, found by Adam."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from pyrodvae.as_published.algorithm import Algorithm, Draw, Gain, Step, around_encoder
from pyrodvae.as_published.mixture import Mixture


class Point(NamedTuple):
    """z (S, T, D), which the optimiser moves in place; it goes on from E-step to E-step."""

    z: Tensor
    optimiser: torch.optim.Adam


@dataclass(frozen=True)
class PEEM(Algorithm):
    r"""Steps of Adam down :math:`U = \sum_{tf} \frac{|x|^2}{V} + \log V + λ \sum_{td} \frac{(z - m)^2}{σ^2}`.

    On a DKF, m and σ of z_t depend on z_{t-1} and the gradient takes that in; log σ is missing in U.

    Args:
        learning_rate: of Adam. steps: per E-step.
        chains: S points. start_noise: about the encoder's mean, standard deviation.
        prior_weight: λ; ½ for the prior itself, the published 1 for its square.
        gain: whether the M-step updates it.

    Source: av-dkf (PEEM, and DPEEM with a fixed gain); ps-rvae-se's LDEM with Adam, which has no noise.
    """

    learning_rate: float = 5e-3
    steps: int = 20
    chains: int = 1
    start_noise: float = 0.0
    prior_weight: float = 1.0
    gain: Gain = "updated"

    def start(self, mixture: Mixture, draw: Draw) -> Point:
        """At the encoder's mean."""
        z = around_encoder(mixture, draw, self.chains, self.start_noise).requires_grad_()
        return Point(z, torch.optim.Adam([z], self.learning_rate))

    @torch.enable_grad()
    def e_step(self, mixture: Mixture, state: Point, draw: Draw) -> Step:
        """Some steps of Adam."""
        z, optimiser = state
        for _ in range(self.steps):
            optimiser.zero_grad()
            mixture.energy(z, mixture.variance(z), self.prior_weight).sum().backward()
            optimiser.step()
        here = z.detach().clone()
        return Step(state, here, mixture.variance(here), {})


class PointAndGain(NamedTuple):
    """z (1, T, D) and gain (T, 1), both moved in place; whether there was an E-step before."""

    z: Tensor
    gain: Tensor
    optimiser: torch.optim.Adam
    moved: bool


@dataclass(frozen=True)
class GPEEM(Algorithm):
    r"""Point estimates of z and gain together, the gain with a Gamma prior; by Adam.

    .. math::
        U = κ \sum_{tf} \frac{|x|^2}{V} + \log V + λ \sum_{td} \frac{(z - m)^2}{σ^2}
            + \sum_t b g_t - (a - 1) \log g_t

    The new gain comes too late for W and H, whose update still has the last E-step's (or, aliased, the
    one after this E-step's first step of Adam, since the array is shared with the optimiser until then).

    Args:
        learning_rate: of Adam. steps: per E-step.
        mean: means over bins, over z and over frames in place of the three sums.
        likelihood_weight: κ. prior_weight: λ. gain_shape: a. gain_rate: b.
        least_gain: gains are cut off there after every step.
        aliased: which stale gain it is.

    Source: av-dkf (GPEEM; GDPEEM with means and weights).
    """

    learning_rate: float = 5e-3
    steps: int = 20
    mean: bool = False
    likelihood_weight: float = 1.0
    prior_weight: float = 1.0
    gain_shape: float = 1.0
    gain_rate: float = 1.0
    least_gain: float = 1e-3
    aliased: bool = True

    def start(self, mixture: Mixture, draw: Draw) -> PointAndGain:
        """At the encoder's mean, and a gain of one."""
        z = around_encoder(mixture, draw, 1, 0.0).requires_grad_()
        gain = mixture.gain.clone().requires_grad_()
        return PointAndGain(z, gain, torch.optim.Adam([z, gain], self.learning_rate), moved=False)

    @torch.enable_grad()
    def e_step(self, mixture: Mixture, state: PointAndGain, draw: Draw) -> Step:
        """Some steps of Adam on both; the mixture's own gain is the stale one."""
        z, gain, optimiser, moved = state
        for k in range(self.steps):
            optimiser.zero_grad()
            self._energy(mixture, z, gain).backward()
            optimiser.step()
            gain.data.clamp_(min=self.least_gain)
            if self.aliased and moved and k == 0:
                mixture.gain = gain.detach().clone()
        here = z.detach().clone()
        return Step(PointAndGain(z, gain, optimiser, moved=True), here, mixture.variance(here), {})

    def m_step(self, mixture: Mixture, step: Step) -> None:
        """Noise by the stale gain; then the new gain."""
        mixture.update_noise(step.v)
        mixture.gain = step.state.gain.detach().clone()

    def _energy(self, mixture: Mixture, z: Tensor, gain: Tensor) -> Tensor:
        misfit, prior = mixture.misfit(mixture.variance(z), gain).sum(), mixture.prior(z).sum()
        penalty = (self.gain_rate * gain - (self.gain_shape - 1) * gain.log()).sum()
        if self.mean:
            misfit, prior, penalty = misfit / mixture.x.numel(), prior / z.numel(), penalty / gain.numel()
        return self.likelihood_weight * misfit + self.prior_weight * prior + penalty
