"""What a tutorial printed, once: on its page, and in the notebook that ran.

A kernel sends what is printed in pieces. myst-nb joins them for the page by writing all into the first
piece, in place, and leaves the others where they are: the notebook that it stores says all but the first
piece twice, and so does every page that is made of that notebook.
"""

from __future__ import annotations

import json
from copy import deepcopy
from pathlib import Path
from typing import Any

from docutils import nodes
from myst_nb.core import render, utils
from nbformat import NotebookNode
from sphinx.application import Sphinx
from sphinx.util import logging


def joined(outputs: list[NotebookNode]) -> list[NotebookNode]:
    """As myst-nb joins them, and those of the notebook stay as they came."""
    return list(utils.coalesce_streams(deepcopy(outputs)))


def printed(notebook: Path) -> list[str]:
    """The lines that the cells of a notebook printed, all but blank ones; none if it was not run."""
    if not notebook.exists():
        return []
    cells = json.loads(notebook.read_text(encoding="utf-8"))["cells"]
    outputs = [output for cell in cells for output in cell.get("outputs", [])]
    return lines("".join("".join(it["text"]) for it in outputs if it.get("name") == "stdout"))


def shown(doctree: nodes.document) -> list[str]:
    """The lines on a page that were printed, all but blank ones."""
    blocks = [it for it in doctree.findall(nodes.literal_block) if "stream" in it["classes"]]
    return lines("\n".join(it.astext() for it in blocks))


def lines(text: str) -> list[str]:
    """Of a text, all but blank ones."""
    return [line for line in text.split("\n") if line.strip()]


def compare(app: Sphinx, doctree: nodes.document) -> None:
    """Warn, which is fatal, if a page shows anything but what was printed."""
    ran = printed(app.outdir.parent / "jupyter_execute" / f"{app.env.docname}.ipynb")
    if ran != shown(doctree):
        logging.getLogger(__name__).warning(
            "the page shows %d printed lines, its notebook has %d: some were lost or joined twice",
            len(shown(doctree)),
            len(ran),
            location=app.env.docname,
        )


def setup(app: Sphinx) -> dict[str, Any]:
    """Join without a trace, and listen to pages that have been read."""
    render.coalesce_streams = joined
    app.connect("doctree-read", compare)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
