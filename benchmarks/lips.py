"""What lips are worth: gain over the noisy input at several ratios of speech to noise.

    PYRODVAE_DATA=... python benchmarks/lips.py OUT.csv RUN [RUN …] [--snr -15 … 15] [--limit 20]
        [--split test] [--set trust=0.2 …] [--misheard]

Every RUN is a folder; those that are given video run twice: with whole pictures, and with a third of the
frames corrupted, in runs (occluded, turned, blurred or frozen). All utterances of a condition are enhanced
side by side. Speech: a split of the audio-visual recordings; noise: the same split, one recording after the
other. One row for each utterance: run, lips, snr, utterance, noise, and the metrics of input and estimate;
where frames are corrupted and the model tells whom it trusts, also the area under the curve of finding them.

With ``--misheard`` a third of the frames that the encoders of a mixture hear have white noise on them (0 dB).
Encoders say where chains start; for one latent, ``--set own_latents=false voice=visual`` says which of them.
"""

from __future__ import annotations

import argparse
import csv
import math
import os
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from pyrodvae.audio import read_audio
from pyrodvae.av_data import video_of
from pyrodvae.av_mixture import AVMixture
from pyrodvae.corruption import corrupt, corrupt_audio
from pyrodvae.data import manifest_paths
from pyrodvae.dvae import DVAE
from pyrodvae.engines import ENGINES
from pyrodvae.enhance_config import EnhanceConfig
from pyrodvae.guide import Guide
from pyrodvae.metrics import score
from pyrodvae.mixture_guide import MixtureGuide
from pyrodvae.separation import enhance_spectrum
from pyrodvae.settings import apply
from pyrodvae.signal import STFT
from pyrodvae.video import align, read_video
from pyrodvae.weights import load_run

METRICS = ("si_sdr", "pesq_wb", "stoi")
SNR = [-15, -10, -5, 0, 5, 10, 15]


class Misheard(MixtureGuide):
    """The guide of a mixture, that has white noise on a third of the frames that it hears."""

    def __init__(self, model: DVAE, guide: Guide, seed: int) -> None:
        assert isinstance(model, AVMixture)
        assert isinstance(guide, MixtureGuide)
        super().__init__(model, guide.sees, guide.audio, guide.visual)
        self.seed = seed

    def context(self, x: Tensor, lengths: Tensor | None, shared: Tensor | None) -> Tensor:
        """As the guide, of what it hears."""
        chance = torch.Generator().manual_seed(self.seed)
        return super().context(corrupt_audio(x, generator=chance)[0], lengths, shared)


def recordings(
    data: Path, limit: int, side: int, stft: STFT, split: str = "test"
) -> tuple[list[str], Tensor, Tensor]:
    """Names, speech (N, samples) and video (N, T, V) of a split, of one length."""
    paths = sorted(p for p in manifest_paths(data / "MANIFEST.tsv", split) if "grid" in p.parts)[:limit]
    sounds = [torch.from_numpy(read_audio(p)[0][0]).float() for p in paths]
    length = min(map(len, sounds))
    v = [align(read_video(video_of(p), side), stft, length)[0] for p in paths]
    return [p.stem for p in paths], torch.stack([y[:length] for y in sounds]), torch.stack(v)


