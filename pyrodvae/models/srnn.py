"""SRNN: a state space model beside a memory of the frames."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from pyrodvae.dvae import DVAE
from pyrodvae.guide import Guide, Sees
from pyrodvae.nets import Memory, Summary, from_start, gaussian, join, mlp, tail
from pyrodvae.observations import DATA, make_features, make_head
from pyrodvae.once import once
from pyrodvae.rollout import Rollout, Step


class Past(NamedTuple):
    """What an SRNN carries along.

    Args:
        h: on the last window, (..., L, H); None before the first.
        state: of the LSTM; or, where all frames are known, h of all those still to come.
    """

    h: Any = None
    state: Any = None


class SRNN(DVAE):
    r"""The stochastic recurrent neural network: latents Markov in z, given a memory of the frames.

    .. math::
        h_t &= \overrightarrow{\mathrm{LSTM}}(\mathrm{MLP}(x_{0:t-1})), \qquad x_0 \text{ blank} \\
        z_t \mid z_{t-1}, x_{<t} &\sim
            \mathcal N(μ_θ(h_t, z_{t-1}), \operatorname{diag} σ_θ^2(h_t, z_{t-1})) \\
        x_t \mid z_t, x_{<t} &\sim \mathcal N_c(0, \operatorname{diag} v_θ(h_t, z_t))

    The exact posterior of z_t depends on z_{t-1} and x_{1:T}.

    **On its own.** In noise the clean x_{<t} are not there to be read. With :attr:`own_share` = 1 the
    memory reads in their place what the decoder itself said of them, the frame of power v_θ(h, z)
    (the mean, for real data). That is another model: nothing of x feeds back, x_t depends on z_{1:t},
    and each frame has to wait for the one before. With a share between, each frame (of all sequences)
    is one or the other by chance: scheduled sampling, which leads training from one to the other.
    While its weights are trained no gradient passes through what it reads of its own, as published;
    with frozen weights the gradient in z is whole. With a share between, the density is itself drawn by
    chance, and is no target for engines.

    Args:
        observed: F. latent: D. hidden: H of the LSTM, and in proportion to it the sizes of the dense
            tanh layers, unless given:
        before: on x.
        drift, after: on (h_t, z_{t-1}) towards z_t, and on (h_t, z_t) towards x_t.
        layers: of the LSTM.
        own_share: how often the memory reads the model's own output in place of the frame, 0 to 1.
        data: kind of data, see :mod:`pyrodvae.observations`.

    Raises:
        ValueError: the share is no number from 0 to 1.

    Source: Fraccaro et al., *Sequential Neural Models with Stochastic Layers* (2016); sizes of the
    published speech weights. Scheduled sampling: Bengio et al. (2015).
    """

    def __init__(
        self,
        observed: int = 513,
        latent: int = 16,
        hidden: int = 128,
        *,
        layers: int = 1,
        before: Sequence[int] | None = None,
        drift: Sequence[int] | None = None,
        after: Sequence[int] | None = None,
        own_share: float = 0.0,
        data: str = "speech",
    ) -> None:
        super().__init__(observed, latent, data)
        before = [2 * hidden] if before is None else [*before]
        drift = [max(1, hidden // k) for k in (2, 4)] if drift is None else [*drift]
        after = [2 * hidden] if after is None else [*after]
        self.config |= {"hidden": hidden, "layers": layers}
        self.config |= {"before": before, "drift": drift, "after": after}
        self.own_share = own_share
        self.read = make_features(data, observed)
        self.dense = mlp([observed, *before])
        self.memory = Memory([observed, *before][-1], hidden, layers)
        both = hidden + latent
        self.drift = nn.Sequential(*mlp([both, *drift]), nn.Linear([both, *drift][-1], 2 * latent))
        self.decoder = mlp([both, *after])
        self.head = make_head(data, [both, *after][-1], observed)

    @property
    def own_share(self) -> float:
        """How often the memory reads the model's own output; it can be set, and belongs to the card."""
        return float(self.config["own_share"])

    @own_share.setter
    def own_share(self, share: float) -> None:
        if not 0 <= share <= 1:
            raise ValueError(f"own_share has to be from 0 to 1, not {share}.")
        self.config["own_share"] = share

    @property
    def feedback(self) -> bool:  # type: ignore[override]
        """Whether x_{<t} is looked at: not by a model on its own."""
        return self.own_share < 1

    @property
    def reach(self) -> int | None:  # type: ignore[override]
        """How many later frames z_t enters: the next, unless the memory reads the model's own output."""
        return 1 if self.own_share == 0 else None

    def reading_frames(self) -> SRNN:
        """The same model, parameters and all, with share 0."""
        other = copy.copy(self)
        other.config = self.config | {"own_share": 0.0}
        return other

    def prior(self, x: Tensor, lengths: Tensor | None = None, memo: Any = None) -> Rollout:
        """p(z_{1:T} | x_{<T}); with the frames known, so is h, whatever the path."""
        known = heard(self, x)[1] if self.own_share == 0 else None
        return super().prior(x, lengths, Past(state=known))

    def transition(self, z_prev: Tensor, x_prev: Tensor | None, memo: Past | None) -> Step:
        """p(z_t | z_{t-1}, x_{<t})."""
        past = memo or Past()
        if isinstance(past.state, Tensor):
            frames = z_prev.shape[-2]
            past = Past(past.state[..., :frames, :], past.state[..., frames:, :])
        elif x_prev is not None and self.own_share == 0:
            past = Past(*self.memory(self.dense(self.read(x_prev)), past.state))
        else:
            past = self._on_its_own(z_prev, x_prev, past)
        return gaussian(self.drift(join(past.h, z_prev))), past

    def emission(self, z: Tensor, x_prev: Tensor | None, memo: Past) -> Step:
        """p(x_t | z_t, x_{<t})."""
        return self.head(self.decoder(join(memo.h, z))), memo

    def _on_its_own(self, z_prev: Tensor, x_prev: Tensor | None, past: Past) -> Past:
        """The memory reads the model's own output, always or by chance: frame by frame."""
        h, state = past
        path: list[Tensor] = []
        for t in range(z_prev.shape[-2]):
            if x_prev is None or float(torch.rand(())) < self.own_share:
                x = self._own(z_prev[..., t : t + 1, :], None if h is None else h[..., -1:, :])
            else:
                x = x_prev[..., t : t + 1, :]
            h, state = self.memory(self.dense(self.read(x)), state)
            path.append(h)
        return Past(torch.cat(path, -2), state)

    def _own(self, z: Tensor, h: Tensor | None) -> Tensor:
        """The frame that stands for p(x_{t-1} | z_{t-1}, h_{t-1}): √v, whose power is v, or the mean."""
        if h is None:
            return self.before_first(*z.shape[:-1])
        frozen = not next(self.head.parameters()).requires_grad
        with torch.set_grad_enabled(frozen and torch.is_grad_enabled()):
            p_x = self.head(self.decoder(join(h, z)))
            if DATA[self.data][0].is_complex:
                return p_x.variance.sqrt().to(z.dtype.to_complex())
            mean: Tensor = p_x.mean
            return mean


