"""The only bridge from models to samplers: a Pyro model as a log density of its latent path."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from pyro import poutine
from torch import Tensor
from torch.distributions import Independent

from pyrodvae.program import local_parameters
from pyrodvae.rollout import Rollout


@dataclass(frozen=True)
class Target:
    """The posterior of the site ``z`` of a Pyro model, up to its normaliser.

    Args:
        model: a Pyro program with a latent site ``z``, all others observed.
        guide: a program for its posterior, for the engines that use one; or None.
        args: the arguments of both.
        reach: how many later frames have terms (see :meth:`frames`) that z_t enters; None if unknown.
    """

    model: torch.nn.Module
    guide: torch.nn.Module | None
    args: tuple[Any, ...]
    reach: int | None = None

    def log_joint(self, z: Tensor) -> Tensor:
        """log p(x, z) in nats for draws z (S, B, T, D): (S, B), one density per chain and sequence.

        Raises:
            ValueError: a further latent, which would be drawn anew each time: condition the model on it.
        """
        total: Tensor = sum(s["fn"].log_prob(s["value"]) for s in self._sites(z))
        return total

    def frames(self, z: Tensor) -> Tensor:
        """The terms of log p(x, z), log p(z_t | z_{<t}) + log p(x_t | z), (S, B, T); they sum to it.

        Raises:
            ValueError: as of :meth:`log_joint`; or a site whose density is no sum over frames.
        """
        total: Tensor = sum(per_frame(s["fn"], s["value"], s["name"]) for s in self._sites(z))  # type: ignore[assignment]
        return total

    def gradient(self, z: Tensor, density: Callable[[Tensor], Tensor] | None = None) -> tuple[Tensor, Tensor]:
        """log p(x, z) (S, B), and its gradient in z (S, B, T, D).

        Args:
            z: draws (S, B, T, D).
            density: :meth:`frames` gives the terms in place of their sum.
        """
        # Draws are independent of each other, so one backward pass through the sum serves all.
        with torch.enable_grad():
            z = z if z.is_leaf and z.requires_grad else z.detach().requires_grad_()
            log_p = (density or self.log_joint)(z)
            (gradient,) = torch.autograd.grad(log_p.sum(), z)
        return log_p.detach(), gradient

    def _sites(self, z: Tensor) -> list[Any]:
        with local_parameters():
            trace = poutine.trace(poutine.condition(self.model, {"z": z})).get_trace(*self.args)
        sites = [s for s in trace.nodes.values() if s["type"] == "sample" and s["name"] != "batch"]
        for s in sites:
            if not s["is_observed"]:
                raise ValueError(
                    f"The density is that of z alone, and the model has a latent '{s['name']}' besides: "
                    "condition the model on a value of it."
                )
        return sites


def per_frame(fn: Any, value: Tensor, name: str = "?") -> Tensor:
    """log p of a site (event (T, ·)) frame by frame: (S, B, T).

    Raises:
        ValueError: the distribution is neither a roll-out nor independent over frames.
    """
    if isinstance(fn, Rollout):
        terms = fn.along(value).log_prob(value)
        return terms if fn.frame_mask is None else terms.masked_fill(~fn.frame_mask, 0.0)
    if isinstance(fn, Independent) and len(fn.event_shape) in (1, 2):
        log_p: Tensor = fn.base_dist.log_prob(value)
        missing = fn.reinterpreted_batch_ndims - 1  # how many axes there are to the right of the frames
        return log_p.flatten(-missing).sum(-1) if missing else log_p
    raise ValueError(f"The site '{name}' is a {type(fn).__name__}, whose density is no sum over frames.")
