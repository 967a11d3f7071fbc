"""What an inference network is, and one of each kind of sight."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import pyro
import torch
from pyro.distributions import Delta, TorchDistribution
from torch import Tensor, nn

from pyrodvae.dvae import BATCH, DVAE, SEGMENT, check_sequences, fit_statistics, given
from pyrodvae.energies import ENERGIES
from pyrodvae.lips import LipReader, Reader, check_video
from pyrodvae.nets import Direction, Memory, Summary, frame_mask, gaussian, join, mlp, tail
from pyrodvae.observations import make_features
from pyrodvae.program import Program
from pyrodvae.rollout import Rollout, Step


@dataclass(frozen=True)
class Sees:
    """What q(z_t | ·) may look at; where the model has a segment latent w, that besides.

    The past, present and future of x are those of the video v as well, where it looks at that; and
    ``audio=False`` leaves x itself out.
    """

    z_past: Literal["none", "previous", "all"] = "none"
    x_past: bool = False
    x_present: bool = True
    x_future: bool = False
    audio: bool = True
    video: bool = False

    def __str__(self) -> str:
        """As a factor, for example ``q(z_t | z_{<t}, x_{t:T})``."""
        z = {"none": [], "previous": ["z_{t-1}"], "all": ["z_{<t}"]}[self.z_past]
        frames = {
            (False, False, False): [],
            (True, False, False): ["_{<t}"],
            (False, True, False): ["_t"],
            (False, False, True): ["_{>t}"],
            (True, True, False): ["_{1:t}"],
            (False, True, True): ["_{t:T}"],
            (True, False, True): ["_{<t}", "_{>t}"],
            (True, True, True): ["_{1:T}"],
        }[self.x_past, self.x_present, self.x_future]
        data = ["x"] * self.audio + ["v"] * self.video
        seen = ", ".join([*z, *(name + at for name in data for at in frames)])
        return f"q(z_t | {seen})" if seen else "q(z_t)"


class Guide(Program):
    r"""An amortised posterior of the latent path.

    .. math:: q(z_{1:T} \mid x_{1:T}) = \prod_t q(z_t \mid z_{<t}, c_t)

    A guide declares :meth:`context`, what x says at each frame, computed for all frames at once, and
    :meth:`conditional`, a map on a window of frames as in the model.

    Args:
        model: whose sizes and kind of data it takes.
        sees: what q(z_t | ·) looks at.
    """

    z_0: Tensor

    def __init__(self, model: DVAE, sees: Sees) -> None:
        super().__init__()
        self.observed = model.observed
        self.has_segment = model.segment > 0
        self.energies = model.energies
        self.video = model.video
        if sees.video and not model.video:
            raise ValueError(f"{type(model).__name__} is given no video, so no guide of it looks at any.")
        self.sees = sees
        self.config: dict[str, Any] = {}
        self.read = make_features(model.data, model.observed)
        self.register_buffer("z_0", model.z_0.clone(), persistent=False)

    @abstractmethod
    def context(self, x: Tensor, lengths: Tensor | None, shared: Any) -> Tensor:
        """What x (B, T, F) says at each frame, (..., T, C); shared is what :meth:`begin` returned."""

    @abstractmethod
    def conditional(self, z_prev: Tensor, context: Tensor | None, memo: Any) -> Step:
        """q(z_t | ·) on a window, from z_{t-1} (..., L, D) and the context (..., L, C)."""

    def begin(self, x: Tensor, lengths: Tensor | None, v: Tensor | None = None) -> Any:
        """Sample what a whole sequence shares, inside the plate; and read the video, where it looks at it."""
        return None

    def posterior(self, x: Tensor, lengths: Tensor | None = None, shared: Any = None) -> Rollout:
        """q(z_{1:T} | x) for the sequences x (B, T, F).

        Args:
            x, lengths: as of the model.
            shared: what :meth:`begin` returned.

        Raises:
            ValueError: nothing of that, where the model has a segment latent or the guide looks at video.
        """
        if (self.has_segment or self.sees.video) and shared is None:
            of, more = ("w", "") if self.has_segment else ("v", ", v")
            raise ValueError(
                f"z is drawn given {of}: call guide.posterior(x, lengths, guide.begin(x, lengths{more}))."
            )
        return Rollout(
            self.conditional,
            self.z_0,
            x.shape[-2],
            context=self.context(x, lengths, shared),
            mask=None if lengths is None else frame_mask(lengths, x.shape[-2]),
            batch_shape=x.shape[:-2],
            recursive=self.sees.z_past != "none",
        )

    def forward(self, x: Tensor, lengths: Tensor | None = None, v: Tensor | None = None) -> Tensor:
        """Sample the site ``z`` (after those of :meth:`begin`); the arguments are the model's."""
        check_sequences(x, self.observed)
        check_video(v, self.video, *x.shape[:2])
        with pyro.plate(BATCH, len(x), dim=-1):
            posterior = self.posterior(x, lengths, self.begin(x, lengths, *given(v)))
            if self.energies is not None:
                energies = self.energies.of(posterior.draw_ahead())
                pyro.sample(ENERGIES, Delta(energies, event_dim=2))
            z: Tensor = pyro.sample("z", posterior)
        return z

    def fit_statistics(self, x: Tensor, v: Tensor | None = None) -> None:
        """Take what is to be known of the data before training from x (..., F) and video v (..., V)."""
        fit_statistics(self, x, v)


