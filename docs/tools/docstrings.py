"""Docstrings of the house as reStructuredText.

Their sections (``Args:``, ``Raises:``, ``Source:``, …) become lists, and ``|x|`` and ``*shape`` stay what
they are. A reference in a docstring has to lead somewhere. One in an annotation may name a type of another
project, of which this site has no page; it is shown without a link.
"""

from __future__ import annotations

import inspect
import re
import sys
from collections.abc import Iterator
from pkgutil import resolve_name
from typing import Any

from docutils import nodes
from sphinx.addnodes import pending_xref
from sphinx.application import Sphinx

BAR = "∣"
"""A bar that is no markup, and no longer than one that is: so tables stay aligned."""
TITLES = {"Args": "Arguments", "Raises": "Errors"}
HEADER = re.compile(r"^(Args|Raises|Returns|Shapes|Source|Sources):\s*(.*)$")
ENTRY = re.compile(r"^(?:\\)?(\*{0,2}\w[\w.*, ]*?):(?= |$)")
INDEXED = r"(?<![\w.])[A-Za-zα-ωΑ-Ω]_(?:\{[^{}`]*\}|[<≤>]?[tT]|[0-9ijkr])(?![\w(\[]|[.:]\w|: )"
FORMULA = re.compile(rf"(?<!\w)[pq]\((?:(?!\w{{3}})[^()`])*{INDEXED}(?:(?!\w{{3}})[^()`])*\)|{INDEXED}")
"""As in "p(z_t | z_<t, x_{1:T})" or "z_{t-1}": prose that TeX can set."""
LITERAL = re.compile(r"(``.*?``|:[\w:]+:`[^`]*`|`[^`]*`)", re.S)


def as_rst(text: str) -> str:
    """A docstring, cleaned of its indentation, as reStructuredText."""
    return "\n".join(sections(list(escaped(text.split("\n")))))


def escaped(lines: list[str]) -> Iterator[str]:
    """Lines whose bars and lone asterisks are characters, and formulas are set; code and literals stay."""
    paragraph: list[str] = []
    verbatim: int | None = None  # how far the directive or the literal block is indented that a line is in
    doctest = False
    for line in lines:
        indent = len(line) - len(line.lstrip())
        doctest = line.lstrip().startswith(">>> ") or (doctest and bool(line.strip()))
        if verbatim is not None and line.strip() and indent <= verbatim:
            verbatim = None
        if verbatim is None and (line.lstrip().startswith(".. ") or line.rstrip().endswith("::")):
            verbatim = indent
        if verbatim is None and not doctest and line.strip():
            paragraph.append(line)
            continue
        yield from around_literals(paragraph)
        paragraph = []
        yield line
    yield from around_literals(paragraph)


def around_literals(paragraph: list[str]) -> list[str]:
    """The lines of a paragraph, whose literals may go over the end of a line."""
    parts = LITERAL.split("\n".join(paragraph))
    parts[::2] = [prose(part) for part in parts[::2]]
    return "".join(parts).split("\n") if paragraph else []


def prose(text: str) -> str:
    """Words, in which formulas are set, and bars and asterisks are no markup."""
    start, done = 0, ""
    for formula in FORMULA.finditer(text):
        done += plain_marks(text[start : formula.start()]) + rf"\ :math:`{tex(formula[0])}`\ "
        start = formula.end()
    return done + plain_marks(text[start:])


def plain_marks(text: str) -> str:
    """Bars and a lone asterisk as characters."""
    return text.replace("|", BAR).replace("*shape", r"\*shape")


def tex(formula: str) -> str:
    """A formula as it stands in prose, for TeX."""
    formula = re.sub(r"_([<≤>])([tT])", r"_{\1\2}", formula)
    return formula.replace("≤", r"\le ").replace("|", r"\mid ")


def sections(lines: list[str]) -> Iterator[str]:
    """Lines with every section as a paragraph with a title, its entries as a list."""
    inside = False
    for line in lines:
        header = HEADER.match(line)
        if header:
            inside = not header[2]
            title = f"**{TITLES.get(header[1], header[1])}.**"
            yield from ("", f"{title} {header[2]}".rstrip(), *([""] if inside else []))
        elif inside and line.startswith("    ") and (line[4] != " " or not line.strip()):
            entry = ENTRY.match(line[4:])
            yield f"- ``{entry[1]}``:{line[4 + entry.end() :]}" if entry else line[4:]
        elif inside and line.strip() and line.startswith("    "):
            yield f"  {line.strip()}"
        else:
            inside = inside and not line.strip()
            yield line


def process(app: Sphinx, what: str, name: str, obj: object, options: Any, lines: list[str]) -> None:
    """What autodoc calls with every docstring."""
    lines[:] = as_rst(inspect.cleandoc("\n".join(lines))).split("\n")


def canonical(app: Sphinx, doctree: nodes.document) -> None:
    """Let every reference to a name of the package name the place where it is defined.

    Docstrings and annotations name things as their module does, which may have imported them.
    """
    for node in doctree.findall(pending_xref):
        it = meant(node)
        module, name = getattr(it, "__module__", None), getattr(it, "__qualname__", None)
        if module and name and module.startswith("pyrodvae"):
            node["reftarget"] = f"{module}.{name}"


def meant(node: pending_xref) -> object | None:
    """The object that a reference names, seen from its module or by its full name; None if there is none."""
    target, module = str(node.get("reftarget", "")).lstrip("."), node.get("py:module")
    for name in [f"{module}.{target}"] * bool(module) + [target] * target.startswith("pyrodvae."):
        try:
            return resolve_name(name)
        except (ImportError, AttributeError, ValueError):
            continue
    return None


def plain(app: Sphinx, env: Any, node: pending_xref, words: nodes.TextElement) -> nodes.TextElement | None:
    """The words alone, for what has no page of its own.

    That is what annotations name, other projects, constants, and attributes that a module gives its objects.
    """
    target = str(node.get("reftarget", ""))
    if node.get("refdomain") != "py":
        return None
    elsewhere = "." in target and not target.startswith("pyrodvae.")
    if "refexplicit" not in node or elsewhere or meant(node) is not None:
        return words
    module = sys.modules.get(str(node.get("py:module")))
    attribute = node["reftype"] == "attr" and module is not None and target in inspect.getsource(module)
    return words if attribute else None


def setup(app: Sphinx) -> dict[str, Any]:
    """Listen to docstrings, and to the references in them."""
    app.connect("autodoc-process-docstring", process)
    app.connect("doctree-read", canonical)
    app.connect("missing-reference", plain, priority=900)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
