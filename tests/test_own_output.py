"""Models with feedback that hear only themselves."""

from __future__ import annotations

import networkx as nx
import pytest
import torch
from pyro import poutine
from pyro.infer.inspect import get_model_relations
from torch import Tensor
from toys import ALL, EVERY, B, D, F, H, T, data, make, moved, spectra

from pyrodvae.distributions import power
from pyrodvae.dvae import DVAE
from pyrodvae.models import RVAE, SRNN, STORN
from pyrodvae.own_output import OwnOutput
from pyrodvae.program import local_parameters

FED_BACK = [key for key in EVERY if make(key)[0].feedback]
EXACT = {"rtol": 1e-11, "atol": 1e-11}
every_model = pytest.mark.parametrize("key", FED_BACK)


@pytest.fixture(autouse=True)
def local():
    with local_parameters():
        yield


def own(key: str) -> OwnOutput:
    return OwnOutput(make(key)[0]).requires_grad_(False)


def path(*shape: int) -> Tensor:
    return torch.randn(*shape, B, T, D, dtype=torch.double)


def log_joint(program, values: dict[str, Tensor], *args) -> Tensor:
    return poutine.trace(poutine.condition(program, values)).get_trace(*args).log_prob_sum()


def conditionals(model: DVAE, z: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
    """Means and variances of p(z_t | past), and v."""
    prior = model.prior(x)
    p_z = prior.along(z)
    return torch.cat([p_z.mean, p_z.variance], -1), model.likelihood(z, x, prior).variance


def test_which_models_feed_back() -> None:
    assert {"storn", "vrnn", "srnn", "dvae", "toy-storn", "toy-vrnn"} == set(FED_BACK) <= set(ALL)


@every_model
def test_it_is_the_model_that_was_told_its_own_output(key: str) -> None:
    """The definition: with frames of power v in the past, the model says v."""
    m = own(key)
    z, x = path(2), spectra()
    p_z, v = conditionals(m, z, x)
    told = v.sqrt().to(x.dtype)
    for a, b in zip(conditionals(m.model, z, told), (p_z, v), strict=True):
        torch.testing.assert_close(a, b, **EXACT)
    # The control: other frames make another v.
    assert (conditionals(m.model, z, 2 * told)[1] / v - 1).abs().amax((-1, -3, -4))[1:].min() > 1e-6


@pytest.mark.parametrize("kind", ["speech", "power", "real"])
def test_an_srnn_so_wrapped_is_the_srnn_on_its_own(kind: str) -> None:
    torch.manual_seed(3)
    alone = SRNN(F, D, H, data=kind, own_share=1.0).double().requires_grad_(False)
    torch.manual_seed(3)
    wrapped = OwnOutput(SRNN(F, D, H, data=kind).double().requires_grad_(False))
    x, found = data(alone), []
    z, direction = path(), path()
    for m in (alone, wrapped, wrapped.model):
        at = z.clone().requires_grad_()
        log_p = log_joint(m, {"z": at}, x)
        torch.manual_seed(1)
        drawn = m.generate(4, 2)
        found.append([log_p, *torch.autograd.grad(log_p, at), *drawn, m.prior(x).log_prob(z + direction)])
    for a, b in zip(*found[:2], strict=True):
        torch.testing.assert_close(a, b, **EXACT)
    # The control: reading true frames is another model.
    assert (found[2][1] - found[0][1]).abs().max() > 1e-3


@every_model
def test_steps_equal_the_fast_pass(key: str) -> None:
    m, x, z = own(key), spectra(), path()

    def slow(z: Tensor) -> Tensor:
        return log_joint(m.steps, {f"z_{t}": z[:, t : t + 1] for t in range(T)}, x)

    fast = log_joint(m, {"z": z}, x)
    torch.testing.assert_close(slow(z), fast, rtol=1e-12, atol=0)
    assert abs(slow(z.roll(1, -2)) / fast - 1) > 1e-6


@every_model
def test_windows_of_any_length_take_up_where_the_last_ended(key: str) -> None:
    m, x, z = own(key), spectra(), path()
    wanted, memo, start = conditionals(m, z, x), None, 0
    before = torch.cat([0 * z[:, :1], z[:, :-1]], 1)
    for length, asked in ((2, True), (1, False), (1, False), (2, True)):
        window = slice(start, start + length)
        p_z, memo = m.transition(before[:, window], None, memo)
        moments = torch.cat([p_z.mean, p_z.variance], -1)
        torch.testing.assert_close(moments, wanted[0][:, window], **EXACT)
        if asked:  # in a draw from the prior it is not
            p_x, memo = m.emission(z[:, window], None, memo)
            torch.testing.assert_close(p_x.variance, wanted[1][:, window], **EXACT)
        start += length
    restarted = m.transition(before[:, 4:], None, None)[0]
    if EVERY[key].recursive:  # the control: a memory that forgets
        assert (restarted.mean - wanted[0][:, 4:, :D]).abs().max() > 1e-6


@every_model
def test_drawing_is_scoring(key: str) -> None:
    """A path drawn from the prior has the density of the same path given."""
    m, x = own(key), spectra()
    trace = poutine.trace(m).get_trace(x)
    z = trace.nodes["z"]["value"]
    given = log_joint(m, {"z": z.clone()}, x)
    torch.testing.assert_close(trace.log_prob_sum(), given, rtol=1e-12, atol=0)
    assert abs(log_joint(m, {"z": z + 0.1}, x) / given - 1) > 1e-6


@every_model
def test_ragged_batches_are_their_sequences(key: str) -> None:
    m, x, z, lengths = own(key), spectra(), path(), torch.tensor([T, 2, 4])
    cut = [log_joint(m, {"z": z[i, None, :n]}, x[i, None, :n]) for i, n in enumerate(lengths)]
    ragged = log_joint(m, {"z": z}, x, lengths)
    torch.testing.assert_close(ragged, torch.stack(cut).sum(), **EXACT)
    assert abs(ragged / log_joint(m, {"z": z}, x) - 1) > 1e-6


@every_model
def test_causality(key: str) -> None:
    """z_t moves nothing before itself, everything from itself on; x moves nothing."""
    m, x, z = own(key), spectra(), path()
    until = torch.ones(T, T).tril() > 0
    assert torch.equal(moved(lambda u: conditionals(m, u, x)[1], z), until)
    by_z = moved(lambda u: conditionals(m, u, x)[0], z)
    below = torch.ones(T, T).tril(-1) > 0
    assert torch.equal(by_z, below & m.model.recursive)
    for i in range(2):
        assert not moved(lambda u: conditionals(m, z, u)[i], x).any()  # noqa: B023 (used at once)
        if i == 1 or m.model.recursive:  # the control: without it, x does
            assert moved(lambda u: conditionals(m.model, z, u)[i], x).any()  # noqa: B023


def parents(model: DVAE) -> nx.DiGraph:
    found = get_model_relations(model.steps, (), {"frames": 4})["sample_sample"]
    g = nx.DiGraph((p, child) for child, ps in found.items() for p in ps if p != child)
    g.remove_nodes_from(["batch"])
    return g


@every_model
def test_its_graph_has_no_arrow_out_of_x(key: str) -> None:
    m = make(key)[0]
    assert any(p.startswith("x_") for p, _ in parents(m).edges)
    g = parents(OwnOutput(m))
    assert not any(p.startswith("x_") for p, _ in g.edges)
    assert set(g.predecessors("x_3")) == {f"z_{t}" for t in range(4)}
    assert set(g.predecessors("z_2") if "z_2" in g else ()) == ({"z_0", "z_1"} if m.recursive else set())


@every_model
def test_gradients_are_those_of_the_density(key: str) -> None:
    """Through what it reads of itself, too; against differences."""
    m, x, z = own(key), spectra(), path().requires_grad_()
    (gradient,) = torch.autograd.grad(log_joint(m, {"z": z}, x), z)
    told = conditionals(m, z.detach(), x)[1].sqrt().to(x.dtype)
    for index in ((0, 0, 0), (1, 2, 1), (2, T - 1, 0)):
        h = torch.zeros_like(z)
        h[index] = 1e-5
        with torch.no_grad():
            ends = [log_joint(m, {"z": z + s * h}, x) for s in (1, -1)]
        torch.testing.assert_close(gradient[index], (ends[0] - ends[1]) / 2e-5, rtol=1e-5, atol=1e-7)
    # The control: with what it reads held fixed, the gradient is another.
    prior = m.model.prior(told)
    log_p = prior.log_prob(z).sum() + m.model.likelihood(z, told, prior).log_prob(x).sum()
    assert (torch.autograd.grad(log_p, z)[0] - gradient).abs().max() > 1e-6


def test_what_it_reads_has_the_power_that_it_says() -> None:
    """STORN, by a loop of one's own."""
    m = own("storn")
    inner, z = m.model, path()
    assert isinstance(inner, STORN)
    state, read, v = None, torch.zeros(B, 1, F, dtype=torch.cdouble), []
    for t in range(T):
        u = torch.cat([inner.z_dense(z[:, t : t + 1]), inner.x_dense(inner.read(read))], -1)
        h, state = inner.memory(u, state)
        v.append(inner.head(inner.decoder(h)).variance)
        read = torch.polar(v[-1].sqrt(), torch.rand(v[-1].shape, dtype=torch.double))
        torch.testing.assert_close(power(read), v[-1])
    torch.testing.assert_close(conditionals(m, z, spectra())[1], torch.cat(v, 1), **EXACT)


def test_a_model_that_is_not_causal_is_refused() -> None:
    with pytest.raises(ValueError, match="RVAE is not causal: it has no frame before the others"):
        OwnOutput(RVAE(F, D, H))
