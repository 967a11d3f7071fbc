"""The guide that looks at just what the exact posterior depends on, and a family around it."""

from __future__ import annotations

from typing import Literal

from pyrodvae.dvae import DVAE, SEGMENT
from pyrodvae.graph.posterior import posterior
from pyrodvae.graph.trace import graph_of
from pyrodvae.guide import RecurrentGuide, Sees

FAMILY: dict[str, Sees] = {
    "factorised": Sees(),
    "filter without z": Sees(x_past=True),
    "filter": Sees(z_past="previous", x_past=True),
    "smoother without z": Sees(x_past=True, x_future=True),
    "backward": Sees(z_past="previous", x_future=True),
    "smoother": Sees(z_past="previous", x_past=True, x_future=True),
    "full context": Sees(z_past="all", x_past=True, x_future=True),
}
"""From a guide that sees its own frame alone to one that sees all there is."""


def compliant_sight(model: DVAE) -> Sees:
    """The least that q(z_t | ·) has to look at, derived from the model's graph.

    Where the posterior needs a few latent frames before, but more than one, it is all of them.

    Raises:
        ValueError: the posterior has a form that no recurrent guide can follow.
    """
    graph, name = graph_of(model), type(model).__name__
    derived = posterior(graph)
    others = sorted(set(graph.latent) - {SEGMENT} - {node for node in graph.latent if node.startswith("z_")})
    if others:
        raise ValueError(
            f"{name} has latents beside z and w ({', '.join(others)}), and recurrent guides draw no others: "
            "write one that does."
        )
    windows = derived["z"].windows()
    if windows is None:
        raise ValueError(
            f"The frames of {name} differ in what they need, {derived['z'].text()}, and a recurrent guide "
            "treats all alike: write one."
        )
    z = {offset for span in windows.get("z", ()) for offset in (span.first, span.last)}
    past: Literal["none", "previous", "all"] = "none" if not z else "previous" if z == {-1} else "all"
    x = (*windows.get("x", ()), *windows.get("v", ()))
    return Sees(
        z_past=past,
        x_past=any(span.first is None or span.first < 0 for span in x),
        x_present=any((span.first or 0) <= 0 <= (span.last or 0) for span in x),
        x_future=any(span.last is None or span.last > 0 for span in x),
        audio="x" in windows,
        video="v" in windows,
    )


def compliant_guide(model: DVAE, hidden: int = 128) -> RecurrentGuide:
    """A recurrent guide that misses nothing and, where a recurrent guide can, sees nothing in excess.

    Args:
        model: any. hidden: H of its networks.

    Raises:
        ValueError: as of :func:`compliant_sight`; or z_t does not depend on x_t, which such a guide reads.
    """
    return RecurrentGuide(model, compliant_sight(model), hidden)
