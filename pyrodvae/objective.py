"""What training minimises: the negative evidence lower bound, and a look inside when it fails."""

from __future__ import annotations

from typing import Any

import pyro
import torch
from pyro import poutine
from pyro.infer import Trace_ELBO, TraceMeanField_ELBO
from pyro.poutine.messenger import Messenger
from pyro.poutine.util import site_is_subsample
from torch import Tensor
from torch.distributions import kl_divergence

from pyrodvae.av_mixture import AVMixture
from pyrodvae.dvae import BATCH, DVAE, given
from pyrodvae.guide import Guide
from pyrodvae.mixture_objective import terms as mixture_terms
from pyrodvae.once import Once
from pyrodvae.program import Program, local_parameters
from pyrodvae.rollout import Rollout

Batch = tuple[Tensor, Tensor | None] | tuple[Tensor, Tensor | None, Tensor]
"""The arguments of a model and its guide: x (B, T, F), lengths (B,) or None, and video v (B, T, V) for a
model that is given one."""


class Prior(Program):
    r"""A model's prior as its guide, :math:`q(z_{1:T} \mid \cdot) = p_θ(z_{1:T} \mid \cdot)`.

    Its evidence lower bound is :math:`E_{p(z)}[\log p(x \mid z)]`, which audio-visual models are partly
    trained by, so that what the prior says from the lips alone is worth decoding.

    Source: the α-mixed objective of Sadeghi et al., *Audio-visual Speech Enhancement Using Conditional
    Variational Auto-Encoders* (2020).
    """

    def __init__(self, model: DVAE) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: Tensor, lengths: Tensor | None = None, v: Tensor | None = None) -> Tensor:
        """Sample the site ``z``, and what the model samples for a whole sequence."""
        with pyro.plate(BATCH, len(x), dim=-1):
            prior = self.model.prior(x, lengths, self.model.begin(len(x), *given(v)))
            z: Tensor = pyro.sample("z", prior)
        return z


class KLWeight(Messenger):
    """Scale every latent site by β, in model and guide alike, so that only the KL term shrinks.

    At β = 0 the latent sites are masked out instead, since Pyro refuses a scale of zero.
    """

    def __init__(self, beta: float) -> None:
        super().__init__()
        self.beta = beta

    def _pyro_sample(self, msg: Any) -> None:
        if msg["is_observed"] or site_is_subsample(msg):
            return
        if self.beta > 0:
            msg["scale"] = msg["scale"] * self.beta
        else:
            msg["mask"] = False


def elbo(objective: str) -> Trace_ELBO:
    """Pyro's loss for an objective: the fully sampled ELBO, or the one with analytic KL terms."""
    if objective not in ("analytic", "sampled"):
        raise ValueError(f"The objective is 'analytic' or 'sampled', not '{objective}'.")
    return TraceMeanField_ELBO() if objective == "analytic" else Trace_ELBO()


def arguments(x: Tensor, lengths: Tensor | None, v: Tensor | None) -> tuple[Any, ...]:
    """Those of a model and its guide: video only where there is one."""
    return (x, lengths, *given(v))


def traces(
    model: DVAE, guide: torch.nn.Module, x: Tensor, lengths: Tensor | None = None, v: Tensor | None = None
) -> tuple[poutine.Trace, poutine.Trace]:
    """One run of the guide, and one of the model on the latents that it drew."""
    args = arguments(x, lengths, v)
    with local_parameters(), Once():
        q = poutine.trace(guide).get_trace(*args)
        return q, poutine.trace(poutine.replay(model, trace=q)).get_trace(*args)


def latents(q: poutine.Trace) -> list[str]:
    """The names of a guide's sites."""
    return [name for name in q.stochastic_nodes if name != BATCH]


def density(trace: poutine.Trace, site: str) -> Any:
    """The distribution at a site."""
    return trace.nodes[site]["fn"]


def terms(
    model: DVAE, guide: Guide, x: Tensor, lengths: Tensor | None = None, v: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """One draw of (log p(x | z), KL(q ‖ p) along the path), each (B,), in nats.

    Of a mixture of audio and video they are the two parts of its own objective.
    """
    if isinstance(model, AVMixture):
        return mixture_terms(model, guide, x, lengths, v)
    q, p = traces(model, guide, x, lengths, v)
    log_p = density(p, "x").log_prob(x)
    kl = [kl_divergence(density(q, name), density(p, name)) for name in latents(q)]
    return log_p, torch.stack(kl).sum(0)


def find_nan(model: DVAE, guide: Guide, x: Tensor, lengths: Tensor | None, v: Tensor | None = None) -> str:
    """Name the first site, sequence and frame where a value or its log-probability is not finite."""
    with torch.no_grad():
        q, p = traces(model, guide, x, lengths, v)
        per_frame = {"x (its data)": x.abs().sum(-1)}
        for name in latents(q):
            value: Any = q.nodes[name]["value"]
            per_frame[f"{name} (drawn from the guide)"] = value.sum(-1)
            per_frame[f"{name} (under the guide)"] = _per_frame(density(q, name), value)
            per_frame[f"{name} (under the prior)"] = _per_frame(density(p, name), value)
        per_frame["x (given z)"] = density(p, "x").base_dist.log_prob(x)
    for site, value in per_frame.items():
        bad = (~torch.isfinite(value)).nonzero()
        if len(bad):
            frame = f", frame {int(bad[0][1])}" if value.dim() > 1 else ""
            return f"site {site}, sequence {int(bad[0][0])} of the batch{frame}"
    return "no single site: the values are finite on a second draw"


def _per_frame(fn: Any, value: Tensor) -> Tensor:
    """Log-probabilities (B, T) of a path, (B,) of what a sequence shares."""
    score: Tensor = (fn.along(value) if isinstance(fn, Rollout) else fn).log_prob(value)
    return score
