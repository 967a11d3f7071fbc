"""Graphs as pictures: two slices, unrolled, and a guide against the posterior."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from io import BytesIO
from pathlib import Path
from typing import Any

from pyrodvae.graph import Factorisation, Graph, Trail, Verdict
from pyrodvae.graph_layout import RADIUS, Arrow, Picture, bends, extent, two_slices, unrolled
from pyrodvae.plots import new_figure
from pyrodvae.whole import save

INK, SOFT, PALE, OBSERVED = "#1b1f24", "#5a626d", "#b4bac3", "#c9ced6"
PARENT, CHILD, COPARENT = "#0072b2", "#007a5a", "#a3589a"
TRAIL, MISSING, SUPERFLUOUS = "#d55e00", "#c4161c", "#b07800"
"""Told apart by the colour-blind too (Okabe & Ito, *Color Universal Design*, 2008, some of them darker)."""

DASHED, DOTTED = (0, (4, 2)), (0, (1, 1.5))
INCH = 1.05
"""Between neighbours."""
Style = dict[str, Any]


def draw_graph(
    axis: Any,
    picture: Picture,
    *,
    blanket_of: str | None = None,
    trail: Trail | None = None,
    given: Iterable[str] | None = None,
    arrows: Mapping[Arrow, Style] | None = None,
) -> None:
    """Draw a graph: circles, diamonds for what is deterministic, grey for what is observed, plates around.

    Every node has its name as the gid ``node-NAME`` of its patch, which an SVG keeps as its id.

    Args:
        axis: matplotlib's; it is given equal scales and no frame.
        picture: of the graph.
        blanket_of: the node whose Markov blanket stands out: parents blue, children green, co-parents violet.
        trail: an open trail, in orange.
        given: what is grey in place of what is observed.
        arrows: other arrows than the graph's, with the style of each.

    Raises:
        ValueError: the graph has no such node.
    """
    from matplotlib.patches import Circle, FancyArrowPatch, FancyBboxPatch, RegularPolygon

    graph = picture.graph
    grey = graph.observed if given is None else frozenset(given)
    edges, strong = _stand_out(graph, blanket_of, trail)
    for plate, (left, top, right, bottom) in picture.boxes().items():
        box = FancyBboxPatch((left, -bottom), right - left, bottom - top, "round,pad=0,rounding_size=0.1")
        box.set(fill=False, edgecolor=PALE, linewidth=1)
        axis.add_patch(box)
        axis.text(right - 0.08, -bottom + 0.05, plate, ha="right", va="bottom", fontsize=7, color=SOFT)
    patches = {}
    for node, (x, y) in picture.at.items():
        centre, name = (x, -y), picture.labels[node]
        diamond = node in graph.deterministic
        patch: Any = RegularPolygon(centre, 4, radius=1.25 * RADIUS) if diamond else Circle(centre, RADIUS)
        faded = blanket_of is not None and node not in edges
        patch.set(
            facecolor=OBSERVED if node in grey else "white", edgecolor=edges.get(node, PALE if faded else INK)
        )
        patch.set(linewidth=2.4 if node in edges else 1.1, zorder=3, gid=f"node-{node}")
        patches[node] = axis.add_patch(patch)
        size = 12 if len(name[0]) < 4 else max(5.0, 44 / len(name[0]))
        text = axis.text(*centre, _label(*name), ha="center", va="center", fontsize=size, color=INK, zorder=4)
        text.set_parse_math(_typesets(name[0]))
    for node, plates in picture.unframed().items():
        x, y = picture.at[node]
        axis.text(x + RADIUS, -y - RADIUS, ", ".join(plates), ha="left", va="top", fontsize=6, color=SOFT)
    shown = dict.fromkeys(graph.arrows, Style()) if arrows is None else arrows
    bend = bends(picture.at, shown)
    for (parent, child), style in shown.items():
        looks = {"color": PALE if strong else INK, "linewidth": 1.0, "zorder": 1}
        looks |= {"linestyle": DASHED} if (parent, child) in picture.further else {}
        looks |= (
            {"color": strong[parent, child], "linewidth": 2.0, "zorder": 2}
            if (parent, child) in strong
            else {}
        )
        (x0, y0), (x1, y1) = picture.at[parent], picture.at[child]
        arrow = FancyArrowPatch(
            (x0, -y0), (x1, -y1), arrowstyle="-|>", mutation_scale=10, shrinkA=1, shrinkB=1,
            patchA=patches[parent], patchB=patches[child],
            connectionstyle=f"arc3,rad={bend[parent, child]}",
        )  # fmt: skip
        arrow.set(gid=f"arrow-{parent}-{child}", **{**looks, **style})
        axis.add_patch(arrow)
    _frame(axis, picture, bend)


def plot_graph(
    graph: Graph,
    path: str | Path | None = None,
    *,
    verdict: Verdict | None = None,
    blanket_of: str | None = None,
    trail: Trail | None = None,
    given: Iterable[str] | None = None,
    title: str = "",
) -> Any:
    """A figure of a graph: two slices where there are frames, the whole, and what a guide looks at.

    Args:
        graph: any; see :func:`pyrodvae.graph.trace_graph`.
        path: an SVG or PNG file to write, in one step.
        verdict: on a guide, drawn as arrows into the latents: black if needed and seen.
        blanket_of, trail, given: as of :func:`draw_graph`, in the panel of the whole. With a verdict,
            the guide's arrows are those into ``blanket_of``, if that is latent.
        title: above all.

    Raises:
        ValueError: the graph has no such node, or the file's name does not end in .svg or .png.
    """
    if path is not None and Path(path).suffix.lower() not in (".svg", ".png"):
        raise ValueError(f"'{path}' is no name for a picture: end it in .svg or .png.")
    from matplotlib import rc_context

    whole, slices = unrolled(graph), two_slices(graph)
    sizes = [_size(p) for p in (slices, whole) if p is not None]
    height = max(h for _, h in sizes)
    rows = 1 if verdict is None else 2
    figure = new_figure(sum(w for w, _ in sizes) + 0.3, (height + 0.5) * rows + 0.45 * bool(title))
    grid = figure.subplots(rows, len(sizes), squeeze=False, width_ratios=[w for w, _ in sizes])
    if title:
        figure.suptitle(title, fontsize=11).set_parse_math(False)
    if slices is not None:
        draw_graph(grid[0, 0], slices)
        on = "\ndashed: and from all frames further on" if slices.further else ""
        _title(grid[0, 0], f"two slices{on}")
    draw_graph(grid[0, -1], whole, blanket_of=blanket_of, trail=trail, given=given)
    _title(grid[0, -1], _caption(blanket_of, trail))
    if verdict is not None:
        only = blanket_of if blanket_of in graph.latent else None
        draw_graph(grid[1, -1], whole, arrows=verdict_arrows(verdict, only))
        _title(
            grid[1, -1],
            f"what {verdict.name} looks at{f' for {only}' if only else ''}, and the posterior needs",
        )
        for axis in grid[1, :-1]:
            axis.axis("off")
        _key(grid[1, 0] if slices is not None else grid[1, -1], blanket_of is not None)
    if path is not None:
        written = BytesIO()
        kind = Path(path).suffix[1:].lower()
        with rc_context({"svg.hashsalt": "pyrodvae"}):  # the same picture is the same file
            figure.savefig(written, format=kind, dpi=150, metadata={"Date": None} if kind == "svg" else None)
        save(Path(path), written.getvalue())
    return figure


def verdict_arrows(verdict: Verdict, only: str | None = None) -> dict[Arrow, Style]:
    """The arrows of the guide and of the posterior, with their styles.

    Args:
        verdict: on the guide.
        only: the latent whose arrows are wanted; all unless given.
    """
    kinds = arrow_kinds(verdict)
    looks: dict[str, Style] = {
        "both": {},
        "missing": {"color": MISSING, "linestyle": DASHED, "linewidth": 1.8},
        "superfluous": {"color": SUPERFLUOUS, "linestyle": DOTTED, "linewidth": 1.8},
    }
    return {arrow: looks[kind] for arrow, kind in kinds.items() if only in (None, arrow[1])}


def arrow_kinds(verdict: Verdict) -> dict[Arrow, str]:
    """Every arrow of the guide or of the posterior → ``both``, ``missing`` or ``superfluous``."""
    sees, needs = _arrows(verdict.sees), _arrows(verdict.needs)
    return {
        arrow: "both" if arrow in sees & needs else "missing" if arrow in needs else "superfluous"
        for arrow in sorted(sees | needs)
    }


# --- how


def _arrows(product: Factorisation) -> set[Arrow]:
    return {
        (parent, node)
        for group in product.factors
        for factor in group
        for node, given in factor.given.items()
        for parent in given
    }


def _stand_out(
    graph: Graph, blanket_of: str | None, trail: Trail | None
) -> tuple[dict[str, str], dict[Arrow, str]]:
    """Node → the colour of its edge, arrow → its colour."""
    edges: dict[str, str] = {}
    strong: dict[Arrow, str] = {}
    if blanket_of is not None:
        kinds = {COPARENT: graph.coparents(blanket_of), CHILD: graph.children(blanket_of)}
        kinds |= {PARENT: graph.parents(blanket_of), INK: (blanket_of,)}
        edges = {node: colour for colour, nodes in kinds.items() for node in nodes}
        strong = {(p, c): COPARENT for c in graph.children(blanket_of) for p in graph.parents(c)}
        strong |= {(blanket_of, c): CHILD for c in graph.children(blanket_of)}
        strong |= {(p, blanket_of): PARENT for p in graph.parents(blanket_of)}
    if trail is not None:
        steps = zip(trail.nodes, trail.nodes[1:], trail.forward, strict=False)
        strong |= {(a, b) if along else (b, a): TRAIL for a, b, along in steps}
        edges |= dict.fromkeys(trail.nodes, TRAIL)
    return edges, strong


def _caption(blanket_of: str | None, trail: Trail | None) -> str:
    said = [f"Markov blanket of {blanket_of}"] if blanket_of is not None else []
    return "; ".join([*said, *([trail.sentence()] if trail is not None else [])])


def _label(name: str, subscript: str) -> str:
    r"""In mathematical type, ``z`` in italics, longer names upright; as it is where that has none for it."""
    if not _typesets(name):
        return f"{name}_{subscript}" if subscript else name
    text = name if len(name) == 1 else r"\mathrm{" + name.replace("_", r"\_") + "}"
    return f"${text}_{{{subscript}}}$" if subscript else f"${text}$"


def _typesets(name: str) -> bool:
    return re.fullmatch(r"\w+", name) is not None


def _title(axis: Any, text: str) -> None:
    axis.set_title(text, fontsize=8).set_parse_math(False)


def _size(picture: Picture) -> tuple[float, float]:
    left, top, right, bottom = extent(picture, bends(picture.at, picture.graph.arrows))
    return INCH * (right - left), INCH * (bottom - top)


def _frame(axis: Any, picture: Picture, bend: Mapping[Arrow, float]) -> None:
    left, top, right, bottom = extent(picture, bend)
    axis.set(xlim=(left, right), ylim=(-bottom, -top), aspect="equal")
    axis.axis("off")


def _key(axis: Any, blanket: bool) -> None:
    from matplotlib.lines import Line2D

    looks: dict[str, tuple[str, Any]] = {
        "needed and seen": (INK, "-"),
        "missing": (MISSING, DASHED),
        "superfluous": (SUPERFLUOUS, DOTTED),
    }
    if blanket:
        around = {"parents": (PARENT, "-"), "children": (CHILD, "-"), "co-parents": (COPARENT, "-")}
        looks = {**around, **looks}
    lines = [Line2D([], [], color=c, linestyle=style, label=text) for text, (c, style) in looks.items()]
    axis.legend(handles=lines, loc="center", fontsize=8, frameon=False)
