"""What the mixtures of audio and video have in common: a coin for every frame says what it is made of."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, ClassVar, NamedTuple

import pyro
import torch
from pyro import poutine
from pyro.distributions import Bernoulli, TorchDistribution
from pyro.ops.provenance import detach_provenance
from torch import Tensor

from pyrodvae.distributions import DiagonalNormal
from pyrodvae.dvae import BATCH, DVAE, Video, check_sequences
from pyrodvae.either import Either, Two, choose
from pyrodvae.lips import check_video, seen
from pyrodvae.nets import frame_mask
from pyrodvae.rollout import Step

CERTAIN = 1e20
"""Log-odds of what is known: no likelihood outweighs them, and yet zero times them is zero."""
FRAMES = "frames"
"""Name of the plate over frames, in the programs with a coin for each of them."""
CHOICE = "alpha"
"""Name of the site of the coins, and of those of single frames, ``alpha_0, alpha_1, …``."""


class Coins(NamedTuple):
    """What the windows of a mixture hand on.

    Args:
        log_odds: log p(α_t = 1) / p(α_t = 0), (..., T); or frame by frame, each (..., 1), in the program
            in which the coins are sites.
        parts: what each part remembers.
        end: how many frames have been taken.
        now: the odds of the window at hand, (..., L).
        p_z: p(z_t | α_t, v_t) of the window at hand.
        alpha: its coins, where they are sites.
    """

    log_odds: Any
    parts: Two[Any]
    end: int = 0
    now: Tensor | None = None
    p_z: Two[TorchDistribution] | None = None
    alpha: Tensor | None = None


class AVMixture(DVAE):
    r"""Speech whose every frame is either heard alone or heard and seen.

    .. math::
        α_t &\sim \mathrm{Bern}(π) \\
        z_t \mid α_t, v_t &\sim p_{α_t}(z_t \mid v_t) \\
        x_t \mid z_t, α_t, v_t &\sim p_{α_t}(x_t \mid z_t, v_t)

    Frames are independent given v. Three programs follow:

    * ``steps``: sites ``v_t, alpha_t, z_t, x_t``, for graphs and generation;
    * :meth:`choices`: sites ``alpha``, ``z`` and ``x`` in plates over sequences and frames, for Pyro's
      ``TraceEnum_ELBO``;
    * ``forward``: α summed out, sites ``z`` and ``x`` as of any model, for every engine:
      p(z_t) is a mixture, and p(x_t | z_t) = Σ_α p(α | z_t) p_α(x_t | z_t).

    Where a picture is missing α_t = 1: that it is missing is known, as lengths are, and no variable.

    A mixture declares :meth:`read`, :meth:`priors`, :meth:`decode` and, for training, how it weighs the
    two readings, :meth:`weigh`.
    """

    feedback: ClassVar[bool] = False
    recursive: ClassVar[bool] = False
    reach: ClassVar[int | None] = 0

    log_odds: Tensor
    """log π / (1 - π), ()."""
    trust: float = 0.0
    """In lips, in noise: nats per bin; see :class:`~pyrodvae.noisy_mixture.NoisyMixture`."""

    @abstractmethod
    def read(self, batch: int, v: Video) -> Two[Any]:
        """What each part reads of the video."""

    @abstractmethod
    def priors(self, z_prev: Two[Tensor], parts: Two[Any]) -> tuple[Two[TorchDistribution], Two[Any]]:
        """p(z_t | α_t, v_t) for both α on a window, which z_prev (..., L, D) gives the shape of."""

    @abstractmethod
    def decode(self, z: Two[Tensor], parts: Two[Any]) -> Two[TorchDistribution]:
        """p(x_t | z_t, α_t, v_t) for both α on a window, from the z (..., L, D) of each."""

    @abstractmethod
    def weigh(self, costs: Two[Tensor], log_odds: Tensor) -> tuple[Two[Tensor], Tensor]:
        r"""How training weighs the two readings of a frame.

        Args:
            costs: J of each, KL − log p(x | z), (B, T). log_odds: of α, (B, T).

        Returns:
            The weights r, and what the coin costs, (B, T): training minimises Σ_α r(α) J(α) + that.
        """

    # --- what a latent is: one for both readings here, one for each in OwnLatents

    def split(self, z: Tensor) -> Two[Tensor]:
        """The z (..., D) that each part reads."""
        return Two(z, z)

    def given(self, alpha: Tensor, coins: Coins) -> TorchDistribution:
        """p(z_t | α_t, v_t)."""
        assert coins.p_z is not None
        return choose(alpha, coins.p_z)

    def marginal(self, coins: Coins) -> TorchDistribution:
        """p(z_t | v_t)."""
        assert coins.p_z is not None
        assert coins.now is not None
        return Either(coins.now, coins.p_z)

    def ratio(self, z: Tensor, coins: Coins) -> Tensor:
        """log p(z_t | α_t = 1, v_t) / p(z_t | α_t = 0, v_t), (..., L): what z says of α."""
        assert coins.p_z is not None
        return coins.p_z.audio.log_prob(z) - coins.p_z.visual.log_prob(z)

    # --- the programs

    def begin(self, batch: int, v: Video = None) -> Coins:
        """Read the video.

        Raises:
            ValueError: there is none.
        """
        if v is None:
            raise ValueError("This model is given video: call model.begin(B, v).")
        if isinstance(v, Tensor):
            return Coins(self._odds(v), self.read(batch, v))
        return Coins(tuple(self._odds(v_t) for v_t in v), self.read(batch, v))

    def _odds(self, v: Tensor) -> Tensor:
        there = seen(detach_provenance(v))
        return torch.where(there, self.log_odds, CERTAIN)

    def window(self, z_prev: Tensor, coins: Coins) -> Coins:
        """With the next frames at hand, as many as z_prev (..., L, ·) has."""
        end = coins.end + z_prev.shape[-2]
        odds = coins.log_odds
        now = odds[..., coins.end : end] if isinstance(odds, Tensor) else torch.cat(odds[coins.end : end], -1)
        p_z, parts = self.priors(self.split(z_prev), coins.parts)
        return coins._replace(parts=parts, end=end, now=now, p_z=p_z)

    def transition(self, z_prev: Tensor, x_prev: Tensor | None, memo: Coins) -> Step:
        """p(z_t | v_t); or, frame by frame, p(z_t | α_t, v_t) after a draw of α_t."""
        coins = self.window(z_prev, memo)
        if isinstance(coins.log_odds, Tensor):
            return self.marginal(coins), coins
        assert coins.now is not None
        alpha: Tensor = pyro.sample(f"{CHOICE}_{memo.end}", coin(coins.now).to_event(1))
        return self.given(alpha, coins), coins._replace(alpha=alpha)

    def emission(self, z: Tensor, x_prev: Tensor | None, memo: Coins) -> Step:
        """p(x_t | z_t, v_t); or, frame by frame, p(x_t | z_t, α_t, v_t)."""
        p_x = self.decode(self.split(z), memo.parts)
        if memo.alpha is not None:
            return choose(memo.alpha, p_x), memo
        if p_x.audio is p_x.visual:
            return p_x.audio, memo
        assert memo.now is not None
        return Either(memo.now + self.ratio(z, memo), p_x), memo

    def choices(self, x: Tensor, lengths: Tensor | None = None, v: Tensor | None = None) -> Tensor:
        """The program with a coin for every frame: ``alpha``, ``z`` (event (D,)) and ``x`` (event (F,)).

        Plates ``"batch"`` (dim -2) and ``"frames"`` (dim -1), and α marked for enumeration::

            TraceEnum_ELBO(max_plate_nesting=2)(model.choices, guide.choices)  # r(α) of the guide
            TraceEnum_ELBO(max_plate_nesting=2)(model.choices, guide)          # Σ_α in the model: tighter

        The second guide samples ``z`` alone.

        Args:
            x, lengths, v: as of ``forward``.

        Returns:
            z (..., B, T, D).
        """
        check_sequences(x, self.observed)
        check_video(v, self.video, *x.shape[:2])
        coins = self.window(self.z_0.expand(*x.shape[:2], -1), self.begin(len(x), v))
        assert coins.now is not None
        with plates(x, lengths):
            alpha = pyro.sample(CHOICE, coin(coins.now), infer={"enumerate": "parallel"})
            z: Tensor = pyro.sample("z", self.given(alpha, coins))
            pyro.sample("x", choose(alpha, self.decode(self.split(z), coins.parts)), obs=x)
        return z


def coin(log_odds: Tensor) -> TorchDistribution:
    """A Bernoulli variable of these log-odds."""
    return Bernoulli(logits=log_odds, validate_args=False)


@contextmanager
def plates(x: Tensor, lengths: Tensor | None) -> Iterator[None]:
    """Those over the sequences and the frames of x (B, T, F); padded frames do not count."""
    B, T, _ = x.shape
    mask: Any = True if lengths is None else frame_mask(lengths, T)
    with pyro.plate(BATCH, B, dim=-2), pyro.plate(FRAMES, T, dim=-1), poutine.mask(mask=mask):
        yield


class OwnLatents(AVMixture):
    r"""The same law of speech, with a latent for each reading of a frame, whichever is drawn.

    .. math::
        z_t = (a_t, b_t), \quad a_t \sim p_1(z_t), \quad b_t \sim p_0(z_t \mid v_t), \quad
        α_t \sim \mathrm{Bern}(π), \qquad
        x_t \mid z_t, α_t, v_t \sim \begin{cases} p_1(x_t \mid a_t) & α_t = 1 \\
        p_0(x_t \mid b_t, v_t) & α_t = 0 \end{cases}

    With one z for both, its posterior has a peak for each reading, and no gradient leads from one to the
    other. Here each reading has its own place to be right in, so p(x | v) is the same, and p(z) a Gaussian.

    Args:
        model: whose conditionals it uses, parameters and all.

    Source: Carlin & Chib, *Bayesian model choice via Markov chain Monte Carlo methods* (1995), with the
    priors for pseudo-priors.
    """

    def __init__(self, model: AVMixture) -> None:
        super().__init__(model.observed, 2 * model.latent, model.data)
        self.model = model
        self.video, self.trust = model.video, model.trust
        self.register_buffer("z_0", model.z_0.repeat(2), persistent=False)  # of its type, on its device

    @property
    def log_odds(self) -> Tensor:  # type: ignore[override]
        """That of the model."""
        return self.model.log_odds

    def read(self, batch: int, v: Video) -> Two[Any]:
        """As the model."""
        return self.model.read(batch, v)

    def priors(self, z_prev: Two[Tensor], parts: Two[Any]) -> tuple[Two[TorchDistribution], Two[Any]]:
        """As the model."""
        return self.model.priors(z_prev, parts)

    def decode(self, z: Two[Tensor], parts: Two[Any]) -> Two[TorchDistribution]:
        """As the model."""
        return self.model.decode(z, parts)

    def weigh(self, costs: Two[Tensor], log_odds: Tensor) -> tuple[Two[Tensor], Tensor]:
        """As the model."""
        return self.model.weigh(costs, log_odds)

    def split(self, z: Tensor) -> Two[Tensor]:
        """The halves of z."""
        return Two(*z.chunk(2, -1))

    def given(self, alpha: Tensor, coins: Coins) -> TorchDistribution:
        """Both latents are drawn, whatever α is."""
        return self.marginal(coins)

    def marginal(self, coins: Coins) -> TorchDistribution:
        """p(a_t) p(b_t | v_t)."""
        assert coins.p_z is not None
        return side_by_side(coins.p_z)

    def ratio(self, z: Tensor, coins: Coins) -> Tensor:
        """Zero: z says nothing of α."""
        assert coins.now is not None
        return torch.zeros_like(coins.now)


def side_by_side(of: Two[TorchDistribution]) -> TorchDistribution:
    """Two independent diagonal Gaussians, events (D,), as one of event (2D,)."""
    loc, deviation = (
        torch.cat([*parts], -1) for parts in zip(*((d.mean, d.stddev) for d in of), strict=True)
    )
    return DiagonalNormal(loc, deviation, validate_args=False)
