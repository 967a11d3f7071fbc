"""A card for each model in ``MODELS``, from its docstrings, its graph and its code, under the same headings.

A new model gets its card by being in ``MODELS``. Where ``models.md`` has a section on it, the paragraph on
"inference at test time" comes from there.
"""

from __future__ import annotations

import inspect
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from docstrings import FORMULA, as_rst, tex

from pyrodvae.dvae import DVAE
from pyrodvae.graph import Graph, Verdict, blankets, certificate, compliance, generative, graph_of, posterior
from pyrodvae.graph_drawing import plot_graph
from pyrodvae.guide import Guide
from pyrodvae.models import MODELS
from pyrodvae.noisy import APPROXIMATIONS
from pyrodvae.weights import SHIPPED, WEIGHTS, make_pair

FRAMES = 5
SIZES = {"observed": 3, "latent": 2}
"""Structure does not depend on sizes."""
SECTION = re.compile(r"^(Args|Raises|Returns|Shapes|Source|Sources):", re.M)
TEST_TIME = re.compile(r"\*\*Training and inference at test time\.\*\*(.*?)(?=\n\*\*|\n## |\Z)", re.S)
FAMILIES = {
    "ComplexNormal": "complex Gaussian, diagonal",
    "DiagonalNormal": "Gaussian, diagonal",
    "MultivariateNormal": "Gaussian",
    "Normal": "Gaussian",
}


@dataclass(frozen=True)
class Subject:
    """A model with its paper's guide, and what its program implies."""

    key: str
    model: DVAE
    guide: Guide
    graph: Graph
    verdict: Verdict

    @property
    def name(self) -> str:
        """The class."""
        return type(self.model).__name__


def write_cards(folder: Path, overview: str) -> None:
    """Write ``KEY.md`` with its picture for every model, and ``index.md``.

    Args:
        overview: the text of ``models.md``.
    """
    folder.mkdir(parents=True, exist_ok=True)
    subjects = [examine(key) for key in MODELS]
    for it in subjects:
        middle = f"z_{FRAMES // 2}"
        plot_graph(it.graph, folder / f"{it.key}.svg", verdict=it.verdict, blanket_of=middle)
        (folder / f"{it.key}.md").write_text(card(it, overview), encoding="utf-8")
    (folder / "index.md").write_text(index(subjects), encoding="utf-8")


def examine(key: str) -> Subject:
    """A small model of a key, with what follows from its program."""
    model, guide = make_pair(key, SIZES)
    graph = graph_of(model, FRAMES)
    return Subject(key, model, guide, graph, compliance(model, guide, frames=FRAMES, graph=graph))


def index(subjects: list[Subject]) -> str:
    """The page that lists them."""
    rows = [
        f"| [{it.name}]({it.key}.md) | `{it.key}` | {summary(type(it.model))} "
        f"| `{posterior(it.graph)['z'].text()}` | {it.verdict.word} |"
        for it in subjects
    ]
    listed = "\n".join(it.key for it in subjects)
    return f"""\
# A card for each model

All have the same headings. They are made when this site is built: the equations are those of the docstrings;
graph, posterior and verdict are derived from the program itself. [The models](../models.md) compares them.

| model | key | | exact posterior of z_t | the paper's guide |
|---|---|---|---|---|
{chr(10).join(rows)}

```{{toctree}}
:hidden:
{listed}
```
"""


def card(it: Subject, overview: str) -> str:
    """The card of a model."""
    return f"""\
# {it.name}

{typeset(summary(type(it.model)))} Key: `{it.key}`.

## Generative process

{rst(it.model, body(type(it.model)))}

As the package derives it from the program:

$$ {generative(it.graph).latex()} $$

## Graph

<div class="wide-picture">

![{alt(it)}]({it.key}.svg)

</div>

Two slices, {FRAMES} frames with the Markov blanket of $z_{FRAMES // 2}$, and what the guide looks at; grey is
observed. Drawn by `pyrodvae graph {it.key} -o {it.key}.svg`; with `-o {it.key}.html` it is a page to click.

## Variables

| variable | role | size | distribution | given |
|---|---|---|---|---|
{variables(it)}

The Markov blanket of $z_t$: {typeset(", ".join(blankets(it.graph, "z").parts()))}.

## Exact posterior

$$ {posterior(it.graph).latex()} $$

Each factor is conditioned on no more than it depends on, by d-separation. See
[the posterior](../graph.md#the-posterior).

## Guide

{summary(type(it.guide))}

{rst(it.guide, body(type(it.guide)))}

**Verdict.** {typeset(str(it.verdict))}

## Inference at test time

{test_time(it, overview)}

## Paper

{rst(it.model, source(type(it.model)))}

## Code

{code(it)}
"""


