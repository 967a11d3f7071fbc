"""Expectation-maximisation: draws of the speech by any engine, noise by multiplicative updates."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from pyrodvae.distributions import power
from pyrodvae.engines import Engine
from pyrodvae.noise import MStep
from pyrodvae.noisy import NoisySpeech
from pyrodvae.potential import Target


@dataclass(frozen=True)
class Posterior:
    """What EM found out about the speech in x (B, T, F).

    Args:
        mean: E[s | x], complex (B, T, F): the Wiener estimate, averaged over draws.
        variance: of s given x, (B, T, F): by the law of total variance, the Wiener filter's own
            within each draw plus the spread of its estimates over chains and averaged iterations.
            Noise and gain count as known in each iteration, so it tends to be too small.
        noise_mean: E[b | x] = x − mean.
        speech: the last draws of g·v, (S, B, T, F).
        noise: WH at the end, (B, T, F).
        objective: mean of log V + |x|²/V after each M-step, one number per iteration and sequence; an
            M-step never raises it, fresh draws may.
        diagnostics: what the engine reported, averaged, per iteration.
    """

    mean: Tensor
    variance: Tensor
    noise_mean: Tensor
    speech: Tensor
    noise: Tensor
    objective: Tensor
    diagnostics: dict[str, Tensor]

    def draw(self, x: Tensor) -> Tensor:
        """Draws of s, one for each last draw of z: (S, B, T, F), complex.

        With u = g v: s | x, z ~ N_c(u/(u + WH) x, u WH/(u + WH)), exact given z and the noise. Bins
        are independent in the model, so an inverse STFT keeps about hop/window of their scatter.
        """
        u, n = self.speech, self.noise
        noise = torch.view_as_complex(torch.randn(*u.shape, 2).to(u))
        return u / (u + n) * x + noise * (u * n / (u + n) / 2).sqrt()


def em(
    model: NoisySpeech,
    guide: torch.nn.Module | None,
    x: Tensor,
    engine: Engine,
    z: Tensor,
    *,
    iterations: int = 100,
    average: float = 0.5,
    each: Callable[[int], None] = lambda i: None,
) -> Posterior:
    r"""Alternate draws of z (E-step) and updates of noise and gain (M-step).

    The estimate is the Wiener filter averaged over chains and over the last iterations,

    .. math:: \hat s = \operatorname{mean}_r \frac{g v_r}{g v_r + WH} \; x,

    so one or two chains do the work of many.

    Args:
        model: its noise and gain are updated in place.
        guide: for engines that use one.
        x: noisy spectrogram (B, T, F), complex.
        engine: draws z.
        z: where the chains start, (S, B, T, D).
        iterations: of EM.
        average: the share of iterations, counted from the end, that enter the estimate.
        each: called with the number of each finished iteration.

    Source: Wei & Tanner 1990 (Monte Carlo EM); for this model Leglaive, Girin & Horaud 2018.
    """
    x_power = power(x)
    target = Target(model, guide, (x,))
    state = engine.init(target, z)
    mask = square = within = torch.zeros(())
    objective: list[Tensor] = []
    diagnostics: dict[str, list[Tensor]] = {}
    first = iterations - max(1, round(average * iterations))
    for i in range(iterations):
        state, info = engine.step(target, state)
        variance = model.speech_variance(state.z).detach()
        MStep.noise(model.noise, x_power, model.scaled(variance))
        if model.gain is not None:
            model.gain = MStep.gain(model.gain, model.noise, x_power, variance)
        speech = model.scaled(variance)
        objective.append(model.objective(x_power, speech))
        for name, value in info.items():
            diagnostics.setdefault(name, []).append(value.mean())
        if i >= first:
            m = speech / (speech + model.noise.variance)
            mask = mask + m.mean(0)
            square = square + m.square().mean(0)
            within = within + (m * model.noise.variance).mean(0)
        each(i)
    count = iterations - first
    mask, square, within = mask / count, square / count, within / count
    return Posterior(
        mean=mask * x,
        variance=within + (square - mask.square()).clamp(min=0) * x_power,
        noise_mean=(1 - mask) * x,
        speech=speech,
        noise=model.noise.variance,
        objective=torch.stack(objective),
        diagnostics={k: torch.stack(v) for k, v in diagnostics.items()},
    )
