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
# # 5 · Trace, replay, condition: how inference works underneath
#
# **You will be able to**
#
# - build a probabilistic programming language in forty lines, with `trace`, `replay` and `condition`;
# - write the ELBO with it, and train by it, with the same numbers as Pyro to the last digits;
# - take any model of the package apart with Pyro's own `poutine`;
# - run Pyro's `SVI` on it, and test that every parameter has moved.
#
# *Runs in half a minute on two cores; with `PYRODVAE_SMOKE=1` in the environment, in seconds. You need
# Python's `with` statement, and the ELBO ([tutorial 1](01_a_dynamical_vae_in_forty_lines.py)).*

# %%
import math
from functools import partial

import pyro
import torch
from pyro import poutine
from pyro.distributions import Normal
from pyro.infer import SVI, Trace_ELBO

from pyrodvae import examples, kalman, make_guide, models, read_audio
from pyrodvae.plots import new_figure
from pyrodvae.simulate import pendulum
from pyrodvae.teaching import PALETTE, play, show, smoke

_ = torch.manual_seed(0)

# %% [markdown]
# ## A program that can be watched
#
# Here is a model, written as a program that draws. The level of a recording wanders, and we see it through
# noise:
#
# $$ z_t \sim \mathcal N(z_{t-1}, 1), \qquad x_t \sim \mathcal N(z_t, 2^2), \qquad \text{in decibel.} $$
#
# And a guide for it, $q(z \mid x) = \prod_t \mathcal N(z_t; μ_t, σ_t^2)$, with a $μ_t$ and a $σ_t$ to learn
# for each frame. Both get the function `sample` as an argument: that is all they know about inference.


# %%
def model(x, sample):
    z = torch.tensor(-40.0, dtype=torch.double)
    for t, level in enumerate(x):
        z = sample(f"z_{t}", Normal(z, 10.0 if t == 0 else 1.0))
        sample(f"x_{t}", Normal(z, 2.0), obs=level)
    return z


def guide(x, sample, mu, log_sigma):
    for t in range(len(x)):
        sample(f"z_{t}", Normal(mu[t], log_sigma[t].exp()))


# %% [markdown]
# ## Forty lines
#
# What does `sample` do? By itself it draws, or returns what is observed. But before and after that, it asks
# whoever is *listening*. A listener is a context: entered, it is on the stack; left, it is off. All of
# inference is made of three of them.
#
# - `Trace` writes down every site: its name, its distribution, its value.
# - `Replay` gives latent sites the values that they had in another trace.
# - `Condition` gives sites values from data, and says that they are observed.

# %%
STACK = []


def sample(name, fn, obs=None):
    site = {"name": name, "fn": fn, "value": obs, "observed": obs is not None}
    for listener in reversed(STACK):
        listener.before(site)
    if site["value"] is None:
        site["value"] = fn.rsample()
    for listener in reversed(STACK):
        listener.after(site)
    return site["value"]


class Listener:
    def __enter__(self):
        STACK.append(self)
        return self

    def __exit__(self, *error):
        STACK.remove(self)

    def before(self, site):
        pass

    def after(self, site):
        pass


class Trace(Listener, dict):
    def after(self, site):
        self[site["name"]] = site


class Replay(Listener):
    def __init__(self, trace):
        self.trace = trace

    def before(self, site):
        if site["name"] in self.trace and not site["observed"]:
            site["value"] = self.trace[site["name"]]["value"]


class Condition(Listener):
    def __init__(self, data):
        self.data = data

    def before(self, site):
        if site["name"] in self.data:
            site.update(value=self.data[site["name"]], observed=True)


# %% [markdown]
# That is a probabilistic programming language. A trace knows the joint density of everything that happened:
#
# $$ \log p(x, z) = \sum_{\text{sites}} \log p(\text{value} \mid \text{what came before}). $$
#
# Data: the level of the packaged recording, sixty times per second.

# %%
waveform, rate = read_audio(examples.noisy())
play(waveform, rate, "one sentence, in noise")
frames = torch.from_numpy(waveform[0]).double().unfold(0, 512, 256)
x = 10 * frames.square().mean(-1).log10()[: 20 if smoke() else 100]


