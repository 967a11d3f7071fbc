"""The documentation says what there is: docstrings, links, and the code of the how-tos."""

from __future__ import annotations

import ast
import inspect
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest
import torch

import pyrodvae
from pyrodvae.engines import ENGINES
from pyrodvae.models import MODELS

ROOT = Path(__file__).resolve().parents[1]
PAGES = sorted([*(ROOT / "docs").rglob("*.md"), *ROOT.glob("*.md")])
HOWTOS = sorted((ROOT / "docs" / "howto").glob("add-*.md"))
GENERATED = ("cards/index.md",)
"""Pages that are there only once the site is built (docs/tools)."""

LINK = re.compile(r"(?:\]\(|^\[[^\]]+\]: )(?!\w+:)([^)\s#]*)(#[^)\s]+)?(?:\)|$)", re.M)
CODE = re.compile(r"^```.*?^```|`[^`\n]*`", re.M | re.S)


# --- docstrings


def sets(node: ast.ClassDef | ast.FunctionDef) -> bool:
    """Whether it is the setter of a property, which has the docstring of the getter."""
    return any(isinstance(d, ast.Attribute) and d.attr == "setter" for d in node.decorator_list)


def undocumented(source: str, name: str = "module") -> Iterator[str]:
    """The public names in the source of a module that have no docstring."""
    tree = ast.parse(source)
    if not ast.get_docstring(tree):
        yield name

    def walk(parent: ast.AST, path: str) -> Iterator[str]:
        for node in ast.iter_child_nodes(parent):
            if not isinstance(node, ast.ClassDef | ast.FunctionDef) or node.name.startswith("_"):
                continue
            if not ast.get_docstring(node) and not sets(node):
                yield f"{path}.{node.name}"
            if isinstance(node, ast.ClassDef):
                yield from walk(node, f"{path}.{node.name}")

    yield from walk(tree, name)


def test_every_public_name_has_a_docstring() -> None:
    files = sorted(Path(pyrodvae.__file__).parent.rglob("*.py"))
    assert [name for path in files for name in undocumented(path.read_text(), path.stem)] == []


def test_a_name_without_a_docstring_is_found() -> None:
    source = '"""A module."""\n\n\nclass A:\n    """A class."""\n\n    def f(self):\n        return 1\n'
    assert [*undocumented(source)] == ["module.A.f"]
    assert [*undocumented("x = 1")] == ["module"]


def lacks(docstring: str) -> list[str]:
    """What the docstring of a model or an engine should have and has not."""
    needs = {"an equation": ".. math::" in docstring, "a source": "Source: " in docstring}
    return [what for what, there in needs.items() if not there]


@pytest.mark.parametrize("kind", [*MODELS.values()], ids=lambda kind: kind.__name__)
def test_a_model_has_its_equation_sizes_and_source(kind: type) -> None:
    text = inspect.cleandoc(vars(kind)["__doc__"])
    assert lacks(text) == []
    assert re.search(r"observed(: F|, latent)", text)


@pytest.mark.parametrize("kind", [*ENGINES.values()], ids=lambda kind: kind.__name__)
def test_an_engine_has_its_equation_and_source(kind: type) -> None:
    assert lacks(inspect.cleandoc(vars(kind)["__doc__"])) == []


def test_a_docstring_without_equation_is_found() -> None:
    assert lacks("A model.\n\nSource: this test.") == ["an equation"]


# --- links


def anchors(page: Path) -> set[str]:
    """The anchors of the headings of a page."""
    text = re.sub(r"^```.*?^```", "", page.read_text(encoding="utf-8"), flags=re.M | re.S)
    titles = re.findall(r"^#+ (.*)$", text, re.M)
    return {re.sub(r"[^\w\- ]", "", title.lower()).strip().replace(" ", "-") for title in titles}


def dead_ends(page: Path, text: str) -> list[str]:
    """The links of a page to files or headings that are not there."""
    found = []
    for target, anchor in LINK.findall(CODE.sub("", text)):
        there = (page.parent / target).resolve() if target else page
        name = there.as_posix().removeprefix(f"{ROOT.as_posix()}/docs/")
        if name in GENERATED:
            continue
        if not there.exists() or (anchor and there.suffix == ".md" and anchor[1:] not in anchors(there)):
            found.append(target + anchor)
    return found


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_links_lead_somewhere(page: Path) -> None:
    assert dead_ends(page, page.read_text(encoding="utf-8")) == []


@pytest.mark.parametrize("link", ["nowhere.md", "models.md#no-such-model", "#no-such-heading"])
def test_a_dead_link_is_found(link: str) -> None:
    page = ROOT / "docs" / "models.md"
    assert dead_ends(page, f"See [this]({link}), not [that](models.md#vae).") == [link]
    assert dead_ends(page, f"See [this], not [that].\n\n[this]: {link}\n[that]: models.md#vae") == [link]


# --- the code of the how-tos


@pytest.mark.parametrize("page", HOWTOS, ids=lambda page: page.stem)
def test_the_code_of_a_howto_runs(page: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    blocks = re.findall(r"^```python\n(.*?)^```", page.read_text(encoding="utf-8"), re.M | re.S)
    assert blocks
    module = ModuleType("howto")
    monkeypatch.setitem(sys.modules, "howto", module)  # where dataclasses look for their annotations
    torch.manual_seed(0)
    for block in blocks:
        exec(compile(block.replace("epochs=20", "epochs=1"), str(page), "exec"), vars(module))
