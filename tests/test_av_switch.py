"""An AV-VAE as the mixture of itself with and without its lips."""

from __future__ import annotations

import pytest
import torch
from toys import B, D, F, H, T, V, make, spectra

from pyrodvae.mixed_runs import switch
from pyrodvae.mixture_objective import responsibility_odds
from pyrodvae.models import AVSwitch
from pyrodvae.program import local_parameters
from pyrodvae.signal import STFT
from pyrodvae.weights import Run, WeightsError, base_card, load_run, make_pair, save_run


def a_run(key: str = "av-vae") -> Run:
    """Untrained, in double precision."""
    sizes = {"observed": F, "latent": D, "hidden": H, **({"video": V} if key == "av-vae" else {})}
    torch.manual_seed(0)
    pair = make_pair(key, sizes, "paper", {"hidden": H})
    stft = STFT(window_length=8, hop=2)
    for part in pair:
        part.double()
    return Run(*pair, stft, base_card(key, pair[0], "paper", pair[1], stft))


def test_both_readings_are_those_of_the_one_network() -> None:
    run, v, z = a_run(), torch.rand(B, T, V).double(), torch.randn(B, T, D).double()
    mixed = switch(run)
    assert isinstance(mixed.model, AVSwitch)
    coins = mixed.model.window(z, mixed.model.begin(B, v))
    p_x = mixed.model.decode(mixed.model.split(z), coins.parts)
    for pictures, prior, likelihood in (
        (torch.full_like(v, torch.nan), coins.p_z.audio, p_x.audio),
        (v, coins.p_z.visual, p_x.visual),
    ):
        one = run.model.prior(spectra(), None, run.model.begin(B, pictures))
        assert torch.equal(one.along(z).mean, prior.mean)
        assert torch.equal(run.model.likelihood(z, spectra(), one).variance, likelihood.variance)
    assert not torch.allclose(p_x.audio.variance, p_x.visual.variance)


def test_a_switch_is_saved_once_and_loaded(tmp_path) -> None:
    mixed = switch(a_run())
    save_run(tmp_path, mixed.model.float(), mixed.guide.float(), mixed.card)
    again = load_run(tmp_path)
    x, v = spectra(dtype=torch.cfloat), torch.rand(B, T, V)
    with local_parameters():
        means = [
            run.guide.encoders(run.guide.z_0, run.guide.context(x, None, run.guide.begin(x, None, v)))[0]
            for run in (mixed, again)
        ]
    for before, after in zip(*means, strict=True):
        assert torch.equal(before.mean, after.mean)
    assert not torch.allclose(means[0].audio.mean, means[0].visual.mean)
    names = mixed.guide.state_dict()
    assert not any(name.startswith("audio") for name in names)


def test_only_an_av_vae_can_be_switched() -> None:
    with pytest.raises(WeightsError, match="not of a VAE with 'paper'"):
        switch(a_run("vae"))


def test_pictures_that_say_what_missing_ones_say_are_believed_as_much() -> None:
    torch.manual_seed(1)
    model, guide = make("av-switch", "paper")
    x, v = spectra(), torch.rand(B, T, V).double()
    with local_parameters():
        seen = responsibility_odds(model, guide, x, None, v, draws=400)
        v[0, 1] = torch.nan
        missing = responsibility_odds(model, guide, x, None, v, draws=1)
        for module in (model, guide):
            for name, p in module.named_parameters():
                if "lips" in name:
                    p.data.zero_()  # every picture now says nothing, as a missing one does
        blind = torch.stack([responsibility_odds(model, guide, x, None, v, draws=1) for _ in range(400)])
    assert missing[0, 1] > 1e19
    there = torch.ones(B, T, dtype=torch.bool)
    there[0, 1] = False
    error = blind.std(0) / 20
    assert (blind.mean(0).abs() < 4.5 * error)[there].all()
    assert not (seen.abs() < 4.5 * error)[there].all()  # the control: lips that say something
