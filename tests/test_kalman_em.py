"""EM for linear-Gaussian state spaces: it climbs, and where it stops there is no slope."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from dense import random_model
from test_kalman import close
from torch import Tensor

from pyrodvae import kalman
from pyrodvae.kalman import LinearGaussian, fit, scan

D, F, T = 2, 3, 40


def stable_model(offsets: bool = True) -> LinearGaussian:
    """A random one whose paths stay where they are."""
    model = random_model(D, F, offsets=offsets)
    return replace(model, A=0.9 * model.A / torch.linalg.eigvals(model.A).abs().max())


def data(truth: LinearGaussian, sequences: int = 8) -> Tensor:
    """Sequences drawn from a model: the posterior of nothing observed is its prior."""
    nothing = torch.zeros(T, dtype=torch.bool)
    z = kalman.sample(truth, torch.zeros(T, F, dtype=torch.double), sequences, nothing)
    noise = torch.randn(sequences, T, F, dtype=torch.double) @ torch.linalg.cholesky(truth.R).mT
    return z @ truth.B.mT + noise + (0 if truth.b is None else truth.b)


def slope(model: LinearGaussian, x: Tensor, observed: Tensor | None) -> float:
    """The largest derivative of the evidence per frame in any parameter that EM fits."""
    values = {k: v.clone().requires_grad_() for k, v in vars(model).items() if v is not None}
    evidence = kalman.filter(LinearGaussian(**values), x, observed).log_evidence.sum()
    gradients = torch.autograd.grad(evidence, [*values.values()])
    # Q, R and P1 count along symmetric directions alone.
    sizes = [
        (g + g.mT if k in ("Q", "R", "P1") else g).abs().max() for k, g in zip(values, gradients, strict=True)
    ]
    return float(torch.stack(sizes).max()) / x[..., 0].numel()


CASES = [(offsets, gaps) for offsets in (True, False) for gaps in (True, False)]


@pytest.mark.parametrize(("offsets", "gaps"), CASES)
def test_evidence_never_decreases(offsets: bool, gaps: bool) -> None:
    truth, start = stable_model(offsets), stable_model(offsets)
    x = data(truth)
    observed = torch.rand(x.shape[:-1]) > 0.2 if gaps else None
    model, evidence = kalman.em(start, x, 100, observed, scan.smooth)
    assert evidence.shape == (101,)
    assert (evidence.diff() > -1e-9 * evidence[:-1].abs()).all()
    close(evidence[-1], kalman.filter(model, x, observed).log_evidence.sum())
    assert evidence[-1] > kalman.filter(truth, x, observed).log_evidence.sum()
    assert (model.a is None, model.b is None) == (not offsets, not offsets)
    assert slope(model, x, observed) < 0.1 * slope(start, x, observed)
    one, _ = kalman.em(start, x, 1, observed)
    other, _ = kalman.em(start, x, 1, observed, scan.smooth)
    close(one.A, other.A)
    close(one.R, other.R)


@pytest.mark.parametrize("mistaken", ["A", "R"])
def test_a_wrong_step_is_noticed(mistaken: str) -> None:
    """The control: moments of a posterior that is not the model's lead downhill."""

    def smooth(model, x, observed):
        other = replace(model, **{mistaken: 0.8 * getattr(model, mistaken)})
        return replace(kalman.smooth(other, x, observed), filtered=kalman.filter(model, x, observed))

    x = data(stable_model())
    nearly, _ = kalman.em(stable_model(), x, 60, smoother=scan.smooth)
    _, evidence = kalman.em(nearly, x, 3, smoother=smooth)
    assert evidence.diff().min() < -1e-3
    _, evidence = kalman.em(nearly, x, 3)
    assert (evidence.diff() > 0).all()


def test_the_step_maximises_what_it_claims() -> None:
    """E[log p(x, z)] has no slope at the new parameters; it has at the old ones."""
    start, x = stable_model(), data(stable_model())
    observed = torch.rand(x.shape[:-1]) > 0.2
    s = kalman.smooth(start, x, observed)
    new = fit.maximise(start, s, x, observed)
    assert expected_slope(new, s, x, observed) < 1e-9
    assert expected_slope(start, s, x, observed) > 1e-2


def expected_slope(model: LinearGaussian, s: kalman.Smoothed, x: Tensor, observed: Tensor) -> float:
    """The largest derivative of E[log p(x, z)] / T, written out from its definition."""
    values = {k: v.clone().requires_grad_() for k, v in vars(model).items()}
    A, Q, B, R, m1, P1, a, b = values.values()

    def quadratic(V: Tensor, mean: Tensor, covariance: Tensor) -> Tensor:
        second = covariance + mean[..., :, None] * mean[..., None, :]
        return -0.5 * (torch.logdet(V) + (torch.linalg.inv(V) * second).sum((-2, -1)))

    m, P, C = s.means, s.covariances, s.cross_covariances[:, 1:]
    step = P[:, 1:] - A @ C.mT - C @ A.mT + A @ P[:, :-1] @ A.mT
    first = quadratic(P1, m[:, 0] - m1, P[:, 0]).sum()
    later = quadratic(Q, m[:, 1:] - m[:, :-1] @ A.mT - a, step).sum()
    seen = quadratic(R, x - m @ B.mT - b, B @ P @ B.mT)[observed].sum()
    gradients = torch.autograd.grad(first + later + seen, [*values.values()])
    return max(float(g.abs().max()) for g in gradients) / x[..., 0].numel()


def test_one_sequence_is_enough() -> None:
    x = data(stable_model(), 1)[0]
    model, evidence = kalman.em(stable_model(), x, 30)
    assert (evidence.diff() > 0).all()
    assert model.m1.shape == (D,)


@pytest.mark.parametrize("sequences", [1, 2])
def test_few_sequences_leave_the_first_state_alone(sequences: int) -> None:
    """The first states of N <= D sequences leave P1 singular: fitted, it goes to zero, and R with it."""
    x, start = data(stable_model(), sequences), stable_model()
    model, evidence = kalman.em(start, x, 400, smoother=scan.smooth)
    assert (evidence.diff() > 0).all()
    assert torch.equal(model.P1, start.P1)
    assert min(float(torch.linalg.eigvalsh(V).min()) for V in (model.P1, model.Q, model.R)) > 1e-3
    fitted, _ = kalman.em(start, x, 400, smoother=scan.smooth, initial=True)
    assert torch.linalg.eigvalsh(fitted.P1).min() < 1e-5
    assert torch.linalg.eigvalsh(fitted.R).min() < 1e-3
    many, _ = kalman.em(start, data(stable_model(), D + 1), 1)
    assert not torch.equal(many.P1, start.P1)


def test_what_cannot_be_fitted_is_refused() -> None:
    x, model = torch.randn(T, F, dtype=torch.double), stable_model()
    for sentence, given in {
        r"constant parameters; A has the shape \(40, 2, 2\)": (random_model(D, F, T), x, 1),
        "at least two frames, and one that is observed": (model, x[:1], 1),
        "frames, and one that": (model, x, 1, torch.zeros(T, dtype=torch.bool)),
    }.items():
        with pytest.raises(ValueError, match=sentence):
            kalman.em(*given)
