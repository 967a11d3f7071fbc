"""From a Pyro program to its graph, its exact posterior's form, and what that asks of guides and samplers."""

from __future__ import annotations

from pyrodvae.graph.certificate import Certificate, certificate
from pyrodvae.graph.compliance import Verdict, compliance, dependence
from pyrodvae.graph.dag import Graph, Trail
from pyrodvae.graph.guides import FAMILY, compliant_guide, compliant_sight
from pyrodvae.graph.posterior import Factor, Factorisation, blankets, generative, of_variables, posterior
from pyrodvae.graph.spans import Span, series
from pyrodvae.graph.trace import graph_of, trace_graph

__all__ = [
    "FAMILY",
    "Certificate",
    "Factor",
    "Factorisation",
    "Graph",
    "Span",
    "Trail",
    "Verdict",
    "blankets",
    "certificate",
    "compliance",
    "compliant_guide",
    "compliant_sight",
    "dependence",
    "generative",
    "graph_of",
    "of_variables",
    "posterior",
    "series",
    "trace_graph",
]