def log_density(trace):
    return sum(site["fn"].log_prob(site["value"]).sum() for site in trace.values())


with Trace() as ours:
    model(x, sample)
with Trace() as again, Replay(ours):
    model(x, sample)
print(len(ours), "sites; log p(x, z) =", round(float(log_density(ours)), 4))
assert log_density(again) == log_density(ours)

# %% [markdown]
# Pyro's `poutine` has the same three. Give it the values that we drew, and ask for its number.

# %%
drawn = {name: site["value"] for name, site in ours.items() if not site["observed"]}
theirs = poutine.trace(poutine.condition(partial(model, sample=pyro.sample), drawn)).get_trace(x)
print("Pyro says", round(float(theirs.log_prob_sum()), 4))
assert abs(theirs.log_prob_sum() - log_density(ours)) < 1e-6

# %% [markdown]
# ## The ELBO in four lines
#
# Draw from the guide, replay the model on what was drawn, and subtract:
#
# $$ \mathrm{ELBO} = \mathbb E_{z \sim q}\big[\log p(x, z) - \log q(z \mid x)\big] \le \log p(x). $$


# %%
def elbo(model, guide, *args):
    with Trace() as q:
        guide(*args)
    with Trace() as p, Replay(q):
        model(*args)
    return log_density(p) - log_density(q)


mu = torch.full_like(x, -40.0).requires_grad_()
log_sigma = torch.zeros_like(x).requires_grad_()
our_pair = partial(model, sample=sample), partial(guide, sample=sample, mu=mu, log_sigma=log_sigma)
pyro_pair = partial(model, sample=pyro.sample), partial(guide, sample=pyro.sample, mu=mu, log_sigma=log_sigma)

torch.manual_seed(1)
our_elbo = elbo(*our_pair, x)
our_gradient = torch.autograd.grad(our_elbo, mu)[0]
torch.manual_seed(1)
pyro_elbo = -Trace_ELBO().differentiable_loss(*pyro_pair, x)
pyro_gradient = torch.autograd.grad(pyro_elbo, mu)[0]
print(f"ELBO of one draw: ours {our_elbo:.6f}, Pyro's {pyro_elbo:.6f}")
assert abs(our_elbo - pyro_elbo) < 1e-6
assert (our_gradient - pyro_gradient).abs().max() < 1e-6

# %% [markdown]
# `fn.rsample()` made the draw a differentiable function of $μ$ and $σ$ (the reparametrisation trick), so
# gradient descent is all that is left to do. This model is linear and Gaussian: its evidence is known, and
# we can see how close we come.

# %%
one = torch.ones(1, 1, dtype=torch.double)
parameters = kalman.LinearGaussian(one, one, one, 4 * one, -40 * one[0], 100 * one)
evidence = kalman.filter(parameters, x[:, None]).log_evidence

optimiser = torch.optim.Adam([mu, log_sigma], 0.5)
steps = 30 if smoke() else 400
schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, steps)
curve = []
for _ in range(steps):
    optimiser.zero_grad()
    loss = -elbo(*our_pair, x)
    loss.backward()
    optimiser.step()
    schedule.step()
    curve.append(-loss.item())

figure = new_figure(8, 4.6)
top, bottom = figure.subplots(2, 1)
top.plot(curve, color=PALETTE[0], linewidth=0.8, label="ELBO, one draw each")
top.axhline(float(evidence), color=PALETTE[1], linestyle="--", label="log evidence")
top.set(xlabel="step", ylabel="nats", ylim=(float(evidence) - 300, float(evidence) + 60))
top.legend(loc="lower right")
exact = kalman.smooth(parameters, x[:, None]).means[:, 0]
time = torch.arange(len(x)) * 256 / rate
bottom.plot(time, x, "k.", markersize=3, label="observed")
bottom.plot(time, mu.detach(), color=PALETTE[0], label="our guide")
bottom.plot(time, exact, "--", color=PALETTE[1], label="exact posterior mean")
bottom.set(xlabel="time in seconds", ylabel="level in dB")
bottom.legend()
show(figure, "our own inference on the level of a recording")

