"""Settings as text: ``key=value`` pairs, checked against the dataclasses they set."""

from __future__ import annotations

import inspect
import math
from collections.abc import Sequence
from dataclasses import fields, replace
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

BOOLEANS = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}
SEEDS = 2**31


def apply(assignments: Sequence[str], *settings: Any) -> list[Any]:
    """Dataclasses with the fields replaced that ``key=value`` texts name.

    >>> from pyrodvae import EnhanceConfig
    >>> from pyrodvae.engines import Langevin
    >>> config, engine = apply(["iterations=50", "step_size=0.05"], EnhanceConfig(), Langevin())
    >>> config.iterations, engine.step_size
    (50, 0.05)

    A key is set in every dataclass that has a field of that name; a value is read as the field's type,
    one of int, float, bool, str and Literal.

    Args:
        assignments: texts ``key=value``.
        settings: instances of dataclasses; they are not changed.

    Raises:
        ValueError: no "=", a key that no dataclass has, or a value of another type.
    """
    settings_ = list(settings)
    values: list[dict[str, Any]] = [{} for _ in settings]
    for assignment in assignments:
        key, equals, text = (part.strip() for part in assignment.partition("="))
        if not equals or not key:
            raise ValueError(f"A setting is written key=value, not '{assignment}'.")
        owners = [i for i, one in enumerate(settings_) if key in types(one)]
        if not owners:
            known = dict.fromkeys(name for one in settings_ for name in types(one))
            raise ValueError(f"No setting is called '{key}'; there are: {', '.join(known)}.")
        for i in owners:
            values[i][key] = read(key, text, types(settings_[i])[key])
    # At once: what fits together may not fit one by one.
    return [replace(one, **values[i]) for i, one in enumerate(settings_)]


def keywords(kind: type, assignments: Sequence[str]) -> tuple[dict[str, Any], list[str]]:
    """The ``key=value`` texts that name keyword-only arguments of a constructor, read; and the other texts.

    Raises:
        ValueError: a value of another type.
    """
    parameters = inspect.signature(kind, eval_str=True).parameters.values()
    own = {p.name: p.annotation for p in parameters if p.kind is p.KEYWORD_ONLY and p.name != "data"}
    parts = [(text, *(part.strip() for part in text.partition("=")[::2])) for text in assignments]
    given = {key: read(key, value, own[key]) for _, key, value in parts if key in own}
    return given, [text for text, key, _ in parts if key not in own]


def types(settings: Any) -> dict[str, Any]:
    """The settable fields of a dataclass and their types."""
    hints = get_type_hints(type(settings))
    return {field.name: hints[field.name] for field in fields(settings) if field.init}


def describe(settings: Any, *without: str) -> str:
    """The settings of a dataclass as they would be written, but for some: ``key=value key=value``."""
    return " ".join(f"{name}={getattr(settings, name)}" for name in types(settings) if name not in without)


def read(key: str, text: str, kind: Any) -> Any:
    """The value that a text stands for, of a type.

    Raises:
        ValueError: it stands for none.
    """
    if get_origin(kind) in (Union, UnionType):  # words, or an object that only Python can give
        if text == "None" and NoneType in get_args(kind):
            return None
        kind = get_args(kind)[0]
    if get_origin(kind) is Literal:
        if text in get_args(kind):
            return text
        wanted = " or ".join(f"'{choice}'" for choice in get_args(kind))
    elif kind is bool:
        if text.lower() in BOOLEANS:
            return BOOLEANS[text.lower()]
        wanted = "true or false"
    elif kind is str:
        return text
    elif get_origin(kind) is Sequence:
        return [read(key, part, *get_args(kind)) for part in text.split(",")]
    elif kind in (int, float):
        wanted = "a whole number" if kind is int else "a finite number"
        try:
            value = kind(text)
        except ValueError:
            value = math.nan
        if math.isfinite(value):
            return value
    else:
        raise ValueError(f"The setting '{key}' cannot be given as text.")
    raise ValueError(f"The setting '{key}' takes {wanted}, not '{text}'.")


def check_seed(seed: int) -> None:
    """Raise a ValueError unless the seed is a whole number that every random generator takes."""
    if not 0 <= seed < SEEDS or seed % 1:
        raise ValueError(f"A seed is a whole number from 0 to {SEEDS - 1}, not {seed}.")
