"""One training run: its settings, its steps and its checkpoint."""

from __future__ import annotations

import io
import math
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

import torch
from torch import Tensor
from tqdm import tqdm

from pyrodvae.av_mixture import AVMixture
from pyrodvae.dvae import DVAE
from pyrodvae.guide import Guide
from pyrodvae.lips import Reader
from pyrodvae.mixture_objective import loss as mixture_loss
from pyrodvae.models.srnn import SRNN
from pyrodvae.objective import Batch, KLWeight, Prior, arguments, elbo, find_nan, terms
from pyrodvae.once import Once
from pyrodvae.program import local_parameters
from pyrodvae.settings import check_seed
from pyrodvae.whole import briefly, save


class TrainingError(RuntimeError):
    """Training cannot go on; the message is one sentence for the user."""


class Batches(Protocol):
    """What a run is trained on: crops of speech (:class:`pyrodvae.data.Crops`), or of anything else."""

    @property
    def batches(self) -> int:
        """Batches in an epoch."""

    def epoch(self, seed: int) -> Iterator[Batch]:
        """Yield batches; a seed always gives the same."""


@dataclass(frozen=True)
class TrainConfig:
    """Settings of a training run; every field can be set on the command line.

    Args:
        epochs: passes over the corpus; the learning rate follows one cycle over all of them.
        batch_size, frames: B and T of a batch of crops.
        learning_rate: the peak of the cycle.
        beta: weight of the KL term at the end of its warm-up; 1 is the evidence lower bound.
        warmup: epochs over which the weight rises linearly to ``beta``.
        objective: ``"analytic"`` sums analytic KL terms along the drawn path
            (``TraceMeanField_ELBO``), ``"sampled"`` takes log-ratios of the draw (``Trace_ELBO``).
        clip: largest norm of the gradient.
        patience: epochs without a better validation loss before stopping (after the warm-up).
        gain_db: crops are turned down by up to this at random.
        denoise_db: how far the recordings' own noise is turned down.
        hidden: H of the model and of its guide.
        latent: D.
        prior_share: share of the objective that is the bound with the prior for a guide, from 0 to 1, see
            :class:`~pyrodvae.objective.Prior`; what the model's paper takes, unless given.
        side: rows and columns of the pictures, for models that are given video.
        reader: what reads them, see :class:`~pyrodvae.lips.LipReader`.
        face: the videos show faces, and the lips are to be cut from them.
        corrupt_share, drop_share: shares of their frames that are corrupted, or taken away, in training.
        own_from, own_until: epochs between which an SRNN's share of its own output rises from 0 to 1
            (scheduled sampling); until 0 it always reads the true frames.
        seed: of weights, crops and draws.
        start: weights to start from, of the same model, guide and sizes: a key of shipped weights, or
            the folder of a run. The spectrum's statistics are theirs, too.
    """

    epochs: int = 100
    batch_size: int = 32
    frames: int = 50
    learning_rate: float = 3e-3
    beta: float = 1.0
    warmup: int = 0
    objective: Literal["analytic", "sampled"] = "analytic"
    clip: float = 5.0
    patience: int = 30
    gain_db: float = 0.0
    denoise_db: float = 0.0
    hidden: int = 128
    latent: int = 16
    prior_share: float | None = None
    side: int = 32
    reader: Reader = "conv"
    face: bool = False
    corrupt_share: float = 0.0
    drop_share: float = 0.1
    own_from: int = 0
    own_until: int = 0
    seed: int = 0
    start: str = ""

    def __post_init__(self) -> None:
        for name in ("epochs", "batch_size", "frames", "learning_rate", "clip", "hidden", "latent", "side"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} must be more than 0, not {getattr(self, name)}.")
        for name in ("beta", "warmup", "patience", "gain_db", "denoise_db", "own_from"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} cannot be negative: {getattr(self, name)}.")
        if self.own_until and self.own_until <= self.own_from:
            raise ValueError(f"own_until ({self.own_until}) has to come after own_from ({self.own_from}).")
        if self.own_until > self.epochs - 1:  # epochs count from 0
            raise ValueError(
                f"own_until ({self.own_until}) has to be at most epochs - 1 ({self.epochs - 1}): else the "
                "SRNN never reads its own output alone."
            )
        for name in ("prior_share", "corrupt_share", "drop_share"):
            if not 0 <= (getattr(self, name) or 0) <= 1:
                raise ValueError(f"{name} is a share from 0 to 1, not {getattr(self, name)}.")
        check_seed(self.seed)


