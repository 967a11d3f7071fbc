"""Does a kernel leave the posterior as it is?"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from pyrodvae.checks.joint import (
    LEVEL,
    RANDOMISATIONS,
    Functional,
    Kernel,
    called,
    check_level,
    check_replicates,
    functionals,
    is_kernel,
    p_value,
    run,
)
from pyrodvae.potential import Target

LEAST_MOVE = 0.01
"""A kernel that moves less, in standard deviations of z, has not been tested."""


@dataclass(frozen=True)
class Invariance:
    """What :func:`invariance` found; as a string, one sentence."""

    p_value: float
    """That of all statistics together."""
    changes: dict[str, float]
    """By how many standard errors the mean of each statistic changed."""
    moved: float
    """How far half of the replicates moved at least, in standard deviations of z."""
    replicates: int
    steps: int
    level: float

    @property
    def passed(self) -> bool:
        """The draws moved, and their law did not."""
        return self.moved >= LEAST_MOVE and self.p_value > self.level

    @property
    def worst(self) -> str:
        """The statistic that changed most."""
        return max(self.changes, key=lambda name: abs(self.changes[name]))

    def __str__(self) -> str:
        p, change = f"p = {self.p_value:.2g}", f"{self.worst} by {self.changes[self.worst]:+.1f}"
        where = f"over {self.steps} steps and {self.replicates} replicates"
        moved = f"the draws moved by {self.moved:.2g} standard deviations"
        if self.p_value <= self.level:
            return f"Not invariant: {where}, {change} standard errors ({p}); {moved}."
        if not self.passed:
            return f"Not tested: {where}, half of the draws moved by {self.moved:.1g} deviations at most."
        return f"Invariant: {where}, the largest change is {change} standard errors ({p}); {moved}."


def invariance(
    engine: Kernel,
    target: Target,
    z: Tensor,
    steps: int = 5,
    *,
    extra: Functional | None = None,
    level: float = LEVEL,
) -> Invariance:
    r"""Test whether a kernel leaves p(z | x) unchanged, of which nothing needs to be known.

    .. math::
        (z, x) \sim p(z, x),\quad z' \sim K^k(\cdot \mid z; x)
        \qquad\Rightarrow\qquad (z', x) \sim p(z, x)

    for a kernel K that is exact. Every sequence of the batch is a replicate of its own, so replicates
    are independent and identically distributed whatever the chains do. Each of the
    :func:`functionals` h is replaced by its rank u in (-1, 1) among all replicates before and after;
    statistics are all u and all products u_i u_j (locations, scales, dependences). Each is compared by
    its paired differences :math:`d_b = u(z'_b, x_b) - u(z_b, x_b)`, which lose what varies with x, and
    the largest of all :math:`|\sum_b d_b| / \|d\|` is referred to its law under random signs, one sign
    per replicate for all statistics at once.

    The p-value is exact at any number of replicates if K is reversible (Metropolis-Hastings, MALA,
    HMC, accepted jointly or at reach 0): then (z, z') and (z', z) have one law given x, and a sign is
    such an exchange. For others (a Gibbs sweep, combs of frames in turn) d has the mean zero, and is
    bounded: the p-value is right as replicates grow. The largest of many dependent statistics needs no
    further correction for their number.

    Args:
        engine: the kernel, any object with ``init`` and ``step`` as an engine has them. It must not adapt:
            with a warm-up, set it to 0.
        target: the model given x, which was drawn together with z.
        z: (B, T, D), from ``draw(model, x)`` or ``model.generate(frames, batch)``; some hundreds.
        steps: k ≥ 1. More steps let errors add up.
        extra: further functionals.
        level: the p-value at which it fails.

    Raises:
        ValueError: no kernel; no steps; fewer than 20 replicates, or another number of them in x; or a
            level that cannot be reached.

    Source: Geweke, *Getting it right* (2004); Gandy & Scott, *Unit testing for MCMC* (2020).
    """
    if not is_kernel(engine):
        raise ValueError(
            f"A kernel is an object with init and step, such as MALA(), and {called(engine)} is none."
        )
    if steps < 1:
        raise ValueError(f"A kernel that takes steps={steps} cannot be tested: give 1 or more.")
    check_replicates(z, target, 20)
    check_level(level)
    after = run(engine, target, z[None], steps)
    names, values = functionals(target, torch.cat([z[None], after]), extra)
    u = _ranks(values.flatten(1)).unflatten(1, (2, -1))  # (N, 2, B): before and after
    i, j = torch.triu_indices(len(u), len(u)).to(u.device)
    u = torch.cat([u, u[i] * u[j]])
    names = names + [f"({names[a]})({names[b]})" for a, b in zip(i.tolist(), j.tolist(), strict=True)]
    d = u[:, 1] - u[:, 0]
    d = d / d.norm(dim=1, keepdim=True).clamp(min=torch.finfo(d.dtype).tiny)
    signs = torch.randint(2, (RANDOMISATIONS, len(z)), device=d.device).to(d) * 2 - 1
    changes = d.sum(1)
    p = p_value(changes.abs().max(), (signs @ d.mT).abs().amax(1))
    distance = (after[0] - z).square().sum((-2, -1)) / z.var(0).sum()
    return Invariance(
        float(p),
        dict(zip(names, changes.tolist(), strict=True)),
        float(distance.sqrt().nan_to_num(nan=torch.inf).median()),
        len(z),
        steps,
        level,
    )


def _ranks(values: Tensor) -> Tensor:
    """Ranks along the last axis, scaled to (-1, 1); equals share theirs, and NaN counts as the largest."""
    values = values.nan_to_num(nan=torch.inf, posinf=torch.inf, neginf=-torch.inf).contiguous()
    ordered = values.sort(-1).values
    below, upto = (torch.searchsorted(ordered, values, right=right) for right in (False, True))
    return (below + upto).to(values) / values.shape[-1] - 1
