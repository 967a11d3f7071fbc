"""What missing arrows cost: closed forms, optimality, order, and the same of trained guides."""

from __future__ import annotations

import dataclasses
import itertools

import pytest
import torch
from dense import random_model
from torch import Tensor
from torch.distributions import MultivariateNormal, kl_divergence
from toys import ToyDKF, make

from pyrodvae import kalman
from pyrodvae.cli import main
from pyrodvae.graph import FAMILY, compliant_sight, graph_of
from pyrodvae.graph_cost import (
    Joint,
    LinearGuide,
    arrow_cost,
    best_guide,
    linear_twin,
    state_space,
    trained_cost,
)
from pyrodvae.guide import RecurrentGuide, Sees
from pyrodvae.models import Kalman
from pyrodvae.objective import terms
from pyrodvae.sequences import FitConfig, fit
from pyrodvae.signal import STFT
from pyrodvae.simulate import oscillator
from pyrodvae.weights import Run

T = 5
COMPLIANT = Sees(z_past="previous", x_future=True)
FILTER = FAMILY["filter"]
ALL = [
    Sees(z, past, present, future)
    for z in ("none", "previous", "all")
    for past, present, future in itertools.product((False, True), repeat=3)
]


@pytest.fixture
def model() -> kalman.LinearGaussian:
    torch.manual_seed(0)
    return random_model(D=2, F=2)


@pytest.fixture
def joint(model) -> Joint:
    return state_space(model, T)


def twin(key: str) -> Joint:
    return linear_twin(graph_of(make(key)[0], T))


def close(a: Tensor, b: Tensor | float, tolerance: float = 1e-8) -> bool:
    return bool(torch.all((torch.as_tensor(a) - b).abs() < tolerance))


def looks(guide: LinearGuide) -> tuple[Tensor, Tensor]:
    return guide.L != 0, guide.K != 0


# The joint Gaussian.


def test_the_joint_is_that_of_the_state_space(model, joint) -> None:
    x = joint.sample(20)
    exact = kalman.smooth(model, x)
    assert close(joint.log_evidence(x), exact.filtered.log_evidence)
    means = joint.centred(x) @ joint.regression.mT + joint.mean[: joint.latent]
    assert close(means.unflatten(-1, (T, 2)), exact.means)
    block = torch.linalg.inv(joint.precision)[2:4, 2:4]
    assert close(block, exact.covariances[0, 1])
    assert not close(block, exact.covariances[0, 2])  # another frame's


def test_draws_have_the_moments_of_the_joint(joint) -> None:
    n, u = 40_000, joint.centred(joint.sample(40_000, seed=1))
    S = joint.covariance[joint.latent :, joint.latent :]
    wanted = S.diagonal().outer(S.diagonal()) + S.square()  # n times the variance of an entry
    error = (u.mT @ u / n - S).abs() / (wanted / n).sqrt()
    assert error.max() < 5
    assert ((u.mT @ u / n - 1.1 * S).abs() / (wanted / n).sqrt()).max() > 5


def test_the_twin_of_a_kalman_model_is_a_state_space() -> None:
    one = torch.ones(1, 1, dtype=torch.double)
    exact = kalman.LinearGaussian(
        0.9**0.5 * one, 0.1 * one, 0.5**0.5 * one, 0.5 * one, torch.zeros(1, dtype=torch.double), one
    )
    assert close(twin("kalman").covariance, state_space(exact, T).covariance, 1e-12)
    assert not close(twin("srnn").covariance, state_space(exact, T).covariance, 1e-3)


@pytest.mark.parametrize("key", ["srnn", "rvae", "dsae"])
def test_a_twin_has_the_arrows_of_its_model(key: str) -> None:
    model, _ = make(key)
    graph = graph_of(model, T)
    p = linear_twin(graph)
    assert close(p.covariance.diagonal(), 1.0, 1e-12)
    order = [p.names.index(n) for n in graph.nodes]
    root = torch.linalg.cholesky(p.covariance[order][:, order])
    arrows = torch.linalg.inv(root).tril(-1).abs() > 1e-9  # entries of the map from parents to children
    found = {(graph.nodes[j], graph.nodes[i]) for i, j in arrows.nonzero().tolist()}
    assert found == {*graph.arrows}
    assert found != {*graph_of(make("kalman")[0], T).arrows}


# Gaps.


