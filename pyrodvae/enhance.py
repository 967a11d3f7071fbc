"""Speech enhancement: a noisy waveform in, speech and noise out."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from pyrodvae.as_published import published_form
from pyrodvae.audio import AudioError, Waveform
from pyrodvae.diagnostics import Diagnostics
from pyrodvae.em import Posterior
from pyrodvae.engines import Engine
from pyrodvae.enhance_config import EnhanceConfig
from pyrodvae.separation import enhance_spectrum, make_engine
from pyrodvae.signal import overlapping, resample
from pyrodvae.video_for import Excerpt, video_for
from pyrodvae.waveforms import centred, read_input
from pyrodvae.weights import Run, load_run

WINDOW_SECONDS, SHARED_SECONDS = 30.0, 1.0
"""Longer recordings are enhanced in windows of this length, faded into each other over the second."""


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
        """Draws of the speech, one per chain (and first guess of the noise): (S, *shape of speech).

        See ``Posterior.draw``.
        """
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
        """W (C, F, K) and H (C, K, T) of each window at the end; see :class:`~pyrodvae.noise.NMFNoise`.

        K counts the patterns of all first guesses.
        """
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


def enhance(
    audio: str | Path | npt.ArrayLike,
    *,
    sample_rate: int | None = None,
    model: str | Path | Run = "rvae",
    engine: str | Engine = "langevin",
    config: EnhanceConfig = EnhanceConfig(),
    device: str = "cpu",
    video: str | Path | Excerpt | npt.ArrayLike | None = None,
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
    if not isinstance(config, EnhanceConfig):
        raise ValueError(f"Settings are an EnhanceConfig(iterations=…), not {config!r}.")
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
            **({"video": str(video)} if isinstance(video, str | Path | Excerpt) else {}),
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
