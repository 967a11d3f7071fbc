"""The general dynamical VAE: one recursion that everything goes through."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor, nn

from pyrodvae.dvae import DVAE
from pyrodvae.guide import Guide, Sees
from pyrodvae.nets import Memory, State, Summary, from_start, gaussian, join, mlp
from pyrodvae.observations import make_features, make_head
from pyrodvae.rollout import Rollout, Step


class Past(NamedTuple):
    """What the model carries along.

    Args:
        h: on the last window, (..., L, H), which prior and emission share; None before the first.
        state: after it.
        known: what is read of x_{t-1}, of all frames still to come, where they are known.
    """

    h: Any = None
    state: State | None = None
    known: Tensor | None = None


class GeneralDVAE(DVAE):
    r"""The general dynamical VAE: one recursion for prior and emission, and no arrow left out.

    .. math::
        h_t &= \tanh(W [x_{t-1}, z_{t-1}] + U h_{t-1} + b) \\
        z_t \mid z_{<t}, x_{<t} &\sim \mathcal N(μ_θ(h_t), \operatorname{diag} σ_θ^2(h_t)) \\
        x_t \mid z_{\le t}, x_{<t} &\sim \mathcal N_c(0, \operatorname{diag} v_θ(z_t, h_t))

    Every other causal model of the family follows by leaving arrows out. The exact posterior of z_t
    depends on z_{<t} and on all of x_{1:T}.

    Args:
        observed: F. latent: D. hidden: H of the recursion.
        dense: sizes of the emission's tanh layers; one of size H unless given.
        data: kind of data, see :mod:`pyrodvae.observations`.

    Source: Girin et al., *Dynamical Variational Autoencoders: A Comprehensive Review* (2021), §4.
    """

    feedback: ClassVar[bool] = True

    def __init__(
        self,
        observed: int = 513,
        latent: int = 16,
        hidden: int = 128,
        *,
        dense: Sequence[int] | None = None,
        data: str = "speech",
    ) -> None:
        super().__init__(observed, latent, data)
        sizes = [latent + hidden, *([hidden] if dense is None else dense)]
        self.config |= {"hidden": hidden, "dense": sizes[1:]}
        self.read = make_features(data, observed)
        self.memory = Memory(observed + latent, hidden, cell="rnn")
        self.drift = nn.Linear(hidden, 2 * latent)
        self.decoder = mlp(sizes)
        self.head = make_head(data, sizes[-1], observed)

    def prior(self, x: Tensor, lengths: Tensor | None = None, memo: Any = None) -> Rollout:
        """p(z_{1:T} | x_{<T}); with the frames known, they are read all at once."""
        return super().prior(x, lengths, Past(known=self.read(from_start(x, self.blank()))[..., :-1, :]))

    def transition(self, z_prev: Tensor, x_prev: Tensor | None, memo: Past | None) -> Step:
        """p(z_t | z_{<t}, x_{<t}) = p(z_t | h_t)."""
        past, later = memo or Past(), None
        if past.known is not None:
            now, later = past.known.tensor_split([z_prev.shape[-2]], -2)
        else:
            assert x_prev is not None
            now = self.read(x_prev)
        h, state = self.memory(join(now, z_prev), past.state)
        return gaussian(self.drift(h)), Past(h, state, later)

    def emission(self, z: Tensor, x_prev: Tensor | None, memo: Past) -> Step:
        """p(x_t | z_{≤t}, x_{<t}) = p(x_t | z_t, h_t)."""
        return self.head(self.decoder(join(z, memo.h))), memo


class GeneralGuide(Guide):
    r"""A forward recursion on what has been, a backward one on what is to come.

    .. math::
        \overrightarrow h_t &= \tanh(W [x_{t-1}, z_{t-1}] + U \overrightarrow h_{t-1} + b) \\
        \overleftarrow g_t &= \tanh(W' x_t + U' \overleftarrow g_{t+1} + b') \\
        q(z_t \mid z_{<t}, x_{1:T}) &= \mathcal N(μ(\overrightarrow h_t, \overleftarrow g_t),
            \operatorname{diag} σ^2(\overrightarrow h_t, \overleftarrow g_t))

    The forward recursion has the form of the model's, but weights of its own: a guide that held the
    model's could be neither copied and fine-tuned nor used with another model.

    Args:
        model: whose latent it infers. sees: what the paper lets it see.
        hidden: H of both recursions.
        after: sizes of dense tanh layers on the two together; one of size H unless given.

    Source: Girin et al. (2021), §4.
    """

    def __init__(
        self, model: DVAE, sees: Sees, hidden: int = 128, *, after: Sequence[int] | None = None
    ) -> None:
        super().__init__(model, sees)
        sizes = [2 * hidden, *([hidden] if after is None else after)]
        self.config = {"hidden": hidden, "after": sizes[1:]}
        self.memory = Memory(model.observed + model.latent, hidden, cell="rnn")
        self.summary = Summary(model.observed, hidden, "backward", cell="rnn")
        self.combined = mlp(sizes)
        self.head = nn.Linear(sizes[-1], 2 * model.latent)

    def context(self, x: Tensor, lengths: Tensor | None, shared: Any) -> Tensor:
        """W x_{t-1} + b, which is no work per frame, and g_t, side by side."""
        y = self.read(from_start(x, self.read.blank()))
        weight, _, *biases = self.memory.rnn.all_weights[0]
        said = nn.functional.linear(y, weight[:, : self.observed], torch.add(*biases))
        return torch.cat([said[..., :-1, :], self.summary(y[..., 1:, :], lengths)], -1)

    def conditional(self, z_prev: Tensor, context: Tensor | None, memo: Any) -> Step:
        """q(z_t | z_{<t}, x_{1:T}) on a window."""
        assert context is not None
        said, g = context.chunk(2, -1)
        if memo is None:  # W's columns for z are cut out once for all windows, which gives one gradient
            weight, again, *_ = self.memory.rnn.all_weights[0]
            memo = torch.zeros_like(said[..., :1, :]), weight[:, self.observed :], again
        h, weight, again = memo
        path = []
        for u in (said + nn.functional.linear(z_prev, weight)).split(1, -2):
            h = (u + nn.functional.linear(h, again)).tanh()
            path.append(h)
        return gaussian(self.head(self.combined(join(torch.cat(path, -2), g)))), (h, weight, again)