def test_the_gap_is_the_divergence_from_the_exact_posterior(model, joint) -> None:
    x = joint.sample(6)
    guide = best_guide(joint, FILTER)
    E, N = guide.E, joint.latent
    u = joint.centred(x)
    H = E.mT @ joint.precision @ E
    noise = torch.block_diag(*[torch.linalg.inv(H[i : i + 2, i : i + 2]) for i in range(0, N, 2)])
    q = MultivariateNormal(u @ (E @ guide.K).mT, E @ noise @ E.mT)
    p = MultivariateNormal(u @ joint.regression.mT, precision_matrix=joint.precision)
    assert close(guide.gaps(x), kl_divergence(q, p))
    wider = MultivariateNormal(q.mean, 1.01 * q.covariance_matrix)
    assert (kl_divergence(wider, p) > guide.gaps(x) + 1e-6).all()  # these covariances are the best


def test_the_mean_over_x_is_in_closed_form(joint) -> None:
    x = joint.sample(4000)
    for sees in (FAMILY["factorised"], FILTER):
        guide = best_guide(joint, sees)
        gaps = guide.gaps(x)
        error = gaps.std() / len(x) ** 0.5
        assert (gaps.mean() - guide.gap).abs() < 4 * error
        assert (gaps.mean() - guide.spread).abs() > 10 * error  # the error of the mean belongs to it


def test_the_compliant_guide_loses_nothing(model, joint) -> None:
    guide = best_guide(joint, COMPLIANT)
    assert close(guide.gap, 0.0)
    assert close(guide.gaps(10 * joint.sample(3)), 0.0)  # at any x
    exact = kalman.posterior_conditionals(model, joint.sample(1))
    assert close(guide.L[2:4, 0:2], exact.G[0, 1])
    for less in ({"z_past": "none"}, {"x_future": False}, {"x_present": False}):
        assert best_guide(joint, dataclasses.replace(COMPLIANT, **less)).gap > 1e-3, less


@pytest.mark.parametrize("key", ["kalman", "dkf", "srnn", "vrnn", "rvae", "dsae"])
def test_what_is_compliant_by_the_graph_loses_nothing_on_its_twin(key: str) -> None:
    model, _ = make(key)
    p, needed = twin(key), compliant_sight(model)
    assert close(best_guide(p, needed).gap, 0.0)
    fewer = "none" if needed.z_past == "previous" else "previous"
    assert best_guide(p, dataclasses.replace(needed, z_past=fewer)).gap > 1e-3
    assert best_guide(p, dataclasses.replace(needed, x_future=False)).gap > 1e-3


def test_factorised_with_all_of_x_is_half_the_difference_of_log_determinants(joint) -> None:
    guide = best_guide(joint, FAMILY["smoother without z"])
    P = joint.precision
    blocks = sum(P[i : i + 2, i : i + 2].logdet() for i in range(0, 2 * T, 2))
    wanted = 0.5 * (blocks - P.logdet())
    assert close(guide.gap, wanted)
    assert close(guide.gaps(10 * joint.sample(5)), wanted)  # for every x
    assert not close(best_guide(joint, FAMILY["factorised"]).gaps(joint.sample(5)), wanted, 1e-3)
    scalar = twin("kalman")
    P = scalar.precision
    wanted = 0.5 * (P.diagonal().log().sum() - P.logdet())
    assert close(best_guide(scalar, FAMILY["smoother without z"]).gap, wanted)
    assert wanted > 0.1


def test_what_z_and_x_cost_adds_up_where_the_past_of_x_is_seen(joint) -> None:
    gap = {name: best_guide(joint, sees).gap for name, sees in FAMILY.items()}
    assert close(gap["filter without z"], gap["smoother without z"] + gap["filter"])
    assert not close(gap["factorised"], gap["smoother without z"] + gap["filter"], 1e-3)


@pytest.mark.parametrize("key", ["kalman", "vrnn"])
def test_removing_an_arrow_never_gains(key: str) -> None:
    p = twin(key)
    gap = {sees: float(best_guide(p, sees).gap) for sees in ALL}
    rank = {"none": 0, "previous": 1, "all": 2}

    def less(a: Sees, b: Sees) -> bool:
        pairs = zip(dataclasses.astuple(a)[1:], dataclasses.astuple(b)[1:], strict=True)
        return rank[a.z_past] <= rank[b.z_past] and all(u <= v for u, v in pairs)

    below = [(a, b) for a in ALL for b in ALL if a != b and less(a, b)]
    assert all(gap[a] >= gap[b] - 1e-9 for a, b in below)
    assert any(gap[a] < gap[b] - 1e-3 for b, a in itertools.permutations(ALL, 2) if not less(b, a))
    assert sum(gap[a] > gap[b] + 1e-3 for a, b in below) > len(below) / 2


