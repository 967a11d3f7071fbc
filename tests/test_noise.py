"""The noise model: its updates against their formulas, and what they never do."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from toys import spectra

from pyrodvae.distributions import power
from pyrodvae.noise import PLAIN, Memory, MStep, Multiplicative, NMFNoise
from pyrodvae.observations import POWER_FLOOR

S, B, T, F, K = 3, 2, 7, 6, 2
Factors = tuple[Tensor, Tensor]


def objective(x: Tensor, speech: Tensor, noise: Tensor) -> Tensor:
    """Σ over draws and bins of log V + |x|²/V, for each sequence."""
    v = speech + noise
    return (v.log() + x / v).sum((0, 2, 3))


def start() -> tuple[NMFNoise, Tensor, Tensor]:
    """Random factors, |x|² and draws of the speech variance, over several orders of magnitude."""
    W, H = torch.rand(B, F, K, dtype=torch.double), torch.randn(B, K, T, dtype=torch.double).exp()
    x = power(spectra(B, T, F)) * torch.randn(B, T, 1, dtype=torch.double).exp()
    return NMFNoise(W, H), x, torch.randn(S, B, T, F, dtype=torch.double).mul(2).exp() / 4


def update(x: Tensor, speech: Tensor, W: Tensor, H: Tensor, exponent: float = 0.5) -> Factors:
    """The docstring's equations, one index at a time, and no normalisation."""

    def ratios(W: Tensor, H: Tensor) -> Factors:
        v = speech + torch.einsum("bfk,bkt->btf", W, H) + POWER_FLOOR
        return x * (v**-2).sum(0), (1 / v).sum(0)

    A, C = ratios(W, H)
    W = W * (torch.einsum("btf,bkt->bfk", A, H) / torch.einsum("btf,bkt->bfk", C, H)) ** exponent
    A, C = ratios(W, H)
    return W, H * (torch.einsum("bfk,btf->bkt", W, A) / torch.einsum("bfk,btf->bkt", W, C)) ** exponent


def m_step(noise: NMFNoise, x: Tensor, speech: Tensor) -> None:
    """One plain update, without a gain."""
    assert PLAIN.step(noise, None, x, speech, PLAIN.init())[0] is None


def largest_rise(step: Callable[[NMFNoise, Tensor, Tensor], None]) -> float:
    """The most by which 20 steps ever raise the objective, over 40 random starts of two sequences."""
    worst = -torch.inf
    for _ in range(40):
        noise, x, speech = start()
        before = objective(x, speech, noise.variance)
        for _ in range(20):
            step(noise, x, speech)
            after = objective(x, speech, noise.variance)
            worst, before = max(worst, float((after - before).max())), after
    return worst


def test_objective_never_increases() -> None:
    assert largest_rise(m_step) <= 1e-10


def by_hand(**changes) -> Callable[[NMFNoise, Tensor, Tensor], None]:
    def step(noise: NMFNoise, x: Tensor, speech: Tensor) -> None:
        noise.W, noise.H = update(x, speech, noise.W, noise.H, **changes)

    return step


def test_wrong_updates_do_increase_it() -> None:
    """The controls: the ratio upside down, and a step too long."""
    assert largest_rise(by_hand()) <= 1e-10
    assert largest_rise(by_hand(exponent=-0.5)) > 1e-3
    assert largest_rise(by_hand(exponent=4.0)) > 1e-3
    assert largest_rise(lambda noise, x, s: m_step(noise, x.roll(1, -1), s)) > 1e-3


def test_updates_are_those_of_the_docstring() -> None:
    """The product of the factors is, that is: normalised columns do not change it."""
    noise, x, speech = start()
    W, H = update(x, speech, noise.W, noise.H)
    other = update(x, speech, noise.W, noise.H, exponent=0.6)
    m_step(noise, x, speech)
    torch.testing.assert_close(noise.W @ noise.H, W @ H, rtol=1e-13, atol=0)
    assert not torch.allclose(noise.W @ noise.H, other[0] @ other[1])
    torch.testing.assert_close(noise.W.sum(1), torch.ones(B, K, dtype=torch.double))
    assert not torch.allclose(W.sum(1), torch.ones(B, K, dtype=torch.double))


def test_noise_and_gain_together_never_increase_the_objective() -> None:
    worst = wrong = -torch.inf
    for _ in range(40):
        noise, x, v = start()
        gain, memory = torch.randn(B, T, 1, dtype=torch.double).exp(), PLAIN.init()
        before = objective(x, gain * v, noise.variance)
        for _ in range(10):
            new, memory = PLAIN.step(noise, gain, x, v, memory)
            assert new.shape == gain.shape
            after, inverse = (objective(x, g * v, noise.variance) for g in (new, gain**2 / new))
            worst = max(worst, float((after - before).max()))
            wrong = max(wrong, float((inverse - before).max()))
            gain, before = new, after
    assert worst <= 1e-10
    assert wrong > 1


