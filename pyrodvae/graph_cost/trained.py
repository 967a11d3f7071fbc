"""What guides of several sights reach once they are trained: a table of validation ELBOs."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pyrodvae.guide import Sees
from pyrodvae.objective import terms
from pyrodvae.palette import PALETTE
from pyrodvae.plots import new_figure, save_picture
from pyrodvae.results import aligned
from pyrodvae.weights import Run


@dataclass(frozen=True, eq=False)
class TrainedCost:
    """What :func:`trained_cost` found, in nats per frame; as a string, a table, the worst guide first."""

    sights: Mapping[str, Sees]
    """Name → what the run's guide sees."""
    elbo: Tensor
    """Mean over frames, (G,)."""
    behind: Tensor
    """By how much it is less than that of the best run, (G,)."""
    error: Tensor
    """Standard error of that, from the differences on each sequence, (G,)."""

    def __str__(self) -> str:
        lines: list[tuple[str, ...]] = [("run", "", "ELBO", "behind the best")]
        for i in self.elbo.argsort().tolist():
            name, sees = [*self.sights.items()][i]
            lines.append(
                (name, str(sees), f"{self.elbo[i]:.4f}", f"{self.behind[i]:.4f} ± {self.error[i]:.1g}")
            )
        return "\n".join(["Validation ELBO in nats per frame:", *aligned(lines)])

    def plot(self, path: str | Path | None = None, title: str = "") -> Any:
        """Dots with bars of one standard error: how far each run is behind the best, the worst on top.

        Raises:
            ValueError: the file's name does not end in .png or .svg.
            NotWritten: it cannot be written.
        """
        order = self.elbo.argsort(descending=True).tolist()
        rows = [f"{name}\n{sees}" for name, sees in self.sights.items()]
        figure = new_figure(8, 1.1 + 0.45 * len(order))
        axis = figure.subplots()
        axis.errorbar(
            self.behind[order].tolist(),
            [rows[i] for i in order],
            xerr=self.error[order].tolist(),
            fmt="o",
            color=PALETTE[1],
            capsize=3,
        )
        axis.axvline(0, color="0.6", linewidth=0.8, zorder=0)
        axis.set(xlabel="nats per frame behind the best ELBO, ± standard error", title=title)
        axis.tick_params(axis="y", labelsize=8)
        axis.margins(x=0.1, y=0.12)
        axis.spines[["top", "right"]].set_visible(False)
        if path is not None:
            save_picture(figure, path)
        return figure


@torch.no_grad()
def trained_cost(
    runs: Mapping[str, Run], x: Tensor, lengths: Tensor | None = None, *, draws: int = 16, seed: int = 0
) -> TrainedCost:
    """The ELBO of runs of one model that differ in their guides, on the same data.

    Where each run has trained its own model, what is compared is what each guide allowed to be learned: the
    gap of its posterior and what it did to the model together. Where all have one model
    (:func:`~pyrodvae.graph_cost.guides_beside`), it is the difference of their gaps.

    Args:
        runs: name → run, two or more.
        x: (B, T, F), B ≥ 2, of the model's data. lengths: (B,), where they differ.
        draws: of the path; the KL terms are analytic along each.
        seed: of the draws; the state of torch's own chance is kept.

    Raises:
        ValueError: a single run or sequence, runs of different models, or no draws.
    """
    kinds = {(type(run.model).__name__, run.model.observed) for run in runs.values()}
    if len(runs) < 2 or len(kinds) > 1:
        these = ", ".join(f"{name} with F = {F}" for name, F in sorted(kinds)) or "none"
        raise ValueError(f"Compare two runs or more of one model with different guides, not of {these}.")
    if len(x) < 2 or draws < 1:
        raise ValueError(f"Give two sequences or more and at least one draw, not {len(x)} and {draws}.")
    frames = x.shape[-2] * len(x) if lengths is None else int(lengths.sum())
    found = []
    with torch.random.fork_rng():
        for run in runs.values():
            torch.manual_seed(seed)
            drawn = (terms(run.model, run.guide, x, lengths) for _ in range(draws))
            found.append(torch.stack([log_p - kl for log_p, kl in drawn]).double().mean(0))
    elbo = torch.stack(found) * len(x) / frames  # of each sequence, in nats per mean number of frames
    mean = elbo.mean(-1)
    difference = elbo[mean.argmax()] - elbo
    return TrainedCost(
        {name: run.guide.sees for name, run in runs.items()},
        mean,
        difference.mean(-1),
        difference.std(-1) / math.sqrt(len(x)),
    )
