"""Noisy speech whose every frame is heard alone, or heard and seen."""

from __future__ import annotations

from typing import NamedTuple

import pyro
import torch
from torch import Tensor

from pyrodvae.av_mixture import CERTAIN, AVMixture, Coins
from pyrodvae.distributions import ComplexNormal
from pyrodvae.dvae import BATCH, check_sequences, over_frames
from pyrodvae.either import Either, Two
from pyrodvae.noise import NMFNoise
from pyrodvae.noisy import NoisySpeech
from pyrodvae.rollout import Rollout


class _Decoded(NamedTuple):
    """What the parts say of draws z (S, B, T, D).

    Args:
        variance: v_α(z), (S, B, T, F), for both α.
        ratio: what z says of α, log p(z | α = 1) / p(z | α = 0), (S, B, T) or (B, T).
    """

    z: Tensor
    variance: Two[Tensor]
    ratio: Tensor


class NoisyMixture(NoisySpeech):
    r"""A mixture of audio and video in noise, with the clean speech and the coins summed out.

    .. math::
        z_t &\sim p_θ(z_t \mid v_t) \\
        x_{tf} \mid z_t &\sim \sum_α p(α_t = α \mid z_t, v_t) \prod_f
            \mathcal N_c(x_{tf};\, 0,\, g_t\, v_{α,tf}(z_t, v_t) + (WH)_{ft})

    so every engine draws z as of any model. For each draw of z EM then gets one of α from
    p(α | z, x, W, H), see :meth:`speech_variance`: the two together are an exact draw of (z, α).

    **The coin.** Loud noise is explained best by the reading that takes more of it for speech, by some
    hundred nats a frame, which no learned π outweighs. So lips are trusted unless hearing alone explains a
    frame better by so many nats in every bin,

    .. math:: \log \frac{π}{1 - π} = \log \frac{π_θ}{1 - π_θ} - \text{trust} \cdot F,

    and π stays. With ``trust`` zero π starts at the model's, π_θ, for each sequence, and :meth:`refresh`
    moves it to the mean of p(α_t = 1 | z, x) over draws and frames, by the mode under a Beta(2, 2) prior,
    which keeps it off 0 and 1.

    Args:
        speech: a mixture, its latent shared or own.
        noise, gain: as of :class:`~pyrodvae.noisy.NoisySpeech`.
        x: what was heard (B, T, F), complex. v: video (B, T, V).
        trust: in lips, nats per bin, at least 0.

    Source: Sadeghi & Alameda-Pineda, *Robust unsupervised audio-visual speech enhancement using a mixture
    of variational autoencoders* (2020), there with a factorised posterior of (s, z, α):
    :mod:`pyrodvae.mixture_vem`.
    """

    def __init__(
        self,
        speech: AVMixture,
        noise: NMFNoise,
        gain: Tensor | None = None,
        *,
        x: Tensor,
        v: Tensor | None,
        trust: float = 0.0,
    ) -> None:
        super().__init__(speech, noise, gain, v=v)
        self.mixture, self.x = speech, x
        assert isinstance(self.shared, Coins)
        self.seen = self.shared.log_odds < CERTAIN
        self.trust = trust
        odds = self.shared.log_odds - trust * x.shape[-1]
        self.coins = self.shared._replace(log_odds=odds.where(self.seen, CERTAIN))
        self._decoded: _Decoded | None = None

    def forward(self, x: Tensor, lengths: Tensor | None = None) -> Tensor:
        """Sites ``z`` (event (T, D)) and ``x`` (event (T, F)) for noisy x (B, T, F)."""
        check_sequences(x, self.speech.observed)
        with pyro.plate(BATCH, len(x), dim=-1):
            prior = self._prior(x, lengths)
            z: Tensor = pyro.sample("z", prior)
            p_x = self._heard(self._decode(z, prior))
            pyro.sample("x", over_frames(p_x, lengths), obs=x)
        return z

    def speech_variance(self, z: Tensor, lengths: Tensor | None = None) -> Tensor:
        r"""v_α(z), (S, B, T, F), for a draw of α from p(α | z, x, W, H) for each draw of z."""
        said = self._decode(z, self._prior(self.x, lengths))
        with torch.no_grad():
            p_x = self._heard(said)
            before = (self.coins.log_odds + said.ratio).expand(z.shape[:-1])
            p = (p_x.odds_given(self.x) if isinstance(p_x, Either) else before).sigmoid()
            self.responsibility = p.mean(0)
            alpha = p.bernoulli()[..., None] > 0
        self._decoded = said
        return torch.where(alpha, *said.variance)

    @torch.no_grad()
    def refresh(self, x_power: Tensor, speech: Tensor) -> None:
        """After an M-step: π, where it is learned; the arguments are not needed."""
        if self.trust:
            return
        assert self.responsibility is not None
        audio = self.responsibility.where(self.seen, 0.0).sum(-1, keepdim=True) + 1
        visual = (1 - self.responsibility).where(self.seen, 0.0).sum(-1, keepdim=True) + 1
        self.coins = self.coins._replace(log_odds=torch.where(self.seen, (audio / visual).log(), CERTAIN))

    def _prior(self, x: Tensor, lengths: Tensor | None) -> Rollout:
        return self.mixture.prior(x, lengths, self.coins)

    def _decode(self, z: Tensor, prior: Rollout) -> _Decoded:
        """What the parts say of z: what is kept, if it is of this z and has the graph that is needed."""
        kept, self._decoded = self._decoded, None  # it serves once: a backward pass frees its graph
        needs_graph = torch.is_grad_enabled() and z.requires_grad
        if kept is not None and kept.z is z and (kept.variance.audio.requires_grad or not needs_graph):
            return kept
        prior.along(z)
        coins: Coins = prior.memo
        p = self.mixture.decode(self.mixture.split(z), coins.parts)
        v = Two(p.audio.variance, p.audio.variance if p.audio is p.visual else p.visual.variance)
        return _Decoded(z, v, self.mixture.ratio(z, coins))

    def _heard(self, said: _Decoded) -> ComplexNormal | Either:
        """p(x_t | z_t), batch (S, B, T), event (F,)."""
        noise = self.noise()

        def around(variance: Tensor) -> ComplexNormal:
            p: ComplexNormal = ComplexNormal(noise + self.scaled(variance), validate_args=False).to_event(1)
            return p

        audio, visual = said.variance
        if audio is visual:
            return around(audio)
        return Either(self.coins.log_odds + said.ratio, Two(around(audio), around(visual)))
