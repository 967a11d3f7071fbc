"""VAE-MM: every frame is one of the A-VAE or one of the AV-VAE."""

from __future__ import annotations

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
from pyrodvae.models.vae import VAE


class VAEMM(AVMixture):
    r"""The mixture of an audio and an audio-visual VAE, which trusts the lips where they help.

    .. math::
        α_t &\sim \mathrm{Bern}(π) \\
        z_t \mid α_t, v_t &\sim \begin{cases} \mathcal N(0, I) & α_t = 1 \\
            \mathcal N(μ_θ(v_t), \operatorname{diag} σ_θ^2(v_t)) & α_t = 0 \end{cases} \\
        x_t \mid z_t, α_t, v_t &\sim \begin{cases} \mathcal N_c(0, \operatorname{diag} v_a(z_t)) & α_t = 1 \\
            \mathcal N_c(0, \operatorname{diag} v_{av}(z_t, v_t)) & α_t = 0 \end{cases}

    It is made for test time, of two models trained apart: training a VAE-MM is training both of them
    side by side, by the sum of their objectives, with π = ½ throughout. The exact posterior of
    (α_t, z_t) depends on x_t and v_t.

    Args:
        observed: F. latent: D, of both.
        hidden: as of both; or dense: sizes of the A-VAE, visual_dense and mixed: of the AV-VAE.
        video, reader, embedding: as of the AV-VAE.
        data: kind of data, see :mod:`pyrodvae.observations`.

    Source: Sadeghi & Alameda-Pineda, *Robust unsupervised audio-visual speech enhancement using a mixture
    of variational autoencoders* (2020).
    """

    prior_share: ClassVar[float] = AVVAE.prior_share
    trust = 0.2  # chosen on recordings of one speaker at -10 to 15 dB, lips damaged and whole

    def __init__(
        self,
        observed: int = 513,
        latent: int = 16,
        hidden: int = 128,
        *,
        dense: Sequence[int] | None = None,
        visual_dense: Sequence[int] | None = None,
        mixed: Sequence[int] | None = None,
        video: int = 1024,
        reader: Reader = "conv",
        embedding: int = 64,
        data: str = "speech",
    ) -> None:
        super().__init__(observed, latent, data)
        self.video = video
        self.audio = VAE(observed, latent, hidden, dense=dense, data=data)
        self.visual = AVVAE(
            observed,
            latent,
            hidden,
            dense=visual_dense,
            mixed=mixed,
            video=video,
            reader=reader,
            embedding=embedding,
            data=data,
        )
        self.config |= {
            "dense": self.audio.config["dense"],
            "visual_dense": self.visual.config["dense"],
            "mixed": self.visual.config["mixed"],
        }
        self.config |= {"video": video, "reader": reader, "embedding": embedding}
        self.register_buffer("log_odds", torch.zeros(()))

    @classmethod
    def of(cls, audio: VAE, visual: AVVAE) -> VAEMM:
        """The mixture of two trained models, with copies of their weights.

        Raises:
            ValueError: they differ in F, D or kind of data.
        """
        theirs = [(m.observed, m.latent, m.data) for m in (audio, visual)]
        if theirs[0] != theirs[1]:
            raise ValueError(
                "A VAE-MM needs two models of equal sizes and data; "
                f"(F, D, data) are {theirs[0]} and {theirs[1]}."
            )
        c = visual.config
        model = cls(
            audio.observed,
            audio.latent,
            dense=audio.config["dense"],
            visual_dense=c["dense"],
            mixed=c["mixed"],
            video=c["video"],
            reader=c["reader"],
            embedding=c["embedding"],
            data=audio.data,
        ).to(audio.z_0)
        model.audio.load_state_dict(audio.state_dict())
        model.visual.load_state_dict(visual.state_dict())
        return model

    def read(self, batch: int, v: Video) -> Two[Any]:
        """The AV-VAE reads the lips."""
        return Two(None, self.visual.begin(batch, v))

    def priors(self, z_prev: Two[Tensor], parts: Two[Any]) -> tuple[Two[TorchDistribution], Two[Any]]:
        """N(0, I), and N(μ(v_t), diag σ²(v_t))."""
        audio, _ = self.audio.transition(z_prev.audio, None, None)
        visual, memo = self.visual.transition(z_prev.visual, None, parts.visual)
        return Two(audio, visual), Two(None, memo)

    def decode(self, z: Two[Tensor], parts: Two[Any]) -> Two[TorchDistribution]:
        """By the A-VAE, and by the AV-VAE."""
        audio, _ = self.audio.emission(z.audio, None, None)
        visual, _ = self.visual.emission(z.visual, None, parts.visual)
        return Two(audio, visual)

    def weigh(self, costs: Two[Tensor], log_odds: Tensor) -> tuple[Two[Tensor], Tensor]:
        """Each model is trained on every frame, and there is no coin."""
        return Two(torch.ones_like(costs.audio), torch.ones_like(costs.visual)), torch.zeros_like(costs.audio)


class VAEMMGuide(MixtureGuide):
    """The encoders of the A-VAE and of the AV-VAE.

    Args:
        model: the VAE-MM. sees: what the paper lets them see, in all.
        hidden: as of both; or audio, visual: their sizes, by the names of their constructors.
    """

    def __init__(
        self,
        model: VAEMM,
        sees: Sees,
        hidden: int = 128,
        *,
        audio: dict[str, Any] | None = None,
        visual: dict[str, Any] | None = None,
    ) -> None:
        super().__init__(
            model,
            sees,
            RecurrentGuide(model.audio, Sees(), **(audio or {"hidden": hidden})),
            AVGuide(model.visual, Sees(video=True), **(visual or {"hidden": hidden})),
        )
