"""SDM-VAE: every frame a sparse combination of a dictionary's atoms."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from pyro.distributions import TorchDistribution
from torch import Tensor

from pyrodvae.dictionaries import DictionaryKey
from pyrodvae.models.sparse import SparseDVAE
from pyrodvae.nets import mlp
from pyrodvae.observations import make_head


class SDMVAE(SparseDVAE):
    r"""The VAE with a sparsity-promoting dictionary model: frames on their own, few atoms in each.

    .. math::
        a_t \mid γ_t &\sim \mathcal N(0, \operatorname{diag} γ_t) \\
        x_t \mid a_t &\sim \mathcal N_c(0, \operatorname{diag} v_θ(D a_t))

    At the best γ, KL(q ‖ p) = ½ Σ log(1 + μ²/σ²). Given γ, the exact posterior of a_t depends on x_t alone.

    Args:
        observed: F. latent: m, the size of the code.
        hidden: size of the decoder's tanh layer; or dense: the sizes of several.
        atoms, dictionary, hyper, data: as of :class:`~pyrodvae.models.sparse.SparseDVAE`.

    Source: Sadeghi & Magron (Interspeech 2022).
    """

    reach: ClassVar[int | None] = 0

    def __init__(
        self,
        observed: int = 513,
        latent: int = 32,
        hidden: int = 128,
        *,
        atoms: int | None = None,
        dictionary: DictionaryKey = "dct",
        hyper: Sequence[float] | None = None,
        dense: Sequence[int] | None = None,
        data: str = "speech",
    ) -> None:
        super().__init__(observed, latent, atoms, dictionary, hyper, data)
        sizes = [latent, *([hidden] if dense is None else dense)]
        self.config |= {"dense": sizes[1:]}
        self.decoder = mlp(sizes)
        self.head = make_head(data, sizes[-1], observed)

    def decode(self, code: Tensor, lengths: Tensor | None) -> TorchDistribution:
        """p(x_t | z_t)."""
        p_x: TorchDistribution = self.head(self.decoder(code))
        return p_x
