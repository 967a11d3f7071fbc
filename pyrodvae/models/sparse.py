"""Sparse latents: what the models have in common whose codes are few atoms of a dictionary."""

from __future__ import annotations

import copy
from abc import abstractmethod
from collections.abc import Sequence
from typing import Any, ClassVar

import pyro
import torch
from pyro.distributions import TorchDistribution
from torch import Size, Tensor

from pyrodvae.dictionaries import DictionaryKey, make_dictionary
from pyrodvae.distributions import DiagonalNormal
from pyrodvae.dvae import DVAE, Video
from pyrodvae.energies import ENERGIES, FLOOR, Energies, FreeEnergies, InverseGammaEnergies
from pyrodvae.nets import frame_mask
from pyrodvae.rollout import Rollout, Step


class SparseDVAE(DVAE):
    r"""A dynamical VAE whose latent path is one of coefficients with an energy each.

    .. math::
        a_{tn} \mid γ_{tn} &\sim \mathcal N(0, γ_{tn}), \qquad n = 1, \dots, N \\
        z_t &= D a_t \\
        x_t \mid z &\sim p_θ(x_t \mid z)

    The site ``z`` is the path a (B, T, N), since that is what is inferred; the code D a is between it and
    the networks. Many energies are best near zero (automatic relevance determination): so a is sparse.

    The energies are a site ``γ`` (B, T, N) of their own, of which every guide says the best value in
    closed form; see :mod:`pyrodvae.energies`. So a step of ``SVI`` is one of alternating updates: the guide
    draws a, γ follows from its moments, then all networks take a gradient step. Where the energies are known
    (:meth:`given`), there is no such site, and the model is a dynamical VAE like any other.

    Args:
        observed: F.
        latent: m, the size of the code z.
        atoms: N, the size of the path a; m unless given.
        dictionary: ``"identity"``, ``"dct"`` (over-complete where N > m) or ``"learned"``.
        hyper: shape and rate of an inverse-Gamma on γ; None believes nothing of it.
        data: kind of data, see :mod:`pyrodvae.observations`.

    Raises:
        ValueError: no such dictionary; or without ``hyper``, the model is drawn from though no energies are
            given.

    Source: Sadeghi & Magron, *A Sparsity-promoting Dictionary Model for Variational Autoencoders*
    (Interspeech 2022).
    """

    feedback: ClassVar[bool] = False
    recursive: ClassVar[bool] = False

    known: Tensor | None = None
    """γ where it is known: (N,), (T, N) or (B, T, N)."""

    def __init__(
        self,
        observed: int,
        latent: int,
        atoms: int | None,
        dictionary: DictionaryKey,
        hyper: Sequence[float] | None,
        data: str,
    ) -> None:
        atoms = latent if atoms is None else atoms
        super().__init__(observed, atoms, data)
        self.config |= {"latent": latent, "atoms": atoms, "dictionary": dictionary, "hyper": hyper}
        self.dictionary = make_dictionary(dictionary, latent, atoms)
        self.law: Energies = FreeEnergies() if hyper is None else InverseGammaEnergies(*hyper)

    @abstractmethod
    def decode(self, code: Tensor, lengths: Tensor | None) -> TorchDistribution:
        """p(x_t | z) of codes z (..., T, m): batch (..., T), event (F,)."""

    @property
    def energies(self) -> Energies | None:  # type: ignore[override]
        """What a guide needs to say γ; None where it is known."""
        return self.law if self.known is None else None

    def given(self, energies: Tensor) -> SparseDVAE:
        """The same model, parameters and all, with its energies known: (N,), (T, N) or (B, T, N).

        Raises:
            ValueError: of another size; or not all positive.
        """
        if energies.shape[-1:] != (self.latent,) or not bool((energies > 0).all()):
            raise ValueError(
                f"Energies are positive, one for each of N = {self.latent} coefficients, (B, T, N); got a "
                f"tensor of shape {tuple(energies.shape)} with least value {float(energies.min()):.3g}."
            )
        other = copy.copy(self)
        other.known = energies.detach()
        return other

    def drawable(self) -> SparseDVAE:
        """Itself where it can be drawn from, else with all energies one."""
        free = self.known is None and isinstance(self.law, FreeEnergies)
        return self.given(torch.ones_like(self.z_0)) if free else self

    def refined(self, a: Tensor, rate: float) -> SparseDVAE:
        """The M-step of γ: part of the way from the known to the best for draws a (S, B, T, N).

        .. math:: γ \\leftarrow (1 - ρ)\\, γ + ρ\\, γ_{\\text{best}}(\\operatorname{mean}_r a_r^2)

        Args:
            a: draws. rate: ρ; 1 forgets what was known.
        """
        best = self.law.best(a.detach().square().mean(0)).clamp(min=FLOOR)
        return self.given(best if self.known is None else self.known + rate * (best - self.known))

    def begin(self, batch: int, v: Video = None) -> int:
        """How many frames there have been."""
        return 0

    def prior(self, x: Tensor, lengths: Tensor | None = None, memo: Any = None) -> Rollout:
        """p(a_{1:T} | γ), and the site of γ unless it is known; the memo is not looked at."""
        shape = Size((*x.shape[:-1], self.latent))
        if self.known is None:
            mask = None if lengths is None else frame_mask(lengths, x.shape[-2])
            energies = pyro.sample(ENERGIES, self.law.prior(shape, mask, self.z_0))
        else:
            energies = self.known.to(self.z_0).expand(shape)
        return super().prior(x, lengths, energies)

    def transition(self, z_prev: Tensor, x_prev: Tensor | None, memo: Any) -> Step:
        """p(a_t | γ_t); the memo is γ of the frames to come, or their number so far."""
        if isinstance(memo, Tensor):
            energies, memo = memo.tensor_split([z_prev.shape[-2]], -2)
        else:
            energies, memo = self._frame(memo or 0, z_prev.shape), (memo or 0) + 1
        # Of sizes alone, so that no value of z leaks into its own prior.
        zeros = torch.zeros(z_prev.shape, dtype=energies.dtype, device=energies.device)
        return DiagonalNormal(zeros, energies.sqrt().expand(z_prev.shape), validate_args=False), memo

    def emission(self, z: Tensor, x_prev: Tensor | None, memo: Any) -> Step:
        """p(x_t | D a), the lengths in the memo where the model is not causal."""
        return self.decode(self.dictionary(z), None if self.causal else memo), memo

    def _frame(self, t: int, shape: Size) -> Tensor:
        """γ of frame t alone, (B, 1, N)."""
        if self.known is None:
            energies: Tensor = pyro.sample(f"{ENERGIES}_{t}", self.law.prior(shape, None, self.z_0))
            return energies
        known = self.known.to(self.z_0)
        if known.dim() == 1:
            return known
        if t >= known.shape[-2]:
            raise ValueError(
                f"The energies γ are known for {known.shape[-2]} frames, and frame {t} is asked for."
            )
        return known[..., t : t + 1, :]
