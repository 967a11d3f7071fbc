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
# # 6 · Training a speech model
#
# **You will be able to**
#
# - train a dynamical VAE on a folder of recordings, from Python or by one command;
# - read its curves: what it has learned, whether the latent path is used, and whether it learns by heart;
# - stop a training run anywhere and resume it, with the same weights in the end, to the last bit;
# - listen to what the model can say, and use it to enhance.
#
# *Runs in two minutes on two cores; with `PYRODVAE_SMOKE=1` in the environment, in seconds. You need
# [tutorial 1](01_a_dynamical_vae_in_forty_lines.py); for a model that is any good, also a corpus and an
# evening.*

# %%
import csv
import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from pyrodvae import EnhanceConfig, enhance, examples, load_run, read_audio, write_audio
from pyrodvae.cli import main
from pyrodvae.plots import new_figure, spectrogram
from pyrodvae.signal import STFT, resample
from pyrodvae.synthesis import reconstruct, resynthesize
from pyrodvae.teaching import PALETTE, play, show, smoke
from pyrodvae.train import train
from pyrodvae.trainer import TrainConfig

folder = Path(tempfile.mkdtemp())

# %% [markdown]
# ## A corpus
#
# A corpus is a folder of recordings of clean speech: any rate, any format, folders in folders. We make a
# tiny one out of the packaged sentence: played at other speeds, it is spoken by other people, so to say,
# and some of it is turned into pieces. Twelve recordings, of which nobody would expect a good model of
# speech; but everything else is as with a large one.

# %%
clean, rate = read_audio(examples.clean())
rng = np.random.default_rng(0)
speeds = [0.8, 0.86, 0.92, 0.98, 1.04, 1.1, 1.16, 1.22]
corpus = folder / "corpus"
corpus.mkdir()
for i, speed in enumerate(speeds[:3] if smoke() else speeds):
    voice = resample(clean, round(rate * speed), rate)
    voice = voice + 1e-3 * rng.standard_normal(voice.shape).astype(np.float32)
    for part, piece in enumerate(np.array_split(voice, 2, axis=-1)):
        write_audio(corpus / f"voice{i}_{part}.wav", piece, rate)
print(len(list(corpus.glob("*.wav"))), "recordings")
play(corpus / "voice0_0.wav", title="the lowest voice")

# %% [markdown]
# ## What the model sees
#
# The short-time Fourier transform $s_{tf}$, 513 bins for every frame of 64 ms, 62.5 frames per second. A
# speech model says with which *variance* every bin comes,
#
# $$
# s_{tf} \mid z \sim \mathcal N_c\big(0, v_f(z_t)\big), \qquad
# -\log p(s \mid z) = \sum_{tf} \log π v_f(z_t) + \frac{|s_{tf}|^2}{v_f(z_t)},
# $$
#
# and networks read the logarithm of the power. Phase is not modelled: it is uniform.
#
# ## Training
#
# One call. It reads the folder, sets every tenth recording aside for validation, fits the scales of the
# spectrum, trains, and after every epoch writes weights, a card, the history, the curves and a checkpoint.
# `beta` weighs the KL term of the ELBO; over the `warmup` it rises from zero, so that the decoder first
# learns to use the latents at all.

# %%
config = TrainConfig(
    epochs=3 if smoke() else 60,
    warmup=1 if smoke() else 10,
    batch_size=8,
    frames=16 if smoke() else 40,
    hidden=16 if smoke() else 64,
    latent=4 if smoke() else 8,
    learning_rate=5e-3,
)
finished = train("dkf", corpus, folder / "run", config=config, log=lambda line: None, show=False)
print("written:", ", ".join(sorted(path.name for path in (folder / "run").iterdir())))

# %% [markdown]
# The same from the command line, with the same result:
#
#     pyrodvae train dkf --data corpus --out run --epochs 60 \
#         --set warmup=10 batch_size=8 frames=40 hidden=64 latent=8 learning_rate=5e-3
#
# ## Curves
#
# `history.csv` has a row for each epoch. Three things to look at:
#
# - *Training and validation loss* fall together. Where training goes on falling and validation turns up,
#   the model learns by heart; the weights that are kept are those of the best epoch.
# - *The KL term*, in nats per frame, is what the latent path carries. If it goes to zero, the decoder
#   ignores $z$: the posterior has collapsed to the prior. A longer warm-up helps.
# - *The loss is a density*, so it can have either sign, and values can be compared on the same data and the
#   same front end only.

