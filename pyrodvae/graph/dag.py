"""A directed acyclic graph of random variables, and what may be read off it."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Set
from dataclasses import dataclass
from graphlib import CycleError, TopologicalSorter

Names = str | Iterable[str]
"""A variable, or several."""


@dataclass(frozen=True)
class Trail:
    """A trail along which two variables tell of each other.

    Args:
        nodes: from one end to the other.
        forward: for each step, whether the arrow points along it.
        opened: each collider on the trail → the given variable that opens it, itself or a descendant.
    """

    nodes: tuple[str, ...]
    forward: tuple[bool, ...]
    opened: Mapping[str, str]

    def __str__(self) -> str:
        """For example ``z_1 → x_2 ← z_2``."""
        steps = zip(self.forward, self.nodes[1:], strict=True)
        return self.nodes[0] + "".join(f" {'→' if along else '←'} {node}" for along, node in steps)

    def sentence(self) -> str:
        """The trail, and why it is open."""
        why = [
            f"{node} is given" if node == by else f"{by}, a descendant of {node}, is given"
            for node, by in self.opened.items()
        ]
        why = why or ["nothing on it is given"]
        return f"{self} is open: {', and '.join(why)}."


class Graph:
    """The variables of a model, and the arrows between them.

    Args:
        parents: each variable → those that its distribution looks at. The order is kept: in a model
            it is that of the program.
        observed: those that are.
        deterministic: those that are functions of their parents. d-separation stays sound, but they
            may separate more than it knows.
        plates: variable → the names of the plates that it is in.
        families: variable → the name of its distribution.
        notes: sentences about what a derivation could not make sure of.

    Raises:
        ValueError: an unknown variable, or a cycle.
    """

    def __init__(
        self,
        parents: Mapping[str, Iterable[str]],
        observed: Iterable[str] = (),
        *,
        deterministic: Iterable[str] = (),
        plates: Mapping[str, tuple[str, ...]] | None = None,
        families: Mapping[str, str] | None = None,
        notes: Iterable[str] = (),
    ) -> None:
        given = {node: frozenset(above) for node, above in parents.items()}
        self.nodes = tuple(given)
        self._parents = {node: self._in_order(above) for node, above in given.items()}
        self._children = {node: self._in_order(c for c in given if node in given[c]) for node in given}
        self.observed = self._known(observed)
        self.deterministic = self._known(deterministic)
        self.plates = dict(plates or {})
        self.families = dict(families or {})
        self.notes = tuple(notes)
        try:
            TopologicalSorter(given).prepare()
        except CycleError as error:
            raise ValueError(f"The arrows form a cycle: {' ← '.join(error.args[1])}.") from None

    def __str__(self) -> str:
        """A line for each variable and its parents, as in ``x_2 ← z_1, z_2 (observed)``; then the notes."""
        kinds = ((self.observed, " (observed)"), (self.deterministic, " (deterministic)"))
        lines = [
            node
            + (f" ← {', '.join(self._parents[node])}" if self._parents[node] else "")
            + "".join(kind for members, kind in kinds if node in members)
            for node in self.nodes
        ]
        return "\n".join([*lines, *self.notes])

    @property
    def latent(self) -> tuple[str, ...]:
        """The variables that are neither observed nor deterministic, in the order of the program."""
        return tuple(n for n in self.nodes if n not in self.observed | self.deterministic)

    @property
    def arrows(self) -> tuple[tuple[str, str], ...]:
        """(parent, child)."""
        return tuple((above, node) for node in self.nodes for above in self._parents[node])

    def parents(self, node: str) -> tuple[str, ...]:
        """Those with an arrow into it."""
        return self._parents[self._one(node)]

    def children(self, node: str) -> tuple[str, ...]:
        """Those with an arrow out of it."""
        return self._children[self._one(node)]

    def coparents(self, node: str) -> tuple[str, ...]:
        """The other parents of its children."""
        return self._in_order({p for c in self.children(node) for p in self._parents[c]} - {node})

    def markov_blanket(self, node: str) -> tuple[str, ...]:
        """Parents, children and co-parents: given these, nothing else tells of it.

        Source: Pearl, *Probabilistic Reasoning in Intelligent Systems* (1988), §3.3.
        """
        return self._in_order({*self.parents(node), *self.children(node), *self.coparents(node)})

    def ancestors(self, nodes: Names) -> frozenset[str]:
        """All from which arrows lead to them, and they themselves."""
        return self._reached(nodes, self._parents)

    def descendants(self, nodes: Names) -> frozenset[str]:
        """All to which arrows lead from them, and they themselves."""
        return self._reached(nodes, self._children)

    def neighbours(self, node: str) -> tuple[str, ...]:
        """Parents and children."""
        return self.parents(node) + self.children(node)

    # --- who tells of whom

    def d_separated(self, a: Names, b: Names, given: Names = ()) -> bool:
        r"""Whether a ⊥ b | given in every distribution with these arrows.

        Raises:
            ValueError: an unknown variable, or one that is in two of the sets.

        Source: Pearl (1988), §3.3.
        """
        return self.open_trail(a, b, given) is None

    def open_trail(self, a: Names, b: Names, given: Names = ()) -> Trail | None:
        """A shortest open trail from a to b; None if they are d-separated.

        A trail is open if every collider on it (→ · ←) or a descendant of that is given, and nothing
        else on it is. The search walks over pairs of a variable and the direction it was entered in.

        Raises:
            ValueError: as of :meth:`d_separated`.

        Source: Koller & Friedman, *Probabilistic Graphical Models* (2009), algorithm 3.1.
        """
        start, goal, known = self._known(a), self._known(b), self._known(given)
        for one, other in ((start, goal), (start, known), (goal, known)):
            if one & other:
                raise ValueError(f"{min(one & other)} is on both sides: give sets that share no variable.")
        opens = self.ancestors(known)
        # The last entry says whether the variable was entered along an arrow, from a parent.
        came: dict[tuple[str, bool], tuple[str, bool] | None] = {
            (node, False): None for node in self.nodes if node in start
        }
        queue = deque(came)
        while queue:
            here = queue.popleft()
            node, from_parent = here
            if node in goal:
                return self._trail(here, came, known)
            passes = node not in known
            up = node in opens if from_parent else passes
            steps = [(parent, False) for parent in self._parents[node] if up]
            steps += [(child, True) for child in self._children[node] if passes]
            for step in steps:
                if step not in came and step[0] not in start:
                    came[step] = here
                    queue.append(step)
        return None

    def open_trails(self, a: str, b: str, given: Names = ()) -> Iterator[Trail]:
        """All open trails from a to b, without loops, depth first; there may be very many."""
        known = self._known(given)
        opens = self.ancestors(known)
        goal = self._one(b)

        def walk(nodes: list[str], forward: list[bool]) -> Iterator[Trail]:
            here = nodes[-1]
            if here == goal:
                yield Trail(tuple(nodes), tuple(forward), self._opened(nodes, forward, known))
                return
            for there in self.neighbours(here):
                along = there in self._children[here]
                collides = bool(forward) and forward[-1] and not along
                passes = len(nodes) == 1 or (here in opens if collides else here not in known)
                if passes and there not in nodes:
                    yield from walk([*nodes, there], [*forward, along])

        yield from walk([self._one(a)], [])

    def needs(self, node: str, given: Names) -> tuple[str, ...]:
        r"""The least part of what is given that p(node | given) depends on.

        .. math:: \text{node} ⊥ \text{given} \setminus S \mid S

        It is unique: a variable is in S if and only if it is not d-separated from the node by all the others.
        """
        known = self._known(given)
        return tuple(
            other
            for other in self.nodes
            if other in known and not self.d_separated(node, other, known - {other})
        )

    def separator(self, a: str, b: str, among: Names | None = None) -> tuple[str, ...] | None:
        """A set that d-separates a from b, and of which nothing can be left out.

        Args:
            a, b: two variables.
            among: those that may be given; all others unless said.

        Returns:
            The set, possibly empty; None if there is none.
        """
        allowed = set(self.nodes if among is None else self._known(among)) - {a, b}
        # Among the ancestors, giving more never opens a trail: leave out one by one.
        kept = [n for n in self.nodes if n in self.ancestors((a, b)) & allowed]
        if not self.d_separated(a, b, kept):
            return None
        for node in tuple(kept):
            rest = [n for n in kept if n != node]
            if self.d_separated(a, b, rest):
                kept = rest
        return tuple(kept)

    # --- how

    def _trail(
        self,
        end: tuple[str, bool],
        came: Mapping[tuple[str, bool], tuple[str, bool] | None],
        known: Set[str],
    ) -> Trail:
        steps = [end]
        while (before := came[steps[-1]]) is not None:
            steps.append(before)
        nodes, entered = zip(*reversed(steps), strict=True)
        return Trail(nodes, entered[1:], self._opened(nodes, entered[1:], known))

    def _opened(self, nodes: Iterable[str], forward: Iterable[bool], known: Set[str]) -> dict[str, str]:
        inner, along = tuple(nodes)[1:-1], tuple(forward)
        colliders = [n for i, n in enumerate(inner) if along[i] and not along[i + 1]]
        return {n: n if n in known else min(self.descendants(n) & known) for n in colliders}

    def _reached(self, nodes: Names, step: Mapping[str, tuple[str, ...]]) -> frozenset[str]:
        found, ahead = set[str](), [*self._known(nodes)]
        while ahead:
            node = ahead.pop()
            if node not in found:
                found.add(node)
                ahead += step[node]
        return frozenset(found)

    def _in_order(self, nodes: Iterable[str]) -> tuple[str, ...]:
        found = self._known(nodes)
        return tuple(node for node in self.nodes if node in found)

    def _known(self, names: Names) -> frozenset[str]:
        found = frozenset([names] if isinstance(names, str) else names)
        unknown = found.difference(self.nodes)
        if unknown:
            raise ValueError(f"The graph has no variable '{min(unknown)}'; it has {', '.join(self.nodes)}.")
        return found

    def _one(self, name: str) -> str:
        (found,) = self._known(name)
        return found
