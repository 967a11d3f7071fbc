"""What every tutorial needs: a quick rehearsal, and sounds and pictures, in notebooks and scripts alike."""

from __future__ import annotations

import io
import os
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from pyrodvae.audio import read_audio
from pyrodvae.palette import PALETTE as PALETTE
from pyrodvae.whole import save


def smoke() -> bool:
    """Whether ``PYRODVAE_SMOKE=1`` asks for the quick rehearsal of a tutorial: few steps, small data."""
    return os.environ.get("PYRODVAE_SMOKE") == "1"


def play(sound: str | Path | npt.ArrayLike, rate: int | None = None, title: str = "") -> None:
    """Show a player in a notebook, with its title above; a plain script prints a line instead.

    The player is scaled to its loudest sample, so two players do not compare loudness.

    Args:
        sound: an audio file, or a waveform (N,) or (C, N).
        rate: samples per second; a file knows its own.
        title: what is heard.

    Raises:
        ValueError: a waveform without its rate.
    """
    waveform: Any = sound
    if isinstance(sound, str | Path):
        waveform, rate = read_audio(sound)
    if rate is None:
        raise ValueError("A waveform does not say how fast it is: give its rate, in samples per second.")
    waveform = np.asarray(waveform, np.float32)
    title = title or "sound"
    if not _in_notebook():
        print(f"♪ {title}: {waveform.shape[-1] / rate:.1f} s at {rate / 1000:g} kHz")
        return
    from IPython.display import Audio, Markdown, display

    # On digital silence the player would divide by a peak of zero.
    display(Markdown(f"**{title}**"), Audio(waveform, rate=rate, normalize=bool(waveform.any())))


def show(figure: Any, name: str) -> None:
    """Show a figure in a notebook, ``name`` being what a reader hears who cannot see it.

    A plain script writes it into the current folder, under that name as a PNG, and says so.

    Args:
        figure: matplotlib's.
        name: what is to be seen, in a few words.

    Raises:
        NotWritten: the file cannot be written.
    """
    picture = io.BytesIO()
    figure.savefig(picture, format="png", dpi=110)
    if not _in_notebook():
        path = Path(f"{name.replace(' ', '_')}.png")
        save(path, picture.getvalue())
        print(f"▣ {name}: {path}")
        return
    from IPython.display import Image, display

    display(Image(picture.getvalue(), alt=name))


def _in_notebook() -> bool:
    try:
        from IPython.core.getipython import get_ipython
    except ImportError:
        return False
    return get_ipython() is not None
