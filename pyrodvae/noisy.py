"""The mixture: a speech model and a noise model heard together."""

from __future__ import annotations

import pyro
import torch
from torch import Tensor

from pyrodvae.distributions import ComplexNormal
from pyrodvae.dvae import BATCH, DVAE, check_sequences, over_frames
from pyrodvae.noise import NMFNoise
from pyrodvae.program import Program


class NoisySpeech(Program):
    r"""Noisy speech, with the clean speech summed out.

    .. math::
        z_{1:T} &\sim p_θ(z_{1:T}) \\
        x_{tf} \mid z_{1:T} &\sim \mathcal N_c(0,\; g_t\, v_{θ,tf}(z_{1:T}) + (WH)_{ft})

    The speech model is frozen: at test time only z, the noise and the gain are unknown.

    Args:
        speech: a trained model.
        noise: for the sequences at hand.
        gain: g (B, T, 1), or None for one throughout.

    Raises:
        ValueError: the speech model is of real vectors; it feeds clean frames back, which are not
            observed here; or it has a segment latent, which engines do not draw.

    Source: Leglaive et al. 2020; the gain, Leglaive, Girin & Horaud 2018.
    """

    def __init__(self, speech: DVAE, noise: NMFNoise, gain: Tensor | None = None) -> None:
        super().__init__()
        if speech.data == "real":
            raise ValueError(
                f"{type(speech).__name__} here is a model of real vectors, and noise is added to complex "
                "spectra: take a model of speech."
            )
        if speech.feedback:
            raise ValueError(
                f"{type(speech).__name__} feeds clean speech frames back into the model, and under "
                "noise they are not observed."
            )
        if speech.segment:
            raise ValueError(
                f"{type(speech).__name__} has a segment latent w beside its path z, and engines draw z "
                "alone: enhance with a model that has none."
            )
        self.speech = speech.requires_grad_(False)
        self.noise = noise
        self.gain = gain
        self._last: tuple[Tensor, Tensor] | None = None

    def forward(self, x: Tensor, lengths: Tensor | None = None) -> Tensor:
        """Sites ``z`` (event (T, D)) and ``x`` (event (T, F)) for noisy x (B, T, F)."""
        check_sequences(x, self.speech.observed)
        with pyro.plate(BATCH, len(x), dim=-1):
            z: Tensor = pyro.sample("z", self.speech.prior(x, lengths))
            v = self.noise.variance + self.scaled(self._taken(z, lengths))
            p_x = ComplexNormal(v, validate_args=False).to_event(1)
            pyro.sample("x", over_frames(p_x, lengths), obs=x)
        return z

    def speech_variance(self, z: Tensor, lengths: Tensor | None = None) -> Tensor:
        """v(z), (S, B, T, F); kept for the next run of the program, which will ask for the same z."""
        v = self._variance(z, lengths)
        self._last = (z, v)
        return v

    def _taken(self, z: Tensor, lengths: Tensor | None) -> Tensor:
        """The kept variance if it is of this z and has the graph that is needed, else a new one.

        It is taken only once: a backward pass frees its graph.
        """
        last, self._last = self._last, None
        needs_graph = torch.is_grad_enabled() and z.requires_grad
        if last is not None and last[0] is z and (last[1].requires_grad or not needs_graph):
            return last[1]
        return self._variance(z, lengths)

    def _variance(self, z: Tensor, lengths: Tensor | None) -> Tensor:
        return self.speech.likelihood(z, z, self.speech.prior(z, lengths), lengths).variance

    def scaled(self, variance: Tensor) -> Tensor:
        """g · v."""
        return variance if self.gain is None else self.gain * variance

    @torch.no_grad()
    def objective(self, x_power: Tensor, speech: Tensor) -> Tensor:
        """Mean over draws and bins of log V + |x|²/V, the negative log-likelihood less log π: (B,)."""
        v = speech + self.noise.variance
        return (v.log() + x_power / v).mean((0, 2, 3))