def test_gain_is_updated_as_the_docstring_says() -> None:
    """From the V of the update of H, that is: with the new W and the old H."""
    noise, x, v = start()
    gain = torch.randn(B, T, 1, dtype=torch.double).exp()
    W, H = update(x, gain * v, noise.W, noise.H)
    wanted, last = (
        gain * ((x * v / V**2).sum((0, -1)) / (v / V).sum((0, -1))).sqrt()[..., None]
        for V in (gain * v + (factors[0] @ factors[1]).mT + POWER_FLOOR for factors in ((W, noise.H), (W, H)))
    )
    given, _ = PLAIN.step(noise, gain, x, v, PLAIN.init())
    torch.testing.assert_close(given, wanted, rtol=1e-12, atol=0)
    torch.testing.assert_close(noise.W @ noise.H, W @ H, rtol=1e-12, atol=0)
    assert not torch.allclose(given, last, rtol=1e-3)


def test_gain_finds_the_level() -> None:
    noise, _, v = start()
    noise.W.zero_()
    level, gain = torch.rand(B, T, 1, dtype=torch.double) + 0.5, torch.ones(B, T, 1, dtype=torch.double)
    v = v[:1] + 1
    for _ in range(40):
        gain, _ = PLAIN.step(noise, gain, level * v[0], v, PLAIN.init())
    torch.testing.assert_close(gain, level, rtol=1e-5, atol=0)


def test_an_exact_factorisation_is_recovered() -> None:
    truth, _, _ = start()
    rising = torch.linspace(0.1, 2, F, dtype=torch.double)
    truth.W = torch.stack([rising, rising.flip(0)], -1).expand(B, F, K)
    x, none = truth.variance, torch.zeros(1, B, T, F, dtype=torch.double)
    best = objective(x, none, x)

    def gap(rank: int) -> Tensor:
        W, H = torch.rand(B, F, rank, dtype=torch.double), torch.rand(B, rank, T, dtype=torch.double)
        noise = NMFNoise(W, H)
        for _ in range(500):
            m_step(noise, x, none)
        return (objective(x, none, noise.variance) - best) / (T * F)

    assert (gap(K) < 1e-3).all()
    assert (gap(1) > 1e-2).all()  # one pattern too few


def test_every_sequence_has_its_own_factors() -> None:
    noise, x, speech = start()
    one = NMFNoise(noise.W[1:].clone(), noise.H[1:].clone())
    m_step(noise, x, speech)
    m_step(one, x[1:], speech[:, 1:])
    torch.testing.assert_close(noise.variance[1:], one.variance, rtol=1e-13, atol=0)
    assert not torch.allclose(noise.variance[0], one.variance[0])


def test_digital_silence_in_some_frames_is_harmless() -> None:
    noise, x, speech = start()
    x[:, 2:4] = 0
    for _ in range(50):
        m_step(noise, x, speech)
    assert torch.isfinite(noise.variance).all()


@pytest.mark.parametrize("dtype", [torch.float, torch.double])
def test_digital_silence_throughout_is_harmless(dtype: torch.dtype) -> None:
    """Patterns die there, and zero over zero must not become a number that is none."""
    noise, x, speech = (v.to(dtype) for v in start())
    x[1] = 0
    for _ in range(50):
        m_step(noise, x, speech)
    assert torch.isfinite(noise.W).all()
    assert torch.isfinite(noise.variance).all()
    assert (noise.variance[1] < 1e-3 * noise.variance[0].max()).all()


# --- floors


def test_what_was_silent_can_be_heard_again() -> None:
    """Activations and gains of silent frames fall, but not to zero, where a product stays."""
    noise, x, v = (part.float() for part in start())
    gain, memory, heard = torch.ones(B, T, 1), PLAIN.init(), x.clone()
    x[:, 2] = 0
    for _ in range(300):
        gain, memory = PLAIN.step(noise, gain, x, v, memory)
    assert (gain[:, 2] < 1e-6).all()
    assert (noise.H[..., 2] < 1e-6).all()
    for _ in range(100):
        gain, memory = PLAIN.step(noise, gain, heard, v, memory)
    alive = ((gain * v).mean(0) + noise.variance)[:, 2].sum(-1) / heard[:, 2].sum(-1)
    assert (alive > 0.2).all()
    noise.H[..., 2], gain[:, 2] = 0, 0  # the control: without the floors
    H, g = update(heard, gain * v, noise.W, noise.H)[1], gain
    assert (H[..., 2] == 0).all()
    assert (g[:, 2] == 0).all()


# --- draws of all iterations

KAPPA = Multiplicative(kappa=0.7, settle=2)


