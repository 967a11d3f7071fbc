"""Sparse models in noise: energies join the M-step."""

from __future__ import annotations

import pytest
import torch
from pyro.distributions import Normal
from torch import Tensor
from toys import B, F, H, T, spectra

from pyrodvae.atoms import mean_latents, plot_atoms
from pyrodvae.em import em
from pyrodvae.engines import PEEM, VEM, AutoGuide, Chain, Encoder, Engine, Langevin
from pyrodvae.enhance import enhance
from pyrodvae.enhance_config import EnhanceConfig
from pyrodvae.given import Given
from pyrodvae.guides import make_guide
from pyrodvae.models.sdm_rvae import SDMRVAE
from pyrodvae.models.sdm_vae import SDMVAE
from pyrodvae.models.selector import SelectorVAE
from pyrodvae.noise import NMFNoise
from pyrodvae.noisy import ENERGY_RATE, NoisySpeech
from pyrodvae.potential import Target
from pyrodvae.signal import STFT
from pyrodvae.weights import Run

N = 4
KINDS = {"sdm-vae": SDMVAE, "sdm-rvae": SDMRVAE}


def mixture(kind: str = "sdm-vae", hyper=None, energies: Tensor | None = None):
    """A sparse speech model in noise, its guide, what was heard and where chains start."""
    torch.manual_seed(0)
    speech = KINDS[kind](F, 3, H, atoms=N, hyper=hyper).double()
    guide = make_guide(speech, hidden=H).double()
    x = 2 * spectra()
    noise = NMFNoise.from_quiet_frames(x, 2, torch.Generator().manual_seed(0))
    first = torch.rand(B, T, N).double() + 0.1 if energies is None else energies
    return NoisySpeech(speech, noise, energies=first), guide, x, torch.randn(2, B, T, N).double()


@pytest.mark.parametrize("kind", KINDS)
def test_energies_follow_the_draws(kind: str) -> None:
    model, guide, x, z = mixture(kind)
    first = model.speech.known
    seen: list[Tensor] = []

    class Watched(Langevin):
        def step(self, target, state):
            moved, info = super().step(target, state)
            seen.append(moved.z.detach())
            return moved, info

    em(model, Given(guide, x), x, Watched(), z, iterations=3)
    wanted = first
    for drawn in seen:
        wanted = wanted.lerp(drawn.square().mean(0), ENERGY_RATE)
    torch.testing.assert_close(model.speech.known, wanted)
    assert not torch.allclose(wanted, first, rtol=0.05)


def test_the_density_is_that_of_the_energies_at_hand() -> None:
    model, _, x, z = mixture()
    prior = Normal(0.0, model.speech.known.sqrt()).log_prob(z).sum((-1, -2))
    likelihood = Target(model, None, (x,)).log_joint(z) - prior
    model.speech_variance(z)  # keeps a pass with the old prior
    model.refine(10 * z)
    after = Normal(0.0, model.speech.known.sqrt()).log_prob(z).sum((-1, -2))
    torch.testing.assert_close(Target(model, None, (x,)).log_joint(z), likelihood + after)
    assert not torch.allclose(prior, after, rtol=0.1)


def test_the_update_of_energies_never_lowers_the_bound() -> None:
    """Draws held fixed, E_r[log p(z | γ)] climbs with every update; with one to other moments, it falls."""
    model, _, x, z = mixture()
    target = Target(model, None, (x,))
    bounds = [target.log_joint(z).mean(0)]
    for _ in range(30):
        model.refine(z)
        bounds.append(target.log_joint(z).mean(0))
    assert (torch.stack(bounds).diff(dim=0) >= -1e-9).all()
    for _ in range(30):
        model.refine(0.1 * z)
    assert (target.log_joint(z).mean(0) < bounds[-1]).all()


POINTS: list[Engine] = [
    PEEM(),
    Langevin(temperature=0),
    AutoGuide(guide="delta"),
    Chain((Encoder(), PEEM())),
]


@pytest.mark.parametrize("engine", POINTS, ids=lambda e: type(e).__name__)
def test_point_estimates_are_refused_where_the_density_is_unbounded(engine: Engine) -> None:
    model, guide, x, z = mixture()
    with pytest.raises(ValueError, match=r"makes point estimates, and where .* the density is unbounded"):
        em(model, Given(guide, x), x, engine, z, iterations=1)
    bounded, guide, x, z = mixture(hyper=(2.0, 0.5))
    em(bounded, Given(guide, x), x, engine, z, iterations=2)  # an inverse-Gamma keeps γ from zero
    held = NoisySpeech(model.speech, model.noise)  # and so do energies that are known
    em(held, Given(guide, x), x, engine, z, iterations=2)


def test_known_energies_stay() -> None:
    speech = mixture()[0].speech
    model, guide, x, z = mixture()
    held = NoisySpeech(speech, model.noise)
    em(held, Given(guide, x), x, Langevin(), z, iterations=2)
    assert held.speech.known is speech.known
    with pytest.raises(ValueError, match=r"SDMVAE has energies γ beside its path z.*give energies="):
        NoisySpeech(SDMVAE(F, 3, H), model.noise)


@pytest.mark.parametrize("engine", [Langevin(), VEM(steps=1), AutoGuide()], ids=lambda e: type(e).__name__)
@pytest.mark.parametrize("kind", KINDS)
def test_enhancement_works(kind: str, engine: Engine) -> None:
    torch.manual_seed(0)
    stft = STFT(window_length=64, hop=16)
    speech = KINDS[kind](stft.bins, 3, H, atoms=N)
    run = Run(speech, make_guide(speech, hidden=H), stft, {"model": kind})
    waveform = torch.randn(16_00).numpy()
    result = enhance(
        waveform, sample_rate=16_000, model=run, engine=engine, config=EnhanceConfig(iterations=3)
    )
    assert result.speech.shape == waveform.shape
    assert torch.isfinite(result.mean.abs()).all()
    assert speech.known is None  # the model that came in stays as it was
    with pytest.raises(ValueError, match="makes point estimates"):
        enhance(waveform, sample_rate=16_000, model=run, engine="peem", config=EnhanceConfig(iterations=1))


def test_a_picture_of_which_atoms_speak_when(tmp_path) -> None:
    stft = STFT(window_length=64, hop=16)
    for model in (SDMVAE(stft.bins, 3, H, atoms=N), SelectorVAE(stft.bins, N, H)):
        run = Run(model, make_guide(model, hidden=H), stft, {"model": "?"})
        s = stft(torch.randn(1, 1600))
        a = mean_latents(run, s)
        assert a.shape == (*s.shape[:2], N)
        means = run.guide.posterior(s).along(torch.zeros_like(a)).mean
        torch.testing.assert_close(a, model.code(means) if isinstance(model, SelectorVAE) else means)
        plot_atoms(run, s[0], tmp_path / "atoms.png", "title")
        assert (tmp_path / "atoms.png").read_bytes()[:4] == b"\x89PNG"
