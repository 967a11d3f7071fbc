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

from pyrodvae.audio import AudioError, check_waveform, read_audio
from pyrodvae.distributions import power
from pyrodvae.em import Posterior, em
from pyrodvae.engines import ENGINES, Engine
from pyrodvae.noise import NMFNoise
from pyrodvae.noisy import NoisySpeech
from pyrodvae.settings import check_seed
from pyrodvae.signal import resample
from pyrodvae.weights import Run, load_run

Waveform = npt.NDArray[np.floating[Any]]

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
        gain: whether each frame of speech has a gain of its own.
        seed: of everything random.
    """

    iterations: int = 60
    chains: int = 2
    noise_rank: int = 8
    average: float = 0.5
    gain: bool = False
    seed: int = 0

    def __post_init__(self) -> None:
        for name, most in (("iterations", 10_000), ("chains", 256), ("noise_rank", 512)):
            value = getattr(self, name)
            if not isinstance(value, int | np.integer) or not 1 <= value <= most:
                raise ValueError(f"{name} must be a whole number from 1 to {most}, not {value}.")
        if not 0 < self.average <= 1:
            raise ValueError(f"average is a share between 0 and 1, not {self.average}.")
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
    _windows: list[tuple[int, Posterior]] = field(repr=False, default_factory=list)
    _to_waveform: Callable[[Tensor], Waveform] = field(repr=False, default=lambda s: s.numpy())

    def draw(self) -> Waveform:
        """Draws of the speech, one per chain: (S, *shape of speech); see ``Posterior.draw``."""
        s = self.mean.repeat(self._windows[0][1].speech.shape[0], 1, 1, 1)
        for start, posterior in self._windows:
            frames = slice(start, start + posterior.mean.shape[-2])
            s[..., frames, :] = posterior.draw(self.noisy[..., frames, :])
        return np.stack([self._to_waveform(one) for one in s])

    def plot(self, path: str | Path | None = None) -> Any:
        """Spectrograms of input, speech, noise and uncertainty, and the objective; a figure."""
        from pyrodvae.plots import plot_enhanced

        return plot_enhanced(self, path)


def make_engine(key: str, **settings: Any) -> Engine:
    """An engine by its key.

    Raises:
        ValueError: no such engine, or a setting that it does not have.
    """
    if key not in ENGINES:
        raise ValueError(f"No engine is called '{key}'; there are: {', '.join(ENGINES)}.")
    try:
        return ENGINES[key](**settings)
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
    each: Callable[[float], None] = lambda share: None,
) -> Enhanced:
    """Separate speech from noise in a recording, with a model that never heard noise.

    ::

        result = pyrodvae.enhance("noisy.wav")
        result = pyrodvae.enhance(x, sample_rate=44_100, config=EnhanceConfig(iterations=50, seed=1))

    Args:
        audio: a file, or a waveform (N,) or (C, N) of floats; channels are enhanced side by side.
        sample_rate: of the waveform in Hz; not given for a file.
        model: key of shipped weights, folder of a run, or a loaded run.
        engine: key, or an engine with its settings.
        config: iterations, chains, rank of the noise, seed.
        device: for example ``"cuda"``.
        each: called with the finished share, between 0 and 1.

    Raises:
        AudioError: the audio cannot be used.
        WeightsError: the model cannot be loaded.
        ValueError: no such engine, or no sensible sample rate.
    """
    waveform, rate, name = _read(audio, sample_rate)
    run = model if isinstance(model, Run) else load_run(model, device)
    engine = make_engine(engine) if isinstance(engine, str) else engine

    channels = np.atleast_2d(waveform)
    at_rate = resample(_centred(channels), rate, run.stft.sample_rate)
    peak = np.abs(at_rate).max(-1, keepdims=True)
    active = peak[:, 0] > 0  # a silent channel stays silent
    x = run.stft(torch.from_numpy(at_rate[active] / peak[active]).to(device, torch.float32))

    def to_waveform(s: Tensor) -> Waveform:
        out = np.zeros_like(channels)
        y = run.stft.inverse(s, at_rate.shape[-1]).cpu().numpy() * peak[active]
        out[active] = resample(y.astype(channels.dtype), run.stft.sample_rate, rate)[:, : out.shape[-1]]
        return out.reshape(waveform.shape)

    mean, variance, windows = _in_windows(x, run, engine, config, each)
    speech = to_waveform(mean)
    return Enhanced(
        speech=speech,
        noise=waveform - speech,
        sample_rate=rate,
        objective=torch.stack([p.objective for _, p in windows], -1),
        noisy=x,
        mean=mean,
        std=variance.sqrt(),
        settings={"audio": name, "model": str(run.card["model"]), "engine": repr(engine), **vars(config)},
        _windows=windows,
        _to_waveform=to_waveform,
    )


def _in_windows(
    x: Tensor, run: Run, engine: Engine, config: EnhanceConfig, each: Callable[[float], None]
) -> tuple[Tensor, Tensor, list[tuple[int, Posterior]]]:
    """Mean and variance of the speech in x (C, T, F), and (first frame, posterior) of each window."""
    generator = torch.Generator().manual_seed(config.seed)
    starts, size, ramps = _windows(x.shape[-2], run.stft.frame_rate)
    mean, variance = torch.zeros_like(x), torch.zeros_like(x.real)
    windows: list[tuple[int, Posterior]] = []
    for i, (start, ramp) in enumerate(zip(starts, ramps, strict=True)):
        frames = slice(start, start + size)

        def tick(k: int, i: int = i) -> None:
            each((i + (k + 1) / config.iterations) / len(starts))

        with torch.random.fork_rng():  # the caller's own chance is left alone
            torch.manual_seed(config.seed + i)
            posterior = enhance_spectrum(x[:, frames], run, engine, config, generator, tick)
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
) -> Posterior:
    """EM on one window x (B, T, F): a first guess of the noise, z from the encoder, then EM.

    The encoder knows clean speech only, so it reads a crudely enhanced x: each bin turned down by
    spectral subtraction of twice the first guess of the noise.
    """
    noise = NMFNoise.from_quiet_frames(x, config.noise_rank, generator)
    gain = (1 - 2 * noise.variance / power(x).clamp(min=1e-12)).clamp(min=0.05).sqrt()
    g = torch.ones_like(x[..., :1].real) if config.gain else None
    model = NoisySpeech(run.model, noise, g)
    with torch.no_grad():
        z = run.guide.posterior(x * gain).rsample((config.chains,))
    return em(model, run.guide, x, engine, z, iterations=config.iterations, average=config.average, each=each)


def _read(audio: str | Path | npt.ArrayLike, sample_rate: int | None) -> tuple[Waveform, int, str]:
    """The waveform (N,) or (C, N), its rate and its name, checked."""
    if audio is None:
        raise AudioError("There is no audio: give a file or a waveform.")
    if isinstance(audio, str | Path):
        if sample_rate is not None:
            raise ValueError("A file knows its sample rate: leave sample_rate out.")
        waveform, rate = read_audio(audio)
        check_waveform(waveform, audio, rate)
        return waveform, rate, str(audio)
    if sample_rate is None:
        raise ValueError("A waveform needs its sample_rate in Hz: enhance(x, sample_rate=16_000).")
    number: Any = sample_rate  # whatever the caller gave
    if (
        not isinstance(number, int | float | np.number)
        or not 4000 <= float(number) <= 384_000
        or float(number) % 1
    ):
        raise ValueError(f"sample_rate is in Hz, between 4000 and 384000, not {sample_rate!r}.")
    waveform = _array(audio)
    if waveform.ndim not in (1, 2) or not np.issubdtype(waveform.dtype, np.floating):
        raise AudioError(
            f"The waveform must be floats of shape (N,) or (C, N), not {waveform.dtype} of shape "
            f"{waveform.shape}."
        )
    if waveform.ndim == 2 and waveform.shape[0] > waveform.shape[1]:
        raise AudioError(f"The waveform has shape {waveform.shape}: give channels first, (C, N).")
    check_waveform(waveform, "The waveform", int(sample_rate))
    return waveform, int(sample_rate), "waveform"


def _array(audio: Any) -> npt.NDArray[Any]:
    """As an array; floats of any width become those of 32 or 64 bits that can be resampled."""
    if isinstance(audio, Tensor):
        audio = audio.detach().cpu()
        audio = audio.float() if audio.dtype in (torch.bfloat16, torch.float16) else audio
    try:
        waveform = np.asarray(audio)
    except (TypeError, ValueError) as error:
        raise AudioError("The waveform cannot be read as an array of numbers.") from error
    floating = np.issubdtype(waveform.dtype, np.floating)
    return waveform.astype(np.float32, copy=False) if floating and waveform.dtype != np.float64 else waveform


def _centred(channels: Waveform) -> Waveform:
    """The waveform (C, N) without its offset, which would click at the ends; silence stays silent."""
    sounding = channels != 0
    count = sounding.sum(-1, keepdims=True).clip(1)
    offset = (channels.sum(-1, keepdims=True, dtype=np.float64) / count).astype(channels.dtype)
    audible = np.abs(offset) > 0.01 * np.abs(channels).max(-1, keepdims=True)
    return channels - offset * (sounding & audible)


def _windows(frames: int, frame_rate: float) -> tuple[list[int], int, list[Tensor]]:
    """First frames of overlapping windows, their size, and weights (size, 1) that sum to one."""
    size, shared = round(WINDOW_SECONDS * frame_rate), round(SHARED_SECONDS * frame_rate)
    if frames <= size:
        return [0], frames, [torch.ones(frames, 1)]
    count = -(-(frames - shared) // (size - shared))
    size = -(-(frames - shared) // count) + shared  # of equal length, so that none is short
    starts = [min(i * (size - shared), frames - size) for i in range(count)]
    total, ramps = torch.zeros(frames), []
    for start in starts:
        t = torch.arange(size) + 1.0
        ramp = torch.minimum(torch.minimum(t, t.flip(0)) / (shared + 1), torch.ones(size))
        ramps.append(ramp)
        total[start : start + size] += ramp
    return starts, size, [(r / total[s : s + size])[:, None] for s, r in zip(starts, ramps, strict=True)]
