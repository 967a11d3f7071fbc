"""VAE-MM and MIN-VAE: programs of one law, objectives, and coins in closed form."""

from __future__ import annotations

import itertools
import math
from functools import partial

import pyro
import pytest
import torch
from mixtures import EACH, LENGTHS, V, make, video
from pyro import poutine
from pyro.infer import Trace_ELBO, TraceEnum_ELBO, TraceMeanField_ELBO
from toys import B, D, F, H, T, errors, spectra

from pyrodvae.av_mixture import CERTAIN, AVMixture, OwnLatents, coin, plates
from pyrodvae.either import Either, Two
from pyrodvae.graph import compliance, generative, graph_of, posterior
from pyrodvae.guide import Guide
from pyrodvae.guides import make_guide
from pyrodvae.mixture_guide import OwnLatentsGuide
from pyrodvae.mixture_objective import loss
from pyrodvae.models.av_vae import AVVAE
from pyrodvae.models.vae import VAE
from pyrodvae.models.vae_mm import VAEMM
from pyrodvae.objective import Prior, terms
from pyrodvae.program import local_parameters

EXACT = {"rtol": 1e-12, "atol": 1e-12}
each = pytest.mark.parametrize("name", EACH)
own = pytest.mark.parametrize("own", [False, True], ids=["shared", "own"])


@pytest.fixture(autouse=True)
def local():
    with local_parameters():
        yield


def pair(name: str, own: bool = False) -> tuple[AVMixture, Guide]:
    m, g = make(name)
    return (OwnLatents(m), OwnLatentsGuide(OwnLatents(m), g)) if own else (m, g)


def log_joint(program, values, *args, **named):
    return poutine.trace(poutine.condition(program, values)).get_trace(*args, **named).log_prob_sum()


# --- one law, three programs


@each
@own
def test_steps_equal_the_fast_pass_with_the_coins_summed_out(name: str, own: bool) -> None:
    """Frame by frame, log Σ_α over all coins is what the fast program says; of fewer it is not."""
    m, _ = pair(name, own)
    x, v = spectra(1, 3), torch.rand(1, 3, V, dtype=torch.double)
    v[0, 1] = math.nan
    z = torch.randn(1, 3, m.latent, dtype=torch.double)
    fast = log_joint(m, {"z": z}, x, None, v)
    by_step = {f"z_{t}": z[:, t : t + 1] for t in range(3)}

    def held(coins: tuple[int, ...]):
        alpha = {f"alpha_{t}": torch.full((1, 1), float(c), dtype=torch.double) for t, c in enumerate(coins)}
        return log_joint(m.steps, by_step | alpha, x, v=v)

    all_coins = torch.stack([held(coins) for coins in itertools.product((0, 1), repeat=3)])
    torch.testing.assert_close(all_coins.logsumexp(0), fast, rtol=1e-12, atol=0)
    assert abs(all_coins[:-1].logsumexp(0) / fast - 1) > 1e-6
    missing = torch.stack([held((a, 0, b)) for a, b in itertools.product((0, 1), repeat=2)])
    assert (missing < -CERTAIN / 2).all()  # a frame without a picture is heard alone


@each
@own
def test_the_program_with_coins_is_the_fast_one_enumerated(name: str, own: bool) -> None:
    """Pyro sums α out in the model; a coin that is not enumerated gives another number."""
    m, _ = pair(name, own)
    x, v, z = spectra(), video(), torch.randn(B, T, m.latent, dtype=torch.double)
    conditioned = poutine.condition(m.choices, {"z": z})

    def nothing(*args: object) -> None:
        """A guide of no latent."""

    for lengths in (None, LENGTHS):
        summed = TraceEnum_ELBO(max_plate_nesting=2).loss(conditioned, nothing, x, lengths, v)
        fast = log_joint(m, {"z": z}, x, lengths, v).detach()
        assert -summed == pytest.approx(float(fast), rel=1e-12)
        drawn = poutine.trace(conditioned).get_trace(x, lengths, v).log_prob_sum()
        assert abs(drawn / fast - 1) > 1e-6


@each
def test_own_latents_are_the_same_law_of_speech(name: str) -> None:
    """p(x | v) by importance of the priors, one latent or two; another π is another law."""
    m, _ = make(name, latent=1)
    x, v, S = spectra(2, 3), video(2, 3), 20_000

    def likelihood(model: AVMixture) -> torch.Tensor:
        with torch.no_grad():
            prior = model.prior(x, None, model.begin(2, v))
            z = prior.rsample((S,))
            return model.likelihood(z, x, prior).log_prob(x).exp()

    a, b = likelihood(m), likelihood(OwnLatents(m))
    assert errors(a - b) < 4.5
    with torch.no_grad():
        m.log_odds += 2
    if name == "vae-mm":
        assert errors(likelihood(m) - b) > 10


