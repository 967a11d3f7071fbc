"""A table of what guides of several sights lose on a linear-Gaussian model, and a picture of it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pyrodvae.graph import FAMILY
from pyrodvae.graph_cost.joint import Joint
from pyrodvae.graph_cost.optimum import best_guide
from pyrodvae.guide import Sees
from pyrodvae.palette import PALETTE
from pyrodvae.plots import new_figure, save_picture
from pyrodvae.results import aligned

ROUNDING = 1e-9
"""Nats per frame that are printed as zero."""


@dataclass(frozen=True, eq=False)
class ArrowCost:
    """What :func:`arrow_cost` found, in nats per frame; as a string, a table, the largest gap first."""

    sights: Mapping[str, Sees]
    """Name → what the guide sees."""
    gap: Tensor
    """log p(x) − ELBO at each guide's optimum, on average over p(x), (G,)."""
    every: Tensor
    """Of it, what is lost for every x: the gap of a guide that sees the same of z, and all of x, (G,)."""
    measured: Tensor
    """The mean gap on the data, (G,)."""
    error: Tensor
    """Its standard error, (G,)."""
    evidence: float
    """Mean log p(x) of the data."""

    @property
    def amortised(self) -> Tensor:
        """The rest: what not seeing all of x costs a guide that is shared by all x, (G,)."""
        return self.gap - self.every

    @property
    def elbo(self) -> Tensor:
        """The mean ELBO on the data, (G,)."""
        return self.evidence - self.measured

    def order(self) -> list[int]:
        """The guides, the largest gap first."""
        return sorted(range(len(self.gap)), key=lambda i: -round(float(self.gap[i]), 9))

    def __str__(self) -> str:
        names, sights = [*self.sights], [str(s) for s in self.sights.values()]
        lines: list[tuple[str, ...]] = [
            ("guide", "", "gap", "for every x", "by amortising", "ELBO on data", "gap on data")
        ]
        for i in self.order():
            exact = (_number(v[i]) for v in (self.gap, self.every, self.amortised))
            chance = "" if self.error[i] < ROUNDING else f" ± {self.error[i]:.1g}"
            data = _number(self.measured[i]) + chance
            lines.append((names[i], sights[i], *exact, f"{self.elbo[i]:.4f}", data))
        return "\n".join(
            [f"Nats per frame below the log evidence, {self.evidence:.4f} on the data:", *aligned(lines)]
        )

    def plot(self, path: str | Path | None = None) -> Any:
        """Bars of the gaps, split into what every x costs and what amortising does.

        Raises:
            ValueError: the file's name does not end in .png or .svg.
            NotWritten: it cannot be written.
        """
        order = self.order()[::-1]
        names, sights = [*self.sights], [*self.sights.values()]
        labels = [f"{names[i]}\n{sights[i]}" for i in order]
        every, amortised = (v[order].clamp(min=0).tolist() for v in (self.every, self.amortised))
        figure = new_figure(8, 0.9 + 0.5 * len(order))
        axis = figure.subplots()
        axis.barh(labels, every, label="z-arrows: for every x", color=PALETTE[1])
        axis.barh(labels, amortised, left=every, label="x-arrows: by amortising", color=PALETTE[4])
        for place, i in enumerate(order):
            at = (float(self.gap[i]), place)
            axis.annotate(_number(self.gap[i]), at, (4, 0), textcoords="offset points", va="center")
        axis.set(xlabel="nats per frame, log evidence − ELBO at the optimum")
        axis.tick_params(axis="y", labelsize=8)
        axis.margins(x=0.12)
        axis.spines[["top", "right"]].set_visible(False)
        axis.legend(loc="lower right", frameon=False)
        if path is not None:
            save_picture(figure, path)
        return figure


def arrow_cost(joint: Joint, x: Tensor, sights: Mapping[str, Sees] = FAMILY) -> ArrowCost:
    r"""The gap between evidence and ELBO of the best guide of each sight, on a linear-Gaussian model.

    .. math:: \mathbb E_{p(x)} \big[\log p(x) - \mathrm{ELBO}\big]
              = \tfrac12 \Big(\sum_t \log\det H_t - \log\det P\Big)
              + \tfrac12 \operatorname{tr} P\, M Σ_x M^⊤

    with P the precision of the posterior, :math:`H_t` the precision of q(z_t | ·), and M x the error of the
    guide's mean. A guide that sees no z has :math:`H_t = P_{tt}`: with all of x, M = 0 and the first term is
    lost for every x. A missing frame of x costs only because one guide serves all x: for a single x it could
    be a constant.

    Args:
        joint: :func:`~pyrodvae.graph_cost.state_space` or :func:`~pyrodvae.graph_cost.linear_twin`.
        x: data (B, T, F) to measure on as well, B ≥ 2, for example ``joint.sample(100)``.
        sights: name → what the guide sees.

    Raises:
        ValueError: x of another shape, or a single sequence; no sight.
    """
    if not sights:
        raise ValueError("There is no sight to find the cost of.")
    evidence = joint.log_evidence(x)
    if len(x) < 2:
        raise ValueError("A standard error needs two sequences or more in x.")
    all_x = [replace(s, x_past=True, x_present=True, x_future=True) for s in sights.values()]
    best = {sees: best_guide(joint, sees) for sees in {*sights.values(), *all_x}}
    gaps = torch.stack([best[sees].gaps(x) for sees in sights.values()])
    T = joint.frames
    return ArrowCost(
        dict(sights),
        torch.stack([best[sees].gap for sees in sights.values()]) / T,
        torch.stack([best[sees].gap for sees in all_x]) / T,
        gaps.mean(-1) / T,
        gaps.std(-1) / math.sqrt(len(x)) / T,
        float(evidence.mean()) / T,
    )


def _number(v: Tensor) -> str:
    return "0" if abs(v) < ROUNDING else f"{v:.4f}"
