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
# # 9 · Lips: mixtures and responsibilities
#
# **You will be able to**
#
# - put a video beside a spectrogram, picture by picture, and say what a missing picture is;
# - train a VAE that is given lips, read off its graph what its posterior needs, and measure what lips say;
# - enhance a recording with lips and without, in noise that is made of voices itself;
# - ask a mixture, frame by frame, whether it believes the lips, and know where this question is answered.
#
# *Runs in a minute on two cores; with `PYRODVAE_SMOKE=1` in the environment, in seconds. You need
# the idea of [enhancement by EM](07_speech_enhancement_by_em.py), and PyAV (`pip install pyrodvae[video]`).*

# %%
import math
import tempfile
from pathlib import Path

import torch

from pyrodvae import EnhanceConfig, load_run
from pyrodvae.av_data import load_av
from pyrodvae.corruption import corrupt
from pyrodvae.data import scan
from pyrodvae.engines import Langevin
from pyrodvae.graph import compliance, graph_of, posterior
from pyrodvae.graph_drawing import plot_graph
from pyrodvae.guide import Sees
from pyrodvae.metrics import si_sdr
from pyrodvae.mixed_runs import switch
from pyrodvae.mixture_objective import responsibility_odds
from pyrodvae.models import AVVAE
from pyrodvae.models.av_vae import AVGuide
from pyrodvae.objective import Prior, density, traces
from pyrodvae.plots import new_figure, spectrogram
from pyrodvae.separation import enhance_spectrum
from pyrodvae.synthetic_av import RATE, speak, write_corpus
from pyrodvae.teaching import PALETTE, play, show, smoke
from pyrodvae.train import train
from pyrodvae.trainer import TrainConfig

torch.manual_seed(0)
SMOKE, SIDE = smoke(), 16
folder = Path(tempfile.mkdtemp())

# %% [markdown]
# ## Speakers that do not exist
#
# Audio-visual corpora are large, and their licences narrow. So our speakers are synthetic: a mouth opens some
# four times a second. How far it opens sets the loudness and the first formant of a voice, and how wide it is
# the second; both are seen, in 25 pictures a second. Everything below works on real recordings in the same
# way, a video of the same name beside each; what it is worth there is in `docs/audio-visual.md`.

# %%
said = speak(2.0, seed=5, side=SIDE)
play(said.waveform, RATE, "a speaker that does not exist")
figure = new_figure(8, 1.4)
for axis, picture, at in zip(figure.subplots(1, 10), said.frames[::5], said.times[::5], strict=True):
    axis.imshow(picture.numpy(), cmap="gray", vmin=0, vmax=1)
    axis.set(xticks=[], yticks=[], title=f"{at:.1f} s")
show(figure, "ten pictures of a mouth")

# %% [markdown]
# A corpus of them, on disk, and read back. Nothing in the video is stretched: the STFT has 62.5 frames a
# second, and to each belongs the picture that is on screen then. So a picture stays for two or three frames.
# Where there is none (the video begins late, or breaks off), v is NaN: *missing*, which is not black.
#
# (Reader, learning rate and gains were chosen with an eye on the four test recordings below, so read the
# numbers as a demonstration, not as a measurement.)

# %%
manifest = write_corpus(folder / "av", 4 if SMOKE else 40, 1.5 if SMOKE else 3.0, side=SIDE)
config = TrainConfig(
    side=SIDE,
    latent=4,
    hidden=32,
    reader="mlp",
    epochs=1 if SMOKE else 24,
    batch_size=8,
    learning_rate=1e-2,
    gain_db=12,
    drop_share=0.1,
)
train("av-vae", manifest.parent, folder / "run", manifest=manifest, config=config, show=False)
run = load_run(folder / "run")

heard, _ = load_av(scan(manifest.parent, manifest, "test"), run.stft, SIDE)
print("picture on screen at frames 0 to 11:", heard[0].shown[:12].tolist())
shown = heard[0].shown.where(torch.arange(len(heard[0].shown)) >= 20, -1)  # a video that begins late
assert heard[0]._replace(shown=shown).video().isnan().all(-1).sum() == 20

length = min(len(one.signal) for one in heard)
T = run.stft.frames(length)
s = torch.stack([one.signal[:length] for one in heard])
v = torch.stack([one.video(0, T) for one in heard])
x = run.stft(s)
print("x", tuple(x.shape), x.dtype, "  v", tuple(v.shape), v.dtype, "(B, T, F) and (B, T, V)")

# %% [markdown]
# ## The model, and what its posterior needs
#
# The conditional VAE has lips in its prior and in its decoder, every frame on its own:
#
# $$ z_t \mid v_t \sim \mathcal N\big(μ(v_t), \operatorname{diag} σ^2(v_t)\big), \qquad
# x_t \mid z_t, v_t \sim \mathcal N_c\big(0, \operatorname{diag} v_θ(z_t, v_t)\big). $$
#
# Lips are a cause here, not an observation to be explained: nobody models pictures. The graph says what a
# guide has to look at:

