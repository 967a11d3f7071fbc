"""What keeps EM from going astray: it stops when nothing changes, and turns back when the speech is lost."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from pyrodvae.noisy import NoisySpeech
from pyrodvae.posterior import Fit

WINDOW = 10
"""Iterations over which the objective is smoothed, since fresh draws move it."""
COLLAPSE, HEALTHY = 0.1, 0.5
"""Of the share of the energy that was speech at first: with less the speech is lost; with more it is not."""
RISE = 0.3
"""Nats per bin above its lowest value. Chains that leave an encoder's guess raise it by about a tenth."""


def settled(objective: Sequence[Tensor], tolerance: float) -> bool:
    r"""Whether the objective has stopped changing, for all sequences.

    .. math:: |\bar f_i - \bar f_{i-w}| \le \text{tolerance} \cdot \max(1, |\bar f_{i-w}|)

    with means over the last w = 10 iterations and over the 10 before. The objective is in nats per
    bin, so it is about one, and may be zero: hence the maximum.

    Args:
        objective: of each iteration so far, (B,).
        tolerance: zero or less never stops.
    """
    if tolerance <= 0 or len(objective) < 2 * WINDOW:
        return False
    late = torch.stack(tuple(objective[-WINDOW:])).mean(0)
    early = torch.stack(tuple(objective[-2 * WINDOW : -WINDOW])).mean(0)
    return bool(((late - early).abs() <= tolerance * early.abs().clamp(min=1)).all())


@dataclass(frozen=True)
class Kept:
    """The best of each sequence so far: draws (S, B, T, D), W, H, gain (B, T, 1) if any, objective (B,)."""

    z: Tensor
    W: Tensor
    H: Tensor
    gain: Tensor | None
    objective: Tensor


@dataclass(frozen=True)
class Watch:
    """What is remembered of a run, sequence by sequence.

    ::

        watch = Watch.begin(model, z)
        watch.hold(model)                       # after an M-step
        watch, sentences = watch.look(fit)      # what is wrong from now on; watch.lost (B,) says where
        watch = watch.keep(fit, model, z)       # if it is good

    Args:
        kept: the state to which a lost sequence goes back.
        share: of the speech in the first fit, (B,); NaN before it.
        smoothed: objective, exponentially forgetting; least: the lowest it has been.
        held: whose noise and gain were lost once: they went back to the kept, and stay there.
        lost: whom the last look found astray.
        count: the number of looks.
    """

    kept: Kept
    share: Tensor
    smoothed: Tensor
    least: Tensor
    held: Tensor
    lost: Tensor
    count: int = 0

    @classmethod
    def begin(cls, model: NoisySpeech, z: Tensor) -> Watch:
        """Before the first iteration; where the chains start is all there is to go back to."""
        noise, gain = model.noise, model.gain
        infinite = torch.full_like(noise.W[:, 0, 0], torch.inf)
        none = torch.zeros_like(infinite, dtype=torch.bool)
        start = Kept(z.detach(), noise.W.clone(), noise.H.clone(), gain, infinite)
        return cls(start, infinite * 0, infinite, infinite, none, none)

    def hold(self, model: NoisySpeech) -> None:
        """Undo the M-step of those that are held."""
        if self.held.any():
            _put_back(model, self.kept, self.held)

    def look(self, fit: Fit) -> tuple[Watch, list[str]]:
        """Judge a fit: who is lost now, and a sentence for each that was not lost before.

        Lost is who has an objective that is no number, a share of speech below a tenth of the first,
        or an objective that stays 0.3 nats per bin above the lowest it has been.
        """
        f = fit.objective
        share = torch.where(self.share.isnan(), fit.share, self.share)
        finite = f.isfinite()
        forgotten = torch.where(self.smoothed.isfinite(), self.smoothed + (f - self.smoothed) / WINDOW, f)
        smoothed = torch.where(finite, forgotten, self.smoothed)
        least = torch.minimum(self.least, smoothed)
        vanished, risen = fit.share < COLLAPSE * share, smoothed > least + RISE
        fresh = ~self.held
        reasons = {
            "The objective of sequence {} is no finite number": ~finite,
            "The speech in the estimate of sequence {} vanished": finite & vanished & fresh,
            "The objective of sequence {} keeps rising": finite & risen & ~vanished & fresh,
        }
        then = f" in iteration {self.count}: noise and gain went back to their best state, and stay there."
        sentences = [
            what.format(b) + then
            for what, where in reasons.items()
            for b in (where & fresh).nonzero().flatten().tolist()
        ]
        lost = torch.stack(list(reasons.values())).any(0)
        watch = replace(
            self, share=share, smoothed=smoothed, least=least, held=self.held | lost, lost=lost,
            count=self.count + 1,
        )  # fmt: skip
        return watch, sentences

    def turn_back(self, model: NoisySpeech, z: Tensor) -> Tensor:
        """Put noise and gain of the lost back to the kept ones; and z (S, B, T, D), likewise, returned."""
        _put_back(model, self.kept, self.lost)
        return _choose(self.lost, self.kept.z, z)

    def keep(self, fit: Fit, model: NoisySpeech, z: Tensor) -> Watch:
        """Remember the state of those who have never been better, and whose speech is all there."""
        kept, noise = self.kept, model.noise
        better = (fit.objective < kept.objective) & (fit.share >= HEALTHY * self.share) & ~self.held
        gain = None if model.gain is None or kept.gain is None else _choose(better, model.gain, kept.gain)
        best = Kept(
            _choose(better, z.detach(), kept.z),
            _choose(better, noise.W, kept.W),
            _choose(better, noise.H, kept.H),
            gain,
            torch.where(better, fit.objective, kept.objective),
        )
        return replace(self, kept=best)


def _choose(which: Tensor, a: Tensor, b: Tensor) -> Tensor:
    """Of the sequences ``which`` (B,) those of a, of the others those of b: both (..., B, ·, ·)."""
    return torch.where(which[:, None, None], a, b)


def _put_back(model: NoisySpeech, kept: Kept, which: Tensor) -> None:
    noise = model.noise
    noise.W.copy_(_choose(which, kept.W, noise.W))
    noise.H.copy_(_choose(which, kept.H, noise.H))
    if model.gain is not None and kept.gain is not None:
        model.gain = _choose(which, kept.gain, model.gain)
