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
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pyrodvae.signal import STFT
from pyrodvae.weights import Run, WeightsError, base_card, make_pair

OLD_NAMES = {
    "enc_rnn_s.": "rnn_g_x.",
    "enc_rnn_z.": "rnn_g_z.",
    "enc_dense.": "mlp_g_z.",
    "enc_mean.": "inf_mean.",
    "enc_logvar.": "inf_logvar.",
    "dec_rnn.": "rnn_h.",
    "dec_dense.": "mlp_h_x.",
    "dec_logvar.": "gen_logvar.",
    "encoder_layers.": "mlp_x_z.linear",
    "latent_mean_layer.": "inf_mean.",
    "latent_logvar_layer.": "inf_logvar.",
    "decoder_layers.": "mlp_z_x.linear",
    "output_layer.": "gen_logvar.",
}
"""Names of 2019 (Leglaive et al.) and what the same layers were called from 2020 on."""


class Tensors:
    """A published state dict, taken layer by layer into ours.

    Args:
        theirs: name → tensor.

    Each method takes layers out of ``theirs`` and puts them into :attr:`ours` under our names.
    """

    def __init__(self, theirs: dict[str, Tensor]) -> None:
        self.theirs = {_renamed(k): v for k, v in theirs.items()}
        self.left = set(self.theirs)
        self.ours: dict[str, Tensor] = {}

    def take(self, name: str) -> Tensor:
        """A tensor, marked as used.

        Raises:
            WeightsError: there is none of that name.
        """
        if name not in self.theirs:
            raise WeightsError(f"The weights lack the tensor '{name}'.")
        self.left.discard(name)
        return self.theirs[name]

    def layer(self, name: str) -> tuple[Tensor, Tensor]:
        """Weight and bias of a dense layer."""
        return self.take(f"{name}.weight"), self.take(f"{name}.bias")

    def stack(self, name: str) -> list[tuple[Tensor, Tensor]]:
        """The dense layers of a stack, none if it is the identity."""
        count = 0
        while f"{name}.linear{count}.weight" in self.theirs:
            count += 1
        return [self.layer(f"{name}.linear{i}") for i in range(count)]

    def gaussian(self, mean: str, log_variance: str) -> tuple[Tensor, Tensor]:
        """Two layers as the one that writes both side by side."""
        (w, b), (v, c) = self.layer(mean), self.layer(log_variance)
        return torch.cat([w, v]), torch.cat([b, c])

    def output(self) -> None:
        """The decoder's last layer, which goes by two names."""
        name = "gen_out" if "gen_out.weight" in self.theirs else "gen_logvar"
        self.put("model.head.output", self.layer(name))

    def put(self, name: str, layer: tuple[Tensor, Tensor]) -> None:
        """A dense layer under our name."""
        self.ours[f"{name}.weight"], self.ours[f"{name}.bias"] = layer

    def put_stack(self, name: str, layers: list[tuple[Tensor, Tensor]]) -> list[int]:
        """Dense layers with an activation after each; returns their sizes."""
        for i, layer in enumerate(layers):
            self.put(f"{name}.{2 * i}", layer)
        return [len(bias) for _, bias in layers]

    def rnn(self, name: str, ours: str, turned: bool = False) -> tuple[int, int, bool]:
        """A recurrent network; returns its hidden size, layers, and whether it goes both ways.

        Args:
            turned: the published network reads the sequence turned round.
        """
        hidden = self.take(f"{name}.weight_hh_l0").shape[1]
        layers = sum(k.startswith(f"{name}.weight_hh_l") and not k.endswith("_reverse") for k in self.theirs)
        both = f"{name}.weight_hh_l0_reverse" in self.theirs
        for i in range(layers):
            for part in ("weight_ih", "weight_hh", "bias_ih", "bias_hh"):
                for end in ("", "_reverse") if both else ("",):
                    value = self.take(f"{name}.{part}_l{i}{end}")
                    if turned and both:
                        end = "" if end else "_reverse"
                        value = swap(value, hidden) if part == "weight_ih" and i else value
                    self.ours[f"{ours}.{part}_l{i}{end}"] = value
        return hidden, layers, both


