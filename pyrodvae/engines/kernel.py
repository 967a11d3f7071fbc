"""Our engines as kernels of Pyro's own MCMC."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import replace
from typing import Any

import pyro
import torch
from pyro import poutine
from pyro.infer.mcmc.mcmc_kernel import MCMCKernel
from torch import Tensor

from pyrodvae.engines.adaptive import Adaptive
from pyrodvae.engines.base import Engine
from pyrodvae.engines.chain import Chain
from pyrodvae.potential import Target
from pyrodvae.program import local_parameters


class EngineKernel(MCMCKernel):
    """An engine as a kernel that :class:`pyro.infer.MCMC` runs.

    >>> from pyrodvae.engines import MALA
    >>> from pyrodvae.weights import make_pair
    >>> model, _ = make_pair("dkf", {"observed": 5, "latent": 2})
    >>> x = torch.randn(1, 8, 5, dtype=torch.cfloat)  # (B, T, F)
    >>> kernel = EngineKernel(MALA(), model, chains=3)
    >>> mcmc = pyro.infer.MCMC(kernel, num_samples=10, warmup_steps=5, disable_progbar=True)
    >>> mcmc.run(x)
    >>> mcmc.get_samples()["z"].shape  # (samples, S, B, T, D)
    torch.Size([10, 3, 1, 8, 2])

    One sample is one step of the engine, and moves all chains of all sequences side by side; each of
    them counts as an element of one large draw. Warm-up is that of ``MCMC``: an engine that adapts does
    so for its ``warmup_steps``, whatever its own setting says. The chains start at draws of the guide,
    or of the prior without one, unless ``MCMC`` is given ``initial_params={"z": (S, B, T, D)}``.

    Args:
        engine: with its settings.
        model: a Pyro program with one latent site ``z``, event (T, D).
        guide: a program for its posterior; or None.
        chains: S, all in one process: leave MCMC's ``num_chains`` at 1.
        reach: as of :class:`~pyrodvae.potential.Target`; a model knows its own (``model.reach``).

    Raises:
        ValueError: a chain of engines.
    """

    transforms: dict[str, Any] = {}
    """Of sites to unconstrained space, which MCMC asks for: a path is unconstrained already."""

    _start: Tensor | None
    _target: Any
    _state: Any
    _rates: list[float]

    def __init__(
        self,
        engine: Engine,
        model: torch.nn.Module,
        guide: torch.nn.Module | None = None,
        *,
        chains: int = 1,
        reach: int | None = None,
    ) -> None:
        if isinstance(engine, Chain):
            raise ValueError("MCMC runs one kernel from first to last: give it one engine, not a Chain.")
        self.engine, self.model, self.guide = engine, model, guide
        self.chains, self.reach = chains, reach
        self.cleanup()

    def setup(self, warmup_steps: int, *args: Any) -> None:
        """What MCMC calls first, with the arguments of its ``run``, which are those of the model."""
        self._warmup = warmup_steps
        self._running = self.engine
        if isinstance(self.engine, Adaptive):
            self._running = replace(self.engine, warmup=warmup_steps * self.engine.steps)
        self._target = Target(self.model, self.guide, args, self.reach)
        if self._start is None:
            self._start = self._draw(*args)
        self._state = self._running.init(self._target, self._start)

    def _draw(self, *args: Any) -> Tensor:
        program = self.model if self.guide is None else self.guide
        with torch.no_grad(), local_parameters(), pyro.plate("chains", self.chains, dim=-2):
            trace: Any = poutine.trace(program).get_trace(*args)
        z: Tensor = trace.nodes["z"]["value"]
        return z

    @property
    def initial_params(self) -> dict[str, Tensor]:
        """Where the chains are."""
        return {"z": self._state.z.detach()}

    @initial_params.setter
    def initial_params(self, params: dict[str, Tensor]) -> None:
        self._start = params["z"]

    def sample(self, params: dict[str, Tensor]) -> dict[str, Tensor]:
        """The next draws. Like Pyro's own kernels this goes on from those it gave last."""
        self._state, info = self._running.step(self._target, self._state)
        if "accept" in info:
            self._rates.append(float(info["accept"].mean()))
        return self.initial_params

    def logging(self) -> OrderedDict[str, str]:
        """What the progress bar shows: the last rate of acceptance."""
        return OrderedDict({"acc. prob": f"{self._rates[-1]:.3f}"} if self._rates else {})

    def diagnostics(self) -> dict[str, float]:
        """The mean rate of acceptance since the warm-up, where the engine has one."""
        rates = self._rates[self._warmup :]
        return {"acceptance rate": sum(rates) / len(rates)} if rates else {}

    def cleanup(self) -> None:
        """Forget the run."""
        self._start, self._target, self._state, self._rates = None, None, None, []
