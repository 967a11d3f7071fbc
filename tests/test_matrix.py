"""The matrix of models and engines: what is tried is told as it is."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import NamedTuple

import pytest
import torch
from torch import Tensor

from pyrodvae.engines import ENGINES, Engine
from pyrodvae.matrix import NOT_FINITE, Matrix, attempt, try_all
from pyrodvae.models import MODELS
from pyrodvae.potential import Target


class Draws(NamedTuple):
    z: Tensor


@dataclass(frozen=True)
class Lost(Engine):
    """Draws that are no numbers, or an engine that refuses its work."""

    refuses: bool = False

    def init(self, target: Target, z: Tensor) -> Draws:
        if self.refuses:
            raise ValueError("This engine is at rest.")
        return Draws(z * torch.nan)

    def step(self, target: Target, state: Draws) -> tuple[Draws, dict[str, Tensor]]:
        return state, {}


@dataclass(frozen=True)
class Refuses(Lost):
    refuses: bool = True


@pytest.fixture(scope="module")
def matrix() -> Matrix:
    return try_all()


def test_every_engine_works_with_every_model_or_says_why_not(matrix: Matrix) -> None:
    assert list(matrix.reasons) == [(model, engine) for model in MODELS for engine in ENGINES]
    for pair, why in matrix.reasons.items():
        assert not why or re.fullmatch(r"[A-Z][^\n]+\.", why), (pair, why)
        assert why != NOT_FINITE, pair
    for engine in ENGINES:
        assert matrix.reasons["vae", engine] == ""
        assert "is a model of real vectors" in matrix.reasons["kalman", engine]


def test_what_does_not_work_is_noticed(monkeypatch) -> None:
    """The control: engines that cannot work do not."""
    monkeypatch.setitem(ENGINES, "lost", Lost)
    monkeypatch.setitem(ENGINES, "refuses", Refuses)
    found = try_all(["vae", "kalman"], ["lost", "refuses", "langevin"])
    lost, refuses, works = list(found.reasons.values())[:3]
    assert re.match("The objective of sequence 0 is no finite number in iteration 0: [^\n]+\\.$", lost)
    assert (refuses, works) == ("This engine is at rest.", "")
    kalman = found.reasons["kalman", "lost"]
    assert [re.split(r" {2,}", line) for line in found.table().splitlines()] == [
        ["", "lost", "refuses", "langevin"],
        ["vae", "[1]", "[2]", "works"],
        ["kalman", "[3]", "[3]", "[3]"],
        [f"[1] {lost}"],
        ["[2] This engine is at rest."],
        [f"[3] {kalman}"],
    ]


def test_the_callers_chance_and_threads_are_left_alone() -> None:
    state, threads = torch.get_rng_state(), torch.get_num_threads()
    try_all(["vae"], ["langevin"])
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.get_num_threads() == threads


def test_keys_that_there_are_not() -> None:
    assert attempt("no", "langevin").startswith("No model is called 'no'")
    assert attempt("vae", "no").startswith("No engine is called 'no'")
