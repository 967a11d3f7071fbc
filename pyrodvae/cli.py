"""The command line: results on stdout, progress and complaints on stderr, one sentence for an error."""

from __future__ import annotations

import argparse
import os
import shlex
import signal
import sys
import threading
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from pyrodvae import __doc__ as purpose
from pyrodvae import __version__, commands, completion
from pyrodvae.commands import log
from pyrodvae.graph_command import run_graph
from pyrodvae.listing import run_list, words
from pyrodvae.options import (
    Parser,
    device_option,
    enhancement_options,
    force_option,
    metrics_option,
    model_option,
    number,
    one_by_one,
    output_option,
    report_option,
    seed_option,
    selection_options,
    set_option,
    video_option,
    whole,
)
from pyrodvae.trainer import TrainingError
from pyrodvae.whole import NotWritten


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return the exit status.

    0 is success, 1 an error that was told in a sentence, 2 a wrong option, 130 an interruption, 141 a reader
    of the output who has gone.
    """
    if threading.current_thread() is threading.main_thread():
        for stop in (signal.SIGINT, signal.SIGTERM):  # a scheduler's stop cleans up as Ctrl-C does
            if signal.getsignal(stop) is not signal.SIG_IGN:
                signal.signal(stop, signal.default_int_handler)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        warnings.simplefilter("default", UserWarning)
        warnings.showwarning = lambda message, *_, **__: log(f"warning: {str(message).splitlines()[0]}")
        try:
            options = parse(sys.argv[1:] if arguments is None else arguments)
            status = int(options.run(options))
            sys.stdout.flush()
            return status
        except (ValueError, TrainingError, NotWritten) as error:
            log(f"error: {error}")
        except BrokenPipeError:  # who was reading has seen enough, as in "pyrodvae list | head"
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return 141
        except OSError as error:
            where = f"{error.filename}: " if error.filename else ""
            log(f"error: {where}{error.strerror or error}.")
        except (RuntimeError, MemoryError) as error:
            if isinstance(error, RuntimeError) and "memory" not in str(error):
                raise
            log(f"error: not enough memory for these settings ({str(error).splitlines()[0]}).")
        except KeyboardInterrupt:
            log("interrupted; what was finished is kept.")
            return 130
    return 1


# --- reading the options


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    """The options of one command."""
    options, rest = make_parser().parse_known_args(one_by_one(arguments))
    if rest:
        options.parser.error(f"unrecognized arguments: {' '.join(rest)}")
    options.command = shlex.join(["pyrodvae", *arguments])  # a report says how to make it again
    return options


def make_parser() -> argparse.ArgumentParser:
    """All commands with their options."""
    parser = Parser("pyrodvae", description=purpose)
    parser.add_argument("--version", action="version", version=f"pyrodvae {__version__}")
    kinds = parser.add_subparsers(required=True, metavar="COMMAND")
    for add in (_enhance, _train, _resynthesize, _generate, _evaluate, _score, _graph, _import, _list):
        add(kinds)
    _completion(kinds, parser)
    return parser


def _command(
    kinds: Any, name: str, run: Callable[[argparse.Namespace], int], help: str, *examples: str
) -> argparse.ArgumentParser:
    added: argparse.ArgumentParser = kinds.add_parser(
        name,
        help=help,
        description=f"{help[0].upper()}{help[1:]}.",
        epilog="\n".join(["examples:", *(f"  pyrodvae {name} {example}".rstrip() for example in examples)]),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    added.set_defaults(run=run, parser=added)
    return added


def _enhance(kinds: Any) -> None:
    p = _command(
        kinds,
        "enhance",
        commands.run_enhance,
        "take the noise out of recordings",
        "noisy.wav -o clean.wav",
        "folder -o enhanced --engine mala --chains 4",
        "noisy.wav -o clean.wav --model vae --set temperature=1 average=0.25",
        "noisy.wav -o clean.wav --model av-vae --video lips.mp4",
    )
    p.add_argument("inputs", nargs="+", metavar="IN", help="a sound file, or a folder of them")
    output_option(p, "the file to write; for a folder or several inputs, a folder")
    p.add_argument("--model", default="rvae", metavar="KEY|RUN", help="shipped weights or a run (rvae)")
    p.add_argument("--engine", default="langevin", metavar="KEY[+KEY]", help="see 'pyrodvae list' (langevin)")
    video_option(p)
    seed_option(p)
    enhancement_options(p)
    report_option(p, "what was found, to hear and to see; files are done again for it")
    force_option(p)


def _train(kinds: Any) -> None:
    p = _command(
        kinds,
        "train",
        commands.run_train,
        "train a model on a folder of speech",
        "rvae --data speech --out run",
        "dkf --data speech --out run --guide meanfield --epochs 30 --set latent=8 batch_size=16",
        "dkf --data speech --out run --guide meanfield --epochs 60 --resume",
    )
    p.add_argument("model", metavar="MODEL", help="see 'pyrodvae list'")
    p.add_argument("--data", required=True, type=Path, metavar="DIR", help="recordings of clean speech")
    p.add_argument("--val", type=Path, metavar="DIR", help="others for validation (a tenth of the first)")
    p.add_argument("--out", required=True, type=Path, metavar="RUN", help="the folder to write")
    p.add_argument("--guide", default="paper", metavar="KEY", help="see 'pyrodvae list' (paper)")
    p.add_argument("--epochs", type=whole, metavar="N")
    p.add_argument("--resume", action="store_true", help="go on with the run in RUN")
    seed_option(p)
    selection_options(p, "train", "; its split 'val' validates")
    device_option(p)
    set_option(p)


def _resynthesize(kinds: Any) -> None:
    help = "send clean speech through a model and back, with its own phase"
    examples = ("rvae speech.wav -o copy.wav", "run speech -o copies")
    p = _command(kinds, "resynthesize", commands.run_resynthesize, help, *examples)
    model_option(p)
    p.add_argument("inputs", nargs=1, metavar="IN", help="a sound file, or a folder of them")
    output_option(p, "the file to write; for a folder, a folder")
    video_option(p)
    device_option(p)
    force_option(p)


def _generate(kinds: Any) -> None:
    examples = ("rvae -o speech.wav --seconds 3", "run -o speech.wav --seed 1 --plot speech.png")
    p = _command(kinds, "generate", commands.run_generate, "let a model speak by itself", *examples)
    model_option(p)
    output_option(p, "the file to write")
    p.add_argument("--force", action="store_true", help="replace the file if it exists")
    p.add_argument("--seconds", type=number, default=3.0, metavar="S", help="length (3)")
    p.add_argument("--plot", metavar="PNG", help="also a picture of its spectrogram")
    seed_option(p, 0)


def _evaluate(kinds: Any) -> None:
    p = _command(
        kinds,
        "evaluate",
        commands.run_evaluate,
        "measure enhancement on pairs or mixtures, or resynthesis on speech alone",
        "rvae --pairs pairs --engine langevin vem mala --plot engines.png",
        "rvae --speech speech --noise noise --snr -5 0 5 --out results.csv",
        "run --speech speech --metrics si_sdr estoi",
    )
    model_option(p)
    p.add_argument("--pairs", type=Path, metavar="DIR", help="holds clean/ and noisy/ with equal names")
    p.add_argument("--speech", type=Path, metavar="DIR", help="clean speech")
    p.add_argument("--noise", type=Path, metavar="DIR", help="noise to mix it with")
    p.add_argument("--snr", type=number, nargs="+", metavar="DB", help="of the mixtures (0)")
    p.add_argument(
        "--pair-rule",
        nargs="+",
        default=[],
        metavar="NOISE:SPEECH",
        help="noise with NOISE in its path is only mixed with speech with SPEECH in its path",
    )
    p.add_argument("--limit", type=whole, metavar="N", help="take N recordings, evenly spread")
    selection_options(p, "test", "")
    engines = "one or more; joined by + they take turns (langevin)"
    p.add_argument("--engine", nargs="+", default=["langevin"], metavar="KEY[+KEY]", help=engines)
    p.add_argument("--seed", type=whole, nargs="+", dest="seeds", metavar="N", help="one or more (0)")
    p.set_defaults(seed=None)
    metrics_option(p)
    p.add_argument("--out", type=Path, metavar="CSV", help="a row for each run; a rerun does what is missing")
    p.add_argument("--plot", metavar="PNG", help="also a picture of the first metric against time")
    report_option(p, "quality against time, means, and every run")
    enhancement_options(p)


def _score(kinds: Any) -> None:
    help = "compare an estimate with the clean original"
    examples = ("clean.wav estimate.wav", "clean.wav estimate.wav --metrics si_sdr --json")
    p = _command(kinds, "score", commands.run_score, help, *examples)
    p.add_argument("clean", metavar="CLEAN")
    p.add_argument("estimate", metavar="ESTIMATE")
    metrics_option(p)
    p.add_argument("--json", action="store_true", help="as JSON; what cannot be computed is null")


def _graph(kinds: Any) -> None:
    p = _command(
        kinds,
        "graph",
        run_graph,
        "derive what a model's program implies: posterior, blankets, a guide's verdict, samplers",
        "dkf --guide meanfield",
        "rvae -o rvae.html",
        "vrnn --cost -o costs.png",
        "run --cost --data speech -o guides.png",
    )
    p.add_argument("model", metavar="MODEL|RUN", help="a key of 'pyrodvae list', or the folder of a run")
    p.add_argument("--guide", metavar="KEY", help="see 'pyrodvae list' (paper; that of the run)")
    p.add_argument("--frames", type=whole, default=5, metavar="T", help="that the program is run for (5)")
    cost = "also what guides lose that see less than the posterior needs, on simulated linear-Gaussian data"
    p.add_argument("--cost", action="store_true", help=cost)
    data = "with --cost and a run: instead, what new guides reach beside its model on this speech"
    p.add_argument("--data", type=Path, metavar="DIR", help=data)
    selection_options(p, "train", "; its split 'val' compares the guides")
    p.add_argument("--steps", type=whole, default=500, metavar="N", help="that each is trained for (500)")
    out = "also draw it: .svg or .png, or .html to play with; with --cost, the costs"
    p.add_argument("-o", "--out", metavar="FILE", help=out)


def _import(kinds: Any) -> None:
    help, example = "make a run of published weights", "RVAE_final.pt --config config.ini -o wsj_rvae"
    p = _command(kinds, "import-weights", commands.run_import, help, example)
    p.add_argument(
        "file", type=Path, metavar="FILE", help="a state dict of one of the public implementations"
    )
    p.add_argument("--config", type=Path, metavar="FILE", help="the .ini file that belongs to it")
    output_option(p, "the folder of the run to write")
    p.add_argument("--force", action="store_true", help="replace a run that is there")


def _list(kinds: Any) -> None:
    p = _command(kinds, "list", run_list, "list what there is", "", "engines", "matrix")
    p.add_argument(
        "what",
        nargs="?",
        choices=["models", "guides", "engines", "matrix"],
        help="all but the matrix, which tries every engine with every model and takes seconds",
    )


def _completion(kinds: Any, whole: argparse.ArgumentParser) -> None:
    def run(options: argparse.Namespace) -> int:
        print(completion.script(whole, words(), options.shell), end="")
        return 0

    help = "print a script that lets the TAB key complete commands, options and keys"
    examples = ("bash >> ~/.bashrc", "zsh >> ~/.zshrc", "fish > ~/.config/fish/completions/pyrodvae.fish")
    p = _command(kinds, "completion", run, help, *examples)
    p.add_argument("shell", choices=completion.SHELLS)