# %%
with open(folder / "run" / "history.csv") as file:
    history = [{key: float(value) for key, value in row.items()} for row in csv.DictReader(file)]
first, last = history[0], history[-1]
print(f"validation loss {first['val_loss']:.0f} → {last['val_loss']:.0f} nats per frame of 513 bins")
print(f"KL {first['val_kl']:.1f} → {last['val_kl']:.1f} nats per frame")
assert history == [{key: float(value) for key, value in row.items()} for row in finished.history]
assert smoke() or last["val_loss"] < first["val_loss"]
assert smoke() or last["val_kl"] > 1

figure = new_figure(8, 2.8)
left, right = figure.subplots(1, 2)
epochs = [row["epoch"] for row in history]
for name, color in (("train_loss", PALETTE[0]), ("val_loss", PALETTE[1])):
    left.plot(epochs, [row[name] for row in history], color=color, label=name.replace("_", " "))
left.set(xlabel="epoch", ylabel="nats per frame")
left.legend()
right.plot(epochs, [row["val_kl"] for row in history], color=PALETTE[2], label="KL")
right.plot(epochs, [10 * row["beta"] for row in history], "k:", label="10 β (no unit)")
right.set(xlabel="epoch", ylabel="nats per frame")
right.legend()
show(figure, "curves of a training run")

# %% [markdown]
# ## Killed and resumed
#
# Computers go down. The random numbers of an epoch follow from the seed and the epoch's number alone, and
# the checkpoint holds all that is needed: so a run that is killed and resumed ends with *the same* weights.
# We kill one in its second epoch:


# %%
def power_cut(line):
    """Called with every line of progress; the plug is pulled in epoch 2."""
    if line.startswith("epoch 2 "):
        raise KeyboardInterrupt


short = replace(config, epochs=2, warmup=1)
train("dkf", corpus, folder / "whole", config=short, show=False)
try:
    train("dkf", corpus, folder / "killed", config=short, log=power_cut, show=False)
except KeyboardInterrupt:
    print("killed in epoch 2")
resumed = train("dkf", corpus, folder / "killed", config=short, resume=True, show=False)
print("resumed; epochs:", [int(row["epoch"]) for row in resumed.history])

one, other = (load_run(folder / name) for name in ("whole", "killed"))
for a, b in ((one.model, other.model), (one.guide, other.guide)):
    weights = b.state_dict()
    assert all(torch.equal(value, weights[name]) for name, value in a.state_dict().items())
assert (folder / "whole" / "history.csv").read_text() == (folder / "killed" / "history.csv").read_text()
print("all weights equal, to the last bit")

# %% [markdown]
# With other settings it would not be the same run, so that is refused, in a sentence that says which:

# %%
try:
    train("dkf", corpus, folder / "killed", config=replace(short, learning_rate=1.0), resume=True, show=False)
    raise AssertionError("it should have been refused")
except RuntimeError as refusal:
    print(refusal)

# %% [markdown]
# ## Listening
#
# `load_run` takes the folder of a run, or the key of packaged weights. Resynthesis sends speech into the
# latent path and back: 513 numbers per frame become a handful, and 513 again. What is lost is what the
# model cannot say. Beside ours, a model of the package, trained on 71 minutes of many voices.

# %%
ours, packaged = load_run(folder / "run"), load_run("dkf")
play(clean, rate, "clean")
for name, run in (("our tiny model", ours), ("the packaged model", packaged)):
    play(resynthesize(clean, rate, run), rate, f"resynthesised by {name}")

stft = STFT()
s = stft(torch.from_numpy(clean / abs(clean).max()))
figure = new_figure(8, 5)
pictures = {
    "clean": s,
    "our tiny model": reconstruct(ours, s),
    "the packaged model": reconstruct(packaged, s),
}
top = float(20 * s.abs().max().log10())
axes = figure.subplots(3, 1, sharex=True)
for axis, (name, picture) in zip(axes, pictures.items(), strict=True):
    image = spectrogram(axis, picture[0].abs(), clean.shape[-1] / rate, top)
    axis.set(title=name, xlabel="time in seconds" if name == "the packaged model" else "", ylabel="kHz")
figure.colorbar(image, ax=axes, label="dB")
show(figure, "speech and its resynthesis by two models")


