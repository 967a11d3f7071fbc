"""What every model and every guide promises, whatever it is."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch
from pyro import poutine
from pyro.infer import Trace_ELBO, TraceMeanField_ELBO
from torch import Tensor
from toys import EVERY, EVERY_PAIR, B, D, F, H, T, data, latents, make, moved, spectra

from pyrodvae.dvae import BATCH, DVAE, SEGMENT
from pyrodvae.guide import Guide, RecurrentGuide, Sees
from pyrodvae.guides import make_guide
from pyrodvae.nets import Memory, Summary
from pyrodvae.program import local_parameters

LENGTHS = torch.tensor([T, 2, 4])
EXACT = {"rtol": 1e-12, "atol": 1e-12}
every_model = pytest.mark.parametrize("key", EVERY)
every_pair = pytest.mark.parametrize(("key", "guide"), EVERY_PAIR)


@pytest.fixture(autouse=True)
def local():
    with local_parameters():
        yield


def log_joint(program, values: dict[str, Tensor], *args) -> Tensor:
    """Sum of the log-probabilities of all sites, some of them given values."""
    return poutine.trace(poutine.condition(program, values)).get_trace(*args).log_prob_sum()


def per_frame(model: DVAE, z: Tensor, x: Tensor, memo: Any) -> tuple[Tensor, Tensor]:
    """Means and variances of p(z_t | past) and p(x_t | past), (B, T, ·)."""
    prior = model.prior(x, memo=memo)
    p_z = prior.along(z)
    p_x = model.likelihood(z, x, prior)
    return torch.cat([p_z.mean, p_z.variance], -1), torch.cat([p_x.mean.real, p_x.variance], -1)


# --- shapes and gradients


@every_pair
def test_shapes_with_leading_dimensions(key: str, guide: str) -> None:
    m, g = make(key, guide)
    x = data(m)
    memo = m.begin(B)
    q, p = g.posterior(x, shared=g.begin(x, None)), m.prior(x, memo=memo)
    z = q.rsample((4,))
    assert z.shape == (4, B, T, D)
    assert q.log_prob(z).shape == p.log_prob(z).shape == (4, B)
    p_x = m.likelihood(z, x, p)
    assert p_x.log_prob(x).shape == (4, B, T)
    one, fresh = z[2], m.prior(x, memo=memo)
    torch.testing.assert_close(p.log_prob(z)[2], fresh.log_prob(one), **EXACT)
    torch.testing.assert_close(p_x.log_prob(x)[2], m.likelihood(one, x, fresh).log_prob(x), **EXACT)
    assert poutine.trace(g).get_trace(x).nodes["z"]["value"].shape == (B, T, D)


@every_pair
@pytest.mark.parametrize("loss", [Trace_ELBO, TraceMeanField_ELBO])
def test_bound_is_finite_and_reaches_every_parameter(key: str, guide: str, loss) -> None:
    m, g = make(key, guide)
    value = loss()(m, g)(data(m), LENGTHS)
    assert torch.isfinite(value)
    value.backward()
    for name, p in itertools.chain(m.named_parameters("model"), g.named_parameters("guide")):
        assert p.grad is not None, name
        assert torch.isfinite(p.grad).all(), name
        assert (p.grad != 0).any(), name


# --- one declaration, two executions


@every_model
def test_steps_equal_the_fast_pass(key: str) -> None:
    m, _ = make(key)
    x, given = data(m), latents(m)
    z = given["z"]
    fast = log_joint(m, given, x)

    def slow(path: Tensor) -> Tensor:
        return log_joint(m.steps, given | {f"z_{t}": path[:, t : t + 1] for t in range(T)}, x)

    torch.testing.assert_close(slow(z), fast, rtol=1e-12, atol=0)
    assert abs(slow(z.roll(1, -2)) / fast - 1) > 1e-6


def test_a_memory_that_forgets_is_noticed(monkeypatch) -> None:
    """The control: without its state, frame by frame is not the fast pass."""
    read = Memory.forward
    monkeypatch.setattr(Memory, "forward", lambda self, u, state=None: read(self, u))
    for key in ("rvae-causal", "toy-storn", "toy-vrnn"):
        with pytest.raises(AssertionError, match="Scalars are not close"):
            test_steps_equal_the_fast_pass(key)


@every_model
def test_the_fast_program_may_draw_its_latents_itself(key: str) -> None:
    """The likelihood of a path drawn from the prior is that of the same path given."""
    m, _ = make(key)
    x = data(m)
    trace = poutine.trace(m).get_trace(x)
    drawn = {n: trace.nodes[n]["value"].clone() for n in trace.stochastic_nodes if n != BATCH}
    given = log_joint(m, drawn, x)
    torch.testing.assert_close(trace.log_prob_sum(), given, rtol=1e-12, atol=0)


@every_model
def test_generation_goes_by_steps(key: str) -> None:
    m, _ = make(key)
    trace = poutine.trace(m.generate).get_trace(T, 2)
    z, x = trace.nodes["_RETURN"]["value"]
    assert z.shape == (2, T, D)
    assert x.shape == (2, T, F)
    assert x.dtype == data(m).dtype
    sites = [n for n in trace.stochastic_nodes if n != BATCH]
    pairs = [(f"z_{t}", f"x_{t}") for t in range(T)]
    frames = itertools.chain(*(pairs if m.causal else zip(*pairs, strict=True)))
    assert sites == [*([SEGMENT] if m.segment else []), *frames]
    given = log_joint(m, {n: trace.nodes[n]["value"] for n in sites} | {"z": z}, x)
    torch.testing.assert_close(trace.log_prob_sum(), given, rtol=1e-12, atol=0)
    with pytest.raises(ValueError, match=r"either x .* or frames"):
        m.steps()


def test_sequences_of_another_shape_are_refused() -> None:
    for program in (*make("vae"), make("rvae")[0].steps):
        for bad in (spectra()[0], spectra(bins=F + 1), spectra(frames=0)):
            with pytest.raises(ValueError, match=r"sequences \(B, T, F\) with F = 5"):
                program(bad)


# --- batches and padding


@every_pair
def test_a_batch_is_a_loop_over_its_sequences(key: str, guide: str) -> None:
    """Whole or ragged: each sequence counts as it does alone."""
    m, g = make(key, guide)
    x, given = data(m), latents(m)

    def one(i: int, n: int = T) -> tuple[dict[str, Tensor], Tensor]:
        values = {k: v[i, None] for k, v in given.items()}
        return values | {"z": values["z"][:, :n]}, x[i, None, :n]

    for program in (m, g):
        whole, ragged = (log_joint(program, given, x, n) for n in (None, LENGTHS))
        alone = [log_joint(program, *one(i)) for i in range(B)]
        cut = [log_joint(program, *one(i, n)) for i, n in enumerate(LENGTHS.tolist())]
        torch.testing.assert_close(whole, torch.stack(alone).sum(), **EXACT)
        torch.testing.assert_close(ragged, torch.stack(cut).sum(), **EXACT)


@pytest.mark.parametrize("pair", [("rvae", "meanfield"), ("vae", "smoother"), ("rvae-causal", "paper")])
def test_reversing_with_the_padding_is_noticed(pair: tuple[str, str], monkeypatch) -> None:
    """The control: backward memories have to start at each sequence's own end."""
    read = Summary.forward
    monkeypatch.setattr(Summary, "forward", lambda self, u, lengths=None: read(self, u))
    for test in (test_a_batch_is_a_loop_over_its_sequences, test_padding_is_never_looked_at):
        with pytest.raises(AssertionError):
            test(*pair)


