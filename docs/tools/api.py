"""The reference: a page for every module of the package, and the list of them."""

from __future__ import annotations

import ast
import importlib.util
import pkgutil
from pathlib import Path

import pyrodvae

PROGRAMS = {"pyrodvae.__main__"}
"""Modules that are run, not imported."""


def modules() -> list[str]:
    """Their names, the package first."""
    found = [m.name for m in pkgutil.walk_packages(pyrodvae.__path__, "pyrodvae.")]
    return ["pyrodvae", *sorted(set(found) - PROGRAMS)]


def write_reference(folder: Path) -> None:
    """Write ``MODULE.md`` for each, and ``list.md``, which the index includes."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in modules():
        page = f"# {name}\n\n```{{eval-rst}}\n.. automodule:: {name}\n```\n"
        (folder / f"{name}.md").write_text(page, encoding="utf-8")
    rows = [f"| [`{name}`](api/{name}.md) | {headline(name)} |" for name in modules()]
    listed = "\n".join(f"{name.removeprefix('pyrodvae.')} <api/{name}>" for name in modules())
    table = "\n".join(["| module | |", "|---|---|", *rows])
    text = f"{table}\n\n```{{toctree}}\n:hidden:\n\n{listed}\n```\n"
    (folder / "list.md").write_text(text, encoding="utf-8")


def headline(name: str) -> str:
    """The first line of a module's docstring, read without importing it."""
    spec = importlib.util.find_spec(name)
    if spec is None or spec.origin is None:
        raise ValueError(f"The module {name} has no file.")
    text = ast.get_docstring(ast.parse(Path(spec.origin).read_text(encoding="utf-8"))) or ""
    return text.partition("\n")[0].replace("|", "\\|")