def summary(kind: type) -> str:
    """The first sentence of a docstring."""
    return inspect.cleandoc(kind.__doc__ or "").split("\n\n")[0].replace("\n", " ")


def typeset(text: str) -> str:
    """Words of the package as Markdown, with their formulas set."""
    return FORMULA.sub(lambda formula: f"${tex(formula[0])}$", text)


def body(kind: type) -> str:
    """A docstring from its second paragraph to its arguments."""
    text = SECTION.split(inspect.cleandoc(kind.__doc__ or ""))[0]
    return text.partition("\n\n")[2].strip()


def source(kind: type) -> str:
    """The papers that a docstring names, or that of the class it derives from."""
    for one in kind.__mro__:
        found = re.search(r"^Sources?: (.*)\Z", inspect.cleandoc(vars(one).get("__doc__") or ""), re.M | re.S)
        if found:
            return found[1].strip()
    raise ValueError(f"The docstring of {kind.__name__} names no source: add 'Source: …' at its end.")


def rst(where: Any, text: str) -> str:
    """Text of a docstring, as a part of a Markdown page; names are those of its module."""
    module = type(where).__module__
    return text and f"```{{eval-rst}}\n.. py:currentmodule:: {module}\n\n{as_rst(text)}\n```"


def alt(it: Subject) -> str:
    """The picture in words."""
    return f"Graph of {it.name}: {generative(it.graph)}; {it.verdict}".replace("[", "(").replace("]", ")")


def variables(it: Subject) -> str:
    """A row for each variable of the program: role, size, family, parents."""
    sizes = {"x": "F", "z": "D", "v": "V", "w": "W"}
    rows = []
    for factors in generative(it.graph).factors:
        for factor in factors:
            node = factor.groups[factor.name][0] if factor.serial else factor.name
            given = factor.name == "v"
            role = "given" if given else "observed" if node in it.graph.observed else "latent"
            family = "" if given else FAMILIES.get(it.graph.families[node], it.graph.families[node])
            name = f"{factor.name}_t" if factor.serial else factor.name
            parents = f"`{', '.join(factor.parts())}`" if factor.parts() else "–"
            size = sizes.get(factor.name, "")
            rows.append(f"| `{name}` | {role} | {size} | {family} | {parents} |")
    return "\n".join(rows)


def test_time(it: Subject, overview: str) -> str:
    """What its program implies for samplers, noise and forecasts, and what ``models.md`` adds."""
    model = it.model
    lines = [f"- **Samplers.** {typeset(str(certificate(it.graph)))}"]
    if not model.speech:
        lines.append("- **Noise.** Not for enhancement: it is a model of real vectors, not of spectra.")
    elif model.feedback:
        lines.append(f"- **Noise.** Approximate: {APPROXIMATIONS['estimate'].format(it.name)}")
    elif model.segment:
        lines.append(f"- **Noise.** Approximate: {APPROXIMATIONS['segment'].format(it.name)}")
    else:
        lines.append("- **Noise.** Nothing is approximate: only z, the noise and its gain are unknown.")
    lines.append(
        "- **Forecasts.** Possible: the model runs forward in time."
        if model.causal
        else "- **Forecasts.** Refused: the model is not causal, so every frame sees all latents."
    )
    if (SHIPPED / it.key / WEIGHTS).is_file():
        command = f"pyrodvae enhance noisy.wav -o speech.wav --model {it.key}"
        lines.append(f"- **Weights.** In the package: `{command}`.")
    section = re.search(rf"^## {re.escape(it.key)}$(.*?)(?=^## |\Z)", overview, re.M | re.S)
    more = TEST_TIME.search(section[1]) if section else None
    if more:
        lines += ["", more[1].strip().replace("[above](#", "[there](../models.md#")]
    return "\n".join(lines)


def code(it: Subject) -> str:
    """The two conditionals, as they stand in the file, and where to find the rest."""
    kinds = (type(it.model), type(it.guide))
    model, guide = (f"{{py:class}}`~{kind.__module__}.{kind.__qualname__}`" for kind in kinds)
    parts = [f"Model: {model}; guide: {guide}. The two conditionals:", ""]
    for conditional in (type(it.model).transition, type(it.model).emission):
        path = Path(*conditional.__module__.split(".")).with_suffix(".py")
        parts += [
            f"```{{literalinclude}} ../../{path}",
            f":pyobject: {conditional.__qualname__}",
            ":language: python",
            "```",
            "",
        ]
    return "\n".join(parts)
