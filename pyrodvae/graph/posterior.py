"""How the exact posterior factorises, derived from the graph and written for any number of frames."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from pyrodvae.graph.dag import Graph
from pyrodvae.graph.spans import Span, series, spans


@dataclass(frozen=True)
class Factor:
    """A conditional distribution, or those of all frames of a series.

    Args:
        name: of the variable, or of the series (z for z_0, z_1, …).
        given: each of its variables → those that it is conditioned on.
        groups: the series that there are, by name.
        order: all variables, in the order in which they are written.
    """

    name: str
    given: Mapping[str, frozenset[str]]
    groups: Mapping[str, tuple[str, ...]]
    order: tuple[str, ...] = field(repr=False)

    @property
    def serial(self) -> bool:
        """Whether it stands for all frames of a series."""
        return self.name in self.groups

    def windows(self) -> dict[str, tuple[Span, ...]] | None:
        """What is given: series → frames around t; a variable that is in no series → ().

        Returns:
            None if the frames differ in more than what there is before the first and after the last.
        """
        if not self.serial:
            return None
        found: dict[str, tuple[Span, ...]] = {}
        nodes = self.groups[self.name]
        for other in self.names()[len(self.groups) :]:
            seen = {other in self.given[node] for node in nodes}
            if len(seen) > 1:
                return None
            if True in seen:
                found[other] = ()
        for stem in sorted(self.groups, key=lambda stem: self.order.index(self.groups[stem][0])):
            offsets = {
                t: {s - t for s, other in enumerate(self.groups[stem]) if other in self.given[node]}
                for t, node in enumerate(nodes)
            }
            there = spans(offsets, len(nodes))
            if there is None:
                return None
            if there:
                found[stem] = there
        return found

    def parts(self) -> tuple[str, ...]:
        """What is given, as ``z_{t-1}`` and ``x_{t:T}``; arrow by arrow where frames differ."""
        windows = self.windows()
        if windows is not None:
            return tuple(
                text for name, there in windows.items() for text in ([s.text(name) for s in there] or [name])
            )
        if self.serial:
            return tuple(f"{o} (of {n})" for n, given in self.given.items() for o in self._sorted(given))
        return self._whole(self.given[self.name])

    def text(self, symbol: str = "q") -> str:
        """As in ``q(z_t | z_{t-1}, x_{t:T})``; frame by frame where they differ."""
        if self.serial and self.windows() is None:
            return " ".join(_conditional(symbol, n, self._sorted(given)) for n, given in self.given.items())
        return _conditional(symbol, f"{self.name}_t" if self.serial else self.name, self.parts())

    def python(self) -> str:
        """A line that draws it by a function ``q_name``.

        Raises:
            ValueError: frames differ, so there is no one line.
        """
        windows = self.windows()
        if not self.serial:
            return (
                f"{self.name} = q_{self.name}({', '.join(self._whole(self.given[self.name], slices=True))})"
            )
        if windows is None:
            raise ValueError(f"The frames of {self.name} differ: {self.text()}. No one line draws them all.")
        slices = [s for name, there in windows.items() for s in ([p.python(name) for p in there] or [name])]
        return f"{self.name}.append(q_{self.name}({', '.join(slices)}))"

    def names(self) -> tuple[str, ...]:
        """Of all series, and of the variables that are in none."""
        members = {node for names in self.groups.values() for node in names}
        return (*self.groups, *(node for node in self.order if node not in members))

    def less(self, other: Factor) -> Factor:
        """What this one is conditioned on and the other is not."""
        rest = {node: given - other.given[node] for node, given in self.given.items()}
        return Factor(self.name, rest, self.groups, self.order)

    def __bool__(self) -> bool:
        """Whether it is conditioned on anything."""
        return any(self.given.values())

    def _sorted(self, nodes: frozenset[str]) -> tuple[str, ...]:
        return tuple(node for node in self.order if node in nodes)

    def _whole(self, nodes: frozenset[str], slices: bool = False) -> tuple[str, ...]:
        """The variables, those of complete series taken together."""
        whole = {stem: names for stem, names in self.groups.items() if nodes.issuperset(names)}
        rest = nodes.difference(*whole.values())
        written = {names[0]: f"{stem}[:]" if slices else f"{stem}_{{1:T}}" for stem, names in whole.items()}
        where = {n: f"{stem}[{t}]" for stem, names in self.groups.items() for t, n in enumerate(names)}
        written |= {node: where.get(node, node) if slices else node for node in rest}
        return tuple(written[node] for node in self.order if node in written)


@dataclass(frozen=True)
class Factorisation:
    """A joint distribution as a product of conditionals.

    Args:
        factors: in the order in which they are drawn; one tuple for each product over frames.
        given: what all of it is conditioned on. symbol: q or p.
    """

    factors: tuple[tuple[Factor, ...], ...]
    given: tuple[str, ...]
    symbol: str = "q"

    def __getitem__(self, name: str) -> Factor:
        return {factor.name: factor for group in self.factors for factor in group}[name]

    def __str__(self) -> str:
        """As in ``q(z_{1:T} | x_{1:T}) = ∏_t q(z_t | z_{t-1}, x_{t:T})``."""
        products = [
            ("∏_t " if group[0].windows() is not None else "") + " ".join(f.text(self.symbol) for f in group)
            for group in self.factors
        ]
        return f"{self._left()} = {' '.join(products) or '1'}"

    def latex(self) -> str:
        r"""As in ``q(z_{1:T} \mid x_{1:T}) = \prod_{t=1}^T q(z_t \mid z_{t-1}, x_{t:T})``."""
        text = str(self).replace(" | ", r" \mid ").replace("∏_t ", r"\prod_{t=1}^T ")
        text = re.sub(r"_(\d{2,})", r"_{\1}", text)
        names = {name for group in self.factors for f in group for name in f.names()}
        for name in sorted((n for n in names if len(n) > 1), key=len, reverse=True):
            text = _typeset(text, name)
        return text

    def python(self) -> str:
        """A program that draws all, by functions that are given what they need.

        Frames count from 0, and a series is a list; T and what is observed are there.

        Raises:
            ValueError: frames differ, or are not drawn forward in time.
        """
        lines: list[str] = []
        for group in self.factors:
            if not group[0].serial:
                lines.append(group[0].python())
                continue
            for factor in group:
                own = (factor.windows() or {}).get(factor.name, ())
                if any(span.last is None or span.last >= 0 for span in own):
                    raise ValueError(f"{factor.text()} looks ahead: no loop forward in time draws it.")
            lines += [f"{factor.name} = []" for factor in group] + ["for t in range(T):"]
            lines += [f"    {factor.python()}" for factor in group]
        return "\n".join(lines)

    def _left(self) -> str:
        names = tuple(f"{f.name}_{{1:T}}" if f.serial else f.name for group in self.factors for f in group)
        return _conditional(self.symbol, ", ".join(names), self.given)


def posterior(graph: Graph, order: tuple[str, ...] | None = None) -> Factorisation:
    r"""The exact posterior of all latents, each conditioned on no more than it depends on.

    .. math:: p(z_{1:N} \mid x) = \prod_n p(z_n \mid S_n), \qquad S_n ⊆ \{z_{<n}, x\} \text{ minimal}

    The chain rule gives each latent those drawn before it and all that is observed;
    :meth:`Graph.needs` finds which of these it depends on.

    Args:
        graph: of the model.
        order: in which latents are drawn, all of them; that of the program unless given.

    Raises:
        ValueError: the order leaves out a latent, names one twice, or names what is none.
    """
    order = graph.latent if order is None else order
    if sorted(order) != sorted(graph.latent):
        raise ValueError(
            f"The order names {', '.join(order) or 'nothing'} and the graph has the latents "
            f"{', '.join(graph.latent) or 'none'}: name each of these once, in the order they are drawn in."
        )
    needs = {
        node: frozenset(graph.needs(node, {*order[:i], *graph.observed})) for i, node in enumerate(order)
    }
    return of_variables(graph, needs, "q")


def generative(graph: Graph) -> Factorisation:
    """The joint distribution as the program draws it, every variable given its parents."""
    return of_variables(graph, {node: frozenset(graph.parents(node)) for node in graph.nodes}, "p")


def blankets(graph: Graph, name: str) -> Factor:
    """The Markov blankets of a variable, or of a series: B(z_t) = {z_{t-1}, z_{t+1}, x_t}.

    Raises:
        ValueError: the graph has neither of that name.
    """
    groups = series(graph.nodes)
    around = {node: frozenset(graph.markov_blanket(node)) for node in groups.get(name, (name,))}
    return Factor(name, around, groups, _order(graph))


def of_variables(graph: Graph, given: Mapping[str, frozenset[str]], symbol: str = "q") -> Factorisation:
    """The product of conditionals, one for each variable.

    Args:
        graph: where they are from.
        given: in the order in which they are drawn, what each is conditioned on.
        symbol: ``"q"`` for a distribution given what is observed, ``"p"`` for one given nothing.
    """
    groups = series(graph.nodes)
    place = {node: i for i, node in enumerate(given)}
    of = {node: stem for stem, nodes in groups.items() for node in nodes}
    order = _order(graph)
    products: list[tuple[Factor, ...]] = []
    last = -1
    for name in dict.fromkeys(of.get(node, node) for node in given):
        nodes = groups.get(name, (name,))
        factor = Factor(name, {node: given[node] for node in nodes}, groups, order)
        together = products and name in groups and place[nodes[0]] < last
        if together and factor.windows() is not None and products[-1][0].windows() is not None:
            products[-1] = (*products[-1], factor)
        else:
            products.append((factor,))
        last = max(last, max(place[node] for node in nodes))
    rest = frozenset(graph.observed) if symbol == "q" else frozenset()
    return Factorisation(tuple(products), Factor("", {"": rest}, groups, order)._whole(rest), symbol)


def _order(graph: Graph) -> tuple[str, ...]:
    """Latents first."""
    return tuple(sorted(graph.nodes, key=lambda node: node in graph.observed))


def _conditional(symbol: str, name: str, given: tuple[str, ...]) -> str:
    return f"{symbol}({name} | {', '.join(given)})" if given else f"{symbol}({name})"


def _typeset(text: str, name: str) -> str:
    upright = r"\\mathrm{" + name.replace("_", r"\\_") + "}"
    return re.sub(rf"(?<![\w\\{{]){re.escape(name)}(?=[ _,)]|$)", upright, text)
