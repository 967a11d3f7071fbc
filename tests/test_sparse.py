"""Sparse latents: energies in closed form, dictionaries, and what a sparse model refuses."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from pyro import poutine
from pyro.distributions import Delta, Normal
from pyro.infer import Trace_ELBO, TraceMeanField_ELBO
from pyro.optim import Adam
from torch import Tensor
from toys import B, D, F, H, T, errors, spectra

from pyrodvae.dictionaries import FixedDictionary, LearnedDictionary, dct_atoms, make_dictionary
from pyrodvae.distributions import DiagonalNormal
from pyrodvae.energies import ENERGIES, FreeEnergies, InverseGammaEnergies
from pyrodvae.guide import Guide
from pyrodvae.guides import make_guide
from pyrodvae.models.sdm_rvae import SDMRVAE
from pyrodvae.models.sdm_vae import SDMVAE
from pyrodvae.models.sparse import SparseDVAE
from pyrodvae.objective import terms
from pyrodvae.program import local_parameters

N = 5
LENGTHS = torch.tensor([T, 2, 4])
KINDS: dict[str, type[SparseDVAE]] = {"sdm-vae": SDMVAE, "sdm-rvae": SDMRVAE}
EXACT = {"rtol": 1e-12, "atol": 1e-12}
LAWS = {"free": None, "inverse-gamma": (2.0, 0.5)}
every_kind = pytest.mark.parametrize("kind", KINDS)
every_law = pytest.mark.parametrize("law", LAWS)


@pytest.fixture(autouse=True)
def local():
    torch.manual_seed(0)
    with local_parameters():
        yield


def pair(kind: str = "sdm-vae", law: str = "free", guide: str = "paper") -> tuple[SparseDVAE, Guide]:
    m = KINDS[kind](F, D + 1, H, atoms=N, hyper=LAWS[law]).double()
    return m, make_guide(m, guide, hidden=H).double()


def gaussian(*shape: int) -> DiagonalNormal:
    return DiagonalNormal(torch.randn(*shape).double(), torch.rand(*shape).double() + 0.1)


def kl(q: DiagonalNormal, energies: Tensor) -> Tensor:
    return torch.distributions.kl_divergence(q, DiagonalNormal(torch.zeros_like(q.loc), energies.sqrt()))


# --- energies


def test_kl_at_the_best_energies_is_in_closed_form() -> None:
    q = gaussian(B, T, N)
    wanted = 0.5 * torch.log1p((q.loc / q.scale).square()).sum(-1)
    best = FreeEnergies().of(q)
    torch.testing.assert_close(kl(q, best), wanted, **EXACT)
    assert not torch.allclose(kl(q, 1.1 * best), wanted)


@every_law
def test_no_other_energies_are_better(law: str) -> None:
    """Neither on the way to the best nor beyond it; against those of another belief, there are."""
    q, laws = gaussian(B, T, N), {"free": FreeEnergies(), "inverse-gamma": InverseGammaEnergies(2.0, 0.5)}

    def bound(energies: Tensor) -> Tensor:
        return laws[law].prior(energies.shape, None, energies).log_prob(energies) - kl(q, energies).sum(-1)

    best, start = laws[law].of(q), torch.rand(B, T, N).double() + 0.1
    path = torch.stack([bound(start.lerp(best, s)) for s in torch.linspace(0, 1, 9).double()])
    assert (path.diff(dim=0) > 0).all()
    for scale in (0.8, 0.99, 1.01, 1.2):
        assert (bound(scale * best) < bound(best)).all()
    (other,) = (laws[k].of(q) for k in laws if k != law)
    assert (bound(other) < bound(best)).all()


@pytest.mark.parametrize("guide", ["paper", "smoother"])
@every_kind
def test_gradients_are_equal_with_energies_detached_or_not(kind: str, guide: str) -> None:
    m, g = pair(kind, guide=guide)
    x = spectra()

    def gradients(said) -> list[Tensor]:
        torch.manual_seed(1)
        m.zero_grad()
        g.zero_grad()
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(FreeEnergies, "of", lambda self, q: said(q))
            TraceMeanField_ELBO()(m, g)(x, LENGTHS).backward()
        return [p.grad.clone() for p in (*m.parameters(), *g.parameters())]

    detached = gradients(FreeEnergies().of)
    live = gradients(lambda q: q.mean.square() + q.variance)
    assert all(torch.allclose(a, b, rtol=1e-9, atol=1e-9) for a, b in zip(detached, live, strict=True))
    # The control: where γ is not the best, it matters.
    worse = gradients(lambda q: q.mean.square() + q.variance + 1)
    held = gradients(lambda q: (q.mean.square() + q.variance + 1).detach())
    assert not all(torch.allclose(a, b, rtol=1e-3) for a, b in zip(worse, held, strict=True))


def test_marginal_of_the_hierarchical_form_is_student() -> None:
    law = InverseGammaEnergies(1.7, 0.4)
    a = torch.linspace(-6, 6, 41).double()
    log_energy = torch.linspace(-18, 18, 20_001).double()
    energy = log_energy.exp()
    p = law.prior(torch.Size((len(energy), 1, 1)), None, a).log_prob(energy[:, None, None])

    def integral(variance: Tensor) -> Tensor:
        joint = Normal(0.0, variance.sqrt()).log_prob(a[:, None]) + p + log_energy
        return torch.trapezoid(joint.exp(), log_energy).log()

    torch.testing.assert_close(integral(energy), law.marginal().log_prob(a), rtol=1e-6, atol=0)
    assert not torch.allclose(integral(energy.square()), law.marginal().log_prob(a), rtol=1e-2)
    assert not torch.allclose(
        integral(energy), InverseGammaEnergies(1.8, 0.4).marginal().log_prob(a), rtol=1e-3
    )


@every_kind
def test_the_hierarchical_form_draws_from_its_marginal(kind: str) -> None:
    """The frame-by-frame program: P(|a| < s) for several s; that of a Gaussian of like variance is not it."""
    m = KINDS[kind](F, D + 1, H, atoms=N, hyper=(2.0, 0.5)).double()
    a, x = m.generate(4, 2000)
    assert a.shape == (2000, 4, N)
    assert x.shape == (2000, 4, F)
    s = torch.tensor([0.1, 0.3, 0.6, 1.5]).double()
    inside = (a.abs().flatten()[:, None] < s).double()
    law = InverseGammaEnergies(2.0, 0.5).marginal()
    scale, df = float(law.scale), float(law.df)
    grid = torch.linspace(-1, 1, 4001).double()
    density = torch.distributions.StudentT(torch.tensor(df).double(), 0.0, scale)
    student = torch.stack([torch.trapezoid(density.log_prob(v * grid).exp(), v * grid) for v in s])
    normal = torch.erf(s / (scale * math.sqrt(df / (df - 2)) * math.sqrt(2)) if df > 2 else s)
    assert errors(inside, student) < 5
    assert errors(inside, normal) > 5


def test_settings_of_an_inverse_gamma_are_checked() -> None:
    with pytest.raises(ValueError, match=r"positive shape and rate, not 0.0 and 1.0"):
        InverseGammaEnergies(0.0, 1.0)


# --- programs


@pytest.mark.parametrize("guide", ["paper", "filter"])
@every_law
@every_kind
def test_both_objectives_agree_in_expectation(kind: str, law: str, guide: str) -> None:
    m, g = pair(kind, law, guide)
    x = spectra(1).expand(200, -1, -1)

    def losses(objective, scale: float = 1.0) -> Tensor:
        with torch.no_grad(), poutine.scale(scale=scale):
            return torch.stack([objective()(m, g)(x) for _ in range(12)])

    analytic, sampled = losses(TraceMeanField_ELBO), losses(Trace_ELBO)
    assert analytic.std() > 0
    assert errors(analytic - sampled) < 5
    assert errors(analytic - losses(Trace_ELBO, 1.3)) > 5


def test_kl_of_a_step_is_that_of_the_closed_form() -> None:
    """Whole and ragged: of a frame-wise guide there is no chance in it."""
    m, g = pair()
    x = spectra()
    q = g.posterior(x).along(torch.zeros(B, T, N).double())
    per_frame = 0.5 * torch.log1p(q.mean.square() / q.variance).sum(-1)
    real = torch.arange(T) < LENGTHS[:, None]
    torch.testing.assert_close(terms(m, g, x)[1], per_frame.sum(-1), **EXACT)
    torch.testing.assert_close(terms(m, g, x, LENGTHS)[1], (per_frame * real).sum(-1), **EXACT)
    assert not torch.allclose(per_frame.sum(-1), (per_frame * real).sum(-1))


@every_law
@every_kind
def test_padding_is_never_looked_at(kind: str, law: str) -> None:
    m, g = pair(kind, law)
    x = spectra()
    other = x.clone()
    other[1, 2:] += 5
    a, b = ([*terms(m, g, y, LENGTHS)] for y in (x, other) if torch.manual_seed(2))
    torch.testing.assert_close(a, b, **EXACT)
    other[1, 1] += 5
    torch.manual_seed(2)
    assert not torch.allclose(terms(m, g, other, LENGTHS)[1], a[1])


@every_law
@every_kind
def test_given_energies_are_those_of_the_site(kind: str, law: str) -> None:
    """The model with its energies given, frame by frame too, is the model conditioned on their site."""
    m, _ = pair(kind, law)
    x, a, energies = spectra(), torch.randn(B, T, N).double(), torch.rand(B, T, N).double() + 0.1

    def log_joint(program, *args, **values: Tensor) -> Tensor:
        return poutine.trace(poutine.condition(program, values)).get_trace(*args).log_prob_sum()

    of_energies = m.law.prior(energies.shape, None, energies).log_prob(energies).sum()
    whole = log_joint(m, x, **{"z": a, ENERGIES: energies})
    frames = {f"z_{t}": a[:, t : t + 1] for t in range(T)}
    sites = {f"{ENERGIES}_{t}": energies[:, t : t + 1] for t in range(T)}
    torch.testing.assert_close(log_joint(m.given(energies), x, z=a) + of_energies, whole, **EXACT)
    torch.testing.assert_close(log_joint(m.steps, x, **frames, **sites), whole, **EXACT)
    torch.testing.assert_close(log_joint(m.given(energies).steps, x, **frames) + of_energies, whole, **EXACT)
    assert not torch.allclose(log_joint(m.given(energies.roll(1, 1)), x, z=a) + of_energies, whole)


def test_without_energies_there_is_no_sampling() -> None:
    m, g = pair()
    for draw in (lambda: m.generate(3), lambda: m.steps(frames=3), lambda: m(spectra())):
        with pytest.raises(ValueError, match=r"no unconditional sampling.*model.given\(γ\)"):
            draw()
    m.given(torch.ones(N)).generate(3)
    m.drawable().generate(3)
    assert pair(law="inverse-gamma")[0].drawable().known is None
    for bad in (torch.ones(N + 1), torch.zeros(N)):
        with pytest.raises(ValueError, match="Energies are positive, one for each of N = 5"):
            m.given(bad)
    with pytest.raises(ValueError, match="known for 2 frames, and frame 2 is asked for"):
        m.given(torch.ones(2, N)).generate(3)
    assert g.energies is m.energies
    assert make_guide(m.given(torch.ones(N))).energies is None


@every_kind
def test_pyros_own_svi_trains_every_parameter(kind: str) -> None:
    import pyro
    from pyro.infer import SVI

    pyro.clear_param_store()
    with pyro.settings.context(module_local_params=False):
        m, g = pair(kind)
        before = [p.detach().clone() for p in (*m.parameters(), *g.parameters())]
        svi = SVI(m, g, Adam({"lr": 1e-2}), TraceMeanField_ELBO())
        losses = [svi.step(spectra()) for _ in range(3)]
        assert all(math.isfinite(loss) for loss in losses)
        after = [*m.parameters(), *g.parameters()]
        assert all(not torch.equal(a, b) for a, b in zip(before, after, strict=True))
    pyro.clear_param_store()


def test_a_guide_holds_nothing_of_its_model() -> None:
    m, g = pair()
    of_model = {id(p) for p in m.parameters()}
    assert not of_model & {id(p) for p in copy.deepcopy(g).parameters()}
    assert sum(p.numel() for p in g.parameters()) == sum(t.numel() for t in _weights(g))
    q = poutine.trace(g).get_trace(spectra())
    assert isinstance(q.nodes[ENERGIES]["fn"], Delta)
    z = q.nodes["z"]["value"]
    assert z.shape == q.nodes[ENERGIES]["value"].shape == (B, T, N)


def _weights(g: Guide) -> list[Tensor]:
    named = dict(g.named_parameters())
    return [v for k, v in g.state_dict().items() if k in named]


@pytest.mark.parametrize("guide", ["paper", "smoother"])
def test_a_path_drawn_ahead_is_the_next_draw(guide: str) -> None:
    _, g = pair("sdm-rvae", guide=guide)
    x = spectra()
    q = g.posterior(x)
    ahead = q.draw_ahead()
    first, second = q.rsample(), q.rsample()
    torch.testing.assert_close(q.along(first).mean, ahead.mean, **EXACT)
    assert not torch.allclose(first, second)
    q.draw_ahead()
    assert q.rsample((2,)).shape == (2, B, T, N)
    torch.manual_seed(3)
    plain = g.posterior(x).rsample()
    torch.manual_seed(3)
    q = g.posterior(x)
    q.draw_ahead()
    torch.testing.assert_close(q.rsample(), plain, **EXACT)


def test_refining_goes_part_of_the_way() -> None:
    m, _ = pair()
    a, known = torch.randn(4, B, T, N).double(), torch.rand(B, T, N).double() + 0.1
    best = a.square().mean(0)
    torch.testing.assert_close(m.given(known).refined(a, 1.0).known, best, **EXACT)
    torch.testing.assert_close(m.given(known).refined(a, 0.3).known, known.lerp(best, 0.3), **EXACT)
    draws = Normal(0.0, known.sqrt()).log_prob
    tried = {s: Normal(0.0, (s * best).sqrt()).log_prob(a).sum() for s in (0.9, 1.0, 1.1)}
    assert max(tried, key=tried.__getitem__) == 1.0
    assert tried[1.0] > draws(a).sum()
    assert m.given(known).refined(torch.zeros_like(a), 1.0).known.min() > 0


# --- dictionaries


def test_atoms_are_of_unit_norm() -> None:
    for size, atoms in ((8, 3), (8, 8), (8, 64), (2, 1)):
        matrix = dct_atoms(size, atoms)
        assert matrix.shape == (size, atoms)
        torch.testing.assert_close(matrix.norm(dim=0), torch.ones(atoms))
        assert matrix[:, 1:].sum(0).abs().max() < 1e-5 if atoms > 1 else True
        assert torch.linalg.matrix_rank(matrix) == min(size, atoms)
    with pytest.raises(ValueError, match="unit norm, and column 1 has norm 2"):
        FixedDictionary(torch.diag(torch.tensor([1.0, 2.0])))
    with pytest.raises(ValueError, match="m ≥ 2 and N ≥ 1, not m = 1"):
        dct_atoms(1, 4)


def test_a_learned_dictionary_stays_of_unit_norm() -> None:
    dictionary = LearnedDictionary(4, 6)
    optimiser = torch.optim.SGD(dictionary.parameters(), 1.0)
    before = dictionary.matrix.detach().clone()
    dictionary(torch.randn(10, 6)).square().sum().backward()
    optimiser.step()
    assert not torch.allclose(dictionary.matrix, before)
    torch.testing.assert_close(dictionary.matrix.norm(dim=0), torch.ones(6))
    assert (dictionary.free.norm(dim=0) - 1).abs().max() > 1e-3  # the control: the free matrix does not


def test_dictionaries_by_their_keys() -> None:
    torch.testing.assert_close(make_dictionary("identity", 3, 3)(torch.arange(3.0)), torch.arange(3.0))
    assert not [*make_dictionary("dct", 3, 4).state_dict()]
    assert [*make_dictionary("learned", 3, 4).state_dict()]
    for bad, sentence in (
        (("identity", 3, 4), "as many atoms as the code is long, 3"),
        (("wavelet", 3, 4), "not 'wavelet'"),
    ):
        with pytest.raises(ValueError, match=sentence):
            make_dictionary(*bad)
