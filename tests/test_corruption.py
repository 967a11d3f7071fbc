"""Damage to pictures and spectra: on its share of the frames, in runs, repeatable, and nowhere else."""

from __future__ import annotations

import math
from typing import get_args

import pytest
import torch
from torch import Tensor

from pyrodvae.corruption import PERIOD, Kind, corrupt, corrupt_audio, runs
from pyrodvae.synthetic_av import speak

KINDS = get_args(Kind)


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.fixture(scope="module")
def v() -> Tensor:
    """Four videos of a mouth that moves, two seconds each (4, 125, 256)."""
    spoken = [speak(2.0, seed, 16).frames.flatten(1) for seed in range(4)]
    n = (torch.arange(125) / 62.5 * 25).long()
    return torch.stack([frames[n] for frames in spoken])


# --- runs


@pytest.mark.parametrize("frames", [1, 10, 50, 62, 63, 200])
@pytest.mark.parametrize("share", [0.0, 0.1, 1 / 3, 1.0])
def test_a_run_has_its_share_of_every_period(frames: int, share: float) -> None:
    marked = runs(300, frames, share, seeded())
    assert marked.shape == (300, frames)
    for part in marked.split(PERIOD, 1):
        wanted = round(share * part.shape[1])
        assert (part.sum(1) == wanted).all()
        edges = part.int().diff(dim=1, prepend=torch.zeros(300, 1, dtype=torch.int)).clamp(min=0).sum(1)
        assert (edges == min(wanted, 1)).all()  # one run


def test_runs_begin_anywhere_and_independent_draws_would_not_be_runs() -> None:
    marked = runs(4000, PERIOD, 1 / 3, seeded())
    first = marked.int().argmax(1)
    choices = PERIOD - 21 + 1
    counts = torch.bincount(first, minlength=choices)
    assert len(counts) == choices
    mean = 4000 / choices
    assert (counts - mean).abs().max() < 5 * math.sqrt(mean)
    alone = torch.rand(4000, PERIOD, generator=seeded()) < 1 / 3  # the control
    assert (
        (alone.int().diff(dim=1) > 0).sum(1).double().mean()
        > 10
        > 1
        >= (marked.int().diff(dim=1) > 0).sum(1).max()
    )


def test_shares_and_kinds_that_do_not_exist_are_refused(v: Tensor) -> None:
    with pytest.raises(ValueError, match=r"between 0 and 1, not 1\.2"):
        runs(1, 5, 1.2)
    with pytest.raises(ValueError, match="there is no 'rain'"):
        corrupt(v, kind="rain")
    with pytest.raises(ValueError, match="V = 255 is no square"):
        corrupt(v[..., 1:])
    with pytest.raises(ValueError, match="complex spectra"):
        corrupt_audio(torch.ones(1, 2, 3))


# --- pictures


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_hit_changes_and_nothing_else(v: Tensor, kind: Kind) -> None:
    before = v.clone()
    damaged, hit = corrupt(v, 1 / 3, kind, seeded())
    assert torch.equal(v, before)
    assert hit.double().mean() == pytest.approx(1 / 3, abs=0.01)
    assert torch.equal(damaged[~hit], v[~hit])
    change = (damaged - v).abs().mean(-1)
    # A mouth may stand still where the picture does: of that kind a tenth may look the same.
    assert (change[hit] > 0.005).double().mean() > {"freeze": 0.7, "mixed": 0.85}.get(kind, 0.999)
    assert float(damaged.min()) >= -1e-6
    assert float(damaged.max()) <= 1 + 1e-6
    again, same = corrupt(v, 1 / 3, kind, seeded())
    assert torch.equal(again, damaged)
    assert torch.equal(same, hit)
    other, _ = corrupt(v, 1 / 3, kind, seeded(1))
    assert not torch.equal(other, damaged)
    untouched, none = corrupt(v, 0.0, kind, seeded())
    assert torch.equal(untouched, v)
    assert not none.any()


@pytest.mark.parametrize("kind", KINDS)
def test_missing_pictures_stay_missing_and_are_not_hit(v: Tensor, kind: Kind) -> None:
    holes = torch.rand(v.shape[:2], generator=seeded(5)) < 0.3
    holes[0, :3] = True
    damaged, hit = corrupt(v.masked_fill(holes[..., None], math.nan), 0.5, kind, seeded())
    assert torch.equal(damaged.isnan().any(-1), holes)
    assert torch.equal(damaged.isnan().all(-1), holes)
    assert not (hit & holes).any()
    assert (hit & ~holes).any()


def lips_tell(v: Tensor, damaged: Tensor, hit: Tensor) -> float:
    """Correlation of how dark the middle of the mouth is, before and after, over the frames hit."""
    dark = [one.unflatten(-1, (16, 16))[..., 5:11, 6:10].mean((-2, -1))[hit] for one in (v, damaged)]
    return float(torch.corrcoef(torch.stack(dark))[0, 1])


