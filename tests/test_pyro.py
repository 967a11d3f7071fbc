"""Pyro stays in view: its own inference runs on our models and guides, with and without its store."""

from __future__ import annotations

import pyro
import pytest
import torch
from pyro import poutine
from pyro.infer import HMC, MCMC, SVI, Predictive, Trace_ELBO, TraceMeanField_ELBO
from pyro.infer.autoguide import AutoDelta, AutoNormal
from torch import Tensor
from toys import BLIND, EVERY, EVERY_PAIR, B, D, T, data, latents, make, spectra

from pyrodvae.noise import NMFNoise
from pyrodvae.noisy import NoisySpeech
from pyrodvae.potential import Target
from pyrodvae.program import local_parameters

every_pair = pytest.mark.parametrize(("key", "guide"), EVERY_PAIR)
LOSSES = {"paper": TraceMeanField_ELBO, "meanfield": Trace_ELBO, "filter": Trace_ELBO}


def snapshot(*modules: torch.nn.Module) -> list[dict[str, Tensor]]:
    return [{k: p.detach().clone() for k, p in m.named_parameters()} for m in modules]


def unmoved(before: list[dict[str, Tensor]], *modules: torch.nn.Module) -> list[str]:
    """The parameters that are still what they were."""
    return [
        f"{type(m).__name__}.{k}"
        for old, m in zip(before, modules, strict=True)
        for k, p in m.named_parameters()
        if torch.equal(p, old[k])
    ]


def noisy(batch: int = B, gain: bool = True) -> tuple[NoisySpeech, Tensor]:
    """A frozen speech model in noise, and something it may have produced."""
    x = spectra(batch)
    g = torch.rand(batch, T, 1, dtype=torch.double) + 0.5 if gain else None
    return NoisySpeech(make("rvae")[0], NMFNoise.from_quiet_frames(x, 2, torch.Generator()), g), x


# --- variational inference


@every_pair
def test_svi_with_the_global_store_trains_every_parameter(key: str, guide: str) -> None:
    m, g = make(key, guide)
    before = snapshot(m, g)
    svi = SVI(m, g, pyro.optim.Adam({"lr": 1e-2}), LOSSES.get(guide, Trace_ELBO)())
    for _ in range(2):
        svi.step(data(m))
    assert unmoved(before, m, g) == []
    wanted = sum(1 for module in (m, g) for _ in module.parameters())
    assert len(pyro.get_param_store().keys()) == wanted  # none is another's


@every_pair
def test_plain_torch_trains_every_parameter_and_leaves_the_store_empty(key: str, guide: str) -> None:
    m, g = make(key, guide)
    before = snapshot(m, g)
    with local_parameters():
        loss = LOSSES.get(guide, Trace_ELBO)()(m, g)
        optimiser = torch.optim.Adam([*m.parameters(), *g.parameters()], 1e-2)
        for _ in range(2):
            optimiser.zero_grad()
            loss(data(m)).backward()
            optimiser.step()
    assert unmoved(before, m, g) == []
    assert list(pyro.get_param_store().keys()) == []
    assert not pyro.settings.get("module_local_params")  # never set for others


@pytest.mark.parametrize("key", EVERY)
def test_two_models_of_a_kind_share_nothing(key: str) -> None:
    pairs = [make(key), make(key)]
    with local_parameters():
        losses = [Trace_ELBO()(*pair) for pair in pairs]
        optimiser = torch.optim.SGD([*pairs[0][0].parameters(), *pairs[0][1].parameters()], 1e-3)
        before = snapshot(*pairs[0]), snapshot(*pairs[1])
        for loss in losses:
            loss(data(pairs[0][0])).backward()
        optimiser.step()
    assert unmoved(before[0], *pairs[0]) == []
    assert len(unmoved(before[1], *pairs[1])) == sum(map(len, before[1]))


@pytest.mark.parametrize("auto", [AutoNormal, AutoDelta])
@pytest.mark.parametrize("key", EVERY)
def test_autoguides_fit_the_fast_program(key: str, auto) -> None:
    m, _ = make(key)
    x = data(m)
    m.requires_grad_(False)
    with local_parameters():
        g = auto(m)
        g(x)  # once before its optimiser: it learns the shapes
        assert g()["z"].shape == (B, T, D)
        optimiser = torch.optim.Adam(g.parameters(), 0.05)
        loss = Trace_ELBO()(m, g)
        before, values = snapshot(g), []
        for _ in range(30):
            optimiser.zero_grad()
            value = loss(x)
            value.backward()
            optimiser.step()
            values.append(float(value.detach()))
    assert unmoved(before, g) == []
    assert sum(values[-10:]) < sum(values[:10])
    assert list(pyro.get_param_store().keys()) == []


# --- sampling


@pytest.mark.parametrize("key", BLIND)
def test_hamiltonian_monte_carlo_on_a_speech_model(key: str) -> None:
    m, _ = make(key)
    m.requires_grad_(False)
    x = data(m, 1)
    assert hmc(m, x).shape == (4, 1, T, D)


@pytest.mark.parametrize("gain", [True, False])
def test_hamiltonian_monte_carlo_on_noisy_speech(gain: bool) -> None:
    m, x = noisy(1, gain)
    z = hmc(m, x)
    densities = Target(m, None, (x,)).log_joint(z)
    assert torch.isfinite(densities).all()
    assert len(densities.unique()) > 1


def hmc(program, x: Tensor) -> Tensor:
    """Four draws of z, which must differ: the chain moves."""
    with local_parameters():
        mcmc = MCMC(
            HMC(program, step_size=0.02, num_steps=3, adapt_step_size=False),
            num_samples=4,
            warmup_steps=4,
            disable_progbar=True,
        )
        mcmc.run(x)
    z = mcmc.get_samples()["z"]
    assert len(z.unique(dim=0)) > 1
    return z


@pytest.mark.parametrize("key", EVERY)
def test_one_density_for_samplers_and_for_pyro(key: str) -> None:
    """The log joint that our engines see, chain by chain, is that of Pyro's trace."""
    m, _ = make(key)
    shared, x, z = latents(m), data(m), torch.randn(2, B, T, D, dtype=torch.double)
    m = poutine.condition(m, {k: v for k, v in shared.items() if k != "z"})
    given = Target(m, None, (x,)).log_joint(z)
    assert given.shape == (2, B)
    with local_parameters():
        for s in range(2):
            trace = poutine.trace(poutine.condition(m, {"z": z[s]})).get_trace(x)
            torch.testing.assert_close(given[s].sum(), trace.log_prob_sum(), rtol=1e-12, atol=0)
    assert not torch.allclose(given, Target(m, None, (2 * x,)).log_joint(z))


# --- effects


@pytest.mark.parametrize("key", EVERY)
def test_predictive_and_condition(key: str) -> None:
    m, g = make(key)
    x = data(m)
    with local_parameters(), torch.no_grad():
        posterior = Predictive(m, guide=g, num_samples=3, return_sites=["z"])(x)["z"]
        prior = Predictive(m, num_samples=3, return_sites=["z"])(x)["z"]
        assert posterior.shape == prior.shape == (3, B, T, D)
        assert not torch.equal(posterior, prior)
        z = torch.zeros(B, T, D, dtype=torch.double)
        assert torch.equal(poutine.condition(m, {"z": z})(x), z)
        assert not torch.equal(m(x), z)
        drawn = Predictive(m.steps, num_samples=2)(frames=T, batch=B)
    assert drawn[f"x_{T - 1}"].shape == (2, B, 1, m.observed)
    assert not torch.equal(drawn["z_0"][0], drawn["z_0"][1])