# %% [markdown]
# The means are those of the exact posterior; the bound stays below the evidence. What is missing is the
# price of independent frames, $\frac12 (\sum_t \log P_{tt} - \log \det P)$ nats, with $P$ the precision of
# the posterior: [tutorial 4](04_swapping_guides.py) is about that price. $P$ is a matrix of three
# diagonals, by hand:

# %%
T = len(x)
P = torch.diag(torch.full((T,), 1 / 4 + 2.0, dtype=torch.double))
P[0, 0], P[-1, -1] = 1 / 4 + 1 / 100 + 1, 1 / 4 + 1
beside = torch.ones(T - 1, dtype=torch.double)
P = P - torch.diag(beside, 1) - torch.diag(beside, -1)
price = 0.5 * (P.diagonal().log().sum() - torch.logdet(P))
with torch.no_grad():
    draws = torch.stack([elbo(*our_pair, x) for _ in range(20 if smoke() else 200)])
gap, error = evidence - draws.mean(), draws.std() / math.sqrt(len(draws))
print(f"gap {gap:.1f} ± {error:.1f} nats, of which {price:.1f} are the price of independence")
assert gap > price - 5 * error
assert smoke() or gap < price + 5 * error + 0.05 * T

# %% [markdown]
# ## The same tools on a real model
#
# The models of this package are Pyro programs, no more. So `poutine` takes them apart. Here is the ELBO of
# a deep Kalman filter in our four lines, with Pyro's handlers, and then by Pyro:

# %%
data = pendulum(16, 30, seed=1)
dkf = models.DKF(observed=2, latent=3, hidden=16, data="real")
encoder = make_guide(dkf, hidden=16)
dkf.fit_statistics(data)
encoder.fit_statistics(data)

torch.manual_seed(2)
q = poutine.trace(encoder).get_trace(data)
p = poutine.trace(poutine.replay(dkf, trace=q)).get_trace(data)
by_hand = p.log_prob_sum() - q.log_prob_sum()
torch.manual_seed(2)
by_pyro = -Trace_ELBO().loss(dkf, encoder, data)
print(f"ELBO {by_hand:.4f} by hand, {by_pyro:.4f} by Pyro")
assert abs(by_hand - by_pyro) < 1e-6 * abs(by_pyro)

# %% [markdown]
# `condition` answers questions that nobody has foreseen. Frame by frame, the sites are $z_0, x_0, z_1,
# \dots$: fix any of them and run the program. Where would the pendulum of the model go from a given state,
# if it were there three times?

# %%
state = q.nodes["z"]["value"][:1, :1].expand(3, 1, -1)
_, futures = poutine.condition(dkf.steps, {"z_0": state})(frames=10, batch=3)
print("three futures of one state:", tuple(futures.shape))
assert not torch.equal(futures[0], futures[1])

# %% [markdown]
# ## SVI, and a test that everybody should run
#
# Pyro's `SVI` is the loop above, with a global store of parameters. The most common mistake of all is a
# parameter that does not take part: it is not registered, or cut off by a `detach`, or nobody uses it. The
# loss falls all the same. So ask which ones moved.


# %%
def unmoved(before, *modules):
    """Names of the parameters that are what they were."""
    now = [parameter for module in modules for parameter in module.named_parameters()]
    return [name for (name, value), old in zip(now, before, strict=True) if torch.equal(value, old)]


def values(*modules):
    return [parameter.detach().clone() for module in modules for parameter in module.parameters()]


pyro.clear_param_store()
before = values(dkf, encoder)
svi = SVI(dkf, encoder, pyro.optim.ClippedAdam({"lr": 5e-3}), Trace_ELBO())
losses = [svi.step(data) / data[..., 0].numel() for _ in range(5 if smoke() else 300)]
print(f"loss {losses[0]:.2f} → {losses[-1]:.2f} nats per frame; unmoved: {unmoved(before, dkf, encoder)}")
assert unmoved(before, dkf, encoder) == []
assert losses[-1] < losses[0]

