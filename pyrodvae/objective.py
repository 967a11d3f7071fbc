"""What training minimises: the negative evidence lower bound, and a look inside when it fails."""

from __future__ import annotations

from typing import Any

import torch
from pyro.infer import Trace_ELBO, TraceMeanField_ELBO
from pyro.poutine.messenger import Messenger
from pyro.poutine.util import site_is_subsample
from torch import Tensor

from pyrodvae.dvae import DVAE
from pyrodvae.guides import Guide


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


def terms(model: DVAE, guide: Guide, x: Tensor, lengths: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """One draw of (log p(x | z), KL(q ‖ p) along the path), each (B,), in nats."""
    q = guide.posterior(x, lengths)
    z = q.rsample()
    p = model.prior(x, lengths)
    log_p = model.likelihood(z, x, p, lengths).log_prob(x)
    return p.sum_frames(log_p), torch.distributions.kl_divergence(q, p)


def find_nan(model: DVAE, guide: Guide, x: Tensor, lengths: Tensor | None) -> str:
    """Name the first site, sequence and frame where a value or its log-probability is not finite."""
    with torch.no_grad():
        q = guide.posterior(x, lengths)
        z = q.rsample()
        p = model.prior(x, lengths)
        per_frame = {
            "x (its data)": x.abs().sum(-1),
            "z (drawn from the guide)": z.sum(-1),
            "z (under the guide)": q.along(z).log_prob(z),
            "z (under the prior)": p.along(z).log_prob(z),
            "x (given z)": model.likelihood(z, x, p, lengths).log_prob(x),
        }
    for site, value in per_frame.items():
        bad = (~torch.isfinite(value)).nonzero()
        if len(bad):
            return f"site {site}, sequence {int(bad[0][-2])} of the batch, frame {int(bad[0][-1])}"
    return "no single site: the values are finite on a second draw"
