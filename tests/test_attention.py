"""Attention as a memory: windows, caches, directions and padding."""

from __future__ import annotations

import pytest
import torch
from pyro import poutine
from pyro.infer.inspect import get_dependencies
from torch import Tensor
from toys import B, D, T, latents, make, moved, spectra

from pyrodvae.attention import AttentionMemory, AttentionSummary, recency
from pyrodvae.guides import make_guide
from pyrodvae.models import TransformerDVAE
from pyrodvae.program import local_parameters

LENGTHS = torch.tensor([6, 1, 4])
CUTS = [(1,) * 6, (2, 4), (3, 1, 2), (6,)]


def sequences(*batch: int, frames: int = 6, size: int = 4) -> Tensor:
    return torch.randn(*batch, frames, size, dtype=torch.double)


def by_hand(memory: AttentionMemory | AttentionSummary, u: Tensor, sees) -> Tensor:
    """The output for one sequence (T, I): every frame and every head on its own, from the formulas."""
    h = memory.read(u)
    slopes = [2.0 ** (-8 * (i + 1) / memory.heads) for i in range(memory.heads)]
    for block in memory.blocks:
        q, k, v = block.ask(block.norm(h)).chunk(3, -1)
        size, rows = q.shape[-1] // memory.heads, []
        for i in range(len(u)):
            heads = []
            for n, slope in enumerate(slopes):
                part = slice(n * size, (n + 1) * size)
                js = [j for j in range(len(u)) if sees(n, i, j)]
                scores = torch.stack([q[i, part] @ k[j, part] / size**0.5 - slope * abs(i - j) for j in js])
                heads.append(scores.softmax(0) @ v[js][:, part])
            rows.append(torch.cat(heads))
        h = h + block.answer(torch.stack(rows))
        h = h + block.dense(h)
    return memory.norm(h)


def test_attention_is_its_formula() -> None:
    u = sequences()
    memory, summary = AttentionMemory(4, 6, heads=2).double(), AttentionSummary(4, 6, heads=2).double()
    causal = by_hand(memory, u, lambda n, i, j: j <= i)
    torch.testing.assert_close(memory(u)[0], causal, rtol=1e-12, atol=1e-13)
    both = by_hand(summary, u, lambda n, i, j: j >= i if n % 2 else j <= i)
    torch.testing.assert_close(summary(u), both, rtol=1e-12, atol=1e-13)
    assert not torch.allclose(summary(u), by_hand(summary, u, lambda n, i, j: j <= i))


@pytest.mark.parametrize("cuts", CUTS)
def test_a_cache_takes_up_where_the_window_ended(cuts: tuple[int, ...]) -> None:
    memory = AttentionMemory(4, 8).double()
    u = sequences(2, 5)
    whole, _ = memory(u)
    assert whole.shape == (2, 5, 6, 8)
    state, parts, forgetful = None, [], []
    for window in u.split(cuts, -2):
        h, state = memory(window, state)
        parts.append(h)
        forgetful.append(memory(window)[0])
    torch.testing.assert_close(torch.cat(parts, -2), whole, rtol=1e-12, atol=1e-13)
    assert torch.allclose(torch.cat(forgetful, -2), whole) == (len(cuts) == 1)
    assert all(k.shape == v.shape == (10, 4, 6, 2) for k, v in state)


def test_a_cache_that_forgets_is_noticed_in_the_model(monkeypatch) -> None:
    """The control of "frame by frame is the fast pass": here the first frame falls out of the cache."""
    m, _ = make("transformer")
    x, given = spectra(), latents(m)
    path = {f"z_{t}": given["z"][:, t, None] for t in range(T)}

    def log_joint(program, values: dict[str, Tensor]) -> Tensor:
        with local_parameters():
            return poutine.trace(poutine.condition(program, values)).get_trace(x).log_prob_sum()

    fast = log_joint(m, given)
    torch.testing.assert_close(log_joint(m.steps, path), fast, rtol=1e-12, atol=0)
    read = AttentionMemory.forward

    def forget(self, u: Tensor, state=None):
        return read(self, u, state and [(k[:, :, -3:], v[:, :, -3:]) for k, v in state])

    monkeypatch.setattr(AttentionMemory, "forward", forget)
    assert abs(log_joint(m.steps, path) / fast - 1) > 1e-6


def test_the_loop_over_frames_reads_each_frame_once(monkeypatch) -> None:
    m, g = make("transformer", "paper")
    windows: list[tuple[int, int]] = []
    read = AttentionMemory.forward

    def count(self, u: Tensor, state=None):
        windows.append((u.shape[-2], state[0][0].shape[-2] if state else 0))
        return read(self, u, state)

    monkeypatch.setattr(AttentionMemory, "forward", count)
    for rollout in (m.prior(spectra()), g.posterior(spectra())):
        windows.clear()
        rollout.rsample()
        assert windows == [(1, t) for t in range(T)]


