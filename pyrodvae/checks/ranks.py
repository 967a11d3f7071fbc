"""Is a posterior calibrated: is the truth a draw like any other?"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.distributions import Binomial

from pyrodvae.checks.joint import (
    LEVEL,
    RANDOMISATIONS,
    Functional,
    called,
    check_level,
    check_replicates,
    functionals,
    guide_draws,
    is_kernel,
    p_value,
    run,
)
from pyrodvae.palette import coloured
from pyrodvae.plots import new_figure
from pyrodvae.potential import Target


@dataclass(frozen=True)
class Calibration:
    """What :func:`calibration` found; as a string, one sentence."""

    p_value: float
    """That of all functionals together."""
    p_values: dict[str, float]
    """Of each alone."""
    worst: str
    """The functional whose curve is farthest from uniform."""
    ranks: dict[str, Tensor] = field(repr=False)
    """How many draws are below the truth, 0 … L, for each functional (B,)."""
    draws: int
    """L."""
    level: float
    band: tuple[Tensor, Tensor] = field(repr=False)
    """Fewest and most replicates of a rank ≤ k, k = 0 … L - 1, at which the test is passed; each (L,)."""

    @property
    def passed(self) -> bool:
        """All curves are within the band."""
        return self.p_value > self.level

    def __str__(self) -> str:
        ranks = self.ranks[self.worst]
        B, p = len(ranks), f"p = {self.p_value:.2g}"
        what = f"the truth among {self.draws} draws, {B} replicates"
        if self.passed:
            return f"Calibrated: {what}, {len(self.ranks)} functionals ({p})."
        below = 100 * ranks.double().mean() / self.draws
        outside = 100 * (ranks % self.draws == 0).double().mean()
        expected = 200 / (self.draws + 1)
        return (
            f"Not calibrated: {what}, {self.worst} ({p}). The truth is above {below:.0f} % of draws (50 if "
            f"calibrated), and outside of all in {outside:.0f} % of replicates ({expected:.0f})."
        )

    def plot(self) -> Any:
        """The distribution of every rank less the uniform one, and the band that holds all at the level.

        Above the line on the left and below it on the right: the draws are too narrow. Below it or
        above it throughout: they are too low or too high.
        """
        figure = new_figure(7, 4)
        axis = coloured(figure.subplots())
        B, at = len(self.ranks[self.worst]), torch.arange(1, self.draws + 1) / (self.draws + 1)
        low, high = (edge / B - at for edge in self.band)
        axis.fill_between(at, low, high, step="mid", color="0.85", label=f"{100 * (1 - self.level):g} %")
        for name, ranks in self.ranks.items():
            axis.step(at, _counts(ranks[None], self.draws)[0] / B - at, where="mid", label=name)
        axis.axhline(0, color="0.4", linewidth=0.8)
        axis.set(xlabel="rank of the truth / (L + 1)", ylabel="distribution − uniform")
        axis.set_title("calibrated" if self.passed else f"not calibrated: {self.worst}")
        axis.legend(fontsize="small", ncols=2)
        return figure


def calibration(
    posterior: Any,
    target: Target,
    z: Tensor,
    *,
    chains: int = 63,
    draws: int = 1,
    warmup: int = 100,
    thin: int = 1,
    extra: Functional | None = None,
    level: float = LEVEL,
) -> Calibration:
    r"""Simulation-based calibration of an engine or of a guide, in one vectorised run.

    .. math::
        (z^*, x) \sim p(z, x),\quad z^{1:L} \sim q(\cdot \mid x) \qquad\Rightarrow\qquad
        \#\{l : h(z^l) < h(z^*)\} \sim \mathrm{Uniform}\{0 \dots L\}

    for all h if q is the posterior. The functions h are the :func:`functionals`: log p(x | z) among
    them, which looks at x and so finds posteriors that no h of z alone can find.

    The curve of ranks up to k, B times, is Binomial(B, (k+1)/(L+1)) at each k; its smallest two-sided
    tail over all k and h is the statistic. It is referred to its law when the truth is exchanged with a
    random draw in each replicate, all h together. Truth and draws are exchangeable given x exactly if q
    is the posterior and draws are independent: so the p-value is exact, however dependent the h are,
    and :meth:`Calibration.plot` shows a band that all curves leave with that probability.

    Args:
        posterior: an engine, or any object with ``init`` and ``step`` as it has them; or a guide, called
            with the target's arguments: an amortised one, or an AutoGuide that has been fitted to this
            very x.
        target: the model given x, which was drawn together with z.
        z: the truth (B, T, D), from ``draw(model, x)`` or ``model.generate(frames, batch)``.
        chains: S independent ones per replicate, each started at the truth of another; for a guide, draws.
        draws: of each chain, L = S · draws in total. One is the safe choice: draws of one chain are
            alike unless ``thin`` is long, and that alone is enough to fail.
        warmup: steps before the first draw. Chains that have not arrived fail, too.
        thin: steps from draw to draw.
        extra: further functionals.
        level: the p-value at which it fails.

    Raises:
        ValueError: neither engine nor guide; not more replicates than chains, or another number of them
            in x; numbers below one; or a level that cannot be reached.

    Source: Talts et al., *Validating Bayesian inference algorithms with simulation-based calibration*
    (2018); the curves and their band, Säilynoja, Bürkner & Vehtari (2022); h of z and x, Modrák et
    al. (2023).
    """
    if min(chains, draws, warmup, thin) < 1:
        raise ValueError(f"{chains=}, {draws=}, {warmup=} and {thin=} must all be at least 1.")
    check_replicates(z, target, chains + 1)
    check_level(level)
    sampler = is_kernel(posterior)
    if not sampler and (isinstance(posterior, type) or not callable(posterior)):
        raise ValueError(
            f"A posterior is an object with init and step, or a guide that can be called, and "
            f"{called(posterior)} is neither."
        )
    if sampler:
        other = (torch.arange(len(z)) - torch.arange(1, chains + 1)[:, None]) % len(z)
        drawn = run(posterior, target, z[other], warmup, draws, thin)
    else:
        drawn = guide_draws(posterior, target.args, chains * draws)
    names, values = functionals(target, torch.cat([z[None], drawn]), extra)
    places = _places(values.cpu())
    L, B = len(drawn), len(z)
    tails = _tails(B, L)
    chosen = torch.randint(L + 1, (RANDOMISATIONS + 1, B))
    chosen[0] = 0  # the truth; the others are what it is compared with
    # For each functional (loops are short, and its randomisations large): -log of the smallest tail, (R, N).
    surprise = torch.stack([_surprise(place.gather(0, chosen), tails) for place in places], 1)
    observed, null = surprise[0], surprise[1:]
    largest = null.amax(1).sort(descending=True).values
    allowed = tails >= torch.exp(-largest[math.floor(level * len(surprise) + 1e-9) - 1]) * (1 - 1e-9)
    counts = torch.arange(B + 1)[:, None]
    return Calibration(
        float(p_value(observed.max(), null.amax(1))),
        dict(zip(names, p_value(observed, null).tolist(), strict=True)),
        names[int(observed.argmax())],
        dict(zip(names, places[:, 0], strict=True)),
        L,
        level,
        (counts.where(allowed, B).amin(0), counts.where(allowed, 0).amax(0)),
    )


def _places(values: Tensor) -> Tensor:
    """The rank of each among the entries of the second axis, (N, L + 1, B); equals are ordered by lot."""
    N, size, B = values.shape
    values = values.nan_to_num(nan=torch.inf, posinf=torch.inf, neginf=-torch.inf)
    lot = torch.rand(size, B).argsort(0).expand(N, -1, -1)
    order = lot.gather(1, values.gather(1, lot).argsort(dim=1, stable=True))
    return order.argsort(1)


def _counts(ranks: Tensor, draws: int) -> Tensor:
    """How many of the ranks (R, B) are ≤ k, k = 0 … L - 1: (R, L)."""
    R, size = len(ranks), draws + 1
    each = torch.bincount((ranks + size * torch.arange(R)[:, None]).flatten(), minlength=R * size)
    return each.unflatten(0, (R, size)).cumsum(1)[:, :-1]


def _tails(replicates: int, draws: int) -> Tensor:
    """Two-sided tails of Binomial(B, (k+1)/(L+1)) at every count, (B + 1, L)."""
    share = torch.arange(1, draws + 1, dtype=torch.double) / (draws + 1)
    counts = torch.arange(replicates + 1, dtype=torch.double)[:, None]
    p = Binomial(replicates, share).log_prob(counts).exp()
    below, above = p.cumsum(0), p.flip(0).cumsum(0).flip(0)
    return (2 * torch.minimum(below, above)).clamp(max=1)


def _surprise(ranks: Tensor, tails: Tensor) -> Tensor:
    """-log of the smallest tail over all k, for ranks (R, B): (R,)."""
    return -tails.gather(0, _counts(ranks, tails.shape[1])).amin(1).clamp(min=1e-300).log()
