"""What guides truly look at: derivatives against declarations, the stars of the lecture, and mutants."""

from __future__ import annotations

import dataclasses
from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer.autoguide import AutoNormal
from torch import Tensor
from toys import EVERY_PAIR, make

from pyrodvae.dvae import DVAE
from pyrodvae.graph import FAMILY, compliance, compliant_guide, compliant_sight, dependence
from pyrodvae.guide import RecurrentGuide, Sees
from pyrodvae.models import MODELS
from pyrodvae.models.dkf import DKF
from pyrodvae.nets import shift
from pyrodvae.rollout import Step

STARRED = {"dkf", "srnn", "rvae", "rvae-causal"}
UNSTARRED = {
    "storn": "STORNGuide is simplified: q(z_t | x_{1:t}) misses z_{<t} and x_{>t}.",
    "vrnn": "VRNNGuide is simplified: q(z_t | z_{<t}, x_{1:t}) misses x_{>t}.",
    "dsae": (
        "DSAEGuide is simplified, and sees more than it needs: q(z_t | w, x_{1:T}) misses z_{<t}, "
        "and does not need x_{<t}."
    ),
}


@pytest.mark.parametrize("key", sorted(STARRED))
def test_the_stars_of_the_lecture(key: str) -> None:
    verdict = compliance(*make(key, "paper"))
    assert verdict.word == "compliant"
    assert not verdict.missing
    assert not verdict.superfluous


@pytest.mark.parametrize("key", UNSTARRED)
def test_those_without_a_star(key: str) -> None:
    verdict = compliance(*make(key, "paper"))
    assert not verdict.sufficient
    assert str(verdict) == UNSTARRED[key]


def test_more_than_it_needs() -> None:
    verdict = compliance(*make("transformer", "paper"))
    assert (verdict.sufficient, verdict.compliant) == (True, False)
    assert str(verdict) == (
        "TransformerGuide sees more than it needs: q(z_t | z_{<t}, x_{1:T}) does not need x_{<t}."
    )


MIXTURES = ("vae-mm", "av-switch", "min-vae")


@pytest.mark.parametrize("key", MIXTURES)
def test_a_mixture_has_coins_that_no_recurrent_guide_draws(key: str) -> None:
    with pytest.raises(ValueError, match=r"latents beside z and w \(alpha_0, alpha_1"):
        compliant_guide(make(key)[0], 4)


@pytest.mark.parametrize("key", [key for key in MODELS if key not in MIXTURES])
def test_the_guide_made_to_measure_is_compliant(key: str) -> None:
    model, _ = make(key)
    assert compliance(model, compliant_guide(model, 4)).compliant


@pytest.mark.parametrize(("key", "guide"), [(m, g) for m, g in EVERY_PAIR if g == "paper" or m == "dsae"])
def test_guides_look_at_what_they_declare(key: str, guide: str) -> None:
    model, q = make(key, guide)
    looked = dependence(model, q)
    z, x = q.sees.z_past, q.sees
    for t in range(5):
        past = {"none": [], "previous": [t - 1] if t else [], "all": range(t)}[z]
        frames = [*range(t)] * x.x_past + [t] * x.x_present + [*range(t + 1, 5)] * x.x_future
        declared = {f"z_{s}" for s in past} | {f"x_{s}" for s in frames} | ({"w"} if model.segment else set())
        assert looked[f"z_{t}"] == declared


def test_the_family_sees_ever_more() -> None:
    model, _ = make("rvae")
    verdicts = [compliance(model, RecurrentGuide(model, sees, 4)) for sees in FAMILY.values()]
    missing = [sum(map(len, v.missing[0].given.values())) if v.missing else 0 for v in verdicts]
    assert missing[0] == max(missing)
    assert missing[-1] == 0 < min(missing[:-1])
    assert not any(v.superfluous for v in verdicts)


# Mutants: guides that declare what is right, and do something else.


class NoMemory(RecurrentGuide):
    """Does not look at z_{t-1}."""

    def conditional(self, z_prev: Tensor, context: Tensor | None, memo: Any) -> Step:
        return super().conditional(torch.zeros_like(z_prev), context, memo)


class NoFuture(RecurrentGuide):
    """Summarises each frame alone."""

    def context(self, x: Tensor, lengths: Tensor | None, shared: Any) -> Tensor:
        return super().context(x[..., None, :], None, None)[..., 0, :]


class WithPast(RecurrentGuide):
    """Adds what was said of the frames before."""

    def context(self, x: Tensor, lengths: Tensor | None, shared: Any) -> Tensor:
        return super().context(x, lengths, shared).cumsum(-2)


class WithOneMore(RecurrentGuide):
    """Adds the frame before, and forgets the state."""

    def context(self, x: Tensor, lengths: Tensor | None, shared: Any) -> Tensor:
        return super().context(x, lengths, shared) + shift(self.from_x.bias * x.abs()[..., :1].cos())

    def conditional(self, z_prev: Tensor, context: Tensor | None, memo: Any) -> Step:
        return super().conditional(torch.zeros_like(z_prev), context, memo)


