"""What is said of the tutorials' pictures to those who do not see them, from the notebooks that ran."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from docutils import nodes
from sphinx.application import Sphinx


def said(notebook: Path) -> Iterator[str]:
    """The words of every picture among the outputs of a notebook, in order; none if it was not run."""
    if notebook.exists():
        for cell in json.loads(notebook.read_text(encoding="utf-8"))["cells"]:
            for output in cell.get("outputs", []):
                if "image/png" in output.get("data", {}):
                    yield output["metadata"].get("image/png", {}).get("alt", "")


def describe(app: Sphinx, doctree: nodes.document) -> None:
    """Give each picture that a cell has drawn its words, which myst-nb leaves out."""
    words = said(app.outdir.parent / "jupyter_execute" / f"{app.env.docname}.ipynb")
    drawn = [it for it in doctree.findall(nodes.image) if it.parent.get("mime_type") == "image/png"]
    for picture, alt in zip(drawn, words, strict=True):
        picture["alt"] = alt


def setup(app: Sphinx) -> dict[str, Any]:
    """Listen to pages that have been read."""
    app.connect("doctree-read", describe)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
