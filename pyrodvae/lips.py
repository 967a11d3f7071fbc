"""Lips: what the networks read of a video, and how it is handed to the conditionals of a model.

A video is a tensor v (B, T, V) beside x (B, T, F), a picture for every frame of the spectrogram: V grey
pixels in [0, 1], row by row (or V features of somebody else's lip reader). A picture that is missing is
NaN throughout. Networks put something learned in its place, so nothing is made up and nothing shifts.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

import pyro
import torch
from pyro.distributions import Normal
from torch import Tensor, nn

from pyrodvae.nets import mlp
from pyrodvae.once import once

Reader = Literal["conv", "mlp", "features"]
"""Of square pictures: three small convolutions; of pictures: the talk's dense layers; one tanh layer."""


def seen(v: Tensor) -> Tensor:
    """Whether the picture of a frame is there: v (..., T, V) → bool (..., T)."""
    return ~v.isnan().any(-1)


def check_video(v: Tensor | None, size: int, batch: int, frames: int) -> None:
    """Raise a ValueError unless v is (B, T, V), beside x (B, T, F); or None, where V = size = 0."""
    if size == 0 and v is not None:
        raise ValueError("This model does not look at video: leave v out.")
    if size and v is None:
        raise ValueError(f"This model is given video: v (B, T, V), here ({batch}, {frames}, {size}).")
    if v is not None and v.shape != (batch, frames, size):
        raise ValueError(
            f"Video for this model is v (B, T, V) = ({batch}, {frames}, {size}), a picture for every frame "
            f"of x; got a tensor of shape {tuple(v.shape)}."
        )


def look_at(v: Tensor) -> tuple[Tensor, ...]:
    """Sites ``v_0, v_1, …``: what is given has no density, but it is there in the graph of a program.

    Args:
        v: (B, T, V).

    Returns:
        The frames one by one, each (B, 1, V): together in one tensor, each would be said to come of all.
    """

    def one(t: int, v_t: Tensor) -> Tensor:
        anything = Normal(torch.zeros(v_t.shape).to(v_t), 1.0, validate_args=False).to_event(2).mask(False)
        value: Tensor = pyro.sample(f"v_{t}", anything, obs=v_t)
        return value

    return tuple(one(t, v_t) for t, v_t in enumerate(v.split(1, -2)))


class LipReader(nn.Module):
    r"""An embedding of every picture, on its own.

    .. math:: e_t = \mathrm{NN}((v_t - m) / r), \qquad e_t = u \text{ (learned) where } v_t \text{ is missing}

    Args:
        size: V. out: E.
        reader: ``"conv"``: three strided convolutions of 8, 16 and 16 channels on pictures that are
            square, and a dense layer (ReLU); ``"mlp"``: dense layers of 512 and E (ReLU), as in the talk;
            ``"features"``: one tanh layer, for features of another network.

    Shapes: (..., T, V) → (..., T, E).

    Raises:
        ValueError: no such reader, or V is not square where it has to be.

    Source: the dense layers, Sadeghi, Leglaive, Alameda-Pineda, Girin & Horaud, *Audio-visual Speech
    Enhancement Using Conditional Variational Auto-Encoders* (2020).
    """

    loc: Tensor
    scale: Tensor

    def __init__(self, size: int, out: int, reader: Reader = "conv") -> None:
        super().__init__()
        side = math.isqrt(size)
        if reader == "conv":
            if side * side != size or side < 8:
                raise ValueError(
                    f"Convolutions read square pictures of at least 8 by 8, and V = {size} is none: take "
                    "reader='mlp'."
                )
            last = -(-side // 8)  # each halves the side, rounding up
            self.net = nn.Sequential(
                nn.Unflatten(-1, (1, side, side)),
                *(nn.Conv2d(1, 8, 3, 2, 1), nn.ReLU()),
                *(nn.Conv2d(8, 16, 3, 2, 1), nn.ReLU()),
                *(nn.Conv2d(16, 16, 3, 2, 1), nn.ReLU()),
                nn.Flatten(),
                *(nn.Linear(16 * last * last, out), nn.ReLU()),
            )
        elif reader == "mlp":
            self.net = mlp([size, 512, out], nn.ReLU)
        elif reader == "features":
            self.net = mlp([size, out])
        else:
            raise ValueError(f"A reader of lips is 'conv', 'mlp' or 'features', not '{reader}'.")
        self.unseen = nn.Parameter(torch.zeros(out))
        self.register_buffer("loc", torch.zeros(()))
        self.register_buffer("scale", torch.ones(()))

    @torch.no_grad()
    def fit(self, v: Tensor) -> None:
        """Take mean m and spread r of all pixels from training video (..., V)."""
        there = v[seen(v)]
        self.loc.copy_(there.mean())
        self.scale.copy_(there.std().clamp(min=1e-3))

    def forward(self, v: Tensor) -> Tensor:
        """The embeddings."""
        there = seen(v)[..., None]
        pictures = torch.where(there, (v - self.loc) / self.scale, 0.0).flatten(0, -2)
        # A picture stays on screen for several frames of sound: it is read once.
        new = torch.ones(len(pictures), dtype=torch.bool, device=v.device)
        new[1:] = (pictures[1:] != pictures[:-1]).any(-1)
        e: Tensor = self.net(pictures[new])[new.cumsum(0) - 1].unflatten(0, v.shape[:-1])
        return torch.where(there, e, self.unseen)


class Lips(NamedTuple):
    """What the lips say, as a memo: a window takes its frames of it, and leaves the place for the next.

    Args:
        says: embeddings (..., T, E); or frame by frame, each (..., 1, E).
        end: how many frames have been taken.
        now: those of the window at hand, (..., L, E).
        state: what else the model remembers.
    """

    says: Tensor | Sequence[Tensor]
    end: int = 0
    now: Tensor | None = None
    state: Any = None

    def take(self, frames: int) -> Lips:
        """With the next frames at hand."""
        end = self.end + frames
        if isinstance(self.says, Tensor):
            return self._replace(now=self.says[..., self.end : end, :], end=end)
        return self._replace(now=torch.cat([*self.says[self.end : end]], -2), end=end)

    @classmethod
    def read(cls, reader: LipReader, v: Tensor | Sequence[Tensor] | None) -> Lips:
        """Of a video (B, T, V), or of its frames one by one.

        Raises:
            ValueError: there is none.
        """
        if v is None:
            raise ValueError("This model is given video: call model.begin(B, v).")
        return cls(_says(reader, v))


@once
def _says(reader: LipReader, v: Tensor | Sequence[Tensor]) -> Tensor | tuple[Tensor, ...]:
    return reader(v) if isinstance(v, Tensor) else tuple(reader(v_t) for v_t in v)
