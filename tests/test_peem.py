"""The point estimate: the mode, how it is reached, and that an ascent can be taken up again."""

from __future__ import annotations

import io

import pytest
import torch
from linear import FRAMES, SIZE, make_linear, run
from torch import Tensor

from pyrodvae.engines.peem import PEEM, PEEMState


def starts(chains: int = 2) -> Tensor:
    return torch.randn(chains, 1, FRAMES, SIZE, dtype=torch.double)


def test_every_chain_finds_the_mode() -> None:
    """With a rate that dies away; a constant one, the control, circles around it."""
    _, target, mean = make_linear()
    z = starts()

    def off(half_life: int, steps: int) -> Tensor:
        engine = PEEM(beta2=0.9, half_life=half_life, steps=steps)
        return (run(engine, target, z, 1).flatten(-2) - mean).abs().max()

    assert off(40, 900) < 1e-6
    assert off(0, 900) > 1e-6
    assert off(40, 5) > 0.1


def test_it_is_adam() -> None:
    """Torch's own, from the same start."""
    _, target, _ = make_linear()
    z = starts()
    other = z.clone().requires_grad_()
    adam = torch.optim.Adam([other], 0.1, (0.8, 0.95), eps=1e-8)
    for _ in range(7):
        other.grad = -target.gradient(other.detach())[1]
        adam.step()
    engine = PEEM(learning_rate=0.1, steps=7, beta1=0.8, beta2=0.95)
    torch.testing.assert_close(run(engine, target, z, 1), other.detach(), rtol=1e-12, atol=1e-12)
    assert not torch.allclose(run(PEEM(learning_rate=0.1, steps=7), target, z, 1), other.detach())


def test_an_ascent_is_taken_up_again_from_a_file() -> None:
    """Bit for bit; the control forgets the moments."""
    _, target, _ = make_linear()
    z, engine = starts(), PEEM(steps=4, half_life=10)
    half, info = engine.step(target, engine.init(target, z))
    file = io.BytesIO()
    torch.save(tuple(half), file)
    file.seek(0)
    again, later = engine.step(target, PEEMState(*torch.load(file, weights_only=True)))
    assert torch.equal(again.z.detach(), run(engine, target, z, 2))
    assert not torch.equal(run(engine, target, half.z, 1), again.z.detach())
    assert info["log_joint"].shape == (2, 1)
    assert (later["log_joint"] > info["log_joint"]).all()


@pytest.mark.parametrize(
    "setting", [{"learning_rate": 0.0}, {"steps": 0}, {"beta1": 1.0}, {"beta2": -0.1}, {"half_life": -1}]
)
def test_settings_that_cannot_run_are_refused(setting: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="cannot run"):
        PEEM(**setting)
