"""What training minimises: the negative evidence lower bound, and a look inside when it fails."""

from __future__ import annotations

from typing import Any

import torch
from pyro import poutine
from pyro.infer import Trace_ELBO, TraceMeanField_ELBO
from pyro.poutine.messenger import Messenger
from pyro.poutine.util import site_is_subsample
from torch import Tensor
from torch.distributions import kl_divergence

from pyrodvae.dvae import BATCH, DVAE
from pyrodvae.guide import Guide
from pyrodvae.once import Once
from pyrodvae.program import local_parameters
from pyrodvae.rollout import Rollout


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


def traces(
    model: DVAE, guide: Guide, x: Tensor, lengths: Tensor | None = None
) -> tuple[poutine.Trace, poutine.Trace]:
    """One run of the guide, and one of the model on the latents that it drew."""
    with local_parameters(), Once():
        q = poutine.trace(guide).get_trace(x, lengths)
        return q, poutine.trace(poutine.replay(model, trace=q)).get_trace(x, lengths)


def latents(q: poutine.Trace) -> list[str]:
    """The names of a guide's sites."""
    return [name for name in q.stochastic_nodes if name != BATCH]


def density(trace: poutine.Trace, site: str) -> Any:
    """The distribution at a site."""
    return trace.nodes[site]["fn"]


def terms(model: DVAE, guide: Guide, x: Tensor, lengths: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """One draw of (log p(x | z), KL(q ‖ p) along the path), each (B,), in nats."""
    q, p = traces(model, guide, x, lengths)
    log_p = density(p, "x").log_prob(x)
    kl = [kl_divergence(density(q, name), density(p, name)) for name in latents(q)]
    return log_p, torch.stack(kl).sum(0)


def find_nan(model: DVAE, guide: Guide, x: Tensor, lengths: Tensor | None) -> str:
    """Name the first site, sequence and frame where a value or its log-probability is not finite."""
    with torch.no_grad():
        q, p = traces(model, guide, x, lengths)
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
