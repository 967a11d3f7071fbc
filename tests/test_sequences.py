"""Real-valued sequences: batches, fitting, reconstruction, and forecasts against exact ones."""

from __future__ import annotations

import math
import re
from typing import Any, ClassVar

import numpy as np
import pyro.distributions as dist
import pytest
import torch
from pyro.infer.autoguide import AutoNormal
from torch import Tensor
from toys import BLIND

from pyrodvae import kalman, make_guide
from pyrodvae.dvae import DVAE
from pyrodvae.kalman import LinearGaussian
from pyrodvae.models import DKF, MODELS, RVAE, VAE, Kalman
from pyrodvae.nets import standard_normal
from pyrodvae.rollout import Step
from pyrodvae.sequences import FitConfig, Sequences, fit, forecast, padded, read, reconstruct
from pyrodvae.simulate import lorenz, oscillator, pendulum
from pyrodvae.trainer import validate

SHORT = FitConfig(epochs=3, batch_size=4, frames=10)


def counting(*lengths: int) -> list[Tensor]:
    """Sequences (T_i, 1) whose every value says where it stands: 100 i + t."""
    return [(100.0 * i + torch.arange(n))[:, None] for i, n in enumerate(lengths)]


def exact_pair(parameters: LinearGaussian) -> tuple[Kalman, Any]:
    """A Kalman model with given parameters, and its exact posterior."""
    m = Kalman(parameters.observed, parameters.latent).double()
    m.assign(parameters)
    return m, make_guide(m)


def small_pair(key: str = "dkf", observed: int = 2) -> tuple[DVAE, Any]:
    m = MODELS[key](observed, 3, **({} if key == "kalman" else {"hidden": 8}), data="real")
    return m, make_guide(m, **({} if key == "kalman" else {"hidden": 8}))


# --- batches


