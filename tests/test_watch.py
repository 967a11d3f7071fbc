"""What keeps EM from going astray: stopping early, turning back, and saying so."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import NamedTuple

import pytest
import torch
from torch import Tensor
from toys import B, mixture

from pyrodvae.distributions import power
from pyrodvae.em import Posterior, em
from pyrodvae.engines import VEM, Engine, Langevin
from pyrodvae.noise import PLAIN, Memory, MStep, Multiplicative, NMFNoise
from pyrodvae.posterior import Fit
from pyrodvae.potential import Target
from pyrodvae.watch import HEALTHY, RISE, Watch, settled


class Path(NamedTuple):
    z: Tensor
    steps: int


@dataclass(frozen=True)
class Faulty(Engine):
    """Draws that stay where they are, until those of sequence 1 become something else."""

    fault: float = torch.nan
    since: int = 5

    def init(self, target: Target, z: Tensor) -> Path:
        return Path(z, 0)

    def step(self, target: Target, state: Path) -> tuple[Path, dict[str, Tensor]]:
        z = state.z.clone()
        if state.steps >= self.since:
            z[:, 1] = self.fault
        return Path(z, state.steps + 1), {}


STILL = Faulty(since=10_000)


@dataclass(frozen=True)
class Greedy(MStep):
    """From some iteration on, it takes all of sequence 1 for noise."""

    since: int = 5

    def step(
        self, noise: NMFNoise, gain: Tensor | None, x_power: Tensor, variance: Tensor, memory: Memory
    ) -> tuple[Tensor | None, Memory]:
        gain, memory = PLAIN.step(noise, gain, x_power, variance, memory)
        if memory.steps > self.since:
            noise.H[1] *= 1e4
        return gain, memory


def run(engine: Engine, **settings) -> tuple[Posterior, NMFNoise]:
    model, guide, x, z = mixture()
    return em(model, guide, x, engine, z, **settings), model.noise


def blind(monkeypatch) -> None:
    """The control: nothing is ever lost."""
    look = Watch.look

    def blindly(self: Watch, fit: Fit) -> tuple[Watch, list[str]]:
        return replace(look(self, fit)[0], lost=self.lost, held=self.held), []

    monkeypatch.setattr(Watch, "look", blindly)


# --- turning back


def test_what_is_no_number_stays_out_of_the_estimate(monkeypatch) -> None:
    found, _ = run(Faulty(), iterations=16)
    sound, _ = run(STILL, iterations=16)
    assert found.warnings == (
        "The objective of sequence 1 is no finite number in iteration 5: noise and gain went back to "
        "their best state, and stay there.",
    )
    assert sound.warnings == ()
    for name in ("mean", "variance", "objective", "speech", "noise"):
        assert torch.isfinite(torch.view_as_real(getattr(found, name) + 0j)).all()
    assert torch.equal(found.mean[[0, 2]], sound.mean[[0, 2]])
    best, _ = run(STILL, iterations=5, average=0.01)  # iterations 0 to 4: the objective always falls
    assert torch.equal(found.noise[1], best.noise[1])
    torch.testing.assert_close(found.mean[1], best.mean[1], rtol=1e-12, atol=0)
    blind(monkeypatch)
    lost, _ = run(Faulty(), iterations=16)
    assert lost.mean[1].isnan().any()
    assert torch.equal(lost.mean[[0, 2]], sound.mean[[0, 2]])


def test_what_is_no_number_from_the_start_goes_back_to_the_start() -> None:
    found, noise = run(Faulty(since=0), iterations=4)
    model, _, _, z = mixture()
    assert torch.equal(noise.W[1], model.noise.W[1])
    assert torch.equal(found.speech[:, 1], model.scaled(model.speech_variance(z))[:, 1])
    assert not torch.equal(noise.W[0], model.noise.W[0])


def share(found: Posterior) -> Tensor:
    return Fit.of(power(mixture()[2]), found.speech, found.noise).share


def test_speech_that_vanishes_comes_back(monkeypatch) -> None:
    found, _ = run(STILL, iterations=16, m_step=Greedy())
    sound, _ = run(STILL, iterations=16)
    first, _ = run(STILL, iterations=1)
    assert found.warnings == (
        "The speech in the estimate of sequence 1 vanished in iteration 5: noise and gain went back to "
        "their best state, and stay there.",
    )
    assert (share(found) >= HEALTHY * share(first)).all()
    assert torch.equal(found.mean[[0, 2]], sound.mean[[0, 2]])
    blind(monkeypatch)
    lost, _ = run(STILL, iterations=16, m_step=Greedy())
    assert (share(lost) < HEALTHY * share(first)).tolist() == [False, True, False]


def test_only_a_lasting_rise_counts() -> None:
    model, _, x, z = mixture()
    fit = Fit.of(power(x), model.scaled(model.speech_variance(z)), model.noise.variance)

    def said(*rises: float) -> list[str]:
        """About objectives that lie so much above those of a first fit, in sequence 1."""
        watch, sentences = Watch.begin(model, z), []
        for rise in (0.0,) * 5 + rises:
            raised = fit.objective + rise * torch.eye(B, dtype=torch.double)[1]
            watch, more = watch.look(fit._replace(objective=raised))
            sentences += more
        return sentences

    assert said(*[5 * RISE], *[0.0] * 30) == []
    assert said(*[0.9 * RISE] * 100) == []
    assert said(*[-RISE] * 10, *[-0.2 * RISE] * 100) == []
    (sentence,) = said(*[1.5 * RISE] * 30)
    assert sentence.startswith("The objective of sequence 1 keeps rising in iteration")
    assert len(said(*[-RISE] * 30, *[0.1 * RISE] * 100)) == 1


def test_the_best_state_is_kept_of_each_sequence() -> None:
    model, _, x, z = mixture()
    fit = Fit.of(power(x), model.scaled(model.speech_variance(z)), model.noise.variance)
    watch, _ = Watch.begin(model, z).look(fit)
    watch = watch.keep(fit, model, z)
    first = model.noise.W.clone()
    model.noise.W += 1
    better = torch.tensor([True, False, True])
    share = torch.where(torch.arange(B) == 2, 0.4, 1.0) * fit.share  # too little of the speech is left
    later = fit._replace(objective=fit.objective + torch.where(better, -1.0, 1.0), share=share)
    watch = watch.look(later)[0].keep(later, model, z + 1)
    assert torch.equal(watch.kept.W[0], first[0] + 1)
    assert torch.equal(watch.kept.W[1:], first[1:])
    assert torch.equal(watch.kept.z, torch.cat([z[:, :1] + 1, z[:, 1:]], 1))


@pytest.mark.parametrize("engine", [Langevin(), VEM()], ids=["langevin", "vem"])
@pytest.mark.parametrize("m_step", [PLAIN, Multiplicative(kappa=1.0)], ids=["plain", "memory"])
def test_sound_runs_are_left_alone(engine: Engine, m_step: MStep, monkeypatch) -> None:
    found, _ = run(engine, iterations=15, m_step=m_step)
    assert found.warnings == ()
    torch.manual_seed(0)
    blind(monkeypatch)
    assert torch.equal(found.mean, run(engine, iterations=15, m_step=m_step)[0].mean)


# --- stopping early


def falling(count: int, rate: float = 0.7) -> list[Tensor]:
    return [torch.tensor([-2.0, 0.0]) + rate**i for i in range(count)]


def test_the_objective_has_settled_when_two_windows_agree() -> None:
    counts = [n for n in range(20, 60) if settled(falling(n), 1e-3)]
    assert counts == list(range(counts[0], 60))
    means = [torch.stack(falling(counts[0] + 10)[i : i + 10]).mean(0) for i in range(counts[0])]
    change = (means[counts[0] - 10] - means[counts[0] - 20]).abs() / torch.tensor([2.0, 1.0])
    before = (means[counts[0] - 11] - means[counts[0] - 21]).abs() / torch.tensor([2.0, 1.0])
    assert change.max() <= 1e-3 * 1.01
    assert before.max() > 1e-3 * 0.99
    assert not settled(falling(19), 1e3)  # too few
    assert not settled(falling(60), 0.0)  # never
    rising = [f * torch.tensor([1.0, 0.0]) + i * torch.tensor([0.0, 0.01]) for i, f in enumerate(falling(60))]
    assert not settled(rising, 1e-3)  # one of the sequences has not


def test_em_stops_early_and_then_makes_its_estimate() -> None:
    """It settles at iteration k, and the estimate is of the next k: a half, as was asked for."""
    long, _ = run(STILL, iterations=400, tolerance=0.0)
    short, _ = run(STILL, iterations=400, tolerance=3e-3)
    assert len(long.objective) == 400
    assert 40 <= len(short.objective) < 300
    assert len(short.objective) % 2 == 0
    k = len(short.objective) // 2
    assert settled(list(long.objective[:k]), 3e-3)
    assert not settled(list(long.objective[: k - 1]), 3e-3)
    gained, missed = long.objective[0] - long.objective[-1], short.objective[-1] - long.objective[-1]
    assert (missed < 0.2 * gained).all()
    assert torch.equal(short.mean, run(STILL, iterations=2 * k)[0].mean)
    assert len(run(STILL, iterations=400, tolerance=1e3)[0].objective) == 40
    assert len(run(STILL, iterations=400, average=1.0, tolerance=1e3)[0].objective) == 20
    assert len(run(STILL, iterations=400, average=0.25, tolerance=1e3)[0].objective) == 27
    assert len(run(STILL, iterations=30, tolerance=1e3)[0].objective) == 30  # half of them were not enough
