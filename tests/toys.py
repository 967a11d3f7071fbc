"""Small models, data and yardsticks that several tests share."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from pyro.distributions import Normal
from torch import Tensor, nn

from pyrodvae.dvae import DVAE, SEGMENT
from pyrodvae.guides import GUIDES, PAPER, Guide, make_guide
from pyrodvae.models import MODELS, Kalman, is_given_video
from pyrodvae.models.sparse import SparseDVAE
from pyrodvae.nets import Memory, join, standard_normal
from pyrodvae.noise import NMFNoise
from pyrodvae.noisy import NoisySpeech
from pyrodvae.observations import DATA, LogSpectrum, SpectrumHead
from pyrodvae.rollout import Step

F, D, H, T, B, V = 5, 2, 4, 6, 3, 64


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
    reach = 1

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


BLIND = {key: kind for key, kind in MODELS.items() if not is_given_video(key)}
"""The models that are given no video; for the others see test_audio_visual_models.py."""

SEEING = [key for key in MODELS if key not in BLIND]
"""The models that are."""

EVERY: dict[str, type[DVAE]] = {**BLIND, "toy-dkf": ToyDKF, "toy-storn": ToySTORN, "toy-vrnn": ToyVRNN}
"""Every shipped model without video, and one small model for each way of using the base class."""

EVERY_PAIR = [(m, g) for m in EVERY for g in GUIDES if g != "paper" or EVERY[m] in PAPER]
"""Every model with every guide that fits it."""

ALL = {key: kind for key, kind in EVERY.items() if kind is not Kalman}
"""Those that can be models of speech."""

PAIRS = [(m, g) for m, g in EVERY_PAIR if m in ALL]
"""Models of speech with every guide that fits them."""


def make(model: str, guide: str = "smoother", dtype: torch.dtype = torch.double) -> tuple[DVAE, Guide]:
    """A model and a guide of small size, their weights about twice as large as torch starts them."""
    exact = model == "kalman"  # it has no layers, and its own guide none either
    lips = {"video": V} if model in SEEING else {}
    m = Kalman(F, D) if exact else (EVERY | MODELS)[model](F, D, H, **lips)
    if isinstance(m, SparseDVAE):  # with energies it is a model like any other
        m = m.given(torch.rand(m.latent) + 0.5)
    g = make_guide(m) if exact and guide == "paper" else make_guide(m, guide, hidden=H)
    with torch.no_grad():
        for module in (*m.modules(), *g.modules()):
            if not isinstance(module, nn.LayerNorm):  # torch starts them at one: that is large already
                for p in module.parameters(recurse=False):
                    p.mul_(2)
    return m.to(dtype), g.to(dtype)


def latents(model: DVAE, batch: int = B) -> dict[str, Tensor]:
    """Values for all latent sites of a model: a path z, and w where it has one."""
    values = {"z": torch.randn(batch, T, D, dtype=torch.double)}
    if model.segment:
        values[SEGMENT] = torch.randn(batch, model.segment, dtype=torch.double)
    return values


def spectra(batch: int = B, frames: int = T, bins: int = F, dtype: torch.dtype = torch.cdouble) -> Tensor:
    """Complex Gaussian noise (B, T, F)."""
    return torch.randn(batch, frames, bins, dtype=dtype)


def data(model: DVAE, batch: int = B, frames: int = T) -> Tensor:
    """Noise of the kind that the model is of, (B, T, F)."""
    x = spectra(batch, frames)
    return x if DATA[model.data][0].is_complex else x.real


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


def moved(f: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """Entry (t, s): does frame t of f(x) (B, T, ·) move when frame s of x does?"""
    before = f(x)
    columns = []
    for s in range(x.shape[-2]):
        other = x.clone()
        other[..., s, :] += 1.5
        columns.append((f(other) != before).any(-1).any(0))
    return torch.stack(columns, -1)


def errors(draws: Tensor, truth: Tensor | float = 0.0) -> float:
    """How many standard errors the mean over the first axis is from the truth, at the worst entry."""
    se = draws.std(0) / math.sqrt(len(draws))
    return float(((draws.mean(0) - truth).abs() / se).max())
