"""What the posteriors from several first guesses of the noise say together."""

from __future__ import annotations

import math
import re
from dataclasses import replace

import torch
from torch import Tensor

from pyrodvae.diagnostics import Diagnostics
from pyrodvae.distributions import power
from pyrodvae.lean import alike
from pyrodvae.posterior import Posterior
from pyrodvae.voicing import voicing

HANDICAP, SCALE = 0.04, 0.02
"""Of contrasts of voicing: how much more is expected of all guesses but the first; what counts as much."""


def pooled(posterior: Posterior, guesses: int, rate: int) -> Posterior:
    r"""One posterior of B sequences from that of G B, in which each of them was started from G guesses.

    .. math::
        \hat s = \sum_g w_g \hat s_g, \qquad
        \operatorname{var} s = \sum_g w_g \left(\operatorname{var}_g s + |\hat s_g - \hat s|^2\right), \qquad
        w_g \propto \exp \frac{c_g}{0.02} \cdot \left(\frac{e^{-2} (1 - 2a)_+}{G - 1}\right)^{[g > 0]}

    How well the guesses explain what was heard does not tell them apart. That speech is voiced and noise is
    not, does: c is the voicing of what was taken for speech less that of what was taken for noise
    (:func:`~pyrodvae.voicing.voicing`). The first guess is the careful one, and others have to be better.
    Where by the first guess the noise is voiced much as the speech is, with a from
    :func:`~pyrodvae.lean.alike`, voicing tells nothing, and the first stands alone.

    Draws become chains of one posterior, G S of them, resampled by weight, each with a noise of its own:
    ``noise`` has the shape (G S, B, T, F). ``factors`` are those of the mean noise, of rank G K, and the
    objective is the mean by weight. As every guess has a target of its own, the traces of chains in
    ``diagnostics`` stay those of G B sequences, and so does ``state``.

    Args:
        posterior: of G B sequences, all B of one guess after another.
        guesses: G; of one, the posterior is as it was.
        rate: samples per second.
    """
    if guesses == 1:
        return posterior
    means, noises = _apart(posterior.mean, guesses), _apart(posterior.noise_mean, guesses)
    w = _weights(posterior, guesses, rate)
    share = w[..., None, None]
    mean = (share * means).sum(0)
    variance = (share * (_apart(posterior.variance, guesses) + (means - mean).abs().square())).sum(0)
    factors = posterior.factors
    if factors is not None:
        W, H = (_apart(part, guesses) for part in factors)
        factors = torch.cat(tuple(W), -1), torch.cat(tuple(share * H), -2)
    chosen = _resampled(w, len(posterior.speech))
    sequence = torch.arange(w.shape[1])
    speech, noise = (
        _as_chains(part, guesses, 1)[chosen, sequence]
        for part in (posterior.speech, posterior.noise.expand_as(posterior.speech))
    )
    return replace(
        posterior,
        mean=mean,
        variance=variance,
        noise_mean=(share * noises).sum(0),
        speech=speech,
        noise=noise,
        objective=_mean(posterior.objective, w),
        diagnostics=Diagnostics(
            tuple(replace(r, objective=_mean(r.objective, w)) for r in posterior.diagnostics.records)
        ),
        warnings=tuple(_numbered(sentence, w.shape[1]) for sentence in posterior.warnings),
        factors=factors,
    )


def _weights(posterior: Posterior, guesses: int, rate: int) -> Tensor:
    """w (G, B), which sum to one."""
    speech, noise = power(posterior.mean), power(posterior.noise_mean)
    v = voicing(speech, noise, rate)
    score = _apart(v.speech - v.noise, guesses) / SCALE
    first = slice(score.shape[1])
    a = alike(speech[first], noise[first], rate)
    score[1:] += (1 - 2 * a).clamp(min=0).log() - HANDICAP / SCALE - math.log(guesses - 1)
    return score.softmax(0)


def _resampled(w: Tensor, chains: int) -> Tensor:
    """Which of G S chains, S of each guess, are kept: as often as their weights w (G, B) say, (G S, B)."""
    upto = (w / chains).repeat_interleave(chains, 0).cumsum(0)
    wanted = (torch.arange(len(upto)).to(w) + 0.5) / len(upto)
    found = torch.searchsorted(upto.mT.contiguous(), wanted.expand(w.shape[1], -1).contiguous())
    return found.mT.clamp(max=len(upto) - 1)


def _apart(value: Tensor, guesses: int) -> Tensor:
    """(G B, …) as (G, B, …)."""
    return value.unflatten(0, (guesses, -1))


def _as_chains(value: Tensor, guesses: int, dim: int) -> Tensor:
    """(…, S, G B, …) as (…, G S, B, …), the sequences being at ``dim``."""
    return value.unflatten(dim, (guesses, -1)).movedim(dim, dim - 1).flatten(dim - 1, dim)


def _mean(objective: Tensor, w: Tensor) -> Tensor:
    """(I, G B) to (I, B)."""
    return (w * objective.unflatten(1, w.shape)).sum(1)


def _numbered(sentence: str, sequences: int) -> str:
    """The sentence about sequence g B + b, as one about sequence b."""

    def name(number: re.Match[str]) -> str:
        g, b = divmod(int(number[1]), sequences)
        return f"sequence {b} (guess {g} of its noise)"

    return re.sub(r"sequence (\d+)", name, sentence)
