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
# # 4 · Swapping guides, and what a missing arrow costs
#
# **You will be able to**
#
# - swap the guide of a model by one word, or write one of your own;
# - hold any guide to the exact posterior, and get a verdict that names the arrows;
# - say in nats what a missing arrow costs, and which part of it no training can win back;
# - measure the same on networks, and on speech.
#
# *Runs in two minutes on two cores; with `PYRODVAE_SMOKE=1` in the environment, in seconds. You need
# [tutorial 2](02_kalman_and_exactness.py) for the gap, and [tutorial 3](03_markov_blankets.py) for the
# arrows.*

# %%
import pyro
import pyro.distributions as dist
import torch

from pyrodvae import GUIDES, MODELS, examples, load_run, make_guide, read_audio
from pyrodvae.checks import evidence_gap
from pyrodvae.graph import FAMILY, compliance, graph_of, posterior
from pyrodvae.graph_cost import arrow_cost, guides_beside, linear_twin, state_space, trained_cost
from pyrodvae.graph_drawing import plot_graph
from pyrodvae.guide import RecurrentGuide
from pyrodvae.kalman import LinearGaussian
from pyrodvae.models import Kalman
from pyrodvae.plots import new_figure
from pyrodvae.program import local_parameters
from pyrodvae.sequences import FitConfig, fit
from pyrodvae.synthesis import resynthesize
from pyrodvae.teaching import PALETTE, play, show, smoke

_ = torch.manual_seed(0)

# %% [markdown]
# ## One word
#
# A guide is any Pyro program that samples the latents of the model. Those of the package go by a key, and
# differ in what they let $q(z_t \mid \cdot)$ see. Nothing else in your program changes.

# %%
SIZES = {"observed": 3, "latent": 2, "hidden": 8, "data": "real"}
model = MODELS["dkf"](**SIZES)
for key in GUIDES:
    print(f"{key:10s} {make_guide(model, key, hidden=8).sees}")

# %% [markdown]
# ## Verdicts
#
# The posterior of a deep Kalman filter is $\prod_t p(z_t \mid z_{t-1}, x_{t:T})$. `compliance` compares: it
# takes the derivatives of $\log q(z_t \mid \cdot)$ with respect to every frame of $x$ and $z$, so what
# counts is what a guide *does*, not what it says.
#
# - An arrow that is **missing**: the guide is *simplified*. It cannot be exact, however large its networks
#   are.
# - An arrow that is **superfluous**: it can be exact, but has to learn not to look.
# - None of either: it is *compliant*.

# %%
for name in ("dkf", "vrnn"):
    subject = MODELS[name](**SIZES)
    print(posterior(graph_of(subject)))
    for key in GUIDES:
        print(f"   {key:10s} {compliance(subject, make_guide(subject, key, hidden=8))}")

verdicts = {key: compliance(model, make_guide(model, key, hidden=8)) for key in GUIDES}
assert verdicts["paper"].compliant
assert verdicts["smoother"].sufficient
assert not verdicts["filter"].sufficient
show(
    plot_graph(graph_of(model), blanket_of="z_2", verdict=verdicts["filter"]),
    "what a filter looks at and what the posterior needs",
)

# %% [markdown]
# The VRNN's own guide, that of the paper, is simplified: it filters, and the posterior looks ahead. That is
# not a mistake of its authors, it is a decision, and it has a price. Before we come to that, a guide of
# *your* own. It need not know anything of our classes:


# %%
def by_hand(x, lengths=None):
    """q(z_t | z_{t-1}, x_t), a plain Pyro program; x is (B, T, F)."""
    batch, frames, _ = x.shape
    with pyro.plate("batch", batch, dim=-1):
        z = torch.zeros(batch, 1, 2, dtype=x.dtype)
        for t in range(frames):
            mean = 0.5 * z + 0.5 * x[:, t : t + 1, :2]
            z = pyro.sample(f"z_{t}", dist.Normal(mean, 0.5).to_event(2))


print(compliance(model, by_hand))
assert [f.parts() for f in compliance(model, by_hand).missing] == [("x_{>t}",)]

# %% [markdown]
# ## The price, exactly
#
# What does a missing arrow cost? The gap between the log evidence and the ELBO of the *best* guide that has
# to do without it. For a linear-Gaussian model this best guide is known without training. So take a Kalman
# model of one number,
#
# $$ z_t = \sqrt{0.9}\, z_{t-1} + \sqrt{0.1}\, ε_t, \qquad x_t = \sqrt{0.5}\, z_t + \sqrt{0.5}\, η_t, $$
#
# with $z_0 = 0$, and ask for the gap of each sight in a family, from one that sees its own frame alone to
# one that sees all there is.

# %%
FRAMES = 12


def number(value):
    return torch.tensor([[value]], dtype=torch.double)


