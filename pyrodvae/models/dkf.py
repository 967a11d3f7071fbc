"""DKF: a non-linear state space, Markov in z."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, ClassVar

import torch
from pyro.distributions import TorchDistribution
from torch import Tensor, nn
from torch.nn.functional import softplus

from pyrodvae.distributions import DiagonalNormal
from pyrodvae.dvae import DVAE
from pyrodvae.guide import Guide, Sees
from pyrodvae.nets import Direction, Summary, gaussian, mlp
from pyrodvae.observations import make_head
from pyrodvae.rollout import Step

NARROWEST = math.exp(-14.0)
"""Of a variance: that of :func:`~pyrodvae.nets.gaussian`, below which a softplus would go on to zero."""


class GatedTransition(nn.Module):
    r"""A linear and a non-linear step, mixed by a gate per coordinate.

    .. math::
        g &= σ(\mathrm{MLP}(z)), \qquad h = \mathrm{MLP}(z) \\
        μ &= (1 - g) \odot (W z + b) + g \odot h, \qquad σ^2 = \mathrm{softplus}(W' \mathrm{ReLU}(h) + b')

    Args:
        latent: D.
        squashed: h ends in a sigmoid, as in some published weights.
    """

    def __init__(self, latent: int, squashed: bool = False) -> None:
        super().__init__()
        first, shut = nn.Linear(latent, latent), nn.Linear(latent, latent)
        self.gate = nn.Sequential(first, nn.ReLU(), shut, nn.Sigmoid())
        self.proposal = nn.Sequential(nn.Linear(latent, latent), nn.ReLU(), nn.Linear(latent, latent))
        if squashed:
            self.proposal.append(nn.Sigmoid())
        self.linear = nn.Linear(latent, latent)
        self.spread = nn.Linear(latent, latent)
        with torch.no_grad():  # until something is learned the state decays slowly, the gate nearly shut
            self.linear.weight.copy_(0.9 * torch.eye(latent))
            self.linear.bias.zero_()
            self.spread.bias.fill_(-1.0)
            shut.bias.fill_(-2.0)

    def forward(self, z: Tensor) -> TorchDistribution:
        """p(z_t | z_{t-1}), from z_{t-1} (..., D)."""
        gate, h = self.gate(z), self.proposal(z)
        mean = torch.lerp(self.linear(z), h, gate)
        variance = softplus(self.spread(h.relu())).clamp(min=NARROWEST)
        return DiagonalNormal(mean, variance.sqrt(), validate_args=False)


class DKF(DVAE):
    r"""The deep Kalman filter (deep Markov model): a state space model with networks for its maps.

    .. math::
        z_t \mid z_{t-1} &\sim \mathcal N(μ_θ(z_{t-1}), \operatorname{diag} σ_θ^2(z_{t-1})) \\
        x_t \mid z_t &\sim \mathcal N_c(0, \operatorname{diag} v_θ(z_t))

    with z_0 = 0 and the :class:`GatedTransition`. The exact posterior of z_t depends on z_{t-1} and
    x_{t:T}.

    Args:
        observed: F. latent: D. hidden: half the size of the decoder's tanh layer; or dense: the
            sizes of several.
        squashed: as of :class:`GatedTransition`.
        data: kind of data, see :mod:`pyrodvae.observations`.

    Source: Krishnan, Shalit & Sontag, *Deep Kalman Filters* (2015), and *Structured Inference
    Networks for Nonlinear State Space Models* (2017).
    """

    feedback: ClassVar[bool] = False
    reach: ClassVar[int | None] = 1

    def __init__(
        self,
        observed: int = 513,
        latent: int = 16,
        hidden: int = 128,
        *,
        dense: Sequence[int] | None = None,
        squashed: bool = False,
        data: str = "speech",
    ) -> None:
        super().__init__(observed, latent, data)
        sizes = [2 * hidden] if dense is None else [*dense]
        self.config |= {"dense": sizes, "squashed": squashed}
        self.gated = GatedTransition(latent, squashed)
        self.decoder = mlp([latent, *sizes])
        self.head = make_head(data, [latent, *sizes][-1], observed)

    def transition(self, z_prev: Tensor, x_prev: Tensor | None, memo: Any) -> Step:
        """p(z_t | z_{t-1})."""
        return self.gated(z_prev), memo

    def emission(self, z: Tensor, x_prev: Tensor | None, memo: Any) -> Step:
        """p(x_t | z_t)."""
        return self.head(self.decoder(z)), memo


class DKFGuide(Guide):
    r"""The encoder of the DKF's paper, what is to come and the state before; and x_t at first hand.

    .. math::
        \overleftarrow g_t &= \overleftarrow{\mathrm{LSTM}}(x_{t:T}) \\
        g_t &= \tfrac13 (\mathrm{MLP}(z_{t-1}) + \overleftarrow g_t + \tanh(W x_t + b)) \\
        q(z_t \mid z_{t-1}, x_{t:T}) &= \mathcal N(μ(g_t), \operatorname{diag} σ^2(g_t))

    In the paper x_t goes through the LSTM alone (the mean is over two terms), as it does here with
    ``before``. Of speech, that was slow to learn the harmonics: it passed the envelope on, and what the
    encoder leaves out the decoder does not learn.

    Args:
        model: the DKF. sees: what the paper lets it see.
        hidden: H of the LSTM.
        before: sizes of dense tanh layers between x and the LSTM, () for none, and then no W.
        z_before, after: likewise on z (one of H / 4 unless given) and on g. A narrow layer after g
            costs far more than it saves.
        layers: of the LSTM.
        both: an LSTM in both directions (a term each of the mean), which sees x_{1:T}.

    Source: Krishnan, Shalit & Sontag (2017), "DKS"; sizes of the published speech weights.
    """

    def __init__(
        self,
        model: DVAE,
        sees: Sees,
        hidden: int = 128,
        *,
        layers: int = 1,
        before: Sequence[int] | None = None,
        z_before: Sequence[int] | None = None,
        after: Sequence[int] = (),
        both: bool = False,
    ) -> None:
        super().__init__(model, replace(sees, x_past=both or sees.x_past))
        z_before = [max(1, hidden // 4)] if z_before is None else [*z_before]
        self.config = {"hidden": hidden, "layers": layers, "both": both}
        self.config |= {"before": None if before is None else [*before]}
        self.config |= {"z_before": z_before, "after": [*after]}
        sizes = [model.observed, *(before or ())]
        self.dense = mlp(sizes)
        direction: Direction = "both" if both else "backward"
        self.summary = Summary(sizes[-1], hidden, direction, layers)
        self.from_x = mlp([model.observed, hidden]) if before is None else None
        self.share = 1 / (2 + both + (before is None))
        self.from_z = mlp([model.latent, *z_before, hidden])
        self.combined = mlp([hidden, *after])
        self.head = nn.Linear([hidden, *after][-1], 2 * model.latent)
        with torch.no_grad():
            # g is a mean of bounded terms: from torch's start, the head takes an age to spread z.
            self.head.weight.mul_(4)

    def context(self, x: Tensor, lengths: Tensor | None, shared: Any) -> Tensor:
        """What x_{t:T} says, already divided by the number of terms of the mean."""
        y = self.read(x)
        g = self.summary(self.dense(y), lengths)
        if self.config["both"]:
            g = sum(g.chunk(2, -1))
        return self.share * (g if self.from_x is None else g + self.from_x(y))

    def conditional(self, z_prev: Tensor, context: Tensor | None, memo: Any) -> Step:
        """q(z_t | z_{t-1}, x_{t:T}) on a window."""
        assert context is not None
        g = torch.add(context, self.from_z(z_prev), alpha=self.share)
        return gaussian(self.head(self.combined(g))), memo
