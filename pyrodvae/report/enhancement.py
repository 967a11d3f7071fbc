"""The page about enhanced recordings: to hear and to see what was found, and how it was found."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

from pyrodvae.enhance import WINDOW_SECONDS, Enhanced
from pyrodvae.report.page import (
    Html,
    check_page,
    element,
    listed,
    page,
    paragraph,
    reproduction,
    save_page,
    section,
    table,
    text,
)
from pyrodvae.report.recording import remarks, shown

MOST_SECONDS = 180.0
"""Of sound on one page, some 20 megabytes as each is there four times; later recordings have a line each."""


@dataclass(frozen=True)
class _Window:
    """What is kept of a window once it is drawn."""

    seconds: float
    objective: float
    remarks: list[str]


@dataclass(frozen=True)
class _Recording:
    """A line of the table of contents, and what it leads to, if anything."""

    name: str
    windows: Sequence[_Window]
    section: Html
    why: str

    @property
    def remarks(self) -> list[str]:
        """Of all windows, each once."""
        return list(dict.fromkeys(remark for window in self.windows for remark in window.remarks))

    def cells(self, place: str) -> tuple[str, ...]:
        """Name, length, objective, remarks, and why something is missing."""
        if self.why:
            return self.name, "", "", "", self.why
        name = element("a", {"href": f"#{place}"}, self.name) if self.section else self.name
        seconds = sum(window.seconds for window in self.windows)
        objective = sum(window.seconds * window.objective for window in self.windows) / seconds
        missing = "" if self.section else "There is no room for its sound on this page."
        return name, f"{seconds:.1f}", f"{objective:.3f}", f"{len(self.remarks)}", missing


class EnhancementReport:
    """A page about recordings that are enhanced one after the other, each in one window or in several.

    ::

        report = EnhancementReport("r.html")
        report.add(pyrodvae.enhance("noisy.wav"))
        report.finish("noisy.wav")
        report.save()

    What is added is drawn at once and not kept, so a page of any number of recordings takes little memory.
    Of several windows the first is shown; what there is to remark is told of all.

    Args:
        path: of the file.
        command: that makes the page again.
        seconds: of sound on the page, at most; the first recording is always there.

    Raises:
        ValueError: the path is no name for a page, or its folder does not exist.
        NotWritten: nothing can be written there.
    """

    def __init__(self, path: str | Path, *, command: str = "", seconds: float = MOST_SECONDS) -> None:
        self.path, self.command = check_page(path), command
        self._left = seconds
        self._settings: dict[str, str] = {}
        self._recordings: list[_Recording] = []
        self._windows: list[_Window] = []  # of the recording under way, of which this is shown:
        self._shown: list[Html] = []

    def add(self, result: Enhanced) -> None:
        """A window, or all, of the recording under way."""
        seconds = result.speech.shape[-1] / result.sample_rate
        heard = min(seconds, WINDOW_SECONDS)
        if not self._windows and (heard <= self._left or not self._recordings):
            self._shown = shown(result)
            self._left -= heard
        self._windows.append(_Window(seconds, float(result.objective[-1].mean()), remarks(result)))
        self._settings = {name: str(value) for name, value in result.settings.items() if name != "audio"}

    def finish(self, name: str, why: str = "") -> None:
        """The recording under way is done, or there is a reason why it is not."""
        one = _Recording(name, self._windows, text(*self._shown) if not why else Html(), why)
        self._recordings.append(one)
        self._windows, self._shown = [], []

    def page(self) -> str:
        """The page itself."""
        names = [one.name for one in self._recordings]
        title = f"Speech enhancement of {names[0] if len(names) == 1 else f'{len(names)} recordings'}"
        contents = [self._contents()] if len(names) > 1 or self._recordings[0].why else []
        parts = [self._part(i, one) for i, one in enumerate(self._recordings) if one.section]
        return page(title, "Speech enhancement", *contents, *parts, reproduction(self.command, self._made()))

    def stands(self, files: Iterable[Path]) -> bool:
        """Whether the page is there already: by the same command, and not older than these files."""
        if not self.path.is_file() or text(self.command) not in self.path.read_text("utf-8", "replace"):
            return False
        return all(file.stat().st_mtime <= self.path.stat().st_mtime for file in files)

    def save(self) -> None:
        """Write the page in one step; while there is no recording in it, an earlier one stays.

        Raises:
            NotWritten: it cannot be written.
        """
        if self._recordings:
            save_page(self.path, self.page())

    def _contents(self) -> Html:
        head = ("recording", "seconds", "objective", "remarks", "note")
        rows = [one.cells(_place(i)) for i, one in enumerate(self._recordings)]
        caption = "Recordings, with the objective at the end; a click on a heading sorts."
        return section("Contents", table(head, rows, caption, sorts=True))

    def _part(self, i: int, one: _Recording) -> Html:
        several = f"It was enhanced in {len(one.windows)} windows; the first with sound is shown."
        lead = [paragraph(several)] if len(one.windows) > 1 else []
        said = one.remarks
        warned = (
            element("aside", {"class": "remarks"}, listed(said)) if said else paragraph("No remarks.", "soft")
        )
        return section(one.name, *lead, warned, one.section, id=_place(i))

    def _made(self) -> list[tuple[str, str]]:
        versions = {name: version(name) for name in ("pyrodvae", "torch", "pyro-ppl")}
        return [(name.replace("_", " "), value) for name, value in {**self._settings, **versions}.items()]


def _place(i: int) -> str:
    return f"recording-{i + 1}"
