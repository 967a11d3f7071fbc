"""Diagnostics: what the traces of a run say about its draws."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, field

import torch
from pyro.ops import stats
from torch import Tensor

MOST_R_HAT = 1.05
"""Above it, chains (or halves of one) disagree about where the draws are."""
LEAST_ESS = 10.0
"""With fewer effective draws, chance moves a mean by more than a third of the posterior's deviation."""
LEAST_ACCEPTANCE = 0.05
LEAST_BFMI = 0.3
"""Below it, fresh momenta change the energy so little that a chain needs long to visit all energies."""

COMPARED = ("log_joint", "speech_energy")
"""The traces of which chains are compared: an engine's, and EM's own."""


def effective_sample_size(trace: Tensor) -> Tensor:
    r"""How many independent draws would be worth as much as the correlated ones of all chains.

    .. math:: \mathrm{ESS} = \frac{S I}{1 + 2 \sum_k ρ_k}

    with the autocorrelations ρ_k summed as far as pairs of them are positive. Chains whose draws take
    turns around the mean can be worth more than independent ones; no more than SI log₁₀ SI is believed.

    Args:
        trace: a scalar (I, S, B) of I iterations, S chains and B sequences.

    Returns:
        (B,); NaN if there are fewer than four iterations, or values that are not finite; 0 if the trace
        never moves.

    Source: Geyer 1992; over chains, and the bound, Vehtari et al., *Rank-normalization, folding, and
    localization: an improved R-hat* (2021).
    """
    _check(trace)
    draws = trace[..., 0].numel()
    bound = draws * max(1.0, math.log10(draws))
    found = stats.effective_sample_size(trace.double().transpose(0, 1)) if len(trace) >= 4 else trace[0, 0]
    found = found.where(found > 0, bound).clamp(max=bound)  # a negative sum is no sum of correlations
    return _judged(trace, found, still=0.0)


def split_r_hat(trace: Tensor) -> Tensor:
    r"""How much wider the draws of all chains are than those of half a chain.

    .. math:: \hat R = \sqrt{\frac{\tfrac{n - 1}{n} W + B}{W}}

    of 2S half-chains of n draws: W is the mean of their variances, B the variance of their means. It
    tends to one as chains forget where they started, and sees the drift of a single chain as well.

    Args:
        trace: a scalar (I, S, B) of I iterations, S chains and B sequences.

    Returns:
        (B,); NaN if there are fewer than four iterations, or values that are not finite; infinite if
        the trace never moves.

    Source: Gelman et al., *Bayesian Data Analysis* (3rd ed., 2013), §11.4.
    """
    _check(trace)
    found = stats.split_gelman_rubin(trace.double().transpose(0, 1)) if len(trace) >= 4 else trace[0, 0]
    return _judged(trace, found, still=torch.inf)


def e_bfmi(energy: Tensor) -> Tensor:
    r"""How much of the spread of energies one refreshment of the momenta covers, in the worst chain.

    .. math:: \mathrm{E\text{-}BFMI} = \frac{\sum_i (E_i - E_{i-1})^2}{\sum_i (E_i - \bar E)^2}

    of the energies E = −log p(x, z) + kinetic energy of a Hamiltonian kernel. It is about one for a
    Gaussian and small for a posterior with heavy tails, which the chain then visits too rarely.

    Args:
        energy: (I, S, B) of I iterations, S chains and B sequences.

    Returns:
        (B,); NaN and 0 where :func:`effective_sample_size` is.

    Source: Betancourt, *Diagnosing suboptimal cotangent disintegrations in Hamiltonian …* (2016).
    """
    _check(energy)
    E = energy.double()
    found = E.diff(dim=0).square().sum(0) / (E - E.mean(0)).square().sum(0)
    return _judged(energy, found.amin(0), still=0.0)


def _check(trace: Tensor) -> None:
    if trace.ndim != 3 or not trace.numel():
        raise ValueError(f"A trace has the shape (iterations, chains, sequences), not {tuple(trace.shape)}.")


def _judged(trace: Tensor, found: Tensor, still: float) -> Tensor:
    """What was found, but for traces about which nothing, or too much, can be said."""
    found = found.double().where((trace != trace[0]).any(0).any(0), still)
    return found.where(trace.isfinite().all(0).all(0) & (len(trace) >= 4), torch.nan)


