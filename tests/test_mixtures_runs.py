"""Runs of mixtures: training, saving and loading, and a VAE-MM out of two runs."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from mixtures import EACH, V
from torch import Tensor
from toys import T, spectra

from pyrodvae.dvae import DVAE
from pyrodvae.guide import Guide
from pyrodvae.mixed_runs import mix
from pyrodvae.objective import terms
from pyrodvae.program import local_parameters
from pyrodvae.signal import STFT
from pyrodvae.synthesis import reconstruct
from pyrodvae.trainer import TrainConfig, Trainer
from pyrodvae.weights import Run, WeightsError, base_card, load_run, make_pair, save_run

F = 9
SIZES = {"observed": F, "latent": 2, "hidden": 6}
STFT_9 = STFT(window_length=16, hop=4)


@pytest.fixture(autouse=True)
def local():
    with local_parameters():
        yield


class Batches:
    """Two batches of speech whose spectrum follows the brightness of the pictures."""

    batches = 2

    def epoch(self, seed: int) -> Iterator[tuple[Tensor, Tensor | None, Tensor]]:
        torch.manual_seed(seed)
        for _ in range(self.batches):
            bright = torch.rand(8, T, 1)
            v = bright.expand(-1, -1, V).masked_fill(torch.rand(8, T, 1) < 0.1, math.nan)
            x = spectra(8, T, F).to(torch.cfloat) * (6 * bright - 3 - torch.linspace(0, 2, F)).exp()
            yield x, None, v


def fresh(key: str, **config: object) -> tuple[DVAE, Guide]:
    torch.manual_seed(0)
    seeing = {} if key == "vae" else {"video": V}
    m, g = make_pair(key, SIZES | seeing | config, "paper", {"hidden": 6})
    x, _, v = next(Batches().epoch(0))
    m.fit_statistics(x, v)
    g.fit_statistics(x, v)
    return m, g


@pytest.mark.parametrize("name", EACH)
def test_training_moves_everything_and_a_run_comes_back(name: str, tmp_path: Path) -> None:
    key = name.split()[0]
    m, g = fresh(key, **EACH[name])
    before = [p.clone() for p in (*m.parameters(), *g.parameters())]
    config = TrainConfig(epochs=8, learning_rate=1e-2, prior_share=0.2 * (key == "vae-mm"), warmup=2)
    trainer = Trainer(m, g, Batches(), Batches(), config)
    rows = [trainer.run_epoch(show=False) for _ in range(8)]
    assert rows[-1]["val_loss"] < rows[0]["val_loss"]
    names = [n for n, _ in itertools.chain(m.named_parameters(), g.named_parameters())]
    for n, old, new in zip(names, before, (*m.parameters(), *g.parameters()), strict=True):
        assert not torch.equal(old, new) or n.endswith("unseen"), n
    save_run(tmp_path, m, g, base_card(key, m, "paper", g, STFT_9))
    back = load_run(tmp_path)
    assert back.model.config == m.config
    x, lengths, v = next(Batches().epoch(5))

    def seeded(m: DVAE, g: Guide) -> tuple[Tensor, Tensor]:
        torch.manual_seed(0)
        return terms(m, g, x, lengths, v)

    with torch.no_grad():
        for a, b in zip(seeded(m, g), seeded(back.model, back.guide), strict=True):
            assert torch.equal(a, b)
        assert not torch.equal(seeded(*fresh(key, **EACH[name]))[0], seeded(m, g)[0])


def run(key: str, **config: object) -> Run:
    m, g = fresh(key, **config)
    return Run(m, g, STFT_9, base_card(key, m, "paper", g, STFT_9))


def test_two_runs_make_a_vae_mm() -> None:
    """Its parts say what the two say; and a frame is resynthesised by the reading that fits it better."""
    audio, visual = run("vae"), run("av-vae")
    both = mix(audio, visual)
    x, lengths, v = next(Batches().epoch(1))
    with torch.no_grad():
        torch.manual_seed(1)
        together = terms(both.model, both.guide, x, lengths, v)
        torch.manual_seed(1)
        apart = [terms(audio.model, audio.guide, x), terms(visual.model, visual.guide, x, None, v)]
        for whole, a, b in zip(together, *apart, strict=True):
            torch.testing.assert_close(whole, a + b)
    here = reconstruct(both, x, v).abs()
    alone = [reconstruct(audio, x).abs(), reconstruct(visual, x, v).abs()]
    assert ((here - alone[0]).abs() <= (alone[1] - alone[0]).abs() + 1e-4).all()
    assert ((here - alone[1]).abs() <= (alone[1] - alone[0]).abs() + 1e-4).all()
    missing = v.isnan().any(-1)
    torch.testing.assert_close(here[missing], alone[0][missing])
    assert not torch.allclose(here, alone[0])
    again = make_pair("vae-mm", both.card["config"], "paper", both.card["guide_config"])
    for a, b in zip(again, (both.model, both.guide), strict=True):
        a.load_state_dict(b.state_dict())


def test_runs_that_do_not_fit_are_refused() -> None:
    audio, visual = run("vae"), run("av-vae")
    with pytest.raises(WeightsError, match="of a VAE and one of an AVVAE, not of AVVAE and VAE"):
        mix(visual, audio)
    with pytest.raises(WeightsError, match="different front ends"):
        mix(replace(audio, stft=STFT()), visual)
    with pytest.raises(WeightsError, match="has the guide 'meanfield'"):
        mix(replace(audio, card=audio.card | {"guide": "meanfield"}), visual)
    with pytest.raises(WeightsError, match="two models of equal sizes"):
        mix(run("vae", latent=3), visual)