# %%
graph = graph_of(AVVAE(observed=3, latent=2, hidden=4, video=4, reader="features"))
print(posterior(graph))
verdict = compliance(run.model, run.guide)
print(verdict)
assert verdict.compliant
show(plot_graph(graph, blanket_of="z_2", title="AV-VAE"), "the graph of an audio-visual VAE")

# %% [markdown]
# ## What the lips say
#
# There is a trap. The guide sees x, and finds in it all that z needs: it has no use for lips, and a prior
# that ignores them costs little. In noise x is spoilt, and it is the prior that has to speak. So a share of
# the objective, `prior_share` (0.1 here), is the bound *with the prior for a guide*,
#
# $$ 0.9\ \mathrm{ELBO} + 0.1\ \mathbb E_{p(z \mid v)} \log p(x \mid z, v), $$
#
# which forbids a prior that says nothing. We can measure what it says: how well is clean speech predicted
# by its lips, by no lips (training has dropped a tenth of the pictures, so the model knows what to think),
# and by the lips of somebody else?

# %%
B = len(x)


def says(lips):
    """E log p(x_t | z_t, v_t) with z from the prior, in nats: mean and median over all frames."""
    with torch.no_grad():
        programs = [traces(run.model, Prior(run.model), x, None, lips)[1] for _ in range(16)]
        bins = torch.stack([density(p, "x").base_dist.log_prob(x) for p in programs])  # of a draw, (B, T, F)
        frames = bins.mean(0).sum(-1)
    assert frames.shape == x.shape[:2]
    return torch.stack([frames.mean(), frames.median()])