def test_the_memory_looks_back_and_the_summary_everywhere() -> None:
    u = sequences(B)
    memory, summary = AttentionMemory(4, 8).double(), AttentionSummary(4, 8).double()
    assert torch.equal(moved(lambda v: memory(v)[0], u), torch.ones(6, 6).tril() > 0)
    assert moved(summary, u).all()


def test_the_summary_tells_the_past_from_the_future() -> None:
    """Distances alone would not: then a sequence turned round would give the summary turned round."""
    u, summary = sequences(B), AttentionSummary(4, 8).double()
    assert not torch.allclose(summary(u.flip(-2)).flip(-2), summary(u), rtol=1e-3)
    blind = AttentionMemory(4, 8).double()
    blind.load_state_dict(summary.state_dict())
    with pytest.MonkeyPatch.context() as patch:

        def symmetric(heads: int, window: int, frames: int, like: Tensor, both: bool = False) -> Tensor:
            bias = recency(heads, window, frames, like)
            return torch.maximum(bias, bias.mT)

        patch.setattr("pyrodvae.attention.recency", symmetric)
        turned = summary(u.flip(-2)).flip(-2)
        torch.testing.assert_close(turned, summary(u), rtol=1e-12, atol=1e-13)


def test_only_distances_count() -> None:
    """Where in a sequence the window stands does not matter: no position is counted."""
    one = torch.ones(())
    assert torch.equal(recency(4, 3, 9, one)[..., 6:], recency(4, 3, 3, one))
    back = torch.tensor([[-1 / 8, -1 / 16, 0], [-1 / 128, -1 / 256, 0]])
    assert torch.equal(recency(2, 1, 3, one)[0, :, 0], back)


def test_padding_is_not_looked_at_and_gives_no_nan() -> None:
    summary = AttentionSummary(4, 8).double()
    u = sequences(3)
    ragged = summary(u, LENGTHS)
    for i, n in enumerate(LENGTHS.tolist()):
        torch.testing.assert_close(ragged[i, :n], summary(u[i, None, :n])[0], rtol=1e-12, atol=1e-13)
    other = u.clone()
    other[1, 1:] = 1e6
    assert torch.equal(summary(other, LENGTHS)[1, :1], ragged[1, :1])
    assert not torch.allclose(summary(other)[1, :1], summary(u)[1, :1])  # the control
    ragged.sum().backward()
    assert all(torch.isfinite(p.grad).all() for p in summary.parameters())


def test_leading_dimensions_and_lengths() -> None:
    summary, memory = AttentionSummary(4, 8).double(), AttentionMemory(4, 8).double()
    u = sequences(2, 3)
    torch.testing.assert_close(summary(u, LENGTHS)[1], summary(u[1], LENGTHS), rtol=1e-12, atol=1e-13)
    torch.testing.assert_close(memory(u)[0][1, 2], memory(u[1, 2])[0], rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("hidden", [1, 3, 7])
def test_any_width(hidden: int) -> None:
    m = TransformerDVAE(5, D, hidden, blocks=1, heads=2)
    g = make_guide(m, hidden=hidden, blocks=3, heads=2)
    assert g(spectra(dtype=torch.cfloat)).shape == (B, T, D)
    assert m.steps(frames=3)[1].shape == (1, 3, 5)


def test_a_summary_of_odd_heads_is_refused() -> None:
    with pytest.raises(ValueError, match="Half of the heads look back and half ahead, so 3 is no number"):
        AttentionSummary(4, 8, heads=3)


def test_longer_than_anything_it_was_made_for() -> None:
    """No length is built in, and frames far away fade out."""
    memory = AttentionMemory(4, 8)
    u = torch.randn(1, 2000, 4)
    far = u.clone()
    far[:, 0] += 1
    a, b = (memory(v)[0] for v in (u, far))
    assert torch.isfinite(a).all()
    change = (a - b).abs().amax((0, 2))
    assert change[-1] < 1e-5 < 0.1 < change[0]


def test_arrows_of_the_transformer() -> None:
    """As Pyro sees them: z_t has all z before it, x_t all z up to it, and no x."""
    m, _ = make("transformer")
    with local_parameters():
        found = get_dependencies(m.steps, model_kwargs={"frames": 4})["prior_dependencies"]
    for t in range(4):
        before = {f"z_{s}" for s in range(t)}
        assert set(found[f"z_{t}"]) - {"batch"} == before | {f"z_{t}"}
        assert set(found[f"x_{t}"]) - {"batch"} == before | {f"z_{t}", f"x_{t}"}
