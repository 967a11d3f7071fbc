"""VAE: every frame on its own."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

from torch import Tensor

from pyrodvae.dvae import DVAE
from pyrodvae.nets import mlp, standard_normal
from pyrodvae.observations import make_head
from pyrodvae.rollout import Step


class VAE(DVAE):
    r"""The frame-wise variational autoencoder of speech spectra.

    .. math::
        z_t &\sim \mathcal N(0, I) \\
        x_t \mid z_t &\sim \mathcal N_c(0, \operatorname{diag} v_θ(z_t))

    The exact posterior of z_t depends on x_t alone.

    Args:
        observed: F. latent: D.
        hidden: size of the decoder's tanh layer; or dense: the sizes of several.
        data: kind of data, see :mod:`pyrodvae.observations`.

    Source: Kingma & Welling 2014; for speech, Leglaive, Girin & Horaud 2018.
    """

    feedback: ClassVar[bool] = False
    recursive: ClassVar[bool] = False
    reach: ClassVar[int | None] = 0

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
        sizes = [latent, *([hidden] if dense is None else dense)]
        self.config |= {"dense": sizes[1:]}
        self.decoder = mlp(sizes)
        self.head = make_head(data, sizes[-1], observed)

    def transition(self, z_prev: Tensor, x_prev: Tensor | None, memo: Any) -> Step:
        """p(z_t) = N(0, I)."""
        return standard_normal(z_prev), memo

    def emission(self, z: Tensor, x_prev: Tensor | None, memo: Any) -> Step:
        """p(x_t | z_t)."""
        return self.head(self.decoder(z)), memo
