"""One run of a Pyro program with every site drawn, and what each site's distribution looked at."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from pyro.distributions import Delta, Unit
from pyro.distributions.torch_distribution import ExpandedDistribution, MaskedDistribution
from pyro.ops.provenance import detach_provenance, get_provenance, track_provenance
from pyro.poutine.messenger import Messenger
from pyro.poutine.util import site_is_subsample
from torch import Tensor
from torch.distributions import Independent, biject_to
from torch.overrides import TorchFunctionMode


@dataclass(frozen=True)
class Site:
    """A site of one run.

    Args:
        fn: its distribution. value: what was drawn, or held.
        plates: it is in. observed: whether the program was given its value.
        data: marks of the arguments that it observes.
    """

    fn: Any
    value: Tensor
    plates: tuple[str, ...]
    observed: bool
    data: frozenset[str]

    @property
    def family(self) -> str:
        """The name of its distribution."""
        return type(_base(self.fn)).__name__

    @property
    def deterministic(self) -> bool:
        """Whether it is a function of others."""
        return isinstance(_base(self.fn), Delta)


Sites = dict[str, Site]


class Probe(Messenger):
    """Draws every site of a program, the observed ones too, and remembers it.

    A value goes on as a tensor without history: ``"provenance"`` marks it with the name of the site,
    ``"leaves"`` makes it a leaf of the graph of derivatives, ``"plain"`` does neither.

    Args:
        how: of these. held: values that are not drawn. deterministic: whether such sites count.

    Raises:
        ValueError: two sites have one name.
    """

    def __init__(self, how: str, held: dict[str, Tensor], deterministic: bool) -> None:
        super().__init__()
        self.how, self.held, self.deterministic = how, held, deterministic
        self.sites: Sites = {}
        self._observes: dict[str, frozenset[str]] = {}
        self._names: set[str] = set()

    def marked(self, args: tuple[Any, ...]) -> tuple[Any, ...]:
        """Arguments that carry their place as provenance, so that data can be recognised."""
        if self.how != "provenance":
            return args
        return tuple(track_provenance(arg, frozenset({f"argument {i}"})) for i, arg in enumerate(args))

    def _pyro_sample(self, msg: Any) -> None:
        if site_is_subsample(msg):
            return
        name = msg["name"]
        if name in self._names:
            raise ValueError(f"Two sites are called '{name}': give each a name of its own.")
        self._names.add(name)
        if msg["is_observed"] and not isinstance(_base(msg["fn"]), Delta | Unit):
            self._observes[name] = get_provenance(msg["value"])
            msg.update(is_observed=False, value=None)
        if name in self.held:
            msg.update(value=self.held[name], done=True)

    def _pyro_post_sample(self, msg: Any) -> None:
        if site_is_subsample(msg):
            return
        name, base = msg["name"], _base(msg["fn"])
        if isinstance(base, Delta) and not self.deterministic:
            return
        value = detach_provenance(msg["value"]).detach()
        if self.how == "provenance":
            value = track_provenance(value, frozenset({name}))
        elif self.how == "leaves" and (value.is_floating_point() or value.is_complex()):
            value = value.requires_grad_()
        msg["value"] = value
        plates = tuple(frame.name for frame in msg["cond_indep_stack"])
        given = name in self._observes or isinstance(base, Unit)
        self.sites[name] = Site(msg["fn"], value, plates, given, self._observes.get(name, frozenset()))


class SizesOnly(TorchFunctionMode):
    """Functions that read no more than sizes pass no provenance on; and who lets values out is noted."""

    def __init__(self) -> None:
        super().__init__()
        self.left: frozenset[str] = frozenset()

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Call the function."""
        if func in LIKE:
            args = (detach_provenance(args[0]), *args[1:])
        elif func in NUMBERS:
            self.left |= get_provenance(args)
        return func(*args, **(kwargs or {}))


LIKE = {
    torch.zeros_like,
    torch.ones_like,
    torch.empty_like,
    torch.full_like,
    torch.rand_like,
    torch.randn_like,
    Tensor.new_zeros,
    Tensor.new_ones,
    Tensor.new_empty,
    Tensor.new_full,
    Tensor.new_tensor,
}
NUMBERS = {
    Tensor.item,
    Tensor.tolist,
    Tensor.numpy,
    Tensor.__array__,
    Tensor.__bool__,
    Tensor.__float__,
    Tensor.__int__,
    Tensor.__index__,
}


def outcome(site: Site) -> Tensor:
    """What shows the distribution of a site: the log density of its value; or its value, if determined."""
    base = _base(site.fn)
    found: Tensor = base.v if isinstance(base, Delta) else site.fn.log_prob(site.value)
    return found


def provenance(value: Tensor) -> frozenset[str]:
    """The sites and arguments that a tensor was computed with."""
    found: frozenset[str] = get_provenance(value)
    return found


def changed(site: Site, attempt: int) -> Tensor:
    """Another value of a site: further away with each attempt, or the next in the list of what it can be."""
    value, by = site.value.detach(), 10.0**attempt
    if is_discrete(site):
        return turned_on(site, attempt)
    if value.is_complex():
        return value + by * torch.randn_like(value)
    with torch.no_grad():
        if value.is_floating_point():
            try:
                free = biject_to(site.fn.support)
                moved: Tensor = free(free.inv(value) + by * torch.randn_like(free.inv(value)))
                return moved
            except NotImplementedError:  # a support that torch has no coordinates for
                pass
        drawn: Tensor = site.fn.sample()
    return drawn


def is_discrete(site: Site) -> bool:
    """Whether the values of its elements can be listed, each on its own."""
    base = _base(site.fn)
    return bool(base.has_enumerate_support) and not base.event_shape


def turned_on(site: Site, attempt: int) -> Tensor:
    """A discrete value, element by element the next in the list of what it can be, or a later one."""
    values = _base(site.fn).enumerate_support(expand=False).flatten()
    value = site.value.detach()
    place = (values == value[..., None]).to(torch.uint8).argmax(-1)
    following: Tensor = values[(place + 1 + attempt) % len(values)]
    return following


def _base(fn: Any) -> Any:
    while isinstance(fn, Independent | ExpandedDistribution | MaskedDistribution):
        fn = fn.base_dist
    return fn
