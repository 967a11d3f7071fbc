"""Whether the lips fit what was heard without them."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from pyrodvae.av_mixture import CERTAIN
from pyrodvae.distributions import DiagonalNormal
from pyrodvae.engines import Langevin
from pyrodvae.enhance_config import EnhanceConfig
from pyrodvae.lips import check_video, seen
from pyrodvae.models.av_vae import AVVAE
from pyrodvae.separation import enhance_spectrum
from pyrodvae.weights import Run, WeightsError


def heard_alone(run: Run, x: Tensor, config: EnhanceConfig | None = None) -> Tensor:
    """The speech in x by an AV-VAE whose lips are taken away: an estimate that cannot take their side.

    Args:
        run: of an AV-VAE with its paper's guide, trained with ``drop_share`` above zero.
        x: noisy spectrogram (B, T, F), complex.
        config: of enhancement, by :class:`~pyrodvae.engines.Langevin`.

    Returns:
        E[s | x], (B, T, F), complex.

    Raises:
        WeightsError: the run is of another model or guide.
    """
    model, config = _av_vae(run), config or EnhanceConfig()
    with torch.random.fork_rng():
        torch.manual_seed(config.seed)
        chance = torch.Generator().manual_seed(config.seed)
        return enhance_spectrum(x, run, Langevin(), config, chance, v=_missing(model, x)).mean


@torch.no_grad()
def lips_misfit(run: Run, s: Tensor, v: Tensor) -> Tensor:
    """How little a picture has to do with what was heard: log-odds of each frame, (B, T), in nats.

    They are the :func:`odds` of q(z_t | s_t), p(z_t) and p(z_t | v_t) of an AV-VAE; 1e20 where the picture
    is missing. How far s is from the truth is judged by all pictures of a sequence: let it last seconds.

    Args:
        run: of an AV-VAE with its paper's guide, trained with ``drop_share`` above zero.
        s: clean speech, or what was :func:`heard_alone`, (B, T, F), complex. v: video (B, T, V).

    Raises:
        WeightsError: the run is of another model or guide.
        ValueError: v is no such video.
    """
    model = _av_vae(run)
    check_video(v, model.video, *s.shape[:2])
    blind, z = _missing(model, s), s.real.new_zeros(*s.shape[:2], model.latent)
    heard = run.guide.posterior(s, None, run.guide.begin(s, None, blind)).along(z)
    alone, looked = (model.prior(s, None, model.begin(len(s), a)).along(z) for a in (blind, v))
    return odds(heard, alone, looked, seen(v))


def odds(heard: DiagonalNormal, alone: DiagonalNormal, looked: DiagonalNormal, there: Tensor) -> Tensor:
    r"""The log-odds that z_t was not drawn given the lips, if it is known up to an error.

    .. math::
        \sum_d E_{q(z_t)}\left[\log \frac{\mathcal N(z_{td};\, μ_d,\, σ_d^2 + τ_d^2)}
            {\mathcal N(z_{td};\, μ_d(v_t),\, σ_d^2(v_t) + τ_d^2)}\right], \qquad
        τ_d^2 = \Big[\operatorname{mean}_t E_q (z_{td} - μ_d(v_t))^2 - σ_d^2(v_t)\Big]_+

    Without τ² the odds grow with what a picture dares to say: in noise z_t is far from any narrow
    p(z_t | v_t), and the pictures that say least, damaged ones, are believed most.

    Args:
        heard: q(z_t), by ear alone. alone: p(z_t). looked: p(z_t | v_t). Batch (B, T), event (D,).
        there: whether the picture is there, (B, T); τ² is by these, and elsewhere the odds are 1e20.

    Source: ours; τ² is found by moments.
    """

    def square(p: DiagonalNormal) -> Tensor:
        """E_q (z − μ)²."""
        return (heard.mean - p.mean).square() + heard.variance

    used = there[..., None].to(heard.mean)
    excess = (used * (square(looked) - looked.variance)).sum(-2, keepdim=True)
    error = (excess / used.sum(-2, keepdim=True).clamp(min=1)).clamp(min=0)

    def cost(p: DiagonalNormal) -> Tensor:
        variance = p.variance + error
        return 0.5 * (square(p) / variance + variance.log()).sum(-1)

    return (cost(looked) - cost(alone)).where(there, CERTAIN)


def _av_vae(run: Run) -> AVVAE:
    if not isinstance(run.model, AVVAE) or run.card["guide"] != "paper":
        raise WeightsError(
            f"Lips are compared with what is heard by a run of an AVVAE with the guide 'paper', not of a "
            f"{type(run.model).__name__} with '{run.card['guide']}'."
        )
    return run.model


def _missing(model: AVVAE, x: Tensor) -> Tensor:
    """A video beside x, of pictures none of which is there."""
    return torch.full((*x.shape[:2], model.video), math.nan).to(x.real)
