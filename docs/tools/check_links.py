"""Follows every link within a built site: ``python docs/tools/check_links.py HTML``."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit


class Page(HTMLParser):
    """What a page links to, and where it can be linked to."""

    def __init__(self) -> None:
        super().__init__()
        self.links: list[str] = []
        self.anchors: set[str] = set()

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        """Note what a tag names and what it points to."""
        for name, value in attributes:
            if name in ("href", "src") and value:
                self.links.append(value)
            elif name == "id" or (tag == "a" and name == "name"):
                self.anchors.add(value or "")


def broken(site: Path) -> list[str]:
    """A sentence for every link within a site that leads nowhere."""
    pages = {path: read(path) for path in sorted(site.rglob("*.html"))}
    return [sentence for path in pages for sentence in dead_ends(path, pages)]


def read(path: Path) -> Page:
    """A page, parsed."""
    page = Page()
    page.feed(path.read_text(encoding="utf-8"))
    return page


def dead_ends(path: Path, pages: dict[Path, Page]) -> Iterator[str]:
    """Of one page."""
    for link in dict.fromkeys(pages[path].links):
        to = urlsplit(link)
        if to.scheme or to.netloc:
            continue
        there = Path(os.path.normpath(path.parent / unquote(to.path))) if to.path else path
        if not there.is_file():
            yield f"{path}: {link} leads to no file."
        elif to.fragment and there in pages and unquote(to.fragment) not in pages[there].anchors:
            yield f"{path}: {link} leads to a page that has no such place."


if __name__ == "__main__":
    found = broken(Path(sys.argv[1]).resolve())
    print("\n".join(found) or "Every link leads somewhere.")
    sys.exit(bool(found))
