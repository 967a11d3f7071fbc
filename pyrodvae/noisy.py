"""The mixture: a speech model and a noise model heard together."""

from __future__ import annotations

from typing import Literal, NamedTuple

import pyro
import torch
from pyro import poutine
from torch import Tensor

from pyrodvae.distributions import ComplexNormal, power
from pyrodvae.dvae import BATCH, DVAE, SEGMENT, check_sequences, over_frames
from pyrodvae.models.sparse import SparseDVAE
from pyrodvae.models.srnn import SRNN
from pyrodvae.noise import NMFNoise
from pyrodvae.own_output import OwnOutput
from pyrodvae.program import Program
from pyrodvae.rollout import Rollout

Feedback = Literal["estimate", "own"]

ENERGY_RATE = 0.1
"""By so much the energies of a sparse model follow each new draw: their mean is then over about ten."""

APPROXIMATIONS = {
    "estimate": "{} reads, in place of the clean frames x_{{<t}} that noise hides, a running estimate of "
    "them, held fixed within each E-step.",
    "own": "{} reads, in place of the clean frames x_{{<t}} that noise hides, what its own decoder said of "
    "them, frames of power v.",
    "segment": "The segment latent w of {} is held at a first guess; only z is inferred.",
}


class Pass(NamedTuple):
    """One pass of the speech model along a path z (S, B, T, D) of sequences of these lengths."""

    z: Tensor
    lengths: Tensor | None
    prior: Rollout
    variance: Tensor


def check_speech(model: DVAE) -> None:
    """Raise a ValueError unless it is a model of spectra, which noise can be added to."""
    if model.data == "real":
        raise ValueError(
            f"{type(model).__name__} here is a model of real vectors, and noise is added to complex "
            "spectra: take a model of speech."
        )


