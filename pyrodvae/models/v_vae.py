"""V-VAE: the speech model of the VAE, whose guide reads lips alone."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from pyrodvae.dvae import Video
from pyrodvae.models.vae import VAE


class VVAE(VAE):
    r"""A frame-wise VAE of speech that is trained from pictures of the lips.

    .. math::
        z_t &\sim \mathcal N(0, I) \\
        x_t \mid z_t &\sim \mathcal N_c(0, \operatorname{diag} v_θ(z_t)), \qquad
        q(z_t \mid v_t) = \mathcal N(μ_φ(v_t), \operatorname{diag} σ_φ^2(v_t))

    The program is that of the :class:`~pyrodvae.models.vae.VAE`, and its exact posterior of z_t depends
    on x_t alone; but the guide is never shown x, so z is what lips can tell of speech.

    Args:
        observed: F. latent: D. hidden, dense, data: as of the VAE.
        video: V, the size of a picture; see :mod:`pyrodvae.lips`.

    Source: Sadeghi, Leglaive, Alameda-Pineda, Girin & Horaud, *Audio-visual Speech Enhancement Using
    Conditional Variational Auto-Encoders* (2020), "V-VAE".
    """

    def __init__(
        self,
        observed: int = 513,
        latent: int = 16,
        hidden: int = 128,
        *,
        dense: Sequence[int] | None = None,
        video: int = 1024,
        data: str = "speech",
    ) -> None:
        super().__init__(observed, latent, hidden, dense=dense, data=data)
        self.video = video
        self.config |= {"video": video}

    def begin(self, batch: int, v: Video = None) -> Any:
        """Nothing: the video is there for the guide."""
        return ()
