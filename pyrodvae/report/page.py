"""Pages: markup that escapes what it is given, and a file that loads nothing when it is looked at."""

from __future__ import annotations

import html
import re
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from importlib.resources import files
from pathlib import Path

from pyrodvae.whole import save, telling

TEMPLATE = "report/page.html"
"""It has all of a page but its title and body: styles for light and dark screens, and a short script."""

LONG = 28
"""Letters that stand in one line of a table."""

Attributes = Mapping[str, str | float | None]


class Html(str):
    """Text that is markup; all other text is escaped where it becomes part of a page."""

    __slots__ = ()


def text(*parts: str) -> Html:
    """Parts side by side, those escaped that are no markup."""
    return Html("".join(part if isinstance(part, Html) else html.escape(part) for part in parts))


def element(name: str, attributes: Attributes, *children: str) -> Html:
    """``<name key="value">children</name>``; an attribute that is None is left out."""
    given = "".join(
        f' {key}="{html.escape(str(value))}"' for key, value in attributes.items() if value is not None
    )
    return Html(f"<{name}{given}>{text(*children)}</{name}>")


def listed(items: Iterable[str]) -> Html:
    """A list of them."""
    return element("ul", {}, *(element("li", {}, item) for item in items))


def paragraph(words: str, kind: str | None = None) -> Html:
    """A paragraph; ``"soft"`` for what explains."""
    return element("p", {"class": kind}, words)


def grid(*figures: Html) -> Html:
    """Pictures side by side where there is room."""
    return element("div", {"class": "grid"}, *figures)


def reproduction(command: str, settings: Iterable[tuple[str, str]]) -> Html:
    """How the page can be made again: the command, if there was one, and what was set."""
    said = [paragraph("The command to make it again:"), element("pre", {}, element("code", {}, command))]
    return section("How it was made", *(said if command else []), facts(settings), id="made")


def facts(pairs: Iterable[tuple[str, str]]) -> Html:
    """Names with what is said of them."""
    return element(
        "dl", {}, *(text(element("dt", {}, name), element("dd", {}, said)) for name, said in pairs)
    )


def figure(picture: Html, caption: str) -> Html:
    """A picture with its caption."""
    return element("figure", {}, picture, element("figcaption", {}, caption))


def section(title: str, *children: str, level: int = 2, id: str | None = None) -> Html:
    """A part of a page under its heading."""
    return element("section", {"id": id}, element(f"h{level}", {}, title), *children)


def table(head: Sequence[str], rows: Sequence[Sequence[str]], caption: str, *, sorts: bool = False) -> Html:
    """A table whose first column names the rows; one that sorts does so by a click on a heading.

    It scrolls by itself where it is wider than the page. A column without any words is left out.
    """
    kept = [i for i, _ in enumerate(head) if any(row[i] for row in rows)]
    top = element("tr", {}, *(element("th", {"scope": "col"}, head[i]) for i in kept))
    body = [element("tr", {}, *(_cell(row[i], first=i == 0) for i in kept)) for row in rows]
    parts = (
        element("caption", {}, element("span", {}, caption)),
        element("thead", {}, top),
        element("tbody", {}, *body),
    )
    whole = element("table", {"class": "sorts" if sorts else None}, *parts)
    return element("div", {"class": "wide", "tabindex": 0, "role": "region", "aria-label": caption}, whole)


def _cell(words: str, *, first: bool) -> Html:
    """A cell; only long words are broken into lines."""
    kind = {"class": "long" if len(words) > LONG and not isinstance(words, Html) else None}
    return element("th", {**kind, "scope": "row"}, words) if first else element("td", kind, words)


def page(title: str, heading: str, *body: str) -> str:
    """A page of its own."""
    filled = {"TITLE": text(title), "BODY": text(element("h1", {}, heading), *body)}
    return re.sub("@(TITLE|BODY)@", lambda place: filled[place[1]], _template())


def _template() -> str:
    return (files("pyrodvae") / TEMPLATE).read_text("utf-8")


def check_page(path: str | Path) -> Path:
    """The path of a page, if one can be written there: asked before any work is done.

    Raises:
        ValueError: it is no name for a page, or its folder does not exist.
        NotWritten: nothing can be written there.
    """
    path = Path(path)
    if path.suffix.lower() not in (".html", ".htm"):
        raise ValueError(f"{path} is no name for a report: end it in .html.")
    if not path.parent.is_dir():
        raise ValueError(f"{path} cannot be written: its folder does not exist.")
    if path.is_dir():
        raise ValueError(f"{path} cannot be written: it is a folder.")
    with telling(path):
        tempfile.TemporaryFile(dir=path.parent).close()
    return path


def save_page(path: Path, content: str) -> None:
    """Write a page in one step.

    Raises:
        NotWritten: it cannot be written.
    """
    save(path, content.encode())
