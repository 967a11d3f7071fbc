"""A dynamical VAE whose memories are attention."""

from __future__ import annotations

from typing import Any, ClassVar, NamedTuple

from torch import Tensor, nn

from pyrodvae.attention import AttentionMemory, AttentionSummary, Cache
from pyrodvae.dvae import DVAE
from pyrodvae.guide import Guide, Sees
from pyrodvae.nets import gaussian
from pyrodvae.observations import make_head
from pyrodvae.rollout import Step


class Past(NamedTuple):
    """What the attention of the prior and that of the emission have read so far."""

    prior: Cache | None = None
    emission: Cache | None = None


class TransformerDVAE(DVAE):
    r"""The attentive dynamical VAE: prior and emission read the latent path by causal self-attention.

    .. math::
        z_t \mid z_{<t} &\sim \mathcal N(μ_θ(a_t), \operatorname{diag} σ_θ^2(a_t)),
            & a_t &= \mathrm{Attention}(z_0, \dots, z_{t-1}) \\
        x_t \mid z_{\le t} &\sim \mathcal N_c(0, \operatorname{diag} v_θ(b_t)),
            & b_t &= \mathrm{Attention}(z_1, \dots, z_t)

    with z_0 = 0. Nothing of x feeds back, so it enhances as it is. The exact posterior of z_t depends
    on z_{<t} and on x_{t:T}.

    Args:
        observed: F. latent: D. hidden: H, the width of the blocks.
        blocks, heads: of both, as of :class:`~pyrodvae.attention.AttentionMemory`.
        data: kind of data, see :mod:`pyrodvae.observations`.

    Source: Vaswani et al., *Attention is all you need* (2017); for dynamical VAEs, Bie et al.,
    *HiT-DVAE* (2022), whose further latent and feedback are left out.
    """

    feedback: ClassVar[bool] = False

    def __init__(
        self,
        observed: int = 513,
        latent: int = 16,
        hidden: int = 128,
        *,
        blocks: int = 2,
        heads: int = 4,
        data: str = "speech",
    ) -> None:
        super().__init__(observed, latent, data)
        self.config |= {"hidden": hidden, "blocks": blocks, "heads": heads}
        self.past = AttentionMemory(latent, hidden, blocks, heads)
        self.drift = nn.Linear(hidden, 2 * latent)
        self.decoder = AttentionMemory(latent, hidden, blocks, heads)
        self.head = make_head(data, hidden, observed)

    def transition(self, z_prev: Tensor, x_prev: Tensor | None, memo: Past | None) -> Step:
        """p(z_t | z_{<t})."""
        memo = memo or Past()
        a, cache = self.past(z_prev, memo.prior)
        return gaussian(self.drift(a)), memo._replace(prior=cache)

    def emission(self, z: Tensor, x_prev: Tensor | None, memo: Past) -> Step:
        """p(x_t | z_{≤t})."""
        b, cache = self.decoder(z, memo.emission)
        return self.head(b), memo._replace(emission=cache)


class TransformerGuide(Guide):
    r"""Attention in both directions over x, and causal attention over the latents drawn so far.

    .. math::
        q(z_t \mid z_{<t}, x_{1:T}) = \mathcal N(μ(e_t), \operatorname{diag} σ^2(e_t)), \quad
        e_t = \tanh(A\, \mathrm{Attention}(x_{1:T})_t + B\, \mathrm{Attention}(z_{<t})_t + c)

    Args:
        model: whose latent it infers. sees: what it conditions on.
        hidden, blocks, heads: as of :class:`TransformerDVAE`.
    """

    def __init__(
        self, model: DVAE, sees: Sees, hidden: int = 128, *, blocks: int = 2, heads: int = 4
    ) -> None:
        super().__init__(model, sees)
        self.config = {"hidden": hidden, "blocks": blocks, "heads": heads}
        self.summary = AttentionSummary(model.observed, hidden, blocks, heads)
        self.past = AttentionMemory(model.latent, hidden, blocks, heads)
        self.from_x = nn.Linear(hidden, hidden)
        self.from_z = nn.Linear(hidden, hidden, bias=False)
        self.head = nn.Linear(hidden, 2 * model.latent)

    def context(self, x: Tensor, lengths: Tensor | None, shared: Any) -> Tensor:
        """The part of x in e_t, which needs no loop over frames."""
        context: Tensor = self.from_x(self.summary(self.read(x), lengths))
        return context

    def conditional(self, z_prev: Tensor, context: Tensor | None, memo: Any) -> Step:
        """q(z_t | z_{<t}, x_{1:T}) on a window; the memo is the cache of z_{<t}."""
        assert context is not None
        a, memo = self.past(z_prev, memo)
        return gaussian(self.head((context + self.from_z(a)).tanh())), memo
