"""From a Pyro program to its graph: provenance proposes the arrows, derivatives dispose."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Callable, Iterable, Set
from typing import Any

import pyro
import torch
from torch import Tensor

from pyrodvae.dvae import DVAE
from pyrodvae.graph.dag import Graph
from pyrodvae.graph.probe import (
    Probe,
    Sites,
    SizesOnly,
    changed,
    is_discrete,
    outcome,
    provenance,
    turned_on,
)
from pyrodvae.program import local_parameters

FRAMES = 5
"""Enough to tell z_{t-1} from z_{<t}, and the first and last frame from those between."""
POINTS = 3
"""Random points at which derivatives are taken."""
CHANGES = 3
"""How often a value is changed at each, where derivatives say nothing; see :func:`changed`."""

Arrow = tuple[str, str]


def graph_of(model: DVAE, frames: int = FRAMES) -> Graph:
    """The graph of a dynamical VAE: sites ``z_0, x_0, z_1, …`` of its program frame by frame, x observed.

    Frames of video, where the model is given any, are variables ``v_0, v_1, …`` without parents, observed.

    Args:
        model: any; a copy is looked at, in double precision.
        frames: T.

    Raises:
        ValueError: as of :func:`check_model`, and of :func:`trace_graph`.
    """
    check_model(model, frames)
    with local_parameters():
        model = copy.deepcopy(model).double().requires_grad_(False).drawable()
        observed = [f"x_{t}" for t in range(frames)]
        v = torch.zeros(1, frames, model.video, dtype=torch.double) if model.video else None
        return trace_graph(lambda: model.steps(frames=frames, v=v), observed=observed)


def check_model(model: object, frames: int) -> None:
    """Raise a ValueError unless it is a dynamical VAE, and is looked at for a frame at least."""
    if not isinstance(model, DVAE):
        name = getattr(model, "__name__", type(model).__name__)
        raise ValueError(
            f"{name} is not a DVAE, whose program frame by frame is known: "
            "trace_graph(program, *args) gives the graph of any Pyro program."
        )
    if frames < 1:
        raise ValueError(f"A graph of {frames} frames has no variables: give {FRAMES}, or 1 at least.")


def trace_graph(
    program: Callable[..., Any], *args: Any, observed: Iterable[str] = (), deterministic: bool = False
) -> Graph:
    """The graph of a Pyro program: a variable for each site, an arrow wherever a distribution looks.

    Every site is drawn, the observed ones too. The arrows are what Pyro's provenance tracking says,
    as in :func:`pyro.infer.inspect.get_model_relations`, less what derivatives refute: the value of a
    site marks all that is computed with it, zeros made in its likeness and all frames of a stack, and
    an arrow whose Jacobian is zero at several random points, and which no large change of the value
    makes itself felt through, is none. Where no derivative exists (discrete values, comparisons,
    values that leave torch as numbers), nothing is refuted; the graph's notes say so.

    Args:
        program: a function or module with Pyro sites. A module should be in double precision.
        args: its arguments; ``pyro.sample(..., obs=x)`` marks a site as observed. What feeds back has to
            be the value that ``pyro.sample`` returns: the data themselves carry no arrow.
        observed: sites that count as observed besides.
        deterministic: whether ``pyro.deterministic`` sites are variables too, or arrows pass through them.

    Raises:
        ValueError: two sites have one name; the set of sites depends on the values of others or on
            chance; or the program has no site at all.
    """
    with torch.random.fork_rng(), pyro.validation_enabled(False):
        return _Derivation(program, args, deterministic).graph(frozenset(observed))


class _Derivation:
    """The steps of :func:`trace_graph`."""

    def __init__(self, program: Callable[..., Any], args: tuple[Any, ...], deterministic: bool) -> None:
        self.program, self.args, self.deterministic = program, args, deterministic
        self.sites: Sites = {}
        self.notes: list[str] = []
        self.warned = False

    def graph(self, observed: frozenset[str]) -> Graph:
        arrows, left = self._provenance()
        arrows = self._checked(arrows) | self._of_numbers(left)
        sites = self.sites
        return Graph(
            {name: [u for u in sites if (u, name) in arrows] for name in sites},
            observed | {name for name, site in sites.items() if site.observed},
            deterministic={name for name, site in sites.items() if site.deterministic},
            plates={name: site.plates for name, site in sites.items()},
            families={name: site.family for name, site in sites.items()},
            notes=self.notes,
        )

    def _provenance(self) -> tuple[set[Arrow], frozenset[str]]:
        """The arrows that are proposed, and the sites whose values leave torch."""
        runs = [self._proposed(seed) for seed in range(POINTS)]
        left = frozenset[str]().union(*(out for _, out in runs))
        found = [arrows for arrows, _ in runs]
        for seed in range(POINTS if left else 0):
            _, others = self._others(seed, left)
            found += [self._proposed(seed, values)[0] for _, values in others]
        union = set[Arrow]().union(*found)
        self._note(
            union - found[0].intersection(*found[1:]),
            "there in some runs only: structure depends on values or on chance, and the graph has all of it",
        )
        return union, left

    def _proposed(
        self, seed: int, held: dict[str, Tensor] | None = None
    ) -> tuple[set[Arrow], frozenset[str]]:
        """The arrows that provenance shows in one run, and the sites whose values leave torch."""
        with torch.no_grad(), SizesOnly() as sizes:
            sites = self._run("provenance", seed, held)
            seen = {name: provenance(outcome(site)) - {name} for name, site in sites.items()}
        self._data_read_again(sites, seen)
        arrows = {(u, name) for name, above in seen.items() for u in above if u in sites}
        return arrows, sizes.left & sites.keys()

    def _checked(self, arrows: set[Arrow]) -> set[Arrow]:
        """Those that derivatives, or else changes of the value, confirm or cannot refute."""
        suspects, zeros = set(arrows), {arrow: 0 for arrow in arrows}
        for seed in range(POINTS):
            if suspects:
                slopes = _slopes(self._run("leaves", seed), suspects)
                for arrow, slope in slopes.items():
                    zeros[arrow] += not slope
                suspects -= {arrow for arrow, slope in slopes.items() if slope}
        for seed, attempt in itertools.product(range(POINTS), range(CHANGES)):
            # A coin may have kept a slope from showing: all are turned.
            turned = self._turned(seed, attempt) if suspects else {}
            if turned:
                slopes = _slopes(self._run("leaves", seed, turned), suspects)
                suspects -= {arrow for arrow, slope in slopes.items() if slope}
        felt = self._felt({u for u, _ in suspects}) & suspects
        refuted = {arrow for arrow in suspects - felt if zeros[arrow] == POINTS}
        self._note(
            {(u, d) for u, d in felt if _continuous(self.sites[u].value)},
            "kept: no derivative passes, but a change of the first moves the second",
        )
        self._note(
            suspects - felt - refuted,
            "kept, and not made sure of: no derivative exists, and no change of the first moved the second",
        )
        return arrows - refuted

    def _of_numbers(self, left: frozenset[str]) -> set[Arrow]:
        """Arrows out of sites whose values are made numbers, which hides what becomes of them."""
        felt = self._felt(left)
        for name in sorted(left):
            to = ", ".join(d for u, d in sorted(felt) if u == name) or "nothing"
            self.notes.append(
                f"The value of {name} leaves torch (item, float, if …): changes of it at {POINTS} points "
                f"moved {to}; there may be more arrows."
            )
        return felt

    def _felt(self, names: Set[str]) -> set[Arrow]:
        """(u, d) such that a change of u alone moves the distribution of d at some point."""
        felt: set[Arrow] = set()
        for seed in range(POINTS if names else 0):
            held, others = self._others(seed, names)
            before = {name: outcome(site) for name, site in self._run("plain", seed, held).items()}
            for u, values in others:
                after = self._run("plain", seed, values)
                felt |= {(u, d) for d in after if d != u and not _same(outcome(after[d]), before[d])}
        return felt

    def _others(
        self, seed: int, names: Set[str]
    ) -> tuple[dict[str, Tensor], list[tuple[str, dict[str, Tensor]]]]:
        """The values of all sites at a point; and those with one of the names changed, in several ways."""
        sites = self._run("plain", seed)
        held = {name: site.value for name, site in sites.items()}
        torch.manual_seed(POINTS + seed)  # not the numbers that the values were made of
        ways = itertools.product(sorted(names), range(CHANGES))
        return held, [(u, {**held, u: changed(sites[u], attempt)}) for u, attempt in ways]

    def _turned(self, seed: int, attempt: int) -> dict[str, Tensor]:
        """The values of all sites at a point, those with few possible values at another of these; or {}."""
        sites = self._run("plain", seed)
        turned = {name: turned_on(site, attempt) for name, site in sites.items() if is_discrete(site)}
        return turned and {name: site.value for name, site in sites.items()} | turned

    def _run(self, how: str, seed: int, held: dict[str, Tensor] | None = None) -> Sites:
        torch.manual_seed(seed)
        probe = Probe(how, held or {}, self.deterministic)
        args = probe.marked(self.args)
        with probe, torch.set_grad_enabled(how == "leaves"):
            self.program(*args)
        if not probe.sites:
            raise ValueError("The program has no pyro.sample site: there is no graph to draw.")
        self.sites = self.sites or probe.sites
        different = self.sites.keys() ^ probe.sites.keys()
        if different:
            raise ValueError(
                f"The sites of the program depend on values or on chance ('{min(different)}' is in some runs "
                "only), so it has no one graph: fix what decides it, for example the number of frames."
            )
        return probe.sites

    def _data_read_again(self, sites: Sites, seen: dict[str, frozenset[str]]) -> None:
        """Warn, once, where a distribution looks at an argument that other sites observe."""
        both = ((d, u) for d in sites for u in sites if d != u and seen[d] & sites[u].data)
        if self.warned or (pair := next(both, None)) is None:
            return
        self.warned = True
        self.notes.append(
            "{} looks at the argument that {} observes. Where it means the value of that site, use what "
            "pyro.sample returns: the argument carries no arrow.".format(*pair)
        )

    def _note(self, arrows: Iterable[Arrow], what: str) -> None:
        self.notes += [f"{u} → {d} is {what}." for u, d in sorted(arrows)]


def _slopes(sites: Sites, arrows: set[Arrow]) -> dict[Arrow, bool]:
    """For each arrow that a derivative exists along, whether it is other than zero."""
    found: dict[Arrow, bool] = {}
    for name, site in sites.items():
        above = [u for u, d in arrows if d == name and sites[u].value.requires_grad]
        at = outcome(site)
        if above and at.requires_grad:
            leaves = [sites[u].value for u in above]
            slopes = torch.autograd.grad(at.sum().real, leaves, allow_unused=True, retain_graph=True)
            found |= {
                (u, name): bool((g != 0).any()) for u, g in zip(above, slopes, strict=True) if g is not None
            }
    return found


def _continuous(value: Tensor) -> bool:
    return value.is_floating_point() or value.is_complex()


def _same(a: Tensor, b: Tensor) -> bool:
    return a.shape == b.shape and torch.allclose(a, b, rtol=0, atol=0, equal_nan=True)
