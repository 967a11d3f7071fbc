"""EM by a published algorithm, on one sequence."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from pyrodvae.as_published.algorithm import Algorithm, Draw, TorchDraw
from pyrodvae.as_published.mixture import Mixture
from pyrodvae.dvae import DVAE
from pyrodvae.guide import Guide


class Iteration(NamedTuple):
    """An iteration of EM: z (S, T, D) and v (R, T, F) of the E-step, and what the M-step made of them."""

    number: int
    z: Tensor
    v: Tensor
    W: Tensor
    H: Tensor
    gain: Tensor
    loss: Tensor


@dataclass(frozen=True)
class Separated:
    """What a published algorithm made of a sequence x (T, F).

    Args:
        speech: mean over draws of g v / (g v + WH) · x, complex (T, F). noise: x − speech.
        mixture: with W, H and gain at the end.
        v: speech variances of the estimate (R, T, F), without the gain.
        loss: mean of log V + |x|²/V after each M-step, (iterations,).
        info: what the algorithm reported, each (iterations,).
    """

    speech: Tensor
    noise: Tensor
    mixture: Mixture
    v: Tensor
    loss: Tensor
    info: dict[str, Tensor]


def separate(
    algorithm: Algorithm,
    model: DVAE,
    guide: Guide,
    x: Tensor,
    W: Tensor,
    H: Tensor,
    iterations: int = 100,
    draw: Draw | None = None,
    each: Callable[[Iteration], None] = lambda now: None,
) -> Separated:
    """Speech and noise in x, by an algorithm as it was published.

    Args:
        algorithm: settings, see :data:`~pyrodvae.as_published.ALGORITHMS`.
        model, guide: trained; the model is frozen, the guide stays as it is.
        x: noisy spectrogram (T, F), complex.
        W, H: of the noise at the start, (F, K) and (K, T), see
            :func:`~pyrodvae.as_published.mixture.initial_noise`.
        iterations: of EM.
        draw: the source of all chance; torch's with seed 0 if None.
        each: called after each iteration.

    Raises:
        ValueError: shapes that do not fit, a model that cannot be used in noise, no iterations.
    """
    if iterations < 1:
        raise ValueError(f"There must be at least one iteration, not {iterations}.")
    mixture = Mixture(model, guide, x, W, H)
    if draw is None:
        draw = TorchDraw(torch.Generator(x.device).manual_seed(0))
    state = algorithm.start(mixture, draw)
    losses: list[Tensor] = []
    info: dict[str, list[Tensor]] = {}
    for i in range(iterations):
        step = algorithm.e_step(mixture, state, draw)
        algorithm.m_step(mixture, step)
        state = step.state
        losses.append(mixture.loss(step.v))
        for name, value in step.info.items():
            info.setdefault(name, []).append(value)
        each(Iteration(i, step.z, step.v, mixture.W, mixture.H, mixture.gain, losses[-1]))
    v = algorithm.last(mixture, step, draw)
    speech = mixture.gain * v
    mask = (speech / (speech + mixture.noise)).mean(0)
    return Separated(
        speech=mask * x,
        noise=(1 - mask) * x,
        mixture=mixture,
        v=v,
        loss=torch.stack(losses),
        info={k: torch.stack(values) for k, values in info.items()},
    )