class SegmentEncoder(nn.Module):
    r"""A Gaussian posterior of the segment latent from the final states of an LSTM in both directions.

    .. math:: q(w \mid x_{1:T}) = \mathcal N(w;\, μ(e), \operatorname{diag} σ^2(e)), \quad
        e = \mathrm{MLP}[\overrightarrow{\mathrm{LSTM}}(y_{1:T}), \overleftarrow{\mathrm{LSTM}}(y_{T:1})]

    Args:
        inputs, hidden, layers: of the LSTM. size: W. after: sizes of dense tanh layers.

    Shapes: features y (B, T, I), lengths (B,) → batch (B,), event (W,).
    """

    def __init__(
        self, inputs: int, hidden: int, size: int, *, layers: int = 1, after: Sequence[int] = ()
    ) -> None:
        super().__init__()
        self.summary = Summary(inputs, hidden, "both", layers)
        self.dense = mlp([2 * hidden, *after])
        self.head = nn.Linear([2 * hidden, *after][-1], 2 * size)

    def forward(self, y: Tensor, lengths: Tensor | None) -> TorchDistribution:
        """q(w | x_{1:T}); the forward state is that of each sequence's own last frame."""
        forward, backward = self.summary(y, lengths).chunk(2, -1)
        if lengths is None:
            last = forward[..., -1, :]
        else:
            last = forward.take_along_dim((lengths - 1)[..., None, None], -2)[..., 0, :]
        return gaussian(self.head(self.dense(torch.cat([last, backward[..., 0, :]], -1))))


