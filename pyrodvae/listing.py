"""``pyrodvae list``: the keys of models, guides and engines, and what each stands for."""

from __future__ import annotations

import inspect
import re
from argparse import Namespace

from pyrodvae.engines import ALGORITHMS, ENGINES, Engine
from pyrodvae.guides import GUIDES, about
from pyrodvae.matrix import try_all
from pyrodvae.metrics import METRICS
from pyrodvae.models import MODELS
from pyrodvae.settings import describe
from pyrodvae.weights import SHIPPED, WEIGHTS

HEADINGS = {
    "models": "models: MODEL in 'pyrodvae train MODEL' and 'graph MODEL'; [weights] are shipped, so that "
    "'enhance --model KEY', 'resynthesize KEY' and 'generate KEY' work at once",
    "guides": "guides: what the encoder of a model may look at; --guide KEY of 'train' and 'graph'",
    "engines": "engines: how z is inferred from a noisy recording; --engine KEY of 'enhance' and 'evaluate', "
    "KEY+KEY to take turns; with --set, settings and their defaults",
}


def run_list(options: Namespace) -> int:
    """List models, guides and engines by their keys, or try which work together."""
    if options.what == "matrix":
        print(try_all().table())
        return 0
    tables: dict[str, dict[str, str]] = {
        "models": {
            key: _headline(model) + (" [weights]" if key in shipped() else "")
            for key, model in MODELS.items()
        },
        "guides": {key: about(key) for key in GUIDES},
        "engines": {
            key: "\n".join([_headline(kind), *(f"{'':16}--set {text}" for text in _settings(kind()))])
            for key, kind in (ENGINES | ALGORITHMS).items()
        },
    }
    for what in [options.what] if options.what else tables:
        print(HEADINGS[what])
        for key, text in tables[what].items():
            print(f"  {key:<14}{text}")
    return 0


def shipped() -> list[str]:
    """The keys of the models whose weights are in the package."""
    return [key for key in MODELS if (SHIPPED / key / WEIGHTS).is_file()]


def words() -> dict[str, list[str]]:
    """What may stand for an argument of the command line, by its metavar."""
    return {
        "MODEL": [*MODELS],
        "MODEL|RUN": [*MODELS],
        "RUN|KEY": shipped(),
        "KEY|RUN": shipped(),
        "KEY": [*GUIDES],
        "KEY[+KEY]": [*ENGINES, *ALGORITHMS],
        "M": [*METRICS],
    }


def _settings(engine: Engine) -> list[str]:
    """The settings of an engine in a line, if there are any."""
    return [text for text in (describe(engine),) if text]


def _headline(kind: type) -> str:
    """The first line of a docstring, without what only its site can follow."""
    return re.sub(r":\w+:`~?([^`]*)`", r"\1", (inspect.getdoc(kind) or "").partition("\n")[0])
