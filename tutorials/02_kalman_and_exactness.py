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
# # 2 · Kalman, or what it means to be exact
#
# **You will be able to**
#
# - write the Kalman filter in a dozen lines, and check it against one big Gaussian;
# - show that with the exact posterior as its guide, the ELBO *is* the log evidence, for every single draw;
# - measure the gap of any other guide, and know what it is: a KL divergence, in nats;
# - compute the same filter by a parallel scan, and fill gaps in a real recording with honest uncertainty.
#
# *Runs in half a minute on two cores; with `PYRODVAE_SMOKE=1` in the environment, in seconds. You need the
# Gaussian distribution, and the idea of an evidence lower bound ([tutorial
# 1](01_a_dynamical_vae_in_forty_lines.py)).*

# %%
import time
from dataclasses import replace

import torch
from pyro.infer import Trace_ELBO
from torch.distributions import MultivariateNormal, kl_divergence

from pyrodvae import examples, kalman, make_guide, read_audio
from pyrodvae.checks import evidence_gap
from pyrodvae.graph_cost import arrow_cost, state_space
from pyrodvae.models import Kalman
from pyrodvae.plots import new_figure
from pyrodvae.program import local_parameters
from pyrodvae.simulate import oscillator
from pyrodvae.teaching import PALETTE, play, show, smoke

_ = torch.manual_seed(0)

# %% [markdown]
# ## A model whose posterior is known
#
# Take the two conditionals of a state space and make everything linear and Gaussian:
#
# $$
# z_1 \sim \mathcal N(m_1, P_1), \qquad z_t \mid z_{t-1} \sim \mathcal N(A z_{t-1}, Q), \qquad
# x_t \mid z_t \sim \mathcal N(B z_t, R).
# $$
#
# `oscillator` draws sequences from such a model and hands out its parameters: a state of two numbers that
# turns around zero, kicked at random, of which we see the first, through noise.

# %%
T = 60
x, parameters = oscillator(sequences=8, frames=T, seed=1)
print("x", tuple(x.shape), x.dtype)
print("A =", parameters.A.numpy().round(3).tolist(), " B =", parameters.B.tolist())

# %% [markdown]
# ## The filter, by hand
#
# The filter walks through time with $p(z_t \mid x_{1:t}) = \mathcal N(m_t, P_t)$. It predicts, sees how far
# off the prediction $\hat x_t$ of the next frame was, and corrects by the gain $K$:
#
# $$
# P^- = A P_{t-1} A^⊤ + Q, \quad S = B P^- B^⊤ + R, \quad K = P^- B^⊤ S^{-1}, \quad
# m_t = A m_{t-1} + K (x_t - \hat x_t), \quad P_t = (I - K B) P^-.
# $$
#
# The errors of prediction add up to the evidence: $\log p(x_{1:T}) = \sum_t \log \mathcal N(x_t; \hat x_t,
# S)$.


# %%
def filter_by_hand(model, x):
    """Means of p(z_t | x_{1:t}), (B, T, D), and log p(x_{1:T}), (B,)."""
    means, evidence = [], 0.0
    m, P = model.m1.expand(len(x), -1), model.P1
    for t in range(x.shape[1]):
        if t > 0:
            m, P = m @ model.A.mT, model.A @ P @ model.A.mT + model.Q
        predicted, S = m @ model.B.mT, model.B @ P @ model.B.mT + model.R
        evidence = evidence + MultivariateNormal(predicted, S).log_prob(x[:, t])
        K = P @ model.B.mT @ torch.linalg.inv(S)
        m, P = m + (x[:, t] - predicted) @ K.mT, P - K @ model.B @ P
        means.append(m)
    return torch.stack(means, 1), evidence


means, evidence = filter_by_hand(parameters, x)
filtered = kalman.filter(parameters, x)
print("log p(x) of each sequence, in nats:", evidence.numpy().round(3).tolist())
assert (means - filtered.means).abs().max() < 1e-9
assert (evidence - filtered.log_evidence).abs().max() < 1e-9

