# ---
# jupyter:
#   jupytext:
#     text_representation:
#       extension: .py
#       format_name: percent
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # 7 · Speech enhancement by EM
#
# **You will be able to**
#
# - write down the model of noisy speech, and sum the clean speech out of it;
# - write the E-step, the M-step and the Wiener filter in a few lines each, and check them;
# - run VEM, Langevin dynamics, MALA and HMC on one recording, and compare their quality with their cost;
# - draw speech from its posterior, give intervals for it, and find out how far to trust them.
#
# *Runs in two minutes on two cores; with `PYRODVAE_SMOKE=1` in the environment, in seconds. You need the idea
# of EM, and of a [speech model](06_training_a_speech_model.py); this one comes trained with the package.*

# %%
import time

import torch

from pyrodvae import EnhanceConfig, enhance, examples, load_run, read_audio
from pyrodvae.distributions import ComplexNormal
from pyrodvae.engines import MALA, VEM, BatchedHMC, Encoder, Langevin
from pyrodvae.metrics import si_sdr
from pyrodvae.noise import Multiplicative, NMFNoise
from pyrodvae.noisy import NoisySpeech
from pyrodvae.plots import new_figure, spectrogram
from pyrodvae.potential import Target
from pyrodvae.separation import enhance_spectrum
from pyrodvae.teaching import PALETTE, play, show, smoke

torch.manual_seed(0)
SMOKE = smoke()

# %% [markdown]
# ## The recording
#
# One sentence in the noise of a fan with other voices in it, at 0 dB: speech and noise are equally loud. The
# clean speech is packaged, too, so that we can measure; nothing below uses it for anything else. SI-SDR is
# the ratio of speech to everything else, in dB.

# %%
noisy, rate = read_audio(examples.noisy())
clean, _ = read_audio(examples.clean())
if SMOKE:
    noisy, clean = noisy[:, :24_000], clean[:, :24_000]
play(noisy, rate, "noisy")
play(clean, rate, "clean, for comparison")
before = si_sdr(noisy, clean, rate)
print(f"SI-SDR of the recording: {before:.1f} dB")

run = load_run("rvae")
peak = abs(noisy).max()
x = run.stft(torch.from_numpy(noisy / peak).float())
B, T, F = x.shape
x_power = x.abs().square()
print("its spectrogram x:", (B, T, F), "(B, T, F), complex")

# %% [markdown]
# ## The model
#
# Clean speech $s$ is the RVAE's, trained on other people's clean speech. The noise $b$ has a variance that is
# a product of K patterns and their activations (non-negative matrix factorisation), and x is their sum:
#
# $$
# z \sim \mathcal N(0, I), \quad s_{tf} \mid z \sim \mathcal N_c(0, v_{tf}(z)), \quad
# b_{tf} \sim \mathcal N_c(0, (WH)_{ft}), \quad x = s + b.
# $$
#
# Sums of independent Gaussians are Gaussian. So the clean speech can be summed out, and what is left is a
# model of x with the same latent path:
#
# $$ x_{tf} \mid z \sim \mathcal N_c\big(0,\ V_{tf}\big), \qquad V = v(z) + WH. $$
#
# `NoisySpeech` is this model, a Pyro program like any other. The first guess of the noise is taken from the
# quietest frames.

# %%
K = 8
noise = NMFNoise.from_quiet_frames(x, K, torch.Generator().manual_seed(0))
mixture = NoisySpeech(run.model, noise)
print("W", tuple(noise.W.shape), "(B, F, K),  H", tuple(noise.H.shape), "(B, K, T)")

with torch.no_grad():
    z = run.guide.posterior(x).rsample((2,))  # S = 2 chains, started where the encoder of clean speech says
    by_package = Target(mixture, None, (x,)).log_joint(z)
    V = mixture.speech_variance(z) + noise.variance
    by_hand = ComplexNormal(V).log_prob(x).sum((-2, -1)) + torch.distributions.Normal(0.0, 1.0).log_prob(
        z
    ).sum((-2, -1))
print("log p(x, z) of two chains:", by_hand.flatten().tolist())
assert torch.allclose(by_package, by_hand, rtol=1e-4)

