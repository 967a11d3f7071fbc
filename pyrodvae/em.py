"""Expectation-maximisation: draws of the speech by any engine, noise by multiplicative updates."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Tensor

from pyrodvae.diagnostics import Diagnostics, Record
from pyrodvae.distributions import power
from pyrodvae.engines import Engine
from pyrodvae.noise import PLAIN, Memory, MStep, NMFNoise
from pyrodvae.noisy import NoisySpeech
from pyrodvae.posterior import ESTIMATES, EstimateKey, Fit, Posterior
from pyrodvae.potential import Target
from pyrodvae.watch import Watch, settled

__all__ = ["EMState", "Posterior", "em"]


class EMState(NamedTuple):
    """Where EM stands, besides noise and gain, which the model holds.

    Args:
        engine: the engine's own state.
        memory: that of the M-step.
        watch: what is remembered in case the speech is lost.
    """

    engine: Any
    memory: Memory
    watch: Watch


@dataclass
class _Traces:
    """What is recorded of each iteration."""

    objective: list[Tensor] = field(default_factory=list)
    info: list[dict[str, Tensor]] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)

    def add(self, fit: Fit, info: dict[str, Tensor], warnings: list[str]) -> None:
        """One more iteration."""
        self.objective.append(fit.objective)
        self.info.append({**info, "speech_energy": fit.speech.mean((-2, -1))})
        self.warnings += warnings

    def diagnostics(self, averaged: int) -> Diagnostics:
        """What they say, if so many iterations entered the estimate."""
        return Diagnostics((Record.of(self.objective, self.info, averaged),))


def em(
    model: NoisySpeech,
    guide: torch.nn.Module | None,
    x: Tensor,
    engine: Engine,
    z: Tensor,
    *,
    iterations: int = 100,
    average: float = 0.5,
    estimate: EstimateKey = "mask",
    m_step: MStep = PLAIN,
    tolerance: float = 0.0,
    state: EMState | None = None,
    each: Callable[[int], None] = lambda i: None,
) -> Posterior:
    r"""Alternate draws of z (E-step) and updates of noise and gain (M-step).

    The estimate is the Wiener filter averaged over chains and over the last iterations,

    .. math:: \hat s = \operatorname{mean}_r \frac{g v_r}{g v_r + WH} \; x,

    so one or two chains do the work of many. A sequence whose speech vanishes, or whose objective
    rises or becomes no number, goes back to its best noise, gain and draws; the result says so.

    Args:
        model: its noise and gain are updated in place.
        guide: for engines that use one.
        x: noisy spectrogram (B, T, F), complex.
        engine: draws z.
        z: where the chains start, (S, B, T, D).
        iterations: of EM.
        average: the share of iterations, counted from the end, that enter the estimate.
        estimate: ``"mask"`` for the mean of masks, ``"precision"`` for the mean of precisions; see
            :mod:`pyrodvae.posterior`.
        m_step: ``Multiplicative(kappa=0.7)`` averages over the draws of all iterations.
        tolerance: the relative change of the smoothed objective (see :func:`~pyrodvae.watch.settled`)
            with which the noise counts as found: then the iterations of the estimate begin, with their
            share of all. Zero for never.
        state: of an earlier result, to go on from with the model it left; z is then not read. The
            estimate is made of the new iterations alone.
        each: called with the number of each finished iteration.

    Raises:
        ValueError: the noise is random, so there is no W and H to maximise over.

    Source: Wei & Tanner 1990 (Monte Carlo EM); for this model Leglaive, Girin & Horaud 2018.
    """
    if not isinstance(model.noise, NMFNoise):
        raise ValueError(
            f"EM finds one W and H, and {type(model.noise).__name__} draws them: give the model an NMFNoise."
        )
    if engine.pointwise and not model.bounded:
        raise ValueError(
            f"{engine} makes point estimates, and where the energies γ of a sparse model follow them the "
            "density is unbounded: choose an engine that draws."
        )
    x_power = power(x)
    target = Target(model, guide, (x,), reach=model.reach)
    state = state or EMState(engine.init(target, z), m_step.init(), Watch.begin(model, z))
    gathered, traces = ESTIMATES[estimate](), _Traces()
    shares: list[Tensor] = []
    first, last = iterations - max(1, round(average * iterations)), iterations
    i = 0
    while i < last:
        moved, info = engine.step(target, state.engine)
        state, fit, sentences = _maximise(
            model, target, x_power, engine, m_step, state._replace(engine=moved)
        )
        traces.add(fit, info, sentences)
        if i >= first:
            gathered.add(fit)
            if model.responsibility is not None:
                shares.append(model.responsibility)
        each(i)
        i += 1
        if i == last or (first and i >= first):  # the noise is as it is: only the estimate is left to do
            continue
        if settled(traces.objective[engine.burn_in :], tolerance):
            first, last = (i, round(i * last / first)) if first else (0, i)
    mask, variance = gathered.moments(x)
    return Posterior(
        mean=mask * x,
        variance=variance,
        noise_mean=(1 - mask) * x,
        speech=fit.speech,
        noise=fit.noise,
        objective=torch.stack(traces.objective),
        diagnostics=traces.diagnostics(last - first),
        warnings=tuple(traces.warnings),
        state=state,
        approximation=model.approximation,
        factors=(model.noise.W.clone(), model.noise.H.clone()),
        responsibility=torch.stack(shares).mean(0) if shares else None,
    )


def _maximise(
    model: NoisySpeech, target: Target, x_power: Tensor, engine: Engine, m_step: MStep, state: EMState
) -> tuple[EMState, Fit, list[str]]:
    """The M-step on the engine's new draws, watched: what was lost goes back to the best it has been."""
    z, watch = state.engine.z, state.watch
    variance = model.speech_variance(z).detach()
    model.gain, memory = m_step.step(model.noise, model.gain, x_power, variance, state.memory)
    watch.hold(model)
    found = Fit.of(x_power, model.scaled(variance), model.noise.variance)
    watch, sentences = watch.look(found)
    if watch.lost.any():
        z = watch.turn_back(model, z)
        state = state._replace(engine=engine.moved(target, state.engine, z))
        variance = model.speech_variance(z).detach()
        found = Fit.of(x_power, model.scaled(variance), model.noise.variance)
    else:
        watch = watch.keep(found, model, z)
    model.refresh(x_power, found.speech)
    model.refine(z)
    return EMState(state.engine, memory, watch), found, sentences