# %% [markdown]
# ## Against one big Gaussian
#
# Two programs that agree may share an error. So here is a third way that knows nothing of time: stack all
# $z_t$ and all $x_t$ into one vector. It is Gaussian; its evidence and its posterior are two lines of
# linear algebra, at a cost of T³.

# %%
joint = state_space(parameters, T)
print("all of z and x together:", tuple(joint.covariance.shape))
assert (joint.log_evidence(x) - filtered.log_evidence).abs().max() < 1e-8

smoothed = kalman.smooth(parameters, x)
dense_means = (joint.centred(x) @ joint.regression.mT).unflatten(-1, (T, 2))
assert (dense_means - smoothed.means).abs().max() < 1e-8

# %% [markdown]
# `smooth` answers what *all* of $x$ says about $z_t$. It knows the future, so it is never less sure than
# the filter:

# %%
by_filter = filtered.covariances[0, :, 0, 0].sqrt()
by_smoother = smoothed.covariances[0, :, 0, 0].sqrt()
assert (by_smoother <= by_filter + 1e-12).all()

figure = new_figure(8, 3)
axis = figure.subplots()
t = torch.arange(T)
for name, m, s, color in (
    ("filter", filtered.means, by_filter, PALETTE[1]),
    ("smoother", smoothed.means, by_smoother, PALETTE[0]),
):
    mean = m[0, :, 0]
    axis.fill_between(t, mean - 1.645 * s, mean + 1.645 * s, color=color, alpha=0.25, linewidth=0)
    axis.plot(t, mean, color=color, label=f"{name}, 90 %")
axis.plot(t, x[0, :, 0], "k.", markersize=3, label="observed")
axis.set(xlabel="frame", ylabel="position (no unit)")
axis.legend(ncols=3, fontsize=8)
show(figure, "filter and smoother of an oscillator")

# %% [markdown]
# ## The ELBO with the exact posterior
#
# For every $z$ whatsoever, Bayes' rule says
#
# $$ \log p(x, z) - \log p(z \mid x) = \log p(x). $$
#
# The left side is what `Trace_ELBO` computes from one draw, if the guide is the posterior. So its value
# must not depend on the draw at all. `Kalman` is our model as a Pyro program, and its guide is $p(z_t \mid
# z_{t-1}, x_{t:T})$, computed and not learned:

# %%
model = Kalman(observed=1, latent=2).double()
model.assign(parameters)
guide = make_guide(model)
truth = filtered.log_evidence.sum()

with local_parameters(), torch.no_grad():
    for _ in range(3):
        elbo = -Trace_ELBO().loss(model, guide, x)
        print(f"ELBO of one draw {elbo:.10f}, log evidence {truth:.10f}")
        assert abs(elbo - truth) < 1e-8

# %% [markdown]
# ## Any other guide: the gap is a KL divergence
#
# If $q$ is not the posterior, then $\log p(x) - \mathrm{ELBO} = \mathrm{KL}\big(q(z \mid x)\ \|\ p(z \mid
# x)\big)$. Let us see. Our wrong guide is the exact posterior of a *wrong model*, whose noise is four times
# as strong. Both posteriors are Gaussian, so we can also compute the divergence directly, from the big
# Gaussians.

# %%
wrong = replace(parameters, R=4 * parameters.R)
wrong_model = Kalman(observed=1, latent=2).double()
wrong_model.assign(wrong)
wrong_guide = make_guide(wrong_model)


def dense_posterior(parameters, x):
    """p(z | x) of all frames together, batch (B,)."""
    joint = state_space(parameters, x.shape[1])
    return MultivariateNormal(joint.centred(x) @ joint.regression.mT, precision_matrix=joint.precision)


