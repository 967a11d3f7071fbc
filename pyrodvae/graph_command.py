"""What ``pyrodvae graph`` does: a model's structure and a guide's verdict, in lines of text."""

from __future__ import annotations

from argparse import Namespace

from pyrodvae.graph import blankets, certificate, compliance, generative, graph_of, posterior
from pyrodvae.weights import make_pair

LEAST = 3
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
    lines = {
        "model": str(generative(graph)),
        "posterior": str(posterior(graph)),
        "blanket": f"B(z_t) = {{{', '.join(blankets(graph, 'z').parts())}}}",
        "guide": f"{options.guide}: {compliance(model, guide, frames=options.frames, graph=graph)}",
        "sampler": str(certificate(graph)),
    }
    for what, text in lines.items():
        print(f"{what:<11}{text}")
    for note in graph.notes:
        print(f"{'note':<11}{note}")
    return 0
