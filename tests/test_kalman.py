"""Linear-Gaussian state spaces: exact inference against one joint Gaussian of all frames."""

from __future__ import annotations

from dataclasses import replace

import pyro.distributions as dist
import pytest
import scipy.linalg
import torch
from dense import Dense, random_model
from torch import Tensor
from toys import errors

from pyrodvae import kalman
from pyrodvae.kalman import LinearGaussian, results, scan, sequential

EXACT = {"rtol": 1e-9, "atol": 1e-9}
T, D, F = 7, 3, 2
every_form = pytest.mark.parametrize("form", [sequential, scan], ids=["sequential", "scan"])
CASES = {
    "constant": (None, True, None),
    "without offsets": (None, False, None),
    "time-varying": (T, True, None),
    "with gaps": (None, True, [0, 2, 3]),
    "time-varying with gaps": (T, True, [1, 5]),
    "only the first": (T, True, [0]),
    "never observed": (None, True, []),
}


def case(name: str) -> tuple[LinearGaussian, Tensor, Tensor | None, list[int]]:
    """A model, a sequence of which the missing frames are NaN, its mask, and the frames observed."""
    over, offsets, frames = CASES[name]
    model, x = random_model(D, F, over, offsets), torch.randn(T, F, dtype=torch.double)
    if frames is None:
        return model, x, None, [*range(T)]
    observed = torch.zeros(T, dtype=torch.bool)
    observed[frames] = True
    x[~observed] = torch.nan
    return model, x, observed, frames


def close(a: Tensor, b: Tensor) -> None:
    torch.testing.assert_close(a, b, **EXACT)


def check_marginals(form, model, x, observed, frames, joint: Dense | None = None) -> None:
    """Filter, predictions, evidence, smoother and cross-covariances, against the joint Gaussian."""
    joint, s = joint or Dense(model, len(x)), form.smooth(model, x, observed)
    f = form.filter(model, x, observed)
    for one, other in zip(vars(f).values(), vars(s.filtered).values(), strict=True):
        close(one, other)
    last = None
    for t in range(len(x)):
        z, until = joint.index([t]), [i for i in frames if i <= t]
        before = [i for i in frames if i < t]
        for mean, cov, seen in (
            (f.means, f.covariances, until),
            (f.predicted_means, f.predicted_covariances, before),
            (s.means, s.covariances, frames),
        ):
            W, w, C = joint.given(z, joint.index(x=seen))
            close(mean[t], W @ x[seen].flatten() + w)
            close(cov[t], C)
        close(f.increments[t], joint.log_prob(x, until) - joint.log_prob(x, before))
        if last is not None:
            _, _, C = joint.given(torch.cat([z, last]), joint.index(x=frames))
            close(s.cross_covariances[t], C[: len(z), len(z) :])
        last = z
    close(f.log_evidence, joint.log_prob(x, frames))
    close(s.cross_covariances[0], torch.zeros_like(s.covariances[0]))


def check_conditionals(form, model, x, observed, frames, joint: Dense | None = None) -> None:
    """q(z_t | z_{t-1}, x_{t:T}), of the joint Gaussian given just these."""
    joint, q = joint or Dense(model, len(x)), form.posterior_conditionals(model, x, observed)
    for t in range(len(x)):
        ahead = [i for i in frames if i >= t]
        past = [t - 1] if t else []
        W, w, C = joint.given(joint.index([t]), joint.index(past, ahead))
        n = len(past) * model.latent
        close(q.g[t], W[:, n:] @ x[ahead].flatten() + w)
        close(q.G[t], W[:, :n] if t else torch.zeros_like(q.G[0]))
        close(q.S[t], C)
        close(q.scale_tril[t], torch.linalg.cholesky(C))


@pytest.mark.parametrize("name", CASES)
@every_form
def test_marginals_are_those_of_the_joint_gaussian(form, name: str) -> None:
    check_marginals(form, *case(name))


@pytest.mark.parametrize("name", CASES)
@every_form
def test_conditionals_are_those_of_the_joint_gaussian(form, name: str) -> None:
    check_conditionals(form, *case(name))


