"""Diagnostics: what they say of chains whose truth is known, and of runs that cannot be judged."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from small_runs import save_small_run, sound
from torch import Tensor

from pyrodvae.diagnostics import (
    LEAST_BFMI,
    LEAST_ESS,
    MOST_R_HAT,
    Diagnostics,
    Record,
    e_bfmi,
    effective_sample_size,
    split_r_hat,
)
from pyrodvae.engines import MALA, VEM, BatchedHMC, Langevin
from pyrodvae.enhance import enhance
from pyrodvae.enhance_config import EnhanceConfig
from pyrodvae.weights import Run, load_run

N, S, B = 2000, 4, 3


def autoregressive(rho: float, iterations: int = N, chains: int = S, batch: int = B) -> Tensor:
    """Stationary chains of variance one whose neighbours have the correlation rho, (iterations, S, B)."""
    noise = torch.randn(iterations, chains, batch, dtype=torch.double)
    rows = [noise[0]]
    for row in noise[1:]:
        rows.append(rho * rows[-1] + math.sqrt(1 - rho**2) * row)
    return torch.stack(rows)


def record(averaged: int = 500, rate: float = 0.6, **traces: Tensor) -> Record:
    length = len(next(iter(traces.values())))
    objective = torch.linspace(1, 0, length)[:, None].expand(length, B)
    accept = torch.full((length, S, B), rate)
    return Record(objective, {"accept": accept, **traces}, averaged)


# --- numbers


@pytest.mark.parametrize("chains", [1, 4])
@pytest.mark.parametrize("rho", [0.0, 0.6, 0.9])
def test_effective_sample_size_of_an_autoregression(rho: float, chains: int) -> None:
    """S I (1 − ρ)/(1 + ρ), and that is what the mean over draws is worth."""
    batch, length = 200, 700
    trace = autoregressive(rho, length, chains, batch)
    truth = length * chains * (1 - rho) / (1 + rho)
    ess = effective_sample_size(trace)
    assert ess.shape == (batch,)
    assert ess.median() == pytest.approx(truth, rel=0.15)
    deviation = trace.mean((0, 1)).std()  # over the sequences, which are independent
    assert deviation * ess.median().sqrt() == pytest.approx(1, abs=4 / math.sqrt(2 * batch))
    naive = deviation * math.sqrt(length * chains)  # the control: to count draws is right for rho = 0 alone
    assert (abs(naive - 1) < 0.25) == (rho == 0)


def test_draws_that_take_turns_are_worth_more_but_not_without_bound() -> None:
    ess = effective_sample_size(autoregressive(-0.8))
    assert (ess > N * S).all()
    assert (ess <= N * S * math.log10(N * S) * (1 + 1e-12)).all()


@pytest.mark.parametrize("chains", [1, 4])
def test_r_hat_sees_chains_that_disagree_and_drift(chains: int) -> None:
    """The formula, written out; mixed chains are near one, and shifted or drifting ones are not."""
    trace = autoregressive(0.5, chains=chains)
    halves = torch.cat([trace[: N // 2], trace[N // 2 :]], 1)
    n = N // 2
    W, between = halves.var(0).mean(0), halves.mean(0).var(0)
    torch.testing.assert_close(split_r_hat(trace), (((n - 1) / n * W + between) / W).sqrt())
    assert (split_r_hat(trace) < 1.02).all()
    drift = trace + torch.linspace(0, 2, N, dtype=torch.double)[:, None, None]
    assert (split_r_hat(drift) > MOST_R_HAT).all()
    if chains > 1:
        shifted = trace + torch.arange(chains)[:, None]
        assert (split_r_hat(shifted) > 1.3).all()
        assert (effective_sample_size(shifted) < 20).all()


class Density:
    """What a kernel asks of a target, of a density that is a function."""

    guide, reach = None, None

    def __init__(self, log_joint: Callable[[Tensor], Tensor]) -> None:
        self.log_joint = log_joint

    def gradient(self, z: Tensor, density: Callable[[Tensor], Tensor]) -> tuple[Tensor, Tensor]:
        z = z.detach().requires_grad_()
        found = density(z)
        return found.detach(), torch.autograd.grad(found.sum(), z)[0]


@pytest.mark.parametrize(
    ("log_density", "fine"),
    [(lambda z: -0.5 * z.square().sum((-1, -2)), True), (lambda z: -z.square().log1p().sum((-1, -2)), False)],
)
def test_energies_tell_heavy_tails(log_density: Callable[[Tensor], Tensor], fine: bool) -> None:
    """Hamiltonian moves on Gaussians cover all energies at once, and on Cauchys (the control) do not."""
    torch.manual_seed(0)
    target: Any = Density(log_density)
    engine = BatchedHMC(warmup=100, leapfrogs=10)
    state, energies = engine.init(target, torch.randn(4, 2, 5, 1, dtype=torch.double)), []
    for i in range(500):
        state, info = engine.step(target, state)
        if i >= 100:
            energies.append(info["energy"])
    energy = torch.stack(energies)
    assert energy.shape == (400, 4, 2)
    assert ((e_bfmi(energy) > 2 * LEAST_BFMI) == fine).all()


def test_e_bfmi_of_correlated_energies() -> None:
    """2 (1 − ρ) of the worst chain; a constant has none."""
    energy = autoregressive(0.9, chains=2, batch=2)
    energy[:, 0] = autoregressive(0.0, chains=1, batch=2)[:, 0]
    energy[:, :, 1] = 3
    assert e_bfmi(energy).tolist() == pytest.approx([0.2, 0], abs=0.06)
    assert e_bfmi(energy[:3]).isnan().all()


def test_single_precision_far_from_zero_is_enough() -> None:
    trace = 50 * autoregressive(0.5) - 2e5
    torch.testing.assert_close(
        effective_sample_size(trace.float()), effective_sample_size(trace), rtol=0.01, atol=0
    )
    torch.testing.assert_close(split_r_hat(trace.float()), split_r_hat(trace), rtol=1e-4, atol=0)


def test_traces_that_cannot_be_judged() -> None:
    trace = autoregressive(0.5, 100)
    trace[:, :, 1] = 7  # never moves
    trace[50, 2, 2] = torch.nan
    ess, r_hat = effective_sample_size(trace), split_r_hat(trace)
    assert ess.isnan().tolist() == r_hat.isnan().tolist() == [False, False, True]
    assert (ess[1], r_hat[1]) == (0, math.inf)
    for length in (1, 2, 3, 4):
        told = length >= 4
        assert effective_sample_size(trace[:length, :1, :1]).isfinite().item() == told
        assert split_r_hat(trace[:length, :1, :1]).isfinite().item() == told
    with pytest.raises(ValueError, match=r"shape \(iterations, chains, sequences\), not \(100, 4\)"):
        split_r_hat(trace[..., 0])


# --- what is said


def test_good_chains_are_told_without_a_warning() -> None:
    good = Diagnostics((record(log_joint=autoregressive(0.5), speech_energy=autoregressive(0.2)),))
    assert good.warnings() == []
    lines = good.summary().splitlines()
    assert [line.split(":")[0] for line in lines] == [
        "averaged",
        "log joint",
        "speech energy",
        "acceptance",
        "objective",
    ]
    assert lines[0] == "averaged: 500 of 2000 iterations"
    assert "4 chains, ESS" in lines[1]
    assert lines[3] == "acceptance: 0.60 (chains from 0.60 to 0.60)"


def test_what_was_not_averaged_does_not_count() -> None:
    trace = autoregressive(0.5)
    trace[:1000] += 100
    for averaged, fine in ((1000, True), (1100, False)):
        diagnostics = Diagnostics((record(averaged, log_joint=trace),))
        assert (diagnostics.warnings() == []) == fine
        torch.testing.assert_close(diagnostics.ess("log_joint"), effective_sample_size(trace[-averaged:]))


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (
            lambda t: t + 2 * torch.arange(S)[:, None],
            "have not settled (split R-hat of the log joint is",
        ),
        (lambda t: t[-20:].repeat_interleave(100, 0), f"effective draws, fewer than {LEAST_ESS:g}"),
        (lambda t: 0 * t, "The log joint of a sequence never moved, its chains are stuck"),
        (lambda t: t / 0, "The log joint is not finite"),
    ],
)
def test_bad_chains_are_told_in_a_sentence(change, sentence: str) -> None:
    """It is enough that one sequence of one window is bad."""
    trace = autoregressive(0.2)
    bad = trace.clone()
    bad[..., 1] = change(trace)[..., 1]
    diagnostics = Diagnostics((record(log_joint=trace), record(log_joint=bad)))
    assert any(sentence in warning for warning in diagnostics.warnings())
    assert sentence in diagnostics.summary()
    assert Diagnostics((record(log_joint=trace),)).warnings() == []  # the control


def test_other_warnings() -> None:
    trace = autoregressive(0.2)
    short = Diagnostics((record(3, log_joint=trace),))
    assert short.warnings() == []
    assert short.unjudged() == ["Mixing cannot be judged from 3 iterations: 4 have to enter the estimate."]
    low = Diagnostics((record(rate=0.01, log_joint=trace),))
    assert low.warnings() == ["A chain accepts 1.0% of its moves: try a smaller step."]


def test_energies_are_told() -> None:
    """Unless chains are still under way: then energies drift, and that is told already."""
    trace, slow = autoregressive(0.2), autoregressive(0.95)
    bad = Diagnostics((record(log_joint=trace, energy=slow),))
    (sentence,) = bad.warnings()
    assert sentence.startswith("Moves hardly change the energy (E-BFMI is 0.")
    assert "\nenergy: E-BFMI 0." in bad.summary()
    assert Diagnostics((record(log_joint=trace, energy=trace),)).warnings() == []
    drifting = Diagnostics((record(log_joint=trace + torch.arange(S)[:, None], energy=slow),))
    assert not any("energy" in warning for warning in drifting.warnings())


def test_one_chain_is_not_judged_but_watched() -> None:
    """That its halves differ is no complaint; that it is stuck is one."""
    trace = autoregressive(0.99, chains=1)
    one = Diagnostics((record(100, log_joint=trace),))
    assert (one.r_hat("log_joint") > MOST_R_HAT).any()
    assert one.warnings() == []
    assert one.summary().endswith("cannot be judged from one chain: compare several (chains=4).")
    assert "1 chain, ESS" in one.summary()
    assert "never moved" in Diagnostics((record(100, log_joint=0 * trace),)).warnings()[0]
    several = Diagnostics((record(100, log_joint=autoregressive(0.99)),))
    assert several.unjudged() == []
    assert several.warnings() != []  # the control


def test_windows_of_different_lengths_stand_side_by_side() -> None:
    long, short = autoregressive(0.5), autoregressive(0.5, 1500)
    one, other = (Diagnostics((record(log_joint=t, elbo=t[:, 0, 0]),)) for t in (long, short))
    both = Diagnostics.join([one, other])
    assert both.objective.shape == (N, 2 * B)
    trace = both.trace("log_joint")
    assert torch.equal(trace[..., :B], long)
    assert torch.equal(trace[:1500, :, B:], short)
    assert (trace[1500:, :, B:] == short[-1]).all()
    assert both.trace("elbo").shape == (N,)
    for judged in ("ess", "r_hat"):  # what was held is not judged
        torch.testing.assert_close(
            getattr(both, judged)("log_joint"),
            torch.cat([getattr(part, judged)("log_joint") for part in (one, other)]),
        )
    assert both.acceptance().shape == (S, 2 * B)
    with pytest.raises(ValueError, match="There is no trace of 'no', only of: accept, log_joint, elbo"):
        both.trace("no")


def test_an_engine_may_report_from_some_iteration_on() -> None:
    """As a chain of engines does."""
    reported = [{"elbo": torch.tensor(1.0)}] * 3 + [{"log_joint": one} for one in autoregressive(0.0, 40)]
    found = Record.of([torch.zeros(B)] * 43, reported, 40)
    assert found.objective.shape == (43, B)
    assert found.info["elbo"].shape == (43,)
    assert found.info["log_joint"].shape == (43, S, B)
    assert found.info["log_joint"].isnan().all(-1).all(-1).tolist() == [True] * 3 + [False] * 40
    diagnostics = Diagnostics((found,))
    assert diagnostics.r_hat("log_joint").isfinite().all()
    single = Record(torch.zeros(9, B), {"accept": torch.full((9,), 0.5), "log_joint": torch.randn(9)}, 5)
    assert "acceptance: 0.50" in Diagnostics((single,)).summary()
    assert "log joint: mean" not in Diagnostics((single,)).summary()  # no chains, nothing to compare
    assert "elbo" not in diagnostics.summary()  # it was not there while draws were averaged
    assert "elbo: 1 at the end" in Diagnostics((Record.of([torch.zeros(B)] * 3, reported[:3], 2),)).summary()


# --- of an enhancement


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Run:
    return load_run(save_small_run(tmp_path_factory.mktemp("run")))


CONFIG = EnhanceConfig(iterations=12, chains=3, noise_rank=2)


def test_traces_of_an_enhancement(run: Run, tmp_path) -> None:
    """Of every chain, channel and iteration; those that chains report are the engine's own."""
    result = enhance(sound(0.4, channels=2), sample_rate=16_000, model=run, engine=MALA(), config=CONFIG)
    diagnostics = result.diagnostics
    for name in ("accept", "log_joint", "speech_energy"):
        assert diagnostics.trace(name).shape == (12, 3, 2)
        assert (diagnostics.trace(name).std(1) > 0).any(0).all()  # the chains were not averaged
    assert torch.equal(diagnostics.objective, result.objective.flatten(1))
    assert [record.averaged for record in diagnostics.records] == [6]
    last = result._windows[0][1].speech.mean((-2, -1))
    torch.testing.assert_close(diagnostics.trace("speech_energy")[-1], last)
    result.plot(tmp_path / "found.png")
    assert (tmp_path / "found.png").stat().st_size > 10_000
    text = diagnostics.summary()
    assert text.startswith("averaged: 6 of 12 iterations\nlog joint: mean ")
    assert "acceptance: " in text


