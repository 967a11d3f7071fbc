"""From one spectrogram of noisy speech and an engine to the posterior of the speech."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from pyrodvae.as_published import enhance_spectrum_as_published, published_form
from pyrodvae.av_mixture import AVMixture
from pyrodvae.denoised import Denoised, subtract
from pyrodvae.em import Posterior, em
from pyrodvae.engines import ALGORITHMS, ENGINES, Chain, Engine, Factorised, Langevin
from pyrodvae.enhance_config import EnhanceConfig
from pyrodvae.first_guess import first_guesses, refit
from pyrodvae.given import Given
from pyrodvae.lean import lean
from pyrodvae.mixture_guide import readings
from pyrodvae.mixture_vem import factorised_em
from pyrodvae.noise import Multiplicative
from pyrodvae.noisy import NoisySpeech, check_speech
from pyrodvae.noisy_mixture import NoisyMixture
from pyrodvae.pooling import pooled
from pyrodvae.weights import Run

START_FLOOR = 0.05
"""Of the power that chains start from; engines that go on to read x read more of it, see Denoised."""


def make_engine(key: str, **settings: Any) -> Engine:
    """An engine by its key; keys joined by "+" make a chain, ``"encoder+langevin+mala"``.

    Raises:
        ValueError: no such engine, or a setting that it does not have.
    """
    if "+" in key:
        if not all(part.strip() for part in key.split("+")):
            raise ValueError(f"The chain of engines '{key}' has an empty part.")
        if settings:
            raise ValueError(f"The engines of '{key}' have settings of their own: make each, and a Chain.")
        return Chain(tuple(make_engine(part.strip()) for part in key.split("+")))
    known = ENGINES | ALGORITHMS
    if key not in known:
        raise ValueError(f"No engine is called '{key}'; there are: {', '.join(known)}.")
    try:
        return known[key](**settings)
    except TypeError as error:
        raise ValueError(f"The engine '{key}' refuses a setting: {error}.") from error


def enhance_spectrum(
    x: Tensor,
    run: Run,
    engine: Engine,
    config: EnhanceConfig,
    generator: torch.Generator,
    each: Callable[[int], None] = lambda i: None,
    *,
    v: Tensor | None = None,
) -> Posterior:
    """EM on one window x (B, T, F), v (B, T, V): a first guess of the noise, z from the encoder, then EM.

    The encoder knows clean speech only, so it reads a crudely enhanced x: by spectral subtraction of
    twice the first guess of the noise. Of several guesses every one has its EM, side by side, and z of the
    later ones starts from what they leave of x.
    """
    if config.as_published:
        form, seed = published_form(engine, run), config.seed
        return enhance_spectrum_as_published(x, run, form, config.iterations, seed, config.noise_rank, each)
    check_speech(run.model)
    rate = run.stft.sample_rate
    guesses = config.guesses if v is None else 1
    sequences = len(x)
    noise = first_guesses(x, config.noise_rank, rate, guesses, generator)
    crude = subtract(x, noise.variance[:sequences], START_FLOOR).repeat(guesses, 1, 1)
    x = x.repeat(guesses, 1, 1)
    g = torch.ones_like(x[..., :1].real) if config.gain else None
    own = config.own_latents and not isinstance(engine, Factorised)
    speech, encoder = readings(run.model, run.guide, own, config.voice)
    law = encoder.energies
    guide = Given(encoder, crude, v) if speech.shares or law is not None else encoder
    w = guide.shared if speech.segment else None
    with torch.no_grad():
        q = guide.posterior(crude)
        z = q.rsample((config.chains,))
        energies = None if law is None else law.of(q.along(z)).mean(0)
    m_step = Multiplicative(config.memory, config.iterations // 2)
    most = config.lean if v is None else 0.0
    if isinstance(engine, Factorised):
        found = factorised_em(
            speech, noise, g, x, v, z, engine,
            iterations=config.iterations, average=config.average, m_step=m_step, each=each,
        )  # fmt: skip
        return lean(found, rate, most)
    if isinstance(speech, AVMixture):
        trust = speech.trust if config.trust is None else config.trust
        model: NoisySpeech = NoisyMixture(speech, noise, g, x=x, v=v, trust=trust)
    else:
        model = NoisySpeech(
            speech, noise, g, feedback=config.feedback, heard=crude, w=w, v=v, energies=energies
        )
    if guesses > 1:
        with torch.no_grad():
            refit(noise, x, model.speech_variance(z), sequences)
            z = guide.posterior(subtract(x, noise.variance, START_FLOOR)).rsample((config.chains,))
    engine = _approached(engine, config).planned(config.iterations)
    found = em(
        model,
        Denoised(guide, noise.variance),
        x,
        engine,
        z,
        iterations=config.iterations,
        average=config.average,
        estimate=config.estimate,
        m_step=m_step,
        tolerance=config.tolerance,
        each=each,
    )
    return lean(pooled(found, guesses, rate), rate, most)


def _approached(engine: Engine, config: EnhanceConfig) -> Engine:
    """The engine, or one that begins with Langevin's, where small steps would not lead to the posterior."""
    steps = min(config.approach, config.iterations // 3)
    if not engine.local or not steps:
        return engine
    chain = engine if isinstance(engine, Chain) else Chain((engine,))
    before, after = chain.engines[: chain.first_walker], Chain(chain.engines[chain.first_walker :])
    rest = max(1, config.iterations - len(before) - steps)
    return Chain((*before, Langevin(), after), (*(1,) * len(before), steps, rest))
