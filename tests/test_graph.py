"""Graphs from programs: arrows, blankets and separations against brute force and by hand."""

from __future__ import annotations

import itertools
from pathlib import Path

import networkx as nx
import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer.inspect import get_model_relations
from toys import EVERY, make

from pyrodvae.cli import main
from pyrodvae.graph import Graph, certificate, graph_of, posterior, trace_graph
from pyrodvae.models import MODELS
from pyrodvae.program import local_parameters

LECTURE = {
    **{"A": "C", "B": "D", "C": "", "D": "", "E": "AB", "F": "A", "G": "", "H": "I", "I": "EJ", "J": "G"}
}
"""A, B → E → I ← J, with others around it."""


def random_graph(nodes: int, density: float) -> Graph:
    """Arrows from lower to higher letters, each with the same probability."""
    arrow = torch.rand(nodes, nodes) < density
    return Graph({f"v{j}": [f"v{i}" for i in range(j) if arrow[i, j]] for j in range(nodes)})


def drawn_sets(graph: Graph) -> tuple[set[str], set[str], set[str]]:
    """Three disjoint sets of its variables, the first two of one or two."""
    names = [graph.nodes[i] for i in torch.randperm(len(graph.nodes))]
    a, b, given = (int(torch.randint(1, 3, ())), int(torch.randint(1, 3, ())), int(torch.randint(0, 4, ())))
    return set(names[:a]), set(names[a : a + b]), set(names[a + b : a + b + given])


def separated_in_the_moral_graph(
    graph: Graph, a: set[str], b: set[str], given: set[str], marry: bool = True
) -> bool:
    """Lauritzen's criterion: marry the parents among the ancestors, drop arrowheads, cut at what is given."""
    kept, wave = set[str](), a | b | given
    while wave:
        kept |= wave
        wave = {p for n in wave for p in graph.parents(n)} - kept
    edges = {frozenset((p, n)) for n in kept for p in graph.parents(n)}
    if marry:
        edges |= {frozenset(pair) for n in kept for pair in itertools.combinations(graph.parents(n), 2)}
    reached, wave = set[str](), set(a)
    while wave:
        reached |= wave
        wave = {m for n in wave for e in edges if n in e for m in e} - reached - given
    return not reached & b


def is_open(graph: Graph, nodes: tuple[str, ...], given: set[str]) -> bool:
    """By the definition, node by node."""
    for left, node, right in zip(nodes, nodes[1:], nodes[2:], strict=False):
        if {left, right} <= set(graph.parents(node)):
            if not graph.descendants(node) & given:
                return False
        elif node in given:
            return False
    return all(b in graph.neighbours(a) for a, b in itertools.pairwise(nodes))


# Graphs.


def test_the_blanket_of_the_lecture() -> None:
    graph = Graph(LECTURE)
    assert graph.parents("E") == ("A", "B")
    assert graph.children("E") == ("I",)
    assert graph.coparents("E") == ("J",)
    assert set(graph.markov_blanket("E")) == {"A", "B", "I", "J"}
    assert all(graph.d_separated("E", n, graph.markov_blanket("E")) for n in "CDFGH")
    assert not any(graph.d_separated("E", n, set("ABIJ") - {n}) for n in "ABIJ")
    assert set(Graph({**LECTURE, "I": "E"}).markov_blanket("E")) == {"A", "B", "I"}


def test_separation_is_that_of_the_moral_graph() -> None:
    verdicts: list[bool] = []
    unmarried: list[bool] = []
    for i in range(500):
        graph = random_graph(8, 0.15 + 0.3 * (i % 2))
        a, b, given = drawn_sets(graph)
        separated = graph.d_separated(a, b, given)
        g = nx.DiGraph(graph.arrows)
        g.add_nodes_from(graph.nodes)
        assert separated == separated_in_the_moral_graph(graph, a, b, given)
        assert separated == nx.is_d_separator(g, a, b, given)
        verdicts.append(separated)
        unmarried.append(separated_in_the_moral_graph(graph, a, b, given, marry=False))
    assert 100 < sum(verdicts) < 400
    assert verdicts != unmarried


