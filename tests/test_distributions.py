"""The complex Gaussian and the roll-out, against their formulas."""

from __future__ import annotations

import math

import pyro.distributions as dist
import pytest
import torch
from pyro.distributions import Normal
from torch import Tensor
from torch.distributions import kl_divergence
from toys import errors

from pyrodvae.distributions import ComplexNormal, DiagonalNormal, power
from pyrodvae.rollout import Rollout, join_frames, select_frames

# --- the complex Gaussian


@pytest.mark.parametrize("v", [0.05, 1.0, 7.0])
def test_density_integrates_to_one(v: float) -> None:
    axis = torch.linspace(-8, 8, 400, dtype=torch.double) * math.sqrt(v)
    s = torch.complex(*torch.meshgrid(axis, axis, indexing="ij"))
    cell = (axis[1] - axis[0]) ** 2
    density = ComplexNormal(torch.tensor(v, dtype=torch.double)).log_prob(s).exp()
    assert float(density.sum() * cell) == pytest.approx(1, abs=1e-12)
    with_a_half = (-power(s) / (2 * v)).exp() / (math.pi * v)
    assert float(with_a_half.sum() * cell) == pytest.approx(2, abs=1e-6)


def test_power_is_exponential_and_phase_is_proper() -> None:
    v = torch.tensor([0.3, 4.0], dtype=torch.double)
    s = ComplexNormal(v).sample((100_000,))
    p = power(s)
    assert errors(p, v) < 5
    assert errors(p**2, 2 * v**2) < 5
    assert errors((p > v).double(), math.exp(-1)) < 5
    assert errors((s**2).real) < 5  # proper: E[s²] = 0
    assert errors((s**2).imag) < 5
    assert errors(p, v / 2) > 5  # a variance per real part would be half
    assert errors((s.real * 2**0.5) ** 4, 2 * v**2) > 5  # a Gaussian is no exponential
    torch.testing.assert_close(ComplexNormal(v).variance, v)
    assert torch.equal(ComplexNormal(v).mean, torch.zeros(2, dtype=torch.cdouble))


def test_gradient_is_that_of_the_itakura_saito_divergence() -> None:
    s = torch.randn(50, dtype=torch.cdouble)
    v = torch.rand(50, dtype=torch.double).add(0.1).requires_grad_()
    ratio = power(s) / v
    (wanted,) = torch.autograd.grad((ratio - ratio.log() - 1).sum(), v)
    (given,) = torch.autograd.grad(-ComplexNormal(v).log_prob(s).sum(), v)
    torch.testing.assert_close(given, wanted, rtol=1e-12, atol=0)
    (other,) = torch.autograd.grad(-dist.Normal(0, v.sqrt()).log_prob(s.abs()).sum(), v)
    assert not torch.allclose(given, other, rtol=1e-2)


@pytest.mark.parametrize("shapes", [((3, 4), (3, 4)), ((2, 3, 1), (4,)), ((4,), (2, 3, 4))])
def test_derivatives_of_every_order(shapes: tuple[tuple[int, ...], tuple[int, ...]]) -> None:
    s = torch.randn(shapes[0], dtype=torch.cdouble)
    y = torch.randn(shapes[1], dtype=torch.double, requires_grad=True)

    def score(y: Tensor) -> Tensor:
        return ComplexNormal(log_variance=y).log_prob(s)

    assert torch.autograd.gradcheck(score, (y,))
    assert torch.autograd.gradgradcheck(score, (y,))


def test_the_hessian_is_the_change_of_the_gradient() -> None:
    s = torch.randn(7, 3, dtype=torch.cdouble)
    y = torch.randn(3, dtype=torch.double)

    def score(y: Tensor) -> Tensor:
        return ComplexNormal(log_variance=2 * y).log_prob(s).sum()

    def gradient(y: Tensor) -> Tensor:
        return torch.autograd.functional.jacobian(score, y)

    step = 1e-4 * torch.eye(3, dtype=torch.double)
    wanted = torch.stack([(gradient(y + e) - gradient(y - e)) / 2e-4 for e in step])
    given = torch.autograd.functional.hessian(score, y)
    torch.testing.assert_close(given, wanted, rtol=1e-6, atol=1e-6)
    assert given.diagonal().max() < 0


def test_draws_have_gradients_to_the_variance() -> None:
    v = torch.tensor([0.3, 4.0], dtype=torch.double, requires_grad=True)
    p = power(ComplexNormal(v).rsample((7,)))
    (gradient,) = torch.autograd.grad(p.sum(), v)
    torch.testing.assert_close(gradient, (p / v).sum(0))


