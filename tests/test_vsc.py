"""Latents with zeros: spike and slab, two Gaussians, and a selector."""

from __future__ import annotations

import math

import pytest
import torch
from pyro.distributions import TorchDistribution
from torch import Tensor
from torch.distributions import kl_divergence
from toys import B, D, F, H, T, errors, spectra

from pyrodvae.distributions import DiagonalNormal
from pyrodvae.guide import Sees
from pyrodvae.models.selector import SelectorVAE
from pyrodvae.models.two_gaussians import TwoGaussians, TwoGaussianVAE
from pyrodvae.models.vsc import VSC, VSCGuide
from pyrodvae.objective import terms
from pyrodvae.program import local_parameters
from pyrodvae.spike_and_slab import SpikeAndSlab

N = 4


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)
    with local_parameters():
        yield


def spiked(probability: float | None = None) -> SpikeAndSlab:
    p = torch.rand(N).double() * 0.8 + 0.1 if probability is None else torch.full((N,), probability).double()
    return SpikeAndSlab(p, torch.randn(N).double(), torch.rand(N).double() + 0.3)


def two_gaussians(alpha: float = 0.3, narrow: float = 0.2) -> TwoGaussians:
    return TwoGaussians(torch.full((N,), alpha).double(), torch.full((N,), narrow).double())


def gaussian() -> DiagonalNormal:
    return DiagonalNormal(torch.randn(N).double(), torch.rand(N).double() + 0.3)


def sampled_kl(q: TorchDistribution, p: TorchDistribution) -> Tensor:
    z = q.rsample((20_000,))
    return q.log_prob(z) - p.log_prob(z)


def test_divergences_are_means_of_log_ratios() -> None:
    pairs = [(spiked(), spiked()), (gaussian(), spiked()), (gaussian(), two_gaussians())]
    for q, p in pairs:
        assert errors(sampled_kl(q, p), kl_divergence(q, p)) < 5
        other = spiked(0.2) if isinstance(p, SpikeAndSlab) else two_gaussians(0.7)
        assert errors(sampled_kl(q, p), kl_divergence(q, other)) > 5
        assert kl_divergence(q, p) > 0
    one = spiked()
    assert kl_divergence(one, one).abs() < 1e-12


def test_draws_have_the_moments_and_the_zeros_that_are_claimed() -> None:
    for d in (spiked(), two_gaussians()):
        z = d.rsample((20_000,))
        assert errors(z, d.mean) < 5
        assert errors((z - d.mean).square(), d.variance) < 5
        assert errors((z - d.mean).square(), 1.2 * d.variance) > 5
    q = spiked()
    zeros = (q.rsample((20_000,)) == 0).double()
    assert errors(zeros, 1 - q.probability) < 5
    assert errors(zeros, q.probability) > 5


def test_densities_are_normalised() -> None:
    z = torch.linspace(-12, 12, 20_001).double()[:, None]
    z = torch.where(z == 0, 1e-9, z)
    for d, spike in ((spiked(), True), (two_gaussians(), False)):
        continuous = torch.stack(
            [
                torch.trapezoid(type(d)(*(p[i : i + 1] for p in _parts(d))).log_prob(z).exp(), z[:, 0])
                for i in range(N)
            ]
        )
        total = continuous + (1 - d.probability if spike else 0)
        torch.testing.assert_close(total, torch.ones(N).double(), rtol=1e-6, atol=0)
        if spike:
            assert (continuous < 0.95).all()  # the control: the slab alone is not


def _parts(d: TorchDistribution) -> list[Tensor]:
    return [getattr(d, name) for name in d.arg_constraints]


def test_gradients_of_gates_follow_what_they_do() -> None:
    """d/dπ E[f(z)] for a smooth f, against finite differences of the exact mean; without the gate, zero."""
    p = torch.full((N,), 0.5).double().requires_grad_()
    loc, scale = torch.full((N,), 1.5).double(), torch.full((N,), 1e-3).double()
    z = SpikeAndSlab(p, loc, scale).rsample((40_000,))
    estimates = torch.autograd.grad((z.square() / 2 + z).sum(), p)[0] / len(z)
    torch.testing.assert_close(estimates, (loc.square() / 2 + loc), rtol=0.05, atol=0)
    q = SpikeAndSlab(torch.ones(N).double(), loc, scale)
    assert not q.rsample((100,)).eq(0).any()


def test_the_objective_of_a_vsc_is_the_formula() -> None:
    """The KL of the guide, coordinate by coordinate; at another α it is another."""
    m = VSC(F, D, H, alpha=0.3).double()
    g = VSCGuide(m, Sees(), H).double()
    x = spectra()
    q = g.posterior(x).along(torch.zeros(B, T, D).double())
    a, mu, var = q.probability, q.loc, q.scale.square()

    def formula(alpha: float) -> Tensor:
        slab = 0.5 * (mu.square() + var - 1 - var.log())
        gates = a * (a / alpha).log() + (1 - a) * ((1 - a) / (1 - alpha)).log()
        return (a * slab + gates).sum((-1, -2))

    torch.testing.assert_close(terms(m, g, x)[1], formula(0.3), rtol=1e-10, atol=0)
    assert not torch.allclose(terms(m, g, x)[1], formula(0.4), rtol=1e-2)


def test_the_selector_leaves_so_many_coordinates() -> None:
    m = SelectorVAE(F, D, H, alpha=0.3)
    z = torch.randn(20_000, D)
    heard = (m.code(z).abs() > z.abs() / 2).double()
    assert errors(heard, 0.3) < 5
    assert errors(heard, 0.35) > 5
    assert m.code(z).abs()[z.abs() < 0.5 * m.threshold].max() < 0.05
    assert math.isclose(math.erfc(m.threshold / math.sqrt(2)), 0.3, rel_tol=1e-9)


def test_probabilities_are_checked() -> None:
    for kind in (VSC, SelectorVAE):
        with pytest.raises(ValueError, match="alpha is a probability between 0 and 1, not 1"):
            kind(F, D, H, alpha=1)
    with pytest.raises(ValueError, match="width must be positive, not 0"):
        SelectorVAE(F, D, H, width=0)
    with pytest.raises(ValueError, match=r"alpha and narrow are between 0 and 1, not 0\.5 and 2"):
        TwoGaussianVAE(F, D, H, alpha=0.5, narrow=2)
