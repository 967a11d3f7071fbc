"""Inference networks, chosen by what they condition on."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import pyro
import torch
from torch import Tensor, nn

from pyrodvae.distributions import Rollout, Step
from pyrodvae.dvae import BATCH, DVAE, check_sequences
from pyrodvae.models import RVAE, VAE, CausalRVAE
from pyrodvae.nets import LogSpectrum, Memory, Summary, frame_mask, gaussian, mlp
from pyrodvae.program import Program


@dataclass(frozen=True)
class Sees:
    """What q(z_t | ·) may look at."""

    z_past: Literal["none", "previous", "all"] = "none"
    x_past: bool = False
    x_present: bool = True
    x_future: bool = False

    def __str__(self) -> str:
        """As a factor, for example ``q(z_t | z_{<t}, x_{t:T})``."""
        z = {"none": [], "previous": ["z_{t-1}"], "all": ["z_{<t}"]}[self.z_past]
        x = {
            (False, False, False): [],
            (True, False, False): ["x_{<t}"],
            (False, True, False): ["x_t"],
            (False, False, True): ["x_{>t}"],
            (True, True, False): ["x_{1:t}"],
            (False, True, True): ["x_{t:T}"],
            (True, False, True): ["x_{<t}", "x_{>t}"],
            (True, True, True): ["x_{1:T}"],
        }[self.x_past, self.x_present, self.x_future]
        seen = ", ".join(z + x)
        return f"q(z_t | {seen})" if seen else "q(z_t)"


class Guide(Program):
    r"""An amortised Gaussian posterior that sees just what it is told.

    .. math:: q(z_{1:T} \mid x_{1:T}) = \prod_t \mathcal N(z_t;\, μ(c_t), \operatorname{diag} σ^2(c_t))

    c_t joins a summary of the frames of x that it sees (a dense layer for the present alone, an LSTM
    forward for the past, backward for the future, both for all) and of z (z_{t-1} itself, or an LSTM
    over z_{<t}).

    Args:
        observed, latent, hidden: F, D, H.
        sees: what it conditions on.

    Raises:
        ValueError: x without its present frame: no summary of that kind is offered.
    """

    z_0: Tensor

    def __init__(self, observed: int, latent: int, hidden: int, sees: Sees) -> None:
        super().__init__()
        if not sees.x_present:
            raise ValueError(f"A guide must see the present frame of x; {sees} does not.")
        self.observed = observed
        self.sees = sees
        self.spectrum = LogSpectrum(observed)
        self.register_buffer("z_0", torch.zeros(latent), persistent=False)
        if sees.x_past or sees.x_future:
            direction: Literal["forward", "backward", "both"] = (
                "both" if sees.x_past and sees.x_future else "forward" if sees.x_past else "backward"
            )
            self.summary = Summary(observed, hidden, direction)
            size = self.summary.size
        else:
            self.dense = mlp([observed, hidden])
            size = hidden
        self.from_x = nn.Linear(size, 2 * latent)
        if sees.z_past == "all":
            self.memory = Memory(latent, hidden)
        if sees.z_past != "none":
            self.from_z = nn.Linear(hidden if sees.z_past == "all" else latent, 2 * latent, bias=False)

    def conditional(self, z_prev: Tensor, from_x: Tensor | None, memo: Any) -> Step:
        """q(z_t | ·) on a window, from z_{t-1} (..., L, D) and what x says, (..., L, 2D).

        The head is linear, so its part for x is computed for all frames at once, outside the loop.
        """
        assert from_x is not None
        if self.sees.z_past == "none":
            return gaussian(from_x), memo
        if self.sees.z_past == "all":
            z_prev, memo = self.memory(z_prev, memo)
        return gaussian(from_x + self.from_z(z_prev)), memo

    def posterior(self, x: Tensor, lengths: Tensor | None = None) -> Rollout:
        """q(z_{1:T} | x) for the sequences x (B, T, F)."""
        y = self.spectrum(x)
        recurrent = self.sees.x_past or self.sees.x_future
        return Rollout(
            self.conditional,
            self.z_0,
            x.shape[-2],
            context=self.from_x(self.summary(y, lengths) if recurrent else self.dense(y)),
            mask=None if lengths is None else frame_mask(lengths, x.shape[-2]),
            batch_shape=x.shape[:-2],
            recursive=self.sees.z_past != "none",
        )

    def forward(self, x: Tensor, lengths: Tensor | None = None) -> Tensor:
        """Sample the site ``z``; the arguments are the model's."""
        check_sequences(x, self.observed)
        with pyro.plate(BATCH, len(x), dim=-1):
            z: Tensor = pyro.sample("z", self.posterior(x, lengths))
        return z

    def fit_statistics(self, x: Tensor) -> None:
        """Standardise the input by the mean and spread of the log-spectrum of x (..., F)."""
        self.spectrum.fit(x)


PAPER: dict[type[DVAE], Sees] = {
    VAE: Sees(),
    RVAE: Sees(z_past="all", x_past=True, x_future=True),
    CausalRVAE: Sees(z_past="all", x_future=True),
}
"""What the paper of each model lets its encoder see."""

GUIDES: dict[str, Sees | None] = {
    "paper": None,
    "meanfield": Sees(),  # factorised over frames, and each frame sees its own x_t alone
    "filter": Sees(z_past="previous", x_past=True),
    "smoother": Sees(z_past="all", x_past=True, x_future=True),
}
"""Guide key → what it sees; None asks :data:`PAPER`."""


def make_guide(model: DVAE, key: str = "paper", hidden: int = 128) -> Guide:
    """The guide ``key`` for a model, of the model's sizes.

    Raises:
        ValueError: no such key, or a model whose paper is not known.
    """
    if key not in GUIDES:
        raise ValueError(f"No guide is called '{key}'; there are: {', '.join(GUIDES)}.")
    sees = GUIDES[key] or PAPER.get(type(model))
    if sees is None:
        raise ValueError(f"No paper's guide is known for {type(model).__name__}: choose another key.")
    return Guide(model.observed, model.latent, hidden, sees)