# %% [markdown]
# ## EM
#
# Unknown are z, W and H. EM takes turns:
#
# - **E-step**: draw $z^{(1)} \dots z^{(S)}$ from $p(z \mid x; W, H)$, by any engine;
# - **M-step**: with these, lower $Q(W, H) = \frac1S \sum_r \sum_{tf} \big[\log V^{(r)}_{tf} +
#   |x_{tf}|^2 / V^{(r)}_{tf}\big]$.
#
# **The E-step** by Langevin dynamics is noise plus the gradient of the log joint, which the speech model's
# decoder hands us by automatic differentiation:
#
# $$ z \leftarrow z + \tfrac{η}{2} \nabla_z \log p(x, z) + \sqrt{η}\, ε. $$


# %%
def langevin(z, step):
    """One step of every chain, (S, B, T, D), and log p(x, z) before it, (S, B)."""
    log_p, gradient = Target(mixture, None, (x,)).gradient(z)
    return z + 0.5 * step * gradient + step**0.5 * torch.randn_like(z), log_p


# %% [markdown]
# **The M-step** multiplies. Where the gradient of Q in W is a difference of two positive terms, W is
# multiplied by the root of their ratio, so it stays positive, and Q never rises:
#
# $$
# \begin{gathered}
# W \leftarrow W \odot \sqrt{\frac{A H^⊤}{C H^⊤}}, \qquad H \leftarrow H \odot \sqrt{\frac{W^⊤ A}{W^⊤ C}}, \\
# A = |x|^2 \odot \langle V_r^{-2} \rangle_r, \qquad C = \langle V_r^{-1} \rangle_r.
# \end{gathered}
# $$


# %%
def objective(v, noise):
    """Q per bin, for draws of the speech variance v (S, B, T, F)."""
    V = v + noise.variance
    return float((V.log() + x_power / V).mean())


def m_step(v, noise):
    """New W and H, in place."""
    V = v + noise.variance
    A, C = x_power * (V**-2).mean(0), (1 / V).mean(0)  # (B, T, F)
    noise.W *= ((A.mT @ noise.H.mT) / (C.mT @ noise.H.mT)).sqrt()
    V = v + noise.variance
    A, C = x_power * (V**-2).mean(0), (1 / V).mean(0)
    noise.H *= ((noise.W.mT @ A.mT) / (noise.W.mT @ C.mT)).sqrt()


v = mixture.speech_variance(z).detach()
mine, theirs = (NMFNoise(noise.W.clone(), noise.H.clone()) for _ in range(2))
plain, start = Multiplicative(), objective(v, noise)
memory = plain.init()
for _ in range(5):
    was = objective(v, mine)
    m_step(v, mine)
    _, memory = plain.step(theirs, None, x_power, v, memory)
    assert objective(v, mine) <= was + 1e-6
print(
    f"Q over five M-steps: {start:.4f} → {objective(v, mine):.4f}; the package's: {objective(v, theirs):.4f}"
)
assert torch.allclose(mine.variance, theirs.variance, rtol=1e-3, atol=1e-5)

# %% [markdown]
# **The estimate.** Given z, speech and x are jointly Gaussian: $\mathrm E[s \mid x, z] = \frac{v}{v + WH}\,
# x$, the Wiener filter. So the mean of s is x times the mean of that mask, over draws and over the last
# iterations. All of it:

# %%
ITERATIONS = 6 if SMOKE else 60
masks, history = [], []
for i in range(ITERATIONS):
    z, log_p = langevin(z, 0.003)
    with torch.no_grad():
        v = mixture.speech_variance(z)
    m_step(v, noise)
    history.append(objective(v, noise))
    if i >= ITERATIONS // 2:
        masks.append((v / (v + noise.variance)).mean(0))
mask = torch.stack(masks).mean(0)
speech = run.stft.inverse(mask * x, noisy.shape[-1]).numpy() * peak
by_hand = si_sdr(speech, clean, rate)
print(f"by hand: {before:.1f} → {by_hand:.1f} dB")
play(speech, rate, "enhanced by hand")
assert by_hand > before + 0.5

