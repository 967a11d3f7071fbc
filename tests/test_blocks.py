"""A path drawn in blocks: which law it has, and what of the whole one's it keeps."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from pyro import poutine
from torch import Tensor
from torch.distributions import kl_divergence
from toys import errors, make, spectra

from pyrodvae.distributions import DiagonalNormal
from pyrodvae.engines.blocks import Blocks, InBlocks
from pyrodvae.nets import standard_normal
from pyrodvae.rollout import Rollout

A, T, B = 0.8, 11, 2


def chain(batch: int = B, frames: int = T) -> Rollout:
    """z_t = A z_{t-1} + c_t + ε_t, with c_t = t."""

    def conditional(z_prev: Tensor, context: Tensor | None, memo: Any) -> Any:
        loc = A * z_prev + context
        return DiagonalNormal(loc, torch.ones_like(loc)), memo

    context = torch.arange(1.0, frames + 1, dtype=torch.double)[:, None]
    return Rollout(conditional, torch.zeros(1).double(), frames, context=context, batch_shape=(batch,))


def first(t: int, block: int, overlap: int) -> int:
    """b(t): the first frame that frame t remembers; both count from 0."""
    return max(0, (t - overlap) // block * block)


def weights(block: int, overlap: int) -> Tensor:
    """What the noise of frame s does to frame t, (T, T)."""
    remembered = torch.tensor([[first(t, block, overlap) <= s <= t for s in range(T)] for t in range(T)])
    lag = torch.arange(T)[:, None] - torch.arange(T)
    return torch.where(remembered, A ** lag.clamp(min=0).double(), 0.0)


@pytest.mark.parametrize(("block", "overlap"), [(3, 2), (4, 0), (2, 5)])
def test_it_has_the_law_that_it_claims(block: int, overlap: int) -> None:
    """Mean, covariance and density in closed form; the control is the law of the whole."""
    blocks = Blocks(chain(20_000), block, overlap)
    W, whole = weights(block, overlap), weights(T, 0)
    z = blocks.rsample()[..., 0]
    mean = W @ torch.arange(1.0, T + 1, dtype=torch.double)
    c = z - mean

    def density(weights: Tensor) -> Tensor:
        noise = torch.linalg.solve(weights, c.mT).mT
        return -0.5 * noise.square().sum(-1) - 0.5 * T * math.log(2 * math.pi)

    assert errors(z, mean) < 5
    assert errors(c[:, :, None] * c[:, None, :], W @ W.mT) < 5
    assert errors(c[:, :, None] * c[:, None, :], whole @ whole.mT) > 5
    torch.testing.assert_close(blocks.log_prob(blocks._path), density(W), rtol=1e-10, atol=1e-10)
    assert not torch.allclose(blocks.log_prob(blocks._path), density(whole))


def test_the_kl_is_taken_along_the_drawn_path() -> None:
    """Against the mean of log q̃ − log p; the control is the whole roll-out's q."""
    blocks = Blocks(chain(5000), 3, 2)
    prior = Rollout(
        lambda z, c, memo: (standard_normal(z), memo),
        torch.zeros(1).double(),
        T,
        batch_shape=(5000,),
        recursive=False,
    )
    z = blocks.rsample()
    kl = kl_divergence(blocks, prior)
    assert errors(kl - blocks.log_prob(z) + prior.log_prob(z)) < 5
    assert errors(kl - chain(5000).log_prob(z) + prior.log_prob(z)) > 5


def test_short_paths_and_long_blocks_are_drawn_whole() -> None:
    for block, overlap, same in ((T - 2, 2, True), (T - 3, 2, False)):
        torch.manual_seed(3)
        a = Blocks(chain(), block, overlap).rsample((4,))
        torch.manual_seed(3)
        assert torch.equal(a, chain().rsample((4,))) is same
        assert a.shape == (4, B, T, 1)


@pytest.mark.parametrize("key", ["smoother", "filter", "meanfield"])
def test_a_guide_is_drawn_in_blocks(key: str) -> None:
    """Recursive ones; others are left alone. Gradients reach every weight."""
    _, guide = make("rvae", key)
    x = spectra()

    def draw(program: Any) -> Tensor:
        torch.manual_seed(2)
        return poutine.trace(program).get_trace(x).nodes["z"]["value"]

    z = draw(InBlocks(2, 1)(guide))
    assert torch.equal(z, draw(guide)) is (key == "meanfield")
    assert torch.equal(draw(InBlocks(20, 1)(guide)), draw(guide))
    assert z.shape == draw(guide).shape
    z.square().sum().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in guide.parameters())
