"""VRNN: one memory of the past, z and x alike, for the latents, the frames and the encoder."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from pyrodvae.dvae import DVAE
from pyrodvae.guide import Guide, Sees
from pyrodvae.nets import Memory, gaussian, join, mlp, shift, tail
from pyrodvae.observations import make_features, make_head
from pyrodvae.once import once
from pyrodvae.rollout import Rollout, Step


class Past(NamedTuple):
    """What a VRNN and its guide carry along.

    Args:
        h: on the last window, (..., L, H); None before the first.
        state: of the LSTM.
        known: φ_x(x_{t-1}) of all frames still to come, where they are known.
    """

    h: Any = None
    state: Any = None
    known: Any = None


class VRNN(DVAE):
    r"""The variational recurrent neural network: latents and frames that depend on all of the past.

    .. math::
        h_t &= \overrightarrow{\mathrm{LSTM}}([φ_x(x_{1:t-1}), φ_z(z_{1:t-1})]), \qquad h_1 = 0 \\
        z_t \mid z_{<t}, x_{<t} &\sim \mathcal N(μ_θ(h_t), \operatorname{diag} σ_θ^2(h_t)) \\
        x_t \mid z_{1:t}, x_{<t} &\sim \mathcal N_c(0, \operatorname{diag} v_θ(φ_z(z_t), h_t))

    with dense layers φ. The exact posterior of z_t depends on z_{<t} and x_{1:T}.

    Args:
        observed: F. latent: D. hidden: H of the LSTM, and in proportion to it the sizes of the dense
            tanh layers, unless given:
        before, z_before: φ_x and φ_z.
        drift, after: of those that follow h towards z_t, and (φ_z(z_t), h) towards x_t.
        layers: of the LSTM; the last one's state is h.
        data: kind of data, see :mod:`pyrodvae.observations`.

    Source: Chung et al., *A Recurrent Latent Variable Model for Sequential Data* (2015); sizes of the
    published speech weights.
    """

    def __init__(
        self,
        observed: int = 513,
        latent: int = 16,
        hidden: int = 128,
        *,
        layers: int = 1,
        before: Sequence[int] | None = None,
        z_before: Sequence[int] | None = None,
        drift: Sequence[int] = (),
        after: Sequence[int] = (),
        data: str = "speech",
    ) -> None:
        super().__init__(observed, latent, data)
        before = [2 * hidden] if before is None else [*before]
        z_before = [max(1, hidden * k // 4) for k in (1, 2)] if z_before is None else [*z_before]
        self.config |= {"hidden": hidden, "layers": layers, "before": before, "z_before": z_before}
        self.config |= {"drift": [*drift], "after": [*after]}
        self.read = make_features(data, observed)
        self.x_dense, self.z_dense = mlp([observed, *before]), mlp([latent, *z_before])
        z_size = [latent, *z_before][-1]
        self.memory = Memory([observed, *before][-1] + z_size, hidden, layers)
        self.drift = nn.Sequential(*mlp([hidden, *drift]), nn.Linear([hidden, *drift][-1], 2 * latent))
        sizes = [z_size + hidden, *after]
        self.decoder = mlp(sizes)
        self.head = make_head(data, sizes[-1], observed)

    def prior(self, x: Tensor, lengths: Tensor | None = None, memo: Any = None) -> Rollout:
        """p(z_{1:T} | x_{<T}); with the frames known, so is all that is read of them."""
        prior = super().prior(x, lengths, Past(known=shift(heard(self, x))))
        prior.history = self, x
        return prior

    def transition(self, z_prev: Tensor, x_prev: Tensor | None, memo: Past | list[Past] | None) -> Step:
        """p(z_t | z_{<t}, x_{<t})."""
        y = known = None
        if isinstance(memo, Past) and memo.known is not None:
            y, known = memo.known.tensor_split([z_prev.shape[-2]], -2)
        elif not isinstance(memo, list):
            assert x_prev is not None
            y = self.x_dense(self.read(x_prev))
        past = self.remember(y, z_prev, memo)._replace(known=known)
        return gaussian(self.drift(past.h)), past

    def emission(self, z: Tensor, x_prev: Tensor | None, memo: Past) -> Step:
        """p(x_t | z_{1:t}, x_{<t})."""
        return self.head(self.decoder(join(self.z_dense(z), memo.h))), memo

    def remember(self, y_prev: Tensor | None, z_prev: Tensor, memo: Past | list[Past] | None) -> Past:
        """h on a window, from φ_x(x_{t-1}) and z_{t-1}; their first entries stand for no frame at all.

        A list of memos has h of all frames already.
        """
        if isinstance(memo, list):
            return Past(torch.cat([past.h for past in memo], -2))
        assert y_prev is not None
        u = join(y_prev, self.z_dense(z_prev))
        if memo is not None and memo.h is not None:
            return Past(*self.memory(u, memo.state))
        nothing = torch.zeros(*u.shape[:-2], 1, self.config["hidden"], dtype=u.dtype, device=u.device)
        if u.shape[-2] == 1:
            return Past(nothing)
        h, state = self.memory(u[..., 1:, :])
        return Past(torch.cat([nothing, h], -2), state)


@once
def heard(model: VRNN, x: Tensor) -> Tensor:
    """φ_x of the frames x (B, T, F): guide and model both ask for it."""
    y: Tensor = model.x_dense(model.read(x))
    return y


class VRNNGuide(Guide):
    r"""The encoder of the VRNN's paper, on the model's own memory.

    .. math:: q(z_t \mid z_{<t}, x_{1:t}) = \mathcal N(μ(c_t), \operatorname{diag} σ^2(c_t)), \qquad
        c_t = \mathrm{MLP}([φ_x(x_t), h_t])

    φ and h are the model's, fed with the z that is being drawn: these parameters belong to the model,
    and model and guide both train them.

    Args:
        model: the VRNN. sees: what the paper lets it see.
        hidden: accepted as by every guide, and without effect: H is the model's.
        after: sizes of the dense tanh layers.

    Source: as :class:`VRNN`.
    """

    def __init__(self, model: VRNN, sees: Sees, hidden: int = 128, *, after: Sequence[int] = ()) -> None:
        super().__init__(model, sees)
        del self.read  # it sees with the model's eyes
        self.config = {"after": [*after]}
        self.of_model = (model,)  # in a tuple, a module is not registered: its parameters stay its own
        self.x_size = [model.observed, *model.config["before"]][-1]
        ends = [*after, 2 * model.latent]
        self.from_x = nn.Linear(self.x_size, ends[0])
        self.from_h = nn.Linear(model.config["hidden"], ends[0], bias=False)
        self.tail = tail(ends)

    def posterior(self, x: Tensor, lengths: Tensor | None = None, shared: Any = None) -> Rollout:
        """q(z_{1:T} | x), which shares h with the prior."""
        posterior = super().posterior(x, lengths, shared)
        posterior.history = self.of_model[0], x
        return posterior

    def context(self, x: Tensor, lengths: Tensor | None, shared: Any) -> Tensor:
        """φ_x(x_{t-1}), and the first layer of c_t on φ_x(x_t): linear, so that part is no work per frame."""
        y = heard(self.of_model[0], x)
        return torch.cat([shift(y), self.from_x(y)], -1)

    def conditional(self, z_prev: Tensor, context: Tensor | None, memo: Any) -> Step:
        """q(z_t | z_{<t}, x_{1:t}) on a window."""
        assert context is not None
        y_prev, of_x = context.tensor_split([self.x_size], -1)
        past = self.of_model[0].remember(y_prev, z_prev, memo)
        return gaussian(self.tail(of_x + self.from_h(past.h))), past
