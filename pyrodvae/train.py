"""Training: from a folder of recordings to the folder of a run."""

from __future__ import annotations

import csv
import io
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from inspect import signature
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from pyrodvae.av_data import AVCrops, Recording, load_av
from pyrodvae.data import Corpus, Crops, load, scan
from pyrodvae.dvae import DVAE
from pyrodvae.guide import Guide
from pyrodvae.guides import PAPER
from pyrodvae.models import MODELS, is_given_video
from pyrodvae.nets import frame_mask
from pyrodvae.objective import Batch
from pyrodvae.signal import STFT
from pyrodvae.trainer import TrainConfig, Trainer, TrainingError, on
from pyrodvae.weights import CARD, WEIGHTS, WeightsError, base_card, load_run, make_pair, save_run
from pyrodvae.whole import make_folder, save

CHECKPOINT, MANIFEST, HISTORY = "checkpoint.pt", "manifest.tsv", "history.csv"
Progress = Callable[[str], None]


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
    settings: Mapping[str, Any] | None = None,
    resume: bool = False,
    device: str = "cpu",
    log: Progress = lambda text: None,
    show: bool = True,
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
        settings: of the model's own, keywords of its constructor: ``{"atoms": 64}``.
        resume: go on from the checkpoint in ``out``.
        device: for example ``"cuda"``.
        log: called with each line of progress.
        show: whether a bar shows how far an epoch is.

    Raises:
        AudioError, WeightsError, TrainingError, ValueError: as sentences.
    """
    config, out, data = config or TrainConfig(), Path(out), Path(data)
    val, manifest = (Path(path) if path else None for path in (val, manifest))
    check_out(out, resume)
    stft = STFT()
    if model in MODELS and not MODELS[model].speech:
        raise ValueError(
            f"'{model}' is a model of real vectors, not of speech: fit it to arrays with "
            "pyrodvae.sequences.fit (see docs/sequences.md)."
        )
    sizes: dict[str, Any] = {"observed": stft.bins, "latent": config.latent, "hidden": config.hidden}
    sizes |= settings or {}
    of_guide: dict[str, Any] = {"hidden": config.hidden}
    seeing = model in MODELS and is_given_video(model)
    if seeing:
        sizes["video"] = config.side**2
        if "reader" in signature(MODELS[model]).parameters:  # that of a V-VAE looks at no lips
            sizes["reader"] = config.reader
        if "reader" in signature(PAPER[MODELS[model]][0]).parameters:  # else it reads as the model does
            of_guide["reader"] = config.reader
    torch.manual_seed(config.seed)
    m, g = make_pair(model, sizes, guide, of_guide)
    card = base_card(model, m, guide, g, stft)
    if resume:  # what forbids to go on, or makes it needless, is found out before the corpus is read
        nothing = Crops([], stft)
        trainer = Trainer(m, g, nothing, nothing, config, device)
        trainer.resume(out / CHECKPOINT)
        if trainer.finished():
            return trainer
    elif config.start:
        start_from(config.start, m, g, card)
    corpus, to_validate = find(data, val, manifest, split)
    make_folder(out)
    if seeing:
        face: Literal["face"] | None = "face" if config.face else None
        options = (config.side, config.denoise_db, face)
        with warnings.catch_warnings(record=True) as told:
            warnings.simplefilter("always")
            speech = Speech.load(corpus, to_validate, lambda c: load_av(c, stft, *options))
        for one in told:
            log(str(one.message))
    else:
        speech = Speech.load(corpus, to_validate, lambda c: load(c, stft, config.denoise_db))
    for path, why in speech.skipped:
        log(f"skipped {path}: {why}")
    minutes = sum(len(y) for y in speech.signals) / stft.sample_rate / 60
    log(f"{len(speech.train)} recordings, {minutes:.1f} minutes of speech; {len(speech.held)} held out")
    crops, held = speech.crops(stft, config)
    if not resume and not config.start:
        fit_statistics(m, g, replace(crops, batch_size=512), config.seed)
    trainer = Trainer(m, g, crops, held, config, device)
    if resume:
        trainer.resume(out / CHECKPOINT)
    card["training"] = {**asdict(config), "minutes": round(minutes, 1), "recordings": len(speech.train)}
    write_run(trainer, out, card, speech.corpus, log, show)
    return trainer


def check_out(out: Path, resume: bool) -> None:
    """Raise a TrainingError unless a run can be begun in a folder, or gone on with."""
    there = [f for f in (CHECKPOINT, WEIGHTS, CARD, MANIFEST, HISTORY) if (out / f).exists()]
    if there and not resume:
        raise TrainingError(
            f"{out} already holds a run: add --resume to go on, or choose another ({there[0]} is there)."
        )
    if resume and CHECKPOINT not in there:
        raise TrainingError(f"There is no checkpoint in {out} to resume from.")
    if resume and WEIGHTS not in there:
        raise TrainingError(f"{out} has lost {WEIGHTS}, its best weights: train into a new folder.")


def find(
    data: Path, val: Path | None, manifest: Path | None, split: str | None
) -> tuple[Corpus, Corpus | None]:
    """The recordings to learn from, and those to validate on unless they have to be set aside."""
    if manifest is None:
        return scan(data), scan(val) if val else None
    return scan(data, manifest, split), scan(val or data, manifest, "val")


@dataclass(frozen=True)
class Speech:
    """Recordings, prepared.

    Args:
        train: to learn from; signals, or :class:`~pyrodvae.av_data.Recording` of sound and lips.
        held: to validate on, likewise.
        corpus: the files to learn from; those that turned out unusable are among its skipped ones.
        skipped: (path, reason) of each file that cannot be used for either.
    """

    train: list[Any]
    held: list[Any]
    corpus: Corpus
    skipped: Sequence[tuple[Path, str]]

    @classmethod
    def load(
        cls,
        corpus: Corpus,
        held: Corpus | None,
        read: Callable[[Corpus], tuple[list[Any], list[tuple[Path, str]]]],
    ) -> Speech:
        """Read all recordings; without some to validate on, every tenth is set aside.

        Raises:
            TrainingError: there are too few.
        """
        signals, unusable = read(corpus)
        corpus = corpus.without(unusable)
        if held is not None:
            held_signals, unusable = read(held)
            return cls(signals, held_signals, corpus, (*corpus.skipped, *held.skipped, *unusable))
        if len(signals) < 2:
            raise TrainingError("Training needs at least two recordings: one is set aside.")
        return cls([y for i, y in enumerate(signals) if i % 10], signals[::10], corpus, corpus.skipped)

    @property
    def signals(self) -> list[Tensor]:
        """The sound of those to learn from."""
        return [y.signal if isinstance(y, Recording) else y for y in self.train]

    def crops(self, stft: STFT, config: TrainConfig) -> tuple[Crops | AVCrops, Crops | AVCrops]:
        """Crops to learn from, and to validate on: those of whole pictures."""
        if not isinstance(self.train[0], Recording):
            crops = Crops(self.train, stft, config.frames, config.batch_size, config.gain_db)
            return crops, replace(crops, signals=self.held, batch_size=32)
        av = AVCrops(
            self.train,
            stft,
            config.frames,
            config.batch_size,
            config.gain_db,
            corrupt_share=config.corrupt_share,
            drop_share=config.drop_share,
        )
        return av, replace(av, recordings=self.held, batch_size=32, corrupt_share=0.0, drop_share=0.0)


def fit_statistics(model: DVAE, guide: Guide, crops: Crops | AVCrops, seed: int) -> None:
    """Take means and scales of the spectrum, and of the pictures, from one batch of crops."""
    batches: Iterator[Batch] = crops.epoch(seed)
    x, lengths, v = on("cpu", next(batches))
    if lengths is not None:
        x = x[frame_mask(lengths, crops.frames)]  # padding is no speech
    model.fit_statistics(x, v)
    guide.fit_statistics(x, v)


def write_run(
    trainer: Trainer, out: Path, card: dict[str, Any], corpus: Corpus, log: Progress, show: bool = True
) -> None:
    """Train to the end, and write the run after every epoch: the weights of the best, not the last."""
    from pyrodvae.plots import plot_history

    while not trainer.finished():
        row = trainer.run_epoch(show)
        log("  ".join(f"{k} {v:.4g}" for k, v in row.items()))
        if trainer.best[1] == trainer.epoch - 1:
            card["validation"] = {k: round(v, 3) for k, v in row.items()}
            save_run(out, trainer.model, trainer.guide, card)
        corpus.write(out / MANIFEST)
        write_history(out / HISTORY, trainer.history)
        plot_history(trainer.history, out / "curves.png")
        trainer.save(out / CHECKPOINT)


def start_from(source: str, model: DVAE, guide: Guide, card: dict[str, Any]) -> None:
    """Fill a fresh pair with the weights of a run, its statistics of the spectrum included.

    Args:
        source: a key of shipped weights, or the folder of a run.
        model, guide: the pair.
        card: its :func:`base_card`, which that of the run has to equal.

    Raises:
        WeightsError: the run cannot be loaded, or is of another model, guide, size or front end.
    """
    run = load_run(source)
    theirs, ours = (
        {"model": c["model"], "guide": c["guide"], **c["stft"], **c["config"]}
        | {f"{name} of the guide": value for name, value in c["guide_config"].items()}
        for c in (run.card, card)
    )
    for name, wanted in ours.items():
        if theirs.get(name) != wanted:
            raise WeightsError(
                f"Training cannot start from '{source}': its {name} is {theirs.get(name)}, and "
                f"{wanted} is asked for."
            )
    model.load_state_dict(run.model.state_dict())
    guide.load_state_dict(run.guide.state_dict())


def write_history(path: Path, history: list[dict[str, float]]) -> None:
    """Write the history as CSV, in one step."""
    table = io.StringIO(newline="")
    rows = csv.DictWriter(table, list(history[0]))
    rows.writeheader()
    rows.writerows(history)
    save(path, table.getvalue().encode())
