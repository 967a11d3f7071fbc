"""The amortised guide alone, and what it is given to read."""

from __future__ import annotations

import copy

import pyro
import pyro.distributions as dist
import pytest
import torch
from linear import FRAMES, SIZE, make_linear
from torch import Tensor
from toys import errors, mixture

from pyrodvae.denoised import Denoised, subtract
from pyrodvae.distributions import power
from pyrodvae.engines.encoder import Encoder
from pyrodvae.engines.vem import VEM
from pyrodvae.potential import Target
from pyrodvae.program import Program


class Amortised(Program):
    """q(z | x) = N(x, 0.5²), x taken for a path; it counts how often it was run."""

    def __init__(self) -> None:
        super().__init__()
        self.runs = 0

    def forward(self, x: Tensor) -> Tensor:
        self.runs += 1
        with pyro.plate("batch", len(x), dim=-1):
            return pyro.sample("z", dist.Normal(x.unflatten(-1, (FRAMES, SIZE)), 0.5).to_event(2))


def test_draws_are_those_of_the_guide_and_new_in_every_step() -> None:
    model, target, _ = make_linear()
    (x,) = target.args
    engine, guide = Encoder(), Amortised()
    first = engine.init(Target(model, guide, (x,)), torch.zeros(4000, 1, FRAMES, SIZE).double())
    second, _ = engine.step(Target(model, guide, (x,)), first)
    third, _ = engine.step(Target(model, guide, (x,)), second)
    assert guide.runs == 2  # all draws of a step are one pass
    a, b = (state.z[:, 0].flatten(-2) - x for state in (second, third))
    assert errors(a) < 5
    assert errors(a**2, 0.25) < 5
    assert errors(a * b) < 5
    assert errors(a**2) > 5  # what a draw and itself would have for a covariance
    elsewhere, _ = engine.step(Target(model, guide, (x + 0.2,)), second)
    assert errors(elsewhere.z[:, 0].flatten(-2) - x) > 5  # the control: it does read x


@pytest.mark.parametrize("chains", [1, 3])
def test_it_runs_on_a_mixture(chains: int) -> None:
    model, guide, x, z = mixture(chains=chains)
    target = Target(model, guide, (x,))
    state, info = Encoder().step(target, Encoder().init(target, z))
    assert state.z.shape == z.shape
    assert not state.z.requires_grad
    assert info == {}


def test_it_needs_a_guide() -> None:
    model, _, x, z = mixture()
    with pytest.raises(ValueError, match="draws from a guide"):
        Encoder().init(Target(model, None, (x,)), z)


@pytest.mark.parametrize("floor", [0.3, 0.05])
def test_a_denoised_guide_reads_what_is_left_of_x(floor: float) -> None:
    model, guide, x, _ = mixture()
    noise = model.noise.variance
    crude = subtract(x, noise, floor)
    wanted = (power(x) - 2 * noise).maximum(floor * power(x))
    torch.testing.assert_close(power(crude), wanted, rtol=1e-12, atol=0)
    torch.testing.assert_close(crude.angle(), x.angle(), rtol=1e-12, atol=1e-14)
    assert 0 < (power(x) - 2 * noise > floor * power(x)).double().mean() < 1

    def draw(program: Program, y: Tensor) -> Tensor:
        torch.manual_seed(1)
        target = Target(model, program, (y,))
        return Encoder().step(target, Encoder().init(target, torch.zeros(2, *y.shape[:2], 2)))[0].z

    assert torch.equal(draw(Denoised(guide, noise, floor), x), draw(guide, crude))
    assert not torch.equal(draw(Denoised(guide, noise, floor), x), draw(guide, x))


def test_vem_tunes_a_copy_of_a_denoised_guide() -> None:
    model, guide, x, z = mixture()
    denoised = Denoised(guide, model.noise.variance)
    before = copy.deepcopy(guide.state_dict())
    target, engine = Target(model, denoised, (x,)), VEM(learning_rate=1e-2)
    state, _ = engine.step(target, engine.init(target, z))
    assert all(torch.equal(v, before[k]) for k, v in guide.state_dict().items())
    assert not any(torch.equal(v, before[k]) for k, v in state.guide.guide.named_parameters())
    assert torch.equal(state.guide.noise, denoised.noise)
