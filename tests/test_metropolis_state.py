"""What Metropolis kernels know of a model's structure, and what they carry from move to move."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from linear import run
from pyro import poutine
from torch import Tensor
from toys import EVERY, SEGMENT, T, data, latents, make, mixture, moved

from pyrodvae.engines import MALA, MH, BatchedHMC
from pyrodvae.engines.metropolis import Metropolis
from pyrodvae.potential import Target

KERNELS = {
    "mh": MH(step_size=0.5),
    "mala": MALA(step_size=0.5),
    "hmc": BatchedHMC(step_size=0.3, leapfrogs=3),
}


def reach_of(target: Target, z: Tensor) -> int | None:
    """The reach that the terms show when frames of z (B, T, D) are moved one at a time; None for any."""
    t, s = moved(lambda path: target.frames(path[None])[0].detach()[..., None], z).nonzero().unbind(-1)
    return None if (t < s).any() or (t - s).max() == T - 1 else int((t - s).max())


@pytest.mark.parametrize("key", EVERY)
def test_the_declared_reach_is_that_of_the_terms(key: str) -> None:
    model, _ = make(key)
    values = latents(model)
    z = values.pop("z")
    program = poutine.block(poutine.condition(model, values), hide=[SEGMENT])  # w, where there is one
    seen = reach_of(Target(program, None, (data(model),)), z)
    assert model.reach == seen


@pytest.mark.parametrize("key", ["vae", "dkf", "rvae", "rvae-causal"])
def test_noise_adds_nothing_to_the_reach(key: str) -> None:
    model, _, x, z = mixture(key)
    assert model.reach == reach_of(Target(model, None, (x,)), z[0])


def noisy(key: str = "vae", chains: int = 3) -> tuple[Target, Tensor]:
    model, _, x, z = mixture(key, chains=chains)
    return Target(model, None, (x,), model.reach), z


@pytest.mark.parametrize(("key", "acceptance"), [("mh", "auto"), ("mala", "joint"), ("hmc", "auto")])
def test_steps_find_the_rate_they_aim_at_and_then_stand_still(key: str, acceptance: str) -> None:
    target, z = noisy(chains=20)
    engine = replace(KERNELS[key], warmup=250, steps=250, step_size=0.01, acceptance=acceptance)
    state, _ = engine.step(target, engine.init(target, z))
    after, info = replace(engine, steps=30).step(target, state)
    _, unadapted = replace(engine, warmup=0, steps=5).step(target, engine.init(target, z))
    assert abs(float(info["accept"].mean()) - engine.target_accept) < 0.05
    assert abs(float(unadapted["accept"].mean()) - engine.target_accept) > 0.2
    assert torch.equal(after.log_step, state.log_step)
    assert torch.equal(after.square, state.square)
    assert not torch.equal(state.log_step, engine.init(target, z).log_step)
    assert (state.moves, after.moves) == (250, 280)


def test_odd_and_even_frames_share_one_count_of_moves() -> None:
    target, z = noisy("dkf")
    engine = MH(steps=3, warmup=2)
    state, _ = engine.step(target, engine.init(target, z))
    again, _ = engine.step(target, state)
    assert state.moves == 3
    assert torch.equal(again.log_step, state.log_step)
    assert ((state.log_step - engine.init(target, z).log_step) != 0).all()


@pytest.mark.parametrize("model", ["vae", "dkf", "rvae"])
@pytest.mark.parametrize("key", KERNELS)
def test_chains_know_of_each_other_by_the_preconditioner_alone(key: str, model: str) -> None:
    target, z = noisy(model)
    other = z.clone()
    other[2] += 1.0

    def first(start: Tensor, warmup: int) -> Tensor:
        torch.manual_seed(1)
        return run(replace(KERNELS[key], warmup=warmup, steps=2), target, start, 2)[:2]

    torch.testing.assert_close(first(other, 0), first(z, 0), rtol=1e-9, atol=1e-9)
    same = torch.allclose(first(other, 9), first(z, 9), rtol=1e-9, atol=1e-9)
    assert same == (not KERNELS[key].uses_gradient)


@pytest.mark.parametrize("model", ["vae", "dkf", "rvae"])
@pytest.mark.parametrize("key", KERNELS)
def test_info_is_of_the_draws(key: str, model: str) -> None:
    target, z = noisy(model)
    engine = replace(KERNELS[key], steps=3)
    before = engine.init(target, z)
    state, info = engine.step(target, before)
    torch.testing.assert_close(info["log_joint"], target.log_joint(state.z).detach(), rtol=1e-10, atol=1e-10)
    assert not torch.allclose(info["log_joint"], target.log_joint(z))
    assert not info["log_joint"].requires_grad
    assert ((info["accept"] >= 0) & (info["accept"] <= 1)).all()


@pytest.mark.parametrize("key", KERNELS)
def test_a_single_frame_of_a_state_space_moves(key: str) -> None:
    model, _, x, z = mixture("dkf")
    model.noise.H, model.gain = model.noise.H[..., :1], None
    target = Target(model, None, (x[:, :1],), model.reach)
    _, info = KERNELS[key].step(target, KERNELS[key].init(target, z[..., :1, :]))
    assert all(torch.isfinite(v).all() for v in info.values())


def test_a_block_moves_as_one_and_reaches_every_frame() -> None:
    target, z = noisy("rvae", chains=200)
    engine = MH(acceptance="joint", block=2, steps=1, step_size=1e-3)
    state, _ = engine.step(target, engine.init(target, z))
    changed = (state.z != z).all(-1)
    lengths = changed.sum(-1)
    assert set(lengths.unique().tolist()) <= {0, 1, 2}
    assert (changed[..., 1:] & changed[..., :-1]).any(-1)[lengths == 2].all()
    assert changed.any(0).all()


def test_a_proposal_without_a_density_is_refused() -> None:
    """Where a path runs away to NaN the chain stays where it was."""
    target, z = noisy("rvae")
    engine = MALA(step_size=1.0, warmup=0)
    state = engine.init(target, z)
    state, info = engine.step(target, state._replace(log_step=state.log_step + math.log(1e200)))
    assert torch.equal(state.z.detach(), z)
    assert (info["accept"] == 0).all()


@pytest.mark.parametrize("engine", [MH, MALA, BatchedHMC])
@pytest.mark.parametrize(
    "setting",
    [
        {"step_size": 0.0},
        {"steps": 0},
        {"warmup": -1},
        {"block": -1, "acceptance": "joint"},
        {"target_accept": 1.0},
        {"block": 3},
    ],
)
def test_settings_that_cannot_run_are_refused(engine: type[Metropolis], setting: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="cannot run"):
        engine(**setting)


@pytest.mark.parametrize("setting", [{"leapfrogs": 0}, {"jitter": 1.0}, {"jitter": -0.1}])
def test_settings_of_hamiltonian_paths_that_cannot_run_are_refused(setting: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="cannot run"):
        BatchedHMC(**setting)
