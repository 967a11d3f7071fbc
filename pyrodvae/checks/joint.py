"""What the checks stand on: draws of z with their x, draws given x, and the numbers that are compared."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Protocol, runtime_checkable

import pyro
import torch
from pyro import poutine
from torch import Tensor

from pyrodvae.dvae import DVAE
from pyrodvae.potential import Target
from pyrodvae.program import Program, local_parameters

LEVEL = 0.001
"""How often a check may fail what is right; checks are many, and a false alarm costs a day."""

RANDOMISATIONS = 1999
"""How many outcomes under the hypothesis the observed one is compared with."""

COORDINATES = 8
"""So many entries of a path z (T, D) are looked at one by one, evenly spread."""

Functional = Callable[[Tensor, tuple[Any, ...]], dict[str, Tensor]]
"""(paths z (S, B, T, D), arguments of the model) → further numbers to compare by name, each (S, B)."""


@runtime_checkable
class Kernel(Protocol):
    """What is checked as a sampler: any :class:`~pyrodvae.engines.Engine`, or another class like it."""

    def init(self, target: Target, z: Tensor) -> Any:
        """The state before the first step, from starting points z (S, B, T, D), which are its field ``z``."""

    def step(self, target: Target, state: Any) -> tuple[Any, dict[str, Tensor]]:
        """The next state, and diagnostics."""


def is_kernel(thing: object) -> bool:
    """Whether it has ``init`` and ``step``; a class is not yet one, an object of it is."""
    return isinstance(thing, Kernel) and not isinstance(thing, type)


def called(thing: object) -> str:
    """What to call it in a sentence that refuses it."""
    return f"the class {thing.__name__}" if isinstance(thing, type) else f"a {type(thing).__name__}"


def settings(program: Any) -> AbstractContextManager[None]:
    """Our programs keep their parameters; anybody else's runs under the settings that it is called in."""
    return local_parameters() if isinstance(program, Program) else nullcontext()


@torch.no_grad()
def draw(model: Any, x: Tensor, *more: Any) -> tuple[Tensor, Tensor]:
    r"""Draw (z, x) ~ p(z) p(x | z) from a program with the sites ``z`` and ``x``, in one vectorised run.

    Args:
        model: of a mixture (:class:`~pyrodvae.noisy.NoisySpeech`), or any program whose latents do not
            depend on its argument x.
        x: whose shape, type and device matter, and whose values do not, (B, T, F).
        more: further arguments of the model.

    Returns:
        z (B, T, D) and x (B, T, F).

    Raises:
        ValueError: the model feeds x back: then its fast program reads frames that are not drawn.
    """
    if isinstance(model, DVAE) and model.feedback:
        raise ValueError(
            f"{type(model).__name__} feeds x back, so z and x are drawn in turns: "
            "take model.generate(frames, batch)."
        )
    with settings(model):
        trace = poutine.trace(poutine.uncondition(model)).get_trace(x, *more)
    return trace.nodes["z"]["value"], trace.nodes["x"]["value"]


def run(engine: Kernel, target: Target, z: Tensor, warmup: int, draws: int = 1, thin: int = 1) -> Tensor:
    """Draws of an engine from starting points z (S, B, T, D): (draws · S, B, T, D).

    The first is taken after ``warmup`` steps, and every ``thin`` steps another.
    """
    state = engine.init(target, z)
    kept = []
    for n in range(warmup + (draws - 1) * thin):
        state, _ = engine.step(target, state)
        if n + 1 >= warmup and (n + 1 - warmup) % thin == 0:
            kept.append(state.z.detach())
    return torch.cat(kept)


@torch.no_grad()
def guide_draws(guide: Any, args: tuple[Any, ...], draws: int) -> Tensor:
    """Draws of the site ``z`` of a guide, all in one run: (S, B, T, D)."""
    with settings(guide), pyro.plate("draws", draws, dim=-2):
        trace = poutine.trace(guide).get_trace(*args)
    z: Tensor = trace.nodes["z"]["value"]
    return z


@torch.no_grad()
def functionals(target: Target, z: Tensor, extra: Functional | None = None) -> tuple[list[str], Tensor]:
    r"""The numbers by which paths z (S, B, T, D) are compared.

    They are log p(x | z), log p(z), :math:`\sum_t z_t^⊤ z_{t-1}` and some entries of z. The first says
    most: a kernel or a guide may have the right marginal law of z and not heed x at all.

    Args:
        target: the model and its arguments.
        z: paths.
        extra: adds others.

    Returns:
        Their names, and their values (N, S, B).

    Raises:
        ValueError: the model has no site ``z``, or a further latent.
    """
    with pyro.validation_enabled(False):  # a path that has run away is compared like any other
        trace = poutine.trace(target.log_joint).get_trace(z)
        if "z" not in trace.nodes:
            raise ValueError("The checks look at the site 'z' of a model, and this one has none.")
        site = trace.nodes["z"]
        prior: Any = site["fn"]
        log_p_z = prior.log_prob(site["value"])
    values = {"log p(x | z)": trace.nodes["_RETURN"]["value"] - log_p_z, "log p(z)": log_p_z}
    T, D = z.shape[-2:]
    if T > 1:
        values["Σ z_t·z_{t-1}"] = (z[..., 1:, :] * z[..., :-1, :]).sum((-2, -1))
    for i in torch.linspace(0, T * D - 1, min(COORDINATES, T * D)).round().long().tolist():
        values[f"z[{i // D}, {i % D}]"] = z[..., i // D, i % D]
    values |= extra(z, target.args) if extra else {}
    return list(values), torch.stack([v.expand(z.shape[:-2]).to(z.dtype) for v in values.values()])


def check_replicates(z: Tensor, target: Target, least: int) -> None:
    """Raise a ValueError unless z is (B, T, D), B being large enough and that of x, the first argument."""
    if z.dim() != 3 or len(z) < least:
        raise ValueError(
            f"z are the paths that x was drawn from, (B, T, D) with B of at least {least} replicates; "
            f"got a tensor of shape {tuple(z.shape)}."
        )
    x = target.args[0] if target.args else None
    if isinstance(x, Tensor) and x.shape[:1] != z.shape[:1]:
        raise ValueError(
            f"Each path z is compared given the x that was drawn with it: there are {len(z)} paths, and "
            f"x has the shape {tuple(x.shape)}, where (B, T, F) begins with {len(z)}. Take both from one "
            "draw(…) or model.generate(…)."
        )


def check_level(level: float) -> None:
    """Raise a ValueError unless the randomisations can show a p-value of that size."""
    if not 1 / (RANDOMISATIONS + 1) <= level < 1:
        raise ValueError(
            f"A level is between {1 / (RANDOMISATIONS + 1):g}, the smallest p-value of "
            f"{RANDOMISATIONS} randomisations, and 1; not {level}."
        )


def p_value(observed: Tensor, null: Tensor) -> Tensor:
    """The share of outcomes (R, ...) under the hypothesis that are as large as the observed one (...).

    The observed one is counted with them, so the share is never zero.

    Source: Phipson & Smyth, *Permutation p-values should never be zero* (2010).
    """
    as_large = null >= observed - 1e-9 * observed.abs()  # equal but for rounding is equal
    return (1 + as_large.sum(0)).double() / (1 + len(null))
