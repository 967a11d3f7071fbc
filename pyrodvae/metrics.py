"""How close an estimated waveform is to its reference, and how sparse a latent is."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from pyrodvae.signal import resample

Array = npt.NDArray[np.float64]

PESQ_RATE = 16_000
# The C code of pesq writes beyond its table of 50 utterances and crashes. An utterance and the
# pause after it last 0.4 s at least, so that 20 s are safe.
PESQ_SECONDS = 20
SLACK_SECONDS = 0.016  # one hop of the STFT: what framing may add to or take from a waveform


class Measurement(NamedTuple):
    """The value of a metric, or NaN and the reason why there is none."""

    value: float
    reason: str = ""


class MetricError(ValueError):
    """A metric that is not defined for these waveforms, with the reason as a sentence."""


def si_sdr(estimate: npt.ArrayLike, reference: npt.ArrayLike, rate: int = 16_000) -> float:
    """Scale-invariant signal-to-distortion ratio in dB, without removal of the mean.

    10 log10(|a s|^2 / |a s - e|^2) with a = <e, s> / |s|^2, for the estimate e and the reference s,
    both (N,) or (1, N). It is infinite for e = a s.

    Raises:
        MetricError: see `score`.

    Source: Le Roux et al., SDR - half-baked or well done?, ICASSP 2019.
    """
    e, s = _pair(estimate, reference, rate)
    target = (e @ s) / (s @ s) * s
    return _decibels(target, target - e)


def sdr(estimate: npt.ArrayLike, reference: npt.ArrayLike, rate: int = 16_000) -> float:
    """Plain signal-to-distortion ratio in dB: no scaling and no filter of BSS Eval is allowed.

    10 log10(|s|^2 / |s - e|^2) for the estimate e and the reference s, both (N,) or (1, N).

    Raises:
        MetricError: see `score`.
    """
    e, s = _pair(estimate, reference, rate)
    return _decibels(s, s - e)


def stoi(estimate: npt.ArrayLike, reference: npt.ArrayLike, rate: int = 16_000) -> float:
    """Short-time objective intelligibility of the estimate (N,), at most 1.

    Raises:
        MetricError: see `score`; also with less than 30 frames (0.4 s) of speech.

    Source: Taal et al., IEEE TASLP 2011; computed by pystoi at 10 kHz.
    """
    return _stoi(estimate, reference, rate, extended=False)


def estoi(estimate: npt.ArrayLike, reference: npt.ArrayLike, rate: int = 16_000) -> float:
    """Extended short-time objective intelligibility of the estimate (N,), at most 1.

    Raises:
        MetricError: see `stoi`.

    Source: Jensen and Taal, IEEE/ACM TASLP 2016; computed by pystoi at 10 kHz.
    """
    return _stoi(estimate, reference, rate, extended=True)


def pesq_wb(estimate: npt.ArrayLike, reference: npt.ArrayLike, rate: int = 16_000) -> float:
    """Wide-band PESQ (MOS-LQO, 1.04 to 4.64) of the estimate (N,), at 16 kHz.

    More than 20 s are scored in equal pieces of at most 20 s, and averaged.

    Raises:
        MetricError: see `score`; also for less than 0.25 s, or without an utterance.

    Source: ITU-T P.862.2; computed by the package pesq.
    """
    return _pesq(estimate, reference, rate, "wb")


def pesq_nb(estimate: npt.ArrayLike, reference: npt.ArrayLike, rate: int = 16_000) -> float:
    """Narrow-band PESQ (MOS-LQO, 1.02 to 4.55) of the estimate (N,), computed at 16 kHz.

    More than 20 s are scored in equal pieces of at most 20 s, and averaged.

    Raises:
        MetricError: see `pesq_wb`.

    Source: ITU-T P.862 and P.862.1; computed by the package pesq.
    """
    return _pesq(estimate, reference, rate, "nb")


def pesq_mos(estimate: npt.ArrayLike, reference: npt.ArrayLike, rate: int = 16_000) -> float:
    """Raw PESQ (-0.5 to 4.5) of the estimate (N,): `raw_pesq` of `pesq_nb`.

    Raises:
        MetricError: see `pesq_wb`.

    Source: ITU-T P.862.
    """
    return raw_pesq(pesq_nb(estimate, reference, rate))


def raw_pesq(nb: float) -> float:
    """Raw P.862 score whose P.862.1 map is the narrow-band score `nb`.

    The inverse of nb = 0.999 + 4 / (1 + exp(4.6607 - 1.4945 raw)), which lies in (0.999, 4.999).

    Raises:
        ValueError: no raw score has this map.
    """
    if not 0.999 < nb < 4.999:
        raise ValueError(f"A narrow-band PESQ lies between 0.999 and 4.999, not at {nb}.")
    return (4.6607 - math.log(4 / (nb - 0.999) - 1)) / 1.4945


def hoyer(latent: Tensor) -> Tensor:
    """Hoyer sparsity of a latent (..., T, D) in [0, 1], averaged over its frames: (...).

    (sqrt(D) - |a|_1 / |a|_2) / (sqrt(D) - 1) for the frame a. A frame of zeros has no sparsity and
    is left out; NaN if every frame is.

    Raises:
        ValueError: the latent has less than two dimensions D.

    Source: Hoyer, JMLR 2004.
    """
    if latent.dim() < 2 or latent.shape[-1] < 2:
        raise ValueError(f"Hoyer sparsity needs (..., T, D) with D >= 2, not {tuple(latent.shape)}.")
    # The ratio of norms is scale-free; scaling first keeps squares of tiny latents from vanishing.
    a = latent.abs() / latent.abs().amax(-1, keepdim=True)
    root = math.sqrt(latent.shape[-1])
    return torch.nanmean((root - a.sum(-1) / a.square().sum(-1).sqrt()) / (root - 1), -1)


Metric = Callable[[npt.ArrayLike, npt.ArrayLike, int], float]

METRICS: dict[str, Metric] = {
    "si_sdr": si_sdr,
    "sdr": sdr,
    "stoi": stoi,
    "estoi": estoi,
    "pesq_wb": pesq_wb,
    "pesq_nb": pesq_nb,
    "pesq_mos": pesq_mos,
}


def score(
    estimate: npt.ArrayLike,
    reference: npt.ArrayLike,
    rate: int,
    metrics: Iterable[str] | None = None,
) -> dict[str, Measurement]:
    """Measure an estimate (N,) or (1, N) against its reference, at `rate` Hz: name to Measurement.

    Every metric that is asked for (default: all of `METRICS`) is in the result. It is NaN with a
    reason where the waveforms are silent, not finite, not mono, differ in length by more than 16 ms
    (less is trimmed), or are too short for it.

    Raises:
        ValueError: the name of a metric is unknown.
    """
    names = list(METRICS if metrics is None else metrics)
    if unknown := [name for name in names if name not in METRICS]:
        raise ValueError(f"Unknown metrics {unknown}: choose among {list(METRICS)}.")
    return {name: _measure(METRICS[name], estimate, reference, rate) for name in names}


def _measure(metric: Metric, estimate: npt.ArrayLike, reference: npt.ArrayLike, rate: int) -> Measurement:
    try:
        return Measurement(metric(estimate, reference, rate))
    except MetricError as error:
        return Measurement(math.nan, str(error))


def _pair(estimate: npt.ArrayLike, reference: npt.ArrayLike, rate: int) -> tuple[Array, Array]:
    e, s = _mono(estimate, "estimate"), _mono(reference, "reference")
    if abs(len(e) - len(s)) > SLACK_SECONDS * rate:
        raise MetricError(
            f"The estimate has {len(e)} samples and the reference {len(s)}: they differ by more "
            f"than {1000 * SLACK_SECONDS:.0f} ms."
        )
    length = min(len(e), len(s))
    for name, waveform in (("estimate", e), ("reference", s)):
        if waveform[:length] @ waveform[:length] == 0:
            raise MetricError(f"The {name} is silent.")
    return e[:length], s[:length]


def _mono(waveform: npt.ArrayLike, name: str) -> Array:
    array = np.asarray(waveform, np.float64)
    if array.ndim == 2 and len(array) == 1:
        array = array[0]
    if array.ndim != 1 or array.size == 0:
        raise MetricError(f"The {name} has shape {array.shape}: metrics need one channel with samples.")
    if not np.isfinite(array).all():
        raise MetricError(f"The {name} has NaN or infinite samples.")
    return array


def _decibels(signal: Array, distortion: Array) -> float:
    power, error = float(signal @ signal), float(distortion @ distortion)
    if power == 0:
        return -math.inf
    return math.inf if error == 0 else 10 * math.log10(power / error)


def _stoi(estimate: npt.ArrayLike, reference: npt.ArrayLike, rate: int, extended: bool) -> float:
    import pystoi

    e, s = _pair(estimate, reference, rate)
    with warnings.catch_warnings():
        # pystoi answers 1e-5 with this warning, which would pass for a score.
        warnings.filterwarnings("error", "Not enough STFT frames", RuntimeWarning)
        try:
            return float(pystoi.stoi(s, e, rate, extended=extended))
        except (RuntimeWarning, IndexError):  # IndexError: not even one frame is left
            text = "There is less than 0.4 s of speech, too little for STOI."
            raise MetricError(text) from None


def _pesq(estimate: npt.ArrayLike, reference: npt.ArrayLike, rate: int, mode: str) -> float:
    import pesq

    e, s = (resample(w, rate, PESQ_RATE) for w in _pair(estimate, reference, rate))
    pieces = math.ceil(len(s) / (PESQ_SECONDS * PESQ_RATE))
    scores: list[float] = []
    reason: Any = "No piece of it can be scored"
    for clean, other in zip(np.array_split(s, pieces), np.array_split(e, pieces), strict=True):
        if not (clean.any() and other.any()):
            continue  # pesq divides by the power of both
        try:
            scores.append(pesq.pesq(PESQ_RATE, clean, other, mode))
        except (pesq.PesqError, ValueError) as error:  # ValueError: NaN within pesq
            reason = error.args[0]
    if not scores:
        text = reason.decode() if isinstance(reason, bytes) else reason
        raise MetricError(f"PESQ cannot be computed: {text}.")
    return float(np.mean(scores))