@every_pair
def test_padding_is_never_looked_at(key: str, guide: str) -> None:
    m, g = make(key, guide)
    x, given = data(m), latents(m)
    for frame, irrelevant in ((T - 1, True), (1, False)):
        for which in range(2):
            other = [x.clone(), given["z"].clone()]
            other[which][1:, frame] += 5
            for program in (m, g):
                a = log_joint(program, given, x, LENGTHS)
                b = log_joint(program, given | {"z": other[1]}, other[0], LENGTHS)
                assert torch.equal(a, b) == irrelevant


# --- who sees what


@every_model
def test_causality(key: str) -> None:
    m, _ = make(key)
    x, z = data(m), torch.randn(B, T, D, dtype=torch.double)
    memo = m.begin(B)
    below, until = torch.ones(T, T).tril(-1) > 0, torch.ones(T, T).tril() > 0
    for i in range(2):
        by_z = moved(lambda v: per_frame(m, v, x, memo)[i], z)  # noqa: B023 (used at once)
        by_x = moved(lambda v: per_frame(m, z, v, memo)[i], x)  # noqa: B023
        allowed = until if i == 1 and m.causal else below
        if m.causal or i == 0:
            assert not (by_z & ~allowed).any()
        else:
            assert by_z.all()  # the non-causal ones see all: the test can tell
        assert not (by_x & ~below).any()
        assert by_x.any() == (m.feedback and (m.recursive or i == 1))
        assert by_z.any() == (m.recursive or i == 1)