def swap(weight: Tensor, hidden: int) -> Tensor:
    """Exchange the first and the second H columns, which read the two directions of an LSTM."""
    first, second, rest = weight.split([hidden, hidden, weight.shape[1] - 2 * hidden], 1)
    return torch.cat([second, first, rest], 1)


def _renamed(name: str) -> str:
    for old, new in OLD_NAMES.items():
        if name.startswith(old):
            return new + name.removeprefix(old)
    return name


Sizes = tuple[dict[str, Any], dict[str, Any]]
"""Configurations of a model and of its guide."""


def _sizes(t: Tensors, latent_layer: str = "inf_mean") -> dict[str, Any]:
    """F and D from the last layers of decoder and encoder."""
    t_out = t.theirs.get("gen_out.weight", t.theirs.get("gen_logvar.weight"))
    if t_out is None or f"{latent_layer}.weight" not in t.theirs:
        raise WeightsError("The weights lack an output layer (gen_out or gen_logvar) or an encoder's.")
    return {
        "observed": t_out.shape[0],
        "latent": t.theirs[f"{latent_layer}.weight"].shape[0],
        "data": "power",
    }


def _tail(
    t: Tensors,
    first: int,
    split: int | None,
    turned: int = 0,
    stack: str = "mlp_g_z",
    names: tuple[str, str] = ("from_x", "from_z"),
) -> list[int]:
    """The layers that follow the summaries in a guide; returns the sizes of the dense ones.

    Args:
        first: the number of columns that read x.
        split: whether further columns read z (None: they do not).
        turned: H where the summary of x is (backward, forward) in the published order.
        stack: the published name of the dense layers.
        names: ours, of what reads these columns and those.
    """
    dense = t.stack(stack)
    (weight, bias), *rest = [*dense, t.gaussian("inf_mean", "inf_logvar")]
    of_x = weight[:, :first]
    t.put(f"guide.{names[0]}", (swap(of_x, turned) if turned else of_x, bias))
    if split is not None:
        t.ours[f"guide.{names[1]}.weight"] = weight[:, first:]
    for i, layer in enumerate(rest):
        t.put(f"guide.tail.{2 * i + 1}", layer)
    return [len(b) for _, b in dense]


def _vae(t: Tensors, settings: dict[str, str]) -> Sizes:
    model = _sizes(t) | {"dense": t.put_stack("model.decoder", t.stack("mlp_z_x"))}
    guide = {"before": t.put_stack("guide.dense", t.stack("mlp_x_z"))}
    t.put("guide.from_x", t.gaussian("inf_mean", "inf_logvar"))
    t.output()
    return model, guide


def _rvae(t: Tensors, settings: dict[str, str]) -> Sizes:
    model = _sizes(t)
    model["before"] = t.put_stack("model.dense", t.stack("mlp_z_h"))
    model["hidden"], model["layers"], both = t.rnn("rnn_h", "model.memory.rnn")
    model["after"] = t.put_stack("model.decoder", t.stack("mlp_h_x"))
    t.output()
    guide: dict[str, Any] = {"before": t.put_stack("guide.dense", t.stack("mlp_x_gx"))}
    guide["hidden"], guide["layers"], encoder_both = t.rnn("rnn_g_x", "guide.summary.rnn", turned=True)
    if both != encoder_both:
        raise WeightsError("Encoder and decoder of an RVAE have to be both causal or both not.")
    guide["z_before"] = t.put_stack("guide.z_dense", t.stack("mlp_z_gz"))
    guide["z_hidden"], guide["z_layers"], _ = t.rnn("rnn_g_z", "guide.memory.rnn")
    width = guide["hidden"] * (1 + both)
    guide["after"] = _tail(t, width, guide["z_hidden"], guide["hidden"] if both else 0)
    return model, guide


