"""The command line: results on stdout, progress and complaints on stderr, one sentence for an error."""

from __future__ import annotations

import argparse
import re
import signal
import sys
import threading
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NoReturn

from pyrodvae import __doc__ as purpose
from pyrodvae import __version__, commands
from pyrodvae.commands import log
from pyrodvae.enhance import EnhanceConfig
from pyrodvae.graph_command import run_graph
from pyrodvae.metrics import METRICS
from pyrodvae.trainer import TrainingError
from pyrodvae.whole import NotWritten


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return the exit status.

    0 is success, 1 an error that was told in a sentence, 2 a wrong option, 130 an interruption.
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
            return int(options.run(options))
        except (ValueError, TrainingError, NotWritten) as error:
            log(f"error: {error}")
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


class Parser(argparse.ArgumentParser):
    """A parser that complains in one sentence, without the lines of usage."""

    def error(self, message: str) -> NoReturn:
        """Tell what is wrong, and leave with status 2."""
        self.exit(2, f"pyrodvae: error: {message[0].upper()}{message[1:]}; see '{self.prog} --help'.\n")


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    """The options of one command."""
    options, rest = make_parser().parse_known_args(one_by_one(arguments))
    if rest:
        options.parser.error(f"unrecognized arguments: {' '.join(rest)}")
    return options


def one_by_one(arguments: Sequence[str]) -> list[str]:
    """``--set a=1 b=2 IN`` as ``--set a=1 --set b=2 IN``: what is no KEY=VALUE is no setting."""
    found: list[str] = []
    setting = False  # whether the text before belongs to a --set
    for text in arguments:
        opened = found[-1:] == ["--set"]
        if setting and not opened and re.match(r"\s*[a-z_]\w*\s*=", text):
            found.append("--set")
        else:
            setting = opened or text.partition("=")[0] == "--set"
        found.append(text)
    return found


def make_parser() -> argparse.ArgumentParser:
    """All commands with their options."""
    parser = Parser("pyrodvae", description=purpose)
    parser.add_argument("--version", action="version", version=f"pyrodvae {__version__}")
    kinds = parser.add_subparsers(required=True, metavar="COMMAND")
    for add in (_enhance, _train, _resynthesize, _generate, _evaluate, _score, _graph, _import, _list):
        add(kinds)
    return parser


def _command(
    kinds: Any, name: str, run: Callable[[argparse.Namespace], int], help: str, example: str
) -> argparse.ArgumentParser:
    added: argparse.ArgumentParser = kinds.add_parser(
        name,
        help=help,
        description=f"{help[0].upper()}{help[1:]}.",
        epilog=f"example: pyrodvae {name} {example}",
    )
    added.set_defaults(run=run, parser=added)
    return added


def _enhance(kinds: Any) -> None:
    help, example = "take the noise out of recordings", "noisy.wav -o clean.wav"
    p = _command(kinds, "enhance", commands.run_enhance, help, example)
    p.add_argument("inputs", nargs="+", metavar="IN", help="a sound file, or a folder of them")
    _output(p, "the file to write; for a folder or several inputs, a folder")
    p.add_argument("--model", default="rvae", metavar="KEY|RUN", help="shipped weights or a run (rvae)")
    p.add_argument("--engine", default="langevin", metavar="KEY[+KEY]", help="see 'pyrodvae list' (langevin)")
    _seed(p)
    _enhancement(p)
    _force(p)


def _train(kinds: Any) -> None:
    help, example = "train a model on a folder of speech", "rvae --data speech --out run"
    p = _command(kinds, "train", commands.run_train, help, example)
    p.add_argument("model", metavar="MODEL", help="see 'pyrodvae list'")
    p.add_argument("--data", required=True, type=Path, metavar="DIR", help="recordings of clean speech")
    p.add_argument("--val", type=Path, metavar="DIR", help="others for validation (a tenth of the first)")
    p.add_argument("--out", required=True, type=Path, metavar="RUN", help="the folder to write")
    p.add_argument("--guide", default="paper", metavar="KEY", help="see 'pyrodvae list' (paper)")
    p.add_argument("--epochs", type=int, metavar="N")
    p.add_argument("--resume", action="store_true", help="go on with the run in RUN")
    _seed(p)
    _selection(p, "train", "; its split 'val' validates")
    _device(p)
    _set(p)


