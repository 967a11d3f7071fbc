r"""Variational EM for mixtures of audio and video in noise, with a factorised posterior.

.. math:: p(s, z, α \mid x) \approx r(s)\, r(z)\, r(α)

Each factor in turn is the best beside the others. With n = WH, draws of z from r(z), and :math:`σ^α_f(z)`
the variance of the speech that reading α decodes,

.. math::
    γ^{-1} &= \sum_α r(α) \operatorname{mean}_z \frac{1}{σ^α(z)}, \qquad
    m = \frac{γ}{γ + n}\, x, \qquad ν = \frac{γ\, n}{γ + n} \\
    r(z) &\propto \exp \sum_α r(α) \Big[\log p(z \mid v, α)
        - \sum_f \Big(\log σ^α_f(z) + \frac{|m_f|^2 + ν_f}{σ^α_f(z)}\Big)\Big] \\
    π_t &= r(α_t = 1) = σ\Big(E\Big[\log \frac{p(s, z \mid α = 1)}{p(s, z \mid α = 0)}\Big]
        + \log \frac{π}{1 - π}\Big), \qquad π = \operatorname{mean}_t π_t

and W, H by the multiplicative updates with |x|² → |x − m|² + ν and V → WH. With the draws of z held, none of
these steps but that of r(z) ever lowers the :func:`bound`.

Source: Sadeghi & Alameda-Pineda, *Robust unsupervised audio-visual speech enhancement using a mixture of
variational autoencoders* (2020).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from pyrodvae.av_mixture import CERTAIN, AVMixture, OwnLatents
from pyrodvae.diagnostics import Diagnostics, Record
from pyrodvae.distributions import power
from pyrodvae.dvae import DVAE
from pyrodvae.engines.factorised import ALONE, Factorised
from pyrodvae.noise import PLAIN, MStep, NMFNoise
from pyrodvae.posterior import ESTIMATES, EstimateKey, Fit, Posterior

LOG_PI = math.log(math.pi)
LEAST = 1e-4
"""Of π and 1 - π: a share of zero would never rise again."""


class Speech(NamedTuple):
    """r(s): its mean m, complex, and its variance ν, (B, T, F)."""

    mean: Tensor
    variance: Tensor

    @property
    def power(self) -> Tensor:
        """E|s|², (B, T, F)."""
        return power(self.mean) + self.variance


class Drawn(NamedTuple):
    """What the draws of z say; the first axis is that of α: heard alone (1), then seen as well (0).

    Args:
        score: log p(z | v, α) − Σ_f log σ^α_f(z), (2, S, B, T); or its mean over draws, (2, B, T).
        precision: 1/σ^α(z), (2, S, B, T, F); or its mean, (2, B, T, F).
    """

    score: Tensor
    precision: Tensor

    def readings(self, speech: Speech) -> Tensor:
        """E[log p(s, z | v, α)] of every draw, or the mean, (2, ..., B, T)."""
        expected = (speech.power * self.precision).sum(-1)
        return self.score - LOG_PI * self.precision.shape[-1] - expected


def both(log_odds: Tensor) -> Tensor:
    """Log-odds (...) as log-probabilities (2, ...)."""
    return torch.stack([logsigmoid(log_odds), logsigmoid(-log_odds)])


def update_speech(x: Tensor, noise: Tensor, drawn: Drawn, r: Tensor) -> Speech:
    """r(s), from x and WH (B, T, F), the means of the draws, and r(α) (2, B, T)."""
    mask = 1 / (1 + noise * (r[..., None] * drawn.precision).sum(0))
    return Speech(mask * x, mask * noise)


def update_choice(speech: Speech, drawn: Drawn, log_prior: Tensor) -> Tensor:
    """r(α), from the means of the draws and log p(α), both (2, B, T)."""
    return (log_prior + drawn.readings(speech)).softmax(0)


def update_share(r: Tensor, seen: Tensor) -> Tensor:
    """log p(α) (2, B, T): π is the mean of r over the frames of each sequence that are seen (B, T)."""
    share = (r[0] * seen).sum(-1, keepdim=True) / seen.sum(-1, keepdim=True).clamp(min=1)
    return both(torch.where(seen, share.logit(LEAST), CERTAIN))


def update_noise(x: Tensor, speech: Speech, noise: NMFNoise, m_step: MStep, memory: Any) -> Any:
    """W and H in place; returns the memory of the M-step."""
    left = power(x - speech.mean) + speech.variance
    return m_step.step(noise, None, left, torch.zeros_like(left)[None], memory)[1]


def bound(x: Tensor, noise: Tensor, speech: Speech, drawn: Drawn, r: Tensor, log_prior: Tensor) -> Tensor:
    """E[log p(x, s, z, α)] and the entropies of r(s) and r(α), (B,) in nats; not that of r(z)."""
    left = power(x - speech.mean) + speech.variance
    of_s = (1 + speech.variance.log() - noise.log() - left / noise).sum(-1)
    of_α = (r * (log_prior + drawn.readings(speech)) + torch.special.entr(r)).sum(0)
    return (of_s + of_α).sum(-1)


class Walk:
    """r(z): a random walk of every frame, on the density that r(s) and r(α) leave to it.

    Args:
        model: the mixture. x: what was heard (B, T, F). v: video (B, T, V). engine: the settings.
    """

    def __init__(self, model: AVMixture, x: Tensor, v: Tensor | None, engine: Factorised) -> None:
        self.model, self.engine = model, engine
        self.coins = model.begin(len(x), v)

    def decode(self, z: Tensor) -> Drawn:
        """What draws z (S, B, T, D) say, each."""
        coins = self.model.window(z, self.coins)
        p_z, p_x = coins.p_z, self.model.decode(self.model.split(z), coins.parts)
        assert p_z is not None
        said = p_x[:1] if p_x.audio is p_x.visual else p_x
        log_v = torch.stack([p.base_dist.log_variance for p in said]).expand(2, *[-1] * (z.ndim))
        prior = torch.stack([p.log_prob(part) for p, part in zip(p_z, self.model.split(z), strict=True)])
        return Drawn(prior - log_v.sum(-1), (-log_v).exp())

    @torch.no_grad()
    def __call__(self, z: Tensor, r: Tensor, speech: Speech) -> tuple[Tensor, list[Drawn], Tensor]:
        """Move z (S, B, T, D).

        Returns:
            The last draws, what those say that count, and the rate of acceptance (S, B).
        """
        r = r[:, None]
        now = self.decode(z)
        at = (r * now.readings(speech)).sum(0)
        rates: list[Tensor] = []
        kept: list[Drawn] = []
        for i in range(self.engine.steps):
            there = z + self.engine.variance**0.5 * torch.randn_like(z)
            new = self.decode(there)
            at_there = (r * new.readings(speech)).sum(0)
            rate = (at_there - at).clamp(max=0).exp()
            accepted = torch.rand_like(rate) < rate
            z = torch.where(accepted[..., None], there, z)
            at = torch.where(accepted, at_there, at)
            now = Drawn(
                torch.where(accepted, new.score, now.score),
                torch.where(accepted[..., None], new.precision, now.precision),
            )
            rates.append(rate.mean(-1))
            if i >= self.engine.burn_in_moves:
                kept.append(now)
        return z, kept, torch.stack(rates).mean(0)


def mean(kept: list[Drawn]) -> Drawn:
    """Over chains and moves."""
    score, precision = (sum(one.mean(1) for one in part) / len(kept) for part in zip(*kept, strict=True))
    return Drawn(torch.as_tensor(score), torch.as_tensor(precision))


@torch.no_grad()
def factorised_em(
    model: DVAE,
    noise: NMFNoise,
    gain: Tensor | None,
    x: Tensor,
    v: Tensor | None,
    z: Tensor,
    engine: Factorised,
    *,
    iterations: int = 60,
    average: float = 0.5,
    estimate: EstimateKey = "precision",
    m_step: MStep = PLAIN,
    learn_share: bool = True,
    each: Callable[[int], None] = lambda i: None,
) -> Posterior:
    r"""Alternate r(z), r(s), r(α), π and the noise.

    Args:
        model: a mixture with one latent for both readings.
        noise: updated in place. gain: None, as the algorithm has none.
        x: noisy spectrogram (B, T, F), complex. v: video (B, T, V).
        z: where the chains start, (S, B, T, D); all are draws from one r(z).
        engine: the settings of the walk.
        iterations: of all steps.
        average: the share of iterations, counted from the end, that enter the estimate.
        estimate: ``"precision"`` is this algorithm's, γ/(γ + WH) x; see :mod:`pyrodvae.posterior`.
        m_step: of the noise.
        learn_share: whether π is learned, or stays the model's.
        each: called with the number of each finished iteration.

    Returns:
        The posterior; its ``speech`` is, for each chain, 1/Σ_α r(α)/σ^α(z).

    Raises:
        ValueError: the model is no such mixture; or there is a gain.
    """
    if not isinstance(model, AVMixture) or isinstance(model, OwnLatents):
        raise ValueError(ALONE)
    if gain is not None:
        raise ValueError("The engine 'factorised' has no gain of frames: leave it out.")
    walk, x_power = Walk(model, x, v, engine), power(x)
    seen = walk.coins.log_odds < CERTAIN
    log_prior = both(walk.coins.log_odds)
    r = log_prior.exp()
    speech = update_speech(x, noise.variance, mean([walk.decode(z)]), r)
    gathered, memory = ESTIMATES[estimate](), m_step.init()
    objective: list[Tensor] = []
    info: list[dict[str, Tensor]] = []
    shares: list[Tensor] = []
    averaged = max(1, round(average * iterations))
    for i in range(iterations):
        z, kept, rate = walk(z, r, speech)
        drawn = mean(kept)
        speech = update_speech(x, noise.variance, drawn, r)
        r = update_choice(speech, drawn, log_prior)
        if learn_share:
            log_prior = update_share(r, seen)
        memory = update_noise(x, speech, noise, m_step, memory)
        gamma = (r[:, None, ..., None] * kept[-1].precision).sum(0).reciprocal()
        fit = Fit.of(x_power, gamma, noise.variance)
        reached = bound(x, noise.variance, speech, drawn, r, log_prior)
        objective.append(fit.objective)
        info.append({"accept": rate, "elbo": reached.sum(), "speech_energy": gamma.mean((-2, -1))})
        if i >= iterations - averaged:
            gathered.add(fit)
            shares.append(r[0])
        each(i)
    mask, variance = gathered.moments(x)
    return Posterior(
        mean=mask * x,
        variance=variance,
        noise_mean=(1 - mask) * x,
        speech=fit.speech,
        noise=fit.noise,
        objective=torch.stack(objective),
        diagnostics=Diagnostics((Record.of(objective, info, averaged),)),
        factors=(noise.W.clone(), noise.H.clone()),
        responsibility=torch.stack(shares).mean(0),
    )