def _dkf(t: Tensors, settings: dict[str, str]) -> Sizes:
    if not settings:
        raise WeightsError(
            "The same tensors are two different DKFs in two public implementations: give the "
            "configuration file that belongs to the weights (--config)."
        )
    model = _sizes(t) | {"squashed": "inference" in settings}  # av-dkf alone has that setting
    for ours, theirs in (("gate", "mlp_gate"), ("proposal", "mlp_z_prop")):
        for i in (1, 2):
            t.put(f"model.gated.{ours}.{2 * i - 2}", t.layer(f"{theirs}.linear{i}"))
    t.put("model.gated.linear", t.layer("prior_mean"))
    t.put("model.gated.spread", t.layer("prior_logvar.1"))
    model["dense"] = t.put_stack("model.decoder", t.stack("mlp_z_x"))
    t.output()
    guide: dict[str, Any] = {"before": t.put_stack("guide.dense", t.stack("mlp_x_gx"))}
    guide["hidden"], guide["layers"], guide["both"] = t.rnn("rnn_gx", "guide.summary.rnn")
    z_dense = [*t.stack("mlp_ztm1_g"), t.layer("mlp_ztm1_g.linear_last")]
    guide["z_before"] = t.put_stack("guide.from_z", z_dense)[:-1]
    guide["after"] = t.put_stack("guide.combined", t.stack("mlp_g_z"))
    t.put("guide.head", t.gaussian("inf_mean", "inf_logvar"))
    return model, guide


def _drift(t: Tensors, stack: str) -> list[int]:
    """The network of p(z_t | past); returns the sizes of its dense layers."""
    sizes = t.put_stack("model.drift", t.stack(stack))
    t.put(f"model.drift.{2 * len(sizes)}", t.gaussian("prior_mean", "prior_logvar"))
    return sizes


def _storn(t: Tensors, settings: dict[str, str]) -> Sizes:
    model = _sizes(t)
    model["before"] = t.put_stack("model.x_dense", t.stack("mlp_xtm1_h"))
    model["z_before"] = t.put_stack("model.z_dense", t.stack("mlp_z_h"))
    model["hidden"], model["layers"], _ = t.rnn("rnn_h", "model.memory.rnn")
    model["after"] = t.put_stack("model.decoder", t.stack("mlp_h_x"))
    t.output()
    guide: dict[str, Any] = {"before": t.put_stack("guide.dense", t.stack("mlp_x_g"))}
    guide["hidden"], guide["layers"], _ = t.rnn("rnn_g", "guide.summary.rnn")
    guide["after"] = t.put_stack("guide.combined", t.stack("mlp_g_z"))
    t.put("guide.head", t.gaussian("inf_mean", "inf_logvar"))
    return model, guide


def _vrnn(t: Tensors, settings: dict[str, str]) -> Sizes:
    model = _sizes(t)
    model["before"] = t.put_stack("model.x_dense", t.stack("feature_extractor_x"))
    model["z_before"] = t.put_stack("model.z_dense", t.stack("feature_extractor_z"))
    model["hidden"], model["layers"], _ = t.rnn("rnn", "model.memory.rnn")
    model["drift"] = _drift(t, "mlp_h_z")
    model["after"] = t.put_stack("model.decoder", t.stack("mlp_hz_x"))
    t.output()
    width = [model["observed"], *model["before"]][-1]
    after = _tail(t, width, model["hidden"], stack="mlp_hx_z", names=("from_x", "from_h"))
    return model, {"after": after}


def _srnn(t: Tensors, settings: dict[str, str]) -> Sizes:
    # The same networks may have been trained to read their own output in the end.
    model = _sizes(t) | {"own_share": float(settings.get("tag", "").lower().endswith("-ss"))}
    model["before"] = t.put_stack("model.dense", t.stack("mlp_x_h"))
    model["hidden"], model["layers"], _ = t.rnn("rnn_h", "model.memory.rnn")
    model["drift"] = _drift(t, "mlp_hz_z")
    model["after"] = t.put_stack("model.decoder", t.stack("mlp_hz_x"))
    t.output()
    guide: dict[str, Any] = {"before": t.put_stack("guide.dense", t.stack("mlp_hx_g"))}
    guide["hidden"], guide["layers"], _ = t.rnn("rnn_g", "guide.summary.rnn")
    guide["after"] = _tail(t, guide["hidden"], model["latent"], stack="mlp_gz_z", names=("from_g", "from_z"))
    return model, guide


