"""Published algorithms where our EM would stand: a batch of spectrograms in, a Posterior out."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import torch
from torch import Tensor

from pyrodvae.as_published.algorithm import Algorithm, TorchDraw
from pyrodvae.as_published.loop import Iteration, Separated, separate
from pyrodvae.as_published.mixture import initial_noise
from pyrodvae.diagnostics import Diagnostics, Record
from pyrodvae.em import Posterior
from pyrodvae.weights import Run


def enhance_spectrum_as_published(
    x: Tensor,
    run: Run,
    algorithm: Algorithm,
    iterations: int = 100,
    seed: int = 0,
    rank: int = 8,
    each: Callable[[int], None] = lambda i: None,
) -> Posterior:
    """EM as published on each sequence of x (B, T, F), from the published start.

    The published code takes one recording at a time, and so does this: a sequence has the same result
    in any batch.

    Args:
        x: noisy spectrograms, scaled to a peak of one.
        run: model and guide.
        algorithm: settings, see :data:`~pyrodvae.as_published.ALGORITHMS`.
        iterations: of EM.
        seed: of the draws; the noise starts the same whatever the seed.
        rank: K of the noise.
        each: called with 0, 1, …, iterations − 1 as the work goes on.

    Returns:
        The same as :func:`pyrodvae.em.em`; ``speech`` has as many draws as went into the final estimate.

    Raises:
        ValueError: as of :func:`~pyrodvae.as_published.loop.separate`.
    """
    finished = itertools.count()

    def tick(now: Iteration) -> None:
        share, rest = divmod(next(finished), len(x))
        if rest == len(x) - 1:
            each(share)

    results = []
    for one in x:
        W, H = initial_noise(x.shape[-1], x.shape[-2], rank, x.real)
        draw = TorchDraw(torch.Generator(x.device).manual_seed(seed))
        results.append(separate(algorithm, run.model, run.guide, one, W, H, iterations, draw, tick))
    return _posterior(x, results)


def _posterior(x: Tensor, results: list[Separated]) -> Posterior:
    speech = torch.stack([r.mixture.gain * r.v for r in results], 1)
    noise = torch.stack([r.mixture.noise for r in results])
    x_power = torch.stack([r.mixture.x_power for r in results])
    masks = speech / (speech + noise)
    within = (masks * noise).mean(0)
    objective = torch.stack([r.loss for r in results], 1)
    means = {k: torch.stack([r.info[k] for r in results]).mean(0) for k in results[0].info}
    return Posterior(
        mean=torch.stack([r.speech for r in results]),
        variance=within + (masks.square().mean(0) - masks.mean(0).square()).clamp(min=0) * x_power,
        noise_mean=torch.stack([r.noise for r in results]),
        speech=speech,
        noise=noise,
        objective=objective,
        diagnostics=Diagnostics((Record(objective, means, 1),)),
        factors=(torch.stack([r.mixture.W for r in results]), torch.stack([r.mixture.H for r in results])),
    )
