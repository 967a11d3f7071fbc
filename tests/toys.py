"""Small models, data and yardsticks that several tests share."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import torch
from pyro.distributions import Normal
from torch import Tensor, nn

from pyrodvae.distributions import Step
from pyrodvae.dvae import DVAE
from pyrodvae.guides import GUIDES, PAPER, Guide, make_guide
from pyrodvae.models import MODELS
from pyrodvae.nets import LogSpectrum, Memory, SpectrumHead, standard_normal
from pyrodvae.noise import NMFNoise
from pyrodvae.noisy import NoisySpeech

F, D, H, T, B = 5, 2, 4, 6, 3


class Head(nn.Module):
    """Features to a diagonal Gaussian, bounded so that no path runs away."""

    def __init__(self, inputs: int, size: int) -> None:
        super().__init__()
        self.loc, self.log_scale = nn.Linear(inputs, size), nn.Linear(inputs, size)

    def forward(self, h: Tensor) -> Normal:
        return Normal(self.loc(h).tanh(), self.log_scale(h).tanh().exp()).to_event(1)


class ToyDKF(DVAE):
    """z_t given z_{t-1}, x_t given z_t: recursive, and without memory or feedback."""

    feedback = False

    def __init__(self, observed: int, latent: int, hidden: int) -> None:
        super().__init__(observed, latent)
        self.drift, self.head = Head(latent, latent), SpectrumHead(latent, observed)

    def transition(self, z_prev: Tensor, x_prev: Tensor | None, memo: Any) -> Step:
        return self.drift(z_prev), memo

    def emission(self, z: Tensor, x_prev: Tensor | None, memo: Any) -> Step:
        return self.head(z), memo


class ToySTORN(DVAE):
    """z_t on its own, x_t given z_{1:t} and x_{<t}: feedback, and a memory of the emission alone."""

    recursive = False

    def __init__(self, observed: int, latent: int, hidden: int) -> None:
        super().__init__(observed, latent)
        self.log, self.memory = LogSpectrum(observed), Memory(latent + observed, hidden)
        self.head = SpectrumHead(hidden, observed)

    def transition(self, z_prev: Tensor, x_prev: Tensor | None, memo: Any) -> Step:
        return standard_normal(z_prev), memo

    def emission(self, z: Tensor, x_prev: Tensor | None, memo: Any) -> Step:
        h, memo = self.memory(join(z, self.log(x_prev)), memo)
        return self.head(h), memo


class Past(NamedTuple):
    """What a ToyVRNN carries along."""

    h: Tensor
    state: Any


class ToyVRNN(DVAE):
    """z_t given z_{<t}, x_{<t}; x_t given z_{1:t}, x_{<t}: everything at once, with a shared memory."""

    def __init__(self, observed: int, latent: int, hidden: int) -> None:
        super().__init__(observed, latent)
        self.log, self.memory = LogSpectrum(observed), Memory(latent + observed, hidden)
        self.drift, self.head = Head(hidden, latent), SpectrumHead(hidden + latent, observed)

    def transition(self, z_prev: Tensor, x_prev: Tensor | None, memo: Past | None) -> Step:
        h, state = self.memory(join(z_prev, self.log(x_prev)), memo.state if memo else None)
        return self.drift(h), Past(h, state)

    def emission(self, z: Tensor, x_prev: Tensor | None, memo: Past) -> Step:
        return self.head(join(z, memo.h)), memo


def join(*parts: Tensor) -> Tensor:
    """Features side by side, with the batch shapes broadcast."""
    shape = torch.broadcast_shapes(*(p.shape[:-1] for p in parts))
    return torch.cat([p.expand(*shape, -1) for p in parts], -1)


ALL: dict[str, type[DVAE]] = {**MODELS, "toy-dkf": ToyDKF, "toy-storn": ToySTORN, "toy-vrnn": ToyVRNN}
"""Every shipped model, and one small model for each way of using the base class."""

PAIRS = [(m, g) for m in ALL for g in GUIDES if g != "paper" or ALL[m] in PAPER]
"""Every model with every guide that fits it."""


def make(model: str, guide: str = "smoother", dtype: torch.dtype = torch.double) -> tuple[DVAE, Guide]:
    """A model and a guide of small size, their weights about twice as large as torch starts them."""
    m = ALL[model](F, D, H)
    g = make_guide(m, guide, H)
    with torch.no_grad():
        for p in (*m.parameters(), *g.parameters()):
            p.mul_(2)
    return m.to(dtype), g.to(dtype)


def spectra(batch: int = B, frames: int = T, bins: int = F, dtype: torch.dtype = torch.cdouble) -> Tensor:
    """Complex Gaussian noise (B, T, F)."""
    return torch.randn(batch, frames, bins, dtype=dtype)


def mixture(
    key: str = "rvae", gain: bool = True, seed: int = 0, chains: int = 2
) -> tuple[NoisySpeech, Guide, Tensor, Tensor]:
    """A mixture model, the guide of its speech, what was heard, and where the chains start."""
    torch.manual_seed(seed)
    speech, guide = make(key)
    x = 2 * spectra()
    noise = NMFNoise.from_quiet_frames(x, 2, torch.Generator().manual_seed(0))
    g = torch.rand(B, T, 1, dtype=torch.double) + 0.5 if gain else None
    return NoisySpeech(speech, noise, g), guide, x, torch.randn(chains, B, T, D, dtype=torch.double)


def errors(draws: Tensor, truth: Tensor | float = 0.0) -> float:
    """How many standard errors the mean over the first axis is from the truth, at the worst entry."""
    se = draws.std(0) / math.sqrt(len(draws))
    return float(((draws.mean(0) - truth).abs() / se).max())
