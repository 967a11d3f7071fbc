"""AV-switch: one audio-visual VAE, which looks at a picture of the lips or does not."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from pyro.distributions import TorchDistribution
from torch import Tensor

from pyrodvae.av_mixture import AVMixture
from pyrodvae.dvae import Video
from pyrodvae.either import Two
from pyrodvae.guide import RecurrentGuide, Sees
from pyrodvae.lips import Reader
from pyrodvae.mixture_guide import MixtureGuide
from pyrodvae.models.av_vae import AVVAE, AVGuide


class AVSwitch(AVMixture):
    r"""The mixture of an AV-VAE with itself, its lips taken away.

    .. math::
        α_t &\sim \mathrm{Bern}(π) \\
        z_t \mid α_t, v_t &\sim p_θ(z_t \mid \tilde v_t), \qquad
        x_t \mid z_t, α_t, v_t \sim p_θ(x_t \mid z_t, \tilde v_t), \qquad
        \tilde v_t = \begin{cases} \text{missing} & α_t = 1 \\ v_t & α_t = 0 \end{cases}

    A VAE-MM compares two networks that were trained apart, and what they differ in hides what a picture
    is worth. Here both readings are by one network, which has learned what to think of a missing picture
    (``drop_share``), and have one latent space: a z that explains x does so in both, and the odds of α are
    those of the lips alone. Any trained AV-VAE is one, see :func:`pyrodvae.mixed_runs.switch`. The exact
    posterior of (α_t, z_t) depends on x_t and v_t.

    Args:
        observed, latent, hidden, dense, mixed, video, reader, embedding, data: as of the AV-VAE.

    Source: ours; the mixture of two networks is Sadeghi & Alameda-Pineda (2020).
    """

    prior_share: ClassVar[float] = AVVAE.prior_share

    def __init__(
        self,
        observed: int = 513,
        latent: int = 16,
        hidden: int = 128,
        *,
        dense: Sequence[int] | None = None,
        mixed: Sequence[int] | None = None,
        video: int = 1024,
        reader: Reader = "conv",
        embedding: int = 64,
        data: str = "speech",
    ) -> None:
        super().__init__(observed, latent, data)
        self.video = video
        self.both = AVVAE(
            observed,
            latent,
            hidden,
            dense=dense,
            mixed=mixed,
            video=video,
            reader=reader,
            embedding=embedding,
            data=data,
        )
        self.config = self.both.config
        self.register_buffer("log_odds", torch.zeros(()))

    def read(self, batch: int, v: Video) -> Two[Any]:
        """The network reads the lips; and pictures that are missing."""
        return Two(self.both.begin(batch, _missing(v)), self.both.begin(batch, v))

    def priors(self, z_prev: Two[Tensor], parts: Two[Any]) -> tuple[Two[TorchDistribution], Two[Any]]:
        """p(z_t) and p(z_t | v_t) of the AV-VAE."""
        audio, of_audio = self.both.transition(z_prev.audio, None, parts.audio)
        visual, of_visual = self.both.transition(z_prev.visual, None, parts.visual)
        return Two(audio, visual), Two(of_audio, of_visual)

    def decode(self, z: Two[Tensor], parts: Two[Any]) -> Two[TorchDistribution]:
        """p(x_t | z_t) and p(x_t | z_t, v_t) of the AV-VAE."""
        audio, _ = self.both.emission(z.audio, None, parts.audio)
        visual, _ = self.both.emission(z.visual, None, parts.visual)
        return Two(audio, visual)

    def weigh(self, costs: Two[Tensor], log_odds: Tensor) -> tuple[Two[Tensor], Tensor]:
        """The network is trained on every frame with and without its picture, and there is no coin."""
        half = torch.full_like(costs.audio, 0.5)
        return Two(half, half), torch.zeros_like(costs.audio)


class AVSwitchGuide(MixtureGuide):
    """The encoder of the AV-VAE, with its lips or without them.

    Args:
        model: the AV-switch. sees: what the paper lets the encoder see.
        hidden, after, reader, embedding: as of the AV-VAE's guide.
    """

    def __init__(
        self,
        model: AVSwitch,
        sees: Sees,
        hidden: int = 128,
        *,
        after: Sequence[int] | None = None,
        reader: Reader = "conv",
        embedding: int = 64,
    ) -> None:
        encoder = AVGuide(model.both, sees, hidden, after=after, reader=reader, embedding=embedding)
        super().__init__(model, sees, encoder, encoder)
        del self._modules["audio"]  # it is one network: its weights are to be saved once
        self.config = encoder.config

    @property
    def audio(self) -> RecurrentGuide:  # type: ignore[override]
        """The same encoder."""
        encoder: RecurrentGuide = self.visual
        return encoder


def _missing(v: Video) -> Video:
    """A video of as many frames, none of which is there: made of sizes alone."""
    if v is None:
        return None
    if isinstance(v, Tensor):
        return torch.full(v.shape, math.nan, dtype=v.dtype, device=v.device)
    return [torch.full(v_t.shape, math.nan, dtype=v_t.dtype, device=v_t.device) for v_t in v]
