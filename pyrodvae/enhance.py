"""Speech enhancement: a noisy waveform in, speech and noise out."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, get_args

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from pyrodvae.as_published import enhance_spectrum_as_published, published_form
from pyrodvae.audio import AudioError, Waveform
from pyrodvae.av_mixture import AVMixture
from pyrodvae.denoised import Denoised, subtract
from pyrodvae.diagnostics import Diagnostics
from pyrodvae.em import Posterior, em
from pyrodvae.engines import ALGORITHMS, ENGINES, Chain, Engine, Factorised, Langevin
from pyrodvae.given import Given
from pyrodvae.mixture_guide import Voice, readings
from pyrodvae.mixture_vem import factorised_em
from pyrodvae.noise import Multiplicative, NMFNoise
from pyrodvae.noisy import Feedback, NoisySpeech
from pyrodvae.noisy_mixture import NoisyMixture
from pyrodvae.posterior import EstimateKey
from pyrodvae.settings import check_seed
from pyrodvae.signal import overlapping, resample
from pyrodvae.video_for import video_for
from pyrodvae.waveforms import centred, read_input
from pyrodvae.weights import Run, load_run

START_FLOOR = 0.05
"""Of the power that chains start from; engines that go on to read x read more of it, see Denoised."""
WINDOW_SECONDS, SHARED_SECONDS = 30.0, 1.0
"""Longer recordings are enhanced in windows of this length, faded into each other over the second."""


@dataclass(frozen=True)
class EnhanceConfig:
    """Settings of enhancement that do not belong to an engine; numbers have a least and a most value.

    Args:
        iterations: of EM.
        chains: S draws of z side by side.
        noise_rank: K of the noise model.
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
        as_published: run the published algorithm that the engine's key stands for, with its own settings
            throughout (:mod:`pyrodvae.as_published`); of those here it takes iterations, noise_rank and seed.
    """

    iterations: int = 60
    chains: int = 1
    noise_rank: int = 8
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
    as_published: bool = False

    def __post_init__(self) -> None:
        if not isinstance(self.approach, int | np.integer) or self.approach < 0:
            raise ValueError(f"approach must be a whole number, at least 0, not {self.approach}.")
        for name, most in (("iterations", 10_000), ("chains", 256), ("noise_rank", 512)):
            value = getattr(self, name)
            if not isinstance(value, int | np.integer) or not 1 <= value <= most:
                raise ValueError(f"{name} must be a whole number from 1 to {most}, not {value}.")
        if not 0 < self.average <= 1:
            raise ValueError(f"average is a share between 0 and 1, not {self.average}.")
        for name, limit in (("memory", 1.0), ("tolerance", math.inf)):
            value = getattr(self, name)
            if not isinstance(value, int | float | np.number) or not 0 <= value <= limit:
                raise ValueError(f"{name} must be from 0 to {limit:g}, not {value}.")
        for name, kind in (("estimate", EstimateKey), ("feedback", Feedback), ("voice", Voice)):
            words = get_args(kind)
            if getattr(self, name) not in words:
                known = ", ".join(f"'{word}'" for word in words[:-1]) + f" or '{words[-1]}'"
                raise ValueError(f"{name} is {known}, not '{getattr(self, name)}'.")
        check_seed(self.seed)


@dataclass(frozen=True)
class Enhanced:
    """What enhancement found.

    Args:
        speech: the estimate, of the shape and rate of the input.
        noise: input − speech, a constant offset included.
        sample_rate: of both.
        objective: the mean of log V + |x|²/V per EM iteration, (iterations, C, windows).
        noisy: spectrogram (C, T, F), complex, of the input at the model's rate, scaled to peak one;
            silent channels are left out of it and of what follows.
        mean: E[s | x], likewise.
        std: the standard deviation of s in every bin, likewise, real; see :class:`em.Posterior`.
        settings: model, engine and numbers that make the result again.
    """

    speech: Waveform = field(repr=False)
    noise: Waveform = field(repr=False)
    sample_rate: int
    objective: Tensor = field(repr=False)
    noisy: Tensor = field(repr=False)
    mean: Tensor = field(repr=False)
    std: Tensor = field(repr=False)
    settings: dict[str, Any]
    _told: tuple[str, ...] = field(repr=False, default=())
    _windows: list[tuple[int, Posterior]] = field(repr=False, default_factory=list)
    _to_waveform: Callable[[Tensor], Waveform] = field(repr=False, default=lambda s: s.numpy())

    def draw(self) -> Waveform:
        """Draws of the speech, one per chain: (S, *shape of speech); see ``Posterior.draw``."""
        s = self.mean.repeat(self._windows[0][1].speech.shape[0], 1, 1, 1)
        for start, posterior in self._windows:
            frames = slice(start, start + posterior.mean.shape[-2])
            s[..., frames, :] = posterior.draw(self.noisy[..., frames, :])
        return np.stack([self._to_waveform(one) for one in s])

    def interval(self, level: float = 0.9, draws: int = 200) -> tuple[Tensor, Tensor]:
        """Bounds of |s| in every bin, (C, T, F) each; see ``Posterior.interval``.

        Raises:
            ValueError: the recording is longer than one window.
        """
        if len(self._windows) > 1:
            raise ValueError(f"Intervals are of one window: cut the recording to {WINDOW_SECONDS:g} seconds.")
        return self._windows[0][1].interval(self.noisy, level, draws)

    @property
    def diagnostics(self) -> Diagnostics:
        """Acceptance, effective sample sizes and split R-hat, of all channels and windows."""
        return Diagnostics.join(posterior.diagnostics for _, posterior in self._windows)

    @property
    def responsibility(self) -> Tensor | None:
        """p(α_t = 1 | x) of a mixture of audio and video, that a frame is heard alone, (C, T); else None."""
        whole = torch.zeros_like(self.std[..., 0])
        for start, posterior in self._windows:
            if posterior.responsibility is None:
                return None
            whole[:, start : start + posterior.mean.shape[-2]] = posterior.responsibility
        return whole

    @property
    def approximation(self) -> str:
        """What stood in for speech that the model wanted to read, in a sentence; "" for nothing."""
        return self._windows[0][1].approximation

    @property
    def noise_factors(self) -> list[tuple[Tensor, Tensor]]:
        """W (C, F, K) and H (C, K, T) of each window at the end; see :class:`~pyrodvae.noise.NMFNoise`."""
        return [factors for _, posterior in self._windows if (factors := posterior.factors)]

    @property
    def warnings(self) -> list[str]:
        """What went wrong on the way and was mended, in sentences; channels and windows count from zero."""
        return [*self._told] + [
            f"Window {i}: {sentence}" if len(self._windows) > 1 else sentence
            for i, (_, posterior) in enumerate(self._windows)
            for sentence in posterior.warnings
        ]

    def plot(self, path: str | Path | None = None) -> Any:
        """A figure: spectrograms, waveforms, objective, log joint of each chain, and acceptance."""
        from pyrodvae.plots import plot_enhanced

        return plot_enhanced(self, path)


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


def enhance(
    audio: str | Path | npt.ArrayLike,
    *,
    sample_rate: int | None = None,
    model: str | Path | Run = "rvae",
    engine: str | Engine = "langevin",
    config: EnhanceConfig = EnhanceConfig(),
    device: str = "cpu",
    video: str | Path | npt.ArrayLike | None = None,
    each: Callable[[float], None] = lambda share: None,
) -> Enhanced:
    """Separate speech from noise in a recording, with a model that never heard noise.

    >>> from pyrodvae import examples
    >>> result = enhance(examples.noisy(), config=EnhanceConfig(iterations=4, seed=1))
    >>> result.sample_rate, result.speech.shape == result.noise.shape
    (16000, True)

    Args:
        audio: a file, or a waveform (N,) or (C, N) of floats; channels are enhanced side by side.
        sample_rate: of the waveform in Hz; not given for a file.
        model: key of shipped weights, folder of a run, or a loaded run.
        engine: key, or an engine with its settings.
        config: iterations, chains, rank of the noise, seed.
        device: for example ``"cuda"``.
        video: of the lips, for a model that is given it: a file, see :func:`~pyrodvae.video.read_video`; or
            v (T, V), a row for each frame of the spectrogram at the model's rate.
        each: called with the finished share, between 0 and 1.

    Raises:
        AudioError: the audio cannot be used.
        VideoError: the video cannot.
        WeightsError: the model cannot be loaded.
        ValueError: no such engine, no sensible sample rate; video is missing, or there is no use for it.
    """
    waveform, rate, name = read_input(audio, sample_rate)
    run = model if isinstance(model, Run) else load_run(model, device)
    engine = make_engine(engine) if isinstance(engine, str) else engine
    if not isinstance(engine, Engine):
        raise ValueError(f"An engine is a key or an instance such as Langevin(), not {engine!r}.")
    form = published_form(engine, run) if config.as_published else engine

    channels = np.atleast_2d(waveform)
    at_rate = resample(centred(channels), rate, run.stft.sample_rate)
    peak = np.abs(at_rate).max(-1, keepdims=True)
    active = peak[:, 0] > 0  # a silent channel stays silent
    if not active.any():
        raise AudioError(f"{name} holds no sound, only a constant offset.")
    x = run.stft(torch.from_numpy(at_rate[active] / peak[active]).to(device, torch.float32))
    v, told = video_for(run, video, x.shape[-2], at_rate.shape[-1], config.face)

    def to_waveform(s: Tensor) -> Waveform:
        out = np.zeros_like(channels)
        y = run.stft.inverse(s, at_rate.shape[-1]).cpu().numpy() * peak[active]
        out[active] = resample(y.astype(channels.dtype), run.stft.sample_rate, rate)[:, : out.shape[-1]]
        return out.reshape(waveform.shape)

    mean, variance, windows = _in_windows(x, v, run, engine, config, each)
    speech = to_waveform(mean)
    return Enhanced(
        speech=speech,
        noise=waveform - speech,
        sample_rate=rate,
        objective=Diagnostics.join(p.diagnostics for _, p in windows)
        .objective.unflatten(-1, (len(windows), -1))
        .mT,
        noisy=x,
        mean=mean,
        std=variance.sqrt(),
        settings={
            "audio": name,
            **({"video": str(video)} if isinstance(video, str | Path) else {}),
            "model": str(run.card["model"]),
            "engine": repr(form),
            **vars(config),
        },
        _told=told,
        _windows=windows,
        _to_waveform=to_waveform,
    )


def _in_windows(
    x: Tensor,
    v: Tensor | None,
    run: Run,
    engine: Engine,
    config: EnhanceConfig,
    each: Callable[[float], None],
) -> tuple[Tensor, Tensor, list[tuple[int, Posterior]]]:
    """Mean and variance of the speech in x (C, T, F), and (first frame, posterior) of each window.

    The video v (T, V) is that of all channels.
    """
    generator = torch.Generator().manual_seed(config.seed)
    rate = run.stft.frame_rate
    starts, size, ramps = overlapping(x.shape[-2], round(WINDOW_SECONDS * rate), round(SHARED_SECONDS * rate))
    mean, variance = torch.zeros_like(x), torch.zeros_like(x.real)
    windows: list[tuple[int, Posterior]] = []
    for i, (start, ramp) in enumerate(zip(starts, ramps, strict=True)):
        frames = slice(start, start + size)

        def tick(k: int, i: int = i) -> None:
            each((i + (k + 1) / config.iterations) / len(starts))

        with torch.random.fork_rng():  # the caller's own chance is left alone
            torch.manual_seed(config.seed + i)
            y = None if v is None else v[frames].expand(len(x), -1, -1)
            posterior = enhance_spectrum(x[:, frames], run, engine, config, generator, tick, v=y)
        ramp = ramp.to(x.real)
        mean[:, frames] += ramp * posterior.mean
        variance[:, frames] += ramp * posterior.variance
        windows.append((start, posterior))
    return mean, variance, windows


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
    twice the first guess of the noise.
    """
    if config.as_published:
        form, seed = published_form(engine, run), config.seed
        return enhance_spectrum_as_published(x, run, form, config.iterations, seed, config.noise_rank, each)
    if not run.model.speech or run.model.data == "real":
        raise ValueError(
            f"{type(run.model).__name__} here is a model of real vectors, and noise is added to complex "
            "spectra: take a model of speech."
        )
    noise = NMFNoise.from_quiet_frames(x, config.noise_rank, generator)
    first = noise.variance
    crude = subtract(x, first, START_FLOOR)
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
    if isinstance(engine, Factorised):
        return factorised_em(
            speech, noise, g, x, v, z, engine,
            iterations=config.iterations, average=config.average, m_step=m_step, each=each,
        )  # fmt: skip
    if isinstance(speech, AVMixture):
        model: NoisySpeech = NoisyMixture(speech, noise, g, x=x, v=v)
    else:
        model = NoisySpeech(
            speech, noise, g, feedback=config.feedback, heard=crude, w=w, v=v, energies=energies
        )
    engine = _approached(engine, config).planned(config.iterations)
    return em(
        model,
        Denoised(guide, first),
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


def _approached(engine: Engine, config: EnhanceConfig) -> Engine:
    """The engine, or one that begins with Langevin's, where small steps would not lead to the posterior."""
    steps = min(config.approach, config.iterations // 3)
    if not engine.local or not steps:
        return engine
    chain = engine if isinstance(engine, Chain) else Chain((engine,))
    before, after = chain.engines[: chain.first_walker], Chain(chain.engines[chain.first_walker :])
    rest = max(1, config.iterations - len(before) - steps)
    return Chain((*before, Langevin(), after), (*(1,) * len(before), steps, rest))
