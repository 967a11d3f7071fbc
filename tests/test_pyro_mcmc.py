"""Pyro's own HMC and NUTS as engines."""

from __future__ import annotations

import io
from dataclasses import dataclass, field, replace

import pytest
import torch
from chains import SCENES, off_along, start
from linear import FRAMES, SIZE, make_linear
from torch import Tensor
from toys import mixture

from pyrodvae.engines.pyro_mcmc import HMC, NUTS, PyroEngine
from pyrodvae.potential import Target

ENGINES = {"hmc": HMC(warmup=30, leapfrogs=4), "nuts": NUTS(warmup=30, max_tree_depth=3)}
both = pytest.mark.parametrize("key", ENGINES)


@dataclass(frozen=True)
class Counting(Target):
    """Remembers how often it was asked, and for how many paths."""

    calls: list[int] = field(default_factory=list)

    def log_joint(self, z: Tensor) -> Tensor:
        self.calls.append(len(z))
        return super().log_joint(z)


def small(seed: int = 0) -> tuple[Target, Tensor]:
    """A mixture of one sequence, and where two chains start."""
    model, _, x, z = mixture("vae", gain=False, seed=seed)
    model.noise.W, model.noise.H = model.noise.W[:1], model.noise.H[:1]
    return Target(model, None, (x[:1],)), z[:, :1]


@both
def test_mean_and_covariance_are_those_of_the_posterior(key: str) -> None:
    scene = SCENES["one_site"]()
    engine = ENGINES[key]
    state = engine.init(scene.target, start(scene, 2))
    draws = []
    for _ in range(230):
        state, info = engine.step(scene.target, state)
        draws.append(state.z)
    z = torch.stack(draws[30:])
    assert off_along(z, scene) < 5
    assert off_along(z, scene._replace(covariance=2 * scene.covariance)) > 5
    assert off_along(z, scene._replace(mean=scene.mean + scene.covariance.diag().sqrt())) > 5
    assert ((info["accept"] > 0.3) & (info["accept"] < 1)).all()
    assert (info["divergences"] == 0).all()


@both
def test_nothing_of_an_old_target_is_kept(key: str) -> None:
    engine = replace(ENGINES[key], warmup=0)
    (old, z), (new, _) = small(0), small(1)
    state = engine.init(old, z)
    state, _ = engine.step(old, state)

    def next_step(target: Target, state: object) -> Tensor:
        torch.manual_seed(2)
        return engine.step(target, state)[0].z

    fresh = engine.init(new, state.z)
    assert torch.equal(next_step(new, state), next_step(new, fresh))
    assert not torch.equal(next_step(old, state), next_step(new, state))


@both
def test_a_state_is_left_alone_and_can_be_saved(key: str) -> None:
    """In the middle of the warm-up: the same steps follow from it, before and after a trip to disk."""
    engine = ENGINES[key]
    target, z = small()
    state = engine.init(target, z)
    for _ in range(5):
        state, _ = engine.step(target, state)
    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    loaded = torch.load(file, weights_only=False)

    def onwards(state: object, seed: int) -> Tensor:
        torch.manual_seed(seed)
        for _ in range(3):
            state, _ = engine.step(target, state)
        return state.z

    first = onwards(state, 0)
    assert torch.equal(onwards(state, 0), first)
    assert torch.equal(onwards(loaded, 0), first)
    assert not torch.equal(onwards(loaded, 1), first)


@both
def test_steps_and_masses_adapt_and_then_stand_still(key: str) -> None:
    engine = replace(ENGINES[key], warmup=60)
    target, z = small()

    def learned(state) -> list[Tensor]:
        return [
            torch.cat([torch.tensor([k.step_size]), *k.inverse_mass_matrix.values()]) for k in state.kernels
        ]

    states = [engine.init(target, z)]
    for steps in (59, 1, 5):
        states.append(replace(engine, steps=steps).step(target, states[-1])[0])
    begun, _, warm, later = map(learned, states)
    assert all(torch.equal(a, b) for a, b in zip(warm, later, strict=True))
    assert all((a != b).all() for a, b in zip(warm, begun, strict=True))
    assert not torch.equal(warm[0], warm[1])  # every chain learns for itself


