"""Training: stochastic variational inference on crops of a corpus."""

from __future__ import annotations

import csv
import math
import os
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor
from tqdm import tqdm

from pyrodvae.data import Crops, load, scan
from pyrodvae.dvae import DVAE
from pyrodvae.guides import Guide
from pyrodvae.nets import frame_mask
from pyrodvae.objective import KLWeight, elbo, find_nan, terms
from pyrodvae.program import local_parameters
from pyrodvae.signal import STFT
from pyrodvae.weights import CARD, WEIGHTS, base_card, make_pair, save_run

CHECKPOINT = "checkpoint.pt"
Progress = Callable[[str], None]


class TrainingError(RuntimeError):
    """Training cannot go on; the message is one sentence for the user."""


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
        seed: of weights, crops and draws.
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
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("epochs", "batch_size", "frames", "learning_rate", "clip", "hidden", "latent"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} must be more than 0, not {getattr(self, name)}.")
        for name in ("beta", "warmup", "patience", "gain_db", "denoise_db"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} cannot be negative: {getattr(self, name)}.")


def validate(model: DVAE, guide: Guide, crops: Crops, seed: int) -> tuple[float, float]:
    """Mean negative log-likelihood and KL per frame on the same crops and draws every time."""
    device = model.z_0.device
    nll = kl = frames = 0.0
    with torch.no_grad(), torch.random.fork_rng():
        torch.manual_seed(seed)
        for x, lengths in crops.epoch(seed):
            lengths = None if lengths is None else lengths.to(device)
            a, b = terms(model, guide, x.to(device), lengths)
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
        train: Crops,
        validation: Crops,
        config: TrainConfig,
        device: str = "cpu",
    ) -> None:
        self.model, self.guide = model.to(device), guide.to(device)
        self.train, self.validation, self.config = train, validation, config
        self.device = device
        self.parameters = [*model.parameters(), *guide.parameters()]
        self.optimiser = torch.optim.Adam(self.parameters, config.learning_rate)
        self.schedule = torch.optim.lr_scheduler.OneCycleLR(
            self.optimiser, config.learning_rate, total_steps=config.epochs * train.batches
        )
        with local_parameters():
            self.loss = elbo(config.objective)(model, guide)
        self.epoch = 0
        self.history: list[dict[str, float]] = []
        self.best = (math.inf, -1)

    def beta(self, epoch: int) -> float:
        """The weight of the KL term in an epoch."""
        warmup = self.config.warmup
        return self.config.beta * (min(1.0, epoch / warmup) if warmup else 1.0)

    def step(self, x: Tensor, lengths: Tensor | None, beta: float, where: str) -> float:
        """One gradient step on a batch; the loss in nats per frame.

        Raises:
            TrainingError: loss or gradient is not finite; the weights are left as they were.
        """
        x = x.to(self.device)
        lengths = None if lengths is None else lengths.to(self.device)
        frames = x.shape[0] * x.shape[1] if lengths is None else int(lengths.sum())
        self.optimiser.zero_grad()
        with local_parameters(), KLWeight(beta):
            loss = self.loss(x, lengths) / frames
        loss.backward()
        value = float(loss.detach())
        norm = torch.nn.utils.clip_grad_norm_(self.parameters, self.config.clip)
        if not (math.isfinite(value) and math.isfinite(float(norm))):
            raise TrainingError(
                f"Not a number in {where}: {find_nan(self.model, self.guide, x, lengths)}. Lower the "
                "learning rate or look at that recording; the last good epoch is kept."
            )
        self.optimiser.step()
        self.schedule.step()
        return value

    def run_epoch(self, show: bool = True) -> dict[str, float]:
        """Train one epoch and validate; returns the row of the history."""
        seed = self.config.seed * 1_000_003 + self.epoch
        torch.manual_seed(seed)
        beta, total = self.beta(self.epoch), 0.0
        bar = tqdm(
            self.train.epoch(seed),
            total=self.train.batches,
            desc=f"epoch {self.epoch + 1}/{self.config.epochs}",
            leave=False,
            disable=not show,
        )
        for i, (x, lengths) in enumerate(bar):
            total += self.step(x, lengths, beta, f"epoch {self.epoch + 1}, batch {i + 1}")
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
        if row["val_loss"] < self.best[0]:
            self.best = (row["val_loss"], self.epoch)
        self.epoch += 1
        return row

    def finished(self) -> bool:
        """Whether all epochs are done, or none has been better for too long."""
        stale = self.epoch - 1 - max(self.best[1], self.config.warmup)
        return self.epoch >= self.config.epochs or stale >= self.config.patience

    def settings(self) -> dict[str, Any]:
        """All that has to be the same on resumption."""
        pair = {"model": type(self.model).__name__, "guide": str(self.guide.sees)}
        return {**pair, **asdict(self.config)}

    def save(self, path: Path) -> None:
        """Write the checkpoint in one step."""
        temporary = path.with_suffix(".tmp")
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
        torch.save(state, temporary)
        os.replace(temporary, path)

    def resume(self, path: Path) -> None:
        """Take up where a checkpoint was written.

        Raises:
            TrainingError: the checkpoint is damaged, or was made with other settings.
        """
        try:
            state = torch.load(path, weights_only=True, map_location=self.device)
            then = state["settings"]
        except Exception as error:  # torch raises half a dozen kinds for a damaged file
            raise TrainingError(f"The checkpoint {path} is damaged: {error}") from error
        now = self.settings()
        if then != now:
            changed = [k for k, v in now.items() if then.get(k) != v]
            raise TrainingError(
                f"The checkpoint {path} was made with other settings ({', '.join(changed)}): resume "
                "with the same ones, or train into a new folder."
            )
        self.model.load_state_dict(state["model"])
        self.guide.load_state_dict(state["guide"])
        self.optimiser.load_state_dict(state["optimiser"])
        self.schedule.load_state_dict(state["schedule"])
        self.epoch, self.history = state["epoch"], state["history"]
        self.best = tuple(state["best"])


