"""Where the variables of a graph are drawn, and which way its arrows bend."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from graphlib import TopologicalSorter
from itertools import pairwise

import numpy as np

from pyrodvae.graph import Graph, series

Arrow = tuple[str, str]
"""(parent, child)."""
Place = tuple[float, float]
"""To the right and downwards, in units of the distance between neighbours."""
Box = tuple[float, float, float, float]
"""Left, top, right, bottom."""

RADIUS = 0.27
"""Of a node."""
BENDS = (0.0, 0.15, -0.15, 0.3, -0.3, 0.45, -0.45, 0.65, -0.65)
"""What is tried to get an arrow around the nodes in its way, best liked first."""
CLEAR = RADIUS + 0.11
"""The least distance between an arrow and the centre of a node that it does not touch."""
MARGIN = 0.42
"""Between the centre of a node and the frame of its innermost plate."""
NAME = 0.12
"""For the name of a plate, below its nodes."""
SWEEPS = 16
"""Over the layers of a graph without series."""


@dataclass(frozen=True)
class Picture:
    """A graph with its layout.

    Args:
        graph: what is drawn.
        at: node → its centre.
        labels: node → its name and its subscript.
        further: arrows that stand for those from all frames further that way, too.
    """

    graph: Graph
    at: Mapping[str, Place]
    labels: Mapping[str, tuple[str, str]]
    further: frozenset[Arrow] = field(default_factory=frozenset)

    def boxes(self) -> dict[str, Box]:
        """The frames of the plates; a plate whose frame would have others inside has none."""
        members = {
            plate: {node for node, plates in self.graph.plates.items() if plate in plates and node in self.at}
            for plate in dict.fromkeys(p for plates in self.graph.plates.values() for p in plates)
        }
        found: dict[str, Box] = {}
        for plate, nodes in members.items():
            inside = sum(other < nodes for other in members.values())
            if not nodes:
                continue
            xs, ys = zip(*(self.at[node] for node in nodes), strict=True)
            wide = MARGIN + 0.16 * inside
            box = (min(xs) - wide, min(ys) - wide, max(xs) + wide, max(ys) + wide + NAME)
            within = {n for n, (x, y) in self.at.items() if box[0] < x < box[2] and box[1] < y < box[3]}
            if within == nodes:
                found[plate] = box
        return found

    def unframed(self) -> dict[str, tuple[str, ...]]:
        """Node → the plates that it is in and that have no frame, for those that are in some."""
        framed = self.boxes()
        found = {n: tuple(p for p in self.graph.plates.get(n, ()) if p not in framed) for n in self.at}
        return {node: plates for node, plates in found.items() if plates}


def unrolled(graph: Graph) -> Picture:
    """All variables: a row for each series ``z_0, z_1, …`` with a column for each frame, others beside it.

    The observed series are below. A graph without series is drawn in layers, parents above children.
    """
    rows = _rows(graph)
    at = _beside(graph, rows) if rows else _layers(graph)
    labels = {node: (node, "") for node in graph.nodes}
    labels |= {node: (stem, str(t)) for stem, nodes in rows.items() for t, node in enumerate(nodes)}
    return Picture(graph, at, labels)


def two_slices(graph: Graph) -> Picture | None:
    """The frames t − 1 and t, and what is in no series: all there is to know where frames are alike.

    An arrow is among :attr:`Picture.further` where there are arrows over two frames as well.

    Returns:
        None if there is no series.
    """
    rows = _rows(graph)
    if not rows:
        return None
    of = {node: (stem, t) for stem, nodes in rows.items() for t, node in enumerate(nodes)}
    last = max(len(graph_nodes) for graph_nodes in rows.values()) // 2
    names = {node: node for node in graph.nodes if node not in of}
    names |= {
        node: f"{stem}_{{{_subscript(t - last)}}}" for node, (stem, t) in of.items() if t in (last - 1, last)
    }
    parents = {
        names[n]: [names[p] for p in graph.parents(n) if p in names] for n in graph.nodes if n in names
    }
    far = {
        (of[p][0], of[c][0], of[c][1] > of[p][1])
        for p, c in graph.arrows
        if p in of and c in of and abs(of[c][1] - of[p][1]) == 2
    }
    further = {
        (names[p], names[c])
        for p, c in graph.arrows
        if p in names and c in names and p in of and c in of and of[p][1] != of[c][1]
        if (of[p][0], of[c][0], of[c][1] > of[p][1]) in far
    }
    slices = Graph(
        parents,
        [names[n] for n in graph.observed if n in names],
        deterministic=[names[n] for n in graph.deterministic if n in names],
        plates={names[n]: plates for n, plates in graph.plates.items() if n in names},
    )
    two = {stem: tuple(names[node] for node in nodes[last - 1 : last + 1]) for stem, nodes in rows.items()}
    labels = {node: (node, "") for node in slices.nodes}
    labels |= {
        node: (stem, s) for stem, nodes in two.items() for node, s in zip(nodes, ("t-1", "t"), strict=True)
    }
    return Picture(slices, _beside(slices, two), labels, frozenset(further))


def bends(at: Mapping[str, Place], arrows: Iterable[Arrow]) -> dict[Arrow, float]:
    r"""How far each arrow bends so that it meets no other node; 0 is straight.

    It is the curve :math:`(1-s)^2 a + 2s(1-s) c + s^2 b` from a to b with

    .. math:: c = \frac{a + b}{2} + \text{bend} \cdot (a_y - b_y,\; b_x - a_x)

    in coordinates that go to the right and downwards.
    """
    arrows = list(arrows)
    if not arrows:
        return {}
    index = {node: i for i, node in enumerate(at)}
    nodes = np.array(list(at.values()))
    ends = np.array([[index[p], index[c]] for p, c in arrows])
    a, b = nodes[ends[:, 0], None], nodes[ends[:, 1], None]  # (A, 1, 2)
    tried = np.array(BENDS)[:, None]  # (K, 1)
    across = np.stack([a[..., 1] - b[..., 1], b[..., 0] - a[..., 0]], -1)
    control = (a + b) / 2 + tried * across  # (A, K, 2)
    s = np.linspace(0, 1, 17)[1:-1, None]
    curve = (1 - s) ** 2 * a[:, None] + 2 * s * (1 - s) * control[:, :, None] + s**2 * b[:, None]
    distance = np.linalg.norm(curve[:, :, :, None] - nodes, axis=-1)  # (A, K, P, N)
    own = (ends[:, :, None] == np.arange(len(nodes))).any(1)
    nearest = np.where(own[:, None, None], np.inf, distance).min((2, 3))
    outward = np.linalg.norm(control - nodes.mean(0), axis=-1)
    cost = 10 * np.maximum(CLEAR - nearest, 0) + np.abs(tried[:, 0]) - 0.01 * outward
    return {arrow: BENDS[k] for arrow, k in zip(arrows, cost.argmin(1), strict=True)}


def extent(picture: Picture, *bent: Mapping[Arrow, float]) -> Box:
    """What nodes, plates and arrows take, arrows as of :func:`bends`."""
    boxes = [(x - 0.5, y - 0.5, x + 0.5, y + 0.5) for x, y in picture.at.values()]
    boxes += [(x0 - 0.1, y0 - 0.1, x1 + 0.1, y1 + 0.1) for x0, y0, x1, y1 in picture.boxes().values()]
    for (parent, child), bend in (item for arrows in bent for item in arrows.items()):
        (x0, y0), (x1, y1) = picture.at[parent], picture.at[child]
        x, y = (x0 + x1 + bend * (y0 - y1)) / 2, (y0 + y1 + bend * (x1 - x0)) / 2  # the middle of the curve
        boxes.append((x - 0.1, y - 0.1, x + 0.1, y + 0.1))
    lefts, tops, rights, bottoms = zip(*boxes, strict=True)
    return min(lefts), min(tops), max(rights), max(bottoms)


# --- how

_Item = tuple[str, str, int]
"""(node, "", layer), or (parent, child, layer) where an arrow passes."""


def _rows(graph: Graph) -> dict[str, tuple[str, ...]]:
    """The series, observed ones last."""
    found = series(graph.nodes)
    return dict(sorted(found.items(), key=lambda row: row[1][0] in graph.observed))


def _beside(graph: Graph, rows: Mapping[str, tuple[str, ...]]) -> dict[str, Place]:
    """The series in rows; what they depend on to the left, and what depends on them to the right."""
    at = {node: (float(t), float(y)) for y, nodes in enumerate(rows.values()) for t, node in enumerate(nodes)}
    middle, width = (len(rows) - 1) / 2, max(len(nodes) for nodes in rows.values())
    rest = [node for node in graph.nodes if node not in at]
    depth = _depth(graph)
    after = [node for node in rest if graph.ancestors(node) & set(at)]
    for nodes, edge in (([node for node in rest if node not in after], -1.0), (after, float(width))):
        columns = sorted({depth[node] for node in nodes}, reverse=edge < 0)
        for i, column in enumerate(columns):
            here = [node for node in nodes if depth[node] == column]
            x = edge - i if edge < 0 else edge + i
            at |= {node: (x, middle + j - (len(here) - 1) / 2) for j, node in enumerate(here)}
    return {node: at[node] for node in graph.nodes}


def _depth(graph: Graph) -> dict[str, int]:
    """The length of the longest way to each node."""
    depth: dict[str, int] = {}
    for node in TopologicalSorter({n: graph.parents(n) for n in graph.nodes}).static_order():
        depth[node] = 1 + max((depth[parent] for parent in graph.parents(node)), default=-1)
    return depth


def _layers(graph: Graph) -> dict[str, Place]:
    """Parents above children, neighbours close: every layer is put in order by the means of its neighbours.

    Arrows over several layers hold a place in each. Source: Sugiyama, Tagawa & Toda, IEEE Trans. SMC 11
    (1981) 109-125.
    """
    depth = _depth(graph)
    for node in graph.nodes:  # what has no parents goes as near to its children as it can
        if graph.children(node) and not graph.parents(node):
            depth[node] = min(depth[child] for child in graph.children(node)) - 1
    chains = [
        [(p, "", depth[p]), *((p, c, k) for k in range(depth[p] + 1, depth[c])), (c, "", depth[c])]
        for p, c in graph.arrows
    ]
    items = dict.fromkeys([(node, "", depth[node]) for node in graph.nodes])
    items |= dict.fromkeys(item for chain in chains for item in chain)
    near: dict[_Item, list[_Item]] = {item: [] for item in items}
    for chain in chains:
        for one, other in pairwise(chain):
            near[one].append(other)
            near[other].append(one)
    layers = [[item for item in items if item[2] == k] for k in range(1 + max(depth.values()))]
    x = {item: i - (len(layer) - 1) / 2 for layer in layers for i, item in enumerate(layer)}
    for sweep in range(SWEEPS):
        for layer in layers if sweep % 2 == 0 else reversed(layers):
            wish = {item: sum(x[n] for n in near[item]) / len(near[item]) for item in layer if near[item]}
            wish = {item: wish.get(item, x[item]) for item in layer}
            layer.sort(key=wish.__getitem__)
            x[layer[0]] = wish[layer[0]]
            for before, item in pairwise(layer):
                gap = 0.6 if before[1] or item[1] else 1.0
                x[item] = max(wish[item], x[before] + gap)
            shift = sum(wish[item] - x[item] for item in layer) / len(layer)
            x |= {item: x[item] + shift for item in layer}
    at = {node: x[node, "", depth[node]] for node in graph.nodes}
    at = _out_of_plates(graph, at, depth)
    return {node: (at[node] - min(at.values()), float(depth[node])) for node in graph.nodes}


def _out_of_plates(graph: Graph, at: dict[str, float], depth: Mapping[str, int]) -> dict[str, float]:
    """Push aside what stands within a plate and is not of it; where plates cross, that may not help."""
    for plate in dict.fromkeys(p for plates in graph.plates.values() for p in plates):
        own = {node for node in at if plate in graph.plates.get(node, ())}
        if not own:
            continue
        left, right = min(at[n] for n in own) - 1, max(at[n] for n in own) + 1
        for layer in range(min(depth[n] for n in own), 1 + max(depth[n] for n in own)):
            others = [n for n in at if depth[n] == layer and n not in own]
            before = [n for n in others if 2 * at[n] <= left + right]
            after = [n for n in others if 2 * at[n] > left + right]
            over = max([0.0, *(at[n] - left for n in before)])
            under = max([0.0, *(right - at[n] for n in after)])
            at = at | {n: at[n] - over for n in before} | {n: at[n] + under for n in after}
    return at


def _subscript(offset: int) -> str:
    return f"t{offset:+d}" if offset else "t"