def test_shapes_of_the_complex_gaussian() -> None:
    d = ComplexNormal(torch.ones(4)).expand((3, 4))
    assert d.batch_shape == (3, 4)
    assert d.sample((2,)).shape == (2, 3, 4)
    assert d.to_event(1).log_prob(d.sample()).shape == (3,)


def test_what_is_no_value_or_no_variance_is_refused() -> None:
    d = ComplexNormal(torch.ones(2), validate_args=True)
    d.log_prob(torch.ones(2, dtype=torch.cfloat))  # the control
    for bad in (torch.full((2,), complex("nan")), torch.full((2,), complex(0, math.inf)), torch.ones(2)):
        with pytest.raises(ValueError, match="support"):
            d.log_prob(bad)
    with pytest.raises(ValueError, match="variance"):
        ComplexNormal(torch.tensor([1.0, -1.0]), validate_args=True)


# --- the roll-out


FRAMES, SIZE = 5, 2
START = torch.zeros(SIZE, dtype=torch.double)


def walk(z_prev: Tensor, context: Tensor | None, memo: Tensor | None) -> tuple[dist.Normal, Tensor]:
    """z_t given z_{t-1}, a running sum of the past and a context: enough to notice any mistake."""
    past = z_prev.cumsum(-2) + (0 if memo is None else memo)
    shift = 0 if context is None else context
    return dist.Normal((0.8 * past).sin() + shift, 0.3 + z_prev.sigmoid()).to_event(1), past[..., -1:, :]


def alone(z_prev: Tensor, context: Tensor | None, memo: None) -> tuple[dist.Normal, None]:
    """z_t given the context alone."""
    shift = torch.zeros_like(z_prev) if context is None else context.expand(z_prev.shape)
    return dist.Normal(shift, torch.full_like(shift, 0.7)).to_event(1), None


def rollout(
    conditional=walk, batch: tuple[int, ...] = (3,), context: float | None = None, **options
) -> Rollout:
    c = None if context is None else context * torch.linspace(-1, 1, FRAMES, dtype=torch.double)[:, None]
    options.setdefault("recursive", conditional is walk)
    return Rollout(conditional, START, FRAMES, batch_shape=batch, context=c, **options)


def by_hand(z: Tensor) -> Tensor:
    """log p of paths under ``walk``, frame after frame, from the formula."""
    total, past, previous = torch.zeros(z.shape[:-2], dtype=z.dtype), 0, torch.zeros_like(z[..., 0, :])
    for t in range(z.shape[-2]):
        past = past + previous
        scale = 0.3 + previous.sigmoid()
        residual = (z[..., t, :] - (0.8 * past).sin()) / scale
        total = total - (0.5 * residual**2 + scale.log() + 0.5 * math.log(2 * math.pi)).sum(-1)
        previous = z[..., t, :]
    return total


def test_log_prob_is_the_sum_of_the_conditionals() -> None:
    d = rollout()
    z = d.sample((4,))
    assert z.shape == (4, 3, FRAMES, SIZE)
    torch.testing.assert_close(d.log_prob(z), by_hand(z), rtol=1e-13, atol=0)
    assert not torch.allclose(d.log_prob(z.flip(-2)), by_hand(z))


@pytest.mark.parametrize("conditional", [walk, alone])
def test_a_draw_is_scored_as_any_other_path(conditional) -> None:
    drawn, fresh = rollout(conditional, context=0.5), rollout(conditional, context=0.5)
    z = drawn.rsample()
    calls = []
    drawn.conditional = lambda *a: calls.append(a)
    given = drawn.log_prob(z)
    assert calls == []  # remembered
    torch.testing.assert_close(given, fresh.log_prob(z), rtol=1e-13, atol=1e-13)
    assert not torch.allclose(given, fresh.log_prob(z + 0.1))


@pytest.mark.parametrize("drawn", [True, False])
def test_memo_belongs_to_the_last_path(drawn: bool) -> None:
    """Also after a draw, where no pass has been made along the path yet."""
    d, other = rollout(), rollout()
    z = d.rsample() if drawn else other.rsample()
    d.along(z)
    torch.testing.assert_close(d.memo, z[..., :-1, :].sum(-2, keepdim=True))
    d.along(z + 1)
    assert not torch.allclose(d.memo, z[..., :-1, :].sum(-2, keepdim=True))