def _dsae(t: Tensors, settings: dict[str, str]) -> Sizes:
    segment, z = t.gaussian("inf_v_mean", "inf_v_logvar"), t.gaussian("inf_z_mean", "inf_z_logvar")
    model = _sizes(t, "inf_z_mean") | {"segment": len(segment[1]) // 2}
    model["hidden"], model["layers"], _ = t.rnn("rnn_prior", "model.memory.rnn")
    t.put("model.drift", t.gaussian("prior_mean", "prior_logvar"))
    model["dense"] = t.put_stack("model.decoder", t.stack("mlp_vz_x"))
    t.output()
    guide: dict[str, Any] = {"before": t.put_stack("guide.dense", t.stack("mlp_x"))}
    guide["w_hidden"], guide["w_layers"], _ = t.rnn("rnn_g_v", "guide.segment.summary.rnn")
    guide["w_after"] = t.put_stack("guide.segment.dense", t.stack("mlp_gv_v"))
    t.put("guide.segment.head", segment)
    guide["joined"] = t.put_stack("guide.joined", t.stack("mlp_xv_gxv"))
    guide["hidden"], guide["layers"], _ = t.rnn("rnn_g_xv", "guide.summary.rnn")
    guide["after"] = t.put_stack("guide.after", t.stack("mlp_gxv_gz"))
    guide["z_hidden"], guide["z_layers"], _ = t.rnn("rnn_g_z", "guide.recursion.rnn")
    t.put("guide.head", z)
    return model, guide


FORMATS: dict[str, tuple[str, Callable[[Tensors, dict[str, str]], Sizes]]] = {
    "dkf": ("mlp_gate.linear1.weight", _dkf),
    "storn": ("mlp_xtm1_h.linear0.weight", _storn),
    "vrnn": ("rnn.weight_hh_l0", _vrnn),
    "srnn": ("mlp_hx_g.linear0.weight", _srnn),
    "rvae": ("rnn_g_x.weight_hh_l0", _rvae),
    "dsae": ("rnn_g_xv.weight_hh_l0", _dsae),
    "vae": ("mlp_x_z.linear0.weight", _vae),
}
"""Model key → a tensor that only its weights have, and the translation."""


def translate(
    theirs: dict[str, Tensor], settings: dict[str, str] | None = None
) -> tuple[str, Sizes, dict[str, Tensor]]:
    """A published state dict as one of ours: model key, configurations, tensors by our names.

    Args:
        theirs: name → tensor.
        settings: the section ``Network`` of the configuration file, where there is one.

    Raises:
        WeightsError: no format that we know, or a tensor that is missing or unknown.
    """
    t = Tensors(theirs)
    key = next((key for key, (mark, _) in FORMATS.items() if mark in t.theirs), None)
    if key is None:
        raise WeightsError(
            f"The weights are of no format that is known (models: {', '.join(FORMATS)}); the first of "
            f"their {len(theirs)} tensors is '{next(iter(theirs), 'none')}'."
        )
    sizes = FORMATS[key][1](t, settings or {})
    if t.left:
        raise WeightsError(
            f"The weights look like a '{key}', but hold {len(t.left)} unknown tensors: {min(t.left)} …"
        )
    if key == "rvae" and "guide.summary.rnn.weight_hh_l0_reverse" not in t.ours:
        key = "rvae-causal"
    return key, sizes, t.ours


def import_weights(file: str | Path, config: str | Path | None = None) -> Run:
    """A run from published weights; save it with :func:`save_imported` to use it in every command.

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
        raise WeightsError(f"{file} is not a file of weights: {str(error).splitlines()[0]}") from error
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
