"""What every engine keeps to: state in, state out, and settings that can run."""

from __future__ import annotations

import math
from dataclasses import fields
from typing import Any

import numpy as np
import pytest
import torch
from linear import run
from torch import Tensor
from toys import mixture

from pyrodvae.engines import ENGINES, VEM, Langevin
from pyrodvae.potential import Target


def scene() -> tuple[Target, Tensor]:
    model, guide, x, z = mixture()
    return Target(model, guide, (x,)), z


@pytest.mark.parametrize("key", ENGINES)
def test_what_an_engine_is(key: str) -> None:
    """Every chain of every sequence moves, the state that went in is left alone, and S stays."""
    engine = ENGINES[key]()
    target, z = scene()
    given = z.clone()
    first = engine.init(target, z)
    before = first.z.detach().clone()
    second = first
    for _ in range(4):  # a first step may be refused
        second, info = engine.step(target, second)
    assert torch.equal(z, given)
    assert torch.equal(first.z, before)
    assert second.z.shape == z.shape
    assert (second.z != before).flatten(2).any(-1).all()
    assert all(torch.isfinite(v).all() for v in info.values())


def test_engines_chain() -> None:
    target, z = scene()
    for name in [*ENGINES, *ENGINES]:
        z = run(ENGINES[name](), target, z, 1)
    assert torch.isfinite(z).all()


def test_langevin_says_how_likely_its_draws_were() -> None:
    target, z = scene()
    state, info = Langevin().step(target, Langevin().init(target, z))
    torch.testing.assert_close(info["log_joint"], target.log_joint(z))
    assert not torch.allclose(info["log_joint"], target.log_joint(state.z.detach()))


@pytest.mark.parametrize(
    ("engine", "setting"),
    [
        (Langevin, {"step_size": -0.1}),
        (Langevin, {"steps": 0}),
        (Langevin, {"temperature": -1.0}),
        (VEM, {"learning_rate": 0.0}),
        (VEM, {"steps": 0}),
        (VEM, {"clip": 0.0}),
    ],
)
def test_settings_that_cannot_run_are_refused(engine: type, setting: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="cannot run"):
        engine(**setting)


@pytest.mark.parametrize("key", ENGINES)
def test_every_number_is_finite_bounded_and_whole_where_it_counts(key: str) -> None:
    kind: Any = ENGINES[key]
    for field in fields(kind):
        if type(field.default) not in (int, float):
            continue
        wrong = [math.nan, math.inf, -math.inf, 1e30, True, "1"]
        for value in wrong + [1.5] * (type(field.default) is int):
            with pytest.raises(ValueError, match=f"cannot run: {field.name} must be"):
                kind(**{field.name: value})
        assert kind(**{field.name: np.asarray(field.default)[()]}) == kind()  # the control, from NumPy too