@pytest.mark.parametrize("frames", [1, 2])
@every_form
def test_the_shortest_sequences(form, frames: int) -> None:
    model, x = random_model(1, 1), torch.randn(frames, 1, dtype=torch.double)
    for check in (check_marginals, check_conditionals):
        check(form, model, x, None, [*range(frames)])


@every_form
def test_mistakes_are_noticed(form, monkeypatch) -> None:
    """The controls: each of these would be easy to make, and none of them passes."""
    model, x, observed, frames = case("time-varying with gaps")
    truth = Dense(model, T)
    # Observed one frame late; a transition before the first frame; Q of the frame before.
    late = {k: getattr(model, k).roll(1, 0) for k in ("B", "R", "b")}
    A, Q = model.A[1], model.Q[1]
    early = {"m1": A @ model.m1 + model.a[1], "P1": A @ model.P1 @ A.mT + Q}
    shifted = {"Q": torch.cat([model.Q[:1], model.P1[None], model.Q[1:-1]])}
    wrong = [(replace(model, **change), observed) for change in (late, early, shifted)]
    wrong.append((model, torch.ones(T, dtype=torch.bool)))  # what is missing taken for zero
    for check in (check_marginals, check_conditionals):
        check(form, model, x, observed, frames, truth)
        for other, mask in wrong:
            with pytest.raises(AssertionError, match="not close"):
                check(form, other, x.nan_to_num(), mask, frames, truth)

    kernels, condition = results.backward_kernels, form.condition
    gain = lambda *given: (0.99 * kernels(*given)[0], *kernels(*given)[1:])  # noqa: E731
    for name, mistake, check in (
        ("backward_kernels", gain, check_marginals),
        ("condition", lambda A, a, L, H, h: condition(A, a, L, H, 1.01 * h), check_conditionals),
    ):
        monkeypatch.setattr(form, name, mistake)
        with pytest.raises(AssertionError, match="not close"):
            check(form, model, x, observed, frames, truth)
        monkeypatch.undo()


# --- batches


def stacked(models: list[LinearGaussian], **axis: int) -> LinearGaussian:
    """A batch of models; ``name=axis`` puts an axis of one frame into a constant parameter."""
    values = {k: [vars(m)[k] for m in models] for k in vars(models[0])}
    return LinearGaussian(
        **{k: torch.stack([v.unsqueeze(axis[k]) if k in axis else v for v in vs]) for k, vs in values.items()}
    )


@every_form
def test_a_batch_is_a_loop(form) -> None:
    """Of sequences, with one mask or one each; of models that change over time or in part do not."""
    x, observed = torch.randn(2, 3, T, F, dtype=torch.double), torch.rand(2, 3, T) > 0.4
    change = [random_model(D, F, T) for _ in range(3)]
    partly = [replace(m, A=m.A[-1], Q=m.Q[-1], b=m.b[-1]) for m in change]
    for models, batch in (
        ([change[0]] * 3, change[0]),
        ([partly[0]] * 3, partly[0]),
        (change, stacked(change)),
        (partly, stacked(partly, A=0, Q=0, b=0)),
    ):
        for mask in (None, observed[0, 0], observed):
            whole = parts(form, batch, x, mask)
            for i in range(2):
                for j in range(3):
                    own = None if mask is None else mask.expand(2, 3, T)[i, j]
                    for one, other in zip(whole, parts(form, models[j], x[i, j], own), strict=True):
                        assert one.shape[:2] == (2, 3)
                        close(one[i, j], other)
            assert not torch.allclose(whole[0][0, 0], whole[0][1, 0])


def parts(form, model, x, observed) -> list[Tensor]:
    """All that the answers hold."""
    s, q = form.smooth(model, x, observed), form.posterior_conditionals(model, x, observed)
    f = s.filtered
    return [s.means, s.covariances, s.cross_covariances, *vars(f).values(), f.log_evidence, *vars(q).values()]