divergence = kl_divergence(dense_posterior(wrong, x), dense_posterior(parameters, x))
found = evidence_gap(model, wrong_guide, x, particles=200 if smoke() else 2000)
print(found)
print(f"KL from the big Gaussians: {divergence.mean():.3f} nats per sequence")
assert ((found.gap - divergence).abs() < 5 * found.error).all()
assert evidence_gap(model, guide, x).gap.abs().max() < 1e-8

# %% [markdown]
# ## The same, in parallel
#
# A filter seems to be sequential by nature. It is not: what a stretch of frames does to a Gaussian belief
# can be written down, and two stretches can be composed into one, in any order: $(a ∘ b) ∘ c = a ∘ (b ∘
# c)$. So a *scan* finds all T results in about $\log_2 T$ rounds, each of which works on all frames at
# once.

# %%
long, _ = oscillator(sequences=1, frames=1000 if smoke() else 10_000, seed=3)
answers = []
for name, way in (("frame by frame", kalman.filter), ("by a scan", kalman.scan.filter)):
    start = time.perf_counter()
    answers.append(way(parameters, long))
    print(f"{name:15s} {time.perf_counter() - start:.3f} s for {long.shape[1]} frames")
one, other = answers
assert (one.means - other.means).abs().max() < 1e-8
assert (one.log_evidence - other.log_evidence).abs().max() < 1e-6

# %% [markdown]
# ## A real recording, with holes
#
# Now the level of the packaged recording, one sentence in noise: sixty times per second the power in
# decibel. Say that the line broke down, for a third of a second here and there. What was the level then?

# %%
waveform, rate = read_audio(examples.noisy())
play(waveform, rate, "one sentence, in noise")
frames = torch.from_numpy(waveform[0]).double().unfold(0, 512, 256)
level = 10 * frames.square().mean(-1).log10()[None, :, None]
observed = torch.ones(level.shape[:2], dtype=torch.bool)
for start in range(30, observed.shape[1] - 20, 60):
    observed[:, start : start + 20] = False
print(f"{level.shape[1]} frames, {int((~observed).sum())} of them missing")

# %% [markdown]
# We do not know the parameters of such a process, so we learn them, by expectation-maximisation: the
# smoother is its E-step, exact, and so the evidence can only rise. What is missing is just not there:
# neither guessed nor set to zero.

# %%
start = Kalman(observed=1, latent=2).double().requires_grad_(False)
start.fit_statistics(level[observed])
fitted, climb = kalman.em(start.exact(), level, iterations=20 if smoke() else 200, observed=observed)
print(f"log evidence {climb[0]:.1f} → {climb[-1]:.1f} nats")
assert (climb.diff() > -1e-6).all()

filled = kalman.smooth(fitted, level, observed)
mean = (filled.means @ fitted.B.mT + fitted.b)[0, :, 0]
spread = (fitted.B @ filled.covariances @ fitted.B.mT + fitted.R)[0, :, 0, 0].sqrt()

# %% [markdown]
# We hid these frames ourselves, so we can look.

# %%
hidden = ~observed[0]
truth = level[0, hidden, 0]
error = (mean[hidden] - truth).square().mean().sqrt()
by_mean = (level[observed].mean() - truth).square().mean().sqrt()
inside = ((mean[hidden] - truth).abs() < 1.645 * spread[hidden]).double().mean()
print(f"off by {error:.1f} dB (their mean: {by_mean:.1f} dB); 90 % intervals hold {100 * inside:.0f} %")
assert smoke() or (error < by_mean and inside > 0.75)

figure = new_figure(8, 3)
axis = figure.subplots()
seconds = torch.arange(level.shape[1]) * 256 / rate
low, high = mean - 1.645 * spread, mean + 1.645 * spread
axis.fill_between(seconds, low, high, color=PALETTE[0], alpha=0.25, linewidth=0)
axis.plot(seconds, mean, color=PALETTE[0], linewidth=1, label="smoothed, 90 %")
axis.plot(seconds[observed[0]], level[observed], "k.", markersize=3, label="observed")
axis.plot(seconds[hidden], truth, "x", color=PALETTE[1], markersize=4, label="hidden")
axis.set(xlabel="time in seconds", ylabel="level in dB")
axis.legend(ncols=3, fontsize=8)
show(figure, "the level of a recording with its gaps filled")

