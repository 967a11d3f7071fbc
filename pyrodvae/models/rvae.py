"""RVAE: independent latents, a decoder with memory; causal and non-causal."""

from __future__ import annotations

from typing import Any, ClassVar

from torch import Tensor

from pyrodvae.distributions import Step
from pyrodvae.dvae import DVAE
from pyrodvae.nets import Memory, SpectrumHead, Summary, standard_normal


class RVAE(DVAE):
    r"""The non-causal recurrent VAE: every frame sees all of the latent path.

    .. math::
        z_t &\sim \mathcal N(0, I) \\
        h_t &= [\overrightarrow{\mathrm{LSTM}}(z_{1:t}), \overleftarrow{\mathrm{LSTM}}(z_{t:T})] \\
        x_t \mid z_{1:T} &\sim \mathcal N_c(0, \operatorname{diag} v_θ(h_t))

    The exact posterior of z_t depends on z_{<t} and on all of x_{1:T}.

    Args:
        observed: F. latent: D. hidden: H of each direction.

    Source: Leglaive, Alameda-Pineda, Girin & Horaud, *A Recurrent Variational Autoencoder for
    Speech Enhancement* (ICASSP 2020).
    """

    causal: ClassVar[bool] = False
    feedback: ClassVar[bool] = False
    recursive: ClassVar[bool] = False

    def __init__(self, observed: int = 513, latent: int = 16, hidden: int = 128) -> None:
        super().__init__(observed, latent)
        self.config = {"observed": observed, "latent": latent, "hidden": hidden}
        self.memory = Summary(latent, hidden, "both")
        self.head = SpectrumHead(self.memory.size, observed)

    def transition(self, z_prev: Tensor, x_prev: Tensor | None, memo: Any) -> Step:
        """p(z_t) = N(0, I)."""
        return standard_normal(z_prev), memo

    def emission(self, z: Tensor, x_prev: Tensor | None, memo: Any) -> Step:
        """p(x_t | z_{1:T}); the memo is the lengths of the sequences."""
        return self.head(self.memory(z, memo)), memo

    def fit_statistics(self, x: Tensor) -> None:
        """The decoder starts from the mean spectrum of x."""
        self.head.fit(x)


class CausalRVAE(DVAE):
    r"""The causal recurrent VAE: a frame sees the latent path up to itself.

    .. math::
        z_t &\sim \mathcal N(0, I) \\
        h_t &= \overrightarrow{\mathrm{LSTM}}(z_{1:t}) \\
        x_t \mid z_{1:t} &\sim \mathcal N_c(0, \operatorname{diag} v_θ(h_t))

    The exact posterior of z_t depends on z_{<t} and on x_{t:T}: the generative model is causal, its
    inference is not.

    Args:
        observed: F. latent: D. hidden: H.

    Source: as :class:`RVAE`.
    """

    feedback: ClassVar[bool] = False
    recursive: ClassVar[bool] = False

    def __init__(self, observed: int = 513, latent: int = 16, hidden: int = 128) -> None:
        super().__init__(observed, latent)
        self.config = {"observed": observed, "latent": latent, "hidden": hidden}
        self.memory = Memory(latent, hidden)
        self.head = SpectrumHead(hidden, observed)

    def transition(self, z_prev: Tensor, x_prev: Tensor | None, memo: Any) -> Step:
        """p(z_t) = N(0, I)."""
        return standard_normal(z_prev), memo

    def emission(self, z: Tensor, x_prev: Tensor | None, memo: Any) -> Step:
        """p(x_t | z_{1:t}), the past of z in the memo."""
        h, memo = self.memory(z, memo)
        return self.head(h), memo

    def fit_statistics(self, x: Tensor) -> None:
        """The decoder starts from the mean spectrum of x."""
        self.head.fit(x)
