"""The guide of a mixture: an encoder of what is heard, one of what is seen, and which of them speaks."""

from __future__ import annotations

import copy
from typing import Any, Literal

import pyro
import torch
from pyro.distributions import TorchDistribution
from torch import Tensor

from pyrodvae.av_mixture import CERTAIN, CHOICE, AVMixture, OwnLatents, coin, plates, side_by_side
from pyrodvae.dvae import BATCH, DVAE, check_sequences
from pyrodvae.either import Either, Two, choose
from pyrodvae.guide import Guide, RecurrentGuide, Sees
from pyrodvae.lips import check_video, seen
from pyrodvae.nets import join
from pyrodvae.program import Program
from pyrodvae.rollout import Step, select_frames

Voice = Literal["both", "audio", "visual"]
ODDS: dict[Voice, float] = {"both": 0.0, "audio": CERTAIN, "visual": -CERTAIN}


class MixtureGuide(Guide):
    r"""Two encoders, and a coin for every frame.

    .. math:: q(z_t \mid x_t, v_t) = \sum_α r_t(α)\, q_α(z_t \mid x_t, v_t)

    r is even, or always says one of the two (:attr:`voice`); where a picture is missing, the audio
    encoder speaks. In training r(α) is found in closed form (:mod:`pyrodvae.mixture_objective`), and no
    use is made of this one.

    Args:
        model: the mixture. sees: what it conditions on, in all.
        audio, visual: the two encoders; neither looks at z.
    """

    voice: Voice = "both"
    """Which encoder draws z: each where the coin says so, or always the one."""

    def __init__(self, model: AVMixture, sees: Sees, audio: RecurrentGuide, visual: RecurrentGuide) -> None:
        super().__init__(model, sees)
        self.config = {"audio": audio.config, "visual": visual.config}
        self.audio, self.visual = audio, visual

    def speaking(self, voice: Voice) -> MixtureGuide:
        """The same guide, parameters and all, with another :attr:`voice`."""
        other = copy.copy(self)
        other.voice = voice
        return other

    def begin(self, x: Tensor, lengths: Tensor | None, v: Tensor | None = None) -> Tensor | None:
        """What the lips say, and whether they are seen: (B, T, E + 1)."""
        if v is None:
            return None
        return join(self.visual.lips(v), seen(v).to(self.z_0)[..., None])

    def context(self, x: Tensor, lengths: Tensor | None, shared: Tensor | None) -> Tensor:
        """What x says to each encoder, and whether the lips are seen."""
        assert shared is not None
        says, there = shared[..., :-1], shared[..., -1:]
        return join(self.audio.context(x, lengths, None), self.visual.context(x, lengths, says), there)

    def encoders(self, z_prev: Tensor, context: Tensor) -> tuple[Two[TorchDistribution], Tensor]:
        """q_α(z_t | ·) for both α on a window, and whether the lips are seen, (..., L)."""
        width = self.audio.from_x.out_features
        audio, visual, there = context.split([width, context.shape[-1] - width - 1, 1], -1)
        q_z = Two(
            self.audio.conditional(z_prev, audio, None)[0], self.visual.conditional(z_prev, visual, None)[0]
        )
        return q_z, there[..., 0] > 0

    def conditional(self, z_prev: Tensor, context: Tensor | None, memo: Any) -> Step:
        """q(z_t | x_t, v_t)."""
        assert context is not None
        return self.together(*self.encoders(z_prev, context)), memo

    def together(self, q_z: Two[TorchDistribution], there: Tensor) -> TorchDistribution:
        """One distribution of z_t, from the two encoders' and whether the lips are seen."""
        return Either(self.odds(there), q_z)

    def odds(self, there: Tensor) -> Tensor:
        """log r_t(1) / r_t(0)."""
        return torch.where(there, ODDS[self.voice], CERTAIN).to(self.z_0)

    def choices(
        self,
        x: Tensor,
        lengths: Tensor | None = None,
        v: Tensor | None = None,
        log_odds: Tensor | None = None,
    ) -> Tensor:
        """Sites ``alpha`` and ``z`` with plates as of the model's program of the same name.

        Args:
            x, lengths, v: as of the model. log_odds: those of r (B, T), unless as of :attr:`voice`.
        """
        check_sequences(x, self.observed)
        check_video(v, self.video, *x.shape[:2])
        q_z, there = self.encoders(self.z_0, self.context(x, lengths, self.begin(x, lengths, v)))
        with plates(x, lengths):
            odds = self.odds(there) if log_odds is None else log_odds
            alpha = pyro.sample(CHOICE, coin(odds), infer={"enumerate": "parallel"})
            z: Tensor = pyro.sample("z", choose(alpha, q_z))
        return z


class FrameByFrame(Program):
    """The guide of a mixture with sites ``alpha_0, z_0, alpha_1, …``, as of the model's ``steps``."""

    def __init__(self, guide: MixtureGuide) -> None:
        super().__init__()
        self.guide = guide

    def forward(self, x: Tensor, lengths: Tensor | None = None, v: Tensor | None = None) -> Tensor:
        """The arguments are those of the guide."""
        g = self.guide
        q_z, there = g.encoders(g.z_0, g.context(x, lengths, g.begin(x, lengths, v)))
        odds, path = g.odds(there), []
        with pyro.plate(BATCH, len(x), dim=-1):
            for t in range(x.shape[1]):
                alpha = pyro.sample(f"{CHOICE}_{t}", coin(odds[:, t : t + 1]).to_event(1))
                now = Two(*(select_frames(d, slice(t, t + 1)) for d in q_z))
                path.append(pyro.sample(f"z_{t}", choose(alpha, now).to_event(1)))
        return torch.cat(path, -2)


class OwnLatentsGuide(MixtureGuide):
    """The guide of :class:`~pyrodvae.av_mixture.OwnLatents`: each encoder draws the latent of its reading.

    Args:
        model: with own latents. guide: of the model that it is made of; its encoders are used.
    """

    def __init__(self, model: OwnLatents, guide: MixtureGuide) -> None:
        super().__init__(model, guide.sees, guide.audio, guide.visual)

    def together(self, q_z: Two[TorchDistribution], there: Tensor) -> TorchDistribution:
        """q_1(a_t | x_t) q_0(b_t | x_t, v_t)."""
        return side_by_side(q_z)


def readings(model: DVAE, guide: Guide, own: bool, voice: Voice) -> tuple[DVAE, Guide]:
    """A pair as engines are to see it; one that is no mixture stays as it is.

    Args:
        model, guide: the pair.
        own: whether each reading of a frame has a latent of its own, see
            :class:`~pyrodvae.av_mixture.OwnLatents`.
        voice: whose guess of z the chains start from.
    """
    if not isinstance(model, AVMixture) or not isinstance(guide, MixtureGuide):
        return model, guide
    guide = guide.speaking(voice)
    if not own:
        return model, guide
    apart = OwnLatents(model)
    return apart, OwnLatentsGuide(apart, guide)