def train(
    model: str,
    data: str | Path,
    out: str | Path,
    *,
    val: str | Path | None = None,
    manifest: str | Path | None = None,
    split: str | None = "train",
    guide: str = "paper",
    config: TrainConfig | None = None,
    resume: bool = False,
    device: str = "cpu",
    log: Progress = lambda text: None,
) -> Trainer:
    """Train a model on a folder of speech and leave a run in ``out``.

    Args:
        model, guide: keys.
        data: a folder of recordings.
        out: the folder of the run: weights (of the best epoch), card, checkpoint, history, curves.
        val: a folder for validation; without it (and without a manifest) every tenth recording is
            set aside.
        manifest, split: select recordings by a manifest; its split ``val`` then validates.
        config: the settings.
        resume: go on from the checkpoint in ``out``.
        device: for example ``"cuda"``.
        log: called with each line of progress.

    Raises:
        AudioError, WeightsError, TrainingError, ValueError: as sentences.
    """
    from pyrodvae.plots import plot_history

    config, out, data = config or TrainConfig(), Path(out), Path(data)
    checkpoint = out / CHECKPOINT
    held_files = [f for f in (CHECKPOINT, WEIGHTS, CARD, "manifest.tsv", "history.csv") if (out / f).exists()]
    if held_files and not resume:
        raise TrainingError(
            f"{out} already holds a run: add --resume to go on, or choose another ({held_files[0]} is there)."
        )
    if resume and not checkpoint.exists():
        raise TrainingError(f"There is no checkpoint in {out} to resume from.")
    stft = STFT()
    sizes = {"observed": stft.bins, "latent": config.latent, "hidden": config.hidden}
    torch.manual_seed(config.seed)
    m, g = make_pair(model, sizes, guide, config.hidden)
    corpus = scan(data, Path(manifest) if manifest else None, split if manifest else None)
    signals, skipped = load(corpus, stft, config.denoise_db)
    if val or manifest:
        held = scan(
            Path(val) if val else data,
            Path(manifest) if manifest else None,
            "val" if manifest else None,
        )
        held_signals, _ = load(held, stft, config.denoise_db)
    else:
        if len(signals) < 2:
            raise TrainingError("Training needs at least two recordings: one is set aside.")
        held_signals = signals[::10]
        signals = [y for i, y in enumerate(signals) if i % 10]
    out.mkdir(parents=True, exist_ok=True)
    corpus.without(skipped).write(out / "manifest.tsv")
    for path, why in (*corpus.skipped, *skipped):
        log(f"skipped {path}: {why}")
    minutes = sum(len(y) for y in signals) / stft.sample_rate / 60
    log(f"{len(signals)} recordings, {minutes:.1f} minutes of speech; {len(held_signals)} held out")

    crops = Crops(signals, stft, config.frames, config.batch_size, config.gain_db)
    sample, n = next(Crops(signals, stft, config.frames, 512, config.gain_db).epoch(config.seed))
    if n is not None:
        sample = sample[frame_mask(n, config.frames)]  # padding is no speech
    m.fit_statistics(sample)
    g.fit_statistics(sample)
    trainer = Trainer(
        m, g, crops, Crops(held_signals, stft, config.frames, 32, config.gain_db), config, device
    )
    if resume:
        trainer.resume(checkpoint)
        if trainer.epoch and not (out / WEIGHTS).exists():
            raise TrainingError(f"{out} has lost {WEIGHTS}, its best weights: train into a new folder.")
    card = base_card(model, m, guide, config.hidden, stft)
    card["training"] = {**asdict(config), "minutes": round(minutes, 1), "recordings": len(signals)}
    while not trainer.finished():
        row = trainer.run_epoch()
        log("  ".join(f"{k} {v:.4g}" for k, v in row.items()))
        if trainer.best[1] == trainer.epoch - 1:  # written at once: the best, not the last
            card["validation"] = {k: round(v, 3) for k, v in row.items()}
            save_run(out, m, g, card)
        trainer.save(checkpoint)
        write_history(out / "history.csv", trainer.history)
        plot_history(trainer.history, out / "curves.png")
    return trainer


def write_history(path: Path, history: list[dict[str, float]]) -> None:
    """Write the history as CSV, in one step."""
    temporary = path.with_suffix(".tmp")
    with temporary.open("w", newline="") as f:
        rows = csv.DictWriter(f, list(history[0]))
        rows.writeheader()
        rows.writerows(history)
    os.replace(temporary, path)