OBJECTIVE, LOG_JOINT = "objective (log V + |x|²/V)", "log joint in nats"


@pytest.mark.parametrize(
    ("engine", "panels"),
    [
        (MALA(), [LOG_JOINT, "acceptance"]),
        (Langevin(), [LOG_JOINT]),
        (VEM(), ["evidence bound in nats"]),
    ],
)
def test_picture_shows_what_the_engine_reports(run: Run, engine, panels: list[str]) -> None:
    result = enhance(sound(0.4), sample_rate=16_000, model=run, engine=engine, config=CONFIG)
    figure = result.plot()
    axes = {axis.get_title(): axis for axis in figure.axes if axis.get_title()}
    spectra = ["noisy", "speech", "noise", "posterior deviation of the speech"]
    assert list(axes) == [*spectra, "waveform", OBJECTIVE, *panels]
    objective = axes[OBJECTIVE].get_lines()[0].get_ydata()
    assert objective == pytest.approx(result.objective.flatten(1).mean(1).numpy())
    if LOG_JOINT in panels:
        lines = torch.stack([torch.as_tensor(line.get_ydata()) for line in axes[LOG_JOINT].get_lines()], -1)
        torch.testing.assert_close(lines, result.diagnostics.trace("log_joint").mean(-1))


def test_what_was_not_reported_is_not_what_is_no_number() -> None:
    """An engine of a chain that says nothing of a quantity raises no alarm; a NaN that it reports does."""
    torch.manual_seed(0)
    told = [{"log_joint": torch.randn(2, 1)} for _ in range(20)]
    objective = [torch.zeros(1)] * 40
    silent: list[dict[str, Tensor]] = [{} for _ in range(20)]
    broken = [{"log_joint": torch.full((2, 1), torch.nan)} for _ in range(20)]

    def alarmed(info: list[dict[str, Tensor]]) -> bool:
        found = Diagnostics((Record.of(objective, info, 40),))
        return any("not finite" in sentence for sentence in found.warnings())

    assert not alarmed(silent + told)
    assert not alarmed(told + silent)
    assert alarmed(broken + told)