def on(device: str | torch.device, batch: Batch) -> tuple[Tensor, Tensor | None, Tensor | None]:
    """x, lengths and v of a batch, on a device."""
    x, lengths, *video = batch
    return (
        x.to(device),
        None if lengths is None else lengths.to(device),
        video[0].to(device) if video else None,
    )


def validate(model: DVAE, guide: Guide, crops: Batches, seed: int) -> tuple[float, float]:
    """Mean negative log-likelihood and KL per frame on the same crops and draws every time."""
    device = model.z_0.device
    nll = kl = frames = 0.0
    with torch.no_grad(), torch.random.fork_rng():
        torch.manual_seed(seed)
        for batch in crops.epoch(seed):
            x, lengths, v = on(device, batch)
            a, b = terms(model, guide, x, lengths, v)
            nll, kl = nll - float(a.sum()), kl + float(b.sum())
            frames += x.shape[0] * x.shape[1] if lengths is None else float(lengths.sum())
    return nll / frames, kl / frames


class Trainer:
    """One run: its state, its steps, and its checkpoint.

    Args:
        model, guide: the pair; trained in place.
        train, validation: the crops.
        config: the settings.
        device: where to compute.

    The random numbers of an epoch follow from (seed, epoch) alone, so a run that is stopped and
    resumed from the last finished epoch goes on exactly as if it had not been stopped.
    """

    def __init__(
        self,
        model: DVAE,
        guide: Guide,
        train: Batches,
        validation: Batches,
        config: TrainConfig,
        device: str = "cpu",
    ) -> None:
        if config.own_until and not isinstance(model, SRNN):
            raise ValueError(f"own_until is for an SRNN: no {type(model).__name__} reads its own output.")
        self.model, self.guide = model.to(device), guide.to(device)
        self.train, self.validation, self.config = train, validation, config
        self.device = device
        given = config.prior_share
        self.prior_share = model.prior_share if given is None else given
        self.parameters = [*model.parameters(), *guide.parameters()]
        self.optimiser = torch.optim.Adam(self.parameters, config.learning_rate)
        self.schedule = torch.optim.lr_scheduler.OneCycleLR(
            self.optimiser, config.learning_rate, total_steps=config.epochs * train.batches
        )
        with local_parameters():
            self.loss = elbo(config.objective)(model, guide)
            self.prior_loss = elbo(config.objective)(model, Prior(model)) if self.prior_share else None
        self.epoch = 0
        self.history: list[dict[str, float]] = []
        self.best = (math.inf, -1)

    def beta(self, epoch: int) -> float:
        """The weight of the KL term in an epoch."""
        warmup = self.config.warmup
        return self.config.beta * (min(1.0, epoch / warmup) if warmup else 1.0)

    def own_share(self, epoch: int) -> float:
        """How often an SRNN reads its own output in an epoch."""
        first, last = self.config.own_from, self.config.own_until
        return min(1.0, max(0.0, (epoch - first) / (last - first))) if last else 0.0

    def step(self, batch: Batch, beta: float, where: str) -> float:
        """One gradient step on a batch; the loss in nats per frame.

        Raises:
            TrainingError: loss or gradient is not finite; the weights are left as they were.
        """
        x, lengths, v = on(self.device, batch)
        frames = x.shape[0] * x.shape[1] if lengths is None else int(lengths.sum())
        self.optimiser.zero_grad()
        loss = self._loss(x, lengths, v, beta) / frames
        loss.backward()
        value = float(loss.detach())
        norm = torch.nn.utils.clip_grad_norm_(self.parameters, self.config.clip)
        if not (math.isfinite(value) and math.isfinite(float(norm))):
            raise TrainingError(
                f"Not a number in {where}: {find_nan(self.model, self.guide, x, lengths, v)}. Lower the "
                "learning rate or look at that recording; the last good epoch is kept."
            )
        self.optimiser.step()
        self.schedule.step()
        return value

    def _loss(self, x: Tensor, lengths: Tensor | None, v: Tensor | None, beta: float) -> Tensor:
        """The objective on a batch, in nats."""
        share = self.prior_share
        with local_parameters(), KLWeight(beta), Once():
            if isinstance(self.model, AVMixture):
                return mixture_loss(self.model, self.guide, x, lengths, v, beta=beta, prior_share=share)
            args = arguments(x, lengths, v)
            loss: Tensor = self.loss(*args)
            return loss if self.prior_loss is None else torch.lerp(loss, self.prior_loss(*args), share)

    def run_epoch(self, show: bool = True) -> dict[str, float]:
        """Train one epoch and validate; returns the row of the history."""
        seed = self.config.seed * 1_000_003 + self.epoch
        torch.manual_seed(seed)
        beta, total = self.beta(self.epoch), 0.0
        if isinstance(self.model, SRNN) and self.config.own_until:
            self.model.own_share = self.own_share(self.epoch)
        bar = tqdm(
            self.train.epoch(seed),
            total=self.train.batches,
            desc=f"epoch {self.epoch + 1}/{self.config.epochs}",
            leave=False,
            disable=not show,
        )
        for i, batch in enumerate(bar):
            total += self.step(batch, beta, f"epoch {self.epoch + 1}, batch {i + 1}")
        nll, kl = validate(self.model, self.guide, self.validation, self.config.seed)
        row = {
            "epoch": self.epoch + 1,
            "train_loss": total / self.train.batches,
            "beta": beta,
            "val_nll": nll,
            "val_kl": kl,
            "val_loss": nll + self.config.beta * kl,
        }
        self.history.append(row)
        # Until it reads its own output throughout, an SRNN is another model every epoch: the last counts.
        if row["val_loss"] < self.best[0] or self.epoch <= self.config.own_until > 0:
            self.best = (row["val_loss"], self.epoch)
        self.epoch += 1
        return row

    def finished(self) -> bool:
        """Whether all epochs are done, or none has been better for too long."""
        stale = self.epoch - 1 - max(self.best[1], self.config.warmup, self.config.own_until)
        return self.epoch >= self.config.epochs or stale >= self.config.patience

    def settings(self) -> dict[str, Any]:
        """All that has to be the same on resumption."""
        pair = {"model": type(self.model).__name__, "guide": str(self.guide.sees)}
        return {**pair, **asdict(self.config)}

    def save(self, path: Path) -> None:
        """Write the checkpoint in one step.

        Raises:
            NotWritten: it cannot be written.
        """
        state = {
            "model": self.model.state_dict(),
            "guide": self.guide.state_dict(),
            "optimiser": self.optimiser.state_dict(),
            "schedule": self.schedule.state_dict(),
            "epoch": self.epoch,
            "history": self.history,
            "best": self.best,
            "settings": self.settings(),
        }
        written = io.BytesIO()  # torch would not say why a file cannot be written
        torch.save(state, written)
        save(path, written.getvalue())

    def resume(self, path: Path) -> None:
        """Take up where a checkpoint was written.

        Raises:
            TrainingError: the checkpoint is damaged, or was made with other settings.
        """
        now = self.settings()
        try:
            state = torch.load(path, weights_only=True, map_location=self.device)
            then = asdict(TrainConfig()) | state["settings"]  # what was no setting yet had its default
            changed = [k for k, v in now.items() if then.get(k) != v]
            if not changed:
                self._restore(state)
        except Exception as error:  # torch raises half a dozen kinds for a damaged file
            raise TrainingError(
                f"{path} is damaged or cannot be read ({briefly(error)}): the run cannot go on, but its "
                "best weights can be used; train into a new folder."
            ) from error
        if changed:
            raise TrainingError(
                f"The checkpoint {path} was made with other settings ({', '.join(changed)}): resume "
                "with the same ones, or train into a new folder."
            )

    def _restore(self, state: dict[str, Any]) -> None:
        self.model.load_state_dict(state["model"])
        self.guide.load_state_dict(state["guide"])
        self.optimiser.load_state_dict(state["optimiser"])
        self.schedule.load_state_dict(state["schedule"])
        self.epoch, self.history = state["epoch"], state["history"]
        self.best = tuple(state["best"])
