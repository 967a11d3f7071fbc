"""Pictures."""

from __future__ import annotations

import io
from collections.abc import Sequence
from math import isfinite
from pathlib import Path
from typing import Any

from pyrodvae.palette import PALETTE, coloured
from pyrodvae.results import Cost
from pyrodvae.whole import save

CHOICE = "heard alone: p(α = 1 | x)"
"""Title of the panel for what a mixture of audio and video made of every frame."""
REPORTED = {"log_joint": "log joint in nats", "accept": "acceptance", "elbo": "evidence bound in nats"}
"""Titles of the panels for what engines report, by the names of its traces."""


def new_figure(width: float, height: float) -> Any:
    """A figure that needs no display and leaves no global state behind."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure((width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


PICTURES = (".png", ".svg")


def check_picture(path: str | Path, endings: Sequence[str] = PICTURES) -> None:
    """Raise a ValueError unless a file of this name can be drawn: before there is anything to draw."""
    if Path(path).suffix.lower() not in endings:
        raise ValueError(f"'{path}' says not what to draw: end it in {' or '.join(endings)}.")
    check_folder(path)


def check_folder(path: str | Path) -> None:
    """Raise a ValueError unless the folder of a file is there, and the file is none itself."""
    if Path(path).is_dir():
        raise ValueError(f"{path} is a folder: give the name of a file.")
    if not Path(path).parent.is_dir():
        raise ValueError(f"{path} cannot be written: its folder does not exist.")


def save_picture(figure: Any, path: str | Path) -> None:
    """Write a figure in one step, in the format that the file's name asks for.

    Raises:
        ValueError: it asks for none of :data:`PICTURES`, or its folder does not exist.
        NotWritten: it cannot be written.
    """
    check_picture(path)
    picture = io.BytesIO()
    figure.savefig(picture, format=Path(path).suffix[1:].lower(), dpi=110)
    save(Path(path), picture.getvalue())


def plot_history(history: list[dict[str, float]], path: Path) -> None:
    """The curves of a training run: losses on the left, the KL term and its weight on the right."""
    figure = new_figure(9, 3.2)
    left, right = (coloured(axis) for axis in figure.subplots(1, 2))
    epochs = [row["epoch"] for row in history]
    for key in ("train_loss", "val_loss"):
        left.plot(epochs, [row[key] for row in history], label=key.replace("_", " "))
    left.set(xlabel="epoch", ylabel="nats per frame")
    left.legend()
    (kl,) = right.plot(epochs, [row["val_kl"] for row in history], label="validation KL")
    right.set(xlabel="epoch", ylabel="nats per frame")
    weight = right.twinx()
    (beta,) = weight.plot(epochs, [row["beta"] for row in history], "k:", label="its weight β (right)")
    weight.set(ylabel="β", ylim=(0, 1.05 * max(row["beta"] for row in history) + 1e-9))
    weight.legend(handles=[kl, beta], loc="lower right")
    save_picture(figure, path)


def plot_enhanced(result: Any, path: str | Path | None = None) -> Any:
    """What enhancement found, and how: a figure of panels, of the first channel.

    Input, speech, noise and posterior deviation as spectrograms (dB), waveforms, of a mixture of audio and
    video which frames were heard alone, the objective, and what
    the engine reported in each iteration (the mean over sequences, a line for each chain): log joint,
    acceptance, evidence bound. The iterations on grey enter the estimate.
    """
    noisy, mean = result.noisy[0].cpu(), result.mean[0].cpu()
    spectra = {
        "noisy": noisy.abs(),
        "speech": mean.abs(),
        "noise": (noisy - mean).abs(),
        "posterior deviation of the speech": result.std[0].cpu(),
    }
    diagnostics = result.diagnostics
    traces = {"objective (log V + |x|²/V)": diagnostics.objective.mean(-1)}
    for name in [name for name in REPORTED if name in diagnostics.names]:
        trace = diagnostics.trace(name)
        traces[REPORTED[name]] = trace.mean(-1) if trace.ndim == 3 else trace
    titles = [*spectra, "waveform", *([CHOICE] if result.responsibility is not None else []), *traces]
    titles += [titles[-1]] * (len(titles) % 2)  # the last of an odd number is wide
    figure = new_figure(11, 1.3 * len(titles))
    axes = figure.subplot_mosaic([titles[i : i + 2] for i in range(0, len(titles), 2)])
    seconds = result.speech.shape[-1] / result.sample_rate
    top = float(decibel(noisy.abs()).max())
    for title, magnitude in spectra.items():
        image = spectrogram(axes[title], magnitude, seconds, top)
    figure.colorbar(image, ax=[axes[title] for title in spectra], label="dB", shrink=0.7)
    speech, noise = (y.reshape(-1, y.shape[-1])[0] for y in (result.speech, result.noise))
    time = [i / result.sample_rate for i in range(len(speech))]
    axes["waveform"].plot(time, speech + noise, color="0.7", linewidth=0.4, label="noisy")
    axes["waveform"].plot(time, speech, color=PALETTE[0], linewidth=0.4, label="speech")
    axes["waveform"].set(xlabel="seconds", ylabel="amplitude")
    axes["waveform"].legend(loc="upper right")
    if CHOICE in axes:
        p = result.responsibility[0].cpu()
        axes[CHOICE].plot(
            [seconds * (t + 0.5) / len(p) for t in range(len(p))], p, color=PALETTE[0], linewidth=0.8
        )
        axes[CHOICE].set(xlabel="seconds", ylim=(-0.05, 1.05), xlim=(0, seconds))
    last = diagnostics.records[-1]
    length = len(last.objective)
    for title, trace in traces.items():
        coloured(axes[title]).plot(trace.cpu().numpy())
        axes[title].axvspan(length - last.averaged - 0.5, length - 0.5, color="0.93")
        axes[title].set(xlabel="EM iteration", xlim=(-0.5, length - 0.5))
    for title, axis in axes.items():
        axis.set_title(title)
    if path is not None:
        save_picture(figure, path)
    return figure


def plot_costs(costs: Sequence[Cost], metric: str, path: str | Path) -> Any:
    """Improvement against time, a dot with its standard error for each system, written in one step."""
    from matplotlib.ticker import LogLocator

    figure = new_figure(7, 4.5)
    axis = coloured(figure.subplots())
    for c in costs:
        if isfinite(c.gain):
            axis.errorbar(c.seconds, c.gain, c.error if isfinite(c.error) else None, marker="o", capsize=3)
            axis.annotate(c.system, (c.seconds, c.gain), (6, 4), textcoords="offset points")
    unit = " in dB" if "sdr" in metric else ""
    axis.set_xscale("log", subs=())
    axis.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axis.xaxis.set_major_formatter("{x:g}")
    axis.set(xlabel="seconds of computing per second of sound", ylabel=f"improvement of {metric}{unit}")
    axis.margins(0.15)
    axis.grid(alpha=0.3)
    save_picture(figure, path)
    return figure


def plot_spectrogram(s: Any, seconds: float, title: str, path: str | Path) -> None:
    """A picture of one spectrogram (T, F), complex, written in one step."""
    figure = new_figure(7, 2.8)
    axis = figure.subplots()
    magnitude = s.abs().cpu()
    image = spectrogram(axis, magnitude, seconds, float(decibel(magnitude).max()))
    axis.set_title(title)
    figure.colorbar(image, label="dB")
    save_picture(figure, path)


def decibel(magnitude: Any) -> Any:
    """20 log10, floored at -120 dB."""
    return 20 * magnitude.clamp(min=1e-6).log10()


def spectrogram(axis: Any, magnitude: Any, seconds: float, top: float, below: float = 70.0) -> Any:
    """Draw a magnitude (T, F) of 16 kHz audio in dB, from ``top`` to ``below`` dB under it."""
    image = axis.imshow(
        decibel(magnitude).T.numpy(),
        origin="lower",
        aspect="auto",
        extent=(0, seconds, 0, 8),
        vmin=top - below,
        vmax=top,
        cmap="magma",
    )
    axis.set(xlabel="seconds", ylabel="kHz")
    return image