@each
@own
def test_a_batch_is_a_loop_and_padding_is_never_looked_at(name: str, own: bool) -> None:
    m, g = pair(name, own)
    x, v, z = spectra(), video(), torch.randn(B, T, m.latent, dtype=torch.double)
    for program in (m, g):
        whole = log_joint(program, {"z": z}, x, LENGTHS, v)
        cut = [
            log_joint(program, {"z": z[i, None, :n]}, x[i, None, :n], None, v[i, None, :n])
            for i, n in enumerate(LENGTHS.tolist())
        ]
        torch.testing.assert_close(whole, torch.stack(cut).sum(), **EXACT)
        for frame, irrelevant in ((T - 1, True), (1, False)):
            other = x.clone()
            other[1:, frame] *= 2
            assert (log_joint(program, {"z": z}, other, LENGTHS, v) == whole) == irrelevant


@each
@own
def test_generation_draws_coins(name: str, own: bool) -> None:
    m, _ = pair(name, own)
    v = torch.rand(2, T, V, dtype=torch.double)
    v[:, 2] = math.nan
    trace = poutine.trace(m.generate).get_trace(T, 2, v)
    z, x = trace.nodes["_RETURN"]["value"]
    assert z.shape == (2, T, m.latent)
    assert x.shape == (2, T, F)
    assert (trace.nodes["alpha_2"]["value"] == 1).all()


# --- the bound


@each
@own
@pytest.mark.parametrize("elbo", [Trace_ELBO, TraceMeanField_ELBO])
def test_bound_is_finite_and_reaches_every_parameter(name: str, own: bool, elbo) -> None:
    m, g = pair(name, own)
    value = elbo()(m, g)(spectra(), LENGTHS, video())
    value.backward()
    assert torch.isfinite(value)
    for label, p in itertools.chain(m.named_parameters("model"), g.named_parameters("guide")):
        if not label.endswith("unseen"):  # what stands for a missing picture; such frames are heard alone
            assert p.grad is not None, label
            assert torch.isfinite(p.grad).all(), label
            assert (p.grad != 0).any(), label


@each
def test_the_objective_reaches_every_parameter(name: str) -> None:
    m, g = make(name)
    value = loss(m, g, spectra(), LENGTHS, video(), prior_share=0.3)
    value.backward()
    log_p, kl = terms(m, g, spectra(), LENGTHS, video())
    assert log_p.shape == kl.shape == (B,)
    assert (kl > 0).all()
    for label, p in itertools.chain(m.named_parameters("model"), g.named_parameters("guide")):
        heard_alone = name != "vae-mm" and label.endswith("visual.lips.unseen")
        assert heard_alone or (torch.isfinite(p.grad).all() and (p.grad != 0).any()), label


def test_a_vae_mm_is_trained_as_its_parts_are() -> None:
    """Its objective is the sum of Pyro's for the A-VAE and the AV-VAE, the share of the prior included."""
    m, g = make("vae-mm")
    assert isinstance(m, VAEMM)
    x, v = spectra(), video()
    elbo = TraceMeanField_ELBO()

    def parts(share: float) -> torch.Tensor:
        torch.manual_seed(1)
        total = elbo(m.audio, g.audio)(x, LENGTHS) + (1 - share) * elbo(m.visual, g.visual)(x, LENGTHS, v)
        return total + share * elbo(m.visual, Prior(m.visual))(x, LENGTHS, v) if share else total

    for share in (0.0, 0.3):
        torch.manual_seed(1)
        ours = loss(m, g, x, LENGTHS, v, prior_share=share)
        torch.testing.assert_close(ours, parts(share), **EXACT)
    assert not torch.allclose(ours, parts(0.0), rtol=1e-6)


