"""What the tutorials show and play: in a notebook, and in a plain script."""

from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest

from pyrodvae import examples, teaching
from pyrodvae.plots import new_figure
from pyrodvae.teaching import play, show, smoke
from pyrodvae.whole import NotWritten


@pytest.fixture
def shown(monkeypatch: pytest.MonkeyPatch) -> list[SimpleNamespace]:
    """What a notebook was given to show; it need not be installed."""
    outputs: list[SimpleNamespace] = []
    display = ModuleType("IPython.display")
    for kind in ("Audio", "Image", "Markdown"):

        def make(data, kind=kind, **options):
            return SimpleNamespace(kind=kind, data=data, **options)

        setattr(display, kind, make)
    display.display = lambda *items: outputs.extend(items)
    monkeypatch.setitem(sys.modules, "IPython", ModuleType("IPython"))
    monkeypatch.setitem(sys.modules, "IPython.display", display)
    monkeypatch.setattr(teaching, "_in_notebook", lambda: True)
    return outputs


@pytest.mark.parametrize(("value", "quick"), [("1", True), ("0", False), ("", False), (None, False)])
def test_the_rehearsal_is_asked_for_by_the_environment(monkeypatch, value: str | None, quick: bool) -> None:
    if value is None:
        monkeypatch.delenv("PYRODVAE_SMOKE", raising=False)
    else:
        monkeypatch.setenv("PYRODVAE_SMOKE", value)
    assert smoke() is quick


def test_a_script_says_what_it_would_play(capsys) -> None:
    play(np.zeros((2, 4000)), 8000, "silence")
    assert capsys.readouterr().out == "♪ silence: 0.5 s at 8 kHz\n"


def test_a_waveform_needs_its_rate() -> None:
    with pytest.raises(ValueError, match="give its rate"):
        play(np.zeros(100))


def test_a_notebook_gets_a_player(shown: list[SimpleNamespace]) -> None:
    play(examples.noisy(), title="noisy")
    title, player = shown
    assert (title.kind, title.data) == ("Markdown", "**noisy**")
    assert (player.kind, player.rate, player.normalize) == ("Audio", 16_000, True)
    assert player.data.shape == (1, 68_867)
    play(np.zeros(100), 8000)
    assert shown[-1].normalize is False  # it would divide by zero


def test_a_script_writes_a_picture(tmp_path: Path, monkeypatch, capsys) -> None:
    monkeypatch.chdir(tmp_path)
    show(new_figure(1, 1), "a small picture")
    assert (tmp_path / "a_small_picture.png").read_bytes().startswith(b"\x89PNG")
    assert "a_small_picture.png" in capsys.readouterr().out
    (tmp_path / "taken.png").mkdir()
    with pytest.raises(NotWritten):
        show(new_figure(1, 1), "taken")


def test_a_notebook_gets_a_picture_with_words_for_it(tmp_path: Path, monkeypatch, shown) -> None:
    monkeypatch.chdir(tmp_path)
    show(new_figure(1, 1), "a small picture")
    assert [(item.kind, item.alt) for item in shown] == [("Image", "a small picture")]
    assert shown[0].data.startswith(b"\x89PNG")
    assert not any(tmp_path.iterdir())
