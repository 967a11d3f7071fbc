"""What a published algorithm is: where it starts, its E-step, its M-step, and the draws of its estimate."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, Protocol

import torch
from torch import Tensor

from pyrodvae.as_published.mixture import Mixture

Gain = Literal["updated", "fixed"]
"""Whether the M-step updates the gain of each frame, or leaves it at one."""


MOST = 1e6
"""Of any number among the settings."""


class Draw(Protocol):
    """The one source of chance; whoever brings another one decides on every draw."""

    def normal(self, shape: Sequence[int]) -> Tensor:
        """Standard normal numbers."""

    def uniform(self, shape: Sequence[int]) -> Tensor:
        """Uniform numbers between 0 and 1."""


@dataclass(frozen=True)
class TorchDraw:
    """Torch's own chance, from one generator, on its device."""

    generator: torch.Generator

    def normal(self, shape: Sequence[int]) -> Tensor:
        """Standard normal numbers."""
        return torch.randn(*shape, generator=self.generator, device=self.generator.device)

    def uniform(self, shape: Sequence[int]) -> Tensor:
        """Uniform numbers between 0 and 1."""
        return torch.rand(*shape, generator=self.generator, device=self.generator.device)


class Step(NamedTuple):
    """What an E-step leaves.

    Args:
        state: for the next E-step.
        z: where the chains are (S, T, D).
        v: the speech variances that go to the M-step (R, T, F).
        info: diagnostics by name, each one number.
    """

    state: Any
    z: Tensor
    v: Tensor
    info: dict[str, Tensor]


class Algorithm(ABC):
    """A frozen dataclass of settings that knows how to start and how to do both steps of EM.

    Once round the loop that :func:`~pyrodvae.as_published.separate` repeats::

        state = algorithm.start(mixture, draw)
        step = algorithm.e_step(mixture, state, draw)      # and so on from step.state
        algorithm.m_step(mixture, step)
        v = algorithm.last(mixture, step, draw)            # for the Wiener filter, after the last M-step
    """

    gain: Gain = "updated"

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            least = 1 if name in ("steps", "chains") else 0
            if isinstance(value, int | float) and not least <= value <= MOST:
                raise ValueError(
                    f"{type(self).__name__}: {name} must be from {least} to {MOST:g}, not {value}."
                )

    @abstractmethod
    def start(self, mixture: Mixture, draw: Draw) -> Any:
        """The state before the first E-step."""

    @abstractmethod
    def e_step(self, mixture: Mixture, state: Any, draw: Draw) -> Step:
        """Speech variances given noise and gain."""

    def m_step(self, mixture: Mixture, step: Step) -> None:
        """Noise and gain given speech variances."""
        mixture.update_noise(step.v)
        if self.gain == "updated":
            mixture.update_gain(step.v)

    def last(self, mixture: Mixture, step: Step, draw: Draw) -> Tensor:
        """The speech variances of the final estimate, (R, T, F): here those of the last E-step."""
        return step.v


class Path(NamedTuple):
    """A path of the encoder and the Gaussians it was drawn from, each (T, D)."""

    z: Tensor
    mean: Tensor
    std: Tensor


def encode(guide: Any, x: Tensor, draw: Draw) -> Path:
    """A path from q(z | x), drawn frame by frame where the guide sees earlier z, for x (T, F).

    The mean of a recursive guide is that along the sampled path.
    """
    frames = 1 if guide.sees.z_past != "none" else len(x)
    z, memo = guide.z_0.expand(1, frames, -1), None
    parts: list[Tensor] = []
    for context in guide.context(x[None], None, None).split(frames, -2):
        q, memo = guide.conditional(z, context, memo)
        z = q.mean + q.stddev * draw.normal(q.mean.shape)
        parts.append(torch.cat([z, q.mean, q.stddev]))
    return Path(*torch.cat(parts, -2))


@torch.no_grad()
def around_encoder(mixture: Mixture, draw: Draw, chains: int, spread: float) -> Tensor:
    """Starting points (S, T, D): the mean of a path of the encoder, which reads x as it is, and noise."""
    mean = encode(mixture.guide, mixture.x, draw).mean.expand(chains, -1, -1)
    return mean + spread * draw.normal(mean.shape) if spread else mean.clone()
