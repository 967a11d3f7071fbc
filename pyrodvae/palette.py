"""The colours of all pictures, which the colour-blind can tell apart too."""

from __future__ import annotations

from typing import Any

PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
"""Blue, vermilion, green, purple, orange, sky blue.

Source: Okabe & Ito, *Color Universal Design* (2008).
"""


def coloured(axes: Any) -> Any:
    """Axes of matplotlib whose lines take the colours one after the other, then again dashed, then dotted."""
    styles = ("-", "--", ":")
    axes.set_prop_cycle(color=PALETTE * len(styles), linestyle=[s for s in styles for _ in PALETTE])
    return axes
