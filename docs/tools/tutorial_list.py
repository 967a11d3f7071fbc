"""The list of tutorials, from what each says of itself in its first cell."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

import jupytext


def table(paths: Iterable[Path]) -> str:
    """A section for each: its title, what the reader will be able to do, how long it takes, the notebook."""
    return "\n\n".join(section(path) for path in paths)


def section(path: Path) -> str:
    """Of one tutorial."""
    opening = next(cell.source for cell in jupytext.read(path).cells if cell.cell_type == "markdown")
    title, _, rest = opening.partition("\n")
    able = re.findall(r"^- (?:.|\n(?!\n|- ))*", rest, re.M) or [rest.strip().partition("\n\n")[0]]
    takes = re.search(r"^\*(Runs in [^;*]*)", rest, re.M)
    time = f" {takes[1].replace(chr(10), ' ')}." if takes else ""
    notebook = f'<a href="{path.stem}.ipynb" download>notebook</a>'
    return f"**[{title.removeprefix('# ')}]({path.name})**{time} As a {notebook}.\n\n" + "\n".join(able)