@pytest.mark.parametrize("name", [name for name in EACH if name.startswith("min-vae")])
def test_coins_of_a_min_vae_in_closed_form(name: str) -> None:
    """π_n by brute force, the bound Σ log Σ_α π_α exp(−J(α)), and Pyro's enumeration on one draw."""
    m, g = make(name)
    x, v = spectra(), video()

    def with_r(log_odds: torch.Tensor) -> torch.Tensor:
        """Pyro's bound with this r(α), enumerated in the guide; the same draws every time."""
        torch.manual_seed(2)
        guide = partial(g.choices, log_odds=log_odds)
        return -TraceEnum_ELBO(max_plate_nesting=2).differentiable_loss(m.choices, guide, x, None, v)

    costs = []
    with torch.no_grad():  # what each reading costs, on the draws that enumeration makes
        torch.manual_seed(2)
        trace = poutine.trace(poutine.enum(partial(g.choices), first_available_dim=-3)).get_trace(x, None, v)
        z = trace.nodes["z"]["value"]  # α = 0 first
        q_z, _ = g.encoders(g.z_0, g.context(x, None, g.begin(x, None, v)))
        coins = m.begin(B, v)
        for i, α in ((0, "visual"), (1, "audio")):
            p_z, parts = m.priors(Two(z[i], z[i]), coins.parts)
            p_x = getattr(m.decode(Two(z[i], z[i]), parts), α).log_prob(x)
            costs.append(getattr(q_z, α).log_prob(z[i]) - getattr(p_z, α).log_prob(z[i]) - p_x)
    log_odds = costs[0] - costs[1] + coins.log_odds
    best = with_r(log_odds)
    wanted = torch.stack([Either(coins.log_odds, Two(Held(-costs[1]), Held(-costs[0]))).log_prob(x)]).sum()
    torch.testing.assert_close(best.detach(), wanted, rtol=1e-9, atol=0)
    seen = coins.log_odds < CERTAIN
    for t in ((0, 0), (2, 3)):  # brute force: no other r of a frame does better, and its neighbours do worse
        grid = torch.linspace(-3, 3, 21, dtype=torch.double) + log_odds[t]
        tried = torch.stack(
            [with_r(log_odds.clone().index_put_((torch.tensor(t[:1]), torch.tensor(t[1:])), o)) for o in grid]
        )
        assert tried.argmax() == 10
        assert tried[9] < tried[10] > tried[11]
    assert (with_r(-log_odds) < best - 1e-3) or not seen.any()
    # The weights that training uses, and π's gradient: zero at the mean of the π_n.
    log_prior = m.begin(B, v).log_odds
    r, price = m.weigh(Two(costs[1], costs[0]), log_prior)
    torch.testing.assert_close(r.audio, log_odds.sigmoid(), **EXACT)
    total = -(r.audio * costs[1] + r.visual * costs[0] + price).sum()
    torch.testing.assert_close(total.detach(), wanted, rtol=1e-9, atol=0)
    (slope,) = torch.autograd.grad(total, m.log_odds)
    wanted_slope = (r.audio - m.log_odds.sigmoid())[seen].sum()
    torch.testing.assert_close(slope, wanted_slope.detach(), rtol=1e-9, atol=1e-12)


class Held(torch.distributions.Normal):
    """A density that is known."""

    def __init__(self, known: torch.Tensor) -> None:
        self.known = known
        super().__init__(torch.zeros(*known.shape, 1), 1.0)
        self._batch_shape, self._event_shape = known.shape, torch.Size((1,))

    def log_prob(self, value: torch.Tensor) -> torch.Tensor:
        return self.known


@pytest.mark.parametrize("name", list(EACH)[1:])
def test_gradients_are_equal_with_the_coins_detached_or_not(name: str) -> None:
    """At the optimum of r nothing comes through it; at another r it would."""
    m, g = make(name)
    x, v = spectra(), torch.rand(B, T, V, dtype=torch.double)

    def gradients(how: str) -> list[torch.Tensor]:
        torch.manual_seed(3)
        q_z, _ = g.encoders(g.z_0, g.context(x, None, g.begin(x, None, v)))
        z = Two(*(q.rsample() for q in q_z))
        coins = m.begin(B, v)
        p_z, parts = m.priors(z, coins.parts)
        J = [
            q.log_prob(y) - p.log_prob(y) - d.log_prob(x)
            for q, p, y, d in zip(q_z, p_z, z, m.decode(z, parts), strict=True)
        ]
        odds = coins.log_odds
        own = J[1] - J[0] + odds + (1 if how == "wrong" else 0)
        r = own.detach().sigmoid() if how == "detached" else own.sigmoid()
        total = -(r * J[0] + (1 - r) * J[1]).sum()
        total = total + (r * torch.nn.functional.logsigmoid(odds) - torch.xlogy(r, r)).sum()
        total = total + ((1 - r) * torch.nn.functional.logsigmoid(-odds) - torch.xlogy(1 - r, 1 - r)).sum()
        used = [p for label, p in g.named_parameters() if not label.endswith("unseen")]
        return list(torch.autograd.grad(total, used))

    attached, detached, wrong = (gradients(how) for how in ("attached", "detached", "wrong"))
    for a, b in zip(attached, detached, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-10)
    assert not all(torch.allclose(a, b, rtol=1e-4) for a, b in zip(wrong, detached, strict=True))


