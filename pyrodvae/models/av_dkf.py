"""AV-DKF: a non-linear state space that is driven by lips."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import torch
from pyro.distributions import TorchDistribution
from torch import Tensor, nn
from torch.nn.functional import softplus

from pyrodvae.distributions import DiagonalNormal
from pyrodvae.dvae import DVAE, Video
from pyrodvae.lips import LipReader, Lips, Reader
from pyrodvae.models.dkf import NARROWEST
from pyrodvae.nets import join, mlp
from pyrodvae.observations import make_head
from pyrodvae.rollout import Step


class DrivenTransition(nn.Module):
    r"""A linear step of z and a non-linear one of z and the lips, mixed by a gate that sees both.

    .. math::
        h_t &= \mathrm{MLP}[z_{t-1}, e(v_t)], \qquad g_t = σ(W_g h_t + b_g) \\
        μ_t &= (1 - g_t) \odot (W z_{t-1} + b) + g_t \odot W_h h_t, \qquad
        σ^2_t = \mathrm{softplus}(W_s h_t + b_s)

    Args:
        latent: D. embedding: E. hidden: size of h.
    """

    def __init__(self, latent: int, embedding: int, hidden: int) -> None:
        super().__init__()
        self.both = mlp([latent + embedding, hidden], nn.ReLU)
        self.gate = nn.Linear(hidden, latent)
        self.proposal = nn.Linear(hidden, latent)
        self.linear = nn.Linear(latent, latent)
        self.spread = nn.Linear(hidden, latent)
        with torch.no_grad():  # until something is learned the state decays slowly, the gate nearly shut
            self.linear.weight.copy_(0.9 * torch.eye(latent))
            self.linear.bias.zero_()
            self.spread.bias.fill_(-1.0)
            self.gate.bias.fill_(-2.0)

    def forward(self, z: Tensor, e: Tensor) -> TorchDistribution:
        """p(z_t | z_{t-1}, v_t), from z_{t-1} (..., D) and the embedding (..., E) of v_t."""
        h = self.both(join(z, e))
        mean = torch.lerp(self.linear(z), self.proposal(h), self.gate(h).sigmoid())
        variance = softplus(self.spread(h)).clamp(min=NARROWEST)
        return DiagonalNormal(mean, variance.sqrt(), validate_args=False)


class AVDKF(DVAE):
    r"""The deep Kalman filter of speech, given lips.

    .. math::
        z_t \mid z_{t-1}, v_t &\sim \mathcal N(μ_θ(z_{t-1}, v_t), \operatorname{diag} σ_θ^2(z_{t-1}, v_t)) \\
        x_t \mid z_t, v_t &\sim \mathcal N_c(0, \operatorname{diag} v_θ(z_t, v_t))

    with z_0 = 0 and the :class:`DrivenTransition`. The exact posterior of z_t depends on z_{t-1}, on
    x_{t:T} and on v_{t:T}.

    Args:
        observed: F. latent: D.
        hidden: of the transition, and half the size of the decoder's tanh layer; or dense: the sizes of
            several.
        video: V, the size of a picture; reader, embedding: kind of the lip reader, which transition and
            decoder share, and E; see :mod:`pyrodvae.lips`.
        data: kind of data, see :mod:`pyrodvae.observations`.

    Source: Sadeghi & Serizel, *Audio-visual speech enhancement with a deep Kalman filter generative
    model* (ICASSP 2023), here with the lips in both conditionals.
    """

    feedback: ClassVar[bool] = False
    reach: ClassVar[int | None] = 1
    prior_share: ClassVar[float] = 0.1

    def __init__(
        self,
        observed: int = 513,
        latent: int = 16,
        hidden: int = 128,
        *,
        dense: Sequence[int] | None = None,
        video: int = 1024,
        reader: Reader = "conv",
        embedding: int = 64,
        data: str = "speech",
    ) -> None:
        super().__init__(observed, latent, data)
        self.video = video
        sizes = [latent + embedding, *([2 * hidden] if dense is None else dense)]
        self.config |= {"hidden": hidden, "dense": sizes[1:]}
        self.config |= {"video": video, "reader": reader, "embedding": embedding}
        self.lips = LipReader(video, embedding, reader)
        self.driven = DrivenTransition(latent, embedding, hidden)
        self.decoder = mlp(sizes)
        self.head = make_head(data, sizes[-1], observed)

    def begin(self, batch: int, v: Video = None) -> Lips:
        """Read the lips."""
        return Lips.read(self.lips, v)

    def transition(self, z_prev: Tensor, x_prev: Tensor | None, memo: Lips) -> Step:
        """p(z_t | z_{t-1}, v_t)."""
        memo = memo.take(z_prev.shape[-2])
        assert memo.now is not None
        return self.driven(z_prev, memo.now), memo

    def emission(self, z: Tensor, x_prev: Tensor | None, memo: Lips) -> Step:
        """p(x_t | z_t, v_t)."""
        assert memo.now is not None
        return self.head(self.decoder(join(z, memo.now))), memo
