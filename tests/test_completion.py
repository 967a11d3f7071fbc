"""What the TAB key offers, asked of bash itself."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from pyrodvae.cli import main
from pyrodvae.engines import ALGORITHMS, ENGINES
from pyrodvae.guides import GUIDES
from pyrodvae.models import MODELS


@pytest.fixture
def complete(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    """What bash offers where a line of words ends, in a folder with the file "a b.wav"."""
    assert main(["completion", "bash"]) == 0
    (tmp_path / "script").write_text(capsys.readouterr().out)
    (tmp_path / "a b.wav").touch()

    def complete(*line: str) -> set[str]:
        words = " ".join(f"'{word}'" for word in line)
        ask = f". ./script; COMP_WORDS=({words}); COMP_CWORD={len(line) - 1}; _pyrodvae; "
        ask += 'printf "%s\\n" "${COMPREPLY[@]}"'
        found = subprocess.run(["bash", "-uc", ask], cwd=tmp_path, capture_output=True, text=True, check=True)
        assert found.stderr == ""
        return set(filter(None, found.stdout.split("\n")))

    return complete


def test_what_is_offered(complete) -> None:
    assert complete("pyrodvae", "e") == {"enhance", "evaluate"}
    assert complete("pyrodvae", "enhance", "--engine", "") == {*ENGINES, *ALGORITHMS}
    assert complete("pyrodvae", "enhance", "x.wav", "--engine", "hmc") == {"hmc", "hmc-batched"}
    assert complete("pyrodvae", "graph", "dkf", "--guide", "") == set(GUIDES)
    assert complete("pyrodvae", "train", "") == {*MODELS, "script", "a b.wav"}
    assert complete("pyrodvae", "list", "m") == {"models", "matrix"}
    assert complete("pyrodvae", "score", "--j") == {"--json"}


def test_files_stand_where_files_may(complete) -> None:
    """Names with spaces in one piece; and none where there is a key to choose (the control)."""
    assert complete("pyrodvae", "enhance", "a") == {"a b.wav"}
    assert complete("pyrodvae", "enhance", "--out", "a") == {"a b.wav"}
    assert complete("pyrodvae", "enhance", "--engine", "a") == {"autoguide"}


def test_zsh_is_taught_to_read_it(capsys: pytest.CaptureFixture[str]) -> None:
    main(["completion", "bash"])
    text = capsys.readouterr().out
    main(["completion", "zsh"])
    first, rest = capsys.readouterr().out.split("\n", 1)
    assert first.endswith("bashcompinit")
    assert rest == text
