"""Settings of enhancement."""

from __future__ import annotations

from dataclasses import dataclass
from typing import get_args

import numpy as np

from pyrodvae.mixture_guide import Voice
from pyrodvae.noisy import Feedback
from pyrodvae.posterior import EstimateKey
from pyrodvae.settings import check_seed


@dataclass(frozen=True)
class EnhanceConfig:
    """Settings of enhancement that do not belong to an engine; numbers have a least and a most value.

    Args:
        iterations: of EM.
        chains: S draws of z side by side.
        noise_rank: K of the noise model.
        guesses: how many first guesses of the noise are followed side by side, and averaged; see
            :func:`~pyrodvae.first_guess.first_guesses`. With video, one.
        average: the share of iterations, from the end, that enters the estimate.
        memory: κ of the noise updates, which from the middle of the iterations on average over all draws
            with steps i^{-κ} (see :class:`~pyrodvae.noise.Multiplicative`); 0 looks at the last alone.
        estimate: the mean of ``"mask"`` or of ``"precision"``, see :mod:`pyrodvae.posterior`.
        tolerance: the relative change of the objective with which the noise counts as found, and only the
            iterations of the estimate remain; 0 for never.
        feedback: what a model that reads earlier frames of speech is given for them: ``"estimate"``, what
            they are believed to be, or ``"own"``, its own output; see :class:`~pyrodvae.noisy.NoisySpeech`.
        gain: whether each frame of speech has a gain of its own.
        seed: of everything random.
        approach: so many of the iterations, at most a third, are Langevin's where the engine accepts or
            rejects (mh, mala, hmc …): its small steps would not lead from the encoder's guess to the
            posterior before the noise model has taken the speech for noise.
        face: the video shows a face, and the lips are to be cut from it.
        voice: whose guess of z a mixture of audio and video with one latent starts from: ``"audio"`` or
            ``"visual"`` encoder, or ``"both"``, frame by frame either. With own latents each has its own.
        own_latents: whether a mixture has a latent for each of its readings
            (:class:`~pyrodvae.av_mixture.OwnLatents`).
        trust: of a mixture in lips: by so many nats in every bin hearing alone must explain a frame better
            to be preferred; 0 learns the share of such frames, see
            :class:`~pyrodvae.noisy_mixture.NoisyMixture`; None for the model's own (0.2 of a VAE-MM, else
            0). ``factorised`` always learns it.
        lean: the share of the recording itself that the estimate keeps where noise and speech sound alike,
            at most; see :func:`~pyrodvae.lean.lean`. With video there is no need: it shows who is meant.
        as_published: run the published algorithm that the engine's key stands for, with its own settings
            throughout (:mod:`pyrodvae.as_published`); of those here it takes iterations, noise_rank and seed.
    """

    iterations: int = 60
    chains: int = 1
    noise_rank: int = 8
    guesses: int = 1
    average: float = 0.5
    memory: float = 1.0
    estimate: EstimateKey = "mask"
    tolerance: float = 0.0
    feedback: Feedback = "estimate"
    gain: bool = False
    seed: int = 0
    approach: int = 20
    face: bool = False
    voice: Voice = "both"
    own_latents: bool = True
    trust: float | None = None
    lean: float = 0.8
    as_published: bool = False

    def __post_init__(self) -> None:
        if not isinstance(self.approach, int | np.integer) or self.approach < 0:
            raise ValueError(f"approach must be a whole number, at least 0, not {self.approach}.")
        for name, most in (("iterations", 10_000), ("chains", 256), ("noise_rank", 512), ("guesses", 16)):
            value = getattr(self, name)
            if not isinstance(value, int | np.integer) or not 1 <= value <= most:
                raise ValueError(f"{name} must be a whole number from 1 to {most}, not {value}.")
        if not 0 < self.average <= 1:
            raise ValueError(f"average is a share between 0 and 1, not {self.average}.")
        trust = 0.0 if self.trust is None else self.trust
        for name, value, limit in (
            ("memory", self.memory, 1.0),
            ("tolerance", self.tolerance, 1e6),
            ("trust", trust, 1e6),
            ("lean", self.lean, 1.0),
        ):
            if not isinstance(value, int | float | np.number) or not 0 <= value <= limit:
                raise ValueError(f"{name} must be from 0 to {limit:g}, not {value}.")
        for name, kind in (("estimate", EstimateKey), ("feedback", Feedback), ("voice", Voice)):
            words = get_args(kind)
            if getattr(self, name) not in words:
                known = ", ".join(f"'{word}'" for word in words[:-1]) + f" or '{words[-1]}'"
                raise ValueError(f"{name} is {known}, not '{getattr(self, name)}'.")
        check_seed(self.seed)
