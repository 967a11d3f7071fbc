"""One of two distributions, as a coin says; the coin summed out, or shown."""

from __future__ import annotations

from typing import Any, Generic, NamedTuple, TypeVar

import torch
from pyro.distributions import TorchDistribution
from torch import Size, Tensor
from torch.nn.functional import logsigmoid

from pyrodvae.distributions import Shape
from pyrodvae.rollout import rebuild

A = TypeVar("A")


class Two(NamedTuple, Generic[A]):
    """One thing for each reading of a frame: α = 1, of what is heard alone; α = 0, of lips as well."""

    audio: A
    visual: A


def choose(alpha: Tensor, of: Two[TorchDistribution]) -> TorchDistribution:
    """The distribution that α (...) names, zeros and ones; both are of one family, batch (...), event (E,).

    It is linear in α between the two, so that there is a derivative to tell that it depends on α.
    """
    if of.audio is of.visual:
        return of.audio
    chosen: TorchDistribution = rebuild(
        [of.visual, of.audio], lambda p: torch.lerp(p[0], p[1], alpha[..., None])
    )
    return chosen


class Either(TorchDistribution):
    r"""A mixture of two distributions.

    .. math:: p(y) = σ(o)\, p_1(y) + σ(-o)\, p_0(y)

    A draw has gradients to the distribution that the coin chose; the odds count as given.

    Args:
        log_odds: o (...), from -∞ to ∞.
        of: (p_1, p_0), batch (...), event (E,).
    """

    arg_constraints = {}
    has_rsample = True

    def __init__(self, log_odds: Tensor, of: Two[TorchDistribution]) -> None:
        self.log_odds, self.of = log_odds, of
        shapes = (log_odds.shape, of.audio.batch_shape, of.visual.batch_shape)
        super().__init__(torch.broadcast_shapes(*shapes), of.audio.event_shape, validate_args=False)

    @property
    def support(self) -> Any:
        """That of the two."""
        return self.of.audio.support

    @property
    def mean(self) -> Tensor:
        """E[y]."""
        return self._average(self.of.audio.mean, self.of.visual.mean)

    @property
    def variance(self) -> Tensor:
        """Of each element: the mean of the variances, and the spread of the means."""
        within = self._average(self.of.audio.variance, self.of.visual.variance)
        p = self.log_odds.sigmoid()[..., None]
        return within + p * (1 - p) * (self.of.audio.mean - self.of.visual.mean).abs().square()

    def _average(self, audio: Tensor, visual: Tensor) -> Tensor:
        return torch.lerp(visual, audio, self.log_odds.sigmoid()[..., None].to(audio.dtype))

    def expand(self, batch_shape: Shape, _instance: None = None) -> Either:
        """The same distribution, broadcast to ``batch_shape``."""
        of = Two(self.of.audio.expand(batch_shape), self.of.visual.expand(batch_shape))
        return Either(self.log_odds.expand(batch_shape), of)

    def rsample(self, sample_shape: Shape = ()) -> Tensor:
        """A draw."""
        shape = self._extended_shape(Size(sample_shape))[: -len(self.event_shape)]
        heads = self.log_odds.sigmoid().expand(shape).bernoulli()[..., None] > 0
        audio, visual = (d.expand(self.batch_shape).rsample(Size(sample_shape)) for d in self.of)
        return torch.where(heads, audio, visual)

    def log_prob(self, value: Tensor) -> Tensor:
        """In nats, (...)."""
        audio = logsigmoid(self.log_odds) + self.of.audio.log_prob(value)
        return torch.logaddexp(audio, logsigmoid(-self.log_odds) + self.of.visual.log_prob(value))

    def odds_given(self, value: Tensor) -> Tensor:
        """log p(α = 1 | y) / p(α = 0 | y), (...)."""
        return self.log_odds + self.of.audio.log_prob(value) - self.of.visual.log_prob(value)
