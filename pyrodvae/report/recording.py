"""One enhanced recording, to hear and to see: sounds, spectrograms, the noise model, and how it was found."""

from __future__ import annotations

import base64
import io

import numpy as np
import soundfile
import torch
from torch import Tensor

from pyrodvae.audio import Waveform
from pyrodvae.distributions import power
from pyrodvae.enhance import WINDOW_SECONDS, Enhanced
from pyrodvae.report.charts import COLOURS, Axis, decibel, heat, lines, span
from pyrodvae.report.page import Html, element, facts, figure, grid, paragraph, section, text
from pyrodvae.signal import resample

RATE = 16_000
"""Of what the models hear, and so of the players."""
BELOW, BELOW_NOISE = 70.0, 40.0
"""How far in dB under their maximum spectrograms, and the factors of the noise, are told apart."""
HERTZ = Axis("kHz", 0, RATE / 2000)
TRACES = {
    "log_joint": ("Log joint density of z and x, on which the engine moves", "nats"),
    "speech_energy": ("Power of the speech, the mean of g·v", "power"),
    "accept": ("Acceptance", "share of moves"),
    "energy": ("Energy: kinetic − log joint", "nats"),
    "elbo": ("Evidence bound", "nats"),
}
"""Captions and units of what engines report; others are called by their names."""


def shown(result: Enhanced) -> list[Html]:
    """All there is to hear and to see, of the first channel with sound and of 30 s at most."""
    seconds = min(_seconds(result), WINDOW_SECONDS)
    return [
        section("To hear", _players(result, seconds), level=3),
        section("Spectrograms", *_spectrograms(result, seconds), level=3),
        section("The noise model", *_noise_model(result, seconds), level=3),
        section("Inference", *_inference(result), level=3),
    ]


def remarks(result: Enhanced) -> list[str]:
    """Whatever one has to know before one believes it, in sentences."""
    diagnostics = result.diagnostics
    found = [result.approximation, *result.warnings, *diagnostics.warnings(), *diagnostics.unjudged()]
    return [sentence for sentence in found if sentence]


def _seconds(result: Enhanced) -> float:
    return result.speech.shape[-1] / result.sample_rate


# --- sounds


def _players(result: Enhanced, seconds: float) -> Html:
    """Players of noisy, enhanced, noise and a draw of the speech: on one scale, so that levels compare."""
    with torch.random.fork_rng():
        torch.manual_seed(int(result.settings["seed"]))
        draw = result.draw()[0]
    speech, noise, draw = (np.atleast_2d(y) for y in (result.speech, result.noise, draw))
    channel = int(np.flatnonzero(np.ptp(speech + noise, -1))[0])  # that of the pictures, too
    sounds = {
        "Noisy": speech + noise,
        "Enhanced": speech,
        "Noise: what was taken away": noise,
        "A draw of the speech from its posterior": draw,
    }
    length = round(seconds * result.sample_rate)
    heard = {name: resample(y[channel, :length], result.sample_rate, RATE) for name, y in sounds.items()}
    peak = max(1.0, *(float(np.abs(y).max()) for y in heard.values()))
    return element("div", {"class": "grid players"}, *(_player(name, y / peak) for name, y in heard.items()))


def _player(name: str, sound: Waveform) -> Html:
    """A player that holds its sound as FLAC: all browsers play it, and it adds no artefacts of its own."""
    out = io.BytesIO()
    soundfile.write(out, sound, RATE, format="FLAC", subtype="PCM_16")
    address = f"data:audio/flac;base64,{base64.b64encode(out.getvalue()).decode()}"
    player = element("audio", {"controls": "", "preload": "metadata", "src": address, "aria-label": name})
    return element("figure", {}, element("figcaption", {}, name), player)


# --- pictures


def _spectrograms(result: Enhanced, seconds: float) -> list[Html]:
    """Noisy, enhanced, noise and uncertainty, all on one scale."""
    frames = round(result.noisy.shape[-2] * seconds / _seconds(result))
    noisy, mean, std = (part[0, :frames].cpu() for part in (result.noisy, result.mean, result.std))
    spectra = {
        "Noisy": power(noisy),
        "Enhanced: the posterior mean of the speech": power(mean),
        "Noise: what was taken away": power(noisy - mean),
        "Uncertainty: the posterior standard deviation of the speech": std.square(),
    }
    pictured = {name: decibel(p.mT) for name, p in spectra.items()}
    top = float(max(p.max() for p in pictured.values()))
    key, time = Axis("dB", top - BELOW, top), Axis("seconds", 0, seconds)
    pictures = [
        figure(heat(time, HERTZ, p, key, f"Spectrogram. {name}.", plays=True), name)
        for name, p in pictured.items()
    ]
    how = "One scale for all; the peak of the waveform was set to one. A click plays the sound from there."
    return [paragraph(how, "soft"), grid(*pictures)]


def _noise_model(result: Enhanced, seconds: float) -> list[Html]:
    """W and H of the first window."""
    W, H = (part[0].cpu() for part in result.noise_factors[0])
    rank = W.shape[-1]
    component, time = Axis("component", 0.5, rank + 0.5, whole=True), Axis("seconds", 0, seconds)
    spectra, activity = decibel(W), decibel(H)
    basis = heat(
        component,
        HERTZ,
        spectra,
        span(spectra, BELOW_NOISE),
        f"The noise basis W: spectra of {rank} components.",
        colours="cividis",
    )
    course = heat(
        time,
        component,
        activity,
        span(activity, BELOW_NOISE),
        f"The activations H of {rank} components over time.",
        colours="cividis",
        plays=True,
    )
    how = (
        "The variance of the noise is WH: a column of W is a spectrum of unit sum, and its row of H says "
        "how much power it has at which time."
    )
    return [
        paragraph(how, "soft"),
        grid(figure(basis, "Basis W: spectra of the noise"), figure(course, "Activations H: their power")),
    ]


def _inference(result: Enhanced) -> list[Html]:
    """Objective and what the engine reported, iteration by iteration; what the diagnostics say."""
    diagnostics = result.diagnostics
    averaged = diagnostics.records[-1].averaged
    objective = "Objective: the mean of log V + |x|²/V, less is better"
    pictures = [_trace(objective, "nats per bin", diagnostics.objective, averaged)]
    for name in diagnostics.names:
        if diagnostics.trace(name).isfinite().any():
            caption, unit = TRACES.get(name, (name.replace("_", " ").capitalize(), ""))
            pictures.append(_trace(caption, unit, diagnostics.trace(name), averaged))
    told = set(remarks(result))
    said = [line.partition(": ")[::2] for line in diagnostics.summary().splitlines() if line not in told]
    how = "A line for each chain; of several channels, the mean. The iterations on grey enter the estimate."
    return [paragraph(how, "soft"), grid(*pictures), facts(said)]


def _trace(caption: str, unit: str, trace: Tensor, averaged: int) -> Html:
    """A picture of a trace: (I, S, B), or of the iteration alone, (I, B) or (I,)."""
    chains = trace.flatten(2).mean(-1) if trace.ndim > 2 else trace.reshape(len(trace), -1).mean(-1)[:, None]
    end = len(trace) - 0.5
    curves = [curve.tolist() for curve in chains.double().cpu().T]
    drawn = lines(
        Axis("EM iteration", -0.5, end, whole=True),
        unit,
        curves[:COLOURS],
        (end - averaged, end),
        f"{caption}, in each EM iteration.",
    )
    return figure(
        drawn, text(caption, f"; {COLOURS} of {len(curves)} chains" if len(curves) > COLOURS else "")
    )
