"""A graph as one interactive HTML page: blankets, separation, a guide against the posterior, exercises."""

from __future__ import annotations

import html
import json
import re
from collections.abc import Mapping
from graphlib import TopologicalSorter
from importlib.resources import files
from pathlib import Path
from typing import Any

from pyrodvae.graph import Graph, Verdict, generative, posterior
from pyrodvae.graph_drawing import arrow_kinds
from pyrodvae.graph_layout import RADIUS, Arrow, Picture, bends, extent, unrolled
from pyrodvae.whole import save

TEMPLATE = "graph_page.html"
"""It has all of the page but its data: styles, d-separation and drawing in plain JavaScript."""


def write_page(
    graph: Graph, path: str | Path, *, title: str = "Graph", verdict: Verdict | None = None
) -> None:
    """Write the page in one step. It is complete in itself: nothing is loaded when it is looked at.

    Args:
        graph: any; see :func:`pyrodvae.graph.trace_graph`.
        path: of the file.
        title: of the page.
        verdict: on a guide, to compare it with the posterior.

    Raises:
        NotWritten: the file cannot be written.
    """
    save(Path(path), graph_page(graph, title=title, verdict=verdict).encode())


def graph_page(graph: Graph, *, title: str = "Graph", verdict: Verdict | None = None) -> str:
    """The page itself; arguments as of :func:`write_page`."""
    data = json.dumps(page_data(graph, title=title, verdict=verdict), ensure_ascii=False)
    template = (files("pyrodvae") / TEMPLATE).read_text("utf-8")
    # In HTML a script ends at "</script" even within a string.
    filled = {"TITLE": html.escape(title), "DATA": data.replace("<", r"\u003c")}
    return re.sub("@(TITLE|DATA)@", lambda place: filled[place[1]], template)


def page_data(graph: Graph, *, title: str = "Graph", verdict: Verdict | None = None) -> dict[str, Any]:
    """What the page is told: variables and arrows with their places, and what the guide looks at.

    Blankets, separations and what the posterior needs are not in it: the page derives them.
    """
    picture = unrolled(graph)
    bent = bends(picture.at, graph.arrows)
    facts = [("model", str(generative(graph)))]
    facts += [("posterior", str(posterior(graph)))] if graph.latent else []
    facts += [("guide", str(verdict))] if verdict is not None else []
    facts += [("note", note) for note in graph.notes]
    of_guide = {} if verdict is None else bends(picture.at, arrow_kinds(verdict))
    return {
        "title": title,
        "facts": facts,
        "radius": RADIUS,
        "extent": extent(picture, bent, of_guide),
        "nodes": [_node(picture, node) for node in graph.nodes],
        "arrows": [(*arrow, bend) for arrow, bend in bent.items()],
        "plates": [{"name": plate, "box": box} for plate, box in picture.boxes().items()],
        "guide": None if verdict is None else _guide(graph, verdict, of_guide),
    }


def _node(picture: Picture, node: str) -> dict[str, Any]:
    graph = picture.graph
    name, subscript = picture.labels[node]
    x, y = picture.at[node]
    return {
        "id": node,
        "name": name,
        "subscript": subscript,
        "x": x,
        "y": y,
        "observed": node in graph.observed,
        "deterministic": node in graph.deterministic,
        "plates": picture.unframed().get(node, ()),
        "family": graph.families.get(node, ""),
    }


def _guide(graph: Graph, verdict: Verdict, bent: Mapping[Arrow, float]) -> dict[str, Any]:
    """Its latents in an order in which it can draw them, and what each looks at."""
    above = {node: [p for p in graph.nodes if (p, node) in bent] for node in graph.latent}
    drawn = [n for n in TopologicalSorter(above).static_order() if n in above]
    kinds = arrow_kinds(verdict)
    return {
        "name": verdict.name,
        "sentence": str(verdict),
        "order": drawn,
        "sees": {n: [p for p in above[n] if kinds[p, n] != "missing"] for n in drawn},
        "arrows": [(*arrow, bend) for arrow, bend in bent.items()],
    }
