"""Linear-Gaussian state spaces over many frames: parallel scans, stability, gradients, refusals."""

from __future__ import annotations

import functools
import itertools
from dataclasses import replace

import pytest
import torch
from dense import random_model
from test_kalman import D, F, T, close, every_form, parts
from torch import Tensor

from pyrodvae import kalman
from pyrodvae.kalman import LinearGaussian, scan, sequential

# --- the parallel form


def test_both_forms_agree_over_a_thousand_frames(monkeypatch) -> None:
    x, observed = torch.randn(3, 1000, F, dtype=torch.double), torch.rand(3, 1000) > 0.3
    constant, change = random_model(D, F), random_model(D, F, 1000)
    stable = replace(change, A=change.A / change.A.nan_to_num().norm(dim=(-2, -1), keepdim=True).clamp(min=1))
    for model, mask in ((constant, None), (constant, observed), (stable, observed[0])):
        for one, other in zip(parts(sequential, model, x, mask), parts(scan, model, x, mask), strict=True):
            close(one, other)
        a, b = (form.sample(model, x, 2, mask, generator()) for form in (sequential, scan))
        close(a, b)
    compose = scan.compose
    monkeypatch.setattr(scan, "compose", lambda earlier, later: compose(later, earlier))
    with pytest.raises(AssertionError, match="not close"):
        close(scan.filter(constant, x).means, sequential.filter(constant, x).means)


@pytest.mark.parametrize("frames", range(1, 18))
def test_a_scan_composes_in_order(frames: int) -> None:
    """Products of matrices, which do not commute."""
    A = torch.randn(2, frames, 3, 3, dtype=torch.double)
    for reverse in (False, True):
        calls = []

        def product(earlier, later, calls=calls):
            calls.append(earlier[0].shape[-3])
            return (earlier[0] @ later[0],)

        (given,) = scan.scan(product, (A,), reverse)
        for t in range(frames):
            chain = [*A.unbind(1)][t:] if reverse else [*A.unbind(1)][: t + 1]
            close(given[:, t], functools.reduce(torch.matmul, chain))
        assert len(calls) <= 2 * (frames - 1).bit_length()
        assert sum(calls) < 2 * frames
        if frames > 1:
            (other,) = scan.scan(lambda i, j: (j[0] @ i[0],), (A,), reverse)
            assert not torch.allclose(given, other)


def generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)


# --- stability


def extreme(dtype: torch.dtype = torch.double) -> LinearGaussian:
    """A rotation that never decays, and covariances twelve orders of magnitude apart."""
    turn = torch.tensor([[0.6, -0.8, 0.1], [0.8, 0.6, 0.0], [0.0, 0.0, 1.0]])
    eye, B = torch.eye(3), torch.tensor([[1.0, 0.5, -0.3], [0.2, -1.0, 0.4]])
    return LinearGaussian(
        *(v.to(dtype) for v in (turn, 1e-4 * eye, B, 1e-4 * torch.eye(2), torch.zeros(3), 1e8 * eye))
    )


def smallest(V: Tensor) -> float:
    """The smallest eigenvalue in proportion to the largest, over all frames."""
    values = torch.linalg.eigvalsh(V)
    return float((values[..., 0] / values[..., -1]).min())


@every_form
def test_ten_thousand_frames_stay_positive_definite(form) -> None:
    model, N = extreme(), 10_000
    x, observed = torch.randn(N, F, dtype=torch.double), torch.rand(N) > 0.2
    observed[:4] = torch.tensor([True, False, True, True])
    s, q = form.smooth(model, x, observed), form.posterior_conditionals(model, x, observed)
    f = s.filtered
    for V in (f.covariances, f.predicted_covariances, s.covariances, q.S):
        assert smallest(V) > 0
        assert torch.equal(V, V.mT)
    assert torch.isfinite(s.means).all()
    # Long after the start, its enormous variance is forgotten.
    tame = form.filter(replace(model, P1=model.P1 / 1e8), x, observed)
    torch.testing.assert_close(f.means[-1], tame.means[-1], rtol=1e-6, atol=0)
    torch.testing.assert_close(f.covariances[-1], tame.covariances[-1], rtol=1e-6, atol=0)
    # The control: the textbook's P - K B P does not survive this.
    P, low = model.P1, 1.0
    for t in range(100):
        P = model.A @ P @ model.A.mT + model.Q if t else P
        if observed[t]:
            K = P @ model.B.mT @ torch.linalg.inv(model.B @ P @ model.B.mT + model.R)
            P = P - K @ model.B @ P
        low = min(low, smallest(P))
    assert low < 0


