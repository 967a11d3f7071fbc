"""What several first guesses of the noise say together."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor
from toys import errors
from voices import RATE, buzz, found, hiss, murmur

from pyrodvae.diagnostics import Diagnostics, Record
from pyrodvae.noise import NMFNoise
from pyrodvae.pooling import _resampled, pooled
from pyrodvae.posterior import Posterior

GOOD = buzz(120.0), 0.5 * hiss()
POOR = 0.8 * buzz(120.0) + 0.3 * hiss(), 0.2 * hiss() + 0.2 * buzz(120.0)
"""Of the same recording: a part of each is taken for the other."""
VOICES = murmur(), 0.7 * murmur()


def of(*told: tuple[Tensor, Tensor], chains: int = 1) -> Posterior:
    """What EM would have found from these guesses, one sequence each."""
    parts = [found(*sounds)[0] for sounds in told]
    speech, noise = (
        torch.cat([getattr(part, name) for part in parts], dim) for name, dim in (("speech", 1), ("noise", 0))
    )
    count, frames, bins = noise.shape
    trace = torch.arange(3.0 * chains * count).reshape(3, chains, count)
    return Posterior(
        mean=torch.cat([part.mean for part in parts]),
        variance=torch.rand(count, frames, bins),
        noise_mean=torch.cat([part.noise_mean for part in parts]),
        speech=speech * torch.arange(1.0, chains + 1)[:, None, None, None],
        noise=noise,
        objective=trace.mean(1),
        diagnostics=Diagnostics((Record(trace.mean(1), {"log_joint": trace, "loss": trace[:, 0, 0]}, 2),)),
        factors=(torch.rand(count, bins, 3), torch.rand(count, 3, frames)),
    )


def weight_of_the_first(posterior: Posterior) -> float:
    """By what the mean is made of."""
    a, b = posterior.mean
    d = (a - b).flatten()
    mean = pooled(posterior, 2, RATE).mean.flatten()
    return float((torch.vdot(d, mean - b.flatten()) / torch.vdot(d, d)).real)


def test_one_guess_stays_what_it_is() -> None:
    one = of(GOOD)
    assert pooled(one, 1, RATE) is one


def test_the_guess_that_tells_voices_from_noise_counts_most() -> None:
    assert weight_of_the_first(of(GOOD, POOR)) > 0.99
    assert weight_of_the_first(of(POOR, GOOD)) < 0.05


def test_of_guesses_that_are_as_good_the_first_counts_more() -> None:
    alike = of(GOOD, (1.001 * GOOD[0], 0.999 * GOOD[1]))
    assert weight_of_the_first(alike) == pytest.approx(1 / (1 + torch.e**-2), abs=0.02)


def test_among_voices_the_first_guess_stands_alone() -> None:
    assert weight_of_the_first(of(VOICES, GOOD)) == pytest.approx(1, abs=1e-5)
    assert weight_of_the_first(of(POOR, GOOD)) < 0.05  # the control: no voices


def test_mean_and_variance_are_those_of_the_mixture() -> None:
    """Against draws: a guess by its weight, then the speech by its mean and variance."""
    two = of(GOOD, (1.05 * GOOD[0], 0.9 * GOOD[1]))
    w = weight_of_the_first(two)
    assert 0.5 < w < 0.95
    at = (slice(None), slice(40, 44), slice(20, 60))
    pick = (torch.rand(4000) > w).long()
    noise = torch.randn(4000, 4, 40, dtype=torch.cfloat)
    draws = two.mean[at][pick] + two.variance[at][pick].sqrt() * noise
    one = pooled(two, 2, RATE)
    mean, variance = one.mean[0][at[1:]], one.variance[0][at[1:]]
    assert errors(draws.real, mean.real) < 5
    assert errors((draws - mean).abs().square(), variance) < 5
    assert errors(draws.real, two.mean[at].mean(0).real) > 5  # the controls: no weights, no spread of means
    assert errors((draws - mean).abs().square(), two.variance[at].mean(0)) > 5


def test_the_parts_make_the_whole_and_shapes_are_those_of_one_posterior() -> None:
    two = of(GOOD, POOR, POOR, GOOD, chains=3)  # two sequences, two guesses
    x = two.mean + two.noise_mean
    one = pooled(two, 2, RATE)
    torch.testing.assert_close(one.mean + one.noise_mean, x[:2], atol=1e-4, rtol=0)
    T, F = one.mean.shape[1:]
    assert one.speech.shape == one.noise.shape == (6, 2, T, F)
    assert one.objective.shape == (3, 2)
    torch.testing.assert_close(
        one.objective, two.objective[:, [0, 3]], rtol=0.05, atol=0
    )  # where the weight is
    assert not torch.allclose(one.objective, two.objective[:, :2], rtol=0.05)
    torch.testing.assert_close(one.diagnostics.objective, one.objective)
    assert torch.equal(one.diagnostics.trace("log_joint"), two.diagnostics.trace("log_joint"))
    assert one.draw(x[:2]).shape == (6, 2, T, F)
    assert one.interval(x[:2], draws=20)[0].shape == (2, T, F)


def test_every_chain_keeps_the_noise_it_was_drawn_with() -> None:
    two = of(POOR, GOOD, chains=2)
    one = pooled(two, 2, RATE)  # almost all weight is the second's
    for chain in range(4):
        torch.testing.assert_close(one.noise[chain, 0], two.noise[1])
        assert any(torch.equal(one.speech[chain, 0], two.speech[s, 1]) for s in range(2))
    assert not torch.equal(one.speech[0], one.speech[-1])  # both of its chains


def test_the_factors_are_those_of_the_mean_noise() -> None:
    two = of(GOOD, (1.05 * GOOD[0], 0.9 * GOOD[1]))
    assert two.factors is not None
    w = weight_of_the_first(two)
    noise = NMFNoise(*two.factors).variance
    factors = pooled(two, 2, RATE).factors
    assert factors is not None
    assert factors[0].shape[-1] == 6
    torch.testing.assert_close(NMFNoise(*factors).variance[0], w * noise[0] + (1 - w) * noise[1])
    assert pooled(replace(two, factors=None), 2, RATE).factors is None


@pytest.mark.parametrize("chains", [1, 3, 10])
def test_chains_are_resampled_by_their_weight(chains: int) -> None:
    w = torch.rand(3, 50).softmax(0)
    kept = _resampled(w, chains)
    assert kept.shape == (3 * chains, 50)
    counts = torch.stack([(kept // chains == g).sum(0) for g in range(3)])
    assert ((counts - 3 * chains * w).abs() <= 1).all()
    sure = torch.tensor([[0.0], [1.0], [0.0]])
    assert (_resampled(sure, chains) // chains == 1).all()
    assert set(_resampled(sure, chains).flatten().tolist()) == set(range(chains, 2 * chains))


def test_silence_has_weights() -> None:
    both = of(GOOD, GOOD)
    silent = replace(both, mean=0 * both.mean, noise_mean=0 * both.noise_mean)
    assert (pooled(silent, 2, RATE).mean == 0).all()


def test_of_many_that_are_as_good_the_first_counts_as_much_as_of_two() -> None:
    many = of(*[GOOD] * 9)
    told = replace(many, mean=many.mean * torch.arange(1.0, 10)[:, None, None])  # louder, not more voiced
    first, rest = 1 / (1 + torch.e**-2), torch.arange(2.0, 10).mean()
    share = pooled(told, 9, RATE).mean.abs().sum() / many.mean[0].abs().sum()
    torch.testing.assert_close(share, first + (1 - first) * rest, rtol=1e-3, atol=0)


def test_warnings_are_of_recordings_and_say_which_guess() -> None:
    four = replace(of(GOOD, POOR, POOR, GOOD), warnings=("The objective of sequence 3 keeps rising in 5.",))
    (sentence,) = pooled(four, 2, RATE).warnings
    assert sentence == "The objective of sequence 1 (guess 1 of its noise) keeps rising in 5."