@dataclass(frozen=True)
class Record:
    """The scalars of one run of EM on B sequences, iteration by iteration.

    Args:
        objective: (I, B).
        info: what the engine reported in each iteration and ``speech_energy``, the mean of g·v: by name,
            (I, S, B) where it is known of every chain, (I,) where of the iteration alone; NaN where it
            was not reported.
        averaged: how many iterations, the last ones, enter the estimate.
        reported: by name, in which iterations (I,); without one, in all.
    """

    objective: Tensor
    info: dict[str, Tensor]
    averaged: int
    reported: dict[str, Tensor] = field(default_factory=dict)

    @classmethod
    def of(cls, objective: list[Tensor], info: list[dict[str, Tensor]], averaged: int) -> Record:
        """From lists over iterations: of (B,), and of what was reported by name, (S, B) or ()."""
        shapes = {name: value for reported in info for name, value in reported.items()}
        traces = {
            name: torch.stack([reported.get(name, torch.full_like(one, torch.nan)) for reported in info])
            for name, one in shapes.items()
        }
        present = {name: torch.tensor([name in one for one in info]) for name in shapes}
        return cls(torch.stack(objective), traces, averaged, present)

    def of_the_averaged(self, name: str) -> Tensor:
        """A trace in the averaged iterations in which it was reported."""
        rows = self.info[name][-self.averaged :]
        return rows[self.reported[name][-self.averaged :]] if name in self.reported else rows


