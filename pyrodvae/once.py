"""What model and guide both compute of the same data, computed once: an effect handler."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from pyro.poutine.messenger import Messenger
from pyro.poutine.runtime import am_i_wrapped, effectful

once = effectful(type="once")
"""Mark a function whose result may be shared by calls with the same arguments inside :class:`Once`."""


def tell(value: Any, function: Callable[..., Any], *arguments: Any) -> None:
    """Inside :class:`Once`, calls of a function marked :data:`once` with these arguments give this value."""
    if am_i_wrapped():
        function(*arguments, obs=value)  # in Pyro's words: its value was observed


class Once(Messenger):
    """While it is open, a function marked :data:`once` is computed once for the same arguments.

    Meant for one evaluation of an objective: ``with Once(): loss = elbo(x)``. Arguments are the same
    if they are the same objects, and all is forgotten at the end, so nothing outlives a change of the
    weights. Without it, every call computes.
    """

    def __enter__(self) -> Once:
        self._kept: dict[Any, Any] = {}
        return super().__enter__()

    def __exit__(self, *error: Any) -> None:
        self._kept.clear()
        super().__exit__(*error)

    def _pyro_once(self, msg: Any) -> None:
        if (key := _key(msg)) in self._kept:
            msg["value"] = self._kept[key][-1]

    def _pyro_post_once(self, msg: Any) -> None:
        # While the arguments are held, no others have their ids.
        self._kept[_key(msg)] = (msg["args"], msg["kwargs"], msg["value"])


def _key(msg: Any) -> tuple[Any, ...]:
    named = ((name, id(value)) for name, value in sorted(msg["kwargs"].items()))
    return (msg["fn"], torch.is_grad_enabled(), *map(id, msg["args"]), *named)