def by_hand_with_memory(steps: int, m: Multiplicative, scaled: bool = True) -> tuple[Tensor, Tensor]:
    """WH after some steps: by the M-step, and by means of the two terms of each majoriser, never normalised.

    With ``scaled`` False the means are kept, but the columns are normalised beneath them: a mistake.
    """
    noise, x, _ = start()
    W, H, memory = noise.W.clone(), noise.H.clone(), m.init()
    kept: dict[str, Factors] = {}
    for i in range(steps):
        speech = torch.randn(S, B, T, F, dtype=torch.double).mul(2).exp() / 4
        _, memory = m.step(noise, None, x, speech, memory)
        rho = 1.0 if i < m.settle else (i + 1 - m.settle) ** -m.kappa

        def found(name: str, old: Tensor, of_A: Callable, W: Tensor, H: Tensor, rho: float) -> Tensor:
            V = speech + torch.einsum("bfk,bkt->btf", W, H) + POWER_FLOOR  # noqa: B023 (called at once)
            new = old**2 * of_A(x * (V**-2).mean(0)), of_A((1 / V).mean(0))
            kept[name] = tuple(rho * n + (1 - rho) * k for n, k in zip(new, kept.get(name, new), strict=True))
            return (kept[name][0] / kept[name][1]).sqrt()

        W = found("W", W, lambda A, H=H: A.mT @ H.mT, W, H, rho)
        H = found("H", H, lambda A, W=W: (A @ W).mT, W, H, rho)
        if not scaled:
            total = W.sum(1, keepdim=True)
            W, H = W / total, H * total.mT
    return noise.W @ noise.H, W @ H


def test_memory_is_the_mean_of_all_majorisers_whatever_the_scale_of_the_columns() -> None:
    torch.testing.assert_close(*by_hand_with_memory(8, KAPPA), rtol=1e-10, atol=0)
    given, wrong = by_hand_with_memory(8, KAPPA, scaled=False)
    assert not torch.allclose(given, wrong, rtol=1e-3)
    assert not torch.allclose(given, by_hand_with_memory(8, PLAIN)[0], rtol=1e-3)


def test_without_forgetting_less_it_is_the_plain_m_step_bit_for_bit() -> None:
    def run(m: MStep, fresh: bool) -> Tensor:
        torch.manual_seed(0)
        noise, x, _ = start()
        gain, memory = torch.ones(B, T, 1, dtype=torch.double), m.init()
        for _ in range(15):
            v = torch.randn(S, B, T, F, dtype=torch.double).mul(2).exp() / 4
            gain, memory = m.step(noise, gain, x, v, m.init() if fresh else memory)
        return noise.variance + gain

    plain = run(PLAIN, fresh=True)
    assert torch.equal(run(PLAIN, fresh=False), plain)
    assert torch.equal(run(Multiplicative(kappa=0.7, settle=15), fresh=False), plain)
    assert not torch.allclose(run(Multiplicative(kappa=0.7, settle=10), fresh=False), plain, rtol=1e-3)


def estimates(m: MStep, draws: int, steps: int, replicas: int = 24) -> Tensor:
    """√(WH) of one pattern, (replicas, 24, 12): EM with exact draws, each replica with chance of its own.

    Every frame has one of four speech spectra, equally probable: its posterior is a table, and so are
    exact draws from it. All replicas hear the same.
    """
    g = torch.Generator().manual_seed(1)
    spoken = torch.randn(4, 12, dtype=torch.double, generator=g).exp()
    level = torch.rand(24, 1, dtype=torch.double, generator=g) + 1.5
    V = spoken[torch.randint(4, (24,), generator=g)] + level
    x = (V * -torch.rand(24, 12, dtype=torch.double, generator=g).log()).expand(replicas, -1, -1)
    one = torch.ones(replicas, 24, 12, dtype=torch.double)
    noise, memory = NMFNoise(one[:, :1].mT / 12, 12 * one[..., :1].mT), m.init()
    for _ in range(steps):
        V = spoken[:, None, None] + noise.variance  # (4, replicas, 24, 12)
        log_p = -(V.log() + x / V).sum(-1)
        z = torch.distributions.Categorical(logits=log_p.movedim(0, -1)).sample((draws,))
        _, memory = m.step(noise, None, x, spoken[z], memory)
    return noise.variance.sqrt()


def test_memory_lets_one_chain_do_the_work_of_ten() -> None:
    """The variance of the estimates falls many times, and their limit is that of very many draws."""
    limit = estimates(PLAIN, 200, 150, replicas=2).mean(0)
    one, ten = estimates(PLAIN, 1, 150), estimates(PLAIN, 10, 150)
    kept = estimates(Multiplicative(kappa=0.6, settle=30), 1, 400)

    def variance(e: Tensor) -> Tensor:
        return e.var(0).mean()

    def bias(e: Tensor) -> Tensor:
        """Root mean square, beyond what few replicas explain."""
        return ((e.mean(0) - limit).square().mean() - variance(e) / len(e)).clamp(min=0).sqrt()

    assert variance(kept) < variance(one) / 8
    assert variance(kept) < variance(ten)
    assert bias(kept) < 0.01 * limit.mean()
    early = estimates(Multiplicative(kappa=1.0, settle=0), 1, 400)  # a control: the start is remembered
    assert bias(early) > 3 * bias(kept).clamp(min=0.005 * limit.mean())
    assert variance(one) < 20 * variance(ten)  # a control: chance alone goes by the number of draws


def test_settings_that_cannot_be_are_refused() -> None:
    for wrong in ({"kappa": -0.1}, {"kappa": 1.5}, {"settle": -1}):
        with pytest.raises(ValueError, match="kappa is between 0 and 1, settle not negative"):
            Multiplicative(**wrong)
    assert Memory(*PLAIN.init()).steps == 0