def test_independent_kl_is_the_closed_form_with_no_variance() -> None:
    q, p = rollout(alone, context=0.5), rollout(alone)
    mean = 0.5 * torch.linspace(-1, 1, FRAMES, dtype=torch.double)
    wanted = (SIZE * mean**2 / (2 * 0.7**2)).sum()
    analytic, sampled = [], []
    for _ in range(6):
        z = q.rsample()
        analytic.append(kl_divergence(q, p))
        sampled.append(q.log_prob(z) - p.log_prob(z))
    torch.testing.assert_close(torch.stack(analytic), wanted.expand(6, 3), rtol=1e-13, atol=0)
    assert torch.stack(sampled).std() > 0.1


def test_recursive_kl_agrees_with_the_log_ratio_in_expectation() -> None:
    def differences(p: Rollout, wrong: Rollout | None = None) -> Tensor:
        z = q.rsample()
        return kl_divergence(q, wrong or p) - (q.log_prob(z) - p.log_prob(z))

    q, p = rollout(batch=(20_000,), context=0.4), rollout(batch=(20_000,))
    assert errors(differences(p)) < 5
    assert kl_divergence(q, p).std() > 0.1  # it does depend on the path
    assert errors(differences(p, rollout(batch=(20_000,), context=0.1))) > 5


def test_kl_without_a_draw_is_refused() -> None:
    q, p = rollout(), rollout()
    q.log_prob(p.sample())  # a path that q has scored is none that q has drawn
    for undrawn in (q, p.expand((2, 3))):
        with pytest.raises(RuntimeError, match=r"call q\.rsample\(\) before"):
            kl_divergence(undrawn, p)
    q.rsample()
    kl_divergence(q, p)  # the control


def test_kl_is_along_the_drawn_path_whatever_was_asked_since() -> None:
    q, p = rollout(context=0.4), rollout()
    z = q.rsample()
    kl = kl_divergence(q, p)
    torch.testing.assert_close(kl, kl_divergence(q.along(z), p.along(z)).sum(-1), rtol=1e-13, atol=0)
    other = z + 1
    q.log_prob(other)
    assert torch.equal(kl_divergence(q, p), kl)
    assert not torch.allclose(kl_divergence(q.along(other), p.along(other)).sum(-1), kl)
    q.rsample()
    assert not torch.allclose(kl_divergence(q, p), kl)  # of the last path that was drawn


@pytest.mark.parametrize("conditional", [walk, alone])
def test_padded_frames_contribute_nothing(conditional) -> None:
    mask = torch.arange(FRAMES) < torch.tensor([[FRAMES], [2], [3]])
    masked, whole = rollout(conditional, context=0.3, mask=mask), rollout(conditional, context=0.3)
    prior = rollout(conditional)
    z = masked.rsample()
    kl = kl_divergence(masked, prior)
    other = torch.where(mask[..., None], z, z + 9)
    torch.testing.assert_close(masked.log_prob(z), masked.log_prob(other), rtol=1e-13, atol=0)
    assert not torch.allclose(whole.log_prob(z), whole.log_prob(other))
    per_frame = kl_divergence(whole.along(z), prior.along(z))
    wanted = torch.stack([per_frame[i, :n].sum() for i, n in enumerate(mask.sum(-1))])
    torch.testing.assert_close(kl, wanted, rtol=1e-12, atol=0)
    assert not torch.allclose(per_frame.sum(-1)[1:], kl[1:])


def test_expanding_keeps_the_memory_where_nothing_changes() -> None:
    d = rollout()
    z = d.rsample()
    same, larger = d.expand((3,)), d.expand((4, 3))
    assert same is d
    assert larger.sample().shape == (4, 3, FRAMES, SIZE)
    torch.testing.assert_close(larger.log_prob(z.expand(4, -1, -1, -1))[2], d.log_prob(z))


# --- frames of conditionals


@pytest.mark.parametrize(
    "d",
    [
        dist.Normal(torch.randn(3, 6, 2), torch.rand(3, 6, 2)).to_event(1),
        dist.Bernoulli(logits=torch.randn(3, 6, 2)).to_event(1),
        dist.Bernoulli(probs=torch.rand(3, 6, 2)).to_event(1),
        ComplexNormal(torch.rand(3, 6, 2)).to_event(1),
    ],
    ids=lambda d: type(d.base_dist).__name__,
)
def test_joining_is_the_inverse_of_selecting(d) -> None:
    value = d.sample()
    parts = [slice(0, 1), slice(1, 4), slice(4, 6)]
    pieces = [select_frames(d, s) for s in parts]
    assert [p.batch_shape for p in pieces] == [(3, 1), (3, 3), (3, 2)]
    for piece, s in zip(pieces, parts, strict=True):
        assert torch.equal(piece.log_prob(value[:, s]), d.log_prob(value)[:, s])
    assert torch.equal(join_frames(pieces).log_prob(value), d.log_prob(value))
    assert not torch.equal(join_frames(pieces[::-1]).log_prob(value), d.log_prob(value))


