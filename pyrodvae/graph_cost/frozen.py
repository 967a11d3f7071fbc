"""Guides of several sights, each trained beside one trained model that stands still."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from functools import partial
from types import MappingProxyType
from typing import Any

import torch

from pyrodvae.dvae import DVAE
from pyrodvae.guide import Guide
from pyrodvae.guides import GUIDES, make_guide
from pyrodvae.nets import frame_mask
from pyrodvae.objective import Batch, terms
from pyrodvae.weights import Run

CLIP = 5.0
"""Largest norm of the gradient."""
BETWEEN = 10
"""Steps from one report to the next."""


def guides_beside(
    run: Run,
    batches: Callable[[], Iterable[Batch]],
    steps: int = 500,
    keys: Iterable[str] = tuple(GUIDES),
    *,
    learning_rate: float = 3e-3,
    sizes: Mapping[str, Any] = MappingProxyType({}),
    seed: int = 0,
    each: Callable[[str, int], None] = lambda key, step: None,
) -> dict[str, Run]:
    r"""The model of a run with a new guide of every key, all trained for as many steps on the same batches.

    .. math:: \max_φ\; E_{q_φ(z | x)}[\log p_θ(x, z) - \log q_φ(z | x)], \qquad θ \text{ as it is}

    Since θ is the same for all, what :func:`~pyrodvae.graph_cost.trained_cost` then finds between them is
    owed to the guides alone: what each looks at, and how well its network learns that in so many steps.

    Args:
        run: a trained one; neither its model nor its guide changes.
        batches: gives an epoch of (x (B, T, F), lengths); it is called again when that is used up.
        steps: of Adam on each guide, its rate rising and falling in one cycle.
        keys: of :data:`~pyrodvae.guides.GUIDES`.
        learning_rate: the peak of the cycle.
        sizes: of the guides, ``{"hidden": 128}``.
        seed: of weights and draws; the state of torch's own chance is kept.
        each: called with a key and how many steps have been made, from time to time.

    Raises:
        ValueError: less than one step, or a guide that does not fit the model.
    """
    if steps < 1:
        raise ValueError(f"Train for one step or more, not {steps}.")
    model = copy.deepcopy(run.model).requires_grad_(False)
    found = {}
    for key in keys:
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            guide = make_guide(model, key, **sizes)
            _train(model, guide, batches, steps, learning_rate, partial(each, key))
        found[key] = replace(run, model=model, guide=guide.requires_grad_(False))
    return found


def _train(
    model: DVAE,
    guide: Guide,
    batches: Callable[[], Iterable[Batch]],
    steps: int,
    learning_rate: float,
    each: Callable[[int], None],
) -> None:
    """Train a guide in place; a step whose gradient is not finite is left out."""
    moving = [p for p in guide.parameters() if p.requires_grad]  # it may read a network of the model's, too
    if not moving:  # the guide of a Kalman model computes with the model's own numbers
        return each(steps)
    optimiser = torch.optim.Adam(moving, learning_rate)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, learning_rate, total_steps=steps)
    step = 0
    while step < steps:
        for x, lengths, *_ in batches():
            if not step:
                guide.fit_statistics(x if lengths is None else x[frame_mask(lengths, x.shape[1])])
            log_p, kl = terms(model, guide, x, lengths)
            optimiser.zero_grad()
            ((kl - log_p).sum() / x.shape[:2].numel()).backward()
            if math.isfinite(torch.nn.utils.clip_grad_norm_(moving, CLIP)):
                optimiser.step()
            schedule.step()
            step += 1
            if step % BETWEEN == 0 or step == steps:
                each(step)
            if step == steps:
                break
