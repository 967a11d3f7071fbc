"""The parts that models and guides are built from."""

from __future__ import annotations

import math

import pytest
import torch
from toys import spectra

from pyrodvae.distributions import power
from pyrodvae.models.dkf import GatedTransition
from pyrodvae.nets import (
    Memory,
    Summary,
    frame_mask,
    gaussian,
    mlp,
    reverse,
    shift,
    standard_normal,
)
from pyrodvae.observations import POWER_FLOOR, LogSpectrum, SpectrumHead

LENGTHS = torch.tensor([6, 1, 4])


@pytest.mark.parametrize("cuts", [(1,) * 6, (2, 4), (3, 1, 2), (6,)])
def test_memory_takes_up_where_it_ended(cuts: tuple[int, ...]) -> None:
    memory = Memory(4, 3).double()
    u = torch.randn(2, 5, 6, 4, dtype=torch.double)
    whole, _ = memory(u)
    assert whole.shape == (2, 5, 6, 3)
    state, parts, forgetful = None, [], []
    for window in u.split(cuts, -2):
        h, state = memory(window, state)
        parts.append(h)
        forgetful.append(memory(window)[0])
    torch.testing.assert_close(torch.cat(parts, -2), whole, rtol=1e-13, atol=1e-15)
    assert torch.allclose(torch.cat(forgetful, -2), whole) == (len(cuts) == 1)


def test_reversal_by_length_is_its_own_inverse_and_leaves_padding_in_place() -> None:
    x = torch.arange(18.0).reshape(3, 6, 1)
    y = reverse(x, LENGTHS)
    assert y[2, :, 0].tolist() == [15, 14, 13, 12, 16, 17]
    assert torch.equal(y[0], x[0].flip(0))
    assert torch.equal(y[1], x[1])
    assert torch.equal(reverse(y, LENGTHS), x)
    assert torch.equal(reverse(x), x.flip(-2))


def test_shift_and_mask() -> None:
    x = spectra()
    assert torch.equal(shift(x)[:, 1:], x[:, :-1])
    assert (shift(x)[:, 0] == 0).all()
    assert torch.equal(frame_mask(LENGTHS, 6).sum(-1), LENGTHS)
    assert frame_mask(LENGTHS, 6)[2].tolist() == [True] * 4 + [False] * 2


@pytest.mark.parametrize("direction", ["forward", "backward", "both"])
def test_sizes_of_summaries(direction) -> None:
    summary = Summary(5, 3, direction)
    assert summary(torch.randn(2, 4, 6, 5)).shape == (2, 4, 6, summary.size)


def test_a_single_size_is_no_layer() -> None:
    x = torch.randn(3, 4)
    assert mlp([4])(x) is x
    assert mlp([4, 5, 2])(x).shape == (3, 2)


def test_log_spectrum_standardises_and_comes_back() -> None:
    x = spectra(50, 20) * torch.logspace(-2, 1, 5)
    spectrum = LogSpectrum(5).double()
    assert spectrum(x).mean().abs() > 1  # before
    spectrum.fit(x)
    y = spectrum(x)
    torch.testing.assert_close(y.flatten(0, 1).mean(0), torch.zeros(5, dtype=torch.double), rtol=0, atol=1e-6)
    torch.testing.assert_close(y.flatten(0, 1).std(0), torch.ones(5, dtype=torch.double), rtol=1e-6, atol=0)
    back = (y * spectrum.scale + spectrum.loc).exp()
    torch.testing.assert_close(back, power(x) + POWER_FLOOR, rtol=1e-6, atol=1e-15)


def test_silence_and_extremes_stay_finite() -> None:
    spectrum = LogSpectrum(2)
    spectrum.fit(torch.zeros(3, 4, 2, dtype=torch.cfloat))
    silence = torch.zeros(1, 2, dtype=torch.cfloat, requires_grad=True)
    spectrum(silence).sum().backward()
    assert torch.isfinite(silence.grad).all()
    head = SpectrumHead(1, 2)
    with torch.no_grad():
        head.output.weight.copy_(torch.tensor([[-1e9], [1e9]]))
    variance = head(torch.ones(1, 1)).variance.detach()
    assert variance[0, 0] == pytest.approx(POWER_FLOOR)
    assert variance[0, 1] == pytest.approx(math.exp(20), rel=1e-4)
    scale = gaussian(torch.tensor([0.0, 0.0, -1e9, 1e9])).scale
    torch.testing.assert_close(scale, torch.tensor([-7.0, 3.0]).exp())


def test_a_decoder_starts_from_the_mean_spectrum() -> None:
    x = spectra(50, 20) * torch.logspace(-2, 1, 5)
    head = SpectrumHead(3, 5).double()
    with torch.no_grad():
        head.output.weight.zero_()
    nothing = torch.zeros(1, 3, dtype=torch.double)
    assert not torch.allclose(head(nothing).variance[0], power(x).flatten(0, 1).mean(0), rtol=0.1)
    head.fit(x)
    wanted = power(x).flatten(0, 1).mean(0) + POWER_FLOOR
    torch.testing.assert_close(head(nothing).variance[0], wanted, rtol=1e-6, atol=0)


def test_constant_priors_forget_what_they_are_shaped_like() -> None:
    """Also its history: else gradients, and arrows of the graph, would lead there."""
    z = torch.full((2, 3, 4), torch.nan, dtype=torch.double, requires_grad=True)
    p = standard_normal(z)
    assert p.mean.dtype == torch.double
    assert not p.mean.requires_grad
    value = torch.randn(2, 3, 4, dtype=torch.double)
    wanted = -0.5 * (value.square() + math.log(2 * math.pi)).sum(-1)
    torch.testing.assert_close(p.log_prob(value), wanted)


def test_a_gated_transition_is_never_a_point() -> None:
    """A softplus alone would go on to a variance of zero, and its score to infinity."""
    gated = GatedTransition(2)
    with torch.no_grad():
        gated.spread.bias.fill_(-200.0)
    p_z = gated(torch.zeros(3, 2))
    torch.testing.assert_close(p_z.variance.log(), torch.full((3, 2), -14.0))
    assert torch.isfinite(p_z.log_prob(torch.ones(3, 2))).all()