PASTS, BOOLS = ("none", "previous", "all"), (False, True)
SIGHTS = [Sees(z, past, True, future) for z, past, future in itertools.product(PASTS, BOOLS, BOOLS)]


def claimed(sees: Sees) -> tuple[Tensor, Tensor]:
    """The matrices of ``moved`` that a guide's ``Sees`` stands for: of x and of z."""
    t, s = torch.meshgrid(torch.arange(T), torch.arange(T), indexing="ij")
    of_x = ((s < t) & sees.x_past) | ((s == t) & sees.x_present) | ((s > t) & sees.x_future)
    of_z = {"none": s < 0, "previous": s == t - 1, "all": s < t}[sees.z_past]
    return of_x, of_z


def seen(g: Guide, x: Tensor) -> tuple[Tensor, Tensor]:
    """What it does look at, given w."""
    z = torch.randn(B, T, D, dtype=torch.double)
    w = g.begin(x, None)
    f = [lambda v: g.posterior(v, shared=w).along(z), lambda v: g.posterior(x, shared=w).along(v)]
    both = [
        moved(lambda v, f=f: torch.cat([f(v).mean, f(v).variance], -1), u)
        for f, u in zip(f, (x, z), strict=True)
    ]
    return both[0], both[1]


@pytest.mark.parametrize("sees", SIGHTS, ids=str)
def test_a_guide_sees_what_it_claims(sees: Sees) -> None:
    g = RecurrentGuide(make("vae")[0], sees, H).double()
    actual = seen(g, spectra())
    for shown, claim in zip(actual, claimed(sees), strict=True):
        assert torch.equal(shown, claim)
    # The control: nobody else's claim would pass.
    assert [s for s in SIGHTS if all(map(torch.equal, actual, claimed(s)))] == [sees]


@every_pair
def test_every_guide_of_a_model_sees_what_it_claims(key: str, guide: str) -> None:
    m, g = make(key, guide)
    for shown, claim in zip(seen(g, data(m)), claimed(g.sees), strict=True):
        assert torch.equal(shown, claim)


def test_claims_read_as_factors() -> None:
    assert str(Sees("all", False, True, True)) == "q(z_t | z_{<t}, x_{t:T})"
    assert str(Sees("none", False, False, False)) == "q(z_t)"
    assert len({str(s) for s in SIGHTS}) == len(SIGHTS)


def test_guides_that_do_not_exist_are_refused() -> None:
    model, _ = make("toy-dkf")
    for key, sentence in (("no", "No guide is called 'no'; there are: paper,"), ("paper", "for ToyDKF")):
        with pytest.raises(ValueError, match=sentence):
            make_guide(model, key)
    with pytest.raises(ValueError, match="must see the present frame"):
        RecurrentGuide(model, Sees(x_present=False), H)
