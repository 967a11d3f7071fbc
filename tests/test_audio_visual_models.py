"""Models that are given video: what every model promises, and what is done with lips."""

from __future__ import annotations

import itertools
import math
from dataclasses import replace

import pytest
import torch
from pyro import poutine
from pyro.infer import Trace_ELBO, TraceMeanField_ELBO
from torch import Tensor
from toys import B, D, F, H, T, errors, moved, spectra

from pyrodvae.dvae import DVAE
from pyrodvae.given import Given
from pyrodvae.graph import compliance, graph_of, posterior
from pyrodvae.guide import Guide, RecurrentGuide, Sees
from pyrodvae.guides import GUIDES, make_guide
from pyrodvae.lips import LipReader, Lips, seen
from pyrodvae.models import MODELS
from pyrodvae.noise import NMFNoise
from pyrodvae.noisy import NoisySpeech
from pyrodvae.objective import Prior, terms
from pyrodvae.program import local_parameters

V, LENGTHS = 64, torch.tensor([T, 2, 4])
EXACT = {"rtol": 1e-12, "atol": 1e-12}
KEYS = ("v-vae", "av-vae", "av-dkf")
each = pytest.mark.parametrize("key", KEYS)
pairs = pytest.mark.parametrize(("key", "guide"), list(itertools.product(KEYS, GUIDES)))


@pytest.fixture(autouse=True)
def local():
    with local_parameters():
        yield


def make(key: str, guide: str = "paper", **config: object) -> tuple[DVAE, Guide]:
    """A small pair, its weights about twice as large as torch starts them."""
    m = MODELS[key](F, D, H, **({"video": V} | config))
    g = make_guide(m, guide, hidden=H)
    with torch.no_grad():
        for p in (*m.parameters(), *g.parameters()):
            p.mul_(2)
    return m.double(), g.double()


def video(batch: int = B, frames: int = T) -> Tensor:
    """Pictures of which one is missing."""
    v = torch.rand(batch, frames, V, dtype=torch.double)
    v[0, 1] = math.nan
    return v


def log_joint(program, values: dict[str, Tensor], *args, **named) -> Tensor:
    return poutine.trace(poutine.condition(program, values)).get_trace(*args, **named).log_prob_sum()


def path() -> Tensor:
    return torch.randn(B, T, D, dtype=torch.double)


@each
def test_steps_equal_the_fast_pass(key: str) -> None:
    m, _ = make(key)
    x, v, z = spectra(), video(), path()
    by_step = {f"z_{t}": z[:, t : t + 1] for t in range(T)}
    fast = log_joint(m, {"z": z}, x, None, v)
    torch.testing.assert_close(log_joint(m.steps, by_step, x, v=v), fast, rtol=1e-12, atol=0)
    other = log_joint(m.steps, by_step, x, v=v.roll(1, 1))
    assert (abs(other / fast - 1) > 1e-6) == (key != "v-vae")  # whose speech model sees no lips


@pairs
@pytest.mark.parametrize("loss", [Trace_ELBO, TraceMeanField_ELBO])
def test_bound_is_finite_and_reaches_every_parameter(key: str, guide: str, loss) -> None:
    m, g = make(key, guide)
    value = loss()(m, g)(spectra(), LENGTHS, video())
    value.backward()
    assert torch.isfinite(value)
    for name, p in itertools.chain(m.named_parameters("model"), g.named_parameters("guide")):
        assert p.grad is not None, name
        assert torch.isfinite(p.grad).all(), name
        assert (p.grad != 0).any(), name


@pairs
def test_a_batch_is_a_loop_and_padding_is_never_looked_at(key: str, guide: str) -> None:
    m, g = make(key, guide)
    x, v, z = spectra(), video(), path()
    for program in (m, g):
        whole = log_joint(program, {"z": z}, x, LENGTHS, v)
        cut = [
            log_joint(program, {"z": z[i, None, :n]}, x[i, None, :n], None, v[i, None, :n])
            for i, n in enumerate(LENGTHS.tolist())
        ]
        torch.testing.assert_close(whole, torch.stack(cut).sum(), **EXACT)
        for frame, irrelevant in ((T - 1, True), (1, False)):
            other = v.clone()
            other[1:, frame] = 1 - other[1:, frame]
            looks = (program is g and g.sees.video) or key != "v-vae"
            same = log_joint(program, {"z": z}, x, LENGTHS, other) == whole
            assert bool(same) == (irrelevant or not looks)


@pairs
def test_a_guide_sees_what_it_claims(key: str, guide: str) -> None:
    _, g = make(key, guide)
    x, v, z = spectra(), torch.rand(B, T, V, dtype=torch.double), path()

    def moments(x: Tensor, v: Tensor) -> Tensor:
        q = g.posterior(x, shared=g.begin(x, None, v)).along(z)
        return torch.cat([q.mean, q.variance], -1)

    t, s = torch.meshgrid(torch.arange(T), torch.arange(T), indexing="ij")
    frames = ((s < t) & g.sees.x_past) | ((s == t) & g.sees.x_present) | ((s > t) & g.sees.x_future)
    assert torch.equal(moved(lambda y: moments(y, v), x), frames & g.sees.audio)
    assert torch.equal(moved(lambda u: moments(x, u), v), frames & g.sees.video)


def test_sight_is_written_as_factors() -> None:
    assert str(Sees("previous", x_future=True, video=True)) == "q(z_t | z_{t-1}, x_{t:T}, v_{t:T})"
    assert str(Sees(audio=False, video=True)) == "q(z_t | v_t)"


