"""Whether a model notices that its pictures are wrong: on clean test speech, and in noise.

    PYRODVAE_DATA=... python benchmarks/lip_trust.py RUN docs/images/lip_trust.png
    PYRODVAE_DATA=... python benchmarks/lip_trust.py RUN docs/images/lip_trust_noise.png --snr 15 10 5 0 -5

RUN is the folder of an AV-VAE (taken as an AV-switch), a VAE-MM or a MIN-VAE. Prints the area under the curve
of finding the corrupted third of the frames by π_n, for each kind of corruption, and with the labels half a
second late as a control; draws one utterance with all kinds mixed, and the curves.

With ``--snr`` RUN is of an AV-VAE, and the areas are by ``lips_misfit``, on clean speech and on what was
heard without lips at so many dB, drawn against these. ``late`` are pictures of a second before, whole ones.
Controls: beside the ``other speech`` of another recording, which tells how much is seen of the pictures
alone; and the ``closed form`` of π_n on the same speech.
"""

from __future__ import annotations

import argparse
import math
import os
from pathlib import Path

import torch
from lips import mixed, noises, recordings
from torch import Tensor

from pyrodvae.corruption import PERIOD, corrupt, runs
from pyrodvae.lips_misfit import heard_alone, lips_misfit
from pyrodvae.mixed_runs import switch
from pyrodvae.mixture_objective import responsibility_odds
from pyrodvae.models import AVVAE
from pyrodvae.palette import PALETTE
from pyrodvae.plots import new_figure, save_picture
from pyrodvae.weights import Run, load_run

KINDS = ("mixed", "occlusion", "turn", "blur", "freeze")


def curve(odds: Tensor, hit: Tensor) -> tuple[Tensor, Tensor]:
    """False alarms and finds, as shares, for all thresholds."""
    found = hit.flatten()[odds.flatten().argsort(descending=True)]
    zero = torch.zeros(1)
    finds, alarms = ((f.cumsum(0) / f.sum()).float() for f in (found, ~found))
    return torch.cat([zero, alarms]), torch.cat([zero, finds])


def area(odds: Tensor, hit: Tensor) -> float:
    """Area under the curve."""
    alarms, finds = curve(odds, hit)
    return float(torch.trapezoid(finds, alarms))


def on_clean_speech(run: Run, names: list[str], s: Tensor, v: Tensor, picture: Path) -> None:
    """Measure, print and draw π_n."""
    if isinstance(run.model, AVVAE):
        run = switch(run)
    x = run.stft(s / s.abs().amax(-1, keepdim=True))
    figure = new_figure(10, 3.6)
    left, right = figure.subplots(1, 2, width_ratios=(1.6, 1))
    for i, kind in enumerate(KINDS):
        damaged, hit = corrupt(v, 1 / 3, kind, torch.Generator().manual_seed(0))
        torch.manual_seed(0)
        odds = responsibility_odds(run.model, run.guide, x, None, damaged)
        found, other = area(odds, hit), area(odds, hit.roll(31, -1))
        print(f"{kind:<10} area {found:.3f}   labels half a second late {other:.3f}", flush=True)
        right.plot(*curve(odds, hit), color=PALETTE[i % len(PALETTE)], label=f"{kind}, area {found:.2f}")
        if kind == "mixed":
            seconds = torch.arange(x.shape[1]) / run.stft.frame_rate
            left.plot(seconds, odds[0], color=PALETTE[0], label="log-odds of π_n")
            low, high = left.get_ylim()
            left.fill_between(
                seconds, low, high, where=hit[0], alpha=0.25, color=PALETTE[1], label="corrupted"
            )
            left.set(xlabel="time in seconds", ylabel="nats", ylim=(low, high), title=f"utterance {names[0]}")
            left.set_yscale("symlog")
            left.legend(loc="lower right", fontsize=8)
    right.plot([0, 1], [0, 1], ":", color="grey")
    right.set(xlabel="share of whole frames that are suspected", ylabel="share of corrupted frames found")
    right.legend(loc="lower right", fontsize=8)
    save_picture(figure, picture)


def in_noise(run: Run, s: Tensor, b: Tensor, v: Tensor, ratios: list[float], picture: Path) -> None:
    """Measure, print and draw the misfit of lips with what was heard without them."""
    seeds = (torch.Generator().manual_seed(0) for _ in (*KINDS, "late"))
    pictures = {kind: corrupt(v, 1 / 3, kind, seed) for kind, seed in zip(KINDS, seeds, strict=False)}
    marked = runs(*v.shape[:2], 1 / 3, next(seeds))
    pictures["late"] = v.roll(PERIOD, 1).where(marked[..., None], v), marked
    pair = switch(run)
    areas: dict[str, list[float]] = {}
    for ratio in (math.inf, *ratios):
        y = mixed(s, b, ratio)
        x = run.stft(y / y.abs().amax(-1, keepdim=True))
        heard = x if ratio == math.inf else heard_alone(run, x)
        for kind, (seen, hit) in pictures.items():
            areas.setdefault(kind, []).append(area(lips_misfit(run, heard, seen), hit))
        for kind in ("mixed", "late"):
            seen, hit = pictures[kind]
            found = area(lips_misfit(run, heard.roll(1, 0), seen), hit)
            areas.setdefault(f"{kind}, other speech", []).append(found)
        seen, hit = pictures["mixed"]
        torch.manual_seed(0)
        by_form = responsibility_odds(pair.model, pair.guide, heard, None, seen)
        areas.setdefault("mixed, closed form", []).append(area(by_form, hit))
        print(f"{ratio:g} dB", *(f"{kind} {a[-1]:.3f}" for kind, a in areas.items()), sep="   ", flush=True)
    figure = new_figure(6, 3.8)
    axes = figure.subplots()
    colours = dict(zip(pictures, PALETTE, strict=True))
    for name, values in areas.items():
        kind, _, control = name.partition(", ")
        style = {"": "-", "other speech": "--", "closed form": ":"}[control]
        axes.plot(values, style, marker=".", color=colours[kind], label=name)
    axes.axhline(0.5, ls=":", color="grey")
    axes.set_xticks(range(1 + len(ratios)), ["clean", *(f"{ratio:g} dB" for ratio in ratios)])
    axes.set(xlabel="speech heard without lips, at", ylabel="area under the curve", ylim=(0.3, 1))
    axes.legend(loc="center left", bbox_to_anchor=(1, 0.5), fontsize=8)
    save_picture(figure, picture)


def main() -> None:
    """Measure, print and draw."""
    p = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    p.add_argument("run")
    p.add_argument("picture", type=Path)
    p.add_argument("--snr", nargs="+", type=float, default=[])
    p.add_argument("--limit", type=int, default=20)
    p.add_argument("--split", default="test", choices=["train", "val", "test"])
    options = p.parse_args()
    run, data = load_run(options.run), Path(os.environ["PYRODVAE_DATA"])
    names, s, v = recordings(data, options.limit, math.isqrt(run.model.video), run.stft, options.split)
    if options.snr:
        _, b = noises(data, len(s), s.shape[-1], 0, options.split)
        in_noise(run, s, b, v, options.snr, options.picture)
    else:
        on_clean_speech(run, names, s, v, options.picture)


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
