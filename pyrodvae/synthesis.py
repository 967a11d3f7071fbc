"""Speech out of a model: clean speech through its latent path and back, and speech of its own."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from pyro import poutine
from pyro.distributions import TorchDistribution
from pyro.poutine.messenger import Messenger
from pyro.poutine.util import site_is_subsample
from torch import Tensor

from pyrodvae.audio import Waveform
from pyrodvae.av_mixture import AVMixture
from pyrodvae.dvae import DVAE
from pyrodvae.guide import Guide
from pyrodvae.mixture_objective import decoded as decoded_mixture
from pyrodvae.objective import density, latents, traces
from pyrodvae.program import local_parameters
from pyrodvae.rollout import Rollout
from pyrodvae.settings import check_seed
from pyrodvae.signal import resample
from pyrodvae.video_for import video_for
from pyrodvae.weights import Run


@torch.no_grad()
def mean_path(rollout: Rollout) -> Tensor:
    r"""The path of means, each fed on to the next conditional: (B, T, D).

    .. math:: \bar z_t = E[z_t \mid \bar z_{<t}, c_t]

    It is deterministic, and the mean of the roll-out where conditionals do not look at z_{<t}.
    """
    shape, frames, context = rollout.batch_shape, rollout.event_shape[0], rollout.context
    size = 1 if rollout.recursive else frames
    z, memo, path = rollout.start.expand(*shape, size, -1), rollout.first_memo, []
    for t in range(0, frames, size):
        now = None if context is None else context[..., t : t + size, :].expand(*shape, size, -1)
        p_z, memo = rollout.conditional(z, now, memo)
        z = p_z.mean
        path.append(z)
    return torch.cat(path, -2)


class Means(Messenger):
    """Let every latent site of a program take its mean (a path, its :func:`mean_path`) for a value."""

    def _pyro_sample(self, msg: Any) -> None:
        if msg["value"] is None and not site_is_subsample(msg):  # replay has given it one
            fn = msg["fn"]
            msg["value"] = mean_path(fn) if isinstance(fn, Rollout) else fn.mean


@torch.no_grad()
def decoded(
    model: DVAE, guide: Guide, x: Tensor, lengths: Tensor | None = None, v: Tensor | None = None
) -> TorchDistribution:
    """p(x | z̄) of data x (B, T, F) and video v (B, T, V), z̄ the means of the guide: event (T, F)."""
    if isinstance(model, AVMixture):
        return decoded_mixture(model, guide, x, lengths, v)
    with Means():
        _, p = traces(model, guide, x, lengths, v)
    p_x: TorchDistribution = density(p, "x")
    return p_x


@torch.no_grad()
def reconstruct(run: Run, s: Tensor, v: Tensor | None = None) -> Tensor:
    r"""Clean speech s (B, T, F), complex, through the model's latent path and back.

    .. math:: \hat s_{tf} = \sqrt{v_{tf}(\bar z)}\; s_{tf} / |s_{tf}|

    with z̄ the :func:`mean_path` of the guide: the magnitude is the standard deviation that the
    decoder gives the bin, the phase that of s. A model with feedback sees the clean frames of s; one that
    is given video, v (B, T, V).
    """
    return decoded(run.model, run.guide, s, v=v).variance.sqrt() * s.sgn()


def resynthesize(
    waveform: Waveform, rate: int, run: Run, video: str | Path | npt.ArrayLike | None = None
) -> Waveform:
    """Analysis and resynthesis of clean speech with its own phase, of the same shape and rate.

    Each channel is scaled to a peak of one for the model (see :func:`reconstruct`) and back after it.

    Args:
        waveform: (N,) or (C, N), floats.
        rate: its samples per second.
        run: a trained pair.
        video: of the lips, for a model that is given it: a file, or v (T, V).

    Raises:
        VideoError: the video cannot be used.
        ValueError: video is missing, or there is no use for it.
    """
    channels = np.atleast_2d(waveform)
    at_rate = resample(channels, rate, run.stft.sample_rate)
    peak = np.abs(at_rate).max(-1, keepdims=True).clip(1e-12)
    s = run.stft(torch.from_numpy(at_rate / peak).to(run.model.z_0))
    v, _ = video_for(run, video, s.shape[-2], at_rate.shape[-1])
    lips = None if v is None else v.expand(len(s), -1, -1)
    y = run.stft.inverse(reconstruct(run, s, lips), at_rate.shape[-1]).cpu().numpy() * peak
    back: Waveform = resample(y.astype(channels.dtype), run.stft.sample_rate, rate)[:, : channels.shape[-1]]
    return back.reshape(np.shape(waveform))


@torch.no_grad()
def generate(run: Run, seconds: float, seed: int = 0, peak: float = 0.5) -> npt.NDArray[np.float32]:
    """Speech-like sound from the model alone: (1, N) at the rate of its STFT.

    The path z is drawn from the model frame by frame (with x where it feeds back), the magnitude is
    the square root of the decoder's variance, and Griffin-Lim finds a phase for it.

    Args:
        run: a trained pair.
        seconds: the length.
        seed: of path and phase.
        peak: largest absolute sample.

    Raises:
        ValueError: the length is not a number, or less than a window; a seed out of range; a model that
            speaks to video.
    """
    import librosa

    check_seed(seed)
    if run.model.drawable() is not run.model:
        raise ValueError(
            f"Nothing can be generated by {type(run.model).__name__}: its energies γ belong to each "
            "recording, and only data tell them. Train it with a belief in them, --set hyper=2,0.5."
        )
    stft = run.stft
    least = stft.window_length / stft.sample_rate
    if not least <= seconds < math.inf:
        raise ValueError(f"The length has to be at least {least} seconds, not {seconds}.")
    length = round(seconds * stft.sample_rate)
    if run.model.video:
        raise ValueError(f"A model such as '{run.card['model']}' speaks to video: model.generate(T, v=v).")
    torch.manual_seed(seed)
    with local_parameters():
        drawn = poutine.trace(run.model.generate).get_trace(stft.frames(length))
        sites: Any = drawn.nodes
        z, x = sites["_RETURN"]["value"]
        given = {name: sites[name]["value"] for name in latents(drawn)} | {"z": z}
        p = poutine.trace(poutine.condition(run.model, given)).get_trace(x)
    magnitude = density(p, "x").variance.sqrt()
    waveform = librosa.griffinlim(
        magnitude[0].T.cpu().numpy(),
        n_iter=64,
        hop_length=stft.hop,
        win_length=stft.window_length,
        n_fft=stft.window_length,
        window=np.sin(np.pi * (np.arange(stft.window_length) + 0.5) / stft.window_length),
        center=True,
        length=length,
        pad_mode="constant",
        random_state=seed,
    )
    return np.asarray(peak * waveform / np.abs(waveform).max().clip(1e-12), np.float32)[None]
