"""Engines one after the other: whose turn it is, for how long, and what each is given."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import pytest
import torch
from chains import SCENES, off, start
from torch import Tensor
from toys import mixture

from pyrodvae.em import em
from pyrodvae.engines import (
    HMC,
    MALA,
    MH,
    PEEM,
    VEM,
    BatchedHMC,
    Chain,
    Encoder,
    Engine,
    EngineKernel,
    Langevin,
)
from pyrodvae.potential import Target


class At(NamedTuple):
    z: Tensor
    count: int


@dataclass(frozen=True)
class Add(Engine):
    """Adds a constant to every draw, and notes on which target it was started and where."""

    by: float
    begun: list[tuple[Any, float]] = field(default_factory=list)

    def init(self, target: Any, z: Tensor) -> At:
        self.begun.append((target, float(z.mean())))
        return At(z, 0)

    def step(self, target: Any, state: At) -> tuple[At, dict[str, Tensor]]:
        return At(state.z + self.by, state.count + 1), {f"by {self.by}": state.z}


def values(chain: Chain, steps: int) -> list[float]:
    """Where it is after every step, from zero."""
    state, found = chain.init(None, torch.zeros(1, 1, 1, 1)), []
    for _ in range(steps):
        state, _ = chain.step(None, state)
        found.append(float(state.z))
    return found


# Turns


@pytest.mark.parametrize(
    ("lengths", "wanted"),
    [
        ((2, 1, 1), [1, 2, 12, 112, 212, 312]),  # the last goes on
        ((1, 3, 1), [1, 11, 21, 31, 131, 231]),
        ((), [1, 11, 111, 211, 311, 411]),  # one each, where nobody has planned
    ],
)
def test_each_takes_its_steps_from_where_the_one_before_ended(
    lengths: tuple[int, ...], wanted: list[float]
) -> None:
    chain = Chain((Add(1), Add(10), Add(100)), lengths)
    assert values(chain, 6) == wanted
    assert values(Chain(chain.engines[::-1], lengths), 6) != wanted


def test_an_engine_is_started_when_its_turn_comes_on_the_target_of_that_step() -> None:
    first, second = Add(1), Add(10)
    chain = Chain((first, second), (2, 1))
    state = chain.init("a", torch.zeros(1, 1, 1, 1))
    for target in "bcde":  # EM changes the target between steps
        state, _ = chain.step(target, state)
    assert first.begun == [("a", 0.0)]
    assert second.begun == [("d", 2.0)]
    assert state.inner.count == 2  # it was started once


def test_info_is_that_of_the_engine_whose_turn_it_is() -> None:
    chain = Chain((Add(1), Add(10)), (2, 1))
    state, names = chain.init(None, torch.zeros(1, 1, 1, 1)), []
    for _ in range(4):
        state, info = chain.step(None, state)
        names += info
    assert names == ["by 1", "by 1", "by 10", "by 10"]


def test_a_chain_may_be_a_link() -> None:
    inner = Chain((Add(10), Add(100)), (1, 1))
    assert values(Chain((Add(1), inner, Add(1000)), (1, 3, 1)), 6) == [1, 11, 111, 211, 1211, 2211]


def test_a_state_is_left_alone() -> None:
    """The same steps follow from it again, across a change of turns."""
    model, guide, x, z = mixture()
    target = Target(model, guide, (x,))
    chain = Chain((Encoder(), Langevin(), MALA()), (1, 1, 1))
    state, _ = chain.step(target, chain.init(target, z))

    def onwards(seed: int) -> Tensor:
        torch.manual_seed(seed)
        later = state
        for _ in range(3):
            later, _ = chain.step(target, later)
        return later.z.detach()

    before, found = state.z.detach().clone(), onwards(0)
    assert torch.equal(onwards(0), found)
    assert not torch.equal(onwards(1), found)
    assert torch.equal(state.z, before)
    assert state.stage == 0


def test_the_last_engine_decides_what_is_drawn() -> None:
    """The posterior by MALA, wherever a point estimate led; the control ends with the point."""
    scene = SCENES["one_site"]()
    z = start(scene, 800)
    point, mala = PEEM(steps=100), MALA(step_size=0.5, warmup=40, steps=80)

    def draws(*engines: Engine) -> Tensor:
        chain = Chain(engines)
        state = chain.init(scene.target, z)
        for _ in engines:
            state, _ = chain.step(scene.target, state)
        return state.z.detach()

    assert off(draws(point, mala), scene) < 5
    ended = draws(mala, point)
    assert ended.std(0).max() < 0.1 * scene.covariance.diag().sqrt().min()


def test_other_draws_leave_the_stage_and_what_was_learned() -> None:
    model, guide, x, z = mixture("dkf")
    target = Target(model, guide, (x,), reach=model.reach)
    engine = Chain((Langevin(), MALA()), (1, 5))
    state = engine.init(target, z)
    for _ in range(4):
        state, _ = engine.step(target, state)
    moved = engine.moved(target, state, z)
    assert moved.stage == state.stage == 1
    assert torch.equal(moved.z, z)
    assert torch.equal(moved.inner.log_step, state.inner.log_step)
    assert moved.inner.moves == state.inner.moves == 3
    assert engine.init(target, z).stage == 0  # the control: a new start would begin again


# Plans


def test_the_documented_plan() -> None:
    chain = Chain((Encoder(), Langevin(), BatchedHMC())).planned(60)
    assert chain.lengths == (1, 30, 29)
    assert [type(e) for e in chain.engines] == [Encoder, Langevin, BatchedHMC]


@pytest.mark.parametrize(
    ("engines", "iterations", "lengths"),
    [
        ((Langevin(), MALA()), 7, (4, 3)),
        ((Langevin(), Encoder()), 7, (6, 1)),  # draws that do not follow from one another
        ((Encoder(), Encoder()), 7, (1, 6)),  # somebody has to
        ((Encoder(),), 7, (7,)),
        ((Encoder(), Langevin(), VEM()), 3, (1, 1, 1)),
        ((Encoder(), Langevin(), VEM()), 1, (1, 1, 1)),  # no engine is left out
        ((Encoder(), Langevin(), VEM(), MALA()), 11, (1, 4, 3, 3)),
    ],
)
def test_a_plan_shares_the_steps(
    engines: tuple[Engine, ...], iterations: int, lengths: tuple[int, ...]
) -> None:
    planned = Chain(engines).planned(iterations)
    assert planned.lengths == lengths
    assert sum(lengths) == max(iterations, len(engines))
    assert Chain(engines).planned(iterations + 1).lengths != lengths or iterations < len(engines)


def test_a_plan_reaches_every_engine() -> None:
    """A warm-up ends after a quarter of an engine's own share, which is all that it gets."""
    chain = Chain((Langevin(), MH(steps=10), Chain((Encoder(), MALA())))).planned(60)
    assert chain.lengths == (20, 20, 20)
    _, mh, inner = chain.engines
    assert mh == replace(MH(steps=10), warmup=50)
    assert inner == Chain((Encoder(), replace(MALA(), warmup=4)), (1, 19))
    assert mh != MH(steps=10).planned(60)  # the control: the share of the whole


