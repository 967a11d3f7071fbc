"""A published state dict, taken layer by layer into ours."""

from __future__ import annotations

import torch
from torch import Tensor

from pyrodvae.weights import WeightsError

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

    def lips(self, name: str, ours: str) -> tuple[int, int]:
        """One layer on features of the lips, as a lip reader; returns the sizes V and E.

        The published ones know no missing picture: theirs is taken for a picture that says zero.
        """
        weight, bias = self.layer(name)
        self.put(f"{ours}.net.0", (weight, bias))
        loc, scale = torch.zeros(()), torch.ones(())
        self.ours |= {f"{ours}.unseen": torch.zeros_like(bias), f"{ours}.loc": loc, f"{ours}.scale": scale}
        return weight.shape[1], weight.shape[0]

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
