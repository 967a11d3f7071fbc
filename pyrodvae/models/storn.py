"""STORN: independent latents, a decoder with memory of them and of its own past."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

from torch import Tensor, nn

from pyrodvae.dvae import DVAE
from pyrodvae.guide import Guide, Sees
from pyrodvae.nets import Memory, Summary, gaussian, join, mlp, standard_normal
from pyrodvae.observations import make_features, make_head
from pyrodvae.rollout import Step


class STORN(DVAE):
    r"""The stochastic recurrent network: latents without dynamics, frames that follow on each other.

    .. math::
        z_t &\sim \mathcal N(0, I) \\
        h_t &= \overrightarrow{\mathrm{LSTM}}([\mathrm{MLP}(z_t), \mathrm{MLP}(x_{t-1})]) \\
        x_t \mid z_{1:t}, x_{<t} &\sim \mathcal N_c(0, \operatorname{diag} v_θ(h_t))

    with x_0 blank. The exact posterior of z_t depends on z_{<t} and x_{1:T}.

    Args:
        observed: F. latent: D. hidden: H of the LSTM, and in proportion to it the sizes of the dense
            tanh layers, unless given:
        before, z_before, after: on x, on z, and on h.
        layers: of the LSTM.
        data: kind of data, see :mod:`pyrodvae.observations`.

    Source: Bayer & Osendorfer, *Learning Stochastic Recurrent Networks* (2014); sizes of the
    published speech weights.
    """

    recursive: ClassVar[bool] = False

    def __init__(
        self,
        observed: int = 513,
        latent: int = 16,
        hidden: int = 128,
        *,
        layers: int = 1,
        before: Sequence[int] | None = None,
        z_before: Sequence[int] | None = None,
        after: Sequence[int] | None = None,
        data: str = "speech",
    ) -> None:
        super().__init__(observed, latent, data)
        before = [2 * hidden] if before is None else [*before]
        z_before = [max(1, hidden * k // 4) for k in (1, 2)] if z_before is None else [*z_before]
        after = [2 * hidden] if after is None else [*after]
        self.config |= {"hidden": hidden, "layers": layers}
        self.config |= {"before": before, "z_before": z_before, "after": after}
        self.read = make_features(data, observed)
        self.x_dense, self.z_dense = mlp([observed, *before]), mlp([latent, *z_before])
        self.memory = Memory([latent, *z_before][-1] + [observed, *before][-1], hidden, layers)
        self.decoder = mlp([hidden, *after])
        self.head = make_head(data, [hidden, *after][-1], observed)

    def transition(self, z_prev: Tensor, x_prev: Tensor | None, memo: Any) -> Step:
        """p(z_t) = N(0, I)."""
        return standard_normal(z_prev), memo

    def emission(self, z: Tensor, x_prev: Tensor | None, memo: Any) -> Step:
        """p(x_t | z_{1:t}, x_{<t}), the past in the memo."""
        assert x_prev is not None
        h, memo = self.memory(join(self.z_dense(z), self.x_dense(self.read(x_prev))), memo)
        return self.head(self.decoder(h)), memo


class STORNGuide(Guide):
    r"""The encoder of STORN's paper: a memory of x, blind to z and to what is to come.

    .. math::
        g_t &= \overrightarrow{\mathrm{LSTM}}(\mathrm{MLP}(x_{1:t})) \\
        q(z_t \mid x_{1:t}) &= \mathcal N(μ(g_t), \operatorname{diag} σ^2(g_t))

    Args:
        model: STORN. sees: what the paper lets it see.
        hidden: H of the LSTM, and in proportion to it the sizes of the dense tanh layers, unless given:
        before, after: on x, and on g.
        layers: of the LSTM.

    Source: as :class:`STORN`.
    """

    def __init__(
        self,
        model: DVAE,
        sees: Sees,
        hidden: int = 128,
        *,
        layers: int = 1,
        before: Sequence[int] | None = None,
        after: Sequence[int] | None = None,
    ) -> None:
        super().__init__(model, sees)
        before = [2 * hidden] if before is None else [*before]
        after = [max(1, hidden // k) for k in (2, 4)] if after is None else [*after]
        self.config = {"hidden": hidden, "layers": layers, "before": before, "after": after}
        self.dense = mlp([model.observed, *before])
        self.summary = Summary([model.observed, *before][-1], hidden, "forward", layers)
        self.combined = mlp([hidden, *after])
        self.head = nn.Linear([hidden, *after][-1], 2 * model.latent)

    def context(self, x: Tensor, lengths: Tensor | None, shared: Any) -> Tensor:
        """Mean and log-variance of z_t, side by side."""
        g = self.summary(self.dense(self.read(x)), lengths)
        parameters: Tensor = self.head(self.combined(g))
        return parameters

    def conditional(self, z_prev: Tensor, context: Tensor | None, memo: Any) -> Step:
        """q(z_t | x_{1:t}) on a window."""
        assert context is not None
        return gaussian(context), memo
