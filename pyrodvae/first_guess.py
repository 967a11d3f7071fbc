"""First guesses of the noise: where EM starts decides where it ends."""

from __future__ import annotations

import torch
from torch import Tensor

from pyrodvae.distributions import power
from pyrodvae.noise import PLAIN, NMFNoise, mean_spectra
from pyrodvae.voicing import periodicity

UNVOICED = 0.15
"""Share of the frames that are least periodic."""
QUIETER = 0.3
"""The level of their patterns, compared with those of the quiet frames."""
STEPS = 40
"""M-steps of :func:`refit`."""


def first_guesses(x: Tensor, rank: int, rate: int, count: int, generator: torch.Generator) -> NMFNoise:
    """Several first guesses of the noise of every sequence.

    The objective of EM has many optima of nearly the same value, which differ in what they take for noise.
    The first guess has patterns of quiet frames alone (:meth:`~pyrodvae.noise.NMFNoise.from_quiet_frames`):
    noise that goes on while the speaker pauses. All others have half of theirs (at least one) from the frames
    that are least periodic in the band of voices: noise that comes and goes. EM follows each on its own,
    and :func:`~pyrodvae.pooling.pooled` says what they found together.

    Args:
        x: noisy spectrogram (B, T, F), complex.
        rank: K.
        rate: samples per second.
        count: G.
        generator: the source of chance.

    Returns:
        The noise of G B sequences: number g B + b is the g-th guess of sequence b.
    """
    guesses = [NMFNoise.from_quiet_frames(x, rank, generator) for _ in range(count)]
    p, some = power(x), max(1, rank // 2)
    for noise in guesses[1:]:
        W = mean_spectra(p, periodicity(p, rate)[0], UNVOICED, some, generator)
        noise.W[..., -some:] = W / W.sum(1, keepdim=True)
        noise.H[:, -some:] *= QUIETER
    return NMFNoise(torch.cat([noise.W for noise in guesses]), torch.cat([noise.H for noise in guesses]))


@torch.no_grad()
def refit(noise: NMFNoise, x: Tensor, variance: Tensor, first: int) -> None:
    """Fit all guesses but the first to what a first guess of the speech leaves of x, in place.

    They are M-steps alone. The first guess is kept as it is: where there is little noise, such a fit takes
    the faults of the guess of the speech for noise.

    Args:
        noise: of G B sequences.
        x: what was heard, (G B, T, F), complex.
        variance: draws of v, (S, G B, T, F).
        first: B.
    """
    others = NMFNoise(noise.W[first:], noise.H[first:])  # parts of the same memory
    x_power, variance, memory = power(x[first:]), variance[:, first:], PLAIN.init()
    for _ in range(STEPS):
        _, memory = PLAIN.step(others, None, x_power, variance, memory)
