"""The published algorithms, draw by draw against numbers of the public implementations."""

from __future__ import annotations

from dataclasses import replace
from math import prod
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from pyrodvae.as_published import (
    ALGORITHMS,
    LDEM,
    MHEM,
    VEM,
    Algorithm,
    Mixture,
    TorchDraw,
    enhance_spectrum_as_published,
    initial_noise,
    mixture,
    separate,
)
from pyrodvae.published import translate
from pyrodvae.signal import STFT
from pyrodvae.weights import Run, make_pair

CASES = {
    "ps_vem": ("vem", {}),
    "ps_ldem": ("ldem", {"steps": 2, "chains": 4}),
    "ps_ldem_psgld": ("ldem-psgld", {"steps": 2, "chains": 4}),
    "ps_ldem_adam": ("ldem-adam", {"steps": 2, "chains": 4}),
    "ps_mhem": ("mhem", {}),
    "ps_malaem": ("malaem", {}),
    "av_peem": ("peem", {"steps": 4}),
    "av_gpeem": ("gpeem", {"steps": 4}),
    "av_ldem": ("ldem-vae", {"steps": 4}),
    "av_dpeem": ("dpeem", {"steps": 4}),
    "av_gdpeem": ("gdpeem", {"steps": 4}),
    "av_dldem": ("dldem", {"steps": 4}),
}
"""Recorded run → algorithm, and the settings in which the recording differs from the published defaults."""

WRONG = {
    "ps_vem": [{"learning_rate": 4e-3}, {"gain": "fixed"}],
    "ps_ldem": [{"prior_weight": 0.5}, {"extra_noise": 0.01}, {"total_variation": 5.0}],
    "ps_ldem_psgld": [{"prior_weight": 0.5}, {"extra_noise": 0.01}, {"precondition": False}],
    "ps_ldem_adam": [{"prior_weight": 0.5}, {"start_noise": 0.2}],
    "ps_mhem": [{"prior_weight": 1.0}, {"acceptance": "joint"}, {"burn_in": 4}],
    "ps_malaem": [
        {"prior_weight": 0.5},
        {"extra_noise": 0.01},
        {"acceptance": "joint"},
        {"taming": False},
        {"burn_in": 4},
    ],
    "av_peem": [{"prior_weight": 0.5}, {"gain": "fixed"}],
    "av_gpeem": [{"prior_weight": 0.5}, {"aliased": False}, {"gain_rate": 1.1}],
    "av_ldem": [{"prior_weight": 0.5}, {"extra_noise": 0.01}, {"total_variation": 0.0}],
    "av_dpeem": [{"prior_weight": 0.5}, {"gain": "updated"}],
    "av_gdpeem": [{"prior_weight": 0.05}, {"aliased": True}, {"mean": False}],
    "av_dldem": [{"prior_weight": 0.5}, {"precondition": False}],
}
"""Recorded run → settings that must not reproduce it."""


WEIGHTS = {"ps": "tiny_rvaebi", "av": "tiny_av_vae", "av_d": "tiny_av_dkf", "av_gd": "tiny_av_dkf"}
"""Beginning of a recorded run's name → the weights it belongs to; the longest one counts."""


def tiny(folder: Path, name: str) -> Run:
    """Our pair with the weights of a recorded run."""
    weights = WEIGHTS[max(filter(name.startswith, WEIGHTS), key=len)]
    theirs = {k: torch.from_numpy(v) for k, v in np.load(folder / f"{weights}.weights.npz").items()}
    settings = {"inference": "gated"} if weights == "tiny_av_dkf" else None
    key, (model_config, guide_config), ours = translate(theirs, settings)
    pair = make_pair(key, model_config, "paper", guide_config)
    for part, module in zip(("model.", "guide."), pair, strict=True):
        module.load_state_dict({k.removeprefix(part): v for k, v in ours.items() if k.startswith(part)})
        module.requires_grad_(False)
    return Run(*pair, STFT(window_length=40, hop=10), {})


class Recorded:
    """Recorded draws in the order of calls, from the layouts (T, S, D) and (S, D, T) to ours, (S, T, D)."""

    def __init__(self, numbers, frames: int, skip: int) -> None:
        names = sorted(k for k in numbers.files if k.startswith("draw/") and not k.endswith("Z_init"))
        self.frames = frames
        self.left = [(k, torch.from_numpy(numbers[k]).float()) for k in names[skip:]]

    def normal(self, shape) -> Tensor:
        return self.take(shape, uniform=False)

    def uniform(self, shape) -> Tensor:
        return self.take(shape, uniform=True)

    def take(self, shape, uniform: bool) -> Tensor:
        chains: list[Tensor] = []
        while sum(c.numel() for c in chains) < prod(shape):  # some draw one chain after the other
            name, values = self.left.pop(0)
            assert name.endswith("_rand") == uniform
            chains.append(self.ours(values))
        return torch.cat(chains).reshape(shape)

    def ours(self, values: Tensor) -> Tensor:
        if values.shape[-1] != self.frames:
            return values.transpose(0, 1) if values.dim() == 3 else values[None]
        if values.dim() == 2:  # Langevin noise, which this implementation subtracts
            return -values.mT[None]
        return values.permute(1, 2, 0) if values.shape[1] == 1 else values.mT


