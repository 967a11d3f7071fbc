"""The exact posteriors that the docs state, derived from the programs, in words, signs and code."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from toys import SEEING, make

from pyrodvae.av_mixture import AVMixture
from pyrodvae.dvae import DVAE
from pyrodvae.graph import Graph, blankets, compliant_guide, compliant_sight, generative, graph_of, posterior
from pyrodvae.guide import Sees
from pyrodvae.guides import PAPER
from pyrodvae.models import MODELS

POSTERIORS: dict[str, str] = {
    "vae": "q(z_t | x_t)",
    "kalman": "q(z_t | z_{t-1}, x_{t:T})",
    "dkf": "q(z_t | z_{t-1}, x_{t:T})",
    "rvae-causal": "q(z_t | z_{<t}, x_{t:T})",
    "rvae": "q(z_t | z_{<t}, x_{1:T})",
    "srnn": "q(z_t | z_{t-1}, x_{1:T})",
    "storn": "q(z_t | z_{<t}, x_{1:T})",
    "vrnn": "q(z_t | z_{<t}, x_{1:T})",
    "dsae": "q(z_t | w, z_{<t}, x_{t:T})",
    "transformer": "q(z_t | z_{<t}, x_{t:T})",
    "dvae": "q(z_t | z_{<t}, x_{1:T})",
    "sdm-vae": "q(z_t | x_t)",
    "sdm-rvae": "q(z_t | z_{<t}, x_{1:T})",
    "vsc": "q(z_t | x_t)",
    "mixture-vae": "q(z_t | x_t)",
    "selector-vae": "q(z_t | x_t)",
    "v-vae": "q(z_t | x_t)",
    "av-vae": "q(z_t | v_t, x_t)",
    "av-dkf": "q(z_t | z_{t-1}, v_{t:T}, x_{t:T})",
    "vae-mm": "q(z_t | alpha_t, v_t, x_t)",
    "av-switch": "q(z_t | alpha_t, v_t, x_t)",
    "min-vae": "q(z_t | alpha_t, v_t, x_t)",
}


def small(key: str, **config: Any) -> DVAE:
    sizes = {} if key == "kalman" else {"hidden": 4}
    lips = {"video": 64} if key in SEEING else {}
    return MODELS[key](observed=3, latent=2, **sizes, **lips, **config)


@pytest.mark.parametrize("frames", [4, 6])
@pytest.mark.parametrize("key", MODELS)
def test_the_exact_posterior(key: str, frames: int) -> None:
    q = posterior(graph_of(small(key), frames))
    assert q["z"].text() == POSTERIORS[key]
    mixed = isinstance(small(key), AVMixture)
    rest = "∏_t " + "q(alpha_t | v_t, x_t) " * mixed + POSTERIORS[key]
    w = key == "dsae"
    given = "v_{1:T}, x_{1:T}" if key in SEEING else "x_{1:T}"
    left = (
        "q(w, z_{1:T} | x_{1:T}) = q(w | x_{1:T}) "
        if w
        else f"q({'alpha_{1:T}, ' * mixed}z_{{1:T}} | {given}) = "
    )
    assert str(q) == left + rest


def test_an_srnn_on_its_own_is_another_model() -> None:
    assert posterior(graph_of(small("srnn", own_share=1.0)))["z"].text() == "q(z_t | z_{<t}, x_{t:T})"


def test_arrows_out_of_x_decide() -> None:
    """The control: without what the frames feed back, the graph of an SRNN is that of a state space."""
    g = graph_of(small("srnn"))
    state_space = {n: [p for p in g.parents(n) if p not in g.observed] for n in g.nodes}
    q = posterior(Graph(state_space, g.observed))
    assert q["z"].text() == POSTERIORS["dkf"] != POSTERIORS["srnn"]


def test_factorisations_in_words_and_signs() -> None:
    graph = graph_of(small("dsae"))
    assert str(generative(graph)) == "p(w, z_{1:T}, x_{1:T}) = p(w) ∏_t p(z_t | z_{<t}) p(x_t | w, z_t)"
    assert posterior(graph).latex() == (
        r"q(w, z_{1:T} \mid x_{1:T}) = q(w \mid x_{1:T}) \prod_{t=1}^T q(z_t \mid w, z_{<t}, x_{t:T})"
    )
    acausal = graph_of(small("rvae"))
    assert str(generative(acausal)) == "p(z_{1:T}, x_{1:T}) = ∏_t p(z_t) ∏_t p(x_t | z_{1:T})"
    assert blankets(graph_of(small("srnn")), "z").parts() == ("z_{t-1}", "z_{t+1}", "x_{1:t}")
    named = Graph({"mu_0": "", "rate": ["mu_0"]}, ["rate"])
    assert posterior(named).latex() == (
        r"q(\mathrm{mu\_0} \mid \mathrm{rate}) = q(\mathrm{mu\_0} \mid \mathrm{rate})"
    )


def smoothed(frames: int, back: int, ahead: int) -> Graph:
    """Independent z, and x_t that looks at some around."""
    z = {f"z_{t}": [] for t in range(frames)}
    x = {f"x_{t}": [f"z_{s}" for s in range(frames) if -back <= s - t <= ahead] for t in range(frames)}
    return Graph(z | x, x)


def test_windows_of_more_than_one_frame() -> None:
    """x_t of z_{t-2:t}: z_t needs two frames before; the x that look at it, and those that look at these …"""
    assert posterior(smoothed(9, 2, 0))["z"].text() == "q(z_t | z_{t-2:t-1}, x_{t:T})"
    assert generative(smoothed(9, 2, 0))["x"].text("p") == "p(x_t | z_{t-2:t})"
    assert generative(smoothed(9, 1, 1))["x"].text("p") == "p(x_t | z_{t-1:t+1})"
    assert posterior(smoothed(9, 1, 1))["z"].text() == "q(z_t | z_{t-2:t-1}, x_{t-1:T})"


def test_frames_that_differ_are_listed() -> None:
    graph = Graph(
        {"z_0": "", "z_1": ["z_0"], "z_2": [], "x_0": ["z_0"], "x_1": ["z_1"], "x_2": ["z_2"]}, ["x_2"]
    )
    graph = Graph({n: graph.parents(n) for n in graph.nodes}, ["x_0", "x_1", "x_2"])
    q = posterior(graph)
    assert q["z"].windows() is None
    assert str(q) == "q(z_{1:T} | x_{1:T}) = q(z_0 | x_0, x_1) q(z_1 | z_0, x_1) q(z_2 | x_2)"
    with pytest.raises(ValueError, match=r"The frames of z differ"):
        q.python()


@pytest.mark.parametrize("key", MODELS)
def test_the_program_draws_each_latent_given_what_it_needs(key: str) -> None:
    """It is run with names for values, by functions that write down what they were given."""
    graph = graph_of(small(key))
    written: dict[str, set[str]] = {}

    def flat(parts: tuple[Any, ...]) -> set[str]:
        return {n for part in parts for n in (part if isinstance(part, list) else [part])}

    def drawing(name: str) -> Callable[..., str]:
        def draw(*given: Any) -> str:
            serial = name != "w"
            node = f"{name}_{sum(n.startswith(name) for n in written)}" if serial else name
            written[node] = flat(given)
            return node

        return draw

    scope = {
        "T": 5,
        "x": [f"x_{t}" for t in range(5)],
        "v": [f"v_{t}" for t in range(5)],
        "q_z": drawing("z"),
        "q_w": drawing("w"),
        "q_alpha": drawing("alpha"),
    }
    exec(posterior(graph).python(), scope)  # what the package itself wrote
    needs = {z: set(graph.needs(z, {*graph.latent[:i], *graph.observed})) for i, z in enumerate(graph.latent)}
    assert written == needs
    assert list(written) == list(graph.latent)


def test_a_posterior_written_backward_has_no_loop_forward() -> None:
    q = posterior(graph_of(small("dkf")), tuple(f"z_{t}" for t in reversed(range(5))))
    assert q["z"].text() == "q(z_t | z_{t+1}, x_{1:t})"
    with pytest.raises(ValueError, match="looks ahead"):
        q.python()


# Guides made to measure.


@pytest.mark.parametrize("key", ["vae", "kalman", "dkf", "srnn", "rvae", "rvae-causal", "dvae"])
def test_a_compliant_paper_declares_what_is_derived(key: str) -> None:
    model = small(key)
    assert compliant_sight(model) == PAPER[type(model)][1]


@pytest.mark.parametrize(("key", "sees"), [("storn", "z_{<t}, x_{1:T}"), ("dsae", "z_{<t}, x_{t:T}")])
def test_others_get_what_their_paper_lacks(key: str, sees: str) -> None:
    model = small(key)
    assert str(compliant_sight(model)) == f"q(z_t | {sees})" != str(PAPER[type(model)][1])


def test_the_compliant_guide_is_of_the_size_asked_for() -> None:
    guide = compliant_guide(make("dkf")[0], hidden=7)
    assert guide.sees == Sees(z_past="previous", x_future=True)
    assert guide.config["hidden"] == 7
