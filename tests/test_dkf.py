"""The DKF's own guide: its mean of terms, and x_t at first hand."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch
from torch import Tensor

from pyrodvae.guides import make_guide
from pyrodvae.models.dkf import DKF, DKFGuide
from pyrodvae.weights import load_run

F, D, H, T, B = 7, 2, 4, 5, 3


def pair(before: Sequence[int] | None, both: bool = False) -> tuple[DKFGuide, Tensor, Tensor]:
    """A guide in double precision, data (B, T, F) and z_{t-1} (B, 1, D)."""
    torch.manual_seed(0)
    guide = make_guide(DKF(F, D, H), "paper", hidden=H, before=before, both=both).double()
    assert isinstance(guide, DKFGuide)
    x = torch.randn(B, T, F, dtype=torch.complex128)
    return guide, x, torch.randn(B, 1, D, dtype=torch.float64)


def by_hand(guide: DKFGuide, x: Tensor, z: Tensor, t: int, terms: int) -> Tensor:
    """Mean and log-variance of q(z_t | z_{t-1}, x), a frame of the LSTM at a time."""
    y = guide.read(x)
    u = guide.dense(y)
    g = guide.from_z(z[:, 0])
    for reverse in (False, True)[: 1 + guide.config["both"]]:
        # One way alone, the only weights run backward; both ways, the plain ones run forward.
        w = guide.summary.rnn.all_weights[int(reverse)]
        forward = guide.config["both"] and not reverse
        state = (torch.zeros(B, H).double(),) * 2
        for s in range(t + 1) if forward else range(T - 1, t - 1, -1):
            state = torch.lstm_cell(u[:, s], state, *w)
        g = g + state[0]
    if guide.from_x is not None:
        layer = guide.from_x[0]
        g = g + torch.tanh(y[:, t] @ layer.weight.mT + layer.bias)
    return guide.head(guide.combined(g / terms))


@pytest.mark.parametrize(
    ("before", "both", "terms"), [(None, False, 3), (None, True, 4), ((6,), False, 2), ((), True, 3)]
)
def test_the_mean_is_over_its_terms(before: Sequence[int] | None, both: bool, terms: int) -> None:
    guide, x, z = pair(before, both)
    t = 2
    context = guide.context(x, None, None)[:, t : t + 1]
    q, _ = guide.conditional(z, context, None)
    ours = torch.cat([q.mean, 2 * q.stddev.log()], -1)[:, 0]
    torch.testing.assert_close(ours, by_hand(guide, x, z, t, terms), rtol=0, atol=1e-12)
    assert (ours - by_hand(guide, x, z, t, terms + 1)).abs().max() > 1e-3  # one term too many


def test_x_t_is_heard_when_the_lstm_says_nothing() -> None:
    heard = {}
    for before in (None, ()):
        guide, x, _ = pair(before)
        with torch.no_grad():
            for parameter in guide.summary.parameters():
                parameter.zero_()
        change = torch.zeros_like(x)
        change[:, 2] = 1.0
        told = guide.context(x + change, None, None) - guide.context(x, None, None)
        heard[before] = told.abs().amax((0, 2))
    assert heard[()].max() == 0  # all that the paper's encoder knows of x goes through the LSTM
    assert heard[None][2] > 1e-3
    assert heard[None][[0, 1, 3, 4]].max() == 0


def test_a_run_is_read_with_the_layers_it_was_written_with() -> None:
    for before in (None, (), (6,)):
        guide, x, _ = pair(before)
        again = make_guide(DKF(F, D, H), "paper", **guide.config).double()
        again.load_state_dict(guide.state_dict())
        assert torch.equal(again.context(x, None, None), guide.context(x, None, None))
        other = guide.config | {"before": () if before is None else None}
        with pytest.raises(RuntimeError, match=r"from_x"):
            make_guide(DKF(F, D, H), "paper", **other).load_state_dict(guide.state_dict())


def test_the_shipped_weights_are_read_with_theirs() -> None:
    run = load_run("dkf")
    assert isinstance(run.guide, DKFGuide)
    assert (run.guide.from_x is None) == (run.card["guide_config"]["before"] is not None)
