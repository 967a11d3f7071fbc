"""Ctrl-C while the program still imports its libraries: it ends with a word instead of a traceback.

This module is imported first of all. It does nothing but in the program ``pyrodvae`` itself, whose
``main`` takes over as soon as it runs.
"""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path
from typing import Any


def is_program() -> bool:
    """Whether this process is ``pyrodvae …`` or ``python -m pyrodvae …``."""
    started = sys.argv[0] if sys.argv else ""
    if started == "-m":  # so it is until the package is imported
        return any(part.removeprefix("-m") == "pyrodvae" for part in sys.orig_argv)
    return Path(started).stem == "pyrodvae"


def leave(*_: Any) -> None:
    """End at once: what is being imported could swallow an exception."""
    os.write(2, b"Interrupted.\n")
    os._exit(130)


if is_program() and signal.getsignal(signal.SIGINT) is signal.default_int_handler:
    signal.signal(signal.SIGINT, leave)
