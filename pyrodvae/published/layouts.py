"""Whose tensors stand for which of ours, model by model."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor

from pyrodvae.published.tensors import Tensors, swap
from pyrodvae.weights import WeightsError

Sizes = tuple[dict[str, Any], dict[str, Any]]
"""Configurations of a model and of its guide."""


def _only(settings: dict[str, str], name: str, known: str) -> None:
    """Raise a WeightsError unless a setting, where it is given, is the one that our networks have."""
    if settings.get(name, known) != known:
        raise WeightsError(
            f"The configuration says {name} = {settings[name]}, and only {name} = {known} is known: these "
            "weights would give other numbers."
        )


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
    guide: dict[str, Any] = {"before": t.put_stack("guide.dense", t.stack("mlp_x_z"))}
    if not guide["before"]:
        guide["hidden"] = 0
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
    _only(settings, "inference", "gated")
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
    if not settings:
        raise WeightsError(
            "The same tensors are an SRNN that reads true frames, or one trained to read its own output: "
            "give the configuration file that belongs to the weights (--config)."
        )
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


def _av_vae(t: Tensors, settings: dict[str, str]) -> Sizes:
    model = _sizes(t)
    model["video"], model["embedding"] = t.lips("prior_layerV", "model.prior_lips")
    t.lips("decoder_layerV", "model.lips")
    t.put("model.drift", t.gaussian("zprior_mean_layer", "zprior_logvar_layer"))
    model["dense"] = t.put_stack("model.decoder", t.stack("mlp_z_x"))
    model["mixed"] = t.put_stack("model.mix", [t.layer("layer_mix_decoder")])
    t.output()
    _, embedding = t.lips("encoder_layerV", "guide.lips")
    dense = t.put_stack("guide.dense", t.stack("mlp_x_z"))
    if len(dense) != 1:
        raise WeightsError(f"The encoder of an AV-VAE reads x with one dense layer, not with {len(dense)}.")
    t.put("guide.from_x", both := t.layer("layer_mix_encoder"))
    t.put("guide.tail.1", t.gaussian("inf_mean", "inf_logvar"))
    guide: dict[str, Any] = {"hidden": dense[0], "after": [len(both[1])], "embedding": embedding}
    return model | {"reader": "features"}, guide | {"reader": "features"}


FORMATS: dict[str, tuple[tuple[str, ...], Callable[[Tensors, dict[str, str]], Sizes]]] = {
    "dkf": (("mlp_gate.linear1",), _dkf),
    "vrnn": (("rnn.",), _vrnn),
    "rvae": (("rnn_g_x.",), _rvae),
    "dsae": (("rnn_g_xv.",), _dsae),
    "srnn": (("rnn_h.", "rnn_g.", "prior_mean."), _srnn),
    "storn": (("rnn_h.", "rnn_g."), _storn),
    "av-vae": (("encoder_layerV.",), _av_vae),
    "vae": (("inf_mean.",), _vae),
}
"""Model key → beginnings of names that its weights have, whichever of its dense stacks are empty, and none
before it in this order; and the translation."""


def translate(
    theirs: dict[str, Tensor], settings: dict[str, str] | None = None
) -> tuple[str, Sizes, dict[str, Tensor]]:
    """A published state dict as one of ours: model key, configurations, tensors by our names.

    Args:
        theirs: name → tensor.
        settings: the section ``Network`` of the configuration file, where there is one.

    Raises:
        WeightsError: no format that we know, a tensor that is missing or unknown, or a setting that is
            not known or is needed.
    """
    t = Tensors(theirs)

    def has(mark: str) -> bool:
        return any(name.startswith(mark) for name in t.theirs)

    key = next((key for key, (marks, _) in FORMATS.items() if all(map(has, marks))), None)
    if key is None:
        raise WeightsError(
            f"The weights are of no format that is known (models: {', '.join(FORMATS)}); the first of "
            f"their {len(theirs)} tensors is '{next(iter(theirs), 'none')}'."
        )
    settings = settings or {}
    _only(settings, "activation", "tanh")
    sizes = FORMATS[key][1](t, settings)
    if t.left:
        raise WeightsError(
            f"The weights look like a '{key}', but hold {len(t.left)} unknown tensors: {min(t.left)} …"
        )
    if key == "rvae" and "guide.summary.rnn.weight_hh_l0_reverse" not in t.ours:
        key = "rvae-causal"
    return key, sizes, t.ours
