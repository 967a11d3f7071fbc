"""Kernels that are exact: invariance in speech by an RVAE, calibration where all frames see each other.

What has to fail either: no correction, frames of such a model accepted alone, the prior twice, a kernel
that does not heed x, and one that does nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import NamedTuple

import pytest
import torch
from chains import Frames
from torch import Tensor
from toys import F, make

from pyrodvae.checks import calibration, draw, invariance
from pyrodvae.engines import ENGINES, HMC, MALA, MH, NUTS, BatchedHMC, Engine, Langevin
from pyrodvae.engines.encoder import EncoderState
from pyrodvae.engines.metropolis import Metropolis
from pyrodvae.engines.pyro_mcmc import PyroEngine
from pyrodvae.noise import NMFNoise
from pyrodvae.noisy import NoisySpeech
from pyrodvae.potential import Target


class Exact(NamedTuple):
    """A kernel that does not adapt; replicates and moves of the test of invariance; those of calibration,
    with its chains."""

    engine: Engine
    replicates: int
    moves: int
    calibrated: tuple[int, int, int]


EXACT = {
    "mh": Exact(MH(0.5, steps=1, warmup=0), 1500, 8, (150, 60, 31)),
    "mala": Exact(MALA(0.5, warmup=0), 1500, 8, (150, 30, 31)),
    "hmc": Exact(HMC(0.4, warmup=0, leapfrogs=2), 50, 2, (30, 2, 3)),
    "nuts": Exact(NUTS(0.4, warmup=0, max_tree_depth=2), 50, 2, (30, 2, 3)),
    "hmc-batched": Exact(BatchedHMC(0.4, warmup=0, leapfrogs=3), 1500, 8, (150, 15, 31)),
}


def speech(replicates: int, frames: int = 4, loud: float = 4.0) -> tuple[Target, Tensor]:
    """By an RVAE, in noise, one pair (z, x) a replicate; the louder, the more x tells about z."""
    program, _ = make("rvae")
    with torch.no_grad():
        for p in program.head.parameters():
            p.mul_(loud)
    model = NoisySpeech(program, NMFNoise(torch.rand(1, F, 2).double(), torch.rand(1, 2, frames).double()))
    z, x = draw(model, torch.zeros(replicates, frames, F, dtype=torch.cdouble))
    return Target(model, None, (x,), model.reach), z


def linear(replicates: int) -> tuple[Target, Tensor]:
    """Of three frames, each of which sees all."""
    model = Frames(torch.ones(3, 3))
    model.A *= 0.5
    z, x = draw(model, torch.zeros(replicates, 3, 2, dtype=torch.double))
    return Target(model, None, (x,)), z


@dataclass(frozen=True)
class Doubled(Target):
    """With p(z)² in place of p(z), for the models above, where that is a standard normal."""

    def log_joint(self, z: Tensor) -> Tensor:
        return super().log_joint(z) - 0.5 * z.square().sum((-2, -1))


@dataclass(frozen=True)
class Blind(Engine):
    """A kernel that has not seen the target."""

    move: Callable[[Tensor], Tensor]
    steps: int = 1

    def init(self, target: Target, z: Tensor) -> EncoderState:
        return EncoderState(z)

    def step(self, target: Target, state: EncoderState) -> tuple[EncoderState, dict[str, Tensor]]:
        return EncoderState(self.move(state.z)), {}


def doubled(target: Target) -> Target:
    return Doubled(target.model, None, target.args)


def alone(target: Target) -> Target:
    """Every frame is said to enter no term but its own."""
    return replace(target, reach=0)


def stranger(target: Target) -> Target:
    """Each z is given the x of another."""
    return replace(target, args=(target.args[0].roll(1, 0),))


WRONG = {
    "no correction": (Langevin(0.8, precondition=False, temperature=1.0), None),
    "frames accepted alone": (MALA(0.5, warmup=0), alone),
    "the prior twice": (MALA(0.5, warmup=0), doubled),
    "x not heeded": (Blind(torch.randn_like), None),  # the prior itself
    "nothing": (Blind(torch.clone), None),
}


def test_all_kernels_are_tested() -> None:
    assert set(EXACT) == {key for key, kind in ENGINES.items() if issubclass(kind, (Metropolis, PyroEngine))}


@pytest.mark.parametrize("key", EXACT)
def test_invariance(key: str) -> None:
    case = EXACT[key]
    target, z = speech(case.replicates)
    found = invariance(case.engine, target, z, case.moves)
    assert found.passed, found
    assert not invariance(case.engine, doubled(target), z, case.moves).passed


@pytest.mark.parametrize("key", EXACT)
def test_calibration(key: str) -> None:
    replicates, moves, chains = EXACT[key].calibrated
    target, z = linear(replicates)
    engine = replace(EXACT[key].engine, steps=moves)
    found = calibration(engine, target, z, chains=chains, warmup=1)
    assert found.passed, found
    assert not calibration(engine, stranger(target), z, chains=chains, warmup=1).passed


@pytest.mark.parametrize("why", WRONG)
def test_what_is_wrong_fails_both(why: str) -> None:
    engine, change = WRONG[why]
    told, truth = linear(150)
    assert not calibration(
        replace(engine, steps=30), change(told) if change else told, truth, chains=31, warmup=1
    ).passed
    target, z = speech(1500, 6, 8.0)
    assert not invariance(engine, change(target) if change else target, z, 8).passed
