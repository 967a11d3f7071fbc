"""Mixtures in noise: the density that engines see, draws of coins, and whole runs."""

from __future__ import annotations

import math

import pytest
import torch
from mixtures import EACH, V, heard, make
from torch import Tensor
from torch.nn.functional import logsigmoid
from toys import B, D, F, T, errors, spectra

from pyrodvae.av_mixture import CERTAIN, OwnLatents
from pyrodvae.em import em
from pyrodvae.engines import MH, Factorised, Langevin
from pyrodvae.enhance_config import EnhanceConfig
from pyrodvae.mixture_guide import MixtureGuide, OwnLatentsGuide
from pyrodvae.noise import NMFNoise
from pyrodvae.noisy_mixture import NoisyMixture
from pyrodvae.potential import Target
from pyrodvae.program import local_parameters
from pyrodvae.separation import enhance_spectrum, make_engine
from pyrodvae.signal import STFT
from pyrodvae.weights import Run

each = pytest.mark.parametrize("name", EACH)
own = pytest.mark.parametrize("own", [False, True], ids=["shared", "own"])


@pytest.fixture(autouse=True)
def local():
    with local_parameters():
        yield


def noisy(
    name: str, own: bool, gain: bool = False, chains: int = 2
) -> tuple[NoisyMixture, Tensor, Tensor, Tensor]:
    """A mixture in noise, x, v, and draws z (S, B, T, D)."""
    m, _ = make(name)
    m = OwnLatents(m) if own else m
    x, v, noise = heard()
    g = torch.rand(B, T, 1, dtype=torch.double) + 0.5 if gain else None
    z = torch.randn(chains, B, T, m.latent, dtype=torch.double)
    return NoisyMixture(m, noise, g, x=x, v=v), x, v, z


def by_hand(model: NoisyMixture, x: Tensor, v: Tensor, z: Tensor) -> tuple[Tensor, Tensor]:
    """log p(z_t, x_t, α) for α = 1 and 0, (S, B, T), part by part."""
    m = model.mixture
    coins = m.window(z, m.begin(B, v))
    a, b = m.split(z)
    prior = [coins.p_z.audio.log_prob(a), coins.p_z.visual.log_prob(b)]
    if a is not b:
        prior = [prior[0] + prior[1]] * 2
    log_p = []
    for p, p_z, log_π in zip(
        m.decode(m.split(z), coins.parts), prior, (logsigmoid(coins.now), logsigmoid(-coins.now)), strict=True
    ):
        V = (p.variance if model.gain is None else model.gain * p.variance) + model.noise.variance
        log_p.append(log_π + p_z - ((math.pi * V).log() + x.abs() ** 2 / V).sum(-1))
    return log_p[0], log_p[1]


