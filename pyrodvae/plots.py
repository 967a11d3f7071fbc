"""Pictures."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

from pyrodvae.whole import save


def new_figure(width: float, height: float) -> Any:
    """A figure that needs no display and leaves no global state behind."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure((width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def plot_history(history: list[dict[str, float]], path: Path) -> None:
    """The curves of a training run: losses on the left, the KL term and its weight on the right."""
    figure = new_figure(9, 3.2)
    left, right = figure.subplots(1, 2)
    epochs = [row["epoch"] for row in history]
    for key in ("train_loss", "val_loss"):
        left.plot(epochs, [row[key] for row in history], label=key.replace("_", " "))
    left.set(xlabel="epoch", ylabel="nats per frame")
    left.legend()
    right.plot(epochs, [row["val_kl"] for row in history], label="validation KL")
    right.set(xlabel="epoch", ylabel="nats per frame")
    weight = right.twinx()
    weight.plot(epochs, [row["beta"] for row in history], "k:", label="weight of the KL")
    weight.set(ylabel="β", ylim=(0, 1.05 * max(row["beta"] for row in history) + 1e-9))
    right.legend()
    picture = io.BytesIO()
    figure.savefig(picture, format="png", dpi=110)
    save(path, picture.getvalue())


def plot_enhanced(result: Any, path: str | Path | None = None) -> Any:
    """Input, speech, noise and posterior deviation as spectrograms (dB), and the EM objective."""
    figure = new_figure(11, 8)
    axes = figure.subplots(3, 2)
    noisy, mean = result.noisy[0].cpu(), result.mean[0].cpu()
    seconds = result.speech.shape[-1] / result.sample_rate
    top = decibel(noisy.abs()).max()
    panels = [
        ("noisy", noisy.abs()),
        ("speech", mean.abs()),
        ("noise", (noisy - mean).abs()),
        ("posterior deviation of the speech", result.std[0].cpu()),
    ]
    for axis, (title, magnitude) in zip(axes.flat, panels, strict=False):
        image = spectrogram(axis, magnitude, seconds, float(top))
        axis.set_title(title)
    figure.colorbar(image, ax=axes[:2, :], label="dB", shrink=0.7)
    axes[2, 0].plot(result.objective.flatten(1).mean(1).cpu().numpy())
    axes[2, 0].set(xlabel="EM iteration", ylabel="log V + |x|²/V", title="objective")
    time = [seconds * i / result.speech.shape[-1] for i in range(result.speech.shape[-1])]
    first = result.speech if result.speech.ndim == 1 else result.speech[0]
    other = result.noise if result.noise.ndim == 1 else result.noise[0]
    axes[2, 1].plot(time, first + other, color="0.7", linewidth=0.4, label="noisy")
    axes[2, 1].plot(time, first, linewidth=0.4, label="speech")
    axes[2, 1].set(xlabel="seconds", title="waveform")
    axes[2, 1].legend(loc="upper right")
    if path is not None:
        figure.savefig(path, dpi=110)
    return figure


def plot_spectrogram(s: Any, seconds: float, title: str, path: str | Path) -> None:
    """A picture of one spectrogram (T, F), complex, written in one step."""
    figure = new_figure(7, 2.8)
    axis = figure.subplots()
    magnitude = s.abs().cpu()
    image = spectrogram(axis, magnitude, seconds, float(decibel(magnitude).max()))
    axis.set_title(title)
    figure.colorbar(image, label="dB")
    picture = io.BytesIO()
    figure.savefig(picture, format="png", dpi=110)
    save(Path(path), picture.getvalue())


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
