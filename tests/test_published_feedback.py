"""Published memories of frames: h of the frames themselves, and of the decoder's own output."""

from __future__ import annotations

import pytest
import torch
from test_published import Given, close, compare

from pyrodvae.models.srnn import heard
from pyrodvae.published import translate
from pyrodvae.weights import WeightsError


@pytest.mark.parametrize("path", ["eps", "mean"])
def test_the_two_memories_of_a_self_fed_srnn(path: str, golden_dir, monkeypatch) -> None:
    given = Given(golden_dir, "tiny_srnn_ss")
    with torch.no_grad():
        _, p = given.run(path, monkeypatch)
        own, true = p.nodes["z"]["fn"].memo.h, heard(given.model, given.x)[1]
    close(own, given.wanted(f"{path}/h_gen"))
    close(true, given.wanted(f"{path}/h_inf"))
    assert (own - true).abs().max() > 1e-2


def test_the_memory_of_published_weights_of_full_size(golden_dir) -> None:
    """The one that reads the frames; that fed by itself repeats its rounding for 50 frames."""
    given = Given(golden_dir, "se_wsj_srnn")
    assert given.model.own_share == 1
    with torch.no_grad():
        close(heard(given.model, given.x)[1], given.wanted("mean/h_inf"))


@pytest.mark.parametrize("name", ["tiny_srnn", "tiny_srnn_ss"])
def test_reading_the_other_kind_of_frame_is_noticed(name: str, golden_dir, monkeypatch) -> None:
    given = Given(golden_dir, name)
    given.model.own_share = 1 - given.model.own_share
    with torch.no_grad(), pytest.raises(AssertionError):
        compare(given, "mean", monkeypatch)


@pytest.mark.parametrize(("tag", "share"), [("SRNN-ss", 1), ("SRNN", 0)])
def test_the_configuration_says_what_an_srnn_was_trained_to_read(tag, share: int, golden_dir) -> None:
    given = Given(golden_dir, "tiny_srnn_ss")
    _, (model, _), _ = translate(given.theirs, {"tag": tag})
    assert model["own_share"] == share
    with pytest.raises(WeightsError, match="trained to read its own output: give the configuration"):
        translate(given.theirs)