def test_enumeration_in_the_guide_is_the_closed_form_and_in_the_model_tighter() -> None:
    """On the same draws of z Pyro's enumeration of r is the closed form; Σ_α in the model is more."""
    m, _ = make("vae-mm")
    x, v, S = spectra(), video(), 7
    z = torch.randn(S, B, T, D, dtype=torch.double)

    def of_z() -> None:
        pyro.sample("z", pyro.distributions.Delta(z, event_dim=1))

    def factorised(x, lengths, v, log_odds) -> None:
        with plates(x, lengths):
            pyro.sample("alpha", coin(log_odds), infer={"enumerate": "parallel"})
            of_z()

    def without_coins(x, lengths, v) -> None:
        with plates(x, lengths):
            of_z()

    elbo = TraceEnum_ELBO(num_particles=S, vectorize_particles=True, max_plate_nesting=2)
    with torch.no_grad():
        coins = m.window(z, m.begin(B, v))
        p_x = m.decode(Two(z, z), coins.parts)
        log_p = [a.log_prob(z) + b.log_prob(x) for a, b in zip(coins.p_z, p_x, strict=True)]
        prior = [torch.nn.functional.logsigmoid(o) for o in (coins.now, -coins.now)]
        mean = [p.mean(0) for p in log_p]
        closed = torch.logaddexp(mean[0] + prior[0], mean[1] + prior[1]).sum()
        π = mean[0] - mean[1] + coins.now
        by_guide = -elbo.loss(m.choices, partial(factorised, log_odds=π), x, None, v)
        assert by_guide == pytest.approx(float(closed), rel=1e-9)
        by_model = -elbo.loss(m.choices, without_coins, x, None, v)
        like = torch.logaddexp(log_p[0] + prior[0], log_p[1] + prior[1]).mean(0).sum()
        assert by_model == pytest.approx(float(like), rel=1e-9)
        assert by_model > by_guide + 1e-3
        other = -elbo.loss(m.choices, partial(factorised, log_odds=π + 1), x, None, v)
        assert other < by_guide - 1e-3


# --- the graph


SHARED = "q(alpha_t | v_t, x_t) q(z_t | alpha_t, v_t, x_t)"
MISSES = "is simplified: q(alpha_t) misses v_t and x_t."


@pytest.mark.parametrize(
    ("name", "law", "exact", "verdict"),
    [
        ("vae-mm", "p(z_t | alpha_t, v_t) p(x_t | alpha_t, z_t, v_t)", SHARED, MISSES),
        ("min-vae", "p(z_t | alpha_t) p(x_t | z_t, v_t)", SHARED, MISSES),
        (
            "min-vae (z alone)",
            "p(z_t | alpha_t) p(x_t | z_t)",
            "q(alpha_t | x_t) q(z_t | alpha_t, x_t)",
            "q(alpha_t) misses x_t; q(z_t | alpha_t, v_t, x_t) does not need v_t.",
        ),
    ],
)
def test_the_graph_has_the_coins(name: str, law: str, exact: str, verdict: str) -> None:
    """That a picture is missing is known and no variable: no arrow leads from v_t to its coin."""
    m, g = make(name)
    graph = graph_of(m)
    assert str(generative(graph)).endswith(f"p(alpha_t) {law}")
    assert str(posterior(graph)).endswith(f"∏_t {exact}")
    assert graph.notes == ()
    assert str(compliance(m, g, graph=graph)).endswith(verdict)


def test_what_does_not_fit_is_refused() -> None:
    m, _ = make("vae-mm")
    with pytest.raises(ValueError, match="and RecurrentGuide is one for both: take the guide 'paper'"):
        loss(m, make_guide(m, "smoother", hidden=H).double(), spectra(), None, video())
    with pytest.raises(ValueError, match=r"\(F, D, data\) are \(5, 2, 'speech'\) and \(5, 3, 'speech'\)"):
        VAEMM.of(VAE(F, 2, H), AVVAE(F, 3, H, video=V))
    with pytest.raises(ValueError, match="given video"):
        m(spectra())