# %% [markdown]
# A test that cannot fail is no test. Give the encoder a parameter that nobody uses:

# %%
pyro.clear_param_store()
encoder.idle = torch.nn.Parameter(torch.ones(3))
before = values(dkf, encoder)
svi = SVI(dkf, encoder, pyro.optim.ClippedAdam({"lr": 5e-3}), Trace_ELBO())
svi.step(data)
print("unmoved:", unmoved(before, dkf, encoder))
assert unmoved(before, dkf, encoder) == ["idle"]
pyro.clear_param_store()

# %% [markdown]
# ## Exercises
#
# **Exercise 1.** The ELBO averages $\log w$ with $w = p(x, z) / q(z \mid x)$. Average $w$ itself over K
# draws, and take the logarithm of that: $\log \frac1K \sum_k w_k$. It is a bound as well (why?), and a
# tighter one. Compare with the exact evidence.

# %% tags=["hide-cell"]
# Solution of exercise 1: E[w] = p(x), and the logarithm is concave (Jensen): so E[log mean] ≤ log p(x).
with torch.no_grad():
    log_w = torch.stack([elbo(*our_pair, x) for _ in range(100 if smoke() else 300)])
bound = log_w.logsumexp(0) - math.log(len(log_w))
print(f"ELBO {log_w.mean():.1f}, by weights {bound:.1f}, exact {evidence:.1f} nats")
assert log_w.mean() < bound < evidence + 3

# %% [markdown]
# **Exercise 2.** Write the model *without* `obs`, as a program that only draws, and show that under
# `Condition` it is the model from above.

# %% tags=["hide-cell"]
# Solution of exercise 2: observation is not a matter of the model, but of who listens.


def dream(frames, sample):
    z = torch.tensor(-40.0, dtype=torch.double)
    for t in range(frames):
        z = sample(f"z_{t}", Normal(z, 10.0 if t == 0 else 1.0))
        sample(f"x_{t}", Normal(z, 2.0))


with Trace() as conditioned, Replay(ours), Condition({f"x_{t}": level for t, level in enumerate(x)}):
    dream(len(x), sample)
print(float(log_density(conditioned)), float(log_density(ours)))
assert abs(log_density(conditioned) - log_density(ours)) < 1e-9

# %% [markdown]
# **Exercise 3.** To *see* that a switch is on is one thing, to *turn it on* is another. Write `Do`: it
# gives sites a value, and takes them out of the joint density, as their own causes play no part any more.
# By how much does the joint density differ from that of `Condition`? Check it with `poutine.do`.

# %% tags=["hide-cell"]
# Solution of exercise 3: by the density of that site itself, given its parents.


class Do(Condition):
    def after(self, site):
        if site["name"] in self.data:
            site["fn"] = Normal(site["value"], 1.0).mask(False)


turned = {"z_3": torch.tensor(-30.0, dtype=torch.double)}
with Trace() as seen, Replay(ours), Condition(turned):
    model(x, sample)
with Trace() as done, Replay(ours), Do(turned):
    model(x, sample)
own = seen["z_3"]["fn"].log_prob(seen["z_3"]["value"])
print(f"seen {log_density(seen):.3f}, done {log_density(done):.3f}, of the site itself {own:.3f}")
assert abs(log_density(seen) - own - log_density(done)) < 1e-9

rest = {name: value for name, value in drawn.items() if name != "z_3"}
program = poutine.do(partial(model, sample=pyro.sample), turned)
of_pyro = poutine.trace(poutine.condition(program, rest)).get_trace(x)
of_pyro.compute_log_prob()
sites = [(name, s) for name, s in of_pyro.nodes.items() if s["type"] == "sample"]
scored = sum(s["log_prob_sum"] for name, s in sites if name != "z_3")
assert abs(scored - log_density(done)) < 1e-6

# %% [markdown]
# ## Where to go on
#
# With that you can read the package: [the trainer](06_training_a_speech_model.py) is this loop with a
# corpus, and every sampler asks for the log density of a replayed trace.
#
# The idea of effect handlers in a few lines is that of Pyro's `minipyro`; the code here is our own.
