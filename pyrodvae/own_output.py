"""A model with feedback that hears only itself."""

from __future__ import annotations

from typing import Any, ClassVar, NamedTuple

from pyro.distributions import TorchDistribution
from torch import Tensor

from pyrodvae.dvae import DVAE, Video, given
from pyrodvae.rollout import Step, join_frames


class Past(NamedTuple):
    """What a model on its own carries along.

    Args:
        memo: the model's.
        frame: what stands for x_{t-1} at the last frame t that the model has seen, (..., L = 1, F); or,
            once its emission has been asked, for x_t.
        asked: whether it has.
        said: p(x_t) of the frames of the last window, except the last one.
    """

    memo: Any
    frame: Tensor
    asked: bool
    said: list[TorchDistribution]


class OwnOutput(DVAE):
    r"""A model with feedback that reads, in place of the frames, what its own decoder said of them.

    .. math:: p(x_{1:T}, z_{1:T}) =
        \prod_t p_θ(z_t \mid z_{<t}, \hat x_{<t})\; p_θ(x_t \mid z_{\le t}, \hat x_{<t}), \qquad
        |\hat x_t|^2 = v_{θ,t}(z_{\le t}, \hat x_{<t})

    (:math:`\hat x_t` is the mean, for real data). That is another model than the one it is made of:
    nothing of x feeds back, z_t depends on z_{<t}, x_t on z_{1:t}, and each frame has to wait for the
    one before. The exact posterior of z_t depends on z_{<t} and x_{t:T}. Gradients in z are whole.

    Args:
        model: whose conditionals it uses, parameters and all.

    Raises:
        ValueError: the model is not causal.

    Source: Bie, Leglaive, Alameda-Pineda & Girin, *Unsupervised Speech Enhancement Using Dynamical
    Variational Autoencoders* (2022), where SRNN does so.
    """

    feedback: ClassVar[bool] = False

    def __init__(self, model: DVAE) -> None:
        super().__init__(model.observed, model.latent, model.data)
        if not model.causal:
            raise ValueError(f"{type(model).__name__} is not causal: it has no frame before the others.")
        self.model = model
        self.segment, self.video = model.segment, model.video
        self.register_buffer("z_0", model.z_0.clone(), persistent=False)  # of its type, on its device

    def begin(self, batch: int, v: Video = None) -> Past:
        """What the model samples for a whole sequence."""
        return Past(self.model.begin(batch, *given(v)), self.before_first(batch, 1), True, [])

    def transition(self, z_prev: Tensor, x_prev: Tensor | None, memo: Past | None) -> Step:
        """p(z_t | z_{<t}); frame by frame, so p(x_t | z_{≤t}) comes out along with it."""
        _, frame, asked, _ = memo or (None, self.before_first(*z_prev.shape[:-2], 1), True, [])
        inner = None if memo is None else memo.memo
        p_z: list[TorchDistribution] = []
        p_x: list[TorchDistribution] = []
        for z in z_prev.split(1, -2):
            if not asked:
                said, inner = self.model.emission(z, frame, inner)
                frame = stand_in(said, frame)
                p_x.append(said)
            drawn, inner = self.model.transition(z, frame, inner)
            p_z.append(drawn)
            asked = False
        return join_frames(p_z), Past(inner, frame, False, p_x[len(p_x) - len(p_z) + 1 :])

    def emission(self, z: Tensor, x_prev: Tensor | None, memo: Past) -> Step:
        """p(x_t | z_{≤t}); of all frames but the last, the transition has said it already."""
        last, inner = self.model.emission(z[..., -1:, :], memo.frame, memo.memo)
        return join_frames([*memo.said, last]), Past(inner, stand_in(last, memo.frame), True, [])


def stand_in(p_x: TorchDistribution, like: Tensor) -> Tensor:
    """The frame that stands for one of which only p(x) is known: √v, of power v, or the mean."""
    if like.is_complex():
        return p_x.variance.sqrt().to(like.dtype)
    mean: Tensor = p_x.mean
    return mean
