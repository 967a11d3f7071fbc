"""Runs: a model, its guide and its card in a folder; some of them are shipped in this one."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save

from pyrodvae import whole
from pyrodvae.dvae import DVAE
from pyrodvae.guide import Guide
from pyrodvae.guides import make_guide
from pyrodvae.models import MODELS
from pyrodvae.signal import STFT

WEIGHTS, CARD = "weights.safetensors", "card.json"
SHIPPED = Path(__file__).parent


class WeightsError(ValueError):
    """A run cannot be read or does not fit; the message is one sentence for the user."""


@dataclass
class Run:
    """A trained pair with what is needed to use it.

    Args:
        model, guide: the Pyro pair.
        stft: the front end it was trained on.
        card: the whole card: model, configuration, data, training, scores.
    """

    model: DVAE
    guide: Guide
    stft: STFT
    card: dict[str, Any]


def make_pair(
    model: str,
    config: dict[str, Any] | None = None,
    guide: str = "paper",
    guide_config: dict[str, Any] | None = None,
) -> tuple[DVAE, Guide]:
    """A fresh model by its key, and a guide that fits it.

    Raises:
        WeightsError: unknown model or guide, or a setting that the model does not have.
    """
    if model not in MODELS:
        raise WeightsError(f"No model is called '{model}'; there are: {', '.join(MODELS)}.")
    try:
        m = MODELS[model](**(config or {}))
    except TypeError as error:
        raise WeightsError(f"The model '{model}' refuses its configuration: {error}.") from error
    try:
        return m, make_guide(m, guide, **(guide_config or {}))
    except ValueError as error:
        raise WeightsError(str(error)) from error


def parameters(run: Run) -> list[torch.nn.Parameter]:
    """Those of model and guide; what the two share counts once."""
    return [*run.model.parameters(), *run.guide.parameters()]


def save_run(folder: Path, model: DVAE, guide: Guide, card: dict[str, Any]) -> None:
    """Write weights and card into a folder, each in one step (a crash leaves the old one whole)."""
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {
        f"{part}.{name}": value.detach().cpu().contiguous()
        for part, module in (("model", model), ("guide", guide))
        for name, value in module.state_dict().items()
    }
    # save_file would leave a file that only its owner reads.
    whole.save(folder / WEIGHTS, save(tensors))
    write_card(folder, card)


def write_card(folder: Path, card: dict[str, Any]) -> None:
    """Write the card alone, in one step."""
    whole.save(folder / CARD, (json.dumps(card, indent=2) + "\n").encode())


def base_card(model: str, m: DVAE, guide: str, g: Guide, stft: STFT) -> dict[str, Any]:
    """The part of a card that is needed to build the pair again."""
    return {
        "model": model,
        "config": m.config,
        "guide": guide,
        "guide_config": g.config,
        "stft": asdict(stft),
    }


def load_run(source: str | Path, device: str = "cpu") -> Run:
    """Load a run by the key of shipped weights (``"rvae"``) or from its folder.

    Raises:
        WeightsError: nothing there, a damaged file, or weights that belong to another model.
    """
    folder = Path(source)
    if str(source) in MODELS and not (folder / CARD).is_file():
        folder = SHIPPED / str(source)
        if not (folder / WEIGHTS).is_file():
            shipped = sorted(p.parent.name for p in SHIPPED.glob(f"*/{WEIGHTS}"))
            raise WeightsError(
                f"The package ships no weights for '{source}', only for {', '.join(shipped)}: train "
                "your own with 'pyrodvae train' and give the folder of the run."
            )
    if not (folder / CARD).is_file() or not (folder / WEIGHTS).is_file():
        raise WeightsError(
            f"'{source}' is neither a model key ({', '.join(MODELS)}) nor the folder of a run: a run "
            f"holds {WEIGHTS} and {CARD}."
        )
    try:
        card = json.loads((folder / CARD).read_text(encoding="utf-8"))
        stft = STFT(**card["stft"])
        model, guide = make_pair(card["model"], card["config"], card["guide"], card["guide_config"])
    except WeightsError as error:
        raise WeightsError(f"{folder / CARD}: {error}") from error
    except (AttributeError, KeyError, OSError, RuntimeError, TypeError, ValueError) as error:
        why = f"it has no {error}" if isinstance(error, KeyError) else error
        raise _damaged(folder / CARD, why) from error
    try:
        tensors = load_file(folder / WEIGHTS)
    except (SafetensorError, OSError) as error:
        raise _damaged(folder / WEIGHTS, error) from error
    for part, module in (("model", model), ("guide", guide)):
        _fill(module, part, tensors, folder)
    model.to(device).requires_grad_(False)
    guide.to(device).requires_grad_(False)
    return Run(model, guide, stft, card)


def _damaged(path: Path, why: object) -> WeightsError:
    return WeightsError(
        f"{path} is damaged or cannot be read ({whole.briefly(why)}): take a whole copy of the run, or "
        "train it again."
    )


def _fill(module: torch.nn.Module, part: str, tensors: dict[str, Any], folder: Path) -> None:
    """Load one part strictly, and turn torch's long complaint into a sentence."""
    own = {k.removeprefix(f"{part}."): v for k, v in tensors.items() if k.startswith(f"{part}.")}
    wanted = module.state_dict()
    wrong = sorted(set(own) ^ set(wanted)) or sorted(k for k in own if own[k].shape != wanted[k].shape)
    if wrong:
        raise WeightsError(
            f"The weights in {folder} belong to another model or configuration: {part}.{wrong[0]} "
            f"does not fit ({len(wrong)} such tensors)."
        )
    module.load_state_dict(own)
