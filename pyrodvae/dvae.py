"""The abstract dynamical VAE: two conditionals, and the two programs derived from them."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import Any, ClassVar

import pyro
import torch
from pyro.distributions import TorchDistribution
from torch import Tensor

from pyrodvae.energies import Energies
from pyrodvae.lips import LipReader, check_video, look_at
from pyrodvae.nets import frame_mask, shift
from pyrodvae.observations import DATA, Features, Head, check_data
from pyrodvae.program import Program
from pyrodvae.rollout import Rollout, Step, select_frames

Video = Tensor | Sequence[Tensor] | None
"""Video (B, T, V), or frame by frame, each (B, 1, V)."""

BATCH = "batch"
"""Name of the plate over independent sequences."""

SEGMENT = "w"
"""Name of the site of what a whole sequence shares, in the models that have such a latent."""


class DVAE(Program):
    r"""A dynamical variational autoencoder, given by its two conditionals.

    .. math:: p(x_{1:T}, z_{1:T}) = \prod_t p(z_t \mid z_{<t}, x_{<t})\; p(x_t \mid z_{\le t}, x_{<t})

    (x_t given all of z_{1:T} where :attr:`causal` is False).

    A model declares :meth:`transition` and :meth:`emission` once, each as a map on a window of L
    consecutive frames that carries a memory. Two Pyro programs follow:

    * :meth:`steps`: sites ``z_0, x_0, z_1, …`` frame by frame (L = 1), for graphs, teaching and
      generation;
    * :meth:`forward`: sites ``z`` (event (T, D)) and ``x`` (event (T, F)) in one pass (L = T), for
      everything that must be fast.

    Args:
        observed: F, the size of a frame of x.
        latent: D, the size of a frame of z.
        data: what a frame of x is, see :mod:`pyrodvae.observations`.

    Source: Girin et al., *Dynamical Variational Autoencoders: A Comprehensive Review* (2021), §4.
    """

    causal: ClassVar[bool] = True
    """False: x_t sees all of z_{1:T}; then the emission runs once over all frames, and gets the
    lengths (B,) of the sequences (or None) in place of a memo."""
    feedback: ClassVar[bool] = True
    """Whether the conditionals look at x_{<t}; where they do not, ``x_prev`` is None."""
    recursive: ClassVar[bool] = True
    """Whether z_t looks at z_{<t}; where it does not, one window draws all frames."""
    reach: ClassVar[int | None] = None
    """How many later frames have conditionals that z_t enters: 0 if frames are independent, 1 in a state
    space; None if any may. With it kernels know which frames may be accepted on their own."""
    segment: int = 0
    """W, the size of the segment latent w that :meth:`begin` samples; 0 where there is none."""
    video: int = 0
    """V, the size of a frame of the video v that the conditionals are given; 0 where they see none."""

    prior_share: ClassVar[float] = 0.0
    """Share of the objective that is the bound with the prior for a guide, unless training is told another;
    see :class:`~pyrodvae.objective.Prior`."""

    energies: Energies | None = None
    """How a guide finds the energies γ of the latents, where the prior has any and they are not known."""

    speech: ClassVar[bool] = True
    """Whether it can model spectra; where it cannot, it is for real vectors alone."""

    z_0: Tensor

    def __init__(self, observed: int, latent: int, data: str = "speech") -> None:
        super().__init__()
        check_data(data)
        self.observed = observed
        self.latent = latent
        self.data = data
        self.config: dict[str, Any] = {"observed": observed, "latent": latent, "data": data}
        self.register_buffer("z_0", torch.zeros(latent), persistent=False)

    @abstractmethod
    def transition(self, z_prev: Tensor, x_prev: Tensor | None, memo: Any) -> Step:
        """p(z_t | z_<t, x_<t) on a window.

        Args:
            z_prev: z_{t-1} for the frames of the window, (..., L, D); zeros before the first.
            x_prev: x_{t-1} likewise, (..., L, F).
            memo: what earlier windows left behind; None at the start.

        Returns:
            A distribution with batch (..., L) and event (D,), and the memo, which goes to the
            emission on the same window and from there to the next window.
        """

    @abstractmethod
    def emission(self, z: Tensor, x_prev: Tensor | None, memo: Any) -> Step:
        """p(x_t | z_≤t, x_<t) on a window: z (..., L, D) → batch (..., L), event (F,); and the memo."""

    def begin(self, batch: int, v: Video = None) -> Any:
        """Sample what a whole sequence shares, inside the plate; it is the memo of the first window.

        A model that is given video reads it here, so that whatever networks read it run once for all
        frames and all draws.
        """
        return None

    def fit_statistics(self, x: Tensor, v: Tensor | None = None) -> None:
        """Take what is to be known before training (scales, means) from x (..., F) and video v (..., V)."""
        fit_statistics(self, x, v)

    def prior(self, x: Tensor, lengths: Tensor | None = None, memo: Any = None) -> Rollout:
        """p(z_{1:T} | x_{<T}) for the sequences x (B, T, F): a path (B, T, D).

        Args:
            x, lengths: as of :meth:`forward`.
            memo: what :meth:`begin` returned.

        Raises:
            ValueError: no memo, where there is a segment latent or video.
        """
        if self.shares and memo is None:
            given = "w" if self.segment else "v"
            raise ValueError(f"z is drawn given {given}: call model.prior(x, lengths, model.begin(…)).")
        return Rollout(
            self.transition,
            self.z_0,
            x.shape[-2],
            context=shift(x, self.blank()) if self.feedback else None,
            mask=None if lengths is None else frame_mask(lengths, x.shape[-2]),
            batch_shape=x.shape[:-2],
            recursive=self.recursive,
            memo=memo,
        )

    def likelihood(
        self, z: Tensor, x: Tensor, prior: Rollout, lengths: Tensor | None = None
    ) -> TorchDistribution:
        """p(x_t | z, x_<t) for all frames at once: batch (..., T), event (F,).

        Args:
            z: a path (..., T, D).
            x: the sequences (B, T, F); only x_{<t} is used, and only where it feeds back.
            prior: what :meth:`prior` returned; the memo of its pass along z goes to the emission.
        """
        if not self.causal:
            return self.emission(z, None, lengths)[0]
        if self.recursive or self.feedback or self.shares:
            prior.along(z)
        return self.emission(z, shift(x, self.blank()) if self.feedback else None, prior.memo)[0]

    def forward(self, x: Tensor, lengths: Tensor | None = None, v: Tensor | None = None) -> Tensor:
        """The fast program: sites ``z`` and ``x``, one each for all frames.

        Args:
            x: observed sequences (B, T, F).
            lengths: (B,), where sequences of different length are padded to T.
            v: video (B, T, V) for a model that is given one, see :mod:`pyrodvae.lips`.

        Returns:
            The latent path (..., B, T, D).
        """
        check_sequences(x, self.observed)
        check_video(v, self.video, *x.shape[:2])
        with pyro.plate(BATCH, len(x), dim=-1):
            prior = self.prior(x, lengths, self.begin(len(x), *given(v)))
            z: Tensor = pyro.sample("z", prior)
            p_x = self.likelihood(z, x, prior, lengths)
            pyro.sample("x", over_frames(p_x, lengths), obs=x)
        return z

    def steps(
        self,
        x: Tensor | None = None,
        *,
        frames: int | None = None,
        batch: int = 1,
        v: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """The frame-by-frame program: sites ``z_0, x_0, z_1, …`` (z first where it is non-causal).

        Frames of video are sites ``v_0, v_1, …`` before them, observed and of no density: they are given.

        Args:
            x: observed sequences (B, T, F); None draws them.
            frames, batch: T and B, where x is drawn; with x and more frames than it has, the rest is
                drawn: a forecast.
            v: video (B, T, V) for a model that is given one; it says T and B, too.

        Returns:
            The paths z (B, T, D) and x (B, T, F).
        """
        if x is not None:
            check_sequences(x, self.observed)
            batch, frames = len(x), max(frames or 0, x.shape[1])
        elif v is not None:
            batch, frames = v.shape[:2]
        if frames is None:
            raise ValueError("steps() needs either x (B, T, F) or frames=T to draw.")
        check_video(v, self.video, batch, frames)
        z_t = self.z_0.expand(batch, 1, -1)
        x_t = self.before_first(batch, 1) if self.feedback else None
        zs: list[Tensor] = []
        xs: list[Tensor] = []

        def observe(t: int, p_x: TorchDistribution) -> Tensor:
            obs = x[:, t : t + 1] if x is not None and t < x.shape[1] else None
            # The returned value goes on: x itself would lose the arrows out of x_t in the graph.
            value: Tensor = pyro.sample(f"x_{t}", p_x.to_event(1), obs=obs)
            xs.append(value)
            return value

        with pyro.plate(BATCH, batch, dim=-1):
            memo = self.begin(batch, *given(None if v is None else look_at(v)))
            for t in range(frames):
                p_z, memo = self.transition(z_t, x_t, memo)
                z_t = pyro.sample(f"z_{t}", p_z.to_event(1))
                zs.append(z_t)
                if self.causal:
                    p_x, memo = self.emission(z_t, x_t, memo)
                    value = observe(t, p_x)
                    x_t = value if self.feedback else None
            if not self.causal:
                p_x, _ = self.emission(torch.cat(zs, -2), None, None)
                for t in range(frames):
                    observe(t, select_frames(p_x, slice(t, t + 1)))
        return torch.cat(zs, -2), torch.cat(xs, -2)

    def blank(self) -> Tensor | None:
        """x_0, the frame before the first, (F,), see :meth:`Features.blank`; None for zeros."""
        features = next((m for m in self.modules() if isinstance(m, Features)), None)
        return None if features is None else features.blank()

    def before_first(self, *shape: int) -> Tensor:
        """x_0 as frames (*shape, F), complex where x is."""
        dtype = self.z_0.dtype.to_complex() if DATA[self.data][0].is_complex else self.z_0.dtype
        x_0 = self.blank()
        if x_0 is None:
            return torch.zeros(*shape, self.observed, dtype=dtype, device=self.z_0.device)
        return x_0.to(dtype).expand(*shape, -1)

    @property
    def shares(self) -> bool:
        """Whether frames have something in common that :meth:`begin` has to provide."""
        return self.segment > 0 or self.video > 0

    def drawable(self) -> DVAE:
        """This model; or where it cannot be drawn from as it is, one of the same structure that can."""
        return self

    @torch.no_grad()
    def generate(self, frames: int, batch: int = 1, v: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Draw (z, x) from the model, frame by frame: (B, T, D) and (B, T, F); for video v (B, T, V)."""
        return self.steps(frames=frames, batch=batch, v=v)


def fit_statistics(program: Program, x: Tensor, v: Tensor | None = None) -> None:
    """Fit whatever in a program reads or writes data to training data x (..., F) and v (..., V)."""
    for module in program.modules():
        if isinstance(module, Features | Head):
            module.fit(x)
        elif isinstance(module, LipReader) and v is not None:
            module.fit(v)


def given(v: Any) -> tuple[Any, ...]:
    """The last argument of what may be given video: there where that is."""
    return () if v is None else (v,)


def over_frames(p_x: TorchDistribution, lengths: Tensor | None) -> TorchDistribution:
    """Per-frame conditionals as one site of event (T, F); padded frames do not count."""
    if lengths is not None:
        p_x = p_x.mask(frame_mask(lengths, p_x.batch_shape[-1]))
    return p_x.to_event(1)


def check_sequences(x: Tensor, size: int) -> None:
    """Raise a ValueError unless x is (B, T, F) with F = size and T ≥ 1."""
    if x.dim() != 3 or x.shape[-1] != size or x.shape[-2] < 1:
        raise ValueError(
            f"The model reads sequences (B, T, F) with F = {size} and at least one frame; "
            f"got a tensor of shape {tuple(x.shape)}."
        )