MUTANTS = {
    RecurrentGuide: "is compliant: q(z_t | z_{t-1}, x_{t:T})",
    NoMemory: "is simplified: q(z_t | x_{t:T}) misses z_{t-1}",
    NoFuture: "is simplified: q(z_t | z_{t-1}, x_t) misses x_{>t}",
    WithPast: "sees more than it needs: q(z_t | z_{t-1}, x_{1:T}) does not need x_{<t}",
    WithOneMore: (
        "is simplified, and sees more than it needs: q(z_t | x_{t-1:T}) misses z_{t-1}, "
        "and does not need x_{t-1}"
    ),
}


@pytest.mark.parametrize("kind", MUTANTS)
def test_mutants_are_caught_and_named(kind: type[RecurrentGuide]) -> None:
    model, _ = make("dkf")
    guide = kind(model, Sees(z_past="previous", x_future=True), 4)
    assert str(compliance(model, guide)) == f"{kind.__name__} {MUTANTS[kind]}."


@pytest.mark.parametrize(
    ("change", "part"),
    [({"z_past": "none"}, "z_{t-1}"), ({"x_future": False}, "x_{>t}"), ({"x_past": False}, "x_{<t}")],
)
def test_a_guide_that_is_built_with_less(change: dict[str, Any], part: str) -> None:
    model, _ = make("srnn")
    verdict = compliance(
        model, RecurrentGuide(model, dataclasses.replace(compliant_sight(model), **change), 4)
    )
    assert [factor.parts() for factor in verdict.missing] == [(part,)]
    assert not verdict.superfluous


# Guides of others.


def test_a_guide_that_runs_backward_in_time() -> None:
    """Drawn from the last frame on, z_t of a state space needs z_{t+1} and x_{1:t}."""
    model, _ = make("kalman")

    def backward(x: Tensor, sees_all: bool = False) -> None:
        later = torch.zeros(len(x), 1, model.latent, dtype=x.dtype)
        for t in reversed(range(x.shape[-2])):
            seen = x if sees_all else x[:, : t + 1]
            mean = 0.5 * later + seen.sin().sum((1, 2), keepdim=True)
            with pyro.plate("batch", len(x), dim=-1):
                later = pyro.sample(f"z_{t}", dist.Normal(mean, 1.0).to_event(2))

    verdict = compliance(model, backward)
    assert verdict.compliant
    assert verdict.sees["z"].text() == "q(z_t | z_{t+1}, x_{1:t})"
    control = compliance(model, lambda x: backward(x, sees_all=True))
    assert [factor.parts() for factor in control.superfluous] == [("x_{>t}",)]


def path(x: Tensor, size: int = 2) -> Any:
    return dist.Normal(x.sin().sum(-1, keepdim=True).expand(*x.shape[:-1], size), 1.0)


def test_independent_frames_in_one_site() -> None:
    model, _ = make("kalman")

    def guide(x: Tensor) -> None:
        pyro.sample("z", path(x).to_event(2))

    assert compliance(model, guide).sees["z"].text() == "q(z_t | x_t)"


def test_guides_that_do_not_fit() -> None:
    model, _ = make("kalman")

    def joint(x: Tensor) -> None:
        flat = path(x).loc.flatten(1)
        pyro.sample("z", dist.MultivariateNormal(flat, torch.eye(flat.shape[-1], dtype=x.dtype)))

    with pytest.raises(ValueError, match=r"no q\(z_t \| ·\) of single frames"):
        compliance(model, joint)
    with pytest.raises(ValueError, match="and the model has the latents w, z_0"):
        compliance(make("dsae")[0], compliant_guide(make("dkf")[0], 4))
    with pytest.raises(ValueError, match=r"^<lambda> samples nothing and the model has the latents z_0, z_1"):
        compliance(model, lambda x: None)
    with pytest.raises(ValueError, match="A graph of 0 frames"):
        dependence(model, path, 0)
    with pytest.raises(ValueError, match="path is not a DVAE"):
        compliance(path, path)


class WithRate(DKF):
    """A latent that no guide of ours draws."""

    def begin(self, batch: int) -> Any:
        pyro.sample("rate", dist.Gamma(self.z_0.new_ones(batch), 1.0))


class EveryOther(DVAE):
    """z_t looks at z_{t-1} in every other frame."""

    feedback = False

    def transition(self, z_prev: Tensor, x_prev: Tensor | None, memo: Any) -> Step:
        t = memo or 0
        mean = z_prev if t % 2 else torch.zeros(z_prev.shape, dtype=z_prev.dtype)
        return dist.Normal(mean, 1.0).to_event(1), t + 1

    def emission(self, z: Tensor, x_prev: Tensor | None, memo: Any) -> Step:
        return dist.Normal(z, 1.0).to_event(1), memo


def test_models_that_no_recurrent_guide_fits() -> None:
    with pytest.raises(ValueError, match=r"latents beside z and w \(rate\)"):
        compliant_sight(WithRate(3, 2, 4))
    with pytest.raises(ValueError, match="The frames of EveryOther differ in what they need"):
        compliant_guide(EveryOther(2, 2, data="real"))


def test_an_autoguide_has_no_arrows() -> None:
    model = DKF(3, 2, 4, data="real")
    with pytest.raises(ValueError, match="AutoNormal looks at no x"):
        compliance(model, AutoNormal(model))
