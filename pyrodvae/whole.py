"""Files that appear whole or not at all, and failures to write told by the name that was asked for."""

from __future__ import annotations

import os
import re
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path


class NotWritten(OSError):
    """A file cannot be written; the message is one sentence that names it and says why."""


@contextmanager
def telling(path: Path) -> Iterator[None]:
    """Tell failures as :class:`NotWritten` about ``path``, whatever file the system's own words name."""
    try:
        yield
    except NotWritten:
        raise
    except OSError as error:
        raise NotWritten(f"{path} cannot be written: {error.strerror or error}.") from error


def briefly(error: object) -> str:
    """The first sentence of a long complaint, without its stop."""
    return re.split(r"\.?(?:\s*\n|\. |$)", str(error))[0] or type(error).__name__


def temporary(path: Path) -> Path:
    """Where a file is written before it gets its name: hidden, beside it.

    The place is always the same, so the next run overwrites what a killed one has left there.
    """
    return path.with_name(f".{path.name}.tmp")


def save(path: Path, content: bytes) -> None:
    """Write a file in one step; after a failure, an earlier one of that name is untouched.

    Raises:
        NotWritten: it cannot be written.
    """
    unfinished = temporary(path)
    with telling(path):
        try:
            unfinished.write_bytes(content)
            os.replace(unfinished, path)
        finally:
            with suppress(OSError):  # what went wrong before is to be told
                unfinished.unlink()


def make_folder(path: Path) -> None:
    """Make a folder where it is missing, and try whether files can be written to it.

    Raises:
        NotWritten: they cannot.
    """
    with telling(path):
        path.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=path).close()
