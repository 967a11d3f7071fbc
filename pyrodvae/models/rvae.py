"""RVAE: independent latents, a decoder with memory; causal and non-causal."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

from torch import Tensor

from pyrodvae.dvae import DVAE
from pyrodvae.nets import Memory, Summary, mlp, standard_normal
from pyrodvae.observations import make_head
from pyrodvae.rollout import Step


class RVAE(DVAE):
    r"""The non-causal recurrent VAE: every frame sees all of the latent path.

    .. math::
        z_t &\sim \mathcal N(0, I) \\
        h_t &= [\overrightarrow{\mathrm{LSTM}}(z_{1:t}), \overleftarrow{\mathrm{LSTM}}(z_{t:T})] \\
        x_t \mid z_{1:T} &\sim \mathcal N_c(0, \operatorname{diag} v_θ(h_t))

    The exact posterior of z_t depends on z_{<t} and on all of x_{1:T}.

    Args:
        observed: F. latent: D. hidden: H of each direction. layers: of the LSTM.
        before, after: sizes of dense tanh layers on either side of it.
        data: kind of data, see :mod:`pyrodvae.observations`.

    Source: Leglaive, Alameda-Pineda, Girin & Horaud, *A Recurrent Variational Autoencoder for
    Speech Enhancement* (ICASSP 2020).
    """

    causal: ClassVar[bool] = False
    feedback: ClassVar[bool] = False
    recursive: ClassVar[bool] = False

    def __init__(
        self,
        observed: int = 513,
        latent: int = 16,
        hidden: int = 128,
        *,
        layers: int = 1,
        before: Sequence[int] = (),
        after: Sequence[int] = (),
        data: str = "speech",
    ) -> None:
        super().__init__(observed, latent, data)
        self.config |= {"hidden": hidden, "layers": layers, "before": [*before], "after": [*after]}
        self.dense = mlp([latent, *before])
        self.memory = Summary([latent, *before][-1], hidden, "both", layers)
        self.decoder = mlp([self.memory.size, *after])
        self.head = make_head(data, [self.memory.size, *after][-1], observed)

    def transition(self, z_prev: Tensor, x_prev: Tensor | None, memo: Any) -> Step:
        """p(z_t) = N(0, I)."""
        return standard_normal(z_prev), memo

    def emission(self, z: Tensor, x_prev: Tensor | None, memo: Any) -> Step:
        """p(x_t | z_{1:T}); the memo is the lengths of the sequences."""
        return self.head(self.decoder(self.memory(self.dense(z), memo))), memo


class CausalRVAE(DVAE):
    r"""The causal recurrent VAE: a frame sees the latent path up to itself.

    .. math::
        z_t &\sim \mathcal N(0, I) \\
        h_t &= \overrightarrow{\mathrm{LSTM}}(z_{1:t}) \\
        x_t \mid z_{1:t} &\sim \mathcal N_c(0, \operatorname{diag} v_θ(h_t))

    The exact posterior of z_t depends on z_{<t} and on x_{t:T}: the generative model is causal, its
    inference is not.

    Args:
        observed, latent, hidden, layers, before, after, data: as of :class:`RVAE`.

    Source: as :class:`RVAE`.
    """

    feedback: ClassVar[bool] = False
    recursive: ClassVar[bool] = False

    def __init__(
        self,
        observed: int = 513,
        latent: int = 16,
        hidden: int = 128,
        *,
        layers: int = 1,
        before: Sequence[int] = (),
        after: Sequence[int] = (),
        data: str = "speech",
    ) -> None:
        super().__init__(observed, latent, data)
        self.config |= {"hidden": hidden, "layers": layers, "before": [*before], "after": [*after]}
        self.dense = mlp([latent, *before])
        self.memory = Memory([latent, *before][-1], hidden, layers)
        self.decoder = mlp([hidden, *after])
        self.head = make_head(data, [hidden, *after][-1], observed)

    def transition(self, z_prev: Tensor, x_prev: Tensor | None, memo: Any) -> Step:
        """p(z_t) = N(0, I)."""
        return standard_normal(z_prev), memo

    def emission(self, z: Tensor, x_prev: Tensor | None, memo: Any) -> Step:
        """p(x_t | z_{1:t}), the past of z in the memo."""
        h, memo = self.memory(self.dense(z), memo)
        return self.head(self.decoder(h)), memo
