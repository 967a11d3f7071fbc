"""Puts the site's sources together: pages and tutorials of the checkout, and what is generated.

Links are written for readers of the repository, relative to the file. Here those that leave ``docs/`` are
turned to where the target is on the site. ``literalinclude`` finds the code, because the package stands
beside the sources as in the checkout.
"""

from __future__ import annotations

import os
import re
import shutil
from pathlib import Path, PurePosixPath

import api
import cards
import jupytext
import listen
import tutorial_list

ROOT = Path(__file__).resolve().parents[2]
BESIDE = {"CONTRIBUTING.md": "contributing.md", "CHANGELOG.md": "changelog.md"}
"""Pages that stand in the root of the repository → where they are on the site."""
LINK = re.compile(r"(?<!!)\[([^\]]*)\]\((?!\w+:|#)([^)\s#]+)(#[^)\s]+)?\)")
NAMED = re.compile(r"^(\[[^\]]+\]: )(?!\w+:|#)([^\s#]+)", re.M)
"""A link that has a name, ``[name]: target``, so that a page may write ``[name]`` in many places."""


def stage(source: Path) -> None:
    """Write all sources of the site into a folder, which is made anew."""
    shutil.rmtree(source, ignore_errors=True)
    shutil.copytree(ROOT / "docs", source, ignore=shutil.ignore_patterns("__pycache__"))
    package = source.parent / "pyrodvae"
    package.unlink(missing_ok=True)
    package.symlink_to(ROOT / "pyrodvae")
    tutorials = sorted((ROOT / "tutorials").glob("*.py"))
    for path in tutorials:
        text = path.read_text(encoding="utf-8")
        write(source / "tutorials" / path.name, text)
        write_notebook(text, source / "_extra" / "tutorials" / f"{path.stem}.ipynb")
    for name, there in BESIDE.items():
        write(source / there, turned((ROOT / name).read_text(encoding="utf-8"), PurePosixPath(name)))
    for path in (ROOT / "docs").rglob("*.md"):
        within = path.relative_to(ROOT)
        text = turned(path.read_text(encoding="utf-8"), PurePosixPath(within.as_posix()))
        write(source / path.relative_to(ROOT / "docs"), text)
    cards.write_cards(source / "cards", (ROOT / "docs" / "models.md").read_text(encoding="utf-8"))
    (source / "tutorials" / "list.md").write_text(tutorial_list.table(tutorials), encoding="utf-8")
    api.write_reference(source / "reference" / "api")
    listen.write_example(source)


def write_notebook(script: str, path: Path) -> None:
    """A tutorial to download: not run, and its solutions folded away in JupyterLab as on the page."""
    notebook = jupytext.reads(script, fmt="py:percent")
    for cell in notebook.cells:
        if "hide-cell" in cell.metadata.get("tags", []):
            cell.metadata["jupyter"] = {"source_hidden": True, "outputs_hidden": True}
    path.parent.mkdir(parents=True, exist_ok=True)
    jupytext.write(notebook, path)


def write(path: Path, text: str) -> None:
    """A file, in a folder that need not be there."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")


def turned(text: str, page: PurePosixPath) -> str:
    """A page with its links turned to where their targets are on the site.

    Args:
        page: where it is in the repository.
    """
    start = on_site(page)

    def turn(link: re.Match[str]) -> str:
        words, target, anchor = link[1], link[2], link[3] or ""
        there = PurePosixPath(os.path.normpath(page.parent / target))
        if words == there.name:  # a file's name: on the site, the title of the page
            words = ""
        if there.parts[0] == "pyrodvae" and there.suffix == ".py":
            module = ".".join(there.with_suffix("").parts).removesuffix(".__init__")
            return f"{{py:mod}}`{words.strip('`')} <{module}>`"
        return f"[{words}]({os.path.relpath(on_site(there), start.parent)}{anchor})"

    def turn_named(link: re.Match[str]) -> str:
        there = PurePosixPath(os.path.normpath(page.parent / link[2]))
        return link[1] + os.path.relpath(on_site(there), start.parent)

    return NAMED.sub(turn_named, LINK.sub(turn, text))


def on_site(path: PurePosixPath) -> PurePosixPath:
    """Where a file of the repository is on the site.

    Raises:
        ValueError: it is not on the site.
    """
    if path.parts[0] == "docs":
        return PurePosixPath(*path.parts[1:])
    if path.parts[0] == "tutorials":
        return path
    if path.name == "README.md":
        return PurePosixPath("index.md")
    if str(path) in BESIDE:
        return PurePosixPath(BESIDE[str(path)])
    raise ValueError(f"A page links to {path}, which is not on the site: name it without a link.")
