"""Real-valued sequences to try models on: a pendulum, the Lorenz system, a linear oscillator."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor

from pyrodvae import kalman
from pyrodvae.kalman import LinearGaussian
from pyrodvae.settings import check_seed

INNER = 10
"""Steps of integration in a frame."""


def pendulum(
    sequences: int,
    frames: int,
    seed: int = 0,
    *,
    step: float = 0.1,
    damping: float = 0.1,
    kicks: float = 0.5,
    noise: float = 0.1,
    observe: Literal["sincos", "position"] = "sincos",
) -> Tensor:
    r"""A pendulum of one metre, damped and kicked at random, seen through noise.

    .. math::
        \mathrm d\dot θ = -(g \sin θ + c \dot θ)\, \mathrm d t + σ\, \mathrm d W, \qquad
        x_t = (\sin θ_t, \cos θ_t) + ρ ε_t

    It starts at θ uniform in [-2, 2] and a speed of N(0, 1), so swings are wide and their period
    depends on how wide. The kicks make the future uncertain, the more so the further ahead.

    Args:
        sequences, frames: N and T.
        seed: of starts, kicks and noise.
        step: seconds between frames.
        damping: c, per second.
        kicks: σ, in rad/s per root of a second.
        noise: ρ.
        observe: ``"sincos"`` (F = 2), or ``"position"`` for sin θ alone (F = 1), the same below the
            pivot and above it.

    Returns:
        (N, T, F), of 32 bits.

    Raises:
        ValueError: a count below one, a number out of range, or another kind of observation.
    """
    _check_counts(sequences, frames, seed)
    _check_positive(step=step)
    _check_not_negative(damping=damping, kicks=kicks, noise=noise)
    if observe not in ("sincos", "position"):
        raise ValueError(f"A pendulum is observed by 'sincos' or 'position', not '{observe}'.")
    rng = torch.Generator().manual_seed(seed)
    angle = 4 * torch.rand(sequences, generator=rng, dtype=torch.double) - 2
    speed = _normal(rng, sequences)
    dt, path = step / INNER, []
    for _ in range(frames):
        path.append(angle)
        for _ in range(INNER):  # semi-implicit Euler: the energy does not drift
            push = -(9.81 * angle.sin() + damping * speed) * dt
            speed = speed + push + kicks * math.sqrt(dt) * _normal(rng, sequences)
            angle = angle + speed * dt
    angles = torch.stack(path, 1)
    seen = [angles.sin(), angles.cos()] if observe == "sincos" else [angles.sin()]
    x = torch.stack(seen, -1)
    return (x + noise * _normal(rng, *x.shape)).float()


def lorenz(sequences: int, frames: int, seed: int = 0, *, step: float = 0.05, noise: float = 0.5) -> Tensor:
    r"""The Lorenz system on its attractor, seen through noise.

    .. math::
        \dot u = 10 (v - u), \quad \dot v = u (28 - w) - v, \quad \dot w = u v - \tfrac83 w, \qquad
        x_t = (u, v, w)_t + ρ ε_t

    Nothing is random but start and noise; what is not known of the state grows about e-fold in
    1.1 units of time, so a forecast is good for a few units.

    Args:
        sequences, frames: N and T.
        seed: of starts and noise.
        step: time between frames.
        noise: ρ; the coordinates themselves spread over about 8.

    Returns:
        (N, T, 3), of 32 bits.

    Raises:
        ValueError: a count below one, or a number out of range.

    Source: Lorenz, *Deterministic Nonperiodic Flow* (1963).
    """
    _check_counts(sequences, frames, seed)
    _check_positive(step=step)
    _check_not_negative(noise=noise)
    rng = torch.Generator().manual_seed(seed)

    def flow(s: Tensor) -> Tensor:
        u, v, w = s.unbind(-1)
        return torch.stack([10 * (v - u), u * (28 - w) - v, u * v - 8 / 3 * w], -1)

    state = _normal(rng, sequences, 3) + torch.tensor([0.0, 0.0, 25.0], dtype=torch.double)
    for _ in range(1000):  # ten units of time: onto the attractor
        state = _runge_kutta(flow, state, 0.01)
    path = []
    for _ in range(frames):
        path.append(state)
        for _ in range(INNER):
            state = _runge_kutta(flow, state, step / INNER)
    x = torch.stack(path, 1)
    return (x + noise * _normal(rng, *x.shape)).float()


def oscillator(
    sequences: int,
    frames: int,
    seed: int = 0,
    *,
    period: float = 20.0,
    decay: float = 0.98,
    kicks: float = 0.2,
    noise: float = 0.5,
) -> tuple[Tensor, LinearGaussian]:
    r"""A linear oscillator, kicked at random and seen through noise, and its exact model.

    .. math::
        z_t = ρ \begin{pmatrix} \cos ω & -\sin ω \\ \sin ω & \cos ω \end{pmatrix} z_{t-1} + q\, η_t,
        \qquad x_t = (1, 0)\, z_t + r\, ε_t, \qquad ω = 2π / \text{period}

    It starts in its stationary law N(0, q²/(1 - ρ²) I). As all of it is linear and Gaussian,
    :mod:`pyrodvae.kalman` knows its posterior, its evidence and its forecast.

    Args:
        sequences, frames: N and T.
        seed: of everything.
        period: in frames.
        decay: ρ, between 0 and 1.
        kicks, noise: q and r.

    Returns:
        x (N, T, 1) and the model it was drawn from, of 64 bits as exact inference wants.

    Raises:
        ValueError: a count below one, or a number out of range.
    """
    _check_counts(sequences, frames, seed)
    _check_positive(period=period, kicks=kicks, noise=noise)
    if not 0 <= decay < 1:
        raise ValueError(f"The decay is from 0 to below 1, not {decay}.")
    ω, one = 2 * math.pi / period, torch.eye(2, dtype=torch.double)
    turn = torch.tensor([[math.cos(ω), -math.sin(ω)], [math.sin(ω), math.cos(ω)]], dtype=torch.double)
    model = LinearGaussian(
        A=decay * turn,
        Q=kicks**2 * one,
        B=one[:1],
        R=noise**2 * one[:1, :1],
        m1=torch.zeros(2, dtype=torch.double),
        P1=kicks**2 / (1 - decay**2) * one,
    )
    rng = torch.Generator().manual_seed(seed)
    # A posterior that has seen nothing is the prior.
    nothing = torch.zeros(frames, dtype=torch.bool)
    z = kalman.sample(model, torch.zeros(frames, 1, dtype=torch.double), sequences, nothing, rng)
    return z[..., :1] + noise * _normal(rng, sequences, frames, 1), model


def _runge_kutta(flow: Callable[[Tensor], Tensor], s: Tensor, dt: float) -> Tensor:
    """The classical step of order four."""
    a = flow(s)
    b = flow(s + dt / 2 * a)
    c = flow(s + dt / 2 * b)
    return s + dt / 6 * (a + 2 * b + 2 * c + flow(s + dt * c))


def _normal(rng: torch.Generator, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=rng, dtype=torch.double)


def _check_counts(sequences: int, frames: int, seed: int) -> None:
    for name, count in {"sequences": sequences, "frames": frames}.items():
        if count < 1 or count % 1:
            raise ValueError(f"{name} is a whole number of at least one, not {count}.")
    check_seed(seed)


def _check_positive(**numbers: float) -> None:
    for name, number in numbers.items():
        if not 0 < number < math.inf:
            raise ValueError(f"{name} must be more than 0, not {number}.")


def _check_not_negative(**numbers: float) -> None:
    for name, number in numbers.items():
        if not 0 <= number < math.inf:
            raise ValueError(f"{name} cannot be negative: {number}.")