@both
def test_each_path_is_accepted_on_its_own(key: str) -> None:
    """Only the last path starts elsewhere: those that moved before it do as they did."""
    engine = replace(ENGINES[key], warmup=0)
    target, z = small()
    other = z.clone()
    other[-1] += 1.0

    def one_step(z: Tensor) -> Tensor:
        torch.manual_seed(0)
        return engine.step(target, engine.init(target, z))[0].z

    assert torch.equal(one_step(z)[:-1], one_step(other)[:-1])
    assert not torch.equal(one_step(z)[-1] - z[-1], one_step(other)[-1] - other[-1])


@both
def test_every_sequence_of_a_batch_moves_by_its_own_density(key: str) -> None:
    """The first of a batch moves as it does alone."""
    engine = replace(ENGINES[key], warmup=0)
    model, _, x, z = mixture("rvae", gain=False, chains=1)
    single, _, _, _ = mixture("rvae", gain=False, chains=1)
    single.noise.W, single.noise.H = model.noise.W[:1], model.noise.H[:1]

    def first_of(target: Target, z: Tensor) -> Tensor:
        torch.manual_seed(0)
        return engine.step(target, engine.init(target, z))[0].z[:, :1]

    alone = first_of(Target(single, None, (x[:1],)), z[:, :1])
    batch = Target(model, None, (x,))
    torch.testing.assert_close(first_of(batch, z), alone, rtol=1e-9, atol=1e-9)
    assert not torch.allclose(first_of(Target(model, None, (x.flip(0),)), z), alone)


@both
def test_info_is_of_the_draws(key: str) -> None:
    model, _, x, z = mixture("dkf")
    target = Target(model, None, (x,), model.reach)
    state, info = ENGINES[key].step(target, ENGINES[key].init(target, z))
    torch.testing.assert_close(info["log_joint"], target.log_joint(state.z))
    assert not torch.allclose(info["log_joint"], target.log_joint(z))
    assert all(v.shape == z.shape[:2] for v in info.values())


@pytest.mark.parametrize(
    ("engine", "most"),
    [(HMC(warmup=0, step_size=1e-3, leapfrogs=6), 6), (NUTS(warmup=0, step_size=1e-3, max_tree_depth=3), 7)],
)
def test_a_move_costs_no_more_than_it_may(engine: PyroEngine, most: int) -> None:
    """One evaluation where the path starts, one per step of the integrator, one for all draws at the end."""
    target, z = small()
    counting = Counting(*vars(target).values())
    state = engine.init(target, z)
    engine.step(counting, state)
    assert len(counting.calls) == len(z) * (1 + most) + 1


def test_a_path_that_diverges_is_counted_and_refused() -> None:
    scene = SCENES["one_site"]()
    engine = HMC(warmup=0, step_size=100.0)
    z = start(scene, 1)
    state, info = engine.step(scene.target, engine.init(scene.target, z))
    assert torch.equal(state.z, z)
    assert info["divergences"] == 1
    assert info["accept"] == 0


@pytest.mark.parametrize(
    ("engine", "setting"),
    [
        (HMC, {"step_size": 0.0}),
        (HMC, {"leapfrogs": 0}),
        (HMC, {"trajectory_length": 0.0}),
        (NUTS, {"steps": 0}),
        (NUTS, {"warmup": -1}),
        (NUTS, {"target_accept": 0.0}),
        (NUTS, {"max_tree_depth": 0}),
    ],
)
def test_settings_that_cannot_run_are_refused(engine: type[PyroEngine], setting: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="cannot run"):
        engine(**setting)


@pytest.mark.parametrize("warmup", [20, 25, 30, 60])
def test_a_short_warm_up_leaves_a_step_that_is_accepted(warmup: int) -> None:
    _, target, _ = make_linear()
    engine = HMC(warmup=warmup)
    state = engine.init(target, torch.zeros(2, 1, FRAMES, SIZE, dtype=torch.double))
    rates = []
    for i in range(warmup + 20):
        state, info = engine.step(target, state)
        if i >= warmup:
            rates.append(info["accept"])
    assert torch.stack(rates).mean() > 0.3