@pytest.mark.parametrize("sees", [FILTER, FAMILY["factorised"], FAMILY["filter without z"]], ids=str)
def test_no_other_linear_guide_is_better(model, sees: Sees) -> None:
    joint = state_space(model, 3)
    best = best_guide(joint, sees)
    L, K = (torch.where(at, 0.1 * torch.randn(at.shape, dtype=torch.double), 0.0) for at in looks(best))
    free = [v.requires_grad_() for v in (L, K)]
    search = torch.optim.LBFGS(free, max_iter=3000, tolerance_grad=1e-10, tolerance_change=0.0,
                               history_size=50, line_search_fn="strong_wolfe")  # fmt: skip

    def gap() -> Tensor:
        masked = (v * at for v, at in zip(free, looks(best), strict=True))
        return LinearGuide(joint, *masked).gap

    def closure() -> Tensor:
        search.zero_grad()
        value = gap()
        value.backward()
        return value

    before = gap().detach()
    search.step(closure)
    assert close(gap().detach(), best.gap)
    assert before > best.gap + 0.1


@pytest.mark.parametrize("sees", [FILTER, FAMILY["factorised"]], ids=str)
def test_the_expectation_given_what_is_seen_is_not_the_optimum(joint, sees: Sees) -> None:
    best = best_guide(joint, sees)
    both = torch.zeros(joint.latent, len(joint.mean), dtype=torch.double)
    for i, at in enumerate(torch.cat(looks(best), -1)):
        seen = at.nonzero()[:, 0]
        both[i, seen] = torch.linalg.solve(joint.covariance[seen][:, seen], joint.covariance[seen, i])
    forward = LinearGuide(joint, *both.tensor_split([joint.latent], -1))  # what log q averaged over p chooses
    assert forward.gap > best.gap + 1e-3


def test_sights_without_z_are_a_linear_system_and_see_no_more(joint) -> None:
    guide = best_guide(joint, FAMILY["filter without z"])
    assert not guide.L.any()
    frames = guide.K.unflatten(0, (T, 2)).unflatten(-1, (T, 2)).abs().amax((1, 3))
    assert not frames.triu(1).any()
    assert (frames.tril() > 0).sum() == T * (T + 1) / 2


# The table.


def test_the_table() -> None:
    x, parameters = oscillator(30, T)
    cost = arrow_cost(state_space(parameters, T), x)
    evidence = kalman.filter(parameters, x).log_evidence
    assert abs(cost.evidence - float(evidence.mean()) / T) < 1e-9
    assert close(cost.elbo + cost.measured, cost.evidence)
    assert close(cost.every + cost.amortised, cost.gap)
    names = [*FAMILY]
    for i in cost.order()[:-3]:
        assert abs(cost.measured[i] - cost.gap[i]) <= 4 * cost.error[i] + 1e-9
    at = {name: i for i, name in enumerate(names)}
    assert cost.amortised[at["smoother without z"]] == 0 < cost.every[at["smoother without z"]]
    assert close(cost.every[at["filter"]], 0.0)
    assert cost.amortised[at["filter"]] > 1e-2
    lines = str(cost).splitlines()
    assert [line.split("  ")[0] for line in lines[2:]] == [names[i] for i in cost.order()]
    assert lines[2].startswith("factorised")
    assert lines[2].count(".") >= 6
    assert " 0  " in lines[-1]


def test_the_picture(joint, tmp_path) -> None:
    cost = arrow_cost(joint, joint.sample(5), {"filter": FILTER, "compliant": COMPLIANT})
    figure = cost.plot(tmp_path / "cost.png")
    assert (tmp_path / "cost.png").read_bytes().startswith(b"\x89PNG")
    widths = [bar.get_width() for bar in figure.axes[0].patches]
    assert abs(sum(widths) - float(cost.gap.sum())) < 1e-9
    assert len(widths) == 4
    assert max(widths) > 1e-2