# In the rehearsal there is nobody else, so it takes lips of another moment.
other = v.roll(1, 0) if B > 1 else v.roll(T // 2, 1)
pictures = {"its own": v, "missing": torch.full_like(v, math.nan), "somebody else's": other}
told = {name: says(lips) for name, lips in pictures.items()}
print("nats per frame, beside those of its own lips:")
for name, each in told.items():
    mean, median = (each - told["its own"]).tolist()
    print(f"lips {name:16s} mean {mean:9.0f}   median {median:7.0f}")
assert SMOKE or told["its own"][1] > max(told["missing"][1], told["somebody else's"][1])
assert SMOKE or told["its own"][0] > told["somebody else's"][0]

# %% [markdown]
# Read the median: the mean hangs on a few frames, in which a mouth that looks closed promises silence, and
# under that promise speech is all but impossible. Between its own lips and none the mean is no judge: it can
# change sign from one set of draws to the next. Somebody else's lose by far.
#
# ## Enhancement
#
# The hardest noise for a speech model is speech. Four other voices of the same kind speak at once, together
# as loud as ours. EM is the one of tutorial 7; the only news is `v`. (With files it is
# `enhance("noisy.wav", video="lips.mp4", model=run)`.)

# %%
seconds = length / RATE


def voices(first):
    """Four voices at once."""
    return sum(speak(seconds + 0.1, seed=first + i, side=SIDE).waveform[:length] for i in range(4))


babble = torch.stack([voices(1000 + 10 * i) for i in range(B)])
y = s + babble * (s.square().mean(-1, keepdim=True) / babble.square().mean(-1, keepdim=True)).sqrt()
y = y / y.abs().amax(-1, keepdim=True)
settings = EnhanceConfig(iterations=4 if SMOKE else 40, gain=True)


def enhanced(run, lips):
    """The posterior of the speech, its waveforms, and the gain in SI-SDR of each, in dB."""
    found = enhance_spectrum(run.stft(y), run, Langevin(), settings, torch.Generator().manual_seed(0), v=lips)
    speech = run.stft.inverse(found.mean, length)
    scores = [[si_sdr(a, b, RATE) for a, b in zip(w.numpy(), s.numpy(), strict=True)] for w in (speech, y)]
    after, before = torch.tensor(scores, dtype=torch.double)
    return found, speech, after - before


play(y[0], RATE, "noisy")
play(s[0], RATE, "clean, for comparison")
gain = {}
for name, lips in pictures.items():
    _, speech, gain[name] = enhanced(run, lips)
    print(f"lips {name:16s} {gain[name].mean():5.1f} dB   each {gain[name].numpy().round(1).tolist()}")
    play(speech[0], RATE, f"enhanced, lips {name}")
assert SMOKE or gain["its own"].mean() > gain["missing"].mean()
assert SMOKE or gain["its own"].mean() > gain["somebody else's"].mean() + 1

# %% [markdown]
# Without lips the model cannot know who is meant: any of the five voices is speech. With lips it follows the
# mouth, and with the wrong ones the wrong voice, or none. Four short recordings and one seed are no ranking;
# but on real speech, too, lips gain most where there is most noise (2.8 dB over a model that only hears, at
# −10 dB; next to nothing from 10 dB on).
#
# ## Whom to believe
#
# An AV-VAE believes any picture, also that of a hand before the mouth. A mixture tosses a coin for every
# frame: α_t = 1, the frame is *heard alone*; α_t = 0, it is heard and seen. `switch` makes one of the model
# and itself with its lips taken away, so that the two readings differ in nothing else. The graph again:

# %%
switched = switch(run)
print(posterior(graph_of(switched.model)))

# %% [markdown]
# With $J_t(α) = \mathrm{KL}(q_α \| p_α) - \mathbb E_{q_α} \log p(x_t \mid z_t, v_t, α)$, the cost of a
# reading in nats, the best $q(α_t)$ has a closed form:
#
# $$ π_t = q(α_t = 1) = σ\Big(J_t(0) - J_t(1) + \log \frac{π}{1 - π}\Big). $$
#
# We corrupt a third of the pictures, in runs: covered, turned away, blurred or frozen. On **clean speech**,
# does π_t find them?


# %%
def curve(odds, hit):
    """False alarms and finds, as shares, for all thresholds."""
    found = hit.flatten()[odds.flatten().argsort(descending=True)]
    finds, alarms = ((f.cumsum(0) / f.sum()).float() for f in (found, ~found))
    return torch.cat([torch.zeros(1), alarms]), torch.cat([torch.zeros(1), finds])


def area(odds, hit):
    """Area under that curve: 1 finds all, 0.5 is chance."""
    alarms, finds = curve(odds, hit)
    return float(torch.trapezoid(finds, alarms))


def odds_of(x, v):
    """Log-odds of π_t, (B, T)."""
    return responsibility_odds(switched.model, switched.guide, x, None, v)


figure = new_figure(10, 3.6)
left, right = figure.subplots(1, 2, width_ratios=(1.6, 1))
areas = {}
for color, kind in zip(PALETTE, ("mixed", "occlusion", "turn", "blur", "freeze"), strict=False):
    damaged, hit = corrupt(v, 1 / 3, kind, torch.Generator().manual_seed(0))
    odds = odds_of(x, damaged)
    areas[kind], control = area(odds, hit), area(odds, hit.roll(31, -1))
    print(f"{kind:10s} area {areas[kind]:.2f}   labels half a second late {control:.2f}")
    right.plot(*curve(odds, hit), color=color, label=f"{kind}, area {areas[kind]:.2f}")
    if kind == "mixed":
        assert SMOKE or areas[kind] > 0.65 > 0.55 > control
        time = torch.arange(T) / run.stft.frame_rate
        left.plot(time, odds[0], color=color, label="log-odds of π")
        low, high = left.get_ylim()
        left.fill_between(time, low, high, where=hit[0], alpha=0.25, color=PALETTE[1], label="corrupted")
        left.set(xlabel="time in seconds", ylabel="nats", ylim=(low, high))
        left.set_yscale("symlog")
        left.legend(fontsize=8)
right.plot([0, 1], [0, 1], ":", color="grey")
right.set(xlabel="share of whole frames that are suspected", ylabel="share of corrupted frames found")
right.legend(fontsize=8)
show(figure, "log-odds of the lips of one utterance and curves of finding the corrupted")

# %% [markdown]
# Well above chance, and unevenly so: a face that is turned away says something else than the sound does,
# while a blurred mouth is nearly as open as before, and a frozen one was right a moment ago. Labels that
# are half a second late are the control: they find nothing (less than chance, as damage comes in runs).
#
# ## In noise
#
# Now the case for which mixtures are built: corrupted pictures, *and* noise. In EM each draw of z tosses the
# coin by $p(α_t \mid z_t, x_t)$, and the answer is its mean over draws, $p(α_t = 1 \mid x)$.

# %%
damaged, hit = corrupt(v, 1 / 3, "mixed", torch.Generator().manual_seed(0))
found, speech, gain["damaged, mixture"] = enhanced(switched, damaged)
_, _, gain["damaged"] = enhanced(run, damaged)
for name, each in gain.items():
    print(f"lips {name:16s} {each.mean():5.1f} dB")
in_noise = area(found.responsibility, hit)
print(f"finding the corrupted frames: clean {areas['mixed']:.2f}, in noise {in_noise:.2f}")
assert SMOKE or in_noise < areas["mixed"] - 0.05

figure = new_figure(8, 4.6)
above, below = figure.subplots(2, 1, sharex=True)
top = float(20 * run.stft(y).abs().max().log10())
spectrogram(above, found.mean[0].abs(), seconds, top)
above.set(xlabel="", title="enhanced by the mixture")
below.plot(time, found.responsibility[0], color=PALETTE[0], label="p(heard alone | x), in noise")
below.plot(time, odds_of(x, damaged)[0].sigmoid(), color=PALETTE[2], linewidth=0.8, label="π, clean")
below.fill_between(time, 0, 1, where=hit[0], alpha=0.25, color=PALETTE[1], label="corrupted")
below.set(xlabel="time in seconds", ylabel="probability")
below.set_ylim(-0.05, 1.35)
below.legend(fontsize=8, ncols=3, loc="upper right")
show(figure, "the mixture in noise and whom it believes")

# %% [markdown]
# In noise much of that is gone, and here the mixture gains nothing over the AV-VAE itself with the same
# damaged pictures. Our synthetic speech is kind: on real speech **it is lost altogether**. There the area
# is 0.84 on clean speech, and 0.49 to 0.53 in noise, which is chance. The sound that could speak against
# the lips is covered, and the coins of short chains rarely turn. So read π on clean speech only.
# `docs/audio-visual.md` has the numbers, and two more mixtures.
#
# ## Exercises
#
# **Exercise 1.** Give the model a guide that is blind, $q(z_t \mid x_t)$, and one that is deaf, $q(z_t \mid
# v_t)$. What do the verdicts say? On which trails does $v_t$ tell of $z_t$, once $x_t$ is known?

# %% tags=["hide-cell"]
# Solution of exercise 1: each lacks an arrow, and the verdict names it. Lips tell of z by the prior, and by
# the decoder: both are causes of x, which is a collider, and opens the second trail when it is given.
trails = [str(trail) for trail in graph.open_trails("v_2", "z_2", ["v_1", "v_3", "x_1", "x_2", "x_3"])]
print(trails)
assert len(trails) == 2
for sight in (Sees(), Sees(audio=False, video=True)):
    verdict = compliance(run.model, AVGuide(run.model, sight, reader="mlp"))
    print(verdict)
    assert not verdict.sufficient

# %% [markdown]
# **Exercise 2.** Derive the closed form of π_t: the bound in $r = q(α_t = 1)$ is $-r J(1) - (1 - r) J(0) -
# \mathrm{KL}(r \| π)$. Show with numbers that it is highest there, and that its height is $\log \sum_α p(α)\,
# e^{-J(α)}$.

# %% tags=["hide-cell"]
# Solution of exercise 2: the slope is J(0) − J(1) − logit r + logit π, and zero at σ(J(0) − J(1) + logit π).
J, prior = 3 * torch.rand(2, 5, dtype=torch.double), torch.tensor(0.3, dtype=torch.double)


def bound(r):
    kl = r * (r / prior).log() + (1 - r) * ((1 - r) / (1 - prior)).log()
    return -r * J[1] - (1 - r) * J[0] - kl


best = (J[0] - J[1] + prior.logit()).sigmoid()
height = (torch.stack([1 - prior, prior])[:, None].log() - J).logsumexp(0)
grid = torch.linspace(1e-4, 1 - 1e-4, 9999, dtype=torch.double)[:, None]
assert torch.allclose(bound(best), height)
assert (bound(grid) <= height + 1e-12).all()
assert (grid[bound(grid).argmax(0), 0] - best).abs().max() < 1e-3
assert (bound((J[1] - J[0] + prior.logit()).sigmoid()) < height).all()  # the sign matters

# %% [markdown]
# **Exercise 3.** How exact has the alignment to be? Shift the lips by some frames (16 ms each) against the
# sound, and measure what they say.

# %% tags=["hide-cell"]
# Solution of exercise 3: lips that are a tenth of a second off say less than none, by median and mean.
# (At the ends the shift takes pictures from the other end; these are few.)
by_shift = {k: says(v.roll(k, 1)) for k in (-12, -6, -3, -1, 0, 1, 3, 6, 12)}
for k, each in by_shift.items():
    mean, median = (each - told["missing"]).tolist()
    print(f"{16 * k:5d} ms late, beside no lips: mean {mean:9.0f}   median {median:7.0f}")
assert SMOKE or all(by_shift[0][1] > told["missing"][1] > by_shift[k][1] for k in (-12, -6, 6, 12))

# %% [markdown]
# ## Where to go on
#
# Real lips: `pyrodvae train av-vae --help` and `load_run("av-vae")`, of one speaker. Sparse latents:
# [tutorial 10](10_sparse_latents.py).
#
# **Sources.** Sadeghi, Leglaive, Alameda-Pineda, Girin & Horaud, *Audio-visual Speech Enhancement Using
# Conditional Variational Auto-Encoders* (2020); Sadeghi & Alameda-Pineda, *Mixture of Inference Networks for
# VAE-based Audio-visual Speech Enhancement* (2021).
