"""Pictures."""

from __future__ import annotations

from pathlib import Path
from typing import Any


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
    figure.savefig(path, dpi=110)