@dataclass(frozen=True)
class Diagnostics:
    """What the traces say about the draws, of the iterations that enter the estimate.

    >>> from pyrodvae import EnhanceConfig, enhance, examples
    >>> result = enhance(examples.noisy(), config=EnhanceConfig(iterations=10, chains=2))
    >>> print(result.diagnostics.summary().splitlines()[0])
    averaged: 5 of 10 iterations

    EM changes the target while it is sampled: R-hat above one says that chains *or noise* have not settled.

    Args:
        records: one for each run: a recording is done in windows.
    """

    records: tuple[Record, ...]

    @classmethod
    def join(cls, parts: Iterable[Diagnostics]) -> Diagnostics:
        """Those of several runs as one."""
        return cls(tuple(record for part in parts for record in part.records))

    @property
    def objective(self) -> Tensor:
        """(I, B) with the sequences of all runs side by side; one that stopped early stays as it was."""
        return _aligned([record.objective for record in self.records])

    @property
    def names(self) -> list[str]:
        """Of the traces."""
        return list(self.records[0].info)

    def trace(self, name: str) -> Tensor:
        """A trace by its name, (I, S, B) or (I,), all runs as in :attr:`objective`.

        Raises:
            ValueError: there is none of that name.
        """
        if name not in self.names:
            raise ValueError(f"There is no trace of '{name}', only of: {', '.join(self.names)}.")
        return _aligned([record.info[name] for record in self.records])

    def ess(self, name: str) -> Tensor:
        """Effective sample size of each sequence, (B,); see :func:`effective_sample_size`."""
        return torch.cat([effective_sample_size(part) for part in self._averaged(name)])

    def r_hat(self, name: str) -> Tensor:
        """Split R-hat of each sequence, (B,); see :func:`split_r_hat`."""
        return torch.cat([split_r_hat(part) for part in self._averaged(name)])

    def acceptance(self) -> Tensor:
        """The rate of acceptance of each chain and sequence, (S, B).

        Raises:
            ValueError: the engine has none.
        """
        parts = [part.reshape(len(part), *(part.shape[1:] or (1, 1))) for part in self._averaged("accept")]
        return torch.cat([part.nanmean(0) for part in parts], -1)

    def e_bfmi(self) -> Tensor:
        """The share of the energies that fresh momenta reach, (B,); see :func:`e_bfmi`.

        Raises:
            ValueError: the engine has no momenta, or keeps them to itself as Pyro's kernels do.
        """
        return torch.cat([e_bfmi(part) for part in self._averaged("energy")])

    def unjudged(self) -> list[str]:
        """A sentence for everything that these traces leave open."""
        short = min(record.averaged for record in self.records)
        if short < 4:
            return [f"Mixing cannot be judged from {short} iterations: 4 have to enter the estimate."]
        if any(self.trace(name).shape[1] == 1 for name in self._compared()):
            return [
                "Whether the draws have settled cannot be judged from one chain: compare several (chains=4)."
            ]
        return []

    def warnings(self) -> list[str]:
        """A sentence for everything that should be better."""
        found = [sentence for name in self._compared() for sentence in self._about(name)]
        if self._reported("energy"):
            bfmi = self.e_bfmi()[self.r_hat("log_joint") <= MOST_R_HAT]  # energies that drift were told of
            if (bfmi < LEAST_BFMI).any():
                found.append(
                    f"Moves hardly change the energy (E-BFMI is {bfmi.min():.2f}, less than {LEAST_BFMI:g}), "
                    "so the tails of the posterior are seldom visited: try more iterations."
                )
        if self._reported("accept") and (self.acceptance() < LEAST_ACCEPTANCE).any():
            rate = float(self.acceptance().min())
            found.append(f"A chain accepts {rate:.1%} of its moves: try a smaller step.")
        return found

    def _about(self, name: str) -> list[str]:
        """What is wrong with the chains of one quantity."""
        what, ess, r_hat = name.replace("_", " "), self.ess(name), self.r_hat(name)
        if not all(part.isfinite().all() for part in self._averaged(name)):
            return [f"The {what} is not finite: try a smaller step."]
        if (ess == 0).any():
            return [f"The {what} of a sequence never moved, its chains are stuck: try a smaller step."]
        if self.trace(name).shape[1] == 1:  # the halves of one chain differ by much without harm
            return []
        found = []
        if (r_hat > MOST_R_HAT).any():
            found.append(
                f"Chains have not settled (split R-hat of the {what} is {r_hat.max():.2f}, more than "
                f"{MOST_R_HAT}): try more iterations."
            )
        if (ess < LEAST_ESS).any():
            found.append(
                f"The {what} has {ess.min():.1f} effective draws, fewer than {LEAST_ESS:g}: try more "
                "iterations, or more chains."
            )
        return found

    def summary(self) -> str:
        """A line for each quantity, of several sequences the worst; what cannot be judged; warnings."""
        last = self.records[-1]
        lines = [f"averaged: {last.averaged} of {len(last.objective)} iterations"]
        for name in self._compared():
            averaged = self._averaged(name)
            ess, r_hat = self.ess(name).min(), self.r_hat(name).max()
            mean = torch.cat([part.mean((0, 1)) for part in averaged]).mean()
            chains = averaged[0].shape[1]
            lines.append(
                f"{name.replace('_', ' ')}: mean {mean:.6g}, {chains} chain{'s' * (chains > 1)}, "
                f"ESS {ess:.1f}, split R-hat {r_hat:.3f}"
            )
        if self._reported("accept"):
            rate = self.acceptance()
            lines.append(f"acceptance: {rate.mean():.2f} (chains from {rate.min():.2f} to {rate.max():.2f})")
        if self._reported("energy"):
            lines.append(f"energy: E-BFMI {self.e_bfmi().min():.2f}")
        for name in self.names:
            if name not in (*COMPARED, "accept", "energy") and self._reported(name):
                at_end = torch.cat([part[-1].reshape(-1) for part in self._averaged(name)])
                lines.append(f"{name.replace('_', ' ')}: {at_end.mean():.6g} at the end")
        parts = [record.objective[-record.averaged :] for record in self.records]
        first, end = (torch.cat([part[i] for part in parts]).mean() for i in (0, -1))
        lines.append(f"objective: {first:.4f} where averaging begins, {end:.4f} at the end")
        return "\n".join(lines + self.unjudged() + self.warnings())

    def _compared(self) -> list[str]:
        """Those of :data:`COMPARED` that are known of every chain."""
        return [name for name in COMPARED if self._reported(name) and self.trace(name).ndim == 3]

    def _reported(self, name: str) -> bool:
        """Whether there is anything of it in the averaged iterations."""
        return name in self.names and any(not part.isnan().all() for part in self._averaged(name))

    def _averaged(self, name: str) -> list[Tensor]:
        self.trace(name)  # refuses a name that there is not
        return [record.of_the_averaged(name) for record in self.records]


def _aligned(traces: list[Tensor]) -> Tensor:
    """Traces side by side on the last axis; shorter ones keep their last value."""
    most = max(map(len, traces))
    full = [torch.cat([t, t[-1:].expand(most - len(t), *t.shape[1:])]) for t in traces]
    return torch.cat(full, -1) if full[0].ndim > 1 else torch.stack(full).mean(0)
