"""What ``pyrodvae graph`` does: a model's structure and a guide's verdict, in lines of text."""

from __future__ import annotations

from argparse import Namespace
from pathlib import Path

from pyrodvae.dvae import DVAE
from pyrodvae.graph import (
    FAMILY,
    Graph,
    Verdict,
    blankets,
    certificate,
    compliance,
    compliant_sight,
    generative,
    graph_of,
    posterior,
)
from pyrodvae.graph_cost import arrow_cost, linear_twin
from pyrodvae.graph_drawing import plot_graph
from pyrodvae.graph_page import write_page
from pyrodvae.guide import Guide
from pyrodvae.weights import make_pair

LEAST = 3
SEQUENCES = 1000
"""Simulated for the costs of arrows."""
SIZES = {"observed": 3, "latent": 2}
"""Structure does not depend on sizes."""


def run_graph(options: Namespace) -> int:
    """Print what the program of a model implies: factorisations, blankets, samplers, the guide's verdict.

    Raises:
        ValueError: no such model or guide, or too few frames to tell z_{t-1} from z_{<t}.
    """
    if options.frames < LEAST:
        raise ValueError(f"--frames {options.frames} are too few to see a pattern: give {LEAST} or more.")
    model, guide = make_pair(options.model, SIZES, options.guide)
    graph = graph_of(model, options.frames)
    verdict = compliance(model, guide, frames=options.frames, graph=graph)
    lines = {
        "model": str(generative(graph)),
        "posterior": str(posterior(graph)),
        "blanket": f"B(z_t) = {{{', '.join(blankets(graph, 'z').parts())}}}",
        "guide": f"{options.guide}: {verdict}",
        "sampler": str(certificate(graph)),
    }
    for what, text in lines.items():
        print(f"{what:<11}{text}")
    for note in graph.notes:
        print(f"{'note':<11}{note}")
    if options.cost:
        cost(options, model, guide, graph)
    elif options.out is not None:
        draw(options, graph, verdict)
    return 0


def draw(options: Namespace, graph: Graph, verdict: Verdict) -> None:
    """Write the graph as a picture, with the blanket of a z in the middle, or as an interactive page.

    Raises:
        ValueError: the name of the file does not say which.
        NotWritten: it cannot be written.
    """
    kind, title = Path(options.out).suffix.lower(), f"{options.model}, guide {options.guide}"
    if kind not in (".svg", ".png", ".html"):
        raise ValueError(f"'{options.out}' says not what to draw: end it in .svg, .png or .html.")
    if kind == ".html":
        write_page(graph, options.out, title=title, verdict=verdict)
    else:
        middle = f"z_{options.frames // 2}"
        plot_graph(graph, options.out, verdict=verdict, blanket_of=middle, title=title)


def cost(options: Namespace, model: DVAE, guide: Guide, graph: Graph) -> None:
    """Print what guides lose, from factorised to full context, on data of the model's linear twin.

    Raises:
        ValueError: a picture that is no PNG; a model that has no twin.
        NotWritten: the picture cannot be written.
    """
    if options.out is not None and Path(options.out).suffix != ".png":
        raise ValueError(f"The costs are drawn as a .png, and '{options.out}' is another file.")
    twin = linear_twin(graph)
    sights = {**FAMILY, "compliant": compliant_sight(model), options.guide: guide.sees}
    costs = arrow_cost(twin, twin.sample(SEQUENCES), sights)
    print(f"\n{costs}")
    if options.out is not None:
        costs.plot(options.out)
