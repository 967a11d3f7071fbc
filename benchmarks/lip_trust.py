"""Whether a mixture notices that its pictures are wrong: π_n on clean test speech, some pictures corrupted.

    PYRODVAE_DATA=... python benchmarks/lip_trust.py RUN docs/images/lip_trust.png

RUN is the folder of an AV-VAE (taken as an AV-switch), a VAE-MM or a MIN-VAE. Prints the area under the curve
of finding the corrupted third of the frames by π_n, for each kind of corruption, and with the labels half a
second late as a control; draws one utterance with all kinds mixed, and the curves.
"""

from __future__ import annotations

import math
import os
import sys
from pathlib import Path

import torch
from lips import recordings
from torch import Tensor

from pyrodvae.corruption import corrupt
from pyrodvae.mixed_runs import switch
from pyrodvae.mixture_objective import responsibility_odds
from pyrodvae.models import AVVAE
from pyrodvae.plots import new_figure, save_picture
from pyrodvae.teaching import PALETTE
from pyrodvae.weights import load_run

KINDS = ("mixed", "occlusion", "turn", "blur", "freeze")


def curve(odds: Tensor, hit: Tensor) -> tuple[Tensor, Tensor]:
    """False alarms and finds, as shares, for all thresholds."""
    found = hit.flatten()[odds.flatten().argsort(descending=True)]
    zero = torch.zeros(1)
    finds, alarms = ((f.cumsum(0) / f.sum()).float() for f in (found, ~found))
    return torch.cat([zero, alarms]), torch.cat([zero, finds])


def main(source: str, picture: str) -> None:
    """Measure, print and draw."""
    run = load_run(source)
    if isinstance(run.model, AVVAE):
        run = switch(run)
    data = Path(os.environ["PYRODVAE_DATA"])
    names, s, v = recordings(data, 20, math.isqrt(run.model.video), run.stft)
    x = run.stft(s / s.abs().amax(-1, keepdim=True))
    figure = new_figure(10, 3.6)
    left, right = figure.subplots(1, 2, width_ratios=(1.6, 1))
    for i, kind in enumerate(KINDS):
        damaged, hit = corrupt(v, 1 / 3, kind, torch.Generator().manual_seed(0))
        torch.manual_seed(0)
        odds = responsibility_odds(run.model, run.guide, x, None, damaged)
        alarms, finds = curve(odds, hit)
        area = float(torch.trapezoid(finds, alarms))
        other = float(torch.trapezoid(*curve(odds, hit.roll(31, -1))[::-1]))
        print(f"{kind:<10} area {area:.3f}   labels half a second late {other:.3f}", flush=True)
        right.plot(alarms, finds, color=PALETTE[i % len(PALETTE)], label=f"{kind}, area {area:.2f}")
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


if __name__ == "__main__":
    torch.set_num_threads(1)
    main(*sys.argv[1:])