@each
@own
@pytest.mark.parametrize("gain", [False, True])
def test_density_and_gradient(name: str, own: bool, gain: bool) -> None:
    model, x, v, z = noisy(name, own, gain)
    target = Target(model, None, (x,), reach=model.reach)
    audio, visual = by_hand(model, x, v, z)
    wanted = torch.logaddexp(audio, visual)
    torch.testing.assert_close(target.frames(z), wanted, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(target.log_joint(z), wanted.sum(-1), rtol=1e-12, atol=0)
    _, gradient = target.gradient(z)
    for index in ((0, 0, 0, 0), (1, 2, T - 1, 1), (0, 0, 1, 0)):
        h = torch.zeros_like(z)
        h[index] = 1e-5
        slope = (target.log_joint(z + h) - target.log_joint(z - h)).sum() / 2e-5
        torch.testing.assert_close(gradient[index], slope, rtol=1e-6, atol=1e-7)
    assert not torch.allclose(target.frames(z), audio)


@each
@own
def test_what_is_kept_of_a_pass_is_what_a_new_one_would_say(name: str, own: bool) -> None:
    """Also after π has moved; a pass that were kept with the old π is noticed."""
    model, x, _, z = noisy(name, own)
    z = z.requires_grad_()
    target = Target(model, None, (x,), reach=0)
    before = target.log_joint(z).detach()
    model.speech_variance(z)
    model.refresh(x.abs() ** 2, x.abs() ** 2)
    kept, gradient = target.gradient(z)
    assert model._decoded is None
    fresh, wanted = target.gradient(z.detach())
    torch.testing.assert_close(kept, fresh, rtol=1e-12, atol=0)
    torch.testing.assert_close(gradient, wanted, rtol=1e-9, atol=1e-12)
    if name == "vae-mm":
        assert not torch.allclose(before, fresh, rtol=1e-6)


@each
@own
def test_coins_are_drawn_given_z_and_x(name: str, own: bool) -> None:
    model, x, v, z = noisy(name, own, chains=1)
    z = z.expand(4000, -1, -1, -1)
    drawn = model.speech_variance(z).detach()
    audio, visual = by_hand(model, x, v, z[:1])
    p = (audio - visual).sigmoid()[0].detach()
    torch.testing.assert_close(model.responsibility, p, rtol=1e-9, atol=1e-12)
    assert (model.responsibility[0, 1] == 1).all()  # its picture is missing
    said = model.mixture.decode(model.mixture.split(z[:1]), parts_of(model, z[:1], v))
    near = [((drawn / y.variance.detach()).log().abs() < 1e-9).all(-1) for y in said]
    assert (near[0] | near[1]).all()
    free = (p > 1e-3) & (p < 1 - 1e-3) & ~(near[0] & near[1]).all(0)
    if said.audio is not said.visual:
        assert free.any()
        assert errors(near[0][:, free].double(), p[free]) < 4.5
        assert errors(near[0][:, free].double(), 1 - p[free]) > 10


def parts_of(model: NoisyMixture, z: Tensor, v: Tensor):
    return model.mixture.window(z, model.mixture.begin(B, v)).parts


def test_the_share_follows_the_coins() -> None:
    model, x, _, z = noisy("vae-mm", True, chains=50)
    for _ in range(3):
        model.speech_variance(z)
        p, seen = model.responsibility, model.seen
        model.refresh(x.abs() ** 2, x.abs() ** 2)
        π = ((p * seen).sum(-1) + 1) / (seen.sum(-1) + 2)
        for b in range(B):
            frames = seen[b].nonzero()[:, 0]
            wanted = π[b].logit().expand(len(frames))
            torch.testing.assert_close(model.coins.log_odds[b, frames], wanted, rtol=1e-9, atol=1e-9)
    assert model.coins.log_odds[0, 1] == CERTAIN
    assert abs(π - p.mean(-1)).max() > 1e-3  # the mean of all frames, without the prior, is something else


def test_the_share_is_the_mode_of_its_penalised_bound() -> None:
    """E[log p(α | π)] + log Beta(π; 2, 2): no other π has more; and the mean without the prior has less."""
    model, x, _, z = noisy("vae-mm", True, chains=5)
    model.speech_variance(z)
    r, seen = model.responsibility, model.seen

    def penalised(π: Tensor) -> Tensor:
        audio, visual = ((p * seen).sum(-1) + 1 for p in (r, 1 - r))
        return audio * π.log() + visual * (1 - π).log()

    before = model.coins.log_odds.masked_fill(~seen, -math.inf).amax(-1).sigmoid()
    model.refresh(x.abs() ** 2, x.abs() ** 2)
    π = model.coins.log_odds.masked_fill(~seen, -math.inf).amax(-1).sigmoid()
    for other in (before, *torch.linspace(0.01, 0.99, 99, dtype=torch.double)):
        assert (penalised(π) >= penalised(other.expand(B)) - 1e-12).all()
    assert (penalised(π) > penalised(before)).any()
    assert (penalised((r * seen).sum(-1) / seen.sum(-1)) < penalised(π) - 1e-4).any()


@each
@own
def test_trust_in_lips_is_prior_odds_of_so_many_nats_a_bin(name: str, own: bool) -> None:
    """p(α | z, x) and log p(z, x) with it, by hand; they stay after an M-step, and differ without it."""
    plain, x, v, z = noisy(name, own)
    trust = 0.2
    model = NoisyMixture(plain.mixture, plain.noise, x=x, v=v, trust=trust)
    shift = torch.where(model.seen, trust * F, 0.0)
    odds = plain.coins.log_odds - shift
    audio, visual = by_hand(plain, x, v, z)
    here = [logsigmoid(way * odds) - logsigmoid(way * plain.coins.log_odds) for way in (1, -1)]
    wanted = torch.logaddexp(audio + here[0], visual + here[1])
    for _ in range(2):
        target = Target(model, None, (x,), reach=0)
        torch.testing.assert_close(target.frames(z), wanted, rtol=1e-9, atol=1e-9)
        model.speech_variance(z)
        p = (audio - visual - shift).sigmoid().mean(0)
        torch.testing.assert_close(model.responsibility, p, rtol=1e-9, atol=1e-12)
        model.refresh(x.abs() ** 2, x.abs() ** 2)
        torch.testing.assert_close(model.coins.log_odds, odds)
    assert model.responsibility[0, 1] == 1
    plain.speech_variance(z)
    assert (plain.responsibility - p).abs().max() > 0.05


@own
def test_an_exact_engine_finds_the_coins(own: bool) -> None:
    """p(α_t | x) by a random walk on z, or on (a, b), against an integral over a grid; and of another π."""
    m, _ = make("vae-mm", latent=1, seed=3)
    B, T, S = 2, 4, 40
    with torch.no_grad():
        m.visual.drift.bias.sub_(1)
        v = torch.rand(B, T, V, dtype=torch.double)
        _, s = m.generate(T, B, v)
    noise = NMFNoise(torch.ones(B, F, 1).double() / F, torch.full((B, 1, T), 0.2 * F).double())
    x = s + 0.2**0.5 * spectra(B, T)
    noisy = NoisyMixture(OwnLatents(m) if own else m, noise, x=x, v=v)
    target, engine = Target(noisy, None, (x,), reach=0), MH(step_size=1.0, warmup=50, steps=10)
    found = []
    with torch.no_grad():
        state = engine.init(target, noisy._prior(x, None).rsample((S,)))
        for i in range(60):
            state, _ = engine.step(target, state)
            if i >= 10:
                said = noisy._decode(state.z, noisy._prior(x, None))
                found.append(noisy._heard(said).odds_given(x).sigmoid())
    responsible = torch.stack(found).mean(0)

    def exact() -> Tensor:
        grid = torch.linspace(-8, 8, 801, dtype=torch.double)[:, None, None, None].expand(-1, B, T, 1)
        with torch.no_grad():
            one = NoisyMixture(m, noise, x=x, v=v)
            coins, p_x = m.window(grid, one.coins), one._heard(one._decode(grid, one._prior(x, None)))
            of_z = zip(coins.p_z, p_x.of, strict=True)
            parts = [(p_z.log_prob(grid) + p.log_prob(x)).logsumexp(0) for p_z, p in of_z]
            return (parts[0] - parts[1] + coins.now).sigmoid()

    wanted = exact()
    undecided = (wanted > 0.02) & (wanted < 0.98)
    assert undecided.sum() >= 4
    assert errors(responsible[:, undecided], wanted[undecided]) < 4.5
    with torch.no_grad():
        m.log_odds += 0.5
    assert errors(responsible[:, undecided], exact()[undecided]) > 8


# --- whole runs


def a_run(name: str) -> Run:
    m, g = make(name)
    return Run(m.float(), g.float(), STFT(), {"model": name.split()[0]})


@each
@pytest.mark.parametrize("engine", ["langevin", "mh", "vem", "peem", "encoder", "factorised", "autoguide"])
@own
def test_every_kind_of_engine_enhances(name: str, engine: str, own: bool) -> None:
    x, v, _ = heard()
    config = EnhanceConfig(iterations=4, chains=2, noise_rank=2, own_latents=own, gain=engine == "peem")
    run = a_run(name)
    found = enhance_spectrum(
        x.to(torch.cfloat), run, make_engine(engine), config, torch.Generator(), v=v.float()
    )
    assert torch.isfinite(found.mean).all()
    assert found.responsibility.shape == (B, T)
    assert ((found.responsibility >= 0) & (found.responsibility <= 1)).all()
    assert found.responsibility[0, 1] == 1
    assert found.responsibility.std() > 0


def test_who_trusts_lips_enough_leaves_them_only_where_they_are_missing() -> None:
    x, v, _ = heard()
    alone = []
    for trust in (1e4, 0.0):
        config = EnhanceConfig(iterations=4, noise_rank=2, trust=trust)
        found = enhance_spectrum(
            x.to(torch.cfloat), a_run("vae-mm"), Langevin(), config, torch.Generator(), v=v.float()
        )
        alone.append(found.responsibility)
    assert torch.equal(alone[0] == 1, v.isnan().any(-1))
    assert alone[0].sum() == 1
    assert alone[1].sum() > 2


@pytest.mark.parametrize(("name", "trust"), [("vae-mm", 0.2), ("min-vae", 0.0)])
@own
def test_without_a_setting_trust_is_the_models(name: str, trust: float, own: bool) -> None:
    x, v, _ = heard()
    means = []
    for given in (None, trust, 1.0):
        torch.manual_seed(0)
        config = EnhanceConfig(iterations=4, noise_rank=2, trust=given, own_latents=own)
        chance = torch.Generator().manual_seed(0)
        found = enhance_spectrum(x.to(torch.cfloat), a_run(name), Langevin(), config, chance, v=v.float())
        means.append(found.mean)
    assert torch.equal(means[0], means[1])
    assert not torch.equal(means[0], means[2])


def test_trust_is_a_number_from_zero_on() -> None:
    assert EnhanceConfig(trust=2).trust == 2
    with pytest.raises(ValueError, match="trust must be from 0"):
        EnhanceConfig(trust=-0.1)


def test_a_model_without_coins_has_no_responsibility() -> None:
    from toys import mixture

    model, _, x, z = mixture("vae", gain=False)
    assert em(model, None, x, Langevin(), z, iterations=2).responsibility is None


def test_the_guide_speaks_with_the_voice_that_is_asked_for() -> None:
    m, g = make("min-vae")
    x, v, _ = heard()

    def spread(g: MixtureGuide) -> Tensor:
        q = g.posterior(x, None, g.begin(x, None, v))
        torch.manual_seed(0)
        return q.rsample((2000,))

    q_z, there = g.encoders(g.z_0, g.context(x, None, g.begin(x, None, v)))
    for voice, mean in (("audio", q_z.audio.mean), ("visual", q_z.visual.mean)):
        wanted = torch.where(there[..., None], mean, q_z.audio.mean)
        assert errors(spread(g.speaking(voice)).detach(), wanted.detach()) < 4.5
        assert errors(spread(g).detach(), wanted.detach()) > 10
    assert g.voice == "both"
    both = OwnLatentsGuide(OwnLatents(m), g).posterior(x, None, g.begin(x, None, v))
    assert both.rsample((3,)).shape == (3, B, T, 2 * D)


def test_the_factorised_engine_is_refused_elsewhere() -> None:
    from toys import mixture

    model, guide, x, z = mixture("vae", gain=False)
    with pytest.raises(ValueError, match="is a whole algorithm, for mixtures of audio and video"):
        em(model, guide, x, Factorised(), z, iterations=2)
    run = Run(model.speech.float(), guide.float(), STFT(), {"model": "vae"})
    with pytest.raises(ValueError, match="is a whole algorithm, for mixtures of audio and video"):
        enhance_spectrum(x.to(torch.cfloat), run, Factorised(), EnhanceConfig(), torch.Generator())
    x, v, _ = heard()
    with pytest.raises(ValueError, match="has no gain"):
        enhance_spectrum(
            x.to(torch.cfloat),
            a_run("vae-mm"),
            Factorised(),
            EnhanceConfig(gain=True),
            torch.Generator(),
            v=v.float(),
        )
    with pytest.raises(ValueError, match="must leave a step to average"):
        Factorised(steps=3, burn_in_moves=3)