def test_the_trail_shown_is_open() -> None:
    shown = 0
    for _ in range(100):
        graph = random_graph(6, 0.4)
        a, b, given = (f"v{i}" for i in torch.randperm(6)[:3])
        trail = graph.open_trail(a, b, given)
        every = list(graph.open_trails(a, b, given))
        assert (trail is None) == (not every)
        assert len({t.nodes for t in every}) == len(every)
        skeleton = nx.Graph(graph.arrows)
        skeleton.add_nodes_from(graph.nodes)
        by_definition = [p for p in nx.all_simple_paths(skeleton, a, b) if is_open(graph, tuple(p), {given})]
        assert sorted(t.nodes for t in every) == sorted(map(tuple, by_definition))
        if trail is not None:
            shown += 1
            assert trail.nodes in {t.nodes for t in every}
            assert len(trail.nodes) == min(len(t.nodes) for t in every)
    assert 20 < shown < 100


def test_a_trail_in_words() -> None:
    graph = Graph(LECTURE)
    assert graph.open_trail("A", "J") is None
    trail = graph.open_trail("A", "J", "H")
    assert str(trail) == "A → E → I ← J"
    assert trail is not None
    assert trail.sentence() == "A → E → I ← J is open: H, a descendant of I, is given."
    assert graph.open_trail("A", "J", {"H", "E"}) is None
    across = graph.open_trail("F", "E")
    assert across is not None
    assert across.sentence() == "F ← A → E is open: nothing on it is given."


def test_a_graph_in_lines() -> None:
    assert str(Graph({"a": "", "b": "a", "c": "ab"}, "c", deterministic="b", notes=["A note."])) == (
        "a\nb ← a (deterministic)\nc ← a, b (observed)\nA note."
    )
    lines = str(graph_of(make("kalman")[0])).splitlines()
    assert lines[:4] == ["z_0", "x_0 ← z_0 (observed)", "z_1 ← z_0", "x_1 ← z_1 (observed)"]
    srnn = str(graph_of(make("srnn")[0])).splitlines()
    assert "z_1 ← z_0, x_0" in srnn  # other arrows, other lines


def test_needs_are_the_least_that_screens_off_the_rest() -> None:
    for _ in range(60):
        graph = random_graph(6, 0.4)
        node, *given = (f"v{i}" for i in torch.randperm(6)[:5])

        def screens(kept: tuple[str, ...], graph=graph, node=node, given=given) -> bool:
            rest = set(given) - set(kept)
            return not rest or graph.d_separated(node, rest, kept)

        every = [s for k in range(5) for s in itertools.combinations(given, k) if screens(s)]
        least = min(every, key=len)
        assert set(graph.needs(node, given)) == set(least)
        assert all(set(least) <= set(s) for s in every)


def test_a_separator_has_nothing_to_spare() -> None:
    found = 0
    for _ in range(100):
        graph = random_graph(7, 0.3)
        a, b = (f"v{i}" for i in torch.randperm(7)[:2])
        others = set(graph.nodes) - {a, b}
        sets = [set(s) for k in range(6) for s in itertools.combinations(sorted(others), k)]
        any_at_all = any(graph.d_separated(a, b, s) for s in sets)
        separator = graph.separator(a, b)
        assert (separator is not None) == any_at_all
        for left_out in separator or ():
            assert not graph.d_separated(a, b, set(separator or ()) - {left_out})
        found += bool(separator)
    assert found > 10
    chain = Graph({"a": "", "b": "a", "c": "b"})
    assert chain.separator("a", "c") == ("b",)
    assert chain.separator("a", "c", among="a") is None


def test_what_is_no_graph_is_told() -> None:
    with pytest.raises(ValueError, match="The arrows form a cycle: "):
        Graph({"a": "b", "b": "a"})
    with pytest.raises(ValueError, match="no variable 'c'"):
        Graph({"a": "c"})
    graph = Graph(LECTURE)
    with pytest.raises(ValueError, match="no variable 'Z'"):
        graph.markov_blanket("Z")
    with pytest.raises(ValueError, match="A is on both sides"):
        graph.d_separated("A", "B", {"A"})


# From programs to graphs.


@pytest.mark.parametrize("key", EVERY)
def test_our_programs_forge_no_arrows(key: str) -> None:
    """Derivatives refute none of those that Pyro finds."""
    model, _ = make(key, dtype=torch.float)
    graph = graph_of(model)
    with local_parameters():
        pyros = get_model_relations(model.steps, (), {"frames": 5})["sample_sample"]
    assert {n: set(graph.parents(n)) for n in graph.nodes} == {
        n: {*p} for n, p in pyros.items() if n != "batch"
    }
    assert graph.observed == {f"x_{t}" for t in range(5)}
    assert not graph.notes


