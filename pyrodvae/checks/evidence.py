"""How far is the evidence lower bound from the evidence?"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import pyro
import torch
from pyro import poutine
from pyro.poutine.util import site_is_subsample
from torch import Tensor

from pyrodvae import kalman
from pyrodvae.checks.joint import settings
from pyrodvae.models import Kalman
from pyrodvae.nets import frame_mask


@dataclass(frozen=True, eq=False)
class EvidenceGap:
    """What :func:`evidence_gap` found, in nats per sequence; as a string, one sentence."""

    elbo: Tensor
    """(B,)"""
    evidence: Tensor
    """log p(x), (B,); the importance-weighted bound where it is not exact."""
    gap: Tensor
    """Evidence less ELBO, (B,)."""
    error: Tensor
    """Standard error of the gap, (B,)."""
    exact: bool
    """Whether the evidence is the true one."""
    effective: Tensor
    """Of how many particles the weighted bound is worth, (B,): 1 / Σ of squared normalised weights."""

    def __str__(self) -> str:
        B = len(self.gap)
        gap = f"{self.gap.mean():.4g} ± {self.error.square().sum().sqrt() / B:.1g}"
        means = f"ELBO {self.elbo.mean():.6g}, log evidence {self.evidence.mean():.6g}"
        if self.exact:
            return f"The gap is {gap} nats per sequence ({means}, exact; mean over {B})."
        return (
            f"The gap is at least {gap} nats per sequence ({means} by importance weights; mean over {B}); "
            f"the weights are worth {self.effective.min():.3g} particles or more."
        )


@torch.no_grad()
def evidence_gap(
    model: Any, guide: Any, *args: Any, particles: int = 1000, evidence: Tensor | None = None
) -> EvidenceGap:
    r"""What the bound of a guide gives away: KL(q(z | x) ‖ p(z | x)), in nats.

    .. math::
        w_k = \frac{p(x, z_k)}{q(z_k \mid x)}, \quad z_k \sim q, \qquad
        \mathrm{ELBO} = \frac1K \sum_k \log w_k \;\le\; \log p(x) \approx \log \frac1K \sum_k w_k

    The evidence is exact for a :class:`~pyrodvae.models.Kalman` model, or where it is given. Otherwise
    it is the importance-weighted bound, in expectation no larger than log p(x): then the gap is one from
    below, close where the effective number of particles is large. Errors of both terms come from the same
    particles, and are taken together (to first order).

    Args:
        model, guide: programs of the same arguments; any latent sites, every one in the plate over
            sequences.
        args: the arguments: x (B, T, F), and lengths or whatever else both take.
        particles: K, in one run.
        evidence: log p(x) (B,), where it is known.

    Raises:
        ValueError: fewer than two particles; a site whose density is one for all sequences (that of the
            AutoGuides with a joint covariance).

    Source: Burda, Grosse & Salakhutdinov, *Importance weighted autoencoders* (2016).
    """
    if particles < 2:
        raise ValueError(f"A standard error needs at least two particles, not {particles}.")
    with pyro.plate("particles", particles, dim=-2):
        with settings(guide):
            q = poutine.trace(guide).get_trace(*args)
        with settings(model):
            p = poutine.trace(poutine.replay(model, trace=q)).get_trace(*args)
    log_w = _log_prob(p) - _log_prob(q)
    elbo = log_w.mean(0)
    if isinstance(model, Kalman) and evidence is None:
        evidence = _kalman_evidence(model, *args)
    weights = log_w.softmax(0)
    bound = log_w.logsumexp(0) - math.log(particles)
    # Of the particles: what each adds to the gap beyond the mean.
    share = elbo - log_w + (particles * weights - 1 if evidence is None else 0)
    return EvidenceGap(
        elbo,
        bound if evidence is None else evidence,
        (bound if evidence is None else evidence) - elbo,
        share.std(0) / math.sqrt(particles),
        evidence is not None,
        1 / weights.square().sum(0),
    )


def _kalman_evidence(model: Kalman, x: Tensor, lengths: Tensor | None = None) -> Tensor:
    observed = None if lengths is None else frame_mask(lengths, x.shape[-2])
    return kalman.filter(model.exact(torch.float64), x.double(), observed).log_evidence


def _log_prob(trace: poutine.Trace) -> Tensor:
    """Of all sites of a run together, (K, B)."""
    sites: list[Any] = [s for s in trace.nodes.values() if s["type"] == "sample"]
    terms = {s["name"]: s["fn"].log_prob(s["value"]) for s in sites if not site_is_subsample(s)}
    shape = torch.broadcast_shapes(*(v.shape for v in terms.values()))
    for name, v in terms.items():
        if v.shape != shape:  # to broadcast it would count it once for every sequence
            raise ValueError(
                f"The site '{name}' has densities {tuple(v.shape)} where others have {tuple(shape)}, "
                "particles × sequences: what is one for all sequences is compared on one at a time."
            )
    return torch.stack(list(terms.values())).sum(0)