def test_too_few_digits_are_told() -> None:
    """Single precision serves ordinary models; it cannot hold twelve orders of magnitude."""
    x = torch.randn(100, F)
    ordinary = replace(extreme(), P1=torch.eye(3, dtype=torch.double))
    single = LinearGaussian(**{k: v if v is None else v.float() for k, v in vars(ordinary).items()})
    for form in (sequential, scan):
        with pytest.raises(ValueError, match=r"not positive definite: .* torch.float32 has digits"):
            form.filter(extreme(torch.float), x)
        given, exact = form.smooth(single, x), form.smooth(ordinary, x.double())
        assert given.means.dtype == torch.float
        torch.testing.assert_close(given.means.double(), exact.means, rtol=1e-3, atol=1e-3)
        torch.testing.assert_close(given.covariances.double(), exact.covariances, rtol=1e-3, atol=1e-6)


# --- gradients


@every_form
def test_gradients(form) -> None:
    """Of the evidence in every parameter, against differences; what is missing does not touch them."""
    start = random_model(2, 2)
    x, observed = torch.randn(5, 2, dtype=torch.double), torch.tensor([True, False, True, True, False])
    names = [k for k in vars(start) if k not in ("Q", "R", "P1")]
    factors = {k: torch.linalg.cholesky(getattr(start, k)) for k in ("Q", "R", "P1")}
    given = [getattr(start, k).clone() for k in names] + [*factors.values()]

    def evidence(*values: Tensor, x: Tensor = x) -> Tensor:
        plain, roots = values[: len(names)], values[len(names) :]
        covariances = {k: v @ v.mT for k, v in zip(factors, roots, strict=True)}
        model = LinearGaussian(**dict(zip(names, plain, strict=True)), **covariances)
        return form.filter(model, x, observed).log_evidence

    for v in given:
        v.requires_grad_()
    assert torch.autograd.gradcheck(evidence, given)
    gaps = x.masked_fill(~observed[:, None], torch.nan)
    a, b = (torch.autograd.grad(evidence(*given, x=v), given) for v in (x, gaps))
    assert all(map(torch.equal, a, b))
    assert all((v != 0).any() for v in a)


# --- refusals


def test_what_does_not_fit_is_refused() -> None:
    model, x = random_model(D, F), torch.zeros(T, F, dtype=torch.double)
    change, eye = random_model(D, F, T), torch.eye(D, dtype=torch.double)
    broken = eye.expand(4, D, D).clone()
    broken[2, 0, 0] = -1
    models = {
        r"A ends in \(3, 3\); its shape is \(3, 2\)": {"A": eye[:, :2]},
        r"R ends in \(2, 2\)": {"R": eye},
        r"a ends in \(3,\)": {"a": x[0]},
        r"m1 is a vector \(D,\) and B a matrix": {"B": eye[0]},
        "of one type on one device; Q is torch.float32": {"Q": eye.float()},
        "P1 is not a covariance: it has to be symmetric and positive definite": {"P1": -eye},
        "R is not a covariance": {"R": torch.tensor([[1.0, 0.5], [0.0, 1.0]], dtype=torch.double)},
        r"Q\[2\] is not a covariance": {"Q": broken},
        "P1 is not a cov": {"P1": eye * torch.nan},
    }
    for sentence, change_of in models.items():
        with pytest.raises(ValueError, match=sentence):
            replace(model, **change_of)
    gap = x.clone()
    gap[3] = torch.nan
    calls = {
        r"x is \(..., T, F\) with F = 2 and at least one frame, .* shape \(7, 1\)": (model, x[:, :1]),
        r"shape \(0, 2\)": (model, x[:0]),
        r"type torch.float64 as the model; got torch.float32": (model, x.float()),
        "x has 5 frames, but A has entries for 7": (change, x[:5]),
        r"x is not finite at \(3,\) .* observed=~x.isnan": (model, gap),
        "observed is a mask .* got torch.float64": (model, x, x[:, 0]),
        r"booleans with T = 7; got torch.bool of shape \(2,\)": (model, x, x[0] > 0),
        r"batch shapes do not go together: \(2,\) of x, .* \(3,\) of observed": (
            model,
            x.expand(2, T, F),
            torch.ones(3, T) > 0,
        ),
    }
    for (sentence, given), form in itertools.product(calls.items(), (sequential, scan)):
        for f in (form.filter, form.smooth, form.posterior_conditionals):
            with pytest.raises(ValueError, match=sentence):
                f(*given)
    for sentence, given in {
        "at least one frame ahead, not 0": (x, 0),
        r"x is \(..., T, F\); got": (x[0], 1),
    }.items():
        with pytest.raises(ValueError, match=sentence):
            kalman.forecast(model, *given)
