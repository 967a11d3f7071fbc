"""The start page's sounds: the packaged recording before and after, enhanced while the site is built."""

from __future__ import annotations

import os
from pathlib import Path

import pyrodvae
from pyrodvae import examples
from pyrodvae.metrics import score

METRICS = {"si_sdr": "SI-SDR in dB", "estoi": "ESTOI", "pesq_wb": "PESQ (wide band)"}


def write_example(source: Path) -> None:
    """Write ``listen.md`` (players and scores, for the start page) and its sounds."""
    quick = os.environ.get("PYRODVAE_SMOKE") == "1"
    config = pyrodvae.EnhanceConfig(iterations=3 if quick else 60)
    found = pyrodvae.enhance(examples.noisy(), config=config)
    clean, rate = pyrodvae.read_audio(examples.clean())
    noisy, _ = pyrodvae.read_audio(examples.noisy())
    sounds = {"noisy": noisy, "speech": found.speech, "noise": found.noise, "clean": clean}
    titles = {
        "noisy": "Before: the noisy recording",
        "speech": "After: the speech found in it",
        "noise": "What was taken away",
        "clean": "For comparison: the clean original, which the program never heard",
    }
    folder = source / "_static" / "sounds"
    folder.mkdir(parents=True, exist_ok=True)
    for name, sound in sounds.items():
        pyrodvae.write_audio(folder / f"{name}.wav", sound, rate)
    players = [
        f"<figure><figcaption>{title}</figcaption>"
        f'<audio controls preload="none" src="_static/sounds/{name}.wav"></audio></figure>'
        for name, title in titles.items()
    ]
    before, after = (score(sounds[name], clean, rate, METRICS) for name in ("noisy", "speech"))
    rows = [
        f"| {title} | {before[key].value:.2f} | {after[key].value:.2f} |" for key, title in METRICS.items()
    ]
    table = ["| | before | after |", "|---|---|---|", *rows]
    (source / "listen.md").write_text(
        "\n".join(['<div class="players">', *players, "</div>", "", *table, ""]), encoding="utf-8"
    )
