"""Any of Pyro's AutoGuides as the posterior of one recording."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import torch
from pyro.distributions import Normal, TorchDistribution, transforms
from pyro.infer import autoguide as auto
from pyro.infer.autoguide.initialization import InitMessenger, init_to_value
from pyro.nn import AutoRegressiveNN
from torch import Tensor

from pyrodvae.engines.base import POSITIVE, bounded, check
from pyrodvae.engines.variational import Variational
from pyrodvae.potential import Target

Model = Callable[..., Any]

HIDDEN = 32
"""Least size of the hidden layer of a flow; it has to be at least that of the path."""
LARGEST = {"multivariate": 4000, "iaf": 4000}
"""Most elements N, where the numbers to fit grow as N²."""


@dataclass(frozen=True)
class AutoGuide(Variational):
    r"""Any of Pyro's AutoGuides: a free-form posterior r(z) of this recording alone, started at given z.

    .. math:: \max_φ\; E_{r_φ(z)}[\log p(x, z) - \log r_φ(z)]

    ================ =================================================== ======================
    ``guide``        r(z)                                                numbers to fit
    ================ =================================================== ======================
    ``normal``       every element a Gaussian of its own (mean field)    2 N
    ``lowrank``      N(μ, diag σ² + V Vᵀ), V of ``rank`` columns         (2 + rank) N
    ``multivariate`` a Gaussian with all covariances                     N²/2: for short paths
    ``iaf``          inverse autoregressive flow of a Gaussian           3 N²: for short paths
    ``delta``        a point, at the mode                                N
    ================ =================================================== ======================

    N = B T D: but for the first and last, all sequences are one vector. A guide of your own is given as
    its class or a function of the model: ``AutoGuide(guide=AutoNormal)``, ``AutoGuide(guide=lambda model:
    AutoDiagonalNormal(model, init_scale=0.5))``; it starts at z if it asks the model where to start, as
    nearly all of Pyro's do.

    Args:
        guide: which one.
        rank: of ``lowrank``.
        init_scale: standard deviation at the start.
        learning_rate, steps, clip: as of :class:`~pyrodvae.engines.variational.Variational`.

    Raises:
        ValueError: the path is too long for a guide whose numbers grow as N².

    Source: Kucukelbir et al., *Automatic differentiation variational inference* (2017); Kingma et al.,
    *Improved variational inference with inverse autoregressive flow* (2016).
    """

    learning_rate: float = 0.1
    clip: float = 1e6
    guide: Literal["normal", "lowrank", "multivariate", "iaf", "delta"] | Callable[[Model], Any] = "normal"
    rank: int = 8
    init_scale: float = 0.2

    def __post_init__(self) -> None:
        super().__post_init__()
        known = callable(self.guide) or self.guide in GUIDES
        check(self, known, f"guide is one of {', '.join(GUIDES)}, or a function model -> guide")
        made = isinstance(self.guide, torch.nn.Module)
        check(self, not made, "this guide is made for a model already: give its class instead")
        bounded(self, 1, 10_000, "rank")
        bounded(self, POSITIVE, 100, "init_scale")

    @property
    def pointwise(self) -> bool:
        """With a point for a guide."""
        return self.guide == "delta"

    def fresh(self, target: Target, z: Tensor) -> torch.nn.Module:
        """A guide around the mean of the chains."""
        start = z.mean(0)
        short = callable(self.guide) or start.numel() <= LARGEST.get(self.guide, start.numel())
        check(self, short, f"a path of {start.numel()} elements is too long for it; take 'lowrank'")
        model = InitMessenger(init_to_value(values={"z": start}))(target.model)
        guide: torch.nn.Module
        guide = self.guide(model) if callable(self.guide) else GUIDES[self.guide](model, self, start)
        with torch.no_grad():
            guide(*target.args)  # only now it has its parameters
        return guide


def _flow(start: Tensor, scale: float, size: int) -> transforms.ComposeTransformModule:
    """From standard normals to the surroundings of start (N,); no closure, so that a state can be saved."""
    order: Any = torch.arange(size)
    net = AutoRegressiveNN(size, [max(size, HIDDEN)], permutation=order)
    moved = transforms.AffineTransform(start, scale, cache_size=1)
    return transforms.ComposeTransformModule([transforms.AffineAutoregressive(net).to(start), moved])


class _Flow(auto.AutoNormalizingFlow):
    """An inverse autoregressive flow of standard normals in the order of time, moved to the start."""

    def __init__(self, model: Model, engine: AutoGuide, start: Tensor) -> None:
        super().__init__(model, partial(_flow, start.flatten(), engine.init_scale))
        self.standard = Normal(torch.zeros_like(start).flatten(), 1.0).to_event(1)

    def get_base_dist(self) -> TorchDistribution:
        """Of the type of the start, where Pyro's is of the default type."""
        return self.standard


GUIDES: dict[str, Callable[[Model, AutoGuide, Tensor], Any]] = {
    "normal": lambda model, e, _: auto.AutoNormal(model, init_scale=e.init_scale),
    "lowrank": lambda model, e, _: auto.AutoLowRankMultivariateNormal(
        model, init_scale=e.init_scale, rank=e.rank
    ),
    "multivariate": lambda model, e, _: auto.AutoMultivariateNormal(model, init_scale=e.init_scale),
    "iaf": _Flow,
    "delta": lambda model, *_: auto.AutoDelta(model),
}
"""How each is made for a model, settings and a start (B, T, D)."""
