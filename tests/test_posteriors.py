"""The exact posteriors that the docs state, derived from traces by d-separation."""

from __future__ import annotations

from typing import Any

import networkx as nx
import pytest
from pyro.infer.inspect import get_model_relations

from pyrodvae.dvae import DVAE
from pyrodvae.models import MODELS
from pyrodvae.program import local_parameters

T = 5
PAST, NOW, FUTURE = "x_past", "x_now", "x_future"
ALL_X = {PAST, NOW, FUTURE}
POSTERIORS: dict[str, set[str]] = {
    "vae": {NOW},
    "kalman": {"z_previous", NOW, FUTURE},
    "dkf": {"z_previous", NOW, FUTURE},
    "rvae-causal": {"z_previous", "z_older", NOW, FUTURE},
    "rvae": {"z_previous", "z_older", *ALL_X},
    "srnn": {"z_previous", *ALL_X},
    "storn": {"z_previous", "z_older", *ALL_X},
    "vrnn": {"z_previous", "z_older", *ALL_X},
    "dsae": {"z_previous", "z_older", NOW, FUTURE, "w"},
    "transformer": {"z_previous", "z_older", NOW, FUTURE},
    "dvae": {"z_previous", "z_older", *ALL_X},
}
"""What z_t depends on, given the rest of z_{<t}, x_{1:T} and w; zero-based frames."""


def graph(model: DVAE) -> nx.DiGraph:
    """The arrows between the sites of the program that runs frame by frame, nothing observed."""
    with local_parameters():
        parents = get_model_relations(model.steps, (), {"frames": T})["sample_sample"]
    g = nx.DiGraph((p, child) for child, ps in parents.items() for p in ps if p != child)
    g.add_nodes_from(parents)
    g.remove_nodes_from(["batch"] if "batch" in g else [])
    return g


def needed(g: nx.DiGraph, t: int) -> set[str]:
    """The groups of variables without which the posterior of z_t is another."""
    groups = {
        "z_previous": {f"z_{t - 1}"},
        "z_older": {f"z_{s}" for s in range(t - 1)},
        PAST: {f"x_{s}" for s in range(t)},
        NOW: {f"x_{t}"},
        FUTURE: {f"x_{s}" for s in range(t + 1, T)},
        "w": {"w"} & set(g),
    }
    given = set().union(*groups.values())
    return {
        name
        for name, group in groups.items()
        if group and not nx.is_d_separator(g, {f"z_{t}"}, group, given - group)
    }


def small(key: str, **config: Any) -> DVAE:
    sizes = {} if key == "kalman" else {"hidden": 4}
    return MODELS[key](observed=3, latent=2, **sizes, **config)


@pytest.mark.parametrize("t", [2, 3])
@pytest.mark.parametrize("key", MODELS)
def test_the_exact_posterior(key: str, t: int) -> None:
    assert needed(graph(small(key)), t) == POSTERIORS[key]


@pytest.mark.parametrize("t", [2, 3])
def test_an_srnn_on_its_own_is_another_model(t: int) -> None:
    assert needed(graph(small("srnn", own_share=1.0)), t) == {"z_previous", "z_older", NOW, FUTURE}


@pytest.mark.parametrize("t", [2, 3])
def test_arrows_out_of_x_decide(t: int) -> None:
    """The control: without what the frames feed back, the graph of an SRNN is that of a state space."""
    g = graph(small("srnn"))
    g.remove_edges_from([e for e in g.edges if e[0].startswith("x_")])
    assert needed(g, t) == POSTERIORS["dkf"] != POSTERIORS["srnn"]
