"""The general DVAE: its equations by hand, and what its guide owns."""

from __future__ import annotations

import copy

import pytest
import torch
from pyro.infer.inspect import get_dependencies
from torch import Tensor
from toys import B, D, H, T, latents, make, moved, spectra

from pyrodvae.models.general import GeneralDVAE, GeneralGuide
from pyrodvae.nets import shift
from pyrodvae.program import local_parameters


@pytest.fixture(autouse=True)
def local():
    with local_parameters():
        yield


def recursion(rnn: torch.nn.RNN, u: Tensor, leak: float = 0.0) -> Tensor:
    """h_t = tanh(W u_t + U h_{t-1} + b), frame by frame."""
    h, path = torch.zeros(len(u), rnn.hidden_size, dtype=u.dtype), []
    for u_t in u.unbind(1):
        inner = u_t @ rnn.weight_ih_l0.T + h @ rnn.weight_hh_l0.T + rnn.bias_ih_l0 + rnn.bias_hh_l0
        h = inner.tanh() + leak
        path.append(h)
    return torch.stack(path, 1)


@pytest.mark.parametrize("leak", [0.0, 1e-3])
def test_one_recursion_carries_prior_and_emission(leak: float) -> None:
    m, _ = make("dvae")
    assert isinstance(m, GeneralDVAE)
    x, z = spectra(), latents(m)["z"]
    h = recursion(m.memory.rnn, torch.cat([m.read(shift(x)), shift(z)], -1), leak)
    mean, log_variance = m.drift(h).chunk(2, -1)
    prior = m.prior(x)
    p_z, p_x = prior.along(z), m.likelihood(z, x, prior)
    wanted = m.head(m.decoder(torch.cat([z, h], -1))).variance
    same = torch.allclose(p_z.mean, mean, rtol=1e-12, atol=1e-12)
    assert same == torch.allclose(p_z.variance, log_variance.exp(), rtol=1e-12, atol=0)
    assert same == torch.allclose(p_x.variance, wanted, rtol=1e-12, atol=0)
    assert same == (leak == 0)  # another recursion is noticed


@pytest.mark.parametrize("turned", [True, False])
def test_the_guide_goes_forward_on_what_was_and_backward_on_x(turned: bool) -> None:
    m, g = make("dvae", "paper")
    assert isinstance(g, GeneralGuide)
    x, z = spectra(), latents(m)["z"]
    h = recursion(g.memory.rnn, torch.cat([g.read(shift(x)), shift(z)], -1))
    y = g.read(x)
    back = recursion(g.summary.rnn, y.flip(1)).flip(1) if turned else recursion(g.summary.rnn, y)
    mean = g.head(g.combined(torch.cat([h, back], -1))).chunk(2, -1)[0]
    given = g.posterior(x).along(z).mean
    assert torch.allclose(given, mean, rtol=1e-12, atol=1e-12) == turned


def test_nothing_of_the_past_is_left_out() -> None:
    """z_t has all of z and x before it, x_t besides them z_t: in the graph and in the numbers."""
    m, _ = make("dvae")
    found = get_dependencies(m.steps, model_kwargs={"frames": 4})["prior_dependencies"]
    for t in range(4):
        before = {f"{v}_{s}" for v in "xz" for s in range(t)}
        assert set(found[f"z_{t}"]) - {"batch"} == before | {f"z_{t}"}
        assert set(found[f"x_{t}"]) - {"batch"} == before | {f"z_{t}", f"x_{t}"}
    x, z = spectra(), latents(m)["z"]
    below = torch.ones(T, T).tril(-1) > 0
    assert torch.equal(moved(lambda v: m.prior(v).along(z).mean, x), below)
    assert torch.equal(moved(lambda v: m.prior(x).along(v).mean, z), below)


def test_the_guide_owns_its_weights() -> None:
    """A copy may be fine-tuned, and the model stays what it is."""
    m, g = make("dvae", "paper")
    assert not {id(p) for p in m.parameters()} & {id(p) for p in g.parameters()}
    before, x = [p.clone() for p in m.parameters()], spectra()
    copied = copy.deepcopy(g)
    with torch.no_grad():
        for p in copied.parameters():
            p.add_(1)
    assert all(map(torch.equal, before, m.parameters()))
    z = torch.zeros(B, T, D, dtype=torch.double)
    assert not torch.equal(copied.posterior(x).along(z).mean, g.posterior(x).along(z).mean)


def test_sizes() -> None:
    m, deep = GeneralDVAE(5, D, H, dense=[]), GeneralDVAE(5, D, H, dense=[7, 6])
    assert len(m.decoder) == 0
    assert m.head.output.in_features == D + H
    assert [layer.out_features for layer in deep.decoder if isinstance(layer, torch.nn.Linear)] == [7, 6]
    guide = GeneralGuide(m, make("dvae", "paper")[1].sees, H, after=[])
    assert guide(spectra(dtype=torch.cfloat)).shape == (B, T, D)
