"""The command line: results on stdout, progress and complaints on stderr, one sentence for an error."""

from __future__ import annotations

import argparse
import signal
import threading
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path

from pyrodvae import __doc__ as purpose
from pyrodvae import __version__, commands
from pyrodvae.commands import log
from pyrodvae.enhance import EnhanceConfig
from pyrodvae.metrics import METRICS
from pyrodvae.train import TrainingError


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return the exit status.

    0 is success, 1 an error that was told in a sentence, 2 a wrong option, 130 an interruption.
    """
    options = make_parser().parse_args(arguments)
    if threading.current_thread() is threading.main_thread():  # a scheduler's stop cleans up as Ctrl-C does
        signal.signal(signal.SIGTERM, signal.default_int_handler)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        warnings.simplefilter("default", UserWarning)
        warnings.showwarning = lambda message, *_, **__: log(f"warning: {str(message).splitlines()[0]}")
        try:
            return int(options.run(options))
        except OSError as error:
            where = f"{error.filename}: " if error.filename else ""
            log(f"error: {where}{error.strerror or error}.")
        except (ValueError, TrainingError) as error:
            log(f"error: {error}")
        except RuntimeError as error:
            if "memory" not in str(error):
                raise
            log(f"error: not enough memory for these settings ({str(error).splitlines()[0]}).")
        except KeyboardInterrupt:
            log("interrupted; what was finished is kept.")
            return 130
    return 1


def make_parser() -> argparse.ArgumentParser:
    """All commands with their options."""
    parser = argparse.ArgumentParser("pyrodvae", description=purpose)
    parser.add_argument("--version", action="version", version=f"pyrodvae {__version__}")
    all_commands = parser.add_subparsers(required=True, metavar="COMMAND")

    def command(
        name: str, run: Callable[[argparse.Namespace], int], help: str, example: str
    ) -> argparse.ArgumentParser:
        added = all_commands.add_parser(
            name,
            help=help,
            description=f"{help[0].upper()}{help[1:]}.",
            epilog=f"example: pyrodvae {name} {example}",
        )
        added.set_defaults(run=run)
        return added

    p = command("enhance", commands.run_enhance, "take the noise out of recordings", "noisy.wav -o clean.wav")
    p.add_argument("inputs", nargs="+", metavar="IN", help="a sound file, or a folder of them")
    _output(p, "the file to write; for a folder or several inputs, a folder")
    p.add_argument("--model", default="rvae", metavar="KEY|RUN", help="shipped weights or a run (rvae)")
    p.add_argument("--engine", default="langevin", metavar="KEY", help="see 'pyrodvae list' (langevin)")
    p.add_argument("--seed", type=int, metavar="N", help="of everything random (0)")
    _enhancement(p)
    p.add_argument("--force", action="store_true", help="do files again that are done already")

    p = command(
        "train", commands.run_train, "train a model on a folder of speech", "rvae --data speech --out run"
    )
    p.add_argument("model", metavar="MODEL", help="see 'pyrodvae list'")
    p.add_argument("--data", required=True, type=Path, metavar="DIR", help="recordings of clean speech")
    p.add_argument("--val", type=Path, metavar="DIR", help="others for validation (a tenth of the first)")
    p.add_argument("--out", required=True, type=Path, metavar="RUN", help="the folder to write")
    p.add_argument("--guide", default="paper", metavar="KEY", help="see 'pyrodvae list' (paper)")
    p.add_argument("--epochs", type=int, metavar="N")
    p.add_argument("--resume", action="store_true", help="go on with the run in RUN")
    p.add_argument("--seed", type=int, metavar="N", help="of everything random (0)")
    _selection(p, "train", "; its split 'val' validates")
    _device(p)
    _set(p)

    p = command(
        "resynthesize",
        commands.run_resynthesize,
        "send clean speech through a model and back, with its own phase",
        "rvae speech.wav -o copy.wav",
    )
    _model(p)
    p.add_argument("inputs", nargs=1, metavar="IN", help="a sound file, or a folder of them")
    _output(p, "the file to write; for a folder, a folder")
    _device(p)
    p.add_argument("--force", action="store_true", help="do files again that are done already")

    p = command(
        "generate", commands.run_generate, "let a model speak by itself", "rvae -o speech.wav --seconds 3"
    )
    _model(p)
    _output(p, "the file to write")
    p.add_argument("--force", action="store_true", help="replace the file if it exists")
    p.add_argument("--seconds", type=float, default=3.0, metavar="S", help="length (3)")
    p.add_argument("--seed", type=int, default=0, metavar="N", help="of everything random (0)")

    p = command(
        "evaluate",
        commands.run_evaluate,
        "measure enhancement on pairs or mixtures, or resynthesis on speech alone",
        "rvae --speech speech --noise noise --snr -5 0 5 --out results.csv",
    )
    _model(p)
    p.add_argument("--pairs", type=Path, metavar="DIR", help="holds clean/ and noisy/ with equal names")
    p.add_argument("--speech", type=Path, metavar="DIR", help="clean speech")
    p.add_argument("--noise", type=Path, metavar="DIR", help="noise to mix it with")
    p.add_argument("--snr", type=float, nargs="+", default=[0.0], metavar="DB", help="of the mixtures (0)")
    p.add_argument(
        "--pair-rule",
        nargs="+",
        default=[],
        metavar="NOISE:SPEECH",
        help="noise with NOISE in its path is only mixed with speech with SPEECH in its path",
    )
    p.add_argument("--limit", type=int, metavar="N", help="take N recordings, evenly spread")
    _selection(p, "test", "")
    p.add_argument("--engine", nargs="+", default=["langevin"], metavar="KEY", help="one or more (langevin)")
    p.add_argument("--seed", type=int, nargs="+", dest="seeds", metavar="N", help="one or more (0)")
    p.set_defaults(seed=None)
    _metrics(p)
    p.add_argument("--out", type=Path, metavar="CSV", help="a row for each run; a rerun does what is missing")
    _enhancement(p)

    p = command(
        "score", commands.run_score, "compare an estimate with the clean original", "clean.wav estimate.wav"
    )
    p.add_argument("clean", metavar="CLEAN")
    p.add_argument("estimate", metavar="ESTIMATE")
    _metrics(p)
    p.add_argument("--json", action="store_true", help="as JSON; what cannot be computed is null")

    p = command("list", commands.run_list, "list what there is", "engines")
    p.add_argument("what", nargs="?", choices=["models", "guides", "engines"])
    return parser


def _model(p: argparse.ArgumentParser) -> None:
    p.add_argument("model", metavar="RUN|KEY", help="the folder of a run, or the key of shipped weights")


def _output(p: argparse.ArgumentParser, help: str) -> None:
    p.add_argument("-o", "--out", required=True, metavar="OUT", help=help)


def _device(p: argparse.ArgumentParser) -> None:
    p.add_argument("--device", default="cpu", metavar="D", help="for example cuda (cpu)")


def _metrics(p: argparse.ArgumentParser) -> None:
    p.add_argument("--metrics", nargs="+", metavar="M", help=f"some of {' '.join(METRICS)} (all)")


def _selection(p: argparse.ArgumentParser, split: str, more: str) -> None:
    p.add_argument(
        "--manifest",
        type=Path,
        metavar="FILE",
        help=f"a table with columns 'path' and 'split' that selects recordings{more}",
    )
    p.add_argument("--split", metavar="NAME", help=f"of the manifest ({split})")


def _enhancement(p: argparse.ArgumentParser) -> None:
    default = EnhanceConfig()
    p.add_argument("--iterations", type=int, metavar="N", help=f"of EM ({default.iterations})")
    p.add_argument("--chains", type=int, metavar="S", help=f"draws side by side ({default.chains})")
    p.add_argument("--noise-rank", type=int, metavar="K", help=f"of the noise ({default.noise_rank})")
    _device(p)
    _set(p)


def _set(p: argparse.ArgumentParser) -> None:
    p.add_argument(
        "--set", nargs="+", action="extend", default=[], metavar="KEY=VALUE", help="any other setting"
    )