@every_form
def test_what_does_not_depend_on_x_is_worked_out_once(form) -> None:
    model, x = random_model(D, F), torch.randn(4, T, F, dtype=torch.double)
    shared, own = (form.smooth(model, x, m) for m in (None, torch.rand(4, T) > 0.4))
    for s in (shared, own):
        for covariances in (s.covariances, s.filtered.covariances, s.cross_covariances):
            assert (covariances.stride()[0] == 0) == (s is shared)


# --- conventions


def test_the_first_frame_has_no_transition_before_it() -> None:
    """Pyro's GaussianHMM lets one act before the first observation: same numbers once it is inserted."""
    model, x = random_model(D, F), torch.randn(5, T, F, dtype=torch.double)
    A, Q, normal = model.A, model.Q, dist.MultivariateNormal
    theirs = dist.GaussianHMM(
        normal(model.m1, model.P1), A.mT, normal(model.a, Q), model.B.mT, normal(model.b, model.R), duration=T
    ).log_prob(x)
    inserted = replace(model, m1=A @ model.m1 + model.a, P1=A @ model.P1 @ A.mT + Q)
    close(kalman.filter(inserted, x).log_evidence, theirs)
    assert ((kalman.filter(model, x).log_evidence - theirs).abs() > 1e-3).all()


def test_the_filter_settles_where_the_riccati_equation_says() -> None:
    model = random_model(D, F)
    A, Q, B, R = (v.numpy() for v in (model.A, model.Q, model.B, model.R))
    f = kalman.filter(model, torch.zeros(200, F, dtype=torch.double))
    limit = torch.from_numpy(scipy.linalg.solve_discrete_are(A.T, B.T, Q, R))
    close(f.predicted_covariances[-1], limit)
    assert not torch.allclose(f.predicted_covariances[1], limit)
    assert not torch.allclose(f.covariances[-1], limit)


# --- draws and forecasts


def test_draws_have_the_moments_of_the_posterior() -> None:
    model, x, observed, frames = case("time-varying with gaps")
    joint, N = Dense(model, T), 20_000
    every, past = joint.index([*range(T)]), joint.index(x=frames)
    W, w, C = joint.given(every, past)
    mean = W @ x[frames].flatten() + w
    z = kalman.sample(model, x, N, observed, torch.Generator().manual_seed(0)).flatten(1)

    def moments(z: Tensor) -> tuple[Tensor, Tensor]:
        return z, (z - mean)[:, :, None] * (z - mean)[:, None, :]

    first, second = moments(z)
    assert errors(first, mean) < 5
    assert errors(second, C) < 5
    s = kalman.smooth(model, x, observed)  # the control: frames drawn each on its own
    roots = torch.linalg.cholesky(s.covariances)
    apart = (s.means + (roots @ torch.randn(N, T, D, 1, dtype=torch.double))[..., 0]).flatten(1)
    assert errors(moments(apart)[0], mean) < 5
    assert errors(moments(apart)[1], C) > 5


def test_draws_without_observations_are_of_the_prior() -> None:
    model, nothing = random_model(D, F), torch.zeros(T, dtype=torch.bool)
    z = kalman.sample(model, torch.zeros(T, F, dtype=torch.double), 5000, nothing)
    joint = Dense(model, T)
    assert errors(z.flatten(1), joint.mean[: T * D]) < 5
    assert errors(z.flatten(1), joint.mean.roll(1)[: T * D]) > 5


@pytest.mark.parametrize("over", [None, T])
def test_forecasts_are_those_of_the_joint_gaussian(over: int | None) -> None:
    model, n = random_model(D, F, over), 4
    x, frames = torch.randn(n, F, dtype=torch.double), [0, 1, 3]
    joint, ahead = Dense(model, T), kalman.forecast(model, x, T - n, torch.tensor([True, True, False, True]))
    for h in range(T - n):
        W, w, C = joint.given(joint.index(x=[n + h]), joint.index(x=frames))
        close(ahead.means[h], W @ x[frames].flatten() + w)
        close(ahead.covariances[h], C)
    assert not torch.allclose(kalman.forecast(model, x, T - n).means, ahead.means)
    batch = kalman.forecast(model, x.expand(2, -1, -1), T - n)
    assert batch.means.shape == (2, T - n, F)