@pytest.mark.parametrize(
    ("key", "wanted", "verdict"),
    [
        ("v-vae", "q(z_t | x_t)", "simplified, and sees more than it needs"),
        ("av-vae", "q(z_t | v_t, x_t)", "compliant"),
        ("av-dkf", "q(z_t | z_{t-1}, v_{t:T}, x_{t:T})", "compliant"),
    ],
)
def test_posteriors_are_derived_from_the_programs(key: str, wanted: str, verdict: str) -> None:
    m, g = make(key)
    assert posterior(graph_of(m))["z"].text() == wanted
    assert compliance(m, g).word == verdict
    derived = make_guide(m, "compliant", hidden=H)
    assert compliance(m, derived).compliant
    if key != "v-vae":  # the control: the same guide without its lips
        blind = RecurrentGuide(m, replace(derived.sees, video=False), H)
        assert "misses v_" in str(compliance(m, blind))


# --- lips


@pytest.mark.parametrize("reader", ["conv", "mlp", "features"])
def test_a_missing_picture_says_what_is_learned_for_it(reader) -> None:
    e = LipReader(V, 3, reader).double()
    with torch.no_grad():
        e.unseen.fill_(7.0)
    v = video()
    says = e(v)
    assert torch.equal(seen(v).logical_not(), (says == 7.0).all(-1))
    other = v.clone()
    other[1, 2] += 0.5
    changed = (e(other) != says).any(-1)
    assert changed[1, 2]
    assert changed.sum() == 1  # every picture on its own
    says[0, 1].sum().backward()
    assert all(p.grad is None or not p.grad.isnan().any() for p in e.parameters())


def test_pixels_are_standardised_by_the_pictures_that_are_there() -> None:
    e = LipReader(V, 3)
    v = 0.2 + 0.1 * torch.randn(2000, V)
    v[:500] = math.nan
    e.fit(v)
    assert float(e.loc) == pytest.approx(0.2, abs=1e-3)
    assert float(e.scale) == pytest.approx(0.1, abs=1e-3)


def test_what_cannot_be_read_is_refused() -> None:
    m, g = make("av-vae")
    x = spectra()
    with pytest.raises(ValueError, match=rf"given video: v \(B, T, V\), here \({B}, {T}, {V}\)"):
        m(x)
    with pytest.raises(ValueError, match=r"a picture for every frame of x; got a tensor of shape"):
        g(x, None, video(frames=T - 1))
    with pytest.raises(ValueError, match="does not look at video: leave v out"):
        MODELS["vae"](F, D, H).double()(x, None, video())
    with pytest.raises(ValueError, match="z is drawn given v"):
        m.prior(x)
    with pytest.raises(ValueError, match=r"z is drawn given v: .* lengths, v"):
        g.posterior(x)
    with pytest.raises(ValueError, match="is given no video, so no guide"):
        make_guide(MODELS["vae"](F, D, H), "paper").__class__(MODELS["vae"](F, D, H), Sees(video=True))
    with pytest.raises(ValueError, match="'conv', 'mlp' or 'features', not 'eyes'"):
        LipReader(V, 3, "eyes")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="square pictures of at least 8 by 8"):
        LipReader(60, 3)


def test_windows_take_their_frames_of_the_lips_in_turn() -> None:
    says = torch.arange(6.0).view(1, 6, 1)
    for lips in (Lips(says), Lips(says.split(1, 1))):
        first = lips.take(2)
        assert first.now.flatten().tolist() == [0, 1]
        assert first.take(1).now.flatten().tolist() == [2]


# --- objective and noise


def test_the_bound_with_the_prior_for_a_guide_is_the_likelihood_under_it() -> None:
    m, _ = make("av-vae")
    x, v = spectra(), video()
    with torch.no_grad():
        draws = torch.stack([torch.stack(terms(m, Prior(m), x, None, v)) for _ in range(2000)])
        prior = m.prior(x, None, m.begin(B, v))
        z = prior.rsample((2000,))
        direct = m.likelihood(z, x, prior).log_prob(x).sum(-1)
    assert not draws[:, 1].any()  # no KL of the prior to itself
    both = torch.cat([draws[:, 0], -direct])
    assert errors(draws[:, 0] - direct) < 4
    assert errors(both[:2000] - 1.01 * direct.mean()) > 4


@each
def test_video_is_given_to_noisy_speech(key: str) -> None:
    m, g = make(key)
    x, v = 2 * spectra(), video()
    noise = NMFNoise.from_quiet_frames(x, 2, torch.Generator().manual_seed(0))
    noisy, guide = NoisySpeech(m, noise, v=v), Given(g, x, v)
    z = guide.posterior(x).rsample((4,))
    assert z.shape == (4, B, T, D)
    both = [poutine.trace(poutine.condition(noisy, {"z": one})).get_trace(x) for one in (z, z[2])]
    p = [t.nodes["x"]["fn"].log_prob(x) + t.nodes["z"]["fn"].log_prob(t.nodes["z"]["value"]) for t in both]
    torch.testing.assert_close(p[0][2], p[1], **EXACT)
    clean = m.prior(x, None, m.begin(B, v))
    wanted = m.likelihood(z, x, clean).variance
    torch.testing.assert_close(noisy.speech_variance(z), wanted, **EXACT)
    other = NoisySpeech(m, noise, v=v.roll(1, 1)).speech_variance(z)
    assert torch.equal(other, wanted) == (key == "v-vae")
    if key != "v-vae":
        with pytest.raises(ValueError, match="given video"):
            NoisySpeech(m, noise)
