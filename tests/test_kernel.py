"""Our engines inside ``pyro.infer.MCMC``."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import pytest
import torch
from chains import SCENES, Scene, off_along
from pyro.infer import MCMC
from torch import Tensor
from toys import mixture

from pyrodvae.engines import MALA, MH, Engine, Langevin
from pyrodvae.engines.kernel import EngineKernel
from pyrodvae.engines.pyro_mcmc import HMC


def posterior(
    engine: Engine, scene: Scene, samples: int, warmup: int, chains: int = 50, **options: Any
) -> MCMC:
    """A finished run."""
    kernel = EngineKernel(engine, scene.target.model, chains=chains, reach=scene.target.reach)
    mcmc = MCMC(kernel, num_samples=samples, warmup_steps=warmup, disable_progbar=True, **options)
    mcmc.run(*scene.target.args)
    return mcmc


@pytest.mark.parametrize("scene", ["one_site", "every_frame_sees_itself"])
@pytest.mark.parametrize("engine", [MALA(), MH(steps=3)])
def test_mean_and_covariance_are_those_of_the_posterior(engine: Engine, scene: str) -> None:
    s = SCENES[scene]()
    mcmc = posterior(engine, s, 120, 100)
    z = mcmc.get_samples()["z"]
    assert z.shape == (120, 50, 1, *s.shape)
    assert off_along(z, s) < 5
    assert off_along(z, s._replace(covariance=1.3 * s.covariance)) > 5
    assert off_along(z, s._replace(mean=s.mean + 0.3 * s.covariance.diag().sqrt())) > 5


def test_uncorrected_draws_are_found_out() -> None:
    s = SCENES["one_site"]()
    engine = Langevin(step_size=0.5, precondition=False, temperature=1.0)
    assert off_along(posterior(engine, s, 120, 30).get_samples()["z"], s) > 5


@dataclass(frozen=True)
class Watched(MALA):
    """Notes the warm-up that it runs under."""

    seen: list[int] = field(default_factory=list)

    def init(self, target: Any, z: Tensor) -> Any:
        self.seen.append(self.warmup)
        return super().init(target, z)


def test_warm_up_is_that_of_mcmc() -> None:
    s = SCENES["one_site"]()
    engine = Watched(step_size=5.0, steps=2, warmup=7)
    rates = [posterior(engine, s, 20, n).diagnostics()["acceptance rate"]["chain 0"] for n in (60, 0)]
    assert engine.seen == [120, 0]
    assert abs(rates[0] - engine.target_accept) < 0.1
    assert rates[1] < 0.2


def test_diagnostics_are_those_of_pyro_and_the_rate_of_acceptance() -> None:
    s = SCENES["one_site"]()
    diagnostics = posterior(MALA(), s, 20, 5).diagnostics()
    assert diagnostics["z"]["r_hat"].shape == (50, 1, *s.shape)
    assert 0 < diagnostics["acceptance rate"]["chain 0"] < 1
    assert "acceptance rate" not in posterior(Langevin(), s, 20, 5).diagnostics()


def test_the_progress_bar_has_a_rate(capsys, monkeypatch) -> None:
    for word in ("CI", "PYTEST_XDIST_WORKER"):  # where Pyro shows no bar, whatever it is asked
        monkeypatch.delenv(word, raising=False)
    s = SCENES["one_site"]()
    kernel = EngineKernel(MALA(), s.target.model)
    MCMC(kernel, num_samples=4, warmup_steps=4, disable_progbar=False).run(*s.target.args)
    assert "acc. prob=" in capsys.readouterr().err


def test_chains_start_where_they_are_told() -> None:
    s = SCENES["one_site"]()
    z = 3 + torch.randn(4, 1, *s.shape, dtype=torch.double)
    still = MALA(step_size=1e-9)
    given = posterior(still, s, 1, 0, initial_params={"z": z}).get_samples()["z"][0]
    torch.testing.assert_close(given, z, rtol=1e-6, atol=1e-6)
    drawn = posterior(still, s, 1, 0, chains=400).get_samples()["z"][0]
    assert drawn.shape == (400, 1, *s.shape)
    assert abs(float(drawn.var()) - 1) < 0.2  # draws of the prior
    assert abs(float(drawn.mean())) < 0.2


def test_a_guide_says_where_to_start_if_there_is_one() -> None:
    model, guide, x, _ = mixture("rvae")

    def first(guide: torch.nn.Module | None) -> Tensor:
        torch.manual_seed(0)
        mcmc = MCMC(EngineKernel(MALA(1e-9), model, guide, chains=64), 1, 0, disable_progbar=True)
        mcmc.run(x)
        return mcmc.get_samples()["z"][0]

    by_guide, by_prior = first(guide), first(None)
    assert by_guide.shape == (64, *x.shape[:2], by_prior.shape[-1])
    assert (by_guide.std(0) - by_prior.std(0)).abs().max() > 0.2
    assert by_guide.mean(0).abs().max() > 5 / 8  # five standard errors of a prior draw


def test_a_kernel_runs_again_and_holds_nothing_after_a_run() -> None:
    s = SCENES["one_site"]()
    kernel = EngineKernel(HMC(leapfrogs=2), s.target.model, chains=2)
    for _ in range(2):
        mcmc = MCMC(kernel, num_samples=10, warmup_steps=20, disable_progbar=True)
        mcmc.run(*s.target.args)
        z = mcmc.get_samples()["z"]
        assert (z[1:] != z[:-1]).any()
    assert kernel._state is None
    assert kernel._target is None
