"""What the TAB key offers, asked of the shells themselves."""

from __future__ import annotations

import os
import pty
import shutil
import subprocess
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest

from pyrodvae.cli import main
from pyrodvae.completion import SHELLS
from pyrodvae.engines import ALGORITHMS, ENGINES
from pyrodvae.guides import GUIDES
from pyrodvae.models import MODELS

ZSHRC = """\
source ./script
compadd() {                                 # what the completion system hands over, and whence it is shown
    local -a found
    builtin compadd -O found "$@"
    (( $#found )) && print -rl -- $found >> answer
    builtin compadd "$@"
}
zle -C offer list-choices _main_complete
ask() { BUFFER=$LINE; CURSOR=$#BUFFER; zle offer; exit }
zle -N zle-line-init ask                    # as soon as there is a line to edit
"""


def in_bash(folder: Path, line: str) -> str:
    """What bash answers: the function of the script, given the words of the line."""
    words = line.split(" ")
    given = " ".join(f"'{word}'" for word in words)
    ask = f". ./script; COMP_WORDS=({given}); COMP_CWORD={len(words) - 1}; _pyrodvae; "
    ask += 'printf "%s\\n" "${COMPREPLY[@]}"'
    found = subprocess.run(["bash", "-uc", ask], cwd=folder, capture_output=True, text=True, check=True)
    assert found.stderr == ""
    return found.stdout


def in_zsh(folder: Path, line: str) -> str:
    """What zsh answers: its line editor, in a terminal, with the line typed."""
    (folder / ".zshrc").write_text(ZSHRC)
    ours, its = pty.openpty()
    home = {**os.environ, "ZDOTDIR": str(folder), "HOME": str(folder), "TERM": "dumb", "LINE": line}
    shell = subprocess.Popen(["zsh", "-d", "-i"], cwd=folder, env=home, stdin=its, stdout=its, stderr=its)
    os.close(its)
    with suppress(OSError):  # so the end of a terminal is told
        while os.read(ours, 1024):
            pass
    os.close(ours)
    shell.wait()
    answer = folder / "answer"
    found = answer.read_text() if answer.exists() else ""
    answer.unlink(missing_ok=True)
    return found


def in_fish(folder: Path, line: str) -> str:
    """What fish answers: the command of its that completes a line."""
    ask = f'source ./script; complete -C "{line}"'
    home = {**os.environ, "HOME": str(folder)}
    found = subprocess.run(
        ["fish", "--no-config", "-c", ask], cwd=folder, env=home, capture_output=True, text=True, check=True
    )
    assert found.stderr == ""
    return "\n".join(candidate.split("\t")[0] for candidate in found.stdout.split("\n"))


ASK = {"bash": in_bash, "zsh": in_zsh, "fish": in_fish}


@pytest.fixture(params=SHELLS)
def complete(
    request: pytest.FixtureRequest, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> Callable[[str], set[str]]:
    """What a shell offers where a line ends, in a folder with the file "a b.wav"."""
    if not shutil.which(request.param):
        pytest.skip(f"There is no {request.param} on this machine.")
    assert main(["completion", request.param]) == 0
    (tmp_path / "script").write_text(capsys.readouterr().out)
    (tmp_path / "a b.wav").touch()
    own = {"script", "answer", ""}
    return lambda line: set(ASK[request.param](tmp_path, line).split("\n")) - own


def test_what_is_offered(complete) -> None:
    assert complete("pyrodvae e") == {"enhance", "evaluate"}
    assert complete("pyrodvae enhance --engine ") == {*ENGINES, *ALGORITHMS}
    assert complete("pyrodvae enhance x.wav --engine hmc") == {"hmc", "hmc-batched"}
    assert complete("pyrodvae graph dkf --guide ") == set(GUIDES)
    assert complete("pyrodvae train ") == {*MODELS, "a b.wav"}
    assert complete("pyrodvae list m") == {"models", "matrix"}
    assert complete("pyrodvae score --j") == {"--json"}


def test_files_stand_where_files_may(complete) -> None:
    """Names with spaces in one piece; and none where there is a key to choose (the control)."""
    assert complete("pyrodvae enhance a") == {"a b.wav"}
    assert complete("pyrodvae enhance --out a") == {"a b.wav"}
    assert complete("pyrodvae enhance --engine a") == {"autoguide"}


def test_every_shell_has_its_script(capsys: pytest.CaptureFixture[str]) -> None:
    """One that is not known has none (the control)."""
    for shell in SHELLS:
        assert main(["completion", shell]) == 0
        assert "pyrodvae" in capsys.readouterr().out
    with pytest.raises(SystemExit):
        main(["completion", "csh"])