@once
def heard(model: SRNN, x: Tensor) -> tuple[Tensor, Tensor]:
    """What networks read of the frames x (B, T, F), and h of them, (B, T, H): guide and model both ask."""
    y = model.read(from_start(x, model.blank()))
    return y[..., 1:, :], model.memory(model.dense(y[..., :-1, :]))[0]


class SRNNGuide(Guide):
    r"""The encoder of the SRNN's paper, on the model's own memory of the frames.

    .. math::
        g_t &= \overleftarrow{\mathrm{LSTM}}(\mathrm{MLP}([h_{t:T}, x_{t:T}])) \\
        q(z_t \mid z_{t-1}, x_{1:T}) &= \mathcal N(μ(c_t), \operatorname{diag} σ^2(c_t)), \qquad
            c_t = \mathrm{MLP}([g_t, z_{t-1}])

    h is the model's, and always of the frames x themselves: its parameters belong to the model, and
    model and guide both train them.

    Args:
        model: the SRNN. sees: what the paper lets it see.
        hidden: H of the backward LSTM, and in proportion to it the sizes of the dense tanh layers,
            unless given:
        before, after: on (h, x), and on (g, z).
        layers: of the LSTM.

    Source: as :class:`SRNN`.
    """

    def __init__(
        self,
        model: SRNN,
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
        del self.read  # it sees with the model's eyes
        self.of_model = (model,)  # in a tuple, a module is not registered: its parameters stay its own
        sizes = [model.config["hidden"] + model.observed, *before]
        self.dense = mlp(sizes)
        self.summary = Summary(sizes[-1], hidden, "backward", layers)
        ends = [*after, 2 * model.latent]
        self.from_g = nn.Linear(hidden, ends[0])
        self.from_z = nn.Linear(model.latent, ends[0], bias=False)
        self.tail = tail(ends)

    def context(self, x: Tensor, lengths: Tensor | None, shared: Any) -> Tensor:
        """The first layer of c_t on g_t: linear, so this part of it stays outside the loop over frames."""
        (model,) = self.of_model
        y, h = heard(model, x)
        context: Tensor = self.from_g(self.summary(self.dense(join(h, y)), lengths))
        return context

    def conditional(self, z_prev: Tensor, context: Tensor | None, memo: Any) -> Step:
        """q(z_t | z_{t-1}, x_{1:T}) on a window."""
        assert context is not None
        return gaussian(self.tail(context + self.from_z(z_prev))), memo