def forger() -> None:
    z, y = (pyro.sample(name, dist.Normal(0.0, 1.0)) for name in "zy")
    pyro.sample("like", dist.Normal(torch.zeros_like(z), 1.0))
    pyro.sample("new", dist.Normal(0.0, z.new_ones(())))
    pyro.sample("times", dist.Normal(z * 0, 1.0))
    pyro.sample("stack", dist.Normal(torch.stack([z, y])[1], 1.0))


def test_forged_arrows_are_refuted() -> None:
    graph = trace_graph(forger)
    assert graph.arrows == (("y", "stack"),)
    assert not graph.notes
    believed = get_model_relations(forger)["sample_sample"]
    assert all("z" in believed[name] for name in ("like", "new", "times", "stack"))


def opaque() -> None:
    z = pyro.sample("z", dist.Normal(0.0, 1.0))
    pyro.sample("detached", dist.Normal(z.detach(), 1.0))
    pyro.sample("compared", dist.Normal((z > 0).float(), 1.0))
    pyro.sample("far", dist.Normal((z > 1e6).float(), 1.0))
    pyro.sample("number", dist.Normal(z.item(), 1.0))


def test_what_derivatives_cannot_tell_is_reported() -> None:
    graph = trace_graph(opaque)
    assert graph.children("z") == ("detached", "compared", "far", "number")
    notes = dict(zip(("compared", "detached", "far", "number"), graph.notes, strict=True))
    assert notes["compared"].startswith("z → compared is kept: no derivative passes")
    assert notes["detached"].startswith("z → detached is kept: no derivative passes")
    assert "not made sure of" in notes["far"]
    assert "leaves torch" in notes["number"]
    assert "number" not in get_model_relations(opaque)["sample_sample"]["z"]


def test_a_program_whose_arrows_depend_on_values() -> None:
    def either() -> None:
        a, b = (pyro.sample(name, dist.Normal(0.0, 1.0)) for name in "ab")
        which = pyro.sample("which", dist.Bernoulli(torch.tensor(0.01)))
        pyro.sample("y", dist.Normal(a if which > 0 else b, 1.0))

    graph = trace_graph(either)
    assert graph.parents("y") == ("a", "b", "which")
    assert any(note.startswith("a → y is there in some runs only") for note in graph.notes)


def extra_site() -> None:
    z = pyro.sample("z", dist.Normal(3.0, 1.0))
    if z > 0:
        pyro.sample("positive", dist.Normal(z, 1.0))


def sites_by_chance() -> None:
    for i in range(int(torch.randint(1, 9, ()))):
        pyro.sample(f"y_{i}", dist.Normal(0.0, 1.0))


def twins() -> None:
    for _ in range(2):
        pyro.sample("twin", dist.Normal(0.0, 1.0))


