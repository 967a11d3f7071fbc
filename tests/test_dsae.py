"""The segment latent: one draw per sequence, seen by every frame, and its part in every objective."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from pyro import poutine
from pyro.infer import Trace_ELBO, TraceMeanField_ELBO
from small_runs import save_small_run, sound
from torch import Tensor
from torch.distributions import kl_divergence
from toys import B, D, F, H, T, errors, latents, make, spectra

from pyrodvae.dvae import DVAE
from pyrodvae.enhance import enhance
from pyrodvae.enhance_config import EnhanceConfig
from pyrodvae.guide import Guide
from pyrodvae.guides import GUIDES, make_guide
from pyrodvae.models import DSAE
from pyrodvae.models.dsae import DSAEGuide
from pyrodvae.nets import standard_normal
from pyrodvae.objective import find_nan, terms, traces
from pyrodvae.program import local_parameters
from pyrodvae.synthesis import decoded, generate, resynthesize
from pyrodvae.weights import load_run

every_guide = pytest.mark.parametrize("guide", GUIDES)


@pytest.fixture(autouse=True)
def local():
    with local_parameters():
        yield


def pair(guide: str = "paper") -> tuple[DVAE, Guide]:
    """A DSAE whose w has a size of its own."""
    torch.manual_seed(0)
    m = DSAE(F, D, H, segment=7)
    g = make_guide(m, guide, hidden=H)
    with torch.no_grad():
        for p in (*m.parameters(), *g.parameters()):
            p.mul_(2)
    return m.double(), g.double()


def log_x(m: DVAE, values: dict[str, Tensor], x: Tensor) -> Tensor:
    """log p(x | z, w), (B,)."""
    fn = poutine.trace(poutine.condition(m, values)).get_trace(x).nodes["x"]["fn"]
    return fn.log_prob(x)


@every_guide
def test_w_is_drawn_once_per_sequence_and_before_z(guide: str) -> None:
    m, g = pair(guide)
    for program in (m, g):
        trace = poutine.trace(program).get_trace(spectra())
        assert [n for n in trace.stochastic_nodes if n != "batch"] == ["w", "z"]
        trace.compute_log_prob()
        assert trace.nodes["w"]["value"].shape == (B, 7)
        assert trace.nodes["w"]["log_prob"].shape == (B,)


def test_the_likelihood_of_a_sequence_depends_on_its_own_w_alone() -> None:
    m, _ = pair()
    x, values = spectra(), latents(m)
    before = log_x(m, values, x)
    shuffled = log_x(m, values | {"w": values["w"].roll(1, 0)}, x)
    assert ((shuffled - before).abs() > 1e-3).all()
    other = values["w"].clone()
    other[1] += 1
    moved = log_x(m, values | {"w": other}, x) != before
    assert moved.tolist() == [False, True, False]


def test_every_frame_sees_w_and_the_prior_of_z_does_not() -> None:
    m, _ = pair()
    x, values = spectra(), latents(m)
    results = []
    for w in (values["w"], values["w"] + 1):
        with poutine.condition(data={"w": w}):
            prior = m.prior(x, memo=m.begin(B))
        p_z = prior.along(values["z"])
        results.append((p_z.mean, m.likelihood(values["z"], x, prior).variance))
    (z, x_variance), (z_other, x_other) = results
    assert torch.equal(z, z_other)
    assert (x_variance != x_other).all()


@every_guide
def test_every_frame_of_the_guide_sees_w(guide: str) -> None:
    _, g = pair(guide)
    x = spectra()
    w = g.begin(x, None)
    before, after = (g.posterior(x, shared=v).along(torch.zeros(B, T, D).double()) for v in (w, w + 1))
    assert (before.mean != after.mean).all()


@every_guide
def test_w_is_read_off_the_whole_sequence_and_no_padding(guide: str) -> None:
    _, g = pair(guide)
    lengths = torch.tensor([T, 2, 4])

    def mean(x: Tensor, lengths: Tensor | None = lengths) -> Tensor:
        trace = poutine.trace(g).get_trace(x, lengths)
        return trace.nodes["w"]["fn"].mean

    x = spectra()
    for i, n in enumerate(lengths.tolist()):
        torch.testing.assert_close(mean(x)[i, None], mean(x[i, None, :n], None), rtol=1e-12, atol=1e-14)
        for t in range(T):
            other = x.clone()
            other[i, t] += 1
            assert torch.equal(mean(other)[i], mean(x)[i]) == (t >= n)
    assert not torch.allclose(mean(x, None)[1:], mean(x)[1:])  # the control: lengths do matter


def test_a_window_before_w_is_refused() -> None:
    m, g = pair("smoother")
    x = spectra()
    with pytest.raises(ValueError, match=r"given w: call model\.prior\(x, lengths, model\.begin"):
        m.prior(x)
    for guide in (g, pair("paper")[1]):
        with pytest.raises(ValueError, match=r"given w: call guide\.posterior\("):
            guide.posterior(x)


# --- objectives


def test_both_bounds_hold_the_kl_of_w_and_agree_in_expectation() -> None:
    m, g = pair()
    x = spectra(1).expand(400, -1, -1)

    def draws(loss) -> Tensor:
        values = []
        for seed in range(25):
            torch.manual_seed(seed)
            values.append(loss()(m, g)(x).detach())
        return torch.stack(values)

    analytic, sampled = draws(TraceMeanField_ELBO), draws(Trace_ELBO)
    assert analytic.std() > 0
    assert errors(analytic - sampled) < 5
    with torch.no_grad():
        q, p = traces(m, g, x)
        of_w = kl_divergence(q.nodes["w"]["fn"], p.nodes["w"]["fn"]).sum()
    # The control: without the term of w they would not agree.
    assert errors(analytic - of_w - sampled) > 5


def test_terms_are_those_of_z_and_of_w() -> None:
    m, g = pair()
    x, lengths = spectra(), torch.tensor([T, 2, 4])
    torch.manual_seed(1)
    _, kl = terms(m, g, x, lengths)
    torch.manual_seed(1)
    q, p = traces(m, g, x, lengths)
    parts = {n: kl_divergence(q.nodes[n]["fn"], p.nodes[n]["fn"]) for n in ("w", "z")}
    torch.testing.assert_close(kl, parts["w"] + parts["z"], rtol=1e-13, atol=0)
    assert (parts["w"] > 1e-3).all()


@pytest.mark.parametrize("objective", [Trace_ELBO, TraceMeanField_ELBO])
def test_particles_side_by_side_agree_with_a_loop(objective) -> None:
    m, g = pair()
    x = spectra(100)

    def draws(x: Tensor, **more) -> Tensor:
        with torch.no_grad():
            f = objective(num_particles=3, max_plate_nesting=1, **more)(m, g)
            return torch.stack([f(x) for _ in range(25)])

    loop, vectorised = draws(x), draws(x, vectorize_particles=True)
    assert errors(loop - vectorised) < 5
    assert errors(loop - draws(1.2 * x, vectorize_particles=True)) > 5


def test_a_value_that_is_no_number_is_found_in_w() -> None:
    m, g = pair()
    with torch.no_grad():
        g.segment.head.bias[0] = torch.nan
    assert find_nan(m, g, spectra(), None) == "site w (drawn from the guide), sequence 0 of the batch"


# --- what is made of it


def test_speech_through_and_out_of_a_dsae(tmp_path) -> None:
    run = load_run(save_small_run(tmp_path, "dsae"))
    s = sound(0.3)
    y = resynthesize(s, 16_000, run)
    assert y.shape == s.shape
    assert (y == resynthesize(s, 16_000, run)).all()  # w takes its mean, too
    y = generate(run, 0.5, seed=1)
    assert (y == generate(run, 0.5, seed=1)).all()
    assert (y != generate(run, 0.5, seed=2)).any()


def test_resynthesis_takes_w_from_the_guide() -> None:
    m, g = make("dsae", "paper")
    run = type("Pair", (), {"model": m, "guide": g})
    x = spectra()
    before = decoded(run.model, run.guide, x).variance
    with torch.no_grad():
        g.segment.head.bias[: m.segment] += 1
    assert (decoded(run.model, run.guide, x).variance != before).all()


def test_sound_is_generated_with_the_w_that_its_path_was_drawn_with(tmp_path, monkeypatch) -> None:
    run = load_run(save_small_run(tmp_path, "dsae"))
    drawn, heard = [], []
    begin, head = run.model.begin, run.model.head.forward
    monkeypatch.setattr(run.model, "begin", lambda batch: drawn.append(begin(batch)) or drawn[-1])
    monkeypatch.setattr(run.model.head, "forward", lambda h: heard.append(head(h)) or heard[-1])
    generate(run, 0.1)
    frames = torch.cat([p.variance for p in heard[:-1]], -2)
    assert len(drawn) == 2
    assert torch.equal(drawn[0].w, drawn[1].w)
    torch.testing.assert_close(heard[-1].variance, frames)


def test_enhancement_says_that_w_was_held(tmp_path) -> None:
    config = EnhanceConfig(iterations=2)
    found, other = (
        enhance(
            sound(0.3), sample_rate=16_000, model=load_run(save_small_run(tmp_path / k, k)), config=config
        )
        for k in ("dsae", "rvae")
    )
    assert np.isfinite(found.speech).all()
    assert "segment latent w" in found.approximation
    assert other.approximation == ""


# --- sizes


def test_stacked_networks_of_every_size() -> None:
    m = DSAE(F, D, H, segment=3, layers=2, dense=[7, 9])
    sizes = {"before": [9], "w_hidden": 8, "w_layers": 2, "w_after": [6], "joined": [7], "layers": 2}
    g = make_guide(m, "paper", hidden=8, after=[6], z_hidden=5, z_layers=2, **sizes)
    assert isinstance(g, DSAEGuide)
    x = spectra(dtype=torch.cfloat)
    Trace_ELBO()(m, g)(x).backward()
    assert all((p.grad != 0).any() for p in (*m.parameters(), *g.parameters()))
    for program, again in ((m, DSAE(**m.config)), (g, DSAEGuide(m, g.sees, **g.config))):
        again.load_state_dict(program.state_dict())


class Independent(DSAE):
    """Frames drawn at once, which nevertheless share w."""

    recursive = False

    def transition(self, z_prev, x_prev, memo):
        return standard_normal(z_prev), memo


def test_frames_drawn_at_once_share_the_segment_latent() -> None:
    m = Independent(F, D, hidden=4)
    z, x = m.generate(3, 2)
    with local_parameters(), torch.no_grad():
        prior = m.prior(x, None, m.begin(2))
        given = m.likelihood(z, x, prior).log_prob(x)
    assert given.shape == (2, 3)
    wanted = m.emission(z, None, prior.first_memo)[0].log_prob(x)
    torch.testing.assert_close(given, wanted.detach())
