"""STORN, VRNN and SRNN: frames that feed back, memories that model and guide share."""

from __future__ import annotations

import contextlib
import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from pyro import poutine
from pyro.infer import TraceMeanField_ELBO
from pyro.infer.inspect import get_model_relations
from runs import fit
from torch import Tensor
from toys import B, D, F, H, T, spectra

from pyrodvae.distributions import power
from pyrodvae.dvae import DVAE
from pyrodvae.engines import VEM
from pyrodvae.guide import Guide
from pyrodvae.models import MODELS, SRNN
from pyrodvae.models.srnn import SRNNGuide
from pyrodvae.nets import Memory, join
from pyrodvae.noise import NMFNoise
from pyrodvae.noisy import NoisySpeech
from pyrodvae.objective import terms
from pyrodvae.once import Once
from pyrodvae.potential import Target
from pyrodvae.program import local_parameters
from pyrodvae.signal import STFT
from pyrodvae.weights import base_card, load_run, make_pair, save_run

KEYS = ("storn", "vrnn", "srnn")
SHARED = {"storn": (), "vrnn": ("x_dense", "z_dense", "memory"), "srnn": ("dense", "memory")}
EXACT = {"rtol": 1e-12, "atol": 1e-12}
VARIANTS: list[tuple[str, dict[str, Any], dict[str, Any]]] = [
    ("storn", {"layers": 2, "before": [], "z_before": [], "after": []}, {"layers": 2, "after": []}),
    ("vrnn", {"layers": 2, "drift": [3], "after": [5]}, {"after": [4, 3]}),
    ("vrnn", {"before": [], "z_before": []}, {}),
    ("srnn", {"layers": 2, "before": [], "drift": [], "after": []}, {"before": [], "after": []}),
    ("srnn", {"own_share": 1.0}, {"layers": 2}),
    ("srnn", {"own_share": 1.0, "layers": 2, "data": "power"}, {}),
]


@pytest.fixture(autouse=True)
def local():
    with local_parameters():
        yield


def pair(key: str, config: dict[str, Any] | None = None, guide: dict[str, Any] | None = None):
    """A small pair with weights about twice as large as torch starts them."""
    sizes = {"observed": F, "latent": D, "hidden": H}
    m, g = make_pair(key, sizes | (config or {}), "paper", {"hidden": H} | (guide or {}))
    with torch.no_grad():
        for p in (*m.parameters(), *g.parameters()):
            p.mul_(2)
    return m.double(), g.double()


def log_joint(program, values: dict[str, Tensor], *args) -> Tensor:
    return poutine.trace(poutine.condition(program, values)).get_trace(*args).log_prob_sum()


def path() -> Tensor:
    return torch.randn(B, T, D, dtype=torch.double)


def moments(d) -> Tensor:
    return torch.cat([d.mean, d.variance], -1)


def shared(model: DVAE, key: str) -> dict[str, Tensor]:
    return {n: p for n, p in model.named_parameters() if n.split(".")[0] in SHARED[key]}


