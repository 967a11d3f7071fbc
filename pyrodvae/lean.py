"""Where the noise is voiced as the speech is, an estimate leans on the recording."""

from __future__ import annotations

from dataclasses import replace

from torch import Tensor

from pyrodvae.distributions import power
from pyrodvae.posterior import Posterior
from pyrodvae.voicing import voicing

MUCH = 0.05, 0.1
"""Share of the energy in the band from where on a noise may be the one who was meant: less is no loss."""
VOICED, PURE = (0.4, 0.5), (0.92, 0.87)
"""Voicing of a noise that may be voices: rain has 0.2, eight talkers have 0.6, one has 0.8, tones more."""
LESS = 0.14, 0.09
"""By how much less than the speech a noise is voiced, where voices are ruled out, and where they are not."""


def alike(speech: Tensor, noise: Tensor, rate: int) -> Tensor:
    """How much a noise sounds like the speech, from 0 to 1, (B,): then it may be other talkers.

    It is 0 where the noise is faint, not voiced, a pure tone, or voiced less than the speech.

    Args:
        speech, noise: what was told apart, power spectrograms (B, T, F).
        rate: samples per second.
    """
    v = voicing(speech, noise, rate)
    loud = _ramp(v.share, *MUCH) * _ramp(v.noise, *VOICED)
    return loud * _ramp(v.loud, *PURE) * _ramp(v.speech - v.noise, *LESS)


def lean(posterior: Posterior, rate: int, most: float) -> Posterior:
    r"""The posterior with an estimate that leans on the recording, as far as speech and noise sound alike.

    .. math:: \hat s \leftarrow \hat s + a\, \hat b, \qquad \hat b \leftarrow (1 - a)\, \hat b

    What tells a speaker from noise is, above all, pitch. Where what was taken for noise is voiced, and hardly
    less than what was taken for speech, there are other talkers, and a model of speech cannot know which of
    them is meant: at worst it removes the one that was to be kept. The weight a is ``most`` there, and falls
    to zero as :func:`alike` does. Variance and draws are those of the model.

    Args:
        posterior: of the speech, as EM found it.
        rate: samples per second of the recording.
        most: a at most; 0 leaves the estimate as it is.
    """
    if not most:
        return posterior
    a = most * alike(power(posterior.mean), power(posterior.noise_mean), rate)
    sentences = [
        f"The noise of sequence {b} is voiced as the speech is, so it may be other talkers: the estimate "
        f"keeps {a[b]:.0%} of the recording (lean=0 would not)."
        for b in (a >= 0.005).nonzero().flatten().tolist()
    ]
    share = a[:, None, None]
    return replace(
        posterior,
        mean=posterior.mean + share * posterior.noise_mean,
        noise_mean=(1 - share) * posterior.noise_mean,
        warnings=(*posterior.warnings, *sentences),
    )


def _ramp(value: Tensor, zero: float, one: float) -> Tensor:
    """A straight line, 0 at ``zero`` and 1 at ``one``, and flat beyond them."""
    return ((value - zero) / (one - zero)).clamp(0, 1)
