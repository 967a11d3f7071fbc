"""SDM-RVAE: the sparse dictionary model in the latent space of a recurrent VAE."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from pyro.distributions import TorchDistribution
from torch import Tensor

from pyrodvae.dictionaries import DictionaryKey
from pyrodvae.models.sparse import SparseDVAE
from pyrodvae.nets import Summary, mlp
from pyrodvae.observations import make_head


class SDMRVAE(SparseDVAE):
    r"""The non-causal recurrent VAE with few atoms in each frame: every frame sees all codes.

    .. math::
        a_t \mid γ_t &\sim \mathcal N(0, \operatorname{diag} γ_t), \qquad z_t = D a_t \\
        h_t &= [\overrightarrow{\mathrm{LSTM}}(z_{1:t}), \overleftarrow{\mathrm{LSTM}}(z_{t:T})] \\
        x_t \mid a_{1:T} &\sim \mathcal N_c(0, \operatorname{diag} v_θ(h_t))

    The exact posterior of a_t depends on a_{<t} and on all of x_{1:T}, as the RVAE's.

    Args:
        observed: F. latent: m, the size of the code. hidden: H of each direction. layers: of the LSTM.
        before, after: sizes of dense tanh layers on either side of it.
        atoms, dictionary, hyper, data: as of :class:`~pyrodvae.models.sparse.SparseDVAE`.

    Source: the prior of Sadeghi & Magron (Interspeech 2022) in the model of Leglaive et al. (ICASSP 2020).
    """

    causal: ClassVar[bool] = False

    def __init__(
        self,
        observed: int = 513,
        latent: int = 16,
        hidden: int = 128,
        *,
        atoms: int | None = None,
        dictionary: DictionaryKey = "dct",
        hyper: Sequence[float] | None = None,
        layers: int = 1,
        before: Sequence[int] = (),
        after: Sequence[int] = (),
        data: str = "speech",
    ) -> None:
        super().__init__(observed, latent, atoms, dictionary, hyper, data)
        self.config |= {"hidden": hidden, "layers": layers, "before": [*before], "after": [*after]}
        self.dense = mlp([latent, *before])
        self.memory = Summary([latent, *before][-1], hidden, "both", layers)
        self.decoder = mlp([self.memory.size, *after])
        self.head = make_head(data, [self.memory.size, *after][-1], observed)

    def decode(self, code: Tensor, lengths: Tensor | None) -> TorchDistribution:
        """p(x_t | z_{1:T})."""
        p_x: TorchDistribution = self.head(self.decoder(self.memory(self.dense(code), lengths)))
        return p_x