@pytest.mark.parametrize(
    ("program", "words"),
    [
        (extra_site, "'positive' is in some runs only"),
        (sites_by_chance, "depend on values or on chance"),
        (twins, "Two sites are called 'twin'"),
        (lambda: None, "no pyro.sample site"),
    ],
)
def test_programs_without_one_graph(program, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        trace_graph(program)


def test_what_has_no_frames_to_draw() -> None:
    model, _ = make("kalman")
    with pytest.raises(ValueError, match="A graph of 0 frames has no variables: give 5, or 1 at least"):
        graph_of(model, 0)
    with pytest.raises(ValueError, match=r"extra_site is not a DVAE.* trace_graph\(program, \*args\)"):
        graph_of(extra_site)
    assert graph_of(model, 1).nodes == ("z_0", "x_0")


@pytest.mark.parametrize("order", [["z_4"], [], ["z_0", "z_0", "z_1"], ["z_0", "z_1", "x_2"]])
def test_an_order_that_is_not_one_of_all_latents(order: list[str]) -> None:
    graph = graph_of(make("kalman")[0], 3)
    said = f"The order names {', '.join(order) or 'nothing'} and the graph has the latents z_0, z_1, z_2: "
    with pytest.raises(ValueError, match=said):
        posterior(graph, order)
    assert str(posterior(graph, ["z_2", "z_1", "z_0"])).endswith("q(z_t | z_{t+1}, x_{1:t})")


def test_data_fed_back_past_their_site() -> None:
    def walk(x: torch.Tensor, honest: bool) -> None:
        before = torch.zeros(())
        for t in range(3):
            value = pyro.sample(f"x_{t}", dist.Normal(before, 1.0), obs=x[t])
            before = value if honest else x[t]

    x = torch.randn(3)
    honest, past = (trace_graph(walk, x, honest) for honest in (True, False))
    assert honest.arrows == (("x_0", "x_1"), ("x_1", "x_2"))
    assert honest.observed == {"x_0", "x_1", "x_2"}
    assert not honest.notes
    assert not past.arrows
    assert past.notes[0].startswith("x_1 looks at the argument that x_0 observes.")


def test_deterministic_sites_are_passed_through_or_shown() -> None:
    def program() -> None:
        z = pyro.sample("z", dist.Normal(0.0, 1.0))
        y = pyro.deterministic("y", 2 * z)
        pyro.sample("x", dist.Normal(y, 1.0), obs=torch.zeros(()))

    assert trace_graph(program).arrows == (("z", "x"),)
    shown = trace_graph(program, deterministic=True)
    assert shown.arrows == (("z", "y"), ("y", "x"))
    assert (shown.latent, shown.deterministic, shown.observed) == (("z",), {"y"}, {"x"})
    assert shown.families == {"z": "Normal", "y": "Delta", "x": "Normal"}


# Programs of others.


def switching(x: torch.Tensor) -> None:
    """A linear state whose noise is switched by a Markov chain."""
    change, noise = torch.tensor([[0.9, 0.1], [0.2, 0.8]]), torch.tensor([0.1, 1.0])
    s, z = torch.tensor(0), torch.zeros(())
    for t in pyro.markov(range(len(x))):
        s = pyro.sample(f"s_{t}", dist.Categorical(change[s]), infer={"enumerate": "parallel"})
        z = pyro.sample(f"z_{t}", dist.Normal(0.9 * z, noise[s]))
        pyro.sample(f"x_{t}", dist.Normal(z, 0.5), obs=x[t])


def schools(group: torch.Tensor, hours: torch.Tensor, y: torch.Tensor) -> None:
    """A hierarchical regression: intercepts by school around a common mean, one slope."""
    mean = pyro.sample("mean", dist.Normal(0.0, 5.0))
    spread = pyro.sample("spread", dist.HalfNormal(2.0))
    slope = pyro.sample("slope", dist.Normal(0.0, 1.0))
    noise = pyro.sample("noise", dist.HalfNormal(1.0))
    with pyro.plate("schools", 3):
        intercept = pyro.sample("intercept", dist.Normal(mean, spread))
    with pyro.plate("pupils", len(y)):
        pyro.sample("y", dist.Normal(intercept[group] + slope * hours, noise), obs=y)


def test_a_switching_state_space() -> None:
    graph = trace_graph(switching, torch.randn(5))
    assert not graph.notes
    assert graph.families["s_0"] == "Categorical"
    assert set(graph.markov_blanket("z_2")) == {"s_2", "z_1", "z_3", "s_3", "x_2"}
    assert set(graph.markov_blanket("s_2")) == {"s_1", "s_3", "z_2", "z_1"}
    q = posterior(graph)
    assert str(q) == (
        "q(s_{1:T}, z_{1:T} | x_{1:T}) = "
        "∏_t q(s_t | s_{t-1}, z_{t-1}, x_{t:T}) q(z_t | s_t, z_{t-1}, x_{t:T})"
    )
    assert certificate(graph, "s").reach == 1


def test_a_hierarchical_regression() -> None:
    graph = trace_graph(schools, torch.tensor([0, 0, 1, 1, 2, 2]), torch.rand(6), torch.randn(6))
    assert not graph.notes
    assert (graph.plates["intercept"], graph.plates["y"]) == (("schools",), ("pupils",))
    assert graph.markov_blanket("mean") == ("spread", "intercept")
    assert set(graph.markov_blanket("intercept")) == {"mean", "spread", "y", "slope", "noise"}
    assert graph.d_separated({"mean", "spread"}, "y", {"intercept", "slope", "noise"})
    assert graph.separator("mean", "y") == ("intercept",)
    assert str(posterior(graph, ("intercept", "slope", "noise", "mean", "spread"))) == (
        "q(intercept, slope, noise, mean, spread | y) = q(intercept | y) q(slope | intercept, y) "
        "q(noise | slope, intercept, y) q(mean | intercept) q(spread | mean, intercept)"
    )


def test_a_coin_does_not_hide_an_arrow() -> None:
    """Each x looks at its z where its coin, which is rarely up, lets it."""

    def program(hidden: bool = False) -> None:
        for t in range(12):
            c = pyro.sample(f"c_{t}", dist.Bernoulli(torch.full((1,), 0.02)).to_event(1))
            z = pyro.sample(f"z_{t}", dist.Normal(torch.zeros(1), 1.0).to_event(1))
            seen = torch.where(c > 0, 0 * z if hidden else z, torch.zeros(1))
            pyro.sample(f"x_{t}", dist.Normal(seen, 1.0).to_event(1))

    assert all(f"z_{t}" in trace_graph(program).parents(f"x_{t}") for t in range(12))
    assert not any(f"z_{t}" in trace_graph(program, True).parents(f"x_{t}") for t in range(12))


def test_a_choice_of_several_is_left_whole() -> None:
    """Elements of a one-hot vector are not turned one by one: it would be none any more."""
    seen: list[torch.Tensor] = []

    def program() -> None:
        which = pyro.sample("which", dist.OneHotCategorical(torch.ones(3) / 3))
        seen.append(which)
        pyro.sample("x", dist.Normal((which * torch.arange(3.0)).sum(), 1.0))

    assert trace_graph(program).parents("x") == ("which",)
    assert all(which.sum() == 1 for which in seen)


# Samplers.


@pytest.mark.parametrize("key", MODELS)
def test_the_declared_reach_is_certified(key: str) -> None:
    model, _ = make(key)
    found = certificate(graph_of(model))
    assert found.reach == model.reach
    turns = 5 if model.reach is None else model.reach + 1
    assert found.groups == tuple(tuple(f"z_{t}" for t in range(k, 5, turns)) for k in range(turns))


def window(length: int, ahead: int = 0) -> Graph:
    """x_t given the last so many of z, and some to come."""
    z = {f"z_{t}": [] for t in range(8)}
    x = {f"x_{t}": [f"z_{s}" for s in range(8) if t - length < s <= t + ahead] for t in range(8)}
    return Graph(z | x, x)


def test_the_certificate_of_a_window() -> None:
    found = certificate(window(3))
    assert (found.reach, len(found.groups)) == (2, 3)
    assert str(found) == (
        "Frames of z may be accepted or updated at once in 3 turns, z_0, z_3, … then z_1, z_4, … then "
        "z_2, z_5: z_0 and z_1 both enter the terms of x_1."
    )
    looks_ahead = certificate(window(1, ahead=1))
    assert (looks_ahead.reach, len(looks_ahead.groups)) == (None, 2)
    assert "No two frames" in str(certificate(window(8)))
    assert "All frames" in str(certificate(window(1)))
    with pytest.raises(ValueError, match="no latent series 'x'; it has z"):
        certificate(window(1), "x")


def test_frames_of_one_group_share_no_term() -> None:
    """The moral graph, given all else; the control moves neighbours together."""
    graph = window(3)

    def independent(a: str, b: str) -> bool:
        return graph.d_separated(a, b, set(graph.nodes) - {a, b})

    groups = certificate(graph).groups
    assert all(independent(a, b) for group in groups for a, b in itertools.combinations(group, 2))
    assert not independent("z_0", "z_2")


# The command.


def test_the_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["graph", "storn", "--frames", "4"]) == 0
    out = capsys.readouterr().out
    assert "q(z_{1:T} | x_{1:T}) = ∏_t q(z_t | z_{<t}, x_{1:T})" in out
    assert "B(z_t) = {z_{<t}, z_{>t}, x_{1:T}}" in out
    assert "paper: STORNGuide is simplified: q(z_t | x_{1:t}) misses z_{<t} and x_{>t}." in out
    assert main(["graph", "storn", "--frames", "2"]) == 1
    assert "too few" in capsys.readouterr().err
    assert main(["graph", "stern"]) == 1
    assert "'stern' is neither a model key (" in capsys.readouterr().err


def test_the_page_shows_what_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    page = (Path(__file__).parents[1] / "docs" / "graph.md").read_text().splitlines()
    for model in ("dsae", "storn"):
        main(["graph", model])
        shown = [f"    {line}" in page for line in capsys.readouterr().out.splitlines()]
        assert all(shown) == (model == "dsae")
    trail = Graph(LECTURE).open_trail("A", "J", "H")
    assert trail is not None
    text = " ".join(" ".join(page).split())
    assert (
        f"`print(trail)` shows it, `{trail}`, and `trail.sentence()` says why: `{trail.sentence()}`" in text
    )