# %% [markdown]
# In numbers: the root mean square distance of the log spectra, where there is speech. (A waveform measure
# would praise anything here, as resynthesis keeps the phase.)


# %%
def distance(run):
    """Root mean square difference of the level of a bin, in dB, over bins within 50 dB of the loudest."""
    level, again = (20 * v.abs().clamp(min=1e-6).log10() for v in (s, reconstruct(run, s)))
    return float((level - again)[level > top - 50].square().mean().sqrt())


untrained = load_run(folder / "run")
with torch.no_grad():
    for parameter in untrained.guide.parameters():
        parameter.zero_()  # a guide that has nothing to say
found = {"guide erased": distance(untrained), "ours": distance(ours), "packaged": distance(packaged)}
print("  ".join(f"{name}: {value:.1f} dB" for name, value in found.items()))
assert smoke() or found["ours"] < found["guide erased"]

# %% [markdown]
# And the purpose of it all: the run is a prior of clean speech, and finds speech in noise that no one has
# described to it. [Tutorial 7](07_speech_enhancement_by_em.py) is about how.

# %%
quick = EnhanceConfig(iterations=5 if smoke() else 60)
result = enhance(examples.noisy(), model=folder / "run", config=quick)
play(examples.noisy(), title="noisy")
play(result.speech, result.sample_rate, "enhanced by our tiny model")

# %% [markdown]
# ## Exercises
#
# **Exercise 1.** Do it from the command line: resynthesise the packaged sentence by your run, and let the
# model babble for two seconds. (`pyrodvae resynthesize --help`, `pyrodvae generate --help`; in Python,
# `pyrodvae.cli.main` takes the same words as a list.)

# %% tags=["hide-cell"]
# Solution of exercise 1
run = str(folder / "run")
assert main(["resynthesize", run, str(examples.clean()), "-o", str(folder / "again.wav")]) == 0
assert main(["generate", run, "-o", str(folder / "babble.wav"), "--seconds", "2"]) == 0
play(folder / "again.wav", title="by the command line")
play(folder / "babble.wav", title="babble")
assert read_audio(folder / "babble.wav")[0].shape == (1, 2 * rate)

# %% [markdown]
# **Exercise 2.** What does the KL term do? Train with `beta=0.0` and with `beta=20.0` for as many epochs,
# and compare the loss of reconstruction (`val_nll`) and the KL (`val_kl`). Which one would you rather have
# for a vocoder, and which for a prior?

# %% tags=["hide-cell"]
# Solution of exercise 2: the heavier the term, the less the latents say. Without it nothing holds them near
# the prior: that may do for a vocoder (if there is more to learn from than here, where it learns by heart),
# but not for a prior, which then has never heard of the latents of speech.
ends = {}
for beta in (0.0, 20.0):
    trial = replace(config, epochs=1 if smoke() else 20, warmup=0, beta=beta)
    ends[beta] = train("dkf", corpus, folder / f"beta{beta}", config=trial, show=False).history[-1]
    print(f"β = {beta:4.1f}: val_nll {ends[beta]['val_nll']:8.1f}   val_kl {ends[beta]['val_kl']:8.1f}")
assert smoke() or ends[0.0]["val_kl"] > ends[20.0]["val_kl"]

# %% [markdown]
# **Exercise 3.** Start from the packaged weights in place of random ones: they know speech, and need only
# learn your voices. (`TrainConfig(start="dkf")`, with its sizes: `hidden=128`, `latent=16`.) Compare the
# validation loss after two epochs.

# %% tags=["hide-cell"]
# Solution of exercise 3: two epochs of a model that knows speech, and of one that does not.
size = replace(config, epochs=1 if smoke() else 2, warmup=0, hidden=128, latent=16, learning_rate=1e-3)
after = {}
for start in ("", "dkf"):
    tuned = train("dkf", corpus, folder / f"tuned{start}", config=replace(size, start=start), show=False)
    after[start] = tuned.history[-1]["val_loss"]
print(
    f"validation loss: from nothing {after['']:.0f}, from packaged weights {after['dkf']:.0f} nats per frame"
)
assert after["dkf"] < after[""]

# %% [markdown]
# ## Where to go on
#
# For a model to use, take an hour of speech of many voices or more, the defaults of `TrainConfig`, and
# `--device cuda` if there is one. Then [tutorial 7](07_speech_enhancement_by_em.py).
