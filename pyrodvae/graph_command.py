"""``pyrodvae graph``: what the program of a model implies, as text and as a picture."""

from __future__ import annotations

from argparse import Namespace
from dataclasses import dataclass
from pathlib import Path

from tqdm import tqdm

from pyrodvae.data import Crops, load
from pyrodvae.dvae import DVAE
from pyrodvae.graph import (
    FAMILY,
    Graph,
    Verdict,
    blankets,
    certificate,
    compliance,
    compliant_sight,
    generative,
    graph_of,
    posterior,
)
from pyrodvae.graph_cost import arrow_cost, guides_beside, linear_twin, trained_cost
from pyrodvae.graph_drawing import plot_graph
from pyrodvae.graph_page import write_page
from pyrodvae.guide import Guide
from pyrodvae.guides import GUIDES, make_guide
from pyrodvae.models import MODELS
from pyrodvae.plots import PICTURES, check_picture
from pyrodvae.train import Speech, find
from pyrodvae.trials import split_of
from pyrodvae.weights import CARD, load_run, make_pair

LEAST, MOST = 3, 50
SEQUENCES = 1000
"""Simulated for the costs of arrows."""
SIZES = {"observed": 3, "latent": 2}
"""Structure does not depend on sizes."""
HELD, DRAWS = 128, 4
"""Crops of recordings that no guide was trained on, with draws on each: trained guides are compared there."""


@dataclass(frozen=True)
class Subject:
    """What is looked at.

    Args:
        model, guide: the pair.
        key: of the guide.
        title: model and guide, in words.
    """

    model: DVAE
    guide: Guide
    key: str
    title: str


def run_graph(options: Namespace) -> int:
    """Print what the program of a model implies: factorisations, blankets, samplers, the guide's verdict.

    Raises:
        ValueError: no such model, run or guide, too few frames to tell z_{t-1} from z_{<t}, or options
            that do not go together.
    """
    if options.frames < LEAST:
        raise ValueError(f"--frames {options.frames} are too few to see a pattern: give {LEAST} or more.")
    if options.frames > MOST:
        raise ValueError(
            f"--frames {options.frames} would show no more than {MOST} do: give as many or fewer."
        )
    if options.steps < 1:
        raise ValueError(f"--steps are 1 or more, not {options.steps}.")
    if options.data and not options.cost:
        raise ValueError("--data is what guides are trained on to find their --cost: give both, or neither.")
    if options.manifest and not options.data:
        raise ValueError("--manifest selects recordings of --data: give both, or neither.")
    if options.out:
        check_picture(options.out, PICTURES if options.cost else (*PICTURES, ".html"))
    it = subject(options.model, options.guide)
    graph = graph_of(it.model, options.frames)
    verdict = compliance(it.model, it.guide, frames=options.frames, graph=graph)
    lines = {
        "model": str(generative(graph)),
        "posterior": str(posterior(graph)),
        "blanket": f"B(z_t) = {{{', '.join(blankets(graph, 'z').parts())}}}",
        "guide": f"{it.key}: {verdict}",
        "sampler": str(certificate(graph)),
    }
    for what, text in lines.items():
        print(f"{what:<11}{text}")
    for note in graph.notes:
        print(f"{'note':<11}{note}")
    if options.data:
        cost_on_speech(options)
    elif options.cost:
        cost(options.out, it, graph)
    elif options.out:
        draw(options.out, it.title, graph, verdict)
    return 0


def subject(source: str, guide: str | None) -> Subject:
    """A small model of a key, or that of a run in its own size; its own guide, unless another is asked for.

    Raises:
        ValueError: no such model, run or guide.
    """
    if source in MODELS and not (Path(source) / CARD).is_file():
        key = guide or "paper"
        return Subject(*make_pair(source, SIZES, key), key, f"{source}, guide {key}")
    run = load_run(source)
    name = f"{run.card['model']} of {Path(source).name}"
    if guide is None:
        return Subject(run.model, run.guide, run.card["guide"], f"{name}, its guide")
    return Subject(run.model, make_guide(run.model, guide), guide, f"{name}, guide {guide}")


def draw(out: str, title: str, graph: Graph, verdict: Verdict) -> None:
    """Write the graph as a picture, with the blanket of a z in the middle, or as an interactive page.

    Raises:
        NotWritten: it cannot be written.
    """
    if Path(out).suffix.lower() == ".html":
        write_page(graph, out, title=title, verdict=verdict)
    else:
        middle = f"z_{sum(node.startswith('z_') for node in graph.latent) // 2}"
        plot_graph(graph, out, verdict=verdict, blanket_of=middle, title=title)


def cost(out: str | None, it: Subject, graph: Graph) -> None:
    """Print what guides lose, from factorised to full context, on data of the model's linear twin.

    Raises:
        ValueError: a model that has no twin.
        NotWritten: the picture cannot be written.
    """
    twin = linear_twin(graph)
    sights = {**FAMILY, "compliant": compliant_sight(it.model), it.key: it.guide.sees}
    costs = arrow_cost(twin, twin.sample(SEQUENCES), sights)
    print(f"\n{costs}")
    if out:
        costs.plot(out)


def cost_on_speech(options: Namespace) -> None:
    """Print what guides reach on speech that are trained beside the model of a run, which stands still.

    Raises:
        ValueError: weights that are not there, or a model that is not of speech alone.
        AudioError, TrainingError: there is no speech, or too little.
        NotWritten: the picture cannot be written.
    """
    run = load_run(options.model)
    if run.model.video:
        raise ValueError(f"'{options.model}' is given video besides speech, and --data holds speech alone.")
    split = split_of(options.manifest, options.split, "train")
    speech = Speech.load(*find(options.data, None, options.manifest, split), lambda c: load(c, run.stft))
    crops, held = Crops(speech.train, run.stft), Crops(speech.held, run.stft, batch_size=HELD)
    sizes = {"hidden": run.card["guide_config"].get("hidden", 128)}
    with tqdm(total=options.steps * len(GUIDES), unit="step") as bar:

        def tick(key: str, step: int) -> None:
            bar.set_description_str(key, refresh=False)
            bar.update([*GUIDES].index(key) * options.steps + step - bar.n)

        runs = guides_beside(run, lambda: crops.epoch(0), options.steps, sizes=sizes, each=tick)
    x, lengths = next(held.epoch(0))
    costs = trained_cost({"as trained": run, **runs}, x, lengths, draws=DRAWS)
    print(f"\n{costs}")
    if options.out:
        costs.plot(options.out, f"{run.card['model']} of {Path(options.model).name}, {options.steps} steps")
