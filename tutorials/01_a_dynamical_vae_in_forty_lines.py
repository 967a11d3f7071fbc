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
# # 1 · A dynamical VAE in forty lines
#
# **You will be able to**
#
# - write a dynamical VAE as its two conditional distributions, and nothing else;
# - run it as a Pyro program in two ways, frame by frame and all frames at once, and show that they are the
#   same;
# - give it a guide, train it by the evidence lower bound, and see what it has learned;
# - generate new sequences, and say what comes next in an old one.
#
# *Runs in one minute on two cores; with `PYRODVAE_SMOKE=1` in the environment, in seconds. You need Python,
# Bayes' rule, and a little PyTorch.*

# %%
import inspect

import pyro
import torch
from pyro import poutine
from pyro.distributions import Normal
from pyro.infer import TraceMeanField_ELBO
from torch import nn

from pyrodvae.dvae import DVAE
from pyrodvae.graph import compliance, graph_of, posterior
from pyrodvae.guide import Guide, Sees
from pyrodvae.nets import Memory, Summary, gaussian, join, mlp
from pyrodvae.observations import make_head
from pyrodvae.plots import new_figure
from pyrodvae.program import local_parameters
from pyrodvae.sequences import forecast
from pyrodvae.simulate import pendulum
from pyrodvae.teaching import PALETTE, show, smoke

STEPS = 20 if smoke() else 1500
torch.manual_seed(0)
pyro.set_rng_seed(0)

# %% [markdown]
# ## The data
#
# A pendulum swings; random kicks disturb it. Ten times per second we see the sine and the cosine of its
# angle, with noise of 0.1 on each. Nobody measures its speed: so one frame does not say what the next will
# be, and whoever wants to predict has to remember. The sequences are an array $x$ of shape (B, T, F), with
# F = 2.

# %%
x = pendulum(200, 50, seed=1)
unseen = pendulum(100, 80, seed=2)

figure = new_figure(8, 2.4)
axis = figure.subplots()
for i in range(3):
    axis.plot(torch.arange(50) / 10, x[i, :, 0], ".-", color=PALETTE[i], linewidth=0.8)
axis.set(xlabel="time in seconds", ylabel="sin θ (no unit)", title="three of the recordings")
show(figure, "three recordings of a pendulum")

# %% [markdown]
# ## Two conditionals
#
# A dynamical VAE invents a latent state $z_t$ for every frame, of D numbers. It is given by two
# conditionals: how the state moves, and what a frame looks like given the state. Here is a state space
# model with neural networks $f$ and $g$:
#
# $$
# p(z_t \mid z_{t-1}) = \mathcal N\big(z_{t-1} + f(z_{t-1}),\ \operatorname{diag} σ_f^2(z_{t-1})\big), \qquad
# p(x_t \mid z_t) = \mathcal N\big(μ_g(z_t),\ \operatorname{diag} σ_g^2(z_t)\big),
# $$
#
# with $z_0 = 0$. In the package, a model is just that: a class with a `transition` and an `emission`, each
# of which returns a distribution. Both work on a window of L frames, shapes (…, L, D): with L = 1 it is a
# time step, with L = T it is a whole sequence at once. The `memo` is what a window hands on to the next; a
# state space has nothing to hand on.


# %%
class Swing(DVAE):
    feedback = False  # no conditional looks at earlier frames of x
    reach = 1  # z_t enters the conditionals of one later frame

    def __init__(self, observed=2, latent=3, hidden=32):
        super().__init__(observed, latent, data="real")
        self.drift = nn.Sequential(*mlp([latent, hidden]), nn.Linear(hidden, 2 * latent))
        self.decoder = mlp([latent, hidden])
        self.head = make_head("real", hidden, observed)

    def transition(self, z_prev, x_prev, memo):
        step, log_scale = self.drift(z_prev).chunk(2, -1)
        return Normal(z_prev + step, log_scale.exp()).to_event(1), memo

    def emission(self, z, x_prev, memo):
        return self.head(self.decoder(z)), memo


# %% [markdown]
# ## One declaration, two programs
#
# From the two conditionals the base class derives two Pyro programs. `steps` walks through time, with the
# sites $z_0, x_0, z_1, x_1, …$ as in the equations; it is the one to read, to draw graphs from, and to
# generate with. `model(x)` has all frames in one site `z` and one site `x`; it is the fast one, for
# training.

# %%
model = Swing()
model.fit_statistics(x)  # the head is told the mean and the spread of the data

with local_parameters():
    by_steps = poutine.trace(model.steps).get_trace(x[:4])
    z = by_steps.nodes["_RETURN"]["value"][0]
    at_once = poutine.trace(poutine.condition(model, {"z": z})).get_trace(x[:4])

print("frame by frame:", [name for name in by_steps.nodes if name[:2] in ("z_", "x_")][:6], "…")
print("at once:       ", [name for name in at_once.nodes if name in ("z", "x")])

# %% [markdown]
# They are the same model: given the same path $z$, both say the same $\log p(x, z)$.

