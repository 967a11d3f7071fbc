"""Metropolis-Hastings: propose, then accept or stay, jointly or wherever frames are independent."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar, Literal, NamedTuple

import torch
from torch import Tensor

from pyrodvae.engines.adaptive import Adaptive
from pyrodvae.engines.base import bounded, check
from pyrodvae.potential import Target

Score = tuple[Tensor, Tensor]
"""log p(x, z), as terms of frames (S, B, T) or in one (S, B, 1), and its gradient (S, B, T, D), if used."""

Proposal = tuple[Tensor, Score, Tensor, Tensor | None]
"""z', its score, log q(z | z') − log q(z' | z), and the kinetic energy at z, if any; both (S, B, T)."""

SLOWER = 0.6
"""Warm-up follows what it sees with weight n^{-0.6} at its n-th move."""


class MetropolisState(NamedTuple):
    """Where the chains are, and what adapts during warm-up.

    Args:
        z: draws (S, B, T, D).
        log_step: of the step of each group of frames that is accepted as one, (S, B, G).
        square: running mean of squared gradients, (B, T, D).
        moves: how many every frame has made.
    """

    z: Tensor
    log_step: Tensor
    square: Tensor
    moves: int


@dataclass(frozen=True)
class Metropolis(Adaptive):
    r"""A kernel that leaves p(z | x) unchanged: from z to a proposal z' with probability

    .. math:: \min\left(1, \frac{p(x, z')\, q(z \mid z')}{p(x, z)\, q(z' \mid z)}\right)

    **What is accepted as one.** In general it is the whole path of a sequence (G = 1). Where z_t enters
    the terms of frames t … t + r only (the target's ``reach`` r), frames r + 1 apart share none: given
    the others, the frames of such a comb are independent, so they move at once and each is accepted by
    its own terms (G = T), and the r + 1 combs take turns. For a VAE all frames are one comb; a state
    space has the odd and the even ones. In an RVAE every z_t enters every term, and accepting frame by
    frame, as published, leaves something else than the posterior unchanged.

    **Warm-up.** For so many moves the step of each group follows its rate of acceptance, log ε ← log ε +
    n^{-0.6} (rate − target), and the preconditioner M = 1/(E[G²] + 1) the squared gradients of all chains
    (E[G²] is the diagonal of a Gaussian's precision). Then both stand still: only from there on are
    draws those of one exact kernel.

    Args:
        step_size: ε at the start.
        steps: moves of every frame (or of one block) per E-step.
        warmup: so many moves of every frame adapt.
        target_accept: the rate of acceptance that warm-up aims at.
        acceptance: ``"auto"``, as above; or ``"joint"``, the whole path always.
        block: with joint acceptance, move only so many consecutive frames at a time, at a place drawn
            anew; 0 for all. A shorter block makes longer steps.

    Source: Hastings 1970; adaptation, Andrieu & Thoms 2008.
    """

    acceptance: Literal["auto", "joint"] = "auto"
    block: int = 0

    uses_gradient: ClassVar[bool] = True

    def __post_init__(self) -> None:
        super().__post_init__()
        bounded(self, 0, 1e6, "block")
        check(self, self.acceptance in ("auto", "joint"), "acceptance is 'auto' or 'joint'")
        check(self, self.acceptance == "joint" or not self.block, "a block is accepted jointly")

    @abstractmethod
    def propose(
        self, score: Callable[[Tensor], Score], z: Tensor, at_z: Score, step: Tensor, M: Tensor
    ) -> Proposal:
        """A proposal.

        Args:
            score: terms and gradient at any path; at_z: those at z.
            z: (S, B, T, D).
            step: ε for every frame, zero where it has to stay, (S, B, T, 1).
            M: preconditioner (B, T, D).
        """

    def moved(self, target: Target, state: MetropolisState, z: Tensor) -> MetropolisState:
        """Steps and preconditioner stay as they are."""
        return state._replace(z=self._ready(z))

    def init(self, target: Target, z: Tensor) -> MetropolisState:
        """Start at z."""
        S, B, T, _ = z.shape
        log_step = z.new_full((S, B, 1 if self._reach(target) is None else T), self.step_size).log()
        return MetropolisState(self._ready(z), log_step, torch.zeros_like(z[0]), 0)

    def step(self, target: Target, state: MetropolisState) -> tuple[MetropolisState, dict[str, Tensor]]:
        """Move every frame.

        ``info``, each (S, B): ``accept``, the rate; ``log_joint`` of the draws; and, where moves have
        momenta, ``energy``, −log p(x, z) + kinetic energy before the last of them.
        """
        reach = self._reach(target)
        score = self._score(target, reach)
        combs = min(1 + (reach or 0), state.z.shape[-2])
        at_z = score(state.z)
        rates: list[Tensor] = []
        for i in range(self.steps * combs):
            if i and reach and self.uses_gradient:  # that of a frame depends on what its neighbours did
                at_z = score(state.z)
            moving = self._moving(state.z, reach, i % combs)
            state, at_z, rate, energy = self._move(score, state, at_z, moving, reach)
            rates.append((rate * moving).sum(-1) / moving.sum(-1))
            state = state._replace(moves=state.moves + (i % combs == combs - 1))
        info = {"accept": torch.stack(rates).mean(0), "log_joint": at_z[0].sum(-1)}
        return state, info if energy is None else {**info, "energy": energy}

    def _move(
        self,
        score: Callable[[Tensor], Score],
        state: MetropolisState,
        at_z: Score,
        moving: Tensor,
        reach: int | None,
    ) -> tuple[MetropolisState, Score, Tensor, Tensor | None]:
        """One proposal for the frames that are moving (S, B, T), accepted or not.

        Returns:
            Where that leads, the score there, the rates (S, B, G), and the energy before (S, B), if any.
        """
        z, log_step, square, moves = state
        step = (log_step.exp() * moving)[..., None]
        there, at_there, correction, kinetic = self.propose(score, z.detach(), at_z, step, 1 / (square + 1))
        energy = None if kinetic is None else (kinetic * moving).sum(-1) - at_z[0].sum(-1)
        log_ratio = _reached(at_there[0] - at_z[0], reach) + _reached(
            correction, None if reach is None else 0
        )
        rate = log_ratio.nan_to_num(nan=-torch.inf).clamp(max=0).exp()
        accepted = torch.rand_like(rate) < rate
        touched = accepted if reach is None else _within(accepted & (moving > 0), reach)
        terms = torch.where(touched, at_there[0], at_z[0])
        gradient = torch.where(accepted[..., None], at_there[1], at_z[1])
        z = self._ready(torch.where(accepted[..., None] & (step > 0), there, z.detach()))
        if moves < self.warmup:
            weight = (moves + 1) ** -SLOWER
            log_step = log_step + weight * (rate - self.target_accept) * (1 if reach is None else moving)
            if self.uses_gradient:
                square = square + weight * (at_z[1].square().mean(0) - square)
        return MetropolisState(z, log_step, square, moves), (terms, gradient), rate, energy

    def _score(self, target: Target, reach: int | None) -> Callable[[Tensor], Score]:
        density = target.frames if reach is not None else lambda z: target.log_joint(z)[..., None]
        if self.uses_gradient:
            return lambda z: target.gradient(z, density)
        return lambda z: (torch.no_grad()(density)(z), z)

    def _reach(self, target: Target) -> int | None:
        return target.reach if self.acceptance == "auto" else None

    def _moving(self, z: Tensor, reach: int | None, comb: int) -> Tensor:
        """Which frames move, ones and zeros (S, B, T): a comb, a block, or all."""
        S, B, T, _ = z.shape
        frame = torch.arange(T, device=z.device)
        if reach:
            return (frame % (reach + 1) == comb).to(z).expand(S, B, T)
        if 0 < self.block < T:
            start = torch.randint(1 - self.block, T, (S, B, 1), device=z.device)
            return ((frame >= start) & (frame < start + self.block)).to(z)
        return z.new_ones(S, B, T)

    def _ready(self, z: Tensor) -> Tensor:
        return z.detach().requires_grad_(self.uses_gradient)


def _reached(per_frame: Tensor, reach: int | None) -> Tensor:
    """Sums over frames t … t + reach for every t, (S, B, T); over all frames for None, (S, B, 1)."""
    if reach is None:
        return per_frame.sum(-1, keepdim=True)
    return torch.nn.functional.pad(per_frame, (0, reach)).unfold(-1, reach + 1, 1).sum(-1)


def _within(moved: Tensor, reach: int) -> Tensor:
    """Which terms (S, B, T) a frame enters that has moved: those up to ``reach`` frames later."""
    return torch.nn.functional.pad(moved, (reach, 0)).unfold(-1, reach + 1, 1).any(-1)
