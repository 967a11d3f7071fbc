"""Engines that know how many steps there will be, and go on from other draws."""

from __future__ import annotations

import pytest
import torch
from toys import mixture

from pyrodvae.em import em
from pyrodvae.engines import HMC, MALA, MH, Chain, Encoder, EngineKernel, Langevin
from pyrodvae.potential import Target


def test_warm_up_ends_before_the_draws_that_count() -> None:
    chain = Chain((Langevin(), MALA()), (20, 40)).planned(60)
    assert chain.lengths == (20, 40)
    assert chain.engines[1] == MALA(warmup=10)
    assert chain.burn_in == 30
    assert HMC().planned(40).warmup == 10
    assert MH(steps=10).planned(40).burn_in == 10
    assert Chain((Langevin(), MALA())).burn_in > 0  # the control: unplanned, it knows only its own


def test_lengths_are_shared_by_engines_that_walk() -> None:
    chain = Chain((Encoder(), Langevin(), MALA())).planned(60)
    assert chain.lengths == (1, 30, 29)
    assert Chain((Langevin(), Encoder())).planned(10).lengths == (9, 1)


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


def test_nothing_settles_during_burn_in() -> None:
    """A tolerance that is met at once stops only after the engine has settled."""

    def iterations(engine) -> int:
        model, guide, x, z = mixture()
        return len(em(model, guide, x, engine, z, iterations=60, tolerance=1e9).objective)

    assert iterations(Langevin()) == 40  # at 20, and then their share
    assert iterations(Chain((Langevin(), MALA(warmup=4)), (2, 58))) == 52


def test_a_chain_is_no_kernel() -> None:
    model, _, _, _ = mixture()
    with pytest.raises(ValueError, match="not a Chain"):
        EngineKernel(Chain((Langevin(), MALA())), model)