truth = LinearGaussian(
    A=number(0.9**0.5),
    Q=number(0.1),
    B=number(0.5**0.5),
    R=number(0.5),
    m1=torch.zeros(1, dtype=torch.double),
    P1=number(0.1),
)
joint = state_space(truth, FRAMES)
train, test = joint.sample(1000, seed=1), joint.sample(200, seed=2)
costs = arrow_cost(joint, test)
print(costs)
show(costs.plot("what_missing_arrows_cost.png"), "what missing arrows cost")

best = dict(zip(costs.sights, costs.gap, strict=True))
assert abs(best["backward"]) < 1e-9  # z_{t-1} and x_{t:T}: compliant, and free
assert abs(best["smoother"]) < 1e-9  # to see more than one needs costs nothing here
assert best["factorised"] > best["filter without z"] > best["filter"] > 0.01

# %% [markdown]
# There are two kinds of price.
#
# - **An arrow from $z$ is paid for on every $x$.** Without $z_{t-1}$ the frames of $q$ are independent, and
#   the posterior's are not. For a Gaussian posterior of precision $P$ the loss is $\frac12 \big(\sum_t \log
#   P_{tt} - \log\det P\big)$, and no guide made for a single $x$ would do better.
# - **An arrow from $x$ is paid for by amortising.** For one $x$ the guide could be a table of numbers. But
#   one network serves all $x$, and what it does not see it must average over.
#
# Where the two are independent they add up:

# %%
both = best["smoother without z"] + best["filter"]
print(f"{best['smoother without z']:.4f} + {best['filter']:.4f} = {both:.4f}: {best['filter without z']:.4f}")
assert abs(both - best["filter without z"]) < 1e-9

# %% [markdown]
# ## Do networks pay it?
#
# The table is a theorem about the best guide. Train recurrent networks on the same model, which stands
# still, and measure their gaps: they may be worse than the table, but never better.

# %%
kalman = Kalman(observed=1, latent=1).double()
kalman.assign(truth)
kalman.requires_grad_(False)
measured = {}
for name in ("factorised", "filter without z", "filter", "smoother without z", "backward"):
    torch.manual_seed(0)
    guide = RecurrentGuide(kalman, FAMILY[name], hidden=16).double()
    guide.fit_statistics(train)
    config = FitConfig(epochs=1 if smoke() else 15, frames=FRAMES, batch_size=32, learning_rate=2e-2)
    fit(kalman, guide, train, config, standardise=False)
    found = evidence_gap(kalman, guide, test, particles=20)
    measured[name] = found.gap / FRAMES
    chance = 4 * measured[name].std() / len(test) ** 0.5
    print(f"{name:19s} best possible {best[name]:.4f}   this network {measured[name].mean():.4f}")
    assert measured[name].mean() > best[name] - chance

paid = {name: float(gap.mean()) for name, gap in measured.items()}
assert smoke() or paid["backward"] < paid["filter"] < paid["filter without z"] < paid["factorised"]

exact = evidence_gap(kalman, make_guide(kalman), test).gap
assert exact.abs().max() < 1e-8

figure = new_figure(7, 3)
axis = figure.subplots()
rows = list(paid)
axis.barh(rows, [float(best[name]) for name in rows], color=PALETTE[5], label="the best guide, exactly")
axis.plot(list(paid.values()), rows, "D", color=PALETTE[1], label="a network")
axis.set(xlabel="log evidence − ELBO in nats per frame", title="to be paid, and paid")
axis.legend()
show(figure, "gaps of the best guides and of trained networks")

# %% [markdown]
# ## On speech
#
# Nobody knows the evidence of a speech model. But guides can be compared with each other if the model
# stands still: then the difference of their ELBOs is the difference of their gaps. We take the packaged
# deep Kalman filter, give it new guides, and train each for as many steps on the packaged clean recording,
# cut into crops, with a breath of noise in place of its digital silence. (One recording teaches a guide
# that recording and no more, but for both alike.)

# %%
waveform, rate = read_audio(examples.clean())
run = load_run("dkf")
speech = torch.from_numpy(waveform[0] / abs(waveform).max())
crops = run.stft(speech + 1e-3 * torch.randn(len(speech))).unfold(0, 50, 25).transpose(-1, -2)
print("crops", tuple(crops.shape), "(B, T, F), complex")

runs = guides_beside(run, lambda: [(crops, None)], 3 if smoke() else 300, ["meanfield", "compliant"])
print(trained_cost(runs, crops, draws=4))

# %% [markdown]
# In full mode the two come out within some nats of each other, of hundreds, and the one that misses arrows
# may even be ahead: it has less to learn. Why is the price so low here, and was so high above? Look at how
# much an arrow has to say. The posterior of $z_t$ given $z_{t-1}$ and $x$ has a precision, and a part of it
# comes from the transition $p(z_t \mid z_{t-1})$; the rest comes from $x$:
#
# $$ \text{share of the transition} = \frac{1 / σ_p^2}{1 / σ_q^2} = \frac{σ_q^2}{σ_p^2}. $$


