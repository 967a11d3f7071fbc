"""Every tutorial runs from its first cell to its last, and has the parts that a learner counts on.

The frame of a course tutorial (``01_….py`` to ``12_….py``): the header of jupytext, a title ``# N · …``, what
the reader will be able to do, how long it takes, cells, and exercises. A solution is a cell with the tag
``hide-cell``: it is folded away on the page, but runs with the rest, so it cannot rot.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

TUTORIALS = sorted((Path(__file__).resolve().parents[1] / "tutorials").glob("*.py"))
COURSE = [path for path in TUTORIALS if re.match(r"\d\d_", path.name)]

HEADER = """\
# ---
# jupyter:
#   jupytext:
#     text_representation:
#       extension: .py
#       format_name: percent
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

"""

each = pytest.mark.parametrize("path", TUTORIALS, ids=lambda path: path.stem)


def cells(text: str) -> list[tuple[str, str]]:
    """The cells of a percent script: what stands behind ``# %%``, and the text (of prose without ``#``)."""
    found = []
    for part in text.split("\n# %%")[1:]:
        kind, _, body = part.partition("\n")
        prose = "\n".join(line.removeprefix("#").removeprefix(" ") for line in body.splitlines())
        found.append((kind.strip(), prose if kind.strip() == "[markdown]" else body))
    return found


def faults(text: str, number: int) -> list[str]:
    """What the frame of a tutorial of the course lacks."""
    parts = cells(text)
    prose = "\n\n".join(body for kind, body in parts if kind == "[markdown]")
    opening = parts[0][1] if parts else ""
    exercises = [i for i, (_, body) in enumerate(parts) if re.search(r"^\*\*Exercise \d+\.\*\*", body, re.M)]
    solved = [parts[i + 1][0] == 'tags=["hide-cell"]' for i in exercises if i + 1 < len(parts)]
    hidden = [body for kind, body in parts if "hide-cell" in kind]
    code = [body for kind, body in parts if kind != "[markdown]"]
    wanted = {
        "the header of jupytext": text.startswith(HEADER),
        "a title with its number": opening.startswith(f"# {number} · "),
        "what the reader will be able to do, 2 points or more": "**You will be able to**" in opening
        and len(re.findall(r"^- ", opening, re.M)) >= 2,
        "how long it takes": bool(re.search(r"^\*Runs in .*`PYRODVAE_SMOKE=1`", opening, re.M)),
        "a quick rehearsal": "smoke()" in text,
        "claims that are asserted": any("assert " in body for body in code if body not in hidden),
        "a picture": bool(re.search(r"^\s*(show\(|plt\.show\()", text, re.M)),
        "2 to 4 exercises": "## Exercises" in prose and 2 <= len(exercises) <= 4,
        "a folded solution after each exercise": len(solved) == len(exercises) == len(hidden) and all(solved),
        "no data but the packaged": "os.environ" not in text,
    }
    return [name for name, there in wanted.items() if not there]


@each
def test_a_tutorial_runs(path: Path, tmp_path: Path) -> None:
    quick = {"PYRODVAE_SMOKE": "1", "OMP_NUM_THREADS": "1", "MPLBACKEND": "Agg"}
    done = subprocess.run(
        [sys.executable, "-W", "error", str(path)],
        cwd=tmp_path,
        env=os.environ | quick,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("path", COURSE, ids=lambda path: path.stem)
def test_a_tutorial_has_the_frame_of_the_course(path: Path) -> None:
    assert faults(path.read_text(encoding="utf-8"), int(path.name[:2])) == []


@pytest.mark.parametrize("path", COURSE, ids=lambda path: path.stem)
def test_links_between_tutorials_lead_somewhere(path: Path) -> None:
    links = re.findall(r"\]\((\w+\.py)\)", path.read_text(encoding="utf-8"))
    assert [name for name in links if not (path.parent / name).exists()] == []


GOOD = f"""{HEADER}# %% [markdown]
# # 3 · A title
#
# **You will be able to**
#
# - do this;
# - do that.
#
# *Runs in a minute; with `PYRODVAE_SMOKE=1` in seconds.*

# %%
n = 1 if smoke() else 2
assert n
show(figure, "a picture")

# %% [markdown]
# ## Exercises
#
# **Exercise 1.** What?

# %% tags=["hide-cell"]
# Solution
1

# %% [markdown]
# **Exercise 2.** And what?

# %% tags=["hide-cell"]
2
"""


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("percent", "light"),
        ("# 3 ·", "# 4 ·"),
        ("# - do that.\n", ""),
        ("`PYRODVAE_SMOKE=1`", "luck"),
        ("smoke()", "slow()"),
        ("\nassert n", ""),
        ("\nshow(", "\nhide("),
        ("**Exercise 2.**", "Exercise 2."),
        ('# %% tags=["hide-cell"]\n2', "# %%\n2"),
        ("n = 1", 'n = os.environ["PYRODVAE_DATA"]'),
    ],
)
def test_a_frame_with_a_part_missing_is_refused(old: str, new: str) -> None:
    assert faults(GOOD, 3) == []
    assert old in GOOD
    assert faults(GOOD.replace(old, new), 3)


@each
def test_a_tutorial_is_a_notebook(path: Path) -> None:
    jupytext = pytest.importorskip("jupytext")
    notebook = json.loads(jupytext.writes(jupytext.read(path), fmt="ipynb"))
    kinds = [cell["cell_type"] for cell in notebook["cells"]]
    assert kinds[0] == "markdown"
    assert len(kinds) == len(cells(path.read_text(encoding="utf-8")))
    for cell in notebook["cells"]:
        if cell["cell_type"] == "code":
            compile("".join(cell["source"]), path.name, "exec")