def noises(data: Path, count: int, length: int, seed: int, split: str = "test") -> tuple[list[str], Tensor]:
    """Excerpts (count, length) of a split's noise, one recording after the other."""
    rng = np.random.default_rng(seed)
    paths = sorted(p for p in manifest_paths(data / "MANIFEST.tsv", split) if "noise" in p.parts)
    names, parts = [], []
    for i in range(count):
        path = paths[i % len(paths)]
        y = torch.from_numpy(read_audio(path)[0][0]).float()
        start = int(rng.integers(max(1, len(y) - length)))
        names.append(path.parent.name)
        parts.append(y.repeat(-(-(start + length) // len(y)))[start : start + length])
    return names, torch.stack(parts)


def mixed(s: Tensor, b: Tensor, snr: float) -> Tensor:
    """Speech and noise (N, samples) at a ratio in dB."""
    power = [y.square().mean(-1, keepdim=True) for y in (s, b)]
    return s + b * (power[0] / power[1] * 10 ** (-snr / 10)).sqrt()


def area(trust: Tensor, hit: Tensor) -> float:
    """Area under the curve of finding the frames that are hit by distrust in them, both (T,)."""
    bad, good = -trust[hit], -trust[~hit]
    if not len(bad) or not len(good):
        return math.nan
    return float(((bad[:, None] > good).float() + 0.5 * (bad[:, None] == good)).mean())


def main() -> None:
    """Run all conditions, and append to the table as they are done."""
    p = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    p.add_argument("out", type=Path)
    p.add_argument("runs", nargs="+")
    p.add_argument("--snr", nargs="+", type=float, default=SNR)
    p.add_argument("--limit", type=int, default=20)
    p.add_argument("--engine", default="langevin")
    p.add_argument("--seed", type=int, default=0)
    p.add_argument("--split", default="test", choices=["train", "val", "test"])
    p.add_argument("--set", nargs="+", default=[], metavar="NAME=VALUE", help="settings of EnhanceConfig")
    p.add_argument("--misheard", action="store_true")
    options = p.parse_args()
    data = Path(os.environ["PYRODVAE_DATA"])
    fields = ["run", "lips", "snr", "utterance", "noise", "seconds", "auc"]
    fields += [f"{m}_{what}" for m in METRICS for what in ("in", "out")]
    with options.out.open("w", newline="") as file:
        rows = csv.DictWriter(file, fields)
        rows.writeheader()
        for source in options.runs:
            for row in conditions(source, data, options):
                rows.writerow(row)
                file.flush()


def conditions(source: str, data: Path, options: argparse.Namespace):  # type: ignore[no-untyped-def]
    """The rows of one run."""
    run = load_run(source)
    names, s, v = recordings(data, options.limit, math.isqrt(run.model.video) or 32, run.stft, options.split)
    kinds, b = noises(data, len(s), s.shape[-1], options.seed, options.split)
    if options.misheard:
        run = replace(run, guide=Misheard(run.model, run.guide, options.seed))
    chance = torch.Generator().manual_seed(options.seed)
    damaged, hit = corrupt(v, 1 / 3, "mixed", chance)
    lips = {"whole": v, "damaged": damaged} if run.model.video else {"none": None}
    (config,) = apply(options.set, EnhanceConfig(seed=options.seed))
    for snr in options.snr:
        x = mixed(s, b, snr)
        peak = x.abs().amax(-1, keepdim=True)
        spectrum = run.stft(x / peak)
        before = [score(x[i].numpy(), s[i].numpy(), 16_000, METRICS) for i in range(len(s))]
        for which, pictures in lips.items():
            torch.manual_seed(options.seed)
            start = time.perf_counter()
            found = enhance_spectrum(
                spectrum,
                run,
                ENGINES[options.engine](),
                config,
                torch.Generator().manual_seed(options.seed),
                v=pictures,
            )
            seconds = (time.perf_counter() - start) / (s.numel() / 16_000)
            y = run.stft.inverse(found.mean, s.shape[-1]) * peak
            trust = getattr(found, "responsibility", None)
            for i, name in enumerate(names):
                after = score(y[i].numpy(), s[i].numpy(), 16_000, METRICS)
                auc = math.nan
                if which == "damaged" and trust is not None:
                    auc = area(1 - trust[i], hit[i])
                row = {"run": Path(source).name, "lips": which, "snr": snr, "utterance": name}
                row |= {"noise": kinds[i], "seconds": round(seconds, 4), "auc": auc}
                for m in METRICS:
                    row |= {f"{m}_in": before[i][m][0], f"{m}_out": after[m][0]}
                yield row
        print(Path(source).name, snr, flush=True)


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