class NoisySpeech(Program):
    r"""Noisy speech, with the clean speech summed out.

    .. math::
        z_{1:T} &\sim p_θ(z_{1:T}) \\
        x_{tf} \mid z_{1:T} &\sim \mathcal N_c(0,\; g_t\, v_{θ,tf}(z_{1:T}) + (WH)_{ft})

    The speech model is frozen: at test time only z, the noise and the gain are unknown.

    **Feedback.** Where the conditionals of the model look at clean frames, :math:`p_θ(z_t | z_{<t},
    s_{<t})` and :math:`v_θ(z_{1:t}, s_{<t})`, noise hides those, and summing them out has no closed
    form. Something stands in for them:

    * ``"estimate"``: an estimate (:attr:`heard`), a constant of the density. :meth:`refresh` makes the
      one for the next E-step, of power :math:`\max(E[|s|^2 | x], |s_0|^2)` with the first guess
      :math:`s_0`. The power of the Wiener estimate, :math:`|E[s | x]|^2`, is less than that of speech,
      and so a model that went on from it alone would talk itself into silence. All frames at once.
    * ``"own"``: what the decoder itself said of them, see :class:`~pyrodvae.own_output.OwnOutput`. The
      density is then one of z and noise alone, frame by frame: slow, and gradients go through all frames.

    With an estimate each E-step has a well-defined target, but the estimate moves with the draws: EM is
    then a fixed-point iteration, and no objective is known that it climbs.

    A segment latent w is held at a first guess. What is approximate is told by :attr:`approximation`.

    Video is given, and clean: what the speech model reads of it, it reads once.

    Args:
        speech: a trained model.
        noise: for the sequences at hand.
        gain: g (B, T, 1), or None for one throughout.
        feedback: what stands for the clean frames, where the model looks at them.
        heard: a first guess of the clean speech (B, T, F), complex, for ``feedback="estimate"``; without
            it, an SRNN with ``own_share`` 1 reads its own output after all.
        w: a first guess of the segment latent (B, W), where the model has one.
        v: video (B, T, V), where the model is given one; see :mod:`pyrodvae.lips`.
        energies: a first guess of γ (B, T, N), where the model is sparse and they are not known.

    Raises:
        ValueError: the speech model is of real vectors; there is no such feedback; or a first guess
            is needed and missing.

    Source: Leglaive et al. 2020; the gain, Leglaive, Girin & Horaud 2018; own output, Bie et al.,
    *Unsupervised Speech Enhancement Using Dynamical Variational Autoencoders* (2022).
    """

    heard: Tensor | None = None
    """What stands for the clean speech, (B, T, F); None where nothing has to: its power alone counts."""
    approximation: str
    """What is approximate in this mixture, a sentence; empty where nothing is."""
    responsibility: Tensor | None = None
    """p(α_t = 1 | x), (B, T), of a mixture of audio and video, by the draws it was last asked about."""

    def __init__(
        self,
        speech: DVAE,
        noise: NMFNoise,
        gain: Tensor | None = None,
        *,
        feedback: Feedback = "estimate",
        heard: Tensor | None = None,
        w: Tensor | None = None,
        v: Tensor | None = None,
        energies: Tensor | None = None,
    ) -> None:
        super().__init__()
        name = type(speech).__name__
        check_speech(speech)
        if feedback not in ("estimate", "own"):
            raise ValueError(f"feedback is 'estimate' or 'own', not '{feedback}'.")
        if isinstance(speech, SRNN) and feedback == "estimate" and heard is not None:
            speech = speech.reading_frames()  # it may have learned to do without, but does better with them
        if speech.feedback and feedback == "estimate":
            if heard is None:
                raise ValueError(
                    f"{name} feeds clean speech frames back into the model, and noise hides them: give "
                    "heard=, a first guess of them (B, T, F), or choose feedback='own'."
                )
            self.heard, self._least = heard, power(heard)
        if speech.segment and w is None:
            raise ValueError(
                f"{name} has a segment latent w beside its path z, and engines draw z alone: give w=, a "
                "first guess of it (B, W)."
            )
        self.learns_energies = isinstance(speech, SparseDVAE) and speech.energies is not None
        if isinstance(speech, SparseDVAE) and self.learns_energies:
            if energies is None:
                raise ValueError(
                    f"{name} has energies γ beside its path z, and engines draw z alone: give energies=, a "
                    "first guess of them (B, T, N)."
                )
            speech = speech.given(energies)
        used = [feedback] * speech.feedback + ["segment"] * (speech.segment > 0)
        self.approximation = " ".join(APPROXIMATIONS[key].format(name) for key in used)
        self.speech = OwnOutput(speech) if speech.feedback and feedback == "own" else speech
        self.speech.requires_grad_(False)
        self.shared = None
        if w is not None and speech.segment:
            self.shared = poutine.condition(self.speech.begin, {SEGMENT: w})(len(w))
        elif speech.video:
            self.shared = self.speech.begin(0 if v is None else len(v), v)
        self.noise = noise
        self.gain = gain
        self._last: Pass | None = None

    @property
    def reach(self) -> int | None:
        """That of the speech model: the noise ties no frames together once W and H are given."""
        return self.speech.reach

    def forward(self, x: Tensor, lengths: Tensor | None = None) -> Tensor:
        """Sites ``z`` (event (T, D)) and ``x`` (event (T, F)) for noisy x (B, T, F)."""
        check_sequences(x, self.speech.observed)
        kept, self._last = self._last, None  # it serves once: a backward pass frees its graph
        if kept is not None and kept.lengths is not lengths:
            kept = None
        with pyro.plate(BATCH, len(x), dim=-1):
            prior = self._prior(x, lengths) if kept is None else kept.prior
            z: Tensor = pyro.sample("z", prior)
            v = self.noise() + self.scaled(self._variance(z, lengths, prior, kept))
            p_x = ComplexNormal(v, validate_args=False).to_event(1)
            pyro.sample("x", over_frames(p_x, lengths), obs=x)
        return z

    def speech_variance(self, z: Tensor, lengths: Tensor | None = None) -> Tensor:
        """v(z), (S, B, T, F); kept for the next run of the program, which will ask for the same z."""
        prior = self._prior(z.reshape(-1, *z.shape[-3:])[0], lengths)
        v = self._variance(z, lengths, prior)
        self._last = Pass(z, lengths, prior, v)
        return v

    @property
    def bounded(self) -> bool:
        """Whether the density has a mode; energies that follow z run with it into z = γ = 0."""
        return not (self.learns_energies and isinstance(self.speech, SparseDVAE)) or self.speech.law.bounded

    def refine(self, z: Tensor) -> None:
        """The M-step of the energies of a sparse model, from draws z (S, B, T, N); of others, nothing."""
        if self.learns_energies and isinstance(self.speech, SparseDVAE):
            self.speech = self.speech.refined(z, ENERGY_RATE)
            self._last = None

    @torch.no_grad()
    def refresh(self, x_power: Tensor, speech: Tensor) -> None:
        """After an M-step: what the model knows of the clean frames; nothing, where it looks at none.

        Args:
            x_power: |x|² (B, T, F).
            speech: draws of g·v, (S, B, T, F).
        """
        if self.heard is None:
            return
        noise = self.noise.variance
        mask = speech / (speech + noise)
        found = torch.maximum((mask.square() * x_power + mask * noise).mean(0), self._least)
        if self.gain is not None:
            found = found / self.gain
        self.heard = found.sqrt().to(self.heard.dtype)
        self._last = None

    def _prior(self, x: Tensor, lengths: Tensor | None) -> Rollout:
        """p(z); x (B, T, ·) gives the shape."""
        return self.speech.prior(x if self.heard is None else self.heard, lengths, self.shared)

    def _variance(
        self, z: Tensor, lengths: Tensor | None, prior: Rollout, kept: Pass | None = None
    ) -> Tensor:
        """v(z): the kept one if it is of this z and has the graph that is needed, else a new one."""
        needs_graph = torch.is_grad_enabled() and z.requires_grad
        if kept is not None and kept.z is z and (kept.variance.requires_grad or not needs_graph):
            return kept.variance
        heard = z if self.heard is None else self.heard
        return self.speech.likelihood(z, heard, prior, lengths).variance

    def scaled(self, variance: Tensor) -> Tensor:
        """g · v."""
        return variance if self.gain is None else self.gain * variance