def errors(name: str, algorithm: Algorithm, folder: Path) -> dict[str, float]:
    """The greatest error of each quantity over the iterations, relative to its greatest value."""
    numbers, run = np.load(folder / f"algo_{name}.npz"), tiny(folder, name)
    x = torch.from_numpy(numbers["X"]).mT.contiguous().to(torch.complex64)
    T, F = x.shape
    # The RVAE's code runs the encoder once more before it starts, for nothing.
    spare = T if name.startswith("ps") and not isinstance(algorithm, VEM) else 0
    draw = Recorded(numbers, T, spare)
    found: dict[str, float] = {}

    def compare(key: str, ours: Tensor, golden: Tensor) -> None:
        error = (ours - golden).abs().max() / golden.abs().max()
        found[key] = max(found.get(key, 0.0), error.nan_to_num(torch.inf).item())

    def each(now) -> None:
        recorded = {k[3:]: torch.as_tensor(numbers[k][now.number]) for k in numbers.files if k[:3] == "it/"}
        compare("W", now.W, recorded["W"])
        compare("H", now.H, recorded["H"])
        compare("gain", now.gain[:, 0], recorded["g"].flatten())
        compare("loss", now.loss, recorded["loss"])
        if now.v.numel() == recorded["Vs"].numel():
            compare("v", now.v, recorded["Vs"].reshape(-1, F, T).mT)
        if "Z" in recorded:
            turned = recorded["Z"].shape[-1] == T
            compare(
                "z", now.z, recorded["Z"].reshape(-1, 4, T).mT if turned else recorded["Z"].transpose(0, 1)
            )

    start = [torch.from_numpy(numbers[k]).float() for k in ("W0", "H0")]
    result = separate(algorithm, run.model, run.guide, x, *start, 3, draw, each)
    compare("speech", result.speech, torch.from_numpy(numbers["S_hat"]).mT)
    compare("noise", result.noise, torch.from_numpy(numbers["N_hat"]).mT)
    assert not draw.left
    return found


@pytest.mark.parametrize("name", CASES)
def test_every_recorded_draw_gives_every_recorded_number(name: str, golden_dir) -> None:
    key, changes = CASES[name]
    found = errors(name, replace(ALGORITHMS[key], **changes), golden_dir)
    assert {"W", "H", "gain", "loss", "v", "speech", "noise"} <= found.keys()
    assert ("z" in found) == (key != "vem")
    # Where steps are divided by the root of a square, z has one digit less.
    within = {key: 1e-6 for key in found} | {"z": 1e-5 if "psgld" in name or "dldem" in name else 1e-6}
    assert all(found[k] <= within[k] for k in found), found


@pytest.mark.parametrize(("name", "change"), [(n, c) for n, changes in WRONG.items() for c in changes])
def test_no_other_setting_gives_the_recorded_numbers(name: str, change: dict, golden_dir) -> None:
    key, changes = CASES[name]
    found = errors(name, replace(ALGORITHMS[key], **changes | change), golden_dir)
    assert max(found[k] for k in ("W", "H", "speech")) > 2e-5


def test_noise_starts_from_one_seed_set_twice() -> None:
    W, H = initial_noise(21, 12, 3, torch.zeros((), dtype=torch.float64))
    np.testing.assert_allclose(W[0], [0.51729788, 0.9469626, 0.76545976], rtol=1e-7)  # NumPy's, seed 23
    assert torch.equal(H.flatten(), W.flatten()[:36])
    chance = np.random.RandomState(23)
    assert np.array_equal(chance.rand(21, 3), W)
    assert not np.array_equal(chance.rand(3, 12), H)  # had the seed been set once


def sound(B: int = 2) -> Tensor:
    return torch.randn(B, 9, 21, dtype=torch.complex64)