# %%
difference = by_steps.log_prob_sum() - at_once.log_prob_sum()
print(f"log p(x, z) = {by_steps.log_prob_sum():.3f} and {at_once.log_prob_sum():.3f} nats")
assert abs(difference / by_steps.log_prob_sum()) < 1e-5  # these are 32-bit numbers

# %% [markdown]
# ## The posterior, and a guide for it
#
# What we want of the model is the posterior $p(z_{1:T} \mid x_{1:T})$. We cannot compute it, but its *form*
# follows from the graph of the model, and the package derives that from the program:

# %%
print(graph_of(model, 3))
print(posterior(graph_of(model)))

# %% [markdown]
# So $z_t$ depends on the state before it and on the frames from now on: whatever the past frames knew is in
# $z_{t-1}$. A guide $q$ is a network that computes such a posterior from the data. Ours reads $x$ backward
# with an LSTM (`context`, for all frames at once), and joins what it says at frame t with $z_{t-1}$
# (`conditional`):
#
# $$ q(z_t \mid z_{t-1}, x_{t:T}) = \mathcal N\big(μ(c_t), \operatorname{diag} σ^2(c_t)\big), \qquad
#    c_t = \mathrm{MLP}\big(z_{t-1}, \overleftarrow{\mathrm{LSTM}}(x_{t:T})\big). $$


# %%
class Backward(Guide):
    def __init__(self, model, hidden=32):
        super().__init__(model, Sees(z_past="previous", x_future=True))
        self.summary = Summary(model.observed, hidden, "backward")
        self.join = nn.Sequential(*mlp([hidden + model.latent, hidden]), nn.Linear(hidden, 2 * model.latent))

    def context(self, x, lengths, shared):
        return self.summary(self.read(x), lengths)

    def conditional(self, z_prev, context, memo):
        return gaussian(self.join(join(z_prev, context))), memo


# %% [markdown]
# Those are the forty lines. The package looks at what the guide really does with its inputs, and finds that
# it misses nothing and looks at nothing in vain:

# %%
guide = Backward(model)
guide.fit_statistics(x)
methods = [f for part in (Swing, Backward) for f in vars(part).values() if inspect.isfunction(f)]
lines = 2 + sum(len(inspect.getsource(method).splitlines()) for method in methods)
print(f"{lines} lines; {compliance(model, guide)}")
assert lines <= 40
assert compliance(model, guide).compliant

# %% [markdown]
# ## Training
#
# Model and guide are trained together, by climbing the evidence lower bound
#
# $$
# \mathrm{ELBO} = \mathbb E_{q}\big[\log p(x_{1:T} \mid z_{1:T})\big]
#   - \mathbb E_q \sum_t \mathrm{KL}\big(q(z_t \mid \cdot)\ \|\ p(z_t \mid z_{t-1})\big) \le \log p(x_{1:T}).
# $$
#
# It is Pyro's own `TraceMeanField_ELBO`, with the optimiser of torch. `local_parameters` says that
# parameters live in their modules, and not in Pyro's global store.

# %%
optimiser = torch.optim.Adam([*model.parameters(), *guide.parameters()], 5e-3)
schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, 5e-3, total_steps=STEPS)
loss_of = TraceMeanField_ELBO()


def elbo(data):
    """The bound in nats per frame."""
    with local_parameters():
        return -loss_of.differentiable_loss(model, guide, data) / data[..., 0].numel()


curve = []
with torch.no_grad():
    before = elbo(unseen)
for _ in range(STEPS):
    loss = -elbo(x[torch.randperm(len(x))[:32]])
    optimiser.zero_grad()
    loss.backward()
    nn.utils.clip_grad_norm_([*model.parameters(), *guide.parameters()], 5.0)
    optimiser.step()
    schedule.step()
    curve.append(-loss.item())
with torch.no_grad():
    after = elbo(unseen)
print(f"on sequences it has not seen: {before:.2f} nats per frame before, {after:.2f} after")
assert after > before

# %% [markdown]
# Is that good? A yardstick: independent Gaussians with the mean and the spread of the data, which know of
# no dynamics. And a ceiling that nobody can reach: the noise alone, as if each frame's true angle were
# known.

# %%
plain = Normal(x.mean((0, 1)), x.std((0, 1))).log_prob(unseen).sum(-1).mean()
ceiling = -2 * Normal(0.0, 0.1).entropy()
print(f"independent frames {plain:.2f}, ours {after:.2f}, the noise alone {ceiling:.2f} nats per frame")
assert smoke() or plain + 1 < after < ceiling

figure = new_figure(8, 2.6)
axis = figure.subplots()
axis.plot(curve, color=PALETTE[0], linewidth=0.6, label="ELBO of each batch")
axis.axhline(plain, color=PALETTE[1], linestyle="--", label="independent frames")
axis.axhline(ceiling, color=PALETTE[2], linestyle=":", label="the noise alone")
axis.set(xlabel="step of the optimiser", ylabel="nats per frame")
axis.legend(loc="lower right")
show(figure, "the evidence lower bound rises during training")

# %% [markdown]
# ## Generation
#
# The model is a program that draws: without data, `generate` runs `steps` and lets it dream. And given 50
# frames of a sequence, the guide says where the pendulum is now, and the model goes on from there; each
# draw is one possible future.

