"""The only bridge from models to samplers: a Pyro model as a log density of its latent path."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from pyro import poutine
from torch import Tensor

from pyrodvae.program import local_parameters


@dataclass(frozen=True)
class Target:
    """The posterior of the site ``z`` of a Pyro model, up to its normaliser.

    Args:
        model: a Pyro program with a latent site ``z``, all others observed.
        guide: a program for its posterior, for the engines that use one; or None.
        args: the arguments of both.
    """

    model: torch.nn.Module
    guide: torch.nn.Module | None
    args: tuple[Any, ...]

    def log_joint(self, z: Tensor) -> Tensor:
        """log p(x, z) in nats for draws z (S, B, T, D): (S, B), one density per chain and sequence.

        Raises:
            ValueError: a further latent, which would be drawn anew each time: condition the model on it.
        """
        with local_parameters():
            trace = poutine.trace(poutine.condition(self.model, {"z": z})).get_trace(*self.args)
        sites = [s for s in trace.nodes.values() if s["type"] == "sample" and s["name"] != "batch"]
        for s in sites:
            if not s["is_observed"]:
                raise ValueError(
                    f"The density is that of z alone, and the model has a latent '{s['name']}' besides: "
                    "condition the model on a value of it."
                )
        total: Tensor = sum(s["fn"].log_prob(s["value"]) for s in sites)  # type: ignore[assignment,attr-defined]
        return total

    def gradient(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """log p(x, z) (S, B), and its gradient in z (S, B, T, D).

        Draws are independent of each other, so one backward pass through the sum serves all.
        """
        with torch.enable_grad():
            z = z if z.is_leaf and z.requires_grad else z.detach().requires_grad_()
            log_p = self.log_joint(z)
            (gradient,) = torch.autograd.grad(log_p.sum(), z)
        return log_p.detach(), gradient
