"""Which atoms speak when: the means of a latent path, and a picture of them."""

from __future__ import annotations

import io
from pathlib import Path

import torch
from torch import Tensor

from pyrodvae.models.selector import SelectorVAE
from pyrodvae.objective import traces
from pyrodvae.plots import new_figure
from pyrodvae.synthesis import Means
from pyrodvae.weights import Run
from pyrodvae.whole import save

RANGE_DB = 40
"""Of the picture: what is so much under the loudest coefficient is white."""


@torch.no_grad()
def mean_latents(run: Run, s: Tensor) -> Tensor:
    r"""The means of the guide for clean speech s (B, T, F), (B, T, D): what sparsity is measured on.

    They are the coefficients a of a dictionary model; of a model with a selector, what that leaves of z.
    """
    with Means():
        q, _ = traces(run.model, run.guide, s)
    z: Tensor = q.nodes["z"]["value"]  # type: ignore[assignment]
    return run.model.code(z) if isinstance(run.model, SelectorVAE) else z


def plot_atoms(run: Run, s: Tensor, path: str | Path, title: str = "") -> None:
    """Write a picture (PNG): the spectrogram of speech s (T, F), and below it the loudness of each atom.

    Atoms (for other models, dimensions) are in the order of their energy in this recording.

    Raises:
        NotWritten: it cannot be written.
    """
    a = mean_latents(run, s[None])[0].cpu()
    energy = a.square().mean(0)
    loudness = 20 * (a[:, energy.argsort(descending=True)].abs() / a.abs().max().clamp(min=1e-12)).log10()
    seconds = len(s) / run.stft.frame_rate
    figure = new_figure(9, 5)
    above, below = figure.subplots(2, 1, sharex=True)
    levels = 20 * s.abs().cpu().clamp(min=1e-6).log10()
    extent = (0, seconds, 0, run.stft.sample_rate / 2000)
    above.imshow(
        levels.T.numpy(), origin="lower", aspect="auto", extent=extent, vmin=float(levels.max()) - 70
    )
    above.set(ylabel="kHz", title=title)
    extent = (0, seconds, a.shape[-1], 0)
    image = below.imshow(
        loudness.T.numpy(), aspect="auto", extent=extent, cmap="Greys", vmin=-RANGE_DB, vmax=0
    )
    below.set(xlabel="seconds", ylabel="atom, by energy")
    figure.colorbar(image, ax=below, label="dB")
    picture = io.BytesIO()
    figure.savefig(picture, format="png", dpi=110)
    save(Path(path), picture.getvalue())
