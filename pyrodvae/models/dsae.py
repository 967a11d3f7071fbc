"""DSAE: what is said and who says it, a latent path and one latent for the whole sequence."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar, NamedTuple

import pyro
from torch import Tensor, nn

from pyrodvae.dvae import DVAE, SEGMENT, Video
from pyrodvae.guide import Guide, Sees, SegmentEncoder
from pyrodvae.nets import Memory, State, Summary, gaussian, join, mlp, standard_normal
from pyrodvae.observations import make_head
from pyrodvae.rollout import Step


class Past(NamedTuple):
    """The segment latent (..., W), and the prior's memory of z_{<t}."""

    w: Tensor
    state: State | None


class DSAE(DVAE):
    r"""The disentangled sequential autoencoder: w for what lasts, z_t for what changes.

    .. math::
        w &\sim \mathcal N(0, I) \\
        z_t \mid z_{<t} &\sim \mathcal N(μ_θ(h_t), \operatorname{diag} σ_θ^2(h_t)),
            \qquad h_t = \mathrm{LSTM}(z_0, \dots, z_{t-1}) \\
        x_t \mid w, z_t &\sim \mathcal N_c(0, \operatorname{diag} v_θ(w, z_t))

    with z_0 = 0. Given w, the exact posterior of z_t depends on z_{<t} and on x_{t:T}; that of w on
    all of x and z.

    Args:
        observed: F. latent: D. hidden: H of the prior's LSTM.
        segment: W, the size of w; D unless given.
        layers: of the prior's LSTM.
        dense: sizes of the decoder's tanh layers; H and 2H unless given.
        data: kind of data, see :mod:`pyrodvae.observations`.

    Source: Li & Mandt, *Disentangled Sequential Autoencoder* (ICML 2018).
    """

    feedback: ClassVar[bool] = False

    def __init__(
        self,
        observed: int = 513,
        latent: int = 16,
        hidden: int = 128,
        *,
        segment: int | None = None,
        layers: int = 1,
        dense: Sequence[int] | None = None,
        data: str = "speech",
    ) -> None:
        super().__init__(observed, latent, data)
        self.segment = latent if segment is None else segment
        sizes = [self.segment + latent, *([hidden, 2 * hidden] if dense is None else dense)]
        self.config |= {"hidden": hidden, "segment": self.segment, "layers": layers, "dense": sizes[1:]}
        self.memory = Memory(latent, hidden, layers)
        self.drift = nn.Linear(hidden, 2 * latent)
        self.decoder = mlp(sizes)
        self.head = make_head(data, sizes[-1], observed)

    def begin(self, batch: int, v: Video = None) -> Past:
        """Sample w (B, W), one for each sequence."""
        w = pyro.sample(SEGMENT, standard_normal(self.z_0.new_empty(batch, self.segment)))
        return Past(w, None)

    def transition(self, z_prev: Tensor, x_prev: Tensor | None, memo: Past) -> Step:
        """p(z_t | z_{<t})."""
        h, state = self.memory(z_prev, memo.state)
        return gaussian(self.drift(h)), Past(memo.w, state)

    def emission(self, z: Tensor, x_prev: Tensor | None, memo: Past) -> Step:
        """p(x_t | w, z_t)."""
        return self.head(self.decoder(join(memo.w[..., None, :], z))), memo


class DSAEGuide(Guide):
    r"""The encoder of the DSAE's paper ("full"): w from the whole sequence, then z from x and w.

    .. math::
        y_t &= \mathrm{MLP}(x_t), \qquad
        q(w \mid x_{1:T}) = \mathcal N(μ(e), \operatorname{diag} σ^2(e)) \\
        e &= \mathrm{MLP}[\overrightarrow{\mathrm{LSTM}}(y_{1:T}), \overleftarrow{\mathrm{LSTM}}(y_{T:1})]
            \quad \text{(the final states)} \\
        g_t &= \mathrm{MLP}[\overrightarrow{\mathrm{LSTM}}(u_{1:t}), \overleftarrow{\mathrm{LSTM}}(u_{T:t})],
            \qquad u_t = \mathrm{MLP}[y_t, w] \\
        q(z_t \mid w, x_{1:T}) &= \mathcal N(μ(r_t), \operatorname{diag} σ^2(r_t)), \qquad
            r_t = \tanh(W g_t + U r_{t-1} + b)

    No frame looks at the draws of others, so all are drawn at once, after w.

    Args:
        model: the DSAE. sees: what the paper lets q(z_t | w, ·) see.
        hidden: H of the recurrent networks, unless given: w_hidden, z_hidden.
        before: sizes of dense tanh layers on x; one of size 2H unless given.
        w_layers, w_after: of the LSTM for w, and sizes of dense layers after it.
        joined, layers, after: sizes of dense layers on (y, w), layers of the LSTM that follows, and
            sizes of dense layers after that.
        z_layers: of the tanh recursion.

    Source: Li & Mandt (2018); the networks of the published speech models.
    """

    def __init__(
        self,
        model: DVAE,
        sees: Sees,
        hidden: int = 128,
        *,
        before: Sequence[int] | None = None,
        w_hidden: int | None = None,
        w_layers: int = 1,
        w_after: Sequence[int] = (),
        joined: Sequence[int] = (),
        layers: int = 1,
        after: Sequence[int] = (),
        z_hidden: int | None = None,
        z_layers: int = 1,
    ) -> None:
        super().__init__(model, sees)
        before = [2 * hidden] if before is None else [*before]
        w_hidden, z_hidden = w_hidden or hidden, z_hidden or hidden
        self.config = {"hidden": hidden, "before": before, "layers": layers}
        self.config |= {"w_hidden": w_hidden, "w_layers": w_layers, "w_after": [*w_after]}
        self.config |= {"joined": [*joined], "after": [*after], "z_hidden": z_hidden, "z_layers": z_layers}
        sizes = [model.observed, *before]
        self.dense = mlp(sizes)
        self.segment = SegmentEncoder(sizes[-1], w_hidden, model.segment, layers=w_layers, after=w_after)
        sizes = [sizes[-1] + model.segment, *joined]
        self.joined = mlp(sizes)
        self.summary = Summary(sizes[-1], hidden, "both", layers)
        sizes = [self.summary.size, *after]
        self.after = mlp(sizes)
        self.recursion = Summary(sizes[-1], z_hidden, "forward", z_layers, cell="rnn")
        self.head = nn.Linear(z_hidden, 2 * model.latent)

    def begin(self, x: Tensor, lengths: Tensor | None, v: Tensor | None = None) -> Tensor:
        """Sample w (B, W)."""
        w: Tensor = pyro.sample(SEGMENT, self.segment(self.dense(self.read(x)), lengths))
        return w

    def context(self, x: Tensor, lengths: Tensor | None, shared: Tensor) -> Tensor:
        """Means and log-variances of all frames, given w."""
        u = self.joined(join(self.dense(self.read(x)), shared[..., None, :]))
        r = self.recursion(self.after(self.summary(u, lengths)), lengths)
        parameters: Tensor = self.head(r)
        return parameters

    def conditional(self, z_prev: Tensor, context: Tensor | None, memo: Any) -> Step:
        """q(z_t | w, x_{1:T}) on a window."""
        assert context is not None
        return gaussian(context), memo