def test_what_cannot_be_joined_says_so() -> None:
    d = dist.LogNormal(torch.zeros(3, 1, 2), torch.ones(3, 1, 2)).to_event(1)
    with pytest.raises(TypeError, match=r"type LogNormal cannot be joined over frames: .* Normal"):
        join_frames([d, d])


def test_diagonal_normal_is_the_normal() -> None:
    loc, other = torch.randn(4, 5, 3), torch.randn(4, 5, 3)
    scale, wider = torch.rand(4, 5, 3) + 0.5, torch.rand(4, 5, 3) + 1
    q, p = DiagonalNormal(loc, scale), DiagonalNormal(other, wider)
    a, b = Normal(loc, scale).to_event(1), Normal(other, wider).to_event(1)
    x = torch.randn(2, 4, 5, 3)
    torch.testing.assert_close(q.log_prob(x), a.log_prob(x))
    torch.testing.assert_close(kl_divergence(q, p), kl_divergence(a, b))
    assert not torch.allclose(kl_divergence(q, p), kl_divergence(b, a))
    torch.testing.assert_close(kl_divergence(q, b), kl_divergence(a, b))
    torch.testing.assert_close(kl_divergence(a, p), kl_divergence(a, b))
    assert (q.batch_shape, q.event_shape) == (a.batch_shape, a.event_shape)
    assert q.expand((2, 4, 5)).log_prob(x).shape == (2, 4, 5)
    draws = q.sample((20_000,))
    assert errors(draws, loc) < 5
    assert errors((draws - loc).square(), scale.square()) < 5
    assert errors((draws - loc).square(), 1.2 * scale.square()) > 5
    with pytest.raises(ValueError, match="support"):
        DiagonalNormal(loc, scale, validate_args=True).log_prob(loc + torch.nan)


def test_a_path_scored_without_gradients_is_scored_anew_with_them() -> None:
    rate = torch.tensor(0.8, dtype=torch.double, requires_grad=True)

    def step(z_prev: Tensor, context: None, memo: None):
        return dist.Normal(rate * z_prev, 1.0).to_event(1), memo

    for drawn in (True, False):
        d = Rollout(step, torch.ones(2, dtype=torch.double), 3)
        with torch.no_grad():
            path = d.rsample((4,)) if drawn else torch.randn(4, 3, 2, dtype=torch.double)
            without = d.log_prob(path)
        score = d.log_prob(path)
        torch.testing.assert_close(score, without)
        (gradient,) = torch.autograd.grad(score.sum(), rate)
        previous = torch.cat([torch.ones(4, 1, 2), path[:, :-1]], 1)
        torch.testing.assert_close(gradient, ((path - rate * previous) * previous).sum())
        assert d.along(path) is d.along(path)  # and then it is kept


def test_scores_have_the_derivatives_of_their_formula() -> None:
    """By its variance and by its logarithm, once and twice; the control is a score of another power."""
    x = torch.randn(3, 4, dtype=torch.cdouble)
    v = (torch.rand(3, 4, dtype=torch.double) + 0.5).requires_grad_()

    def by_variance(v: Tensor) -> Tensor:
        return ComplexNormal(v, validate_args=False).log_prob(x)

    def by_logarithm(y: Tensor) -> Tensor:
        return ComplexNormal(log_variance=y, validate_args=False).log_prob(x)

    for f, at in ((by_variance, v), (by_logarithm, v.detach().log().requires_grad_())):
        assert torch.autograd.gradcheck(f, at)
        assert torch.autograd.gradgradcheck(f, at)
    wanted = -(math.pi * v).log() - x.abs() ** 2 / v
    torch.testing.assert_close(by_variance(v), wanted, rtol=1e-12, atol=1e-12)
    (ours,) = torch.autograd.grad(by_variance(v).sum(), v)
    (theirs,) = torch.autograd.grad(wanted.sum(), v)
    torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-12)
    (other,) = torch.autograd.grad((-(math.pi * v).log() - 2 * x.abs() ** 2 / v).sum(), v)
    assert not torch.allclose(ours, other)
