"""What training of a mixture minimises: the costs of its two readings of every frame, weighed."""

from __future__ import annotations

import torch
from pyro.distributions import TorchDistribution
from torch import Tensor
from torch.distributions import kl_divergence

from pyrodvae.av_mixture import AVMixture, Coins
from pyrodvae.dvae import over_frames
from pyrodvae.either import Either, Two
from pyrodvae.guide import Guide
from pyrodvae.mixture_guide import MixtureGuide
from pyrodvae.nets import frame_mask


def loss(
    model: AVMixture,
    guide: Guide,
    x: Tensor,
    lengths: Tensor | None,
    v: Tensor | None,
    *,
    beta: float = 1.0,
    prior_share: float = 0.0,
) -> Tensor:
    r"""The objective, in nats.

    .. math:: \sum_t \sum_α r_t(α) J_t(α) + \text{what the coin costs}, \qquad
        J_t(α) = β\, \mathrm{KL}(q_α \| p_α) - E_{q_α}[\log p_α(x_t \mid z_t, v_t)]

    with the weights of :meth:`~pyrodvae.av_mixture.AVMixture.weigh`, by a draw from each encoder. A share
    of J(0) may have the prior for a guide, see :class:`~pyrodvae.objective.Prior`.

    Args:
        model, guide: the pair. x, lengths, v: a batch, as of the model.
        beta: β. prior_share: the share.

    Raises:
        ValueError: the guide is not one of two encoders.
    """
    nll, kl, log_odds, of_prior = _costs(model, guide, x, lengths, v, prior_share > 0)
    costs = Two(*(a + beta * b for a, b in zip(nll, kl, strict=True)))
    if prior_share:
        costs = costs._replace(visual=torch.lerp(costs.visual, of_prior, prior_share))
    r, price = model.weigh(costs, log_odds)
    return _sum(r.audio * costs.audio + r.visual * costs.visual + price, lengths).sum()


def terms(
    model: AVMixture, guide: Guide, x: Tensor, lengths: Tensor | None = None, v: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """One draw of the likelihood and the divergence in it, each (B,), in nats; they differ by the bound."""
    nll, kl, log_odds, _ = _costs(model, guide, x, lengths, v, False)
    r, price = model.weigh(Two(nll.audio + kl.audio, nll.visual + kl.visual), log_odds)
    log_p = -(r.audio * nll.audio + r.visual * nll.visual)
    return _sum(log_p, lengths), _sum(r.audio * kl.audio + r.visual * kl.visual + price, lengths)


@torch.no_grad()
def responsibility_odds(
    model: AVMixture,
    guide: Guide,
    x: Tensor,
    lengths: Tensor | None = None,
    v: Tensor | None = None,
    draws: int = 8,
) -> Tensor:
    r"""How little lips are believed beside clean speech: the log-odds of π_n of each frame, (B, T), in nats.

    .. math:: \log \frac{π_n}{1 - π_n} = J_n(0) - J_n(1) + \log \frac{π}{1 - π}

    They are those of r(α_n = 1) where it is optimal. The probabilities, ``odds.sigmoid()``, are soon 0 or 1.

    Args:
        model, guide: the pair. x, lengths, v: clean speech and video, as of the model.
        draws: over which J is averaged.
    """
    total = torch.zeros(())
    for _ in range(draws):
        nll, kl, log_odds, _ = _costs(model, guide, x, lengths, v, False)
        total = total + nll.visual + kl.visual - nll.audio - kl.audio
    return total / draws + log_odds


@torch.no_grad()
def decoded(
    model: AVMixture, guide: Guide, x: Tensor, lengths: Tensor | None, v: Tensor | None
) -> TorchDistribution:
    """p(x | means of both encoders), of each frame by the reading that explains it better: event (T, F)."""
    q_z, coins = _encoded(model, guide, x, lengths, v)
    z = Two(*(q.mean for q in q_z))
    _, parts = model.priors(z, coins.parts)
    p_x = Either(coins.log_odds, model.decode(z, parts))
    return over_frames(Either(p_x.odds_given(x), p_x.of), lengths)


def _costs(
    model: AVMixture, guide: Guide, x: Tensor, lengths: Tensor | None, v: Tensor | None, prior: bool
) -> tuple[Two[Tensor], Two[Tensor], Tensor, Tensor]:
    """−log p(x_t | z_t) and KL of both readings; the log-odds; and −log p with z from p(z | v): (B, T)."""
    q_z, coins = _encoded(model, guide, x, lengths, v)
    z = Two(*(q.rsample() for q in q_z))
    p_z, parts = model.priors(z, coins.parts)
    nll = Two(*(-p.log_prob(x) for p in model.decode(z, parts)))
    kl = Two(*map(kl_divergence, q_z, p_z))
    of_prior = (
        -model.decode(z._replace(visual=p_z.visual.rsample()), parts).visual.log_prob(x) if prior else x
    )
    return nll, kl, coins.log_odds, of_prior


def _encoded(
    model: AVMixture, guide: Guide, x: Tensor, lengths: Tensor | None, v: Tensor | None
) -> tuple[Two[TorchDistribution], Coins]:
    """What both encoders say of a batch, and what the model reads of it."""
    if not isinstance(guide, MixtureGuide):
        raise ValueError(
            f"A mixture is trained with an encoder for each of its parts, and {type(guide).__name__} is one "
            "for both: take the guide 'paper'."
        )
    q_z, _ = guide.encoders(guide.z_0, guide.context(x, lengths, guide.begin(x, lengths, v)))
    return q_z, model.begin(len(x), v)


def _sum(per_frame: Tensor, lengths: Tensor | None) -> Tensor:
    """(B, T) → (B,), padded frames left out."""
    if lengths is not None:
        per_frame = per_frame.masked_fill(~frame_mask(lengths, per_frame.shape[-1]), 0.0)
    return per_frame.sum(-1)