def _resynthesize(kinds: Any) -> None:
    help = "send clean speech through a model and back, with its own phase"
    p = _command(kinds, "resynthesize", commands.run_resynthesize, help, "rvae speech.wav -o copy.wav")
    _model(p)
    p.add_argument("inputs", nargs=1, metavar="IN", help="a sound file, or a folder of them")
    _output(p, "the file to write; for a folder, a folder")
    _device(p)
    _force(p)


def _generate(kinds: Any) -> None:
    help, example = "let a model speak by itself", "rvae -o speech.wav --seconds 3"
    p = _command(kinds, "generate", commands.run_generate, help, example)
    _model(p)
    _output(p, "the file to write")
    p.add_argument("--force", action="store_true", help="replace the file if it exists")
    p.add_argument("--seconds", type=float, default=3.0, metavar="S", help="length (3)")
    p.add_argument("--plot", metavar="PNG", help="also a picture of its spectrogram")
    _seed(p, 0)


def _evaluate(kinds: Any) -> None:
    help = "measure enhancement on pairs or mixtures, or resynthesis on speech alone"
    example = "rvae --speech speech --noise noise --snr -5 0 5 --out results.csv"
    p = _command(kinds, "evaluate", commands.run_evaluate, help, example)
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
    engines = "one or more; joined by + they take turns (langevin)"
    p.add_argument("--engine", nargs="+", default=["langevin"], metavar="KEY[+KEY]", help=engines)
    p.add_argument("--seed", type=int, nargs="+", dest="seeds", metavar="N", help="one or more (0)")
    p.set_defaults(seed=None)
    _metrics(p)
    p.add_argument("--out", type=Path, metavar="CSV", help="a row for each run; a rerun does what is missing")
    p.add_argument("--plot", metavar="PNG", help="also a picture of the first metric against time")
    _enhancement(p)


def _score(kinds: Any) -> None:
    help, example = "compare an estimate with the clean original", "clean.wav estimate.wav"
    p = _command(kinds, "score", commands.run_score, help, example)
    p.add_argument("clean", metavar="CLEAN")
    p.add_argument("estimate", metavar="ESTIMATE")
    _metrics(p)
    p.add_argument("--json", action="store_true", help="as JSON; what cannot be computed is null")


def _graph(kinds: Any) -> None:
    help = "derive what a model's program implies: posterior, blankets, a guide's verdict, samplers"
    p = _command(kinds, "graph", run_graph, help, "dkf --guide meanfield")
    p.add_argument("model", metavar="MODEL", help="see 'pyrodvae list'")
    p.add_argument("--guide", default="paper", metavar="KEY", help="see 'pyrodvae list' (paper)")
    p.add_argument("--frames", type=int, default=5, metavar="T", help="that the program is run for (5)")
    cost = "also what guides lose that see less than the posterior needs, on simulated linear-Gaussian data"
    p.add_argument("--cost", action="store_true", help=cost)
    out = "also draw it: .svg or .png, or .html to play with; with --cost, a .png of the costs"
    p.add_argument("-o", "--out", metavar="FILE", help=out)


def _import(kinds: Any) -> None:
    help, example = "make a run of published weights", "RVAE_final.pt --config config.ini -o wsj_rvae"
    p = _command(kinds, "import-weights", commands.run_import, help, example)
    p.add_argument(
        "file", type=Path, metavar="FILE", help="a state dict of one of the public implementations"
    )
    p.add_argument("--config", type=Path, metavar="FILE", help="the .ini file that belongs to it")
    _output(p, "the folder of the run to write")
    p.add_argument("--force", action="store_true", help="replace a run that is there")


def _list(kinds: Any) -> None:
    p = _command(kinds, "list", commands.run_list, "list what there is", "engines")
    p.add_argument(
        "what",
        nargs="?",
        choices=["models", "guides", "engines", "matrix"],
        help="all but the matrix, which tries every engine with every model and takes seconds",
    )


# --- options that several commands have


def _model(p: argparse.ArgumentParser) -> None:
    p.add_argument("model", metavar="RUN|KEY", help="the folder of a run, or the key of shipped weights")


def _output(p: argparse.ArgumentParser, help: str) -> None:
    p.add_argument("-o", "--out", required=True, metavar="OUT", help=help)


def _force(p: argparse.ArgumentParser) -> None:
    p.add_argument("--force", action="store_true", help="do files again that are done already")


def _seed(p: argparse.ArgumentParser, default: int | None = None) -> None:
    p.add_argument("--seed", type=int, default=default, metavar="N", help="of everything random (0)")


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
        "--set", action="append", default=[], metavar="KEY=VALUE", help="any other setting; one or more"
    )