class RecurrentGuide(Guide):
    r"""A Gaussian posterior that sees just what it is told.

    .. math:: q(z_t \mid z_{<t}, x_{1:T}) = \mathcal N(z_t;\, μ(c_t), \operatorname{diag} σ^2(c_t))

    c_t joins a summary of the frames of x that it sees (dense layers for the present alone, an LSTM
    forward for the past, backward for the future, both for all) and of z (z_{t-1} itself, or an LSTM
    over z_{<t}), and the segment latent w where the model has one, drawn from a
    :class:`SegmentEncoder` before all frames. Where it sees the video, what a
    :class:`~pyrodvae.lips.LipReader` says of a picture stands beside what the first dense layers say of
    x, or in place of that where x is not seen.

    Args:
        model: the model. sees: what it conditions on. hidden: H; without an LSTM, the size of a dense
            layer in place of ``before``, or 0 for none.
        layers, before: of the LSTM over x, and sizes of dense tanh layers before it.
        z_hidden, z_layers, z_before: likewise of the LSTM over z; its H is ``hidden`` unless given.
        after: sizes of dense tanh layers on the two together.
        reader, embedding: kind of the lip reader, and E, the size of what it says.

    Raises:
        ValueError: x without its present frame: no summary of that kind is offered; neither x nor v; or
            video, where the model is given none.
    """

    def __init__(
        self,
        model: DVAE,
        sees: Sees,
        hidden: int = 128,
        *,
        layers: int = 1,
        before: Sequence[int] = (),
        z_hidden: int | None = None,
        z_layers: int = 1,
        z_before: Sequence[int] = (),
        after: Sequence[int] = (),
        reader: Reader = "conv",
        embedding: int = 64,
    ) -> None:
        super().__init__(model, sees)
        self.config = {
            "hidden": hidden,
            "layers": layers,
            "before": [*before],
            "z_hidden": z_hidden,
            "z_layers": z_layers,
            "z_before": [*z_before],
            "after": [*after],
        }
        if not sees.x_present or not (sees.audio or sees.video):
            raise ValueError(f"A guide must see the present frame of x or v; {sees} does not.")
        if sees.video:
            self.config |= {"reader": reader, "embedding": embedding}
            self.lips = LipReader(model.video, embedding, reader)
        self.recurrent = sees.x_past or sees.x_future
        sizes = [model.observed, *before]
        if hidden and not before and not self.recurrent:
            sizes += [hidden]
        if sees.audio:
            self.dense = mlp(sizes)
        width = sizes[-1] * sees.audio + embedding * sees.video
        if self.recurrent:
            direction: Direction = (
                "both" if sees.x_past and sees.x_future else "forward" if sees.x_past else "backward"
            )
            self.summary = Summary(width, hidden, direction, layers)
        ends = [*after, 2 * model.latent]
        first = ends[0]
        self.from_x = nn.Linear(self.summary.size if self.recurrent else width, first)
        if self.has_segment:
            self.segment = SegmentEncoder(sizes[-1], hidden, model.segment)
            self.from_w = nn.Linear(model.segment, first, bias=False)
        if sees.z_past != "none":
            z_sizes = [model.latent, *z_before]
            self.z_dense = mlp(z_sizes)
            if sees.z_past == "all":
                self.memory = Memory(z_sizes[-1], z_hidden or hidden, z_layers)
                z_sizes.append(z_hidden or hidden)
            self.from_z = nn.Linear(z_sizes[-1], first, bias=False)
        self.tail = tail(ends)

    def begin(self, x: Tensor, lengths: Tensor | None, v: Tensor | None = None) -> Tensor | None:
        """Sample w (B, W), where the model has it; or what the lips say (B, T, E), where it looks at them."""
        if self.sees.video and v is not None:
            says: Tensor = self.lips(v)
            return says
        if not self.has_segment:
            return None
        w: Tensor = pyro.sample(SEGMENT, self.segment(self.dense(self.read(x)), lengths))
        return w

    def context(self, x: Tensor, lengths: Tensor | None, shared: Tensor | None) -> Tensor:
        """The first layer on what x, v and w say: linear, so this part stays outside the loop over frames."""
        says = [self.dense(self.read(x))] if self.sees.audio else []
        if self.sees.video:  # with nothing to see, every picture is missing
            nothing = self.lips.unseen.expand(*x.shape[:-1], -1)
            says.append(nothing if shared is None else shared)
        y = join(*says)
        context: Tensor = self.from_x(self.summary(y, lengths) if self.recurrent else y)
        return context + self.from_w(shared)[..., None, :] if self.has_segment else context

    def conditional(self, z_prev: Tensor, context: Tensor | None, memo: Any) -> Step:
        """q(z_t | ·) on a window."""
        assert context is not None
        if self.sees.z_past == "none":
            return gaussian(self.tail(context)), memo
        h = self.z_dense(z_prev)
        if self.sees.z_past == "all":
            h, memo = self.memory(h, memo)
        return gaussian(self.tail(context + self.from_z(h))), memo
