"""What each command of the command line does: options in, exit status out."""

from __future__ import annotations

import json
import math
import os
import sys
from argparse import Namespace
from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import chain, islice
from pathlib import Path

import torch
from tqdm import tqdm

from pyrodvae import whole
from pyrodvae.audio import AudioError, read_audio
from pyrodvae.audio_writer import format_of, write_audio
from pyrodvae.engines import Chain, Engine
from pyrodvae.enhance_config import EnhanceConfig
from pyrodvae.evaluate import System, enhancer, evaluate, resynthesizer
from pyrodvae.files import Transform, enhancing, plan, resynthesizing, transform_files, with_videos
from pyrodvae.metrics import score
from pyrodvae.models import MODELS
from pyrodvae.plots import check_folder, check_picture, plot_costs, plot_spectrogram
from pyrodvae.published import import_weights
from pyrodvae.report import EnhancementReport, check_page, write_results
from pyrodvae.separation import make_engine
from pyrodvae.settings import apply, keywords
from pyrodvae.synthesis import generate
from pyrodvae.train import train
from pyrodvae.trainer import TrainConfig
from pyrodvae.trials import clean_speech, mixtures, pairs, split_of
from pyrodvae.weights import WEIGHTS, Run, load_run, parameters, save_run

LONGEST = 600
"""Seconds that are generated at a time."""


def log(text: str) -> None:
    """Write a line to stderr, above a progress bar if there is one."""
    tqdm.write(f"pyrodvae: {text}", file=sys.stderr)


def one_thread() -> None:
    """Compute with one thread, unless OMP_NUM_THREADS says how many.

    A second one gains a twentieth on an idle machine, and where another program has its core every
    product of small matrices waits for it: enhancement then takes a hundred times as long.
    """
    if "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(1)


def run_enhance(options: Namespace) -> int:
    """Enhance files and folders."""
    one_thread()
    config, (engine,) = _enhancement(options, [options.engine])
    if not options.report:
        return _transform(options, lambda run: enhancing(run, engine, config, options.device, log))
    report = EnhancementReport(options.report, command=options.command)
    return _transform(
        options, lambda run: enhancing(run, engine, config, options.device, log, report.add), report
    )


def run_resynthesize(options: Namespace) -> int:
    """Resynthesize a file or a folder."""
    return _transform(options, resynthesizing)


def run_generate(options: Namespace) -> int:
    """Generate a sound file."""
    format_of(options.out)  # told before any work is done
    check_folder(options.out)
    if options.plot:
        check_picture(options.plot)
    if Path(options.out).exists() and not options.force:
        raise ValueError(f"{options.out} exists: add --force to replace it.")
    if options.seconds > LONGEST:
        raise ValueError(
            f"--seconds takes at most {LONGEST}, not {options.seconds:g}: all is held in memory."
        )
    run = load_run(options.model)
    sound = generate(run, options.seconds, options.seed)
    write_audio(options.out, sound, run.stft.sample_rate)
    if options.plot:
        title = f"{run.card['model']}, seed {options.seed}"
        plot_spectrogram(run.stft(torch.from_numpy(sound))[0], options.seconds, title, options.plot)
    return 0


def run_train(options: Namespace) -> int:
    """Train a model into the folder of a run."""
    assignments = _assignments(options, "epochs", "seed")
    own, rest = keywords(MODELS[options.model], assignments) if options.model in MODELS else ({}, assignments)
    (config,) = apply(rest, TrainConfig())
    trainer = train(
        options.model,
        options.data,
        options.out,
        val=options.val,
        manifest=options.manifest,
        split=split_of(options.manifest, options.split, "train"),
        guide=options.guide,
        config=config,
        settings=own,
        resume=options.resume,
        device=_device(options.device),
        log=lambda text: tqdm.write(text, file=sys.stderr),
    )
    loss, epoch = trainer.best
    print(f"{options.out}: best validation loss {loss:.2f} nats per frame, in epoch {epoch + 1}")
    return 0


def run_evaluate(options: Namespace) -> int:
    """Measure enhancement on pairs or mixtures, or resynthesis on speech; the table to stdout."""
    one_thread()
    split = split_of(options.manifest, options.split, "test")
    select = {"limit": options.limit, "manifest": options.manifest, "split": split}
    if options.pairs and (options.speech or options.noise or options.manifest):
        raise ValueError("--pairs stands alone, without --speech, --noise and --manifest.")
    if not options.pairs and not options.speech:
        raise ValueError("Give the recordings: --pairs DIR, --speech DIR --noise DIR, or --speech DIR alone.")
    if (options.snr or options.pair_rule) and not options.noise:
        raise ValueError("--snr and --pair-rule are for mixtures: give --speech and --noise as well.")
    snrs = options.snr or [0.0]
    if not all(abs(snr) <= 100 for snr in snrs):
        raise ValueError(f"--snr takes ratios between -100 and 100 dB, not {snrs}.")
    if options.plot and not (options.pairs or options.noise):
        raise ValueError("--plot shows what enhancement gains: give --pairs, or --speech with --noise.")
    if options.plot:
        check_picture(options.plot)
    if options.out:
        check_folder(options.out)
    if options.report:
        check_page(options.report)
    if options.pairs:
        trials = pairs(options.pairs, options.limit)
    elif options.noise:
        rules = [_rule(text) for text in options.pair_rule]
        trials = mixtures(options.speech, options.noise, snrs, rules=rules, **select)
    else:
        trials = clean_speech(options.speech, **select)
    config, engines = _enhancement(options, options.engine)
    run, systems = load_run(options.model, _device(options.device)), list[System]()
    if options.pairs or options.noise:
        for key, engine in zip(options.engine, engines, strict=True):
            systems.append(enhancer(options.model, run, key, engine, config, options.device))
    else:
        systems.append(resynthesizer(options.model, run))
    results = evaluate(
        systems, trials, seeds=options.seeds or [config.seed], metrics=options.metrics, out=options.out
    )
    if results.rows:
        print(results.table())
        if options.plot:
            plot_costs(results.costs(), results.metrics[0], options.plot)
    if options.report:
        write_results(results, options.report, command=options.command)
    return _complain(results.failed, len(trials), "recordings")


