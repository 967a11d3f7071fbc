"""AV-VAE: every frame on its own, given a picture of the lips."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

from torch import Tensor, nn

from pyrodvae.dvae import DVAE, Video
from pyrodvae.guide import RecurrentGuide, Sees
from pyrodvae.lips import LipReader, Lips, Reader
from pyrodvae.nets import gaussian, join, mlp
from pyrodvae.observations import make_head
from pyrodvae.rollout import Step


class AVVAE(DVAE):
    r"""The conditional VAE of speech, given lips.

    .. math::
        z_t \mid v_t &\sim \mathcal N(μ_θ(v_t), \operatorname{diag} σ_θ^2(v_t)) \\
        x_t \mid z_t, v_t &\sim \mathcal N_c(0, \operatorname{diag} v_θ(z_t, v_t))

    The exact posterior of z_t depends on x_t and v_t. It is trained by a bound that is partly the one
    with the prior for a guide (``prior_share``, see :class:`~pyrodvae.objective.Prior`): else the guide
    sees all that it needs in x_t, and the prior learns nothing from lips.

    Args:
        observed: F. latent: D.
        hidden: size of the decoder's tanh layers, of z and of both; or dense and mixed: the sizes of those
            on z, and of those on the two together.
        video: V, the size of a picture; reader, embedding: kind of the two lip readers (the prior's and
            the decoder's), and E, the size of what they say; see :mod:`pyrodvae.lips`.
        data: kind of data, see :mod:`pyrodvae.observations`.

    Source: Sadeghi, Leglaive, Alameda-Pineda, Girin & Horaud, *Audio-visual Speech Enhancement Using
    Conditional Variational Auto-Encoders* (2020), eq. 17-22.
    """

    feedback: ClassVar[bool] = False
    recursive: ClassVar[bool] = False
    reach: ClassVar[int | None] = 0
    prior_share: ClassVar[float] = 0.1

    def __init__(
        self,
        observed: int = 513,
        latent: int = 16,
        hidden: int = 128,
        *,
        dense: Sequence[int] | None = None,
        mixed: Sequence[int] | None = None,
        video: int = 1024,
        reader: Reader = "conv",
        embedding: int = 64,
        data: str = "speech",
    ) -> None:
        super().__init__(observed, latent, data)
        self.video = video
        sizes = [latent, *([hidden] if dense is None else dense)]
        both = [sizes[-1] + embedding, *([hidden] if mixed is None else mixed)]
        self.config |= {"dense": sizes[1:], "mixed": both[1:]}
        self.config |= {"video": video, "reader": reader, "embedding": embedding}
        self.prior_lips = LipReader(video, embedding, reader)
        self.drift = nn.Linear(embedding, 2 * latent)
        self.lips = LipReader(video, embedding, reader)
        self.decoder = mlp(sizes)
        self.mix = mlp(both)
        self.head = make_head(data, both[-1], observed)

    def begin(self, batch: int, v: Video = None) -> Lips:
        """Read the lips, for the prior and for the decoder."""
        return Lips.read(self.prior_lips, v)._replace(state=Lips.read(self.lips, v))

    def transition(self, z_prev: Tensor, x_prev: Tensor | None, memo: Lips) -> Step:
        """p(z_t | v_t)."""
        frames = z_prev.shape[-2]
        memo = memo.take(frames)._replace(state=memo.state.take(frames))
        parameters = self.drift(memo.now)
        return gaussian(parameters.expand(*z_prev.shape[:-1], -1)), memo

    def emission(self, z: Tensor, x_prev: Tensor | None, memo: Lips) -> Step:
        """p(x_t | z_t, v_t)."""
        return self.head(self.mix(join(self.decoder(z), memo.state.now))), memo


class AVGuide(RecurrentGuide):
    r"""The encoder of the audio-visual VAE: one layer on x_t, a lip reader on v_t, one layer on both.

    .. math:: q(z_t \mid x_t, v_t) = \mathcal N(μ(g_t), \operatorname{diag} σ^2(g_t)), \quad
        g_t = \tanh(W [\tanh(U x_t), e(v_t)])

    Args:
        model: the AV-VAE. sees: what the paper lets it see.
        hidden: size of both layers, unless ``after`` gives that of the second.
        after, reader, embedding: as of :class:`~pyrodvae.guide.RecurrentGuide`.

    Source: as of the model.
    """

    def __init__(
        self,
        model: DVAE,
        sees: Sees,
        hidden: int = 128,
        *,
        after: Sequence[int] | None = None,
        reader: Reader = "conv",
        embedding: int = 64,
    ) -> None:
        after = [hidden] if after is None else after
        super().__init__(model, sees, hidden, after=after, reader=reader, embedding=embedding)
        self.config: dict[str, Any] = {
            "hidden": hidden,
            "after": [*after],
            "reader": reader,
            "embedding": embedding,
        }