def test_an_epoch_sees_every_sequence_as_often_as_it_is_long() -> None:
    data = Sequences(counting(30, 10, 4), frames=10, batch_size=3)
    batches = list(data.epoch(0))
    assert len(batches) == data.batches == 2
    seen = [int(row[0]) // 100 for x, _ in batches for row in x]
    assert sorted(seen) == [0, 0, 0, 1, 2]


def test_crops_are_pieces_and_reach_both_ends() -> None:
    data = Sequences(counting(13), frames=10)
    crops = [x[0, :, 0] for seed in range(200) for x, _ in data.epoch(seed)]
    assert all(bool((crop.diff() == 1).all()) for crop in crops)
    assert {int(crop[0]) for crop in crops} == {0, 1, 2, 3}


def test_what_is_shorter_is_padded_and_its_length_told() -> None:
    [(x, lengths)] = Sequences(counting(10, 4), frames=10).epoch(1)
    assert lengths is not None
    for row, n in zip(x[..., 0], lengths.tolist(), strict=True):
        assert n == (10 if row[0] == 0 else 4)
        assert (row[n:] == 0).all()
    [(_, lengths)] = Sequences(counting(10, 10), frames=10).epoch(1)
    assert lengths is None


def test_a_seed_gives_the_same_batches() -> None:
    data = Sequences(counting(40, 50), frames=5, batch_size=4)

    def all_of(seed: int) -> Tensor:
        return torch.cat([x for x, _ in data.epoch(seed)])

    assert torch.equal(all_of(3), all_of(3))
    assert not torch.equal(all_of(3), all_of(4))


# --- what cannot be read


GOOD = np.zeros((3, 20, 2))


@pytest.mark.parametrize(
    ("x", "says"),
    [
        (
            np.where(np.arange(120).reshape(3, 20, 2) == 54, np.nan, 0.0),
            "Sequence 1 is not finite at frame 7",
        ),
        (np.full((2, 5, 2), 1e300), "Sequence 0 is not finite at frame 0, value 0: it is inf"),
        (GOOD[0], "for one sequence write x[None]; this one is of shape (20, 2)"),
        (GOOD[None], "Sequences are one array (N, T, F); this one is of shape (1, 3, 20, 2)"),
        (GOOD[..., :1], "Sequence 0 is of shape (20, 1); this model reads (T, F) with F = 2"),
        ([GOOD[0], GOOD[0, :1]], "Sequence 1 is too short: it has 1 frames, and 2 are needed"),
        (GOOD[:1], "One sequence alone cannot be trained on"),
        ([], "There is no sequence in x"),
        (GOOD[:0], "There is no sequence in x"),
        (GOOD.astype(complex), "Sequence 0 is complex, and this model is of real data"),
        ([np.array([["a", "b"]] * 5)] * 2, "Sequence 0 is no array of numbers"),
    ],
)
def test_bad_sequences_are_told_in_a_sentence(x: Any, says: str) -> None:
    m, g = small_pair()
    with pytest.raises(ValueError, match=re.escape(says)):
        fit(m, g, x, SHORT)


def test_a_model_of_speech_refuses_real_sequences() -> None:
    m = DKF(2, 3, 8)
    for call in (fit, reconstruct):
        with pytest.raises(ValueError, match=r"of data='speech', which is complex.*data='real'"):
            call(m, make_guide(m, hidden=8), GOOD)


def test_bad_forecasts_and_settings_are_told_in_a_sentence() -> None:
    m, g = small_pair()
    with pytest.raises(ValueError, match="frames is a whole number of at least one, not 0"):
        forecast(m, g, GOOD, 0)
    with pytest.raises(ValueError, match="draws is a whole number of at least one, not -1"):
        forecast(m, g, GOOD, 5, draws=-1)
    with pytest.raises(ValueError, match="A seed is a whole number"):
        forecast(m, g, GOOD, 5, seed=-1)
    with pytest.raises(ValueError, match="Sequence 0 is too short: it has 0 frames, and 1 are needed"):
        forecast(m, g, GOOD[:, :0], 5)
    rvae = RVAE(2, 3, 8, data="real")
    with pytest.raises(ValueError, match="RVAE is not causal"):
        forecast(rvae, make_guide(rvae, hidden=8), GOOD, 5)
    for name in ("epochs", "batch_size", "frames", "learning_rate"):
        with pytest.raises(ValueError, match=f"{name} must be more than 0"):
            FitConfig(**{name: 0})


def test_arrays_of_any_kind_are_read() -> None:
    m, _ = small_pair()
    whole = np.arange(12).reshape(2, 3, 2)
    frozen = whole.astype(float)
    frozen.flags.writeable = False
    for x in (whole, whole[:, ::-1][:, ::-1], frozen, torch.from_numpy(whole), [*whole], whole.tolist()):
        got = read(m, x)
        assert got[1].dtype == torch.float32
        assert got[1].tolist() == whole[1].tolist()


# --- fitting


def test_fit_leaves_the_best_weights_and_a_seed_gives_the_same() -> None:
    x = pendulum(12, 30)
    config = FitConfig(epochs=8, batch_size=4, frames=10, learning_rate=0.1)  # too fast: it gets worse

    def run() -> tuple[list[dict[str, float]], float]:
        torch.manual_seed(0)
        m, g = small_pair()
        history = fit(m, g, x, config)
        nll, kl = validate(m, g, Sequences([*x[::10]], config.frames), config.seed)
        return history, nll + kl

    history, loss = run()
    losses = [row["val_loss"] for row in history]
    assert loss == pytest.approx(min(losses), rel=1e-6)
    assert losses[-1] > min(losses) + 1e-3  # the control: the last weights are others
    assert run() == (history, loss)


@pytest.mark.parametrize("key", BLIND)
def test_every_model_can_be_fitted_to_sequences_of_any_length(key: str) -> None:
    torch.manual_seed(0)
    m, g = small_pair(key)
    x = [*pendulum(4, 25), *pendulum(4, 8, seed=1)]
    history = fit(m, g, x, SHORT)
    assert len(history) == SHORT.epochs
    assert all(math.isfinite(v) for row in history for v in row.values())
    if m.causal and m.drawable() is m:  # energies of the future are not known
        future = forecast(m, g, x, 5, draws=3)
        assert future.shape == (3, 8, 5, 2)
        assert torch.isfinite(future).all()


def test_statistics_are_those_of_the_data_or_kept() -> None:
    x = 50 + 10 * torch.randn(12, 40, 2)
    m, g = small_pair()
    fit(m, g, x, SHORT)
    train = torch.cat([y for i, y in enumerate(x) if i % 10])
    torch.testing.assert_close(g.read.loc, train.mean(0))
    torch.testing.assert_close(m.head.standard.scale, train.std(0))
    fit(m, g, 3 * x, SHORT, standardise=False)
    torch.testing.assert_close(g.read.loc, train.mean(0))


def test_what_needs_no_gradient_stays() -> None:
    x, parameters = oscillator(4, 30)
    m, _ = exact_pair(parameters)
    m.requires_grad_(False)
    g = make_guide(m, "smoother", hidden=4).double()
    before = [p.clone() for p in m.parameters()], [p.clone() for p in g.parameters()]
    fit(m, g, x, SHORT, standardise=False)
    assert all(torch.equal(a, b) for a, b in zip(before[0], m.parameters(), strict=True))
    assert not any(torch.equal(a, b) for a, b in zip(before[1], g.parameters(), strict=True))


def test_validation_may_be_given() -> None:
    x = pendulum(3, 20)
    m, g = small_pair()
    history = fit(m, g, x[:1], SHORT, validation=x[1:])
    assert len(history) == SHORT.epochs


# --- reconstruction


@pytest.mark.parametrize("key", BLIND)
def test_reconstruction_of_a_batch_is_that_of_each(key: str) -> None:
    m, g = small_pair(key)
    x = [pendulum(1, n)[0] for n in (12, 5)]
    both = reconstruct(m, g, x)
    assert both.mean.shape == both.stddev.shape == (2, 12, 2)
    for i, y in enumerate(x):
        alone = reconstruct(m, g, y[None])
        torch.testing.assert_close(both.mean[i, : len(y)], alone.mean[0])
        torch.testing.assert_close(both.stddev[i, : len(y)], alone.stddev[0])


def test_reconstruction_by_the_exact_pair_is_the_smoothed_mean() -> None:
    x, parameters = oscillator(3, 40)
    back = reconstruct(*exact_pair(parameters), x)
    torch.testing.assert_close(back.mean, kalman.smooth(parameters, x).means[..., :1])
    filtered = kalman.filter(parameters, x).means[..., :1]
    assert (back.mean - filtered).abs().max() > 0.1  # the control: it has seen the future


# --- forecasts against exact ones


def worst(draws: Tensor, mean: Tensor, variance: Tensor) -> tuple[float, float]:
    """How many standard errors the mean and the variance of draws (S, …) of a Gaussian are off."""
    S = len(draws)
    of_mean = (draws.mean(0) - mean) / (variance / S).sqrt()
    of_variance = (draws.var(0) / variance - 1) / math.sqrt(2 / (S - 1))
    return float(of_mean.abs().max()), float(of_variance.abs().max())


@pytest.mark.parametrize("ragged", [False, True])
def test_a_linear_forecast_is_the_exact_one(ragged: bool) -> None:
    x, parameters = oscillator(4, 40)
    past = [y[: 40 - 7 * i] for i, y in enumerate(x)] if ragged else [*x]
    ahead = [kalman.forecast(parameters, y, 15) for y in past]
    mean = torch.stack([a.means for a in ahead])
    variance = torch.stack([a.covariances[..., 0] for a in ahead])
    m, g = exact_pair(parameters)
    of_mean, of_variance = worst(forecast(m, g, past, 15, draws=5000), mean, variance)
    assert of_mean < 5
    assert of_variance < 5

    with torch.no_grad():
        m.A.mul_(0.9)  # the control: a wrong transition, and the posterior under it
    of_mean, of_variance = worst(forecast(m, g, past, 15, draws=5000), mean, variance)
    assert of_mean > 10
    assert of_variance > 10


def test_draws_are_whole_futures() -> None:
    """Two frames of a draw are as correlated as the model has them; frames of different draws are not."""
    x, parameters = oscillator(1, 40)
    m, g = exact_pair(parameters)
    future = forecast(m, g, x, 12, draws=20_000)[:, 0, :, 0]
    # Their covariance is that of the states: B A^(h - g) P_g Bᵀ.
    P = kalman.filter(
        parameters,
        torch.nn.functional.pad(x[0], (0, 0, 0, 12)),
        torch.nn.functional.pad(torch.ones(40, dtype=torch.bool), (0, 12)),
    ).predicted_covariances[41]
    exact = (torch.linalg.matrix_power(parameters.A, 10) @ P)[0, 0]
    centred = future - future.mean(0)
    products = centred[:, 1] * centred[:, 11]
    assert abs(products.mean() - exact) < 5 * products.std() / math.sqrt(20_000)
    shuffled = centred[:, 1] * centred[:, 11].roll(1)
    assert abs(shuffled.mean() - exact) > 10 * shuffled.std() / math.sqrt(20_000)


class Feedback(DVAE):
    """x_t = 0.9 x_{t-1} + z_t + ½ ε: its forecast needs the last x alone."""

    recursive: ClassVar[bool] = False

    def transition(self, z_prev: Tensor, x_prev: Tensor | None, memo: Any) -> Step:
        return standard_normal(z_prev), memo

    def emission(self, z: Tensor, x_prev: Tensor | None, memo: Any) -> Step:
        assert x_prev is not None
        return dist.Normal(0.9 * x_prev + z, 0.5).to_event(1), memo


def test_a_forecast_with_feedback_goes_on_from_the_last_frame() -> None:
    x = 3 * torch.randn(3, 10, 2, dtype=torch.double)
    m = Feedback(2, 2, "real").double()
    g = make_guide(m, "meanfield", hidden=4).double()
    powers = 0.9 ** torch.arange(1, 9, dtype=torch.double)[:, None]
    mean = powers * x[:, -1:]
    variance = (1.25 * (1 - powers**2) / (1 - 0.9**2)).expand_as(mean)
    draws = forecast(m, g, x, 8, draws=5000)
    assert max(worst(draws, mean, variance)) < 5
    assert worst(draws, powers * x[:, -2:-1], variance)[0] > 10  # the control: the frame before


def test_a_forecast_has_a_seed_of_its_own() -> None:
    m, g = small_pair()
    x = pendulum(2, 10)
    torch.manual_seed(5)
    a = forecast(m, g, x, 4, draws=3)
    after = torch.rand(1)
    torch.manual_seed(5)
    assert torch.equal(torch.rand(1), after)
    assert torch.equal(forecast(m, g, x, 4, draws=3), a)
    assert not torch.equal(forecast(m, g, x, 4, draws=3, seed=1), a)


# --- a nonlinear example


def rmse(a: Tensor, b: Tensor) -> float:
    return float((a - b).square().mean().sqrt())


def test_a_dkf_learns_to_forecast_a_pendulum() -> None:
    x, test = pendulum(200, 60, seed=1), pendulum(60, 70, seed=2)
    past, future = test[:, :50], test[:, 50:]
    config = FitConfig(epochs=40, frames=30, warmup=10)

    def fitted(kind: type[DVAE]) -> Tensor:
        torch.manual_seed(0)
        m = kind(2, 4, 32, data="real")
        g = make_guide(m, "smoother", hidden=32)
        fit(m, g, x, config)
        return forecast(m, g, past, 20)

    def coverage(draws: Tensor) -> float:
        low, high = draws.quantile(torch.tensor([0.05, 0.95]), 0)
        return float(((low <= future) & (future <= high)).float().mean())

    dkf, vae = fitted(DKF), fitted(VAE)
    persistence = past[:, -1:].expand_as(future)
    assert rmse(dkf.mean(0), future) < 0.6 * min(rmse(vae.mean(0), future), rmse(persistence, future))
    assert 0.75 < coverage(dkf) < 0.99
    # The controls: without dynamics nothing beats the mean, and a third of the spread covers too little.
    assert rmse(vae.mean(0), future) > 0.9 * rmse(x.mean((0, 1)).expand_as(future), future)
    assert coverage(dkf.lerp(dkf.mean(0), 2 / 3)) < 0.75


# --- simulators


def test_simulators_follow_their_seed_and_shape() -> None:
    for make, size in ((pendulum, 2), (lorenz, 3), (lambda *a: oscillator(*a)[0], 1)):
        x = make(3, 7, 1)
        assert x.shape == (3, 7, size)
        assert torch.isfinite(x).all()
        assert torch.equal(x, make(3, 7, 1))
        assert not torch.equal(x, make(3, 7, 2))
    assert pendulum(3, 7, observe="position").shape == (3, 7, 1)


def test_an_undisturbed_pendulum_has_the_period_of_physics() -> None:
    """Its zeros are half a period apart: 2π √(1/g) (1 + θ²/16 + 11 θ⁴/3072 + …) / 2."""
    x = pendulum(50, 400, step=0.02, kicks=0.0, damping=0.0, noise=0.0)
    angle = torch.atan2(x[..., 0], x[..., 1])
    for θ in angle:
        t = ((θ[1:] * θ[:-1]) < 0).nonzero()[:, 0]
        top = float(θ.abs().max())
        if top > 2:
            continue  # the series is too short for it
        zeros = t + θ[t] / (θ[t] - θ[t + 1])
        half = float(zeros.diff().mean()) * 0.02
        series = 1 + top**2 / 16 + 11 * top**4 / 3072 + 173 * top**6 / 737280
        assert half == pytest.approx(math.pi / math.sqrt(9.81) * series, rel=0.01)


def test_lorenz_without_noise_obeys_its_equations() -> None:
    x = lorenz(5, 100, step=1e-3, noise=0.0).double()
    u, v, w = x.unbind(-1)
    slope = (x[:, 2:] - x[:, :-2]) / 2e-3
    flow = torch.stack([10 * (v - u), u * (28 - w) - v, u * v - 8 / 3 * w], -1)[:, 1:-1]
    assert (slope - flow).abs().max() < 0.02 * flow.abs().max()


def test_the_oscillator_is_its_exact_model() -> None:
    """Stationary variance and autocovariance are those of the parameters."""
    x, parameters = oscillator(20_000, 6)
    state = parameters.P1[0, 0]
    for t in (0, 5):
        variance = state + parameters.R[0, 0]
        assert abs(x[:, t, 0].var() / variance - 1) < 5 * math.sqrt(2 / 20_000)
    exact = (torch.linalg.matrix_power(parameters.A, 5) @ parameters.P1)[0, 0]
    products = x[:, 0, 0] * x[:, 5, 0]
    se = products.std() / math.sqrt(20_000)
    assert abs(products.mean() - exact) < 5 * se
    assert abs(products.mean() - state * 0.98**5) > 10 * se  # the control: a decay without a turn


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda: pendulum(0, 5), "sequences is a whole number of at least one, not 0"),
        (lambda: lorenz(5, 2.5), "frames is a whole number of at least one, not 2.5"),
        (lambda: lorenz(5, 5, step=0.0), "step must be more than 0"),
        (lambda: pendulum(5, 5, noise=-1), "noise cannot be negative"),
        (lambda: pendulum(5, 5, observe="video"), "observed by 'sincos' or 'position', not 'video'"),
        (lambda: oscillator(5, 5, decay=1.0), "The decay is from 0 to below 1"),
        (lambda: oscillator(5, 5, seed=-1), "A seed is a whole number"),
    ],
)
def test_bad_simulations_are_told_in_a_sentence(call: Any, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        call()


def test_padded_joins_sequences() -> None:
    x, lengths = padded(counting(3, 1))
    assert x[..., 0].tolist() == [[0, 1, 2], [100, 0, 0]]
    assert lengths is not None
    assert lengths.tolist() == [3, 1]
    elsewhere, lengths = padded([y.to("meta") for y in counting(3, 1)])
    assert lengths is not None
    assert (elsewhere.device.type, lengths.device.type) == ("meta", "meta")


def test_an_autoguide_is_for_one_batch() -> None:
    model = DKF(3, 2, 4, data="real")
    with pytest.raises(ValueError, match="AutoNormal cannot be fitted to many sequences"):
        fit(model, AutoNormal(model), torch.randn(4, 5, 3))
