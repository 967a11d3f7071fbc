"""Whether a guide looks at what the exact posterior depends on: the verdict, arrow by arrow."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import pyro
import torch
from pyro.infer.autoguide import AutoGuide
from torch import Tensor
from torch.distributions import Independent

from pyrodvae.dvae import DVAE
from pyrodvae.graph.dag import Graph
from pyrodvae.graph.posterior import Factor, Factorisation, of_variables, posterior
from pyrodvae.graph.probe import Probe, outcome
from pyrodvae.graph.trace import FRAMES, POINTS, check_model, graph_of
from pyrodvae.mixture_guide import FrameByFrame, MixtureGuide
from pyrodvae.observations import DATA
from pyrodvae.program import Program, local_parameters
from pyrodvae.rollout import Rollout

BATCH = 2


@dataclass(frozen=True)
class Verdict:
    """What a guide looks at, against what the exact posterior needs.

    Args:
        name: of the guide.
        sees: what each of its draws depends on.
        needs: the exact posterior, its latents drawn in the guide's order.
    """

    name: str
    sees: Factorisation
    needs: Factorisation

    @property
    def missing(self) -> tuple[Factor, ...]:
        """For each latent (or series of them) that misses something, what."""
        found = [n.less(self.sees[n.name]) for group in self.needs.factors for n in group]
        return tuple(factor for factor in found if factor)

    @property
    def superfluous(self) -> tuple[Factor, ...]:
        """For each latent (or series of them) that looks at more than it needs, at what."""
        found = [n.less(self.needs[n.name]) for group in self.sees.factors for n in group]
        return tuple(factor for factor in found if factor)

    @property
    def compliant(self) -> bool:
        """Whether nothing is missing and nothing superfluous."""
        return not self.missing and not self.superfluous

    @property
    def sufficient(self) -> bool:
        """Whether nothing is missing, so that a rich enough guide can be exact: what the literature stars."""
        return not self.missing

    @property
    def word(self) -> str:
        """Compliant, simplified, sees more than it needs; or both of the last."""
        if self.compliant:
            return "compliant"
        words = ["simplified"] * bool(self.missing) + ["sees more than it needs"] * bool(self.superfluous)
        return ", and ".join(words)

    def __str__(self) -> str:
        """The verdict in a sentence that names the arrows."""
        said = f"{self.name} {self.word}" if self.word.startswith("sees") else f"{self.name} is {self.word}"
        if self.compliant:
            return f"{said}: {' '.join(f.text() for group in self.sees.factors for f in group)}."
        of: dict[str, list[str]] = {}
        for verb, factors in (("misses", self.missing), ("does not need", self.superfluous)):
            for factor in factors:
                of.setdefault(factor.name, []).append(f"{verb} {' and '.join(factor.parts())}")
        told = [f"{self.sees[name].text()} {', and '.join(what)}" for name, what in of.items()]
        return f"{said}: {'; '.join(told)}."


def compliance(
    model: DVAE, guide: Callable[..., Any], *, frames: int = FRAMES, graph: Graph | None = None
) -> Verdict:
    """Compare a guide with the exact posterior of a model.

    What the guide looks at is found by derivatives, see :func:`dependence`, not by what it declares.

    Args:
        model: any.
        guide: a guide of ours, or any function of x (B, T, F) (and of lengths, None, and video v (B, T, V),
            where the model is given that) that samples the model's latents: w where
            it has one, and the path z, as one site of a :class:`~pyrodvae.rollout.Rollout` or of independent
            frames, or frame by frame as ``z_0, z_1, …`` in any order.
        frames: T. graph: of the model for so many frames, where it is known already.

    Raises:
        ValueError: the guide does not sample these latents, or as one draw that has no frames; the model
            is no DVAE; or there are no frames.
    """
    graph = graph or graph_of(model, frames)
    name = (
        type(guide).__name__
        if isinstance(guide, torch.nn.Module)
        else getattr(guide, "__name__", "The guide")
    )
    if isinstance(guide, MixtureGuide):
        guide = FrameByFrame(guide)  # with its coins, which its fast program has summed out
    given = dependence(model, guide, frames)
    different = set(given) ^ set(graph.latent)
    if different:
        raise ValueError(
            f"{name} samples {', '.join(given) or 'nothing'} and the model has the latents "
            f"{', '.join(graph.latent)}: a guide samples all of them and nothing else."
        )
    return Verdict(name, of_variables(graph, given), posterior(graph, tuple(given)))


def dependence(model: DVAE, guide: Callable[..., Any], frames: int = FRAMES) -> dict[str, frozenset[str]]:
    r"""Of each latent that a guide draws, in its order: the latents and frames of x and v it looks at.

    .. math:: \frac{∂}{∂ x_s} \log q(z_t \mid \cdot) \ne 0 \quad \text{or} \quad
              \frac{∂}{∂ z_s} \log q(z_t \mid \cdot) \ne 0

    in double precision at one of several random points. x is no site of a guide, and frames that are
    computed together share their provenance, so tracing would not tell.

    Args:
        model, guide, frames: as of :func:`compliance`. Modules are copied and made double; a function has
            to take x in double precision.

    Raises:
        ValueError: the model is no DVAE; there are no frames; one draw of z has none; or the guide is one of
            Pyro's AutoGuides.
    """
    check_model(model, frames)
    if isinstance(guide, AutoGuide):
        raise ValueError(
            f"{type(guide).__name__} looks at no x: it is fitted to one batch, and has no arrows to judge. "
            "What it lacks is measured by checks.evidence_gap."
        )
    with _settings(guide):
        model, guide = copy.deepcopy((model, guide))  # together: some guides read with the model's networks
        for module in (model, guide):
            if isinstance(module, torch.nn.Module):
                module.double().requires_grad_(False)
    found: dict[str, frozenset[str]] = {}
    with torch.random.fork_rng(), pyro.validation_enabled(False):
        for seed in range(POINTS):
            torch.manual_seed(seed)
            kind = torch.cdouble if DATA[model.data][0].is_complex else torch.double
            x = torch.randn(BATCH, frames, model.observed, dtype=kind).requires_grad_()
            v = torch.rand(BATCH, frames, model.video, dtype=torch.double).requires_grad_()
            for name, seen in _looked_at(guide, x, v if model.video else None).items():
                found[name] = found.get(name, frozenset()) | seen
    return found


def _looked_at(guide: Callable[..., Any], x: Tensor, v: Tensor | None) -> dict[str, frozenset[str]]:
    """:func:`dependence` at one point."""
    probe = Probe("leaves", {}, deterministic=False)
    with _settings(guide), torch.enable_grad(), probe:
        guide(x) if v is None else guide(x, None, v)
    data = {"x": x} if v is None else {"x": x, "v": v}
    leaves = data | {name: site.value for name, site in probe.sites.items()}
    frames = x.shape[-2]
    found: dict[str, frozenset[str]] = {}
    for name, site in probe.sites.items():
        scores = {name: outcome(site)} if name != "z" else _per_frame(site.fn, site.value, frames)
        for node, score in scores.items():
            found[node] = frozenset(_felt(score.sum(), leaves, frames)) - {node}
    return found


def _felt(score: Tensor, leaves: dict[str, Tensor], frames: int) -> list[str]:
    """The variables along which a score has a slope."""
    if not score.requires_grad:
        return []
    slopes: Sequence[Tensor | None] = torch.autograd.grad(
        score, [*leaves.values()], allow_unused=True, retain_graph=True
    )
    felt: list[str] = []
    for name, slope in zip(leaves, slopes, strict=True):
        if slope is not None and name in ("x", "v", "z"):
            at = (slope != 0).transpose(-2, 0).flatten(1).any(-1)
            felt += [f"{name}_{t}" for t in range(frames) if at[t]]
        elif slope is not None and (slope != 0).any():
            felt.append(name)
    return felt


def _per_frame(fn: Any, z: Tensor, frames: int) -> dict[str, Tensor]:
    """log q(z_t | ·) of every frame of a path."""
    if isinstance(fn, Rollout):
        scores = fn.along(z).log_prob(z)
    else:
        while isinstance(fn, Independent):
            fn = fn.base_dist
        scores = fn.log_prob(z)
        if scores.dim() == z.dim():
            scores = scores.sum(-1)
        if scores.dim() != z.dim() - 1 or scores.shape[-1] != frames:
            raise ValueError(
                f"The guide draws its path z at once, from {type(fn).__name__}: there is no q(z_t | ·) of "
                "single frames to look at. Give one that draws a Rollout, independent frames, or z_0, z_1, …."
            )
    return {f"z_{t}": scores[..., t] for t in range(frames)}


def _settings(guide: object) -> AbstractContextManager[None]:
    """Programs of ours keep their parameters; others run under the settings that they were made under."""
    return local_parameters() if isinstance(guide, Program) else nullcontext()
