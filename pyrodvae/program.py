"""What every model and guide is: a Pyro program that owns its parameters."""

from __future__ import annotations

from abc import ABCMeta
from contextlib import AbstractContextManager

import pyro
from pyro.nn import PyroModule


class _AbstractPyroModule(type(PyroModule), ABCMeta):  # type: ignore[misc]
    """Pyro modules have a metaclass of their own; abstract classes another."""


class Program(PyroModule, metaclass=_AbstractPyroModule):  # type: ignore[metaclass]
    """A Pyro module that runs with or without the global parameter store.

    Our own training keeps parameters inside the modules (``module_local_params=True``), Pyro's
    ``SVI`` in its global store. A PyroModule can only be called under a setting that it knew at its
    making, so it is made under the one that serves both.
    """

    def __init__(self) -> None:
        with local_parameters():
            super().__init__()


def local_parameters() -> AbstractContextManager[None]:
    """A context in which parameters stay in their modules, and no global store is touched."""
    return pyro.settings.context(module_local_params=True)