# %% [markdown]
# ## Engines
#
# `enhance` does the same with more care: chains begin at the encoder's reading of a crudely denoised x,
# steps are scaled by the size of the gradient, the M-step remembers earlier draws, and a guard watches. The
# engine of the E-step is one argument:
#
# | engine | E-step |
# |---|---|
# | `Encoder` | draws of the encoder, never corrected by x: the baseline |
# | `VEM` | gradient steps on the encoder's weights, for this recording (variational EM) |
# | `Langevin` | as above: a bias of the order of its step, and nothing is rejected |
# | `MALA` | the same proposal, accepted or rejected: exact |
# | `BatchedHMC` | several leapfrog steps, then accepted or rejected: exact |

# %%
engines = {
    "encoder": Encoder(),
    "VEM": VEM(),
    "Langevin": Langevin(),
    "MALA": MALA(),
    "HMC": BatchedHMC(),
}
budgets = (3, 6) if SMOKE else (10, 30, 60)
results, quality, seconds = {}, {}, {}
for name, engine in engines.items():
    quality[name], seconds[name] = [], []
    for iterations in budgets:
        start = time.perf_counter()
        config = EnhanceConfig(iterations=iterations)
        results[name] = enhance(noisy, sample_rate=rate, model=run, engine=engine, config=config)
        seconds[name].append((time.perf_counter() - start) / (noisy.shape[-1] / rate))
        quality[name].append(si_sdr(results[name].speech, clean, rate))
    pairs = zip(quality[name], seconds[name], strict=True)
    print(f"{name:9s}" + "".join(f"{score:6.1f} dB in {spent:5.2f}" for score, spent in pairs))
print("(seconds of computing per second of sound)")
play(results["Langevin"].speech, rate, "enhanced, Langevin")
play(results["VEM"].speech, rate, "enhanced, VEM")
worst = min(scores[-1] for name, scores in quality.items() if name != "encoder")
assert worst > before + 1
assert SMOKE or worst > quality["encoder"][-1] + 1

figure = new_figure(8, 3.2)
axis = figure.subplots()
for (name, scores), color, marker in zip(quality.items(), PALETTE, "osD^v", strict=False):
    axis.plot(seconds[name], scores, color=color, marker=marker, label=name)
axis.axhline(before, color="0.4", linestyle=":", label="noisy")
axis.set(xscale="log", xlabel="seconds of computing per second of sound", ylabel="SI-SDR in dB")
axis.xaxis.set_major_formatter("{x:g}")
axis.xaxis.set_minor_formatter("{x:g}")
axis.legend(fontsize=8, ncols=3)
show(figure, "quality against time for five engines")

# %% [markdown]
# All that ask x beat the encoder alone, which hears speech wherever the noise is like it. Among each other
# they differ by a dB here, and severalfold in time. One recording ranks no methods, least of all one of a
# synthetic voice: `docs/results.md` has many.
#
# ## The posterior
#
# The answer is not one waveform. Given a draw of z, the speech is a complex Gaussian with mean $\frac{v}{v +
# WH} x$ and variance $\frac{v\, WH}{v + WH}$ in every bin; `enhance_spectrum` gives the posterior of a
# spectrogram, which can be drawn from. Over draws of z, variances add up by the law of total variance.

# %%
config = EnhanceConfig(iterations=6 if SMOKE else 60, chains=4)
posterior = enhance_spectrum(x, run, Langevin(), config, torch.Generator().manual_seed(0))
draws = posterior.draw(x)
print("draws of the speech:", tuple(draws.shape), "(S, B, T, F), complex")
for r in range(2):
    play(run.stft.inverse(draws[r], noisy.shape[-1]).numpy() * peak, rate, f"draw {r}")

s = run.stft(torch.from_numpy(clean / peak).float())
top = float(20 * x.abs().max().log10())
panels = {
    "noisy |x|": x,
    "estimate |E[s | x]|": posterior.mean,
    "clean |s|": s,
    "standard deviation of s": posterior.variance.sqrt(),
}
figure = new_figure(9, 5)
axes = figure.subplots(2, 2)
for axis, (title, image) in zip(axes.flat, panels.items(), strict=True):
    shown = spectrogram(axis, image[0].abs(), noisy.shape[-1] / rate, top)
    axis.set_title(title)