def test_lengths_that_are_given_stay_but_the_last_is_the_rest() -> None:
    """Which the last engine knows: its warm-up ends, too."""
    chain = Chain((Langevin(), MALA()), (3, 4))
    assert chain.planned(43) == Chain((Langevin(), replace(MALA(), warmup=10)), (3, 40))
    assert chain.planned(2).lengths == (3, 1)
    assert Chain(chain.engines).planned(43).lengths == (22, 21)  # the control
    assert chain.lengths == (3, 4)


def test_warm_up_ends_before_the_draws_that_count() -> None:
    chain = Chain((Langevin(), MALA()), (20, 40)).planned(60)
    assert chain.burn_in == 30
    assert HMC().planned(40).warmup == 10
    assert MH(steps=10).planned(40).burn_in == 10
    assert Chain((Langevin(), MALA())).burn_in > 30  # the control: unplanned, it knows only its own


def test_nothing_settles_during_burn_in() -> None:
    """A tolerance that is met at once stops only after the engine has settled."""

    def iterations(engine: Engine) -> int:
        model, guide, x, z = mixture()
        return len(em(model, guide, x, engine, z, iterations=60, tolerance=1e9).objective)

    assert iterations(Langevin()) == 40  # at 20, and then their share
    assert iterations(Chain((Langevin(), MALA(warmup=4)), (2, 58))) == 52


def test_a_planned_chain_keeps_to_its_plan() -> None:
    engines = (Add(1), Add(10), Add(100))
    assert values(Chain(engines).planned(6), 6) == [1, 2, 12, 22, 122, 222]
    assert values(Chain(engines), 6) != values(Chain(engines).planned(6), 6)


# What cannot be run


@pytest.mark.parametrize(
    ("engines", "lengths", "why"),
    [
        ((), (), "at least one engine"),
        ((Langevin(), MALA()), (3,), "one number of steps, at least 1, for each engine"),
        ((Langevin(),), (3, 4), "one number of steps"),
        ((Langevin(), MALA()), (0, 4), "at least 1"),
        ((Langevin(), MALA()), (3, -1), "at least 1"),
    ],
)
def test_chains_that_cannot_run_are_refused(
    engines: tuple[Engine, ...], lengths: tuple[int, ...], why: str
) -> None:
    with pytest.raises(ValueError, match=rf"Chain.* cannot run: .*{why}"):
        Chain(engines, lengths)


def test_a_chain_is_no_kernel() -> None:
    model, _, _, _ = mixture()
    with pytest.raises(ValueError, match="not a Chain"):
        EngineKernel(Chain((Langevin(), MALA())), model)
