"""Real-valued sequences in memory: train on them, reconstruct them, forecast what comes next."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from copy import deepcopy
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import pyro
import torch
from pyro import poutine
from pyro.distributions import TorchDistribution
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from pyrodvae.data import CROPS
from pyrodvae.dvae import DVAE
from pyrodvae.guide import Guide
from pyrodvae.objective import latents
from pyrodvae.observations import DATA
from pyrodvae.program import local_parameters
from pyrodvae.settings import check_seed
from pyrodvae.synthesis import decoded
from pyrodvae.trainer import TrainConfig, Trainer

Data = Tensor | npt.NDArray[Any] | Sequence[Tensor | npt.NDArray[Any]]
"""Sequences (N, T, F), or a list of sequences (T_i, F) of different length."""


@dataclass(frozen=True, eq=False)
class Sequences:
    """Random crops of sequences in memory, as batches for a :class:`~pyrodvae.trainer.Trainer`.

    A sequence gives one crop for every ``frames`` frames that it has, and at least one, so an epoch
    sees all of the data about once. What is shorter than a crop is padded.

    Args:
        sequences: (T_i, F) each.
        frames: T of a crop.
        batch_size: B, at most: batches are of about equal size.
    """

    sequences: Sequence[Tensor]
    frames: int
    batch_size: int = 32

    @property
    def crops(self) -> Tensor:
        """The sequence that each crop of an epoch comes from."""
        counts = torch.tensor([max(1, len(y) // self.frames) for y in self.sequences])
        return torch.arange(len(counts)).repeat_interleave(counts)

    @property
    def batches(self) -> int:
        """Batches in an epoch."""
        return -(-len(self.crops) // self.batch_size)

    def epoch(self, seed: int) -> Iterator[tuple[Tensor, Tensor | None]]:
        """Yield (x (B, T, F), lengths (B,) or None); a seed always gives the same batches."""
        rng = torch.Generator().manual_seed(seed ^ CROPS)
        order = torch.randperm(len(self.crops), generator=rng)
        for chosen in self.crops[order].tensor_split(self.batches):
            places = torch.rand(len(chosen), generator=rng).tolist()
            crops = [self.crop(self.sequences[i], u) for i, u in zip(chosen.tolist(), places, strict=True)]
            yield padded(crops)

    def crop(self, y: Tensor, place: float) -> Tensor:
        """The crop of a sequence that lies at a place from 0 to 1 of those it can have."""
        start = int(place * (max(0, len(y) - self.frames) + 1))
        return y[start : start + self.frames]


def padded(sequences: Sequence[Tensor]) -> tuple[Tensor, Tensor | None]:
    """Sequences (T_i, F) as one batch (B, T, F), and their lengths (B,) where they differ."""
    lengths = [len(y) for y in sequences]
    x = pad_sequence([*sequences], batch_first=True)
    return x, None if len({*lengths}) == 1 else torch.tensor(lengths, device=x.device)


def read(model: DVAE, x: Data, least: int = 1) -> list[Tensor]:
    """Sequences as the model wants them: a list of (T_i, F), of its type and on its device.

    Args:
        model: of real data.
        x: (N, T, F), or a list of (T_i, F); integers are taken as they are.
        least: T at least.

    Raises:
        ValueError: a model of complex data; data that are complex, no numbers, not finite, too short or
            of another shape; none at all.
    """
    if DATA[model.data][0].is_complex:
        raise ValueError(
            f"This {type(model).__name__} is of data='{model.data}', which is complex: real sequences "
            "need a model made with data='real'."
        )
    if isinstance(x, Tensor | np.ndarray) and x.ndim != 3:
        hint = ": for one sequence write x[None]" if x.ndim == 2 else ""
        raise ValueError(f"Sequences are one array (N, T, F){hint}; this one is of shape {tuple(x.shape)}.")
    if len(x) == 0:
        raise ValueError("There is no sequence in x.")
    return [_read_one(model, y, i, least) for i, y in enumerate(x)]


def _read_one(model: DVAE, y: Tensor | npt.NDArray[Any], i: int, least: int) -> Tensor:
    try:  # an array is copied, as torch takes none that is read backward or read-only
        y = y if isinstance(y, Tensor) else torch.from_numpy(np.array(y, order="C"))
    except (TypeError, ValueError) as error:
        raise ValueError(f"Sequence {i} is no array of numbers: {error}.") from error
    if y.is_complex():
        raise ValueError(f"Sequence {i} is complex, and this model is of real data: take its .real or abs().")
    if y.dim() != 2 or y.shape[1] != model.observed:
        raise ValueError(
            f"Sequence {i} is of shape {tuple(y.shape)}; this model reads (T, F) with F = {model.observed}."
        )
    if len(y) < least:
        raise ValueError(f"Sequence {i} is too short: it has {len(y)} frames, and {least} are needed.")
    y = y.to(model.z_0)
    bad = (~torch.isfinite(y)).nonzero()
    if len(bad):
        t, f = bad[0].tolist()
        raise ValueError(
            f"Sequence {i} is not finite at frame {t}, value {f}: it is {float(y[t, f])}. Fill in or "
            "leave out what is missing."
        )
    return y


@dataclass(frozen=True)
class FitConfig:
    """Settings of :func:`fit`.

    Args:
        epochs: passes over the data; the learning rate follows one cycle over all of them.
        batch_size, frames: B and T of a batch of crops.
        learning_rate: the peak of the cycle.
        beta: weight of the KL term at the end of its warm-up; 1 is the evidence lower bound.
        warmup: epochs over which the weight rises linearly to ``beta``.
        objective: ``"analytic"`` or ``"sampled"`` KL terms, as of
            :class:`~pyrodvae.trainer.TrainConfig`.
        clip: largest norm of the gradient.
        patience: epochs without a better validation loss before stopping (after the warm-up).
        seed: of crops and draws; weights are those that model and guide come with.

    Raises:
        ValueError: a number out of range.
    """

    epochs: int = 100
    batch_size: int = 16
    frames: int = 50
    learning_rate: float = 5e-3
    beta: float = 1.0
    warmup: int = 0
    objective: Literal["analytic", "sampled"] = "analytic"
    clip: float = 5.0
    patience: int = 30
    seed: int = 0

    def __post_init__(self) -> None:
        self.full()

    def full(self) -> TrainConfig:
        """As settings of the trainer, which checks them."""
        return TrainConfig(**asdict(self))


def fit(
    model: DVAE,
    guide: Guide,
    x: Data,
    config: FitConfig | None = None,
    *,
    validation: Data | None = None,
    standardise: bool = True,
    device: str = "cpu",
    show: bool = False,
) -> list[dict[str, float]]:
    """Train a model and its guide in place, and leave them with their best weights.

    Args:
        model, guide: the pair. Parameters that need no gradient stay as they are.
        x: (N, T, F), or a list of (T_i, F).
        config: the settings.
        validation: sequences likewise, to choose the best weights by; without them every tenth of x
            is set aside, beginning with the first.
        standardise: take means and scales from x; False keeps those of an earlier fit.
        device: for example ``"cuda"``.
        show: a bar of progress.

    Returns:
        The history, one row per epoch, with the keys ``epoch``, ``train_loss``, ``beta``, ``val_nll``,
        ``val_kl`` and ``val_loss``. Losses are in nats per frame, lower is better; ``val_loss`` is
        val_nll + β val_kl of what is set aside, so −ELBO at β = 1.

    Raises:
        ValueError: what :func:`read` refuses, sequences of one frame, a single sequence and none to
            validate on, or a guide that is not one of ours.
        TrainingError: loss or gradient is not finite.
    """
    config = config or FitConfig()
    if not isinstance(guide, Guide):
        raise ValueError(
            f"{type(guide).__name__} cannot be fitted to many sequences: take a guide that reads x, or SVI."
        )
    train = read(model, x, least=2)
    if validation is not None:
        held = read(model, validation, least=2)
    elif len(train) > 1:
        train, held = [y for i, y in enumerate(train) if i % 10], train[::10]
    else:
        raise ValueError(
            "One sequence alone cannot be trained on, as some are set aside: cut it in two, or give "
            "others as validation."
        )
    pair = (model, guide)
    if standardise:
        model.fit_statistics(torch.cat(train))
        guide.fit_statistics(torch.cat(train))
    batches = Sequences(train, config.frames, config.batch_size)
    trainer = Trainer(model, guide, batches, Sequences(held, config.frames), config.full(), device)
    best = [deepcopy(program.state_dict()) for program in pair]
    while not trainer.finished():
        trainer.run_epoch(show)
        if trainer.best[1] == trainer.epoch - 1:
            best = [deepcopy(program.state_dict()) for program in pair]
    for program, state in zip(pair, best, strict=True):
        program.load_state_dict(state)
    return trainer.history


@torch.no_grad()
def reconstruct(model: DVAE, guide: Guide, x: Data) -> TorchDistribution:
    r"""The sequences through the latent path and back: :math:`p(x_t \mid \bar z, x_{<t})`.

    z̄ is the :func:`~pyrodvae.synthesis.mean_path` of the guide; a model with feedback sees the
    frames of x before.

    Args:
        model, guide: a trained pair.
        x: (N, T, F), or a list of (T_i, F), which are padded to the longest.

    Returns:
        A distribution whose ``mean`` and ``stddev`` are (N, T, F). The spread is what the model leaves
        to noise, not what is unknown of z.

    Raises:
        ValueError: what :func:`read` refuses.
    """
    return decoded(model, guide, *padded(read(model, x)))


@torch.no_grad()
def forecast(model: DVAE, guide: Guide, x: Data, frames: int, draws: int = 200, seed: int = 0) -> Tensor:
    r"""Draws of what comes after the sequences.

    .. math::
        p(x_{T+1:T+H} \mid x_{1:T}) \approx \int p(x_{T+1:T+H} \mid z_{1:T}, x_{1:T})\;
        q(z_{1:T} \mid x_{1:T})\; \mathrm d z_{1:T}

    A path of the past is drawn from the guide, and the model goes on from it frame by frame: with an
    exact guide the forecast is exact. Every draw is a whole future, so ``.mean(0)``,
    ``.quantile(0.9, 0)`` or any function of a path can be taken over them.

    Args:
        model, guide: a trained pair; the model causal.
        x: (B, T, F), or a list of (T_i, F): each forecast begins at the end of its sequence.
        frames: H.
        draws: S, of each sequence.
        seed: of the draws.

    Returns:
        (S, B, H, F).

    Raises:
        ValueError: what :func:`read` refuses, a model that is not causal, or a count below one.
    """
    if not model.causal:
        raise ValueError(
            f"{type(model).__name__} is not causal: each of its frames depends on latents to come, so no "
            "forecast follows from what it learned. Take a causal model."
        )
    for name, count in {"frames": frames, "draws": draws}.items():
        if count < 1 or count % 1:
            raise ValueError(f"{name} is a whole number of at least one, not {count}.")
    check_seed(seed)
    sequences = read(model, x)
    batch, lengths = padded(sequences)
    parts = [batch] if lengths is None else [y[None] for y in sequences]
    with local_parameters(), torch.random.fork_rng():
        torch.manual_seed(seed)
        return torch.cat([_continue(model, guide, part, frames, draws) for part in parts], 1)


def _continue(model: DVAE, guide: Guide, x: Tensor, frames: int, draws: int) -> Tensor:
    """The forecasts of sequences of equal length (B, T, F): (S, B, H, F)."""
    batch, past, _ = x.shape
    # The draws are a plate for the guide, so that it reads x once, and part of the batch for the model.
    with pyro.plate("draws", draws, dim=-2):
        q = poutine.trace(guide).get_trace(x)
    sites: Any = q.nodes
    drawn = {name: sites[name]["value"].flatten(0, 1) for name in latents(q)}
    z = drawn.pop("z")
    drawn |= {f"z_{t}": z[:, t : t + 1] for t in range(past)}
    again = x.expand(draws, *x.shape).flatten(0, 1)
    _, both = poutine.condition(model.steps, drawn)(again, frames=past + frames)
    return both[:, past:].unflatten(0, (draws, batch))