# %%
def share_of_transition(model, guide, x):
    """Median of σ_q² / σ_p² over frames and coordinates, along a drawn path."""
    with local_parameters(), torch.no_grad():
        q, p = guide.posterior(x), model.prior(x)
        z = q.rsample()
        return float((q.along(z).variance / p.along(z).variance).median())


in_kalman = share_of_transition(kalman, make_guide(kalman), test)
in_speech = share_of_transition(run.model, run.guide, crops)
print(f"the transition has {100 * in_kalman:.0f} % of the say in the Kalman model")
print(f"and {100 * in_speech:.1f} % in the model of speech, where a frame has 513 bins to speak for itself")
assert in_speech < 0.2 < in_kalman

# %% [markdown]
# So arrows cost what they carry. In a noisy recording a frame says less about its own $z_t$, and they carry
# more: it is there that the guides part. Listen to speech that went into the latent path and back, by the
# one and the other guide:

# %%
play(waveform, rate, "clean")
for key, trained in runs.items():
    play(resynthesize(waveform, rate, trained), rate, f"through the latent path, by the guide '{key}'")

# %% [markdown]
# ## Exercises
#
# **Exercise 1.** Before you ask: what will be the verdict on the guide `filter` of an SRNN, whose posterior
# is $\prod_t p(z_t \mid z_{t-1}, x_{1:T})$? And on `meanfield`? And which key is compliant with *every*
# model?

# %% tags=["hide-cell"]
# Solution of exercise 1: the filter misses the future alone; meanfield misses z_{t-1} and all other frames.
# The key "compliant" derives what it sees from the graph of the model.
srnn = MODELS["srnn"](**SIZES)
for key in ("filter", "meanfield", "compliant"):
    print(compliance(srnn, make_guide(srnn, key, hidden=8)))
assert [f.parts() for f in compliance(srnn, make_guide(srnn, "filter", hidden=8)).missing] == [("x_{>t}",)]
for key in ("vae", "dkf", "srnn", "rvae-causal"):
    subject = MODELS[key](**SIZES)
    assert compliance(subject, make_guide(subject, "compliant", hidden=8)).compliant

# %% [markdown]
# **Exercise 2.** Write a guide of a deep Kalman filter that draws the states *backward* in time and is
# compliant. It has to see $z_{t+1}$ and $x_{1:t}$ ([tutorial 3](03_markov_blankets.py), exercise 2).

# %% tags=["hide-cell"]
# Solution of exercise 2: a running mean is enough of a network to look at all of the past.


def from_the_end(x, lengths=None):
    batch, frames, _ = x.shape
    past = x.cumsum(1)
    with pyro.plate("batch", batch, dim=-1):
        z = torch.zeros(batch, 1, 2, dtype=x.dtype)
        for t in reversed(range(frames)):
            mean = 0.5 * z + past[:, t : t + 1, :2] / (t + 1)
            z = pyro.sample(f"z_{t}", dist.Normal(mean, 0.5).to_event(2))


print(compliance(model, from_the_end))
assert compliance(model, from_the_end).compliant

# %% [markdown]
# **Exercise 3.** When does independence of the frames hurt most? Let the coupling $c$ of successive states
# in the linear twin, $z_t = \sqrt c\, z_{t-1} + \sqrt{1 - c}\, ε_t$, go from 0 to 1, and draw the price of
# "smoother without z". Then guess what it is for observations that are nearly without noise.

# %% tags=["hide-cell"]
# Solution of exercise 3: the more the states hang together, the more it costs to take them apart; unless x
# says it all, because then nothing is left for z_{t-1} to tell.
graph = graph_of(Kalman(observed=1, latent=1), 8)
independent = {"apart": FAMILY["smoother without z"]}
couplings = [0.01, 0.2, 0.4, 0.6, 0.8, 0.9, 0.95, 0.99]
figure = new_figure(6, 2.8)
axis = figure.subplots()
prices = {}
for color, signal in zip(PALETTE, (0.5, 0.99), strict=False):
    twins = [linear_twin(graph, c, signal) for c in couplings]
    prices[signal] = [float(arrow_cost(twin, twin.sample(2), independent).gap) for twin in twins]
    axis.plot(couplings, prices[signal], "o-", color=color, label=f"{100 * signal:.0f} % of x is signal")
axis.set(xlabel="coupling c (no unit)", ylabel="gap in nats per frame")
axis.legend()
show(figure, "the price of independent frames rises with their coupling")
assert all(a < b for a, b in zip(prices[0.5], prices[0.5][1:], strict=False))
assert prices[0.99][4] < prices[0.5][4]
assert prices[0.5][0] < 0.01

# %% [markdown]
# ## Where to go on
#
# What happens when Pyro "replays" a model on the draws of a guide? [Tutorial
# 5](05_trace_replay_condition.py) builds it from nothing.
