"""What every model and guide is: a Pyro program that owns its parameters."""

from __future__ import annotations

from abc import ABCMeta
from contextlib import AbstractContextManager
from typing import Any

from pyro import settings
from pyro.nn import PyroModule


class _AbstractPyroModule(type(PyroModule), ABCMeta):  # type: ignore[misc]
    """Pyro modules have a metaclass of their own; abstract classes another."""


class Program(PyroModule, metaclass=_AbstractPyroModule):  # type: ignore[metaclass]
    """A Pyro module that runs with or without the global parameter store.

    Our own training keeps parameters inside the modules (``module_local_params=True``), Pyro's
    ``SVI`` in its global store. A PyroModule can only be called under a setting that it knew at its
    making, so it is made under the one that serves both. In the store its parameters go by the name
    of its class, so that those of a model and of its guide stay apart.
    """

    def __init__(self) -> None:
        with local_parameters():
            super().__init__(type(self).__name__)

    def __getattr__(self, name: str) -> Any:
        # At every access to a network, Pyro offers its parameters to the store; in a loop over frames
        # that is a quarter of a training step, and without a global store it has no effect.
        module = self.__dict__.get("_modules", {}).get(name)
        if module is None or isinstance(module, PyroModule) or not settings.get("module_local_params"):
            return super().__getattr__(name)
        return module

    def _pyro_set_supermodule(self, name: str, context: Any) -> None:
        # Pyro refuses a program whose parts have already run. Ours may: they have no sites of their own
        # among their attributes, and one model serves in several others, such as a mixture's in noise.
        self._pyro_name, self._pyro_context = name, context
        for part, module in self._modules.items():
            if isinstance(module, PyroModule):
                module._pyro_set_supermodule(f"{name}.{part}", context)


def local_parameters() -> AbstractContextManager[None]:
    """A context in which parameters stay in their modules, and no global store is touched."""
    return settings.context(module_local_params=True)
