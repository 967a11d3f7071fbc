"""VSC: variational sparse coding, with exact zeros in the latent space."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from pyrodvae.dvae import DVAE
from pyrodvae.guide import Guide, Sees
from pyrodvae.nets import gaussian, mlp
from pyrodvae.observations import make_head
from pyrodvae.rollout import Step
from pyrodvae.spike_and_slab import SpikeAndSlab


class VSC(DVAE):
    r"""The frame-wise VAE with a spike-and-slab prior.

    .. math::
        z_{td} &\sim α\, \mathcal N(0, 1) + (1 - α)\, δ_0 \\
        x_t \mid z_t &\sim \mathcal N_c(0, \operatorname{diag} v_θ(z_t))

    The exact posterior of z_t depends on x_t alone. Engines that move z by small steps stay off the spike,
    which is a point: for them the prior is its slab.

    Args:
        observed: F. latent: D.
        hidden: size of the decoder's tanh layer; or dense: the sizes of several.
        alpha: α, how probable it is that a coordinate is not zero.
        data: kind of data, see :mod:`pyrodvae.observations`.

    Raises:
        ValueError: α is no probability between 0 and 1.

    Source: Tonolini, Jensen & Murray-Smith, *Variational Sparse Coding* (UAI 2020), with the spike and slab
    for a prior, where theirs is the encoder's at learned pseudo-inputs, held near α.
    """

    feedback: ClassVar[bool] = False
    recursive: ClassVar[bool] = False
    reach: ClassVar[int | None] = 0

    def __init__(
        self,
        observed: int = 513,
        latent: int = 32,
        hidden: int = 128,
        *,
        alpha: float = 0.5,
        dense: Sequence[int] | None = None,
        data: str = "speech",
    ) -> None:
        super().__init__(observed, latent, data)
        if not 0 < alpha < 1:
            raise ValueError(f"alpha is a probability between 0 and 1, not {alpha}.")
        self.alpha = alpha
        sizes = [latent, *([hidden] if dense is None else dense)]
        self.config |= {"alpha": alpha, "dense": sizes[1:]}
        self.decoder = mlp(sizes)
        self.head = make_head(data, sizes[-1], observed)

    def transition(self, z_prev: Tensor, x_prev: Tensor | None, memo: Any) -> Step:
        """p(z_t), from the sizes of z_{t-1} alone."""
        alpha, zeros, ones = (
            torch.full(z_prev.shape, v, dtype=z_prev.dtype, device=z_prev.device) for v in (self.alpha, 0, 1)
        )
        return SpikeAndSlab(alpha, zeros, ones, validate_args=False), memo

    def emission(self, z: Tensor, x_prev: Tensor | None, memo: Any) -> Step:
        """p(x_t | z_t)."""
        return self.head(self.decoder(z)), memo


class VSCGuide(Guide):
    r"""The encoder of the VSC's paper: spike and slab, too.

    .. math:: q(z_{td} \mid x_t) = π_d(x_t)\, \mathcal N(μ_d(x_t), σ_d^2(x_t)) + (1 - π_d(x_t))\, δ_0

    Args:
        model: the VSC. sees: what the paper lets it see, x_t.
        hidden: size of the tanh layer; or before: the sizes of several.

    Source: as :class:`VSC`.
    """

    def __init__(
        self, model: DVAE, sees: Sees, hidden: int = 128, *, before: Sequence[int] | None = None
    ) -> None:
        super().__init__(model, sees)
        sizes = [model.observed, *([hidden] if before is None else before)]
        self.config = {"before": sizes[1:]}
        self.dense = mlp(sizes)
        self.output = nn.Linear(sizes[-1], 3 * model.latent)

    def context(self, x: Tensor, lengths: Tensor | None, shared: Any) -> Tensor:
        """Logits of π, means and log-variances, side by side."""
        parameters: Tensor = self.output(self.dense(self.read(x)))
        return parameters

    def conditional(self, z_prev: Tensor, context: Tensor | None, memo: Any) -> Step:
        """q(z_t | x_t) on a window."""
        assert context is not None
        logits, parameters = context.tensor_split([context.shape[-1] // 3], -1)
        slab: Any = gaussian(parameters)
        return SpikeAndSlab(logits.sigmoid(), slab.loc, slab.scale, validate_args=False), memo
