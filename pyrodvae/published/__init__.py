"""Weights that others have published, as runs of our own models.

The tensors alone tell the networks' sizes; names and orders are translated. What the public
implementations differ in from ours:

* encoders read linear power and decoders write a bare log-variance: ``data="power"``;
* mean and log-variance of z have a layer each, ours are one layer with both side by side;
* a bidirectional LSTM of an encoder reads the sequence turned round, so its plain weights run
  backward in time and its ``_reverse`` weights forward, and its output is (backward, forward).
"""

from __future__ import annotations

import configparser
import hashlib
import math
import pickle
from pathlib import Path

import torch
from torch import Tensor

from pyrodvae.published.layouts import translate
from pyrodvae.signal import STFT
from pyrodvae.weights import Run, WeightsError, base_card, make_pair

__all__ = ["import_weights", "translate"]


def import_weights(file: str | Path, config: str | Path | None = None) -> Run:
    """A run from published weights; saved with :func:`~pyrodvae.weights.save_run`, it works in every command.

    Args:
        file: a state dict (``.pt``); it is opened without running anything it holds.
        config: the ``.ini`` file beside it.

    Raises:
        WeightsError: not a state dict, or not one that is known.

    Source: the public implementations DVAE, DVAE_SE, ps-rvae-se, av-dkf and DVAE-speech.
    """
    file = Path(file)
    if not file.is_file():
        raise WeightsError(f"There is no file {file}.")
    try:
        theirs = torch.load(file, map_location="cpu", weights_only=True)
    except (RuntimeError, ValueError, EOFError, OSError, pickle.UnpicklingError, KeyError) as error:
        raise WeightsError(f"{file} is damaged, or no file that holds weights alone.") from error
    if not isinstance(theirs, dict) or not all(isinstance(v, Tensor) for v in theirs.values()):
        raise WeightsError(f"{file} is not a state dict: it does not map names to tensors.")
    settings = _read_config(Path(config)) if config else {}
    key, (model_config, guide_config), tensors = translate(theirs, settings.get("Network"))
    stft = _front_end(settings.get("STFT", {}), model_config["observed"])
    model, guide = make_pair(key, model_config, "paper", guide_config)
    for part, module in (("model", model), ("guide", guide)):
        own = {k.removeprefix(f"{part}."): v for k, v in tensors.items() if k.startswith(f"{part}.")}
        try:
            module.load_state_dict(own)
        except RuntimeError as error:
            raise WeightsError(
                f"{file} does not fit a '{key}': {str(error).splitlines()[1].strip()}"
            ) from error
    card = base_card(key, model, "paper", guide, stft)
    digest = hashlib.sha256(file.read_bytes()).hexdigest()
    card["imported"] = {"file": file.name, "sha256": digest, "note": "the licence is that of its source"}
    return Run(model.requires_grad_(False), guide.requires_grad_(False), stft, card)


def _read_config(path: Path) -> dict[str, dict[str, str]]:
    parser = configparser.ConfigParser(interpolation=None)
    try:
        parser.read_string(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, configparser.Error) as error:
        raise WeightsError(
            f"The configuration {path} cannot be read: {str(error).splitlines()[0]}"
        ) from error
    return {name: dict(parser[name]) for name in parser.sections()}


def _front_end(settings: dict[str, str], bins: int) -> STFT:
    """The STFT of the weights: that of the configuration, else the usual one for so many bins."""
    try:
        rate = int(settings.get("fs", 16_000))
        seconds = float(settings.get("wlen_sec", 64e-3 if bins == 513 else 32e-3))
        window = 2 ** math.ceil(math.log2(seconds * rate))
        hop = int(float(settings.get("hop_percent", 0.25 if bins == 513 else 0.5)) * window)
    except ValueError as error:
        raise WeightsError(f"The section STFT of the configuration is damaged: {error}.") from error
    stft = STFT(sample_rate=rate, window_length=window, hop=hop, pad_mode="reflect")
    if stft.bins != bins:
        raise WeightsError(f"The weights read {bins} bins, and a window of {window} samples has {stft.bins}.")
    return stft