# %% [markdown]
# Look at the bands: in the middle of a gap they are wide, and near its ends they narrow. A level that falls
# to silence and jumps up again is no linear process, so the model is wrong; yet it is right about how much
# it does not know.
#
# ## Exercises
#
# **Exercise 1.** With the exact guide the ELBO is the evidence, whatever is drawn. Then its *gradient* in
# the parameters of the model is that of the evidence, too. Show it for A, with one draw, against the
# derivative of `kalman.filter(…).log_evidence`.

# %% tags=["hide-cell"]
# Solution of exercise 1: model.exact() is differentiable, and so is the filter.
with local_parameters():
    (-Trace_ELBO().differentiable_loss(model, guide, x)).backward()
by_elbo = model.A.grad.clone()
(by_evidence,) = torch.autograd.grad(kalman.filter(model.exact(), x).log_evidence.sum(), model.A)
print(by_elbo.numpy().round(4).tolist(), by_evidence.numpy().round(4).tolist())
assert torch.allclose(by_elbo, by_evidence, rtol=1e-6)

# %% [markdown]
# **Exercise 2.** A frame is lost. Show in two ways that `observed` treats it rightly: the posterior is the
# same whatever number stands in the lost frame, and the evidence is that of the other frames alone, by the
# big Gaussian.

# %% tags=["hide-cell"]
# Solution of exercise 2: to leave a frame out of a Gaussian is to leave out its row and column.
there = torch.ones(T, dtype=torch.bool)
there[7] = False
nonsense = x.clone()
nonsense[:, 7] = 1e6
lost = kalman.smooth(parameters, x, there)
assert torch.allclose(lost.means, kalman.smooth(parameters, nonsense, there).means)

kept = joint.coordinates(f"x_{s}" for s in range(T) if s != 7)
rest = MultivariateNormal(joint.mean[kept], joint.covariance[kept][:, kept])
print("nats:", lost.filtered.log_evidence[:3].tolist())
assert torch.allclose(rest.log_prob(x[:, there, 0]), lost.filtered.log_evidence)

# %% [markdown]
# **Exercise 3.** Take the arrows between frames out of the guide: $q(z_t \mid x_{1:T})$, the best one. For
# a Gaussian posterior with precision $P$, the best independent factors have the precisions $P_{tt}$ (the
# diagonal blocks), and lose $\frac12 \big(\sum_t \log\det P_{tt} - \log\det P\big)$ nats. Compute it, and
# compare with `arrow_cost`.

# %% tags=["hide-cell"]
# Solution of exercise 3: "smoother without z" in the table of the package.
P = joint.precision
blocks = [P[2 * s : 2 * s + 2, 2 * s : 2 * s + 2] for s in range(T)]
lost_nats = 0.5 * (sum(torch.logdet(block) for block in blocks) - torch.logdet(P))
short = state_space(parameters, 12)
sights = arrow_cost(short, short.sample(10))
print(f"{lost_nats / T:.4f} nats per frame for {T} frames\n{sights}")
P = short.precision
blocks = [P[2 * s : 2 * s + 2, 2 * s : 2 * s + 2] for s in range(12)]
by_formula = 0.5 * (sum(torch.logdet(block) for block in blocks) - torch.logdet(P)) / 12
by_package = sights.gap[[*sights.sights].index("smoother without z")]
assert abs(by_formula - by_package) < 1e-8

# %% [markdown]
# ## Where to go on
#
# Why does the posterior of a state space look at $z_{t-1}$ and $x_{t:T}$, and at nothing else? [Tutorial
# 3](03_markov_blankets.py). What does it cost to leave an arrow out? [Tutorial 4](04_swapping_guides.py).
