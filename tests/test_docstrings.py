"""Examples in docstrings do what they show."""

from __future__ import annotations

import doctest
import importlib
import pkgutil

import pytest

import pyrodvae

MODULES = [
    name
    for _, name, _ in pkgutil.walk_packages(pyrodvae.__path__, "pyrodvae.")
    if not name.endswith("__main__")
]


def examples(module: object) -> list[doctest.DocTest]:
    return [test for test in doctest.DocTestFinder().find(module) if test.examples]


def run(test: doctest.DocTest) -> tuple[int, str]:
    told: list[str] = []
    runner = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE)
    runner.run(test, out=told.append)
    return runner.failures, "".join(told)


@pytest.mark.parametrize("name", MODULES)
def test_examples_run(name: str) -> None:
    for test in examples(importlib.import_module(name)):
        failures, told = run(test)
        assert not failures, told


def test_they_are_found_and_can_fail() -> None:
    """The control: examples there are, and one that shows something else is told."""
    found = examples(importlib.import_module("pyrodvae.settings"))
    assert [test.name for test in found] == ["pyrodvae.settings.apply"]
    found[0].examples[-1].want = "(51, 0.05)\n"
    assert run(found[0])[0] == 1
