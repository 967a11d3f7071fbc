"""Which frames a sampler may accept or update at once, each by the terms near it: from the graph."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from pyrodvae.graph.dag import Graph
from pyrodvae.graph.spans import series


@dataclass(frozen=True)
class Certificate:
    """What the graph allows a kernel that moves the frames of a latent series.

    Args:
        name: of the series.
        reach: how many later frames have conditionals that a frame of it enters, see
            :class:`~pyrodvae.engines.metropolis.Metropolis`; None if as many as there are, or earlier ones.
        groups: variables that may move at the same time; the groups take turns.
        shared: an example of two that may not, and what both enter; None if all may.
    """

    name: str
    reach: int | None
    groups: tuple[tuple[str, ...], ...]
    shared: tuple[str, str, str] | None

    def __str__(self) -> str:
        """What is allowed, and why no more is."""
        if self.shared is None:
            return f"All frames of {self.name} may be accepted or updated at once, each by its own terms."
        why = "{} and {} both enter the terms of {}".format(*self.shared)
        if all(len(group) == 1 for group in self.groups):
            return (
                f"No two frames of {self.name} may be accepted or updated on their own at the same time: "
                f"{why}. Move any block by the full joint ratio."
            )
        first = " then ".join(", ".join(group[:2]) + ", …" * (len(group) > 2) for group in self.groups)
        turns = f"in {len(self.groups)} turns, {first}"
        return f"Frames of {self.name} may be accepted or updated at once {turns}: {why}."


def certificate(graph: Graph, name: str = "z") -> Certificate:
    r"""Which frames may move at once by local ratios, all else given.

    The terms that a variable enters are its own and its children's. Two that share a term (parent and
    child, or co-parents: neighbours in the moral graph) may not move at once by ratios of these terms
    alone, two that share none may: given the rest, they are independent.

    Args:
        graph: of a model. name: of a series of latents in it.

    Raises:
        ValueError: there is no such series.
    """
    groups = series(graph.nodes)
    if name not in groups or not graph.observed.isdisjoint(groups[name]):
        there = [stem for stem, nodes in groups.items() if graph.observed.isdisjoint(nodes)]
        raise ValueError(f"The graph has no latent series '{name}'; it has {', '.join(there) or 'none'}.")
    nodes = groups[name]
    together: list[list[str]] = []
    for node in nodes:  # into the first group that it shares no term with
        free = (group for group in together if not any(_term(graph, node, other) for other in group))
        group = next(free, None)
        if group is None:
            together.append([node])
        else:
            group.append(node)
    return Certificate(name, _reach(graph, nodes), tuple(map(tuple, together)), _example(graph, nodes))


def _reach(graph: Graph, nodes: Sequence[str]) -> int | None:
    frame = {node: t for names in series(graph.nodes).values() for t, node in enumerate(names)}
    later = [frame.get(child, -1) - t for t, node in enumerate(nodes) for child in graph.children(node)]
    most = max(later, default=0)
    return None if min(later, default=0) < 0 or most == len(nodes) - 1 else most


def _term(graph: Graph, a: str, b: str) -> str | None:
    """A variable whose conditional both enter."""
    common = ({a} | {*graph.children(a)}) & ({b} | {*graph.children(b)})
    return next((node for node in graph.nodes if node in common), None)


def _example(graph: Graph, nodes: Sequence[str]) -> tuple[str, str, str] | None:
    for i, a in enumerate(nodes):
        for b in nodes[i + 1 :]:
            term = _term(graph, a, b)
            if term is not None:
                return a, b, term
    return None