def run_score(options: Namespace) -> int:
    """Score an estimate; stereo is mixed down, and a metric that does not exist is told with its reason."""
    (s, rate), (e, other) = (read_audio(path) for path in (options.clean, options.estimate))
    if rate != other:
        raise AudioError(f"{options.clean} has {rate} Hz and {options.estimate} {other} Hz: resample one.")
    found = score(e.mean(0), s.mean(0), rate, options.metrics)
    if options.json:
        table: dict[str, object] = {
            name: value if math.isfinite(value) else None for name, (value, _) in found.items()
        }
        table["reasons"] = {
            name: why or f"the value is {value}"
            for name, (value, why) in found.items()
            if not math.isfinite(value)
        }
        print(json.dumps(table, indent=2))
    else:
        for name, (value, why) in found.items():
            print(f"{name:<10}{value:8.3f}  {why}".rstrip())
    return int(all(math.isnan(value) for value, _ in found.values()))


def run_import(options: Namespace) -> int:
    """Write a run of published weights."""
    out = Path(options.out)
    if (out / WEIGHTS).exists() and not options.force:
        raise ValueError(f"{out} already holds a run: add --force to replace it.")
    run = import_weights(options.file, options.config)
    whole.make_folder(out)
    save_run(out, run.model, run.guide, run.card)
    print(f"{out}: {run.card['model']}, {sum(p.numel() for p in parameters(run))} parameters")
    return 0


# --- what they share


def _transform(
    options: Namespace, make: Callable[[Run], Transform], report: EnhancementReport | None = None
) -> int:
    """Do the same to all files, and tell at the end which failed; a report is of all, or stays as it is."""
    jobs = plan(options.inputs, options.out)
    if options.video:
        jobs = with_videos(jobs, options.inputs, options.video)
    transform = make(load_run(options.model, _device(options.device)))
    if report is None:
        failed = transform_files(jobs, transform, force=options.force, log=log)
    else:
        stands = all(job.done for job in jobs) and report.stands([job.target for job in jobs])
        force = options.force or not stands
        failed = transform_files(jobs, transform, force=force, log=log, done=report.finish)
        report.save()
    return _complain(failed, len(jobs), "files")


def _complain(failed: Sequence[tuple[object, str]], total: int, what: str) -> int:
    """Tell what failed; 1 if something did."""
    reasons = [why for _, why in failed]
    if total == 1 and failed:
        log(f"error: {reasons[0]}")
    elif failed:
        log("\n  ".join([f"error: {len(failed)} of {total} {what} failed:", *reasons]))
    return int(bool(failed))


def _enhancement(options: Namespace, keys: Sequence[str]) -> tuple[EnhanceConfig, list[Engine]]:
    """The settings of enhancement and of each engine."""
    return configured(keys, _assignments(options, "iterations", "chains", "noise_rank", "seed"))


def configured(keys: Sequence[str], assignments: Sequence[str]) -> tuple[EnhanceConfig, list[Engine]]:
    """Settings of enhancement, and engines by their keys, also joined as in ``"encoder+langevin"``.

    A setting goes to all engines that have it, those of a chain one by one.

    Raises:
        ValueError: no such engine, or a setting that none has.
    """
    engines = [make_engine(key) for key in keys]
    parts = [engine.engines if isinstance(engine, Chain) else (engine,) for engine in engines]
    config, *found = apply(assignments, EnhanceConfig(), *chain.from_iterable(parts))
    rest = iter(found)
    sets = [tuple(islice(rest, len(part))) for part in parts]
    return config, [
        replace(engine, engines=given) if isinstance(engine, Chain) else given[0]
        for engine, given in zip(engines, sets, strict=True)
    ]


def _assignments(options: Namespace, *names: str) -> list[str]:
    """Options that were given, and those of --set, which have the last word."""
    given = {name: getattr(options, name) for name in names}
    return [*(f"{name}={value}" for name, value in given.items() if value is not None), *options.set]


def _device(name: str) -> str:
    """The name of a device that can be used.

    Raises:
        ValueError: it cannot.
    """
    try:
        if name.split(":")[0] in ("cpu", "cuda", "mps"):
            torch.zeros(1, device=name).cpu()
            return name
    except (RuntimeError, AssertionError):  # AssertionError: torch was built without it
        pass
    raise ValueError(f"The device '{name}' cannot be used here: leave --device out to compute on the CPU.")


def _rule(text: str) -> tuple[str, str]:
    noise, colon, speech = text.partition(":")
    if not (noise and colon and speech):
        raise ValueError(f"A pair rule is written NOISE:SPEECH, not '{text}'.")
    return noise, speech