# %%
_, dreamed = model.generate(frames=80, batch=3)
past, future = unseen[:, :50], unseen[:, 50:]
draws = forecast(model, guide, past, frames=30, draws=200)
print("draws of the future:", tuple(draws.shape), "(S, B, H, F)")

error = (draws.mean(0) - future).square().mean().sqrt()
from_mean = (x.mean((0, 1)) - future).square().mean().sqrt()
radius = dreamed.square().sum(-1).sqrt().mean()
print(f"off by {error:.2f}; a forecast that ignores the past is off by {from_mean:.2f}")
print(f"the dreams have sin² + cos² near 1: their mean radius is {radius:.2f}")
assert smoke() or (error < from_mean and abs(radius - 1) < 0.2)

figure = new_figure(8, 4.6)
top, bottom = figure.subplots(2, 1, sharex=True)
t = torch.arange(80) / 10
for i in range(3):
    top.plot(t, dreamed[i, :, 0], color=PALETTE[i], linewidth=0.9)
top.set(title="dreamed", ylabel="sin θ (no unit)")
low, middle, high = draws[:, 0, :, 0].quantile(torch.tensor([0.05, 0.5, 0.95]), 0)
bottom.fill_between(t[50:], low, high, color=PALETTE[1], alpha=0.3, linewidth=0, label="90 % of the futures")
bottom.plot(t[50:], middle, color=PALETTE[1], label="their median")
bottom.plot(t, unseen[0, :, 0], "k.", markersize=3, label="what came")
bottom.axvline(4.95, color="0.6", linewidth=0.8)
bottom.set(title="continued after five seconds", xlabel="time in seconds", ylabel="sin θ (no unit)")
bottom.set_ylim(-1.9, 1.4)
bottom.legend(loc="lower left", ncols=3, fontsize=8)
show(figure, "sequences dreamed by the model and one continued by it")

# %% [markdown]
# ## Exercises
#
# **Exercise 1.** Let the frames feed back: write a model whose state depends on all earlier states and
# frames, $p(z_t \mid h_t)$ with $h_t = \mathrm{LSTM}(z_{t-1}, x_{t-1}, h_{t-1})$, and $p(x_t \mid z_t,
# h_t)$. It is the VRNN of Chung et al. (2015). Use `Memory`, hand $h_t$ to the emission by the memo, and
# look at its posterior.

# %% tags=["hide-cell"]
# Solution of exercise 1: feedback stays True, and the memo is (h on this window, state of the LSTM).


class Feedback(DVAE):
    def __init__(self, observed=2, latent=3, hidden=32):
        super().__init__(observed, latent, data="real")
        self.memory = Memory(latent + observed, hidden)
        self.drift = nn.Linear(hidden, 2 * latent)
        self.decoder = mlp([latent + hidden, hidden])
        self.head = make_head("real", hidden, observed)

    def transition(self, z_prev, x_prev, memo):
        h, state = self.memory(join(z_prev, x_prev), memo[1] if memo else None)
        return gaussian(self.drift(h)), (h, state)

    def emission(self, z, x_prev, memo):
        return self.head(self.decoder(join(z, memo[0]))), memo


feedback = graph_of(Feedback(), 4)
print(posterior(feedback))
assert feedback.parents("z_2") == ("z_0", "x_0", "z_1", "x_1")
assert feedback.parents("x_2") == ("z_0", "x_0", "z_1", "x_1", "z_2")

# %% [markdown]
# **Exercise 2.** Take the arrow $z_{t-1} → z_t$ out of `Swing`. Which line changes? What is the posterior
# then, and what does the verdict say about the same guide?

# %% tags=["hide-cell"]
# Solution of exercise 2: the transition no longer looks at z_prev, so frames are independent, and all that
# the guide sees beside x_t is superfluous.


class Still(Swing):
    def transition(self, z_prev, x_prev, memo):
        zeros = torch.zeros(z_prev.shape, dtype=z_prev.dtype)
        return Normal(zeros, 1.0).to_event(1), memo


still = Still()
verdict = compliance(still, Backward(still))
print(posterior(graph_of(still)))
print(verdict)
assert verdict.sufficient
assert not verdict.compliant

# %% [markdown]
# **Exercise 3.** Is the model honest? Count how often the true future falls into the middle 90 % of the
# draws, and how often into the middle 50 %.

# %% tags=["hide-cell"]
# Solution of exercise 3: an honest forecast holds what it promises, up to what training has left undone.
for level in (0.5, 0.9):
    ends = draws.quantile(torch.tensor([(1 - level) / 2, (1 + level) / 2]), 0)
    inside = ((ends[0] <= future) & (future <= ends[1])).float().mean()
    print(f"the middle {100 * level:.0f} % of the draws hold {100 * inside:.0f} % of what came")
    assert smoke() or abs(inside - level) < 0.2

# %% [markdown]
# ## Where to go on
#
# [The next tutorial](02_kalman_and_exactness.py) takes a model whose posterior is known, so that we can see
# whether all of this is right. [Tutorial 3](03_markov_blankets.py) shows where the form of a posterior
# comes from.
