"""A VAE that selects the dimensions of its latent by a fixed rule: a sparse code from a Gaussian."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import NormalDist
from typing import Any, ClassVar

from torch import Tensor

from pyrodvae.dvae import DVAE
from pyrodvae.nets import mlp, standard_normal
from pyrodvae.observations import make_head
from pyrodvae.rollout import Step


class SelectorVAE(DVAE):
    r"""The frame-wise VAE whose decoder hears only the dimensions that are loud.

    .. math::
        z_t &\sim \mathcal N(0, I) \\
        c_t &= z_t \odot \operatorname{sigmoid}\big((|z_t| - τ) / w\big) \\
        x_t \mid z_t &\sim \mathcal N_c(0, \operatorname{diag} v_θ(c_t))

    The selector is deterministic, so the prior and all engines are those of the VAE; a coordinate of the
    code is next to nothing with probability erf(τ / √2). It is smooth, so gradients find their way out of
    that, too. The exact posterior of z_t depends on x_t alone.

    Args:
        observed: F. latent: D.
        hidden: size of the decoder's tanh layer; or dense: the sizes of several.
        alpha: how probable it is under the prior that a coordinate is heard; τ follows from it.
        width: w.
        data: kind of data, see :mod:`pyrodvae.observations`.

    Raises:
        ValueError: α is no probability between 0 and 1, or w not positive.

    Source: thresholds on latents, Fallah & Rozell, *Variational sparse coding with learned
    thresholding* (ICML 2022), here smooth and given.
    """

    feedback: ClassVar[bool] = False
    recursive: ClassVar[bool] = False
    reach: ClassVar[int | None] = 0

    def __init__(
        self,
        observed: int = 513,
        latent: int = 32,
        hidden: int = 128,
        *,
        alpha: float = 0.2,
        width: float = 0.2,
        dense: Sequence[int] | None = None,
        data: str = "speech",
    ) -> None:
        super().__init__(observed, latent, data)
        if not 0 < alpha < 1:
            raise ValueError(f"alpha is a probability between 0 and 1, not {alpha}.")
        if not width > 0:
            raise ValueError(f"width must be positive, not {width}.")
        self.threshold, self.width = NormalDist().inv_cdf(1 - alpha / 2), width
        sizes = [latent, *([hidden] if dense is None else dense)]
        self.config |= {"alpha": alpha, "width": width, "dense": sizes[1:]}
        self.decoder = mlp(sizes)
        self.head = make_head(data, sizes[-1], observed)

    def code(self, z: Tensor) -> Tensor:
        """c, what is left of z."""
        return z * ((z.abs() - self.threshold) / self.width).sigmoid()

    def transition(self, z_prev: Tensor, x_prev: Tensor | None, memo: Any) -> Step:
        """p(z_t) = N(0, I)."""
        return standard_normal(z_prev), memo

    def emission(self, z: Tensor, x_prev: Tensor | None, memo: Any) -> Step:
        """p(x_t | c_t)."""
        return self.head(self.decoder(self.code(z))), memo