@pytest.mark.parametrize(
    ("key", "config"),
    [
        ("storn", {}),
        ("vrnn", {}),
        ("srnn", {}),
        ("srnn", {"own_share": 0.5}),
        ("srnn", {"own_share": 1.0}),
        ("dvae", {}),
    ],
)
def test_nothing_depends_on_where_real_data_have_their_zero(key: str, config: dict[str, Any]) -> None:
    """The frame before the first is their mean: the same data moved have the same bound."""
    m, g = pair(key, config | {"data": "real"})
    x, seen = torch.randn(B, T, F, dtype=torch.double), []
    for y in (x, x + 100):
        m.fit_statistics(y)
        g.fit_statistics(y)
        torch.manual_seed(0)
        with torch.no_grad():
            z, drawn = m.generate(3, 2)
            seen.append((*terms(m, g, y), z, drawn - y.mean((0, 1))))
    for one, other in zip(*seen, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize(("key", "count"), [("storn", 870113), ("vrnn", 480097), ("srnn", 884993)])
def test_default_sizes_are_the_published_ones(key: str, count: int) -> None:
    assert sum(p.numel() for part in make_pair(key) for p in part.parameters()) == count


# --- one declaration, whatever the sizes


@pytest.mark.parametrize(("key", "config", "guide"), VARIANTS)
def test_stacked_empty_and_self_fed_variants(key: str, config, guide) -> None:
    """Steps, the fast pass and the general pass agree; so do a batch, ragged or not, and its parts."""
    m, g = pair(key, config, guide)
    x, z, lengths = spectra(), path(), torch.tensor([T, 2, 4])
    fast = log_joint(m, {"z": z}, x)
    slow = log_joint(m.steps, {f"z_{t}": z[:, t : t + 1] for t in range(T)}, x)
    torch.testing.assert_close(slow, fast, rtol=1e-12, atol=0)
    for program in (m, g):
        ragged = log_joint(program, {"z": z}, x, lengths)
        cut = [log_joint(program, {"z": z[i, None, :n]}, x[i, None, :n]) for i, n in enumerate(lengths)]
        torch.testing.assert_close(ragged, torch.stack(cut).sum(), **EXACT)
    value = TraceMeanField_ELBO()(m, g)(x, lengths)
    value.backward()
    assert torch.isfinite(value)
    assert all((p.grad != 0).any() for part in (m, g) for p in part.parameters())


@pytest.mark.parametrize("key", ["vrnn", "srnn"])
def test_frames_known_beforehand_change_nothing(key: str) -> None:
    """The prior of known frames reads them once; each conditional asked by itself reads them again."""
    m, _ = pair(key)
    x = spectra()
    z = torch.randn(4, B, T, D, dtype=torch.double)
    known, general = m.prior(x), DVAE.prior(m, x)
    general.first_memo = None
    torch.testing.assert_close(moments(known.along(z)), moments(general.along(z)), **EXACT)
    torch.testing.assert_close(known.memo.h.expand(4, -1, -1, -1), general.memo.h, **EXACT)
    torch.manual_seed(1)
    drawn = m.prior(x).rsample((2,))
    torch.manual_seed(1)
    torch.testing.assert_close(general.rsample((2,)), drawn, **EXACT)


# --- what the memories have read


def test_the_memory_of_a_vrnn_is_before_the_frame() -> None:
    """h_1 is zero and h_t has read the first t - 1 frames, in the model and in its guide alike."""
    m, g = pair("vrnn", {"layers": 2})
    x, z = spectra(), path()
    prior, q = m.prior(x), g.posterior(x)
    prior.along(z), q.along(z)
    u = torch.cat([m.x_dense(m.read(x)), m.z_dense(z)], -1)
    h = prior.memo.h
    assert (h[:, 0] == 0).all()
    for t in range(1, T):
        read = m.memory.rnn(u[:, :t].transpose(0, 1))[0][-1]
        torch.testing.assert_close(h[:, t], read, **EXACT)
        assert (h[:, t] - m.memory.rnn(u[:, 1 : t + 1].transpose(0, 1))[0][-1]).abs().max() > 1e-3
    torch.testing.assert_close(q.memo.h, h, **EXACT)
    # The control: a memory that reads the zeros before the first frame, too, is another one.
    zeros = torch.zeros(B, 1, F, dtype=x.dtype), torch.zeros(B, 1, D, dtype=z.dtype)
    before = join(m.x_dense(m.read(zeros[0])), m.z_dense(zeros[1]))
    assert (m.memory(torch.cat([before, u[:, :-1]], -2))[0] - h).abs().max() > 1e-3


def test_the_guide_of_an_srnn_reads_the_model_s_memory() -> None:
    m, g = pair("srnn")
    x, z = spectra(), path()
    wanted = moments(g.posterior(x).along(z))
    h = m.memory(m.dense(m.read(torch.cat([0 * x[:, :1], x[:, :-1]], 1))))[0]
    summary = g.summary(g.dense(torch.cat([h, m.read(x)], -1)))
    before = torch.cat([0 * z[:, :1], z[:, :-1]], 1)
    mean, log_variance = g.tail(g.from_g(summary) + g.from_z(before)).chunk(2, -1)
    torch.testing.assert_close(torch.cat([mean, log_variance.exp()], -1), wanted, **EXACT)


# --- whose parameters


@pytest.mark.parametrize("key", KEYS)
def test_what_is_shared_belongs_to_the_model_and_learns_from_both(key: str) -> None:
    m, g = pair(key)
    assert not {id(p) for p in m.parameters()} & {id(p) for p in g.parameters()}
    in_guide = {v.data_ptr() for v in g.state_dict().values()}
    assert not in_guide & {v.data_ptr() for v in m.state_dict().values()}
    x, ours = spectra(), shared(m, key)
    assert bool(ours) == (key != "storn")
    g.posterior(x).rsample().sum().backward()
    for name, p in m.named_parameters():
        assert (p.grad is not None and bool((p.grad != 0).any())) == (name in ours), name
    m.zero_grad()
    (-log_joint(m, {"z": path()}, x)).backward()
    assert all((p.grad != 0).any() for p in ours.values())


@pytest.mark.parametrize("key", ["vrnn", "srnn"])
def test_copies_share_with_what_was_copied_along(key: str) -> None:
    m, g = pair(key)
    x, z = spectra(), path()
    before = moments(g.posterior(x).along(z))
    alone = copy.deepcopy(g)
    model, guide = copy.deepcopy((m, g))
    assert guide.of_model[0] is model
    assert {n for n, _ in alone.named_parameters()} == {n for n, _ in g.named_parameters()}
    with torch.no_grad():
        model.memory.rnn.bias_ih_l0.add_(1)
    assert (moments(guide.posterior(x).along(z)) - before).abs().max() > 1e-3
    with torch.no_grad():
        m.memory.rnn.bias_ih_l0.sub_(1)
    assert (moments(g.posterior(x).along(z)) - before).abs().max() > 1e-3
    torch.testing.assert_close(moments(alone.posterior(x).along(z)), before, **EXACT)


@pytest.mark.parametrize("key", ["vrnn", "srnn"])
def test_a_loaded_pair_shares_again(tmp_path: Path, key: str) -> None:
    m, g = make_pair(key, {"observed": F, "latent": D, "hidden": H}, "paper", {"hidden": H})
    save_run(tmp_path, m, g, base_card(key, m, "paper", g, STFT(window_length=8, hop=2)))
    run = load_run(tmp_path)
    x, z = spectra(dtype=torch.cfloat), path().float()
    before = moments(run.guide.posterior(x).along(z))
    assert not any(p.requires_grad for part in (run.model, run.guide) for p in part.parameters())
    run.model.memory.rnn.bias_ih_l0.add_(1)
    assert (moments(run.guide.posterior(x).along(z)) - before).abs().max() > 1e-3


# --- an SRNN on its own


def test_what_a_self_fed_memory_reads() -> None:
    """Against a loop of one's own: the power v of the frame before, and nothing of x."""
    m, _ = pair("srnn", {"own_share": 1.0, "data": "power"})
    x, z = spectra(), path()
    state, read, h = None, torch.zeros(B, 1, F, dtype=torch.double), []
    for t in range(T):
        now, state = m.memory(m.dense(read), state)
        h.append(now)
        read = m.head.output(m.decoder(torch.cat([now, z[:, t : t + 1]], -1))).exp()
    prior = m.prior(x)
    v = m.likelihood(z, x, prior).variance
    torch.testing.assert_close(prior.memo.h, torch.cat(h, 1), rtol=1e-10, atol=1e-12)
    assert torch.equal(v, m.likelihood(z, 2 * x, m.prior(2 * x)).variance)
    m.own_share = 0.0
    assert (m.likelihood(z, x, m.prior(x)).variance / v - 1).abs().max() > 1e-3


def test_real_data_stand_for_themselves_by_their_mean() -> None:
    m, _ = pair("srnn", {"own_share": 1.0, "data": "real"})
    x, z = spectra().real, path()
    mean = m.likelihood(z, x, m.prior(x)).mean
    m.own_share = 0.0
    torch.testing.assert_close(m.likelihood(z, mean, m.prior(mean)).mean, mean, **EXACT)
    assert (m.likelihood(z, x, m.prior(x)).mean - mean).abs().max() > 1e-3


def test_chance_chooses_for_each_frame_and_all_sequences(monkeypatch) -> None:
    m, _ = pair("srnn")
    x, z = spectra(), path()

    def v(share: float) -> Tensor:
        m.own_share = share
        return m.likelihood(z, x, m.prior(x)).variance

    other, own = v(0.0), v(1.0)
    torch.manual_seed(1)
    mixed = v(0.5)
    torch.manual_seed(1)
    assert torch.equal(v(0.5), mixed)
    torch.manual_seed(2)
    assert not torch.equal(v(0.5), mixed)
    draws: list[float] = []

    def chance(value: float):
        return lambda shape: torch.tensor(draws.append(value) or value)

    for value, wanted in ((0.49, own), (0.5, other)):
        monkeypatch.setattr("pyrodvae.models.srnn.torch.rand", chance(value))
        torch.testing.assert_close(v(0.5), wanted, **EXACT)
    assert len(draws) == 2 * T
    monkeypatch.setattr(
        "pyrodvae.models.srnn.torch.rand",
        lambda shape: torch.tensor(float(len(draws.append(0.0) or draws) % T != 3)),
    )
    draws.clear()
    single = v(0.5)
    torch.testing.assert_close(single[:, :2], other[:, :2], **EXACT)
    assert ((single - other)[:, 2].abs().amax(-1) > 1e-6).all()  # in every sequence


@pytest.mark.parametrize("share", [-0.1, 1.1, float("nan")])
def test_shares_that_cannot_be(share: float) -> None:
    m, _ = pair("srnn")
    for give in (lambda: SRNN(F, D, H, own_share=share), lambda: setattr(m, "own_share", share)):
        with pytest.raises(ValueError, match=f"own_share has to be from 0 to 1, not {share}"):
            give()
    m.own_share = 0.25
    assert SRNN(**m.config).own_share == 0.25


def test_a_self_fed_model_feeds_nothing_back_and_may_be_heard_in_noise() -> None:
    m, g = pair("srnn")
    x = 2 * spectra()
    noise = NMFNoise.from_quiet_frames(x, 2, torch.Generator().manual_seed(0))
    assert m.feedback
    with pytest.raises(ValueError, match="SRNN feeds clean speech frames back"):
        NoisySpeech(m, noise)
    m.own_share = 1.0
    assert not m.feedback
    mixture = NoisySpeech(m, noise)
    assert torch.isfinite(TraceMeanField_ELBO()(mixture, g)(x))
    assert mixture.speech_variance(torch.randn(4, B, T, D, dtype=torch.double)).shape == (4, B, T, F)
    z, y = m.generate(T, 2)
    assert (z.shape, y.shape) == ((2, T, D), (2, T, F))


def test_gradients_through_what_it_reads_of_its_own() -> None:
    """Whole in z once the weights are frozen; none while they are trained, as published."""
    m, _ = pair("srnn", {"own_share": 1.0})
    x, z, direction = spectra(), path(), path()

    def slope() -> float:
        at = z.clone().requires_grad_()
        (grad,) = torch.autograd.grad(log_joint(m, {"z": at}, x), at)
        return float((grad * direction).sum())

    training = slope()
    m.requires_grad_(False)
    with torch.no_grad():
        step = 1e-5 * direction
        up, down = (log_joint(m, {"z": z + s}, x) for s in (step, -step))
    numerical = float(up - down) / 2e-5
    assert slope() == pytest.approx(numerical, rel=1e-6)
    assert training != pytest.approx(numerical, rel=1e-3)


def test_the_guide_of_a_self_fed_model_still_reads_the_frames() -> None:
    m, g = pair("srnn")
    x, z = spectra(), path()
    before = moments(g.posterior(x).along(z))
    m.own_share = 1.0
    torch.testing.assert_close(moments(g.posterior(x).along(z)), before, **EXACT)


# --- what both compute, computed once


def gradients(m: DVAE, g: Guide, x: Tensor, scope) -> list[Tensor]:
    for part in (m, g):
        part.zero_grad()
    torch.manual_seed(3)
    with scope:
        loss = TraceMeanField_ELBO()(m, g)(x)
    loss.backward()
    return [p.grad.clone() for part in (m, g) for p in part.parameters()]


@pytest.mark.parametrize("key", ["vrnn", "srnn"])
def test_once_saves_work_and_changes_no_gradient(key: str, monkeypatch) -> None:
    m, g = pair(key)
    x, calls = spectra(), []
    read = type(m.read).forward

    def count(self, u: Tensor) -> Tensor:
        calls.append(self)
        return read(self, u)

    monkeypatch.setattr(type(m.read), "forward", count)
    twice = gradients(m, g, x, contextlib.nullcontext())
    assert len(calls) == 2
    once = gradients(m, g, x, Once())
    assert len(calls) == 3
    for a, b in zip(once, twice, strict=True):
        torch.testing.assert_close(a, b, **EXACT)


def test_nothing_is_kept_beyond_once() -> None:
    m, g = pair("srnn")
    assert isinstance(g, SRNNGuide)
    x, z, scope = spectra(), path(), Once()

    def now() -> Tensor:
        return moments(g.posterior(x).along(z))

    with scope:
        old = now()
        with torch.no_grad():
            m.memory.rnn.bias_ih_l0.add_(1)
            assert not now().requires_grad  # without a graph it is another computation
        assert torch.equal(now(), old)  # the control: this is why a scope is to be closed before a step
    assert not torch.equal(now(), old)
    with scope:
        assert not torch.equal(now(), old)
        assert not torch.equal(moments(g.posterior(x.clone() / 2).along(z)), now())


def test_memories_are_called_once_for_all_frames(monkeypatch) -> None:
    """In training, the only loop over frames is the one that draws z."""
    sizes: list[int] = []
    read = Memory.forward

    def record(self, u: Tensor, state=None):
        sizes.append(u.shape[-2])
        return read(self, u, state)

    monkeypatch.setattr(Memory, "forward", record)
    loop = [1] * (T - 1)
    for key, alone, shared in (
        ("storn", [T], [T]),
        ("srnn", [T, T], [T]),  # guide and model read the same frames
        ("vrnn", [*loop, T - 1], loop),  # and along the same path
    ):
        for scope, wanted in ((contextlib.nullcontext(), alone), (Once(), shared)):
            sizes.clear()
            with scope:
                TraceMeanField_ELBO()(*pair(key))(spectra())
            assert sizes == wanted, key


def test_what_a_vrnn_remembers_is_of_that_path_and_of_those_frames() -> None:
    """What the guide tells of a path it drew serves no other path, nor the same one beside other frames."""
    m, g = pair("vrnn")
    x, other = spectra(), spectra().flip(0)
    with Once():
        z = g.posterior(x).rsample((2,))
        told = moments(m.prior(x).along(z))
        elsewhere = [moments(m.prior(other).along(z)), moments(m.prior(x).along(z + 0))]
    torch.testing.assert_close(told, moments(m.prior(x).along(z)), **EXACT)
    torch.testing.assert_close(elsewhere[0], moments(m.prior(other).along(z)), **EXACT)
    torch.testing.assert_close(elsewhere[1], told, **EXACT)
    assert not torch.allclose(elsewhere[0], told)


def test_power_of_the_frame_that_stands_for_a_density() -> None:
    m, _ = pair("srnn", {"own_share": 1.0})
    h, z = torch.randn(B, 1, H, dtype=torch.double), path()[:, :1]
    frame = m._own(z, h)
    torch.testing.assert_close(power(frame), m.head(m.decoder(join(h, z))).variance, **EXACT)
    assert (m._own(z, None) == 0).all()
    assert set(KEYS) <= set(MODELS)


# --- in use


PARENTS = {
    "storn": ([], ["x_0", "x_1", "z_0", "z_1", "z_2"]),
    "vrnn": (["x_0", "x_1", "z_0", "z_1"], ["x_0", "x_1", "z_0", "z_1", "z_2"]),
    "srnn": (["x_0", "x_1", "z_1"], ["x_0", "x_1", "z_2"]),
    "srnn on its own": (["z_0", "z_1"], ["z_0", "z_1", "z_2"]),
}


@pytest.mark.parametrize("name", PARENTS)
def test_arrows_of_the_model(name: str) -> None:
    """What z_2 and x_2 are drawn from, by the trace of the program."""
    key, _, own = name.partition(" ")
    m, _ = pair(key, {"own_share": 1.0} if own else {})
    arrows = get_model_relations(m.steps, (), {"frames": 3})["sample_sample"]
    for site, wanted in zip(("z_2", "x_2"), PARENTS[name], strict=True):
        assert sorted(set(arrows[site]) - {site}) == wanted


def test_vem_fine_tunes_the_guide_of_a_self_fed_model_and_leaves_the_model_alone() -> None:
    m, g = pair("srnn", {"own_share": 1.0})
    x = 2 * spectra()
    speech = NoisySpeech(m, NMFNoise.from_quiet_frames(x, 2, torch.Generator().manual_seed(0)))
    of_model, of_guide = (copy.deepcopy(part.state_dict()) for part in (m, g))
    target, engine = Target(speech, g, (x,)), VEM(learning_rate=1e-2, steps=5)
    state, _ = engine.step(target, engine.init(target, path()[None]))
    assert all(torch.equal(v, of_model[k]) for k, v in m.state_dict().items())
    assert all(torch.equal(v, of_guide[k]) for k, v in g.state_dict().items())
    assert not any(torch.equal(p, of_guide[k]) for k, p in state.guide.named_parameters())
    copied = state.guide.of_model[0].named_parameters()
    assert all(torch.equal(p, of_model[k]) for k, p in copied)


@pytest.mark.parametrize("key", KEYS)
def test_a_run_trains_and_goes_on_where_it_stopped(key: str, corpus: Path, small, tmp_path: Path) -> None:
    whole = fit(corpus, tmp_path / "whole", key)
    assert whole.history[-1]["val_loss"] < whole.history[0]["val_loss"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("pyrodvae.trainer.Trainer.finished", lambda self: self.epoch >= 1)
        fit(corpus, tmp_path / "cut", key)
    resumed = fit(corpus, tmp_path / "cut", key, resume=True)
    assert resumed.history == whole.history
    runs = [load_run(tmp_path / name) for name in ("whole", "cut")]
    for a, b in zip(*([*run.model.parameters(), *run.guide.parameters()] for run in runs), strict=True):
        assert torch.equal(a, b)
