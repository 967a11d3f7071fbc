"""How the command line is read: a parser that complains in a sentence, and the options commands share."""

from __future__ import annotations

import argparse
import re
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

from pyrodvae.enhance_config import EnhanceConfig
from pyrodvae.metrics import METRICS


class Parser(argparse.ArgumentParser):
    """A parser that complains in one sentence, without the lines of usage."""

    def error(self, message: str) -> NoReturn:
        """Tell what is wrong, and leave with status 2."""
        self.exit(2, f"pyrodvae: error: {message[0].upper()}{message[1:]}; see '{self.prog} --help'.\n")


def whole(text: str) -> int:
    """The type of an option that counts."""
    try:
        return int(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"it takes a whole number, not '{text}'") from None


def number(text: str) -> float:
    """The type of an option that measures."""
    try:
        return float(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"it takes a number, not '{text}'") from None


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


def model_option(p: argparse.ArgumentParser) -> None:
    """RUN|KEY, the trained pair."""
    p.add_argument("model", metavar="RUN|KEY", help="the folder of a run, or the key of shipped weights")


def output_option(p: argparse.ArgumentParser, help: str) -> None:
    """Where to write."""
    p.add_argument("-o", "--out", required=True, metavar="OUT", help=help)


def force_option(p: argparse.ArgumentParser) -> None:
    """Whether what is done is done again."""
    p.add_argument("--force", action="store_true", help="do files again that are done already")


def video_option(p: argparse.ArgumentParser) -> None:
    """What is seen of the speaker."""
    help = "of the lips, for models that are given it; for several inputs, a folder of equal names"
    p.add_argument("--video", type=Path, metavar="FILE", help=help)


def report_option(p: argparse.ArgumentParser, help: str) -> None:
    """A page about what was done."""
    p.add_argument("--report", metavar="R.html", help=f"also a page: {help}")


def seed_option(p: argparse.ArgumentParser, default: int | None = None) -> None:
    """Of everything random."""
    p.add_argument("--seed", type=whole, default=default, metavar="N", help="of everything random (0)")


def device_option(p: argparse.ArgumentParser) -> None:
    """Where to compute."""
    p.add_argument("--device", default="cpu", metavar="D", help="for example cuda (cpu)")


def metrics_option(p: argparse.ArgumentParser) -> None:
    """Which metrics."""
    p.add_argument("--metrics", nargs="+", metavar="M", help=f"some of {' '.join(METRICS)} (all)")


def selection_options(p: argparse.ArgumentParser, split: str, more: str) -> None:
    """Which recordings, by a table; ``split`` is the default."""
    p.add_argument(
        "--manifest",
        type=Path,
        metavar="FILE",
        help=f"a table with columns 'path' and 'split' that selects recordings{more}",
    )
    p.add_argument("--split", metavar="NAME", help=f"of the manifest ({split})")


def enhancement_options(p: argparse.ArgumentParser) -> None:
    """What :class:`~pyrodvae.enhance_config.EnhanceConfig` and engines can be told."""
    default = EnhanceConfig()
    p.add_argument("--iterations", type=whole, metavar="N", help=f"of EM ({default.iterations})")
    p.add_argument("--chains", type=whole, metavar="S", help=f"draws side by side ({default.chains})")
    p.add_argument("--noise-rank", type=whole, metavar="K", help=f"of the noise ({default.noise_rank})")
    device_option(p)
    set_option(p)


def set_option(p: argparse.ArgumentParser) -> None:
    """Any setting, ``--set KEY=VALUE``."""
    p.add_argument(
        "--set", action="append", default=[], metavar="KEY=VALUE", help="any other setting; one or more"
    )