@pytest.mark.parametrize("name", ["ps_vem", "ps_ldem", "ps_mhem", "ps_malaem", "av_peem", "av_gdpeem"])
def test_a_batch_is_its_sequences_one_by_one(name: str, golden_dir) -> None:
    x, run = sound(), tiny(golden_dir, name)
    key, _ = CASES[name]
    before = [p.clone() for p in run.guide.parameters()]
    ticks: list[int] = []

    def enhance(x: Tensor, seed: int = 1):
        return enhance_spectrum_as_published(x, run, ALGORITHMS[key], 2, seed, 4, ticks.append)

    both = enhance(x)
    assert ticks == [0, 1]
    alone = [enhance(one[None]) for one in x]
    S = len(both.speech)
    assert both.speech.shape == (S, 2, 9, 21)
    assert both.objective.shape == (2, 2)
    assert both.variance.shape == both.noise.shape == x.shape
    assert (both.variance > 0).all()
    torch.testing.assert_close(both.mean + both.noise_mean, x)
    for i, one in enumerate(alone):
        torch.testing.assert_close(one.variance[0], both.variance[i])
        for field in ("mean", "noise_mean", "noise"):
            assert torch.equal(getattr(one, field)[0], getattr(both, field)[i])
        assert torch.equal(one.objective[:, 0], both.objective[:, i])
        assert torch.equal(one.speech[:, 0], both.speech[:, i])
    assert all(torch.equal(p, q) for p, q in zip(before, run.guide.parameters(), strict=True))
    assert ("acceptance" in both.diagnostics.names) == (key in ("mhem", "malaem"))
    other = enhance(x, seed=2)
    # No draw enters the mean of the VAE's encoder, and Adam is without chance.
    assert torch.equal(other.mean, both.mean) == (key == "peem")


def test_the_estimate_is_that_of_the_draws(golden_dir) -> None:
    x, run = sound(1), tiny(golden_dir, "av_ldem")
    found = enhance_spectrum_as_published(x, run, ALGORITHMS["ldem-vae"], 2)
    mask = found.speech / (found.speech + found.noise)
    torch.testing.assert_close((mask * x).mean(0), found.mean)
    spread = (mask * x - found.mean).abs().square().mean(0)
    within = (found.speech * found.noise / (found.speech + found.noise)).mean(0)
    torch.testing.assert_close(found.variance, within + spread)
    assert (found.variance / within - 1).abs().max() > 1e-3  # the spread is not nothing


def test_misfit_has_the_gradient_of_its_formula(golden_dir) -> None:
    run = tiny(golden_dir, "ps_ldem")
    x = torch.randn(9, 21, dtype=torch.complex128)
    mix = Mixture(run.model, run.guide, x, *initial_noise(21, 9, 3, x.real))
    v = torch.rand(2, 9, 21, dtype=torch.float64).add(0.1).requires_grad_()
    gain = torch.rand(9, 1, dtype=torch.float64).add(0.1).requires_grad_()
    weight = torch.randn(2, 9, dtype=torch.float64)

    def gradients(misfit: Tensor) -> tuple[Tensor, ...]:
        return torch.autograd.grad((weight * misfit).sum(), (v, gain))

    def formula(log_weight: float) -> Tensor:
        V = gain * v + mix.noise
        return (x.abs() ** 2 / V + log_weight * V.log()).sum(-1)

    torch.testing.assert_close(mix.misfit(v, gain), formula(1.0))
    ours = gradients(mix.misfit(v, gain))
    torch.testing.assert_close(ours, gradients(formula(1.0)))
    assert (ours[0] - gradients(formula(0.5))[0]).abs().max() > 0.01  # of a real Gaussian


def test_digital_silence_ends_in_numbers(golden_dir, monkeypatch) -> None:
    x, run = sound(1), tiny(golden_dir, "ps_ldem")
    x[:, 3:5] = 0

    def finite() -> bool:
        found = enhance_spectrum_as_published(x, run, ALGORITHMS["ldem"], 5)
        return bool(found.mean.isfinite().all() and found.objective.isfinite().all())

    assert finite()
    monkeypatch.setattr(mixture, "SILENCE", 0.0)  # as the public code has it
    assert not finite()


def test_what_cannot_run_says_so(golden_dir) -> None:
    run = tiny(golden_dir, "av_dpeem")
    x, (W, H) = sound(1)[0], initial_noise(21, 9, 3, torch.zeros(()))
    ldem = LDEM(chains=1)
    with pytest.raises(ValueError, match="transition"):
        separate(VEM(), run.model, run.guide, x, W, H, 1)
    with pytest.raises(ValueError, match=r"H \(3, 9\) must be one complex sequence"):
        separate(ldem, run.model, run.guide, x[:8], W, H, 1)
    with pytest.raises(ValueError, match="complex"):
        separate(ldem, run.model, run.guide, x.real, W, H, 1)
    with pytest.raises(ValueError, match="at least one iteration"):
        separate(ldem, run.model, run.guide, x, W, H, 0)
    real = make_pair("kalman", {"observed": 21, "latent": 2})
    with pytest.raises(ValueError, match="model of real vectors"):
        separate(ldem, *real, x, W, H, 1)
    with pytest.raises(ValueError, match="steps must be from 1 to 1e\\+06, not 0"):
        LDEM(steps=0)
    with pytest.raises(ValueError, match="step_size must be from 0 to"):
        LDEM(step_size=-1.0)
    with pytest.raises(ValueError, match="burn_in must be less than steps"):
        MHEM(burn_in=10)
    result = separate(ldem, run.model, run.guide, x, W, H, 1)
    again = separate(ldem, run.model, run.guide, x, W, H, 1, TorchDraw(torch.Generator().manual_seed(0)))
    assert torch.equal(result.speech, again.speech)