figure.colorbar(shown, ax=axes, label="dB")
show(figure, "spectrograms of noisy and enhanced and clean speech and of the uncertainty")

# %% [markdown]
# **How far to trust it?** `interval` bounds the magnitude $|s|$ in every bin, with 90 % probability. So says
# the posterior, and it is right about its own draws. And about the true speech, in the bins where it can be
# heard (no more than 40 dB under the loudest)?

# %%
low, high = posterior.interval(x, 0.9)
heard = s.abs() > 0.01 * s.abs().max()


def held(speech):
    """The share of bins where the magnitude lies within the interval."""
    return float(((low <= speech.abs()) & (speech.abs() <= high))[..., heard[0]].float().mean())


own, true = held(draws[:, 0]), held(s[0])
print(f"90 % intervals hold {100 * own:.0f} % of its own draws and {100 * true:.0f} % of the true speech")
assert 0.87 < own < 0.96
assert true < own

# %% [markdown]
# It is too sure of itself. It takes W and H for known (EM gives one pair), its speech model for right, and
# neighbouring frames, which overlap by 75 %, for independent. [Tutorial 11](11_is_my_posterior_calibrated.py)
# asks such questions in general.
#
# ## Exercises
#
# **Exercise 1.** How good could a Wiener filter be? Use the true $|s|^2$ and $|b|^2$ for $v$ and $WH$.

# %% tags=["hide-cell"]
# Solution of exercise 1: the mask is not what limits us; that v and WH are not known is.
b = x - s
ideal = s.abs().square() / (s.abs().square() + b.abs().square() + 1e-12)
oracle = si_sdr(run.stft.inverse(ideal * x, noisy.shape[-1]).numpy(), clean, rate)
print(f"the oracle's mask: {oracle:.1f} dB; ours: {quality['Langevin'][-1]:.1f} dB")
assert oracle > quality["Langevin"][-1] + 3

# %% [markdown]
# **Exercise 2.** `EnhanceConfig(estimate="precision")` takes the mean of $1/v$ over draws in place of the
# mean of masks. Show by Jensen's inequality that the result is never louder in any bin, given the same draws
# and noise, and measure how much quieter it is.

# %% tags=["hide-cell"]
# Solution of exercise 2: with p = 1/v the mask is 1/(1 + p·WH), convex in p; so the mean of masks is at
# least the mask of the mean p. The two take the same random numbers, hence the same draws.
both = {}
for estimate in ("mask", "precision"):
    config = EnhanceConfig(iterations=6 if SMOKE else 40, estimate=estimate)
    both[estimate] = enhance(noisy, sample_rate=rate, model=run, config=config)
    loudness = both[estimate].mean.abs().square().mean().log10() * 10
    score = si_sdr(both[estimate].speech, clean, rate)
    print(f"{estimate}: {loudness:.1f} dB, SI-SDR {score:.1f} dB")
assert both["precision"].mean.abs().sum() < both["mask"].mean.abs().sum()

# %% [markdown]
# **Exercise 3.** How many patterns does the noise need? Compare the objective and the SI-SDR for K = 1, 8
# and 32.

# %% tags=["hide-cell"]
# Solution of exercise 3: more patterns explain x better, and the score does not follow: what they explain
# may be speech. The objective is no score.
fits = {}
for rank in (1, 8, 32):
    config = EnhanceConfig(iterations=6 if SMOKE else 40, noise_rank=rank)
    found = enhance(noisy, sample_rate=rate, model=run, config=config)
    fits[rank] = float(found.objective[-1].mean())
    print(f"K = {rank:2d}: objective {fits[rank]:.3f}, SI-SDR {si_sdr(found.speech, clean, rate):.1f} dB")
assert fits[32] < fits[1]

# %% [markdown]
# ## Where to go on
#
# Write an engine of your own: [tutorial 8](08_write_your_own_kernel.py). What each of the package's converges
# to: `docs/engines.md`; many recordings: `docs/results.md`.