@pytest.mark.parametrize("kind", ["occlusion", "freeze"])
def test_what_is_covered_or_stands_still_tells_nothing(v: Tensor, kind: Kind) -> None:
    many = v.repeat(20, 1, 1)
    assert abs(lips_tell(many, *corrupt(many, 1 / 3, kind, seeded()))) < 0.3
    assert lips_tell(many, *corrupt(many, 1 / 3, "blur", seeded())) > 0.9  # the control


def test_an_occlusion_is_the_same_throughout_a_run(v: Tensor) -> None:
    damaged, hit = corrupt(v, 1 / 3, "occlusion", seeded())
    both = hit[:, 1:] & hit[:, :-1] & (torch.arange(1, 125) % PERIOD != 0)
    changed = (damaged - v).abs() > 1e-6
    assert torch.equal(changed[:, 1:][both].all(-1), changed[:, :-1][both].all(-1))
    covered = (changed & hit[..., None]).double().sum(-1)[hit] / 256
    assert float(covered.min()) > 0.25
    assert float(covered.max()) < 0.9
    still = (damaged.diff(dim=1).abs() < 1e-6)[both].double().mean(-1)
    assert float(still.min()) > 0.25  # nothing moves where the patch is
    turned, _ = corrupt(v, 1 / 3, "turn", seeded())
    still = (turned.diff(dim=1).abs() < 1e-6)[both].double().mean(-1)
    assert float(still.min()) < 0.05  # the control: where there is none, grain does


def test_a_frozen_picture_is_the_last_before_the_run(v: Tensor) -> None:
    damaged, hit = corrupt(v, 1 / 3, "freeze", seeded())
    for b in range(len(v)):
        last = int(hit[b].int().argmax()) if hit[b, 0] else 0
        for t in range(v.shape[1]):
            last = last if hit[b, t] else t
            assert torch.equal(damaged[b, t], v[b, last])


def test_a_blur_keeps_the_mean_and_takes_the_detail() -> None:
    flat, fine = torch.full((1, 9, 256), 0.4), torch.rand(1, 9, 256)
    assert (corrupt(flat, 1.0, "blur")[0] - 0.4).abs().max() < 1e-6
    assert corrupt(fine, 1.0, "blur")[0].std() < 0.3 * fine.std()


def test_a_turned_head_is_darker_and_to_one_side() -> None:
    square = torch.zeros(64, 16, 16)
    square[:, 5:11, 5:11] = 1
    seen = corrupt(square.flatten(1)[:, None], 1.0, "turn", seeded())[0].unflatten(-1, (16, 16))[:, 0]
    assert seen.amax((1, 2)).min() > 0.39
    assert seen.amax((1, 2)).max() < 0.71
    columns = torch.arange(16) - 7.5
    centre = (seen.sum(1) * columns).sum(-1) / seen.sum((1, 2))
    assert (centre.abs() > 1).all()
    assert 0.25 < (centre > 0).double().mean() < 0.75  # to either side


def test_mixed_is_all_of_them_by_the_run() -> None:
    """Over many runs, each kind about a quarter: told apart by what it does to a flat picture."""
    flat = torch.full((400, PERIOD, 64), 0.5)
    flat += torch.linspace(0, 0.2, PERIOD)[:, None]  # ever brighter
    damaged, hit = corrupt(flat, 1 / 3, "mixed", seeded())
    change = damaged - flat
    spread = change.std(-1)
    kinds = {
        "occlusion": (spread > 1e-4) & hit,
        "blur": (change.abs().amax(-1) < 1e-6) & hit,
        "turn": (change.mean(-1) < -0.15) & (spread <= 1e-4) & hit,
    }
    share = torch.stack([k.any(1).double().mean() for k in kinds.values()])
    assert (share - 0.25).abs().max() < 5 * math.sqrt(0.25 * 0.75 / 400) + 0.03
    per_run = torch.stack([(k.sum(1) / hit.sum(1)) for k in kinds.values()])
    assert ((per_run < 0.1) | (per_run > 0.9)).all()


# --- sound


def test_noise_has_its_level_on_its_frames_only() -> None:
    x = 3 * torch.randn(50, 62, 40, dtype=torch.cdouble)
    for snr in (-5.0, 10.0):
        noisy, hit = corrupt_audio(x, 1 / 3, snr, seeded())
        assert torch.equal(noisy[~hit], x[~hit])
        assert hit.sum(1).tolist() == [21] * 50
        n = (noisy - x)[hit]
        assert n.abs().square().mean() == pytest.approx(9 * 10 ** (-snr / 10), rel=0.03)
        assert (n.real * n.imag).mean().abs() < 5 * 9 * 10 ** (-snr / 10) / 2 / math.sqrt(n.numel())
        assert torch.equal(corrupt_audio(x, 1 / 3, snr, seeded())[0], noisy)
    assert corrupt_audio(x, 0.0)[0].equal(x)
