"""Whether lips fit what was heard without them: the odds themselves, and of a model that was trained."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from test_av_switch import a_run
from torch import Tensor
from torch.distributions import Normal
from toys import B, T, V, spectra

from pyrodvae.audio import read_audio
from pyrodvae.av_data import video_of
from pyrodvae.corruption import corrupt, runs
from pyrodvae.data import manifest_paths
from pyrodvae.distributions import DiagonalNormal
from pyrodvae.enhance_config import EnhanceConfig
from pyrodvae.lips_misfit import heard_alone, lips_misfit, odds
from pyrodvae.mixed_runs import switch
from pyrodvae.mixture_objective import responsibility_odds
from pyrodvae.video import align, read_video
from pyrodvae.weights import WeightsError, load_run

ALL = torch.ones(2, 400, dtype=torch.bool)


def area(odds: Tensor, hit: Tensor) -> float:
    """Of the curve of finding what is hit."""
    return float((odds[hit][:, None] > odds[~hit]).float().mean())


def simulated(error: float, D: int = 4) -> tuple[DiagonalNormal, DiagonalNormal, DiagonalNormal, Tensor]:
    """z given lips, heard with an error; on a third of the frames the lips say little, and that is wrong."""
    hit = runs(*ALL.shape, 1 / 3)
    loc = torch.randn(*ALL.shape, D).double()
    narrow = torch.full_like(loc, 0.3)
    z = loc + narrow * torch.randn_like(loc) + error * torch.randn_like(loc)
    looked = DiagonalNormal(
        torch.where(hit[..., None], 0.7 * torch.randn_like(loc), loc),
        torch.where(hit[..., None], 3 * narrow, narrow),
    )
    alone = DiagonalNormal(torch.zeros_like(loc), torch.full_like(loc, 1.1))
    return DiagonalNormal(z, torch.full_like(loc, 0.05)), alone, looked, hit


def by_draws(
    heard: DiagonalNormal, alone: DiagonalNormal, looked: DiagonalNormal, known: bool, count: int = 4000
) -> tuple[Tensor, Tensor]:
    """The odds and their standard errors; z may be taken for known."""
    square = (heard.mean - looked.mean) ** 2 + heard.variance
    error = 0.0 if known else (square - looked.variance).mean(1, keepdim=True).clamp(min=0)
    z = heard.sample((count,))
    p, q = (Normal(a.mean, (a.variance + error).sqrt()).log_prob(z).sum(-1) for a in (alone, looked))
    return (p - q).mean(0), (p - q).std(0) / count**0.5


def test_the_odds_are_those_of_the_formula() -> None:
    parts = [DiagonalNormal(torch.randn(2, 5, 3).double(), torch.rand(2, 5, 3).double() + 0.3) for _ in "qpl"]
    found = odds(*parts, torch.ones(2, 5, dtype=torch.bool))
    mean, error = by_draws(*parts, known=False)
    assert ((found - mean).abs() < 4.5 * error).all()
    mean, error = by_draws(*parts, known=True)
    assert not ((found - mean).abs() < 4.5 * error).all()  # the control: τ² left out


@pytest.mark.parametrize(("error", "low"), [(0.0, False), (3.0, True)])
def test_what_is_misheard_does_not_speak_for_pictures_that_say_little(error: float, low: bool) -> None:
    torch.manual_seed(2)
    *parts, hit = simulated(error)
    assert area(odds(*parts, ALL), hit) > (0.6 if low else 0.9)
    plain, _ = by_draws(*parts, known=True, count=50)
    assert (area(plain, hit) < 0.4) == low  # the control: z taken for known


def test_missing_pictures_are_heard_alone_and_judge_nobody() -> None:
    torch.manual_seed(3)
    *parts, _ = simulated(1.0)
    there = ALL.clone()
    there[:, 100:] = False
    found = odds(*parts, there)
    assert (found[~there] == 1e20).all()
    first = odds(*(DiagonalNormal(p.mean[:, :100], p.stddev[:, :100]) for p in parts), ALL[:, :100])
    assert torch.allclose(found[:, :100], first)
    assert not torch.allclose(found[:, :100], odds(*parts, ALL)[:, :100])
    assert (odds(*parts, ~ALL) == 1e20).all()


def test_lips_that_say_nothing_neither_fit_nor_do_not() -> None:
    run, s, v = a_run(), spectra(), torch.rand(B, T, V).double()
    v[0, 1] = torch.nan
    found = lips_misfit(run, s, v)
    there = found < 1e19
    assert there.sum() == B * T - 1
    assert not there[0, 1]
    assert (found[there].abs() > 1e-9).all()
    for p in run.model.prior_lips.parameters():
        p.data.zero_()
    assert (lips_misfit(run, s, v)[there].abs() < 1e-12).all()


def test_refusals() -> None:
    other = replace(a_run(), card=a_run().card | {"guide": "smoother"})
    for run, name in ((a_run("vae"), "VAE with 'paper'"), (other, "AVVAE with 'smoother'")):
        with pytest.raises(WeightsError, match=f"not of a {name}"):
            lips_misfit(run, spectra(), torch.rand(B, T, V))
        with pytest.raises(WeightsError, match=f"not of a {name}"):
            heard_alone(run, spectra())
    with pytest.raises(ValueError, match="a picture for every frame"):
        lips_misfit(a_run(), spectra(), torch.rand(B, T - 1, V))


def test_damaged_pictures_are_found_in_noise(data_dir: Path) -> None:
    """Six real recordings in white noise, at 10 dB."""
    run = load_run("av-vae")
    paths = [p for p in manifest_paths(data_dir / "MANIFEST.tsv", "val") if "grid" in p.parts][:6]
    sounds = [torch.from_numpy(read_audio(p)[0][0]).float() for p in paths]
    length = min(map(len, sounds))
    v = torch.stack([align(read_video(video_of(p), 32), run.stft, length)[0] for p in paths])
    y = torch.stack([s[:length] for s in sounds])
    y = y + torch.randn_like(y) * y.square().mean(-1, keepdim=True).sqrt() * 10**-0.5
    x = run.stft(y / y.abs().amax(-1, keepdim=True))
    damaged, hit = corrupt(v)
    config, chance = EnhanceConfig(iterations=10), torch.get_rng_state()
    heard = heard_alone(run, x, config)
    assert torch.equal(chance, torch.get_rng_state())  # the caller's own
    assert torch.equal(heard, heard_alone(run, x, config))
    found, pair = lips_misfit(run, heard, damaged), switch(run)
    assert area(found, hit) > 0.72
    assert area(found, hit.roll(31, -1)) < 0.5  # the control: labels half a second late
    by_form = responsibility_odds(pair.model, pair.guide, heard, None, damaged)
    assert area(by_form, hit) < 0.6  # and z taken for known
