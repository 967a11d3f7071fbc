"""MIN-VAE: one decoder, and two inference networks of which one is right."""

from __future__ import annotations

from typing import Any

import torch
from pyro.distributions import TorchDistribution
from torch import Tensor, nn
from torch.nn.functional import logsigmoid

from pyrodvae.av_mixture import AVMixture
from pyrodvae.distributions import DiagonalNormal
from pyrodvae.dvae import Video
from pyrodvae.either import Two
from pyrodvae.guide import RecurrentGuide, Sees
from pyrodvae.lips import LipReader, Lips, Reader
from pyrodvae.mixture_guide import MixtureGuide
from pyrodvae.nets import join, mlp
from pyrodvae.observations import make_head


class MINVAE(AVMixture):
    r"""The VAE with a mixture of inference networks, of audio and of lips.

    .. math::
        α_t &\sim \mathrm{Bern}(π) \\
        z_t \mid α_t &\sim \begin{cases} \mathcal N(μ_a, σ_a^2 I) & α_t = 1 \\
            \mathcal N(μ_v, σ_v^2 I) & α_t = 0 \end{cases} \\
        x_t \mid z_t, v_t &\sim \mathcal N_c(0, \operatorname{diag} v_θ(z_t, v_t))

    or v_θ(z_t) with ``sees=False``, with the guides q(z_t | x_t)^α q(z_t | v_t)^{1-α} r(α_t). Given those
    two, the best r(α) is known: with J(α) = KL(q_α ‖ p_α) − E[log p(x_t | z_t)],

    .. math:: π_t = r(α_t = 1) = σ(J_t(0) - J_t(1) + \log \tfrac{π}{1 - π}), \qquad
        \text{and the bound is} \quad \sum_t \log \sum_α π_α e^{-J_t(α)}

    so nothing has to be kept for the corpus: every minibatch has its own π_t. The gradient of the bound in
    log π/(1 − π), a parameter like any other, is Σ_t (π_t − π): it is zero at the mean of all π_t.

    The exact posterior of (α_t, z_t) depends on x_t, and on v_t where the decoder sees it.

    Args:
        observed: F. latent: D. hidden: size of the decoder's tanh layer.
        sees: whether the decoder sees the lips.
        video, reader, embedding: V, and what reads the lips for it; see :mod:`pyrodvae.lips`.
        data: kind of data, see :mod:`pyrodvae.observations`.

    Source: Sadeghi & Alameda-Pineda, *Mixture of inference networks for VAE-based audio-visual speech
    enhancement* (2021).
    """

    def __init__(
        self,
        observed: int = 513,
        latent: int = 16,
        hidden: int = 128,
        *,
        sees: bool = True,
        video: int = 1024,
        reader: Reader = "conv",
        embedding: int = 64,
        data: str = "speech",
    ) -> None:
        super().__init__(observed, latent, data)
        self.video, self.sees = video, sees
        self.config |= {"hidden": hidden, "sees": sees}
        self.config |= {"video": video, "reader": reader, "embedding": embedding}
        self.loc = nn.Parameter(0.1 * torch.randn(2, latent))
        self.log_scale = nn.Parameter(torch.zeros(2))
        self.log_odds = nn.Parameter(torch.zeros(()))
        if sees:
            self.lips = LipReader(video, embedding, reader)
        self.decoder = mlp([latent + embedding * sees, hidden])
        self.head = make_head(data, hidden, observed)

    def read(self, batch: int, v: Video) -> Two[Any]:
        """The decoder reads the lips, if it sees them."""
        return Two(None, Lips.read(self.lips, v) if self.sees else None)

    def priors(self, z_prev: Two[Tensor], parts: Two[Any]) -> tuple[Two[TorchDistribution], Two[Any]]:
        """N(μ_a, σ_a² I) and N(μ_v, σ_v² I)."""

        def prior(i: int, like: Tensor) -> TorchDistribution:
            loc = self.loc[i].expand(like.shape)
            return DiagonalNormal(loc, self.log_scale[i].exp().expand(like.shape), validate_args=False)

        if self.sees:
            parts = parts._replace(visual=parts.visual.take(z_prev.audio.shape[-2]))
        return Two(prior(0, z_prev.audio), prior(1, z_prev.visual)), parts

    def decode(self, z: Two[Tensor], parts: Two[Any]) -> Two[TorchDistribution]:
        """By the one decoder: once, where there is one z."""
        audio = self._decode(z.audio, parts)
        return Two(audio, audio if z.audio is z.visual else self._decode(z.visual, parts))

    def _decode(self, z: Tensor, parts: Two[Any]) -> TorchDistribution:
        p_x: TorchDistribution = self.head(self.decoder(join(z, parts.visual.now) if self.sees else z))
        return p_x

    def weigh(self, costs: Two[Tensor], log_odds: Tensor) -> tuple[Two[Tensor], Tensor]:
        """r(α) in closed form, a constant of the gradient as it is optimal; and KL(r ‖ π)."""
        own = (costs.visual - costs.audio + log_odds).detach()
        r = Two(own.sigmoid(), (-own).sigmoid())
        prior = Two(logsigmoid(log_odds), logsigmoid(-log_odds))
        kl = -sum(torch.special.entr(r_α) + r_α * log_π for r_α, log_π in zip(r, prior, strict=True))
        return r, torch.as_tensor(kl)


class MINGuide(MixtureGuide):
    """One encoder of what is heard, q(z_t | x_t), and one of what is seen, q(z_t | v_t).

    Args:
        model: the MIN-VAE. sees: what the paper lets them see, in all.
        hidden: as of both; or audio, visual: their sizes, by the names of their constructor.
    """

    def __init__(
        self,
        model: MINVAE,
        sees: Sees,
        hidden: int = 128,
        *,
        audio: dict[str, Any] | None = None,
        visual: dict[str, Any] | None = None,
    ) -> None:
        super().__init__(
            model,
            sees,
            RecurrentGuide(model, Sees(), **(audio or {"hidden": hidden})),
            RecurrentGuide(model, Sees(audio=False, video=True), **(visual or {"hidden": hidden})),
        )