def test_refusals(joint, model) -> None:
    with pytest.raises(ValueError, match="T = 5 and F = 2"):
        arrow_cost(joint, torch.zeros(3, T + 1, 2))
    with pytest.raises(ValueError, match="two sequences"):
        arrow_cost(joint, joint.sample(1))
    with pytest.raises(ValueError, match="no sight"):
        arrow_cost(joint, joint.sample(2), {})
    with pytest.raises(ValueError, match="constant parameters"):
        state_space(random_model(T=4), 4)
    with pytest.raises(ValueError, match="coupling is a share"):
        linear_twin(graph_of(make("kalman")[0], T), coupling=1.0)
    with pytest.raises(ValueError, match="one sequence or more"):
        joint.sample(0)


# Trained guides.


def trained(sees: Sees, x: Tensor, epochs: int) -> Run:
    torch.manual_seed(0)
    model = Kalman(5, 2)
    guide = RecurrentGuide(model, sees, 8)
    fit(model, guide, x, FitConfig(epochs=epochs, frames=10, learning_rate=0.02))
    return Run(model, guide, STFT(), {})


def test_trained_guides_are_compared() -> None:
    x = twin_of_size(F=5, frames=10).sample(40).float()
    runs = {
        name: trained(sees, x, 25) for name, sees in {"factorised": Sees(), "backward": COMPLIANT}.items()
    }
    cost = trained_cost(runs, x[:30])
    assert cost.behind.argmin() == 1 == cost.elbo.argmax()
    assert cost.behind[0] > 4 * cost.error[0] > 0 == cost.behind[1]
    lines = str(cost).splitlines()
    assert lines[2].startswith("factorised")
    assert lines[3].split("  ")[0] == "backward"
    assert torch.equal(cost.elbo, trained_cost(runs, x[:30]).elbo)
    assert not torch.equal(cost.elbo, trained_cost(runs, x[:30], seed=1).elbo)


def twin_of_size(F: int, frames: int) -> Joint:
    """A state that x shows in F noisy copies."""
    torch.manual_seed(0)
    one = torch.eye(2, dtype=torch.double)
    B = torch.randn(F, 2, dtype=torch.double)
    R = torch.eye(F, dtype=torch.double)
    return state_space(
        kalman.LinearGaussian(0.95 * one, 0.1 * one, B, 2 * R, torch.zeros(2, dtype=torch.double), one),
        frames,
    )


def test_the_trained_elbo_is_that_of_the_objective_per_frame() -> None:
    x = torch.randn(3, 6, 5)
    lengths = torch.tensor([6, 4, 2])
    runs = {name: trained(Sees(), x, 1) for name in ("a", "b")}
    torch.manual_seed(0)
    log_p, kl = terms(runs["a"].model, runs["a"].guide, x, lengths)
    cost = trained_cost(runs, x, lengths, draws=1)
    assert close(cost.elbo, float((log_p - kl).detach().sum() / 12), 1e-5)
    assert close(cost.behind, 0.0)
    assert not close(trained_cost(runs, x, draws=1).elbo, cost.elbo, 1e-3)


def test_refusals_of_runs() -> None:
    x = torch.randn(3, 6, 5)
    run = trained(Sees(), x, 1)
    toy = ToyDKF(5, 2, 4)
    with pytest.raises(ValueError, match="two runs or more"):
        trained_cost({"a": run}, x)
    with pytest.raises(ValueError, match="Kalman with F = 5, ToyDKF with F = 5"):
        trained_cost({"a": run, "b": Run(toy, RecurrentGuide(toy, Sees(), 4), STFT(), {})}, x)
    with pytest.raises(ValueError, match="at least one draw"):
        trained_cost({"a": run, "b": run}, x, draws=0)


# The command.


def test_the_command_tells_what_the_paper_of_the_vrnn_left_out(tmp_path, capsys) -> None:
    out = tmp_path / "cost.png"
    assert main(["graph", "vrnn", "--cost", "--frames", "4", "-o", str(out)]) == 0
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    gap = {
        line[0]: line[line.index("z_{<t},") + 2] for line in lines if line[:1] in (["paper"], ["compliant"])
    }
    assert gap["compliant"] == "0"
    assert float(gap["paper"]) > 1e-3
    assert out.read_bytes().startswith(b"\x89PNG")
