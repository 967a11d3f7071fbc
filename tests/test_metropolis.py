"""Random walks, MALA and Hamiltonian Monte Carlo: exact, with acceptance for all frames or for each."""

from __future__ import annotations

from dataclasses import dataclass, replace

import pytest
import torch
from chains import SCENES, Frames, Scene, off, start
from chains import T as FRAMES
from linear import run
from pyro import poutine
from torch import Tensor
from toys import F, T, errors, make

from pyrodvae.distributions import power
from pyrodvae.engines import MALA, MH, BatchedHMC
from pyrodvae.engines.metropolis import Metropolis
from pyrodvae.noise import NMFNoise
from pyrodvae.noisy import NoisySpeech
from pyrodvae.potential import Target
from pyrodvae.program import Program, local_parameters

KERNELS = {
    "mh": MH(step_size=0.5),
    "mala": MALA(step_size=0.5),
    "hmc": BatchedHMC(step_size=0.3, leapfrogs=3),
}
MOVES = {"mh": 200, "mala": 80, "hmc": 40}
CHAINS = 800


def draws(key: str, scene: Scene, **settings) -> Tensor:
    """The last draws of many chains, half of whose moves were warm-up."""
    n = MOVES[key]
    engine = replace(KERNELS[key], warmup=n // 2, steps=n, **settings)
    return run(engine, scene.target, start(scene, CHAINS), 1)


@pytest.mark.parametrize("scene", SCENES)
@pytest.mark.parametrize("key", KERNELS)
def test_mean_and_covariance_are_those_of_the_posterior(key: str, scene: str) -> None:
    s = SCENES[scene]()
    z = draws(key, s)
    assert off(z, s) < 5
    assert off(z, s._replace(covariance=1.3 * s.covariance)) > 5
    assert off(z, s._replace(mean=s.mean + 0.3 * s.covariance.diag().sqrt())) > 5


@pytest.mark.parametrize(("key", "block"), [("hmc", 0), ("mala", 2)])
def test_joint_acceptance_and_blocks_of_frames_are_exact_anywhere(key: str, block: int) -> None:
    s = SCENES["state_space"]()
    assert off(draws(key, s, acceptance="joint", block=block), s) < 5


@pytest.mark.parametrize("key", KERNELS)
def test_frames_accepted_alone_are_wrong_where_they_are_not_alone(key: str) -> None:
    """The control, and what was published: every term sees every frame."""
    s = SCENES["every_frame_sees_all"]()
    alone = s._replace(target=replace(s.target, reach=0))
    assert off(draws(key, alone), s) > 5


def test_two_frames_apart_may_move_at_once_in_a_state_space_but_neighbours_may_not() -> None:
    s = SCENES["state_space"]()
    neighbours = s._replace(target=replace(s.target, reach=0))
    assert off(draws("mala", neighbours), s) > 5


# Invariance: where (z, x) come from the model, moves of z given x leave the law of the pair as it is.


def pairs(model: Program, empty: Tensor) -> tuple[Tensor, Tensor]:
    """z (B, T, D) and x, drawn from a program."""
    with local_parameters():
        trace = poutine.trace(poutine.uncondition(model)).get_trace(empty)
    z, x = (trace.nodes[name]["value"].detach() for name in "zx")
    return z, x


def speech_in_noise(key: str, replicates: int = 1500) -> tuple[Target, Tensor]:
    """Independent pairs, one per sequence of the batch: a target, and its z (1, B, T, D)."""
    noise = NMFNoise(torch.rand(1, F, 2).double(), torch.rand(1, 2, T).double())
    speech, _ = make(key)
    with torch.no_grad():
        for p in speech.head.parameters():  # louder, so that x tells much about z
            p.mul_(4)
    model = NoisySpeech(speech, noise)
    z, x = pairs(model, torch.zeros(replicates, T, F, dtype=torch.cdouble))
    return Target(model, None, (x,), model.reach), z[None]


def all_in_one(replicates: int = 1500) -> tuple[Target, Tensor]:
    """As above, of a linear model in which every frame sees all."""
    model = Frames(torch.ones(FRAMES, FRAMES))
    z, x = pairs(model, torch.zeros(replicates, FRAMES, 2, dtype=torch.double))
    return Target(model, None, (x,)), z[None]


def features(target: Target, z: Tensor) -> Tensor:
    """What is compared of pairs: z, its products with itself and x, and the density's terms, (B, ·).

    All are bounded: the toy DKF runs away now and then, and a few large paths would hide the others.
    """
    (x,) = target.args
    level = (power(x) + 1e-3).log().mean(-1, keepdim=True) if x.is_complex() else x.sum(-1, keepdim=True)
    terms = target.frames(z).detach()
    parts = [z, z.square(), z[..., 1:, :] * z[..., :-1, :], z * level, terms[..., None] / T]
    return torch.cat([p[0].flatten(1) for p in parts], -1).tanh()


def leaves_alone(
    engine: Metropolis, target: Target, z: Tensor, moves: int = 6, given: Target | None = None
) -> bool:
    """Whether the law of the pairs is unchanged, and z is not; of a kernel with any steps and scales."""
    state = engine.init(given or target, z)
    scales, steps = 3 * torch.rand_like(z[0, 0]), (0.3 * torch.randn_like(state.log_step[:, :1])).expand
    state = state._replace(
        square=scales.expand_as(z[0]), log_step=state.log_step + steps(state.log_step.shape)
    )
    for _ in range(moves):
        state, _ = engine.step(given or target, state)
    change = features(target, state.z.detach()) - features(target, z)
    has_moved = (state.z != z).flatten(2).any(-1).double().mean() > 0.9
    return bool(has_moved) and errors(change) < 5


FIXED = {
    k: replace(e, warmup=0, step_size=s) for (k, e), s in zip(KERNELS.items(), (0.5, 0.7, 0.4), strict=True)
}


@pytest.mark.parametrize("key", FIXED)
@pytest.mark.parametrize("model", ["vae", "dkf", "rvae"])
def test_pairs_drawn_from_the_model_stay_so(model: str, key: str) -> None:
    target, z = speech_in_noise(model)
    assert leaves_alone(FIXED[key], target, z)


@dataclass(frozen=True)
class Uncorrected(MALA):
    """The control that accepts everything."""

    def propose(self, score, z, at_z, step, M):
        there, at_there, lost, _ = super().propose(score, z, at_z, step, M)
        return there, at_there, torch.full_like(lost, torch.inf), None


@dataclass(frozen=True)
class Deaf(MALA):
    """The control that ignores x: a draw from the standard normal prior."""

    def propose(self, score, z, at_z, step, M):
        there = torch.randn_like(z)
        return there, score(there), torch.full_like(z[..., 0], torch.inf), None


@dataclass(frozen=True)
class Idle(MALA):
    """The control that does nothing."""

    def propose(self, score, z, at_z, step, M):
        return z, at_z, torch.zeros_like(z[..., 0]), None


@dataclass(frozen=True)
class Doubled(Target):
    """The control with p(z)² in place of p(z), as published."""

    def frames(self, z: Tensor) -> Tensor:
        return super().frames(z) - 0.5 * z.square().sum(-1)

    def log_joint(self, z: Tensor) -> Tensor:
        return self.frames(z).sum(-1)


@pytest.mark.parametrize("kernel", [Uncorrected, Deaf, Idle])
@pytest.mark.parametrize("model", ["vae", "dkf", "linear"])
def test_kernels_that_are_wrong_are_found_out(kernel: type[MALA], model: str) -> None:
    target, z = all_in_one() if model == "linear" else speech_in_noise(model)
    assert not leaves_alone(kernel(step_size=1.0, warmup=0), target, z)


def test_a_doubled_prior_and_frames_accepted_alone_are_found_out() -> None:
    kernel = FIXED["mala"]
    target, z = speech_in_noise("vae")
    assert not leaves_alone(kernel, target, z, 16, Doubled(target.model, None, target.args, 0))
    kernel = replace(kernel, step_size=0.3)
    target, z = all_in_one()
    assert leaves_alone(kernel, target, z)
    assert not leaves_alone(kernel, target, z, given=replace(target, reach=0))
