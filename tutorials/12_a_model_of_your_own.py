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
# # 12 · A model of your own
#
# **You will be able to**
#
# - turn the equations of a new dynamical VAE into a program, memory included;
# - prove that the program is causal, that both of its executions agree, and that the proof can fail;
# - read off its graph what its exact posterior needs, and write a guide that sees just that;
# - train it, measure what an arrow of yours is worth, and use it to forecast and to enhance speech.
#
# *Runs in one minute on two cores; with `PYRODVAE_SMOKE=1` in the environment, in seconds. You need
# [tutorial 1](01_a_dynamical_vae_in_forty_lines.py); what a Markov blanket is says [tutorial
# 3](03_markov_blankets.py).*

# %%
import pyro
import torch
from pyro import poutine
from pyro.distributions import Normal
from pyro.infer import TraceMeanField_ELBO
from torch import nn

from pyrodvae import EnhanceConfig, Run, enhance, examples, kalman, load_run, make_guide, read_audio
from pyrodvae.checks import invariance
from pyrodvae.dvae import DVAE
from pyrodvae.engines import MALA
from pyrodvae.graph import certificate, compliance, graph_of, posterior
from pyrodvae.graph_cost import arrow_cost, linear_twin
from pyrodvae.graph_drawing import plot_graph
from pyrodvae.guide import Guide, Sees
from pyrodvae.metrics import si_sdr
from pyrodvae.nets import Summary, gaussian, join, mlp
from pyrodvae.observations import make_head
from pyrodvae.plots import new_figure
from pyrodvae.potential import Target
from pyrodvae.program import local_parameters
from pyrodvae.sequences import FitConfig, fit, forecast
from pyrodvae.simulate import oscillator
from pyrodvae.teaching import PALETTE, play, show, smoke

torch.manual_seed(0)
pyro.set_rng_seed(0)

# %% [markdown]
# ## Equations
#
# What moves has inertia: it goes on as it went, unless something pushes it. In a state space of first order
# (the DKF) $z_{t-1}$ has to hold the velocity besides the position. Ours is of second order: the velocity
# is the difference of the two states before, and a network says what pushes.
#
# $$
# z_t \mid z_{t-1}, z_{t-2} \sim \mathcal N\big(z_{t-1} + k \odot (z_{t-1} - z_{t-2}) + f(z_{t-1}, z_{t-2}),\
#    \operatorname{diag} σ^2(z_{t-1}, z_{t-2})\big), \qquad
# x_t \mid z_t \sim p(x_t; g(z_t)),
# $$
#
# with zeros before the first frame. $f$, $σ$ and $g$ are networks, $k$ a number for each coordinate.
#
# ## Program
#
# `transition` is a map on a window of L frames. It is given $z_{t-1}$ for each of them; $z_{t-2}$ is the
# same, one frame later, and only for the first frame of the window it has to come from elsewhere: from the
# `memo`, what the window before has left behind. A memo of None means that there was none.


# %%
def two_before(z_prev, memo):
    """z_{t-2} on a window (..., L, D), and the memo for the next: its last z_{t-1}."""
    if memo is None:
        memo = torch.zeros(*z_prev.shape[:-2], 1, z_prev.shape[-1], dtype=z_prev.dtype)
    return torch.cat([memo, z_prev[..., :-1, :]], -2), z_prev[..., -1:, :]


class Inertial(DVAE):
    feedback = False  # no conditional looks at x_{<t}
    reach = 2  # z_t enters the conditionals of two later frames

    def __init__(self, observed=2, latent=2, hidden=32, data="real"):
        super().__init__(observed, latent, data)
        self.keep = nn.Parameter(torch.full((latent,), 0.9))
        self.force = nn.Sequential(*mlp([2 * latent, hidden]), nn.Linear(hidden, 2 * latent))
        self.decoder = mlp([latent, hidden, hidden])
        self.head = make_head(data, hidden, observed)
        with torch.no_grad():  # at first hardly a force, and steps of moderate size
            self.force[-1].weight.mul_(0.1)
            self.force[-1].bias[latent:].fill_(-1.0)

    def transition(self, z_prev, x_prev, memo):
        before, memo = two_before(z_prev, memo)
        push, log_scale = self.force(join(z_prev, before)).chunk(2, -1)
        mean = z_prev + self.keep * (z_prev - before) + push
        return Normal(mean, log_scale.clamp(-7, 3).exp()).to_event(1), memo

    def emission(self, z, x_prev, memo):
        return self.head(self.decoder(z)), memo


# %% [markdown]
# (The zeros are made from *sizes*. `zeros_like(z_prev)` would be equal in value, but Pyro marks whatever
# was computed with $z$, and a graph drawn from those marks alone would have an arrow too many.)
#
# ## Proof 1: frame by frame is all at once
#
# `model(x)` calls `transition` once, with L = T; `model.steps(x)` calls it T times, with L = 1. Both have to
# give the same $\log p(x, z)$, to the last digit of 64 bits. If the memo is wrong, they do not.

# %%
B, T, D, F = 3, 7, 2, 2


def both_executions(model):
    """log p(x, z) in one pass and frame by frame, for random z and x."""
    x, z = torch.randn(B, T, F).double(), torch.randn(B, T, D).double()
    frames = {f"z_{t}": z[:, t : t + 1] for t in range(T)}
    with local_parameters():
        fast = poutine.trace(poutine.condition(model, {"z": z})).get_trace(x)
        slow = poutine.trace(poutine.condition(model.steps, frames)).get_trace(x)
    return fast.log_prob_sum(), slow.log_prob_sum()


model = Inertial().double()
fast, slow = both_executions(model)
print(f"at once {fast:.12f}, frame by frame {slow:.12f}")
assert abs(slow / fast - 1) < 1e-12

# %% [markdown]
# A proof that cannot fail proves nothing. So here is the control: a model that forgets its memo.


# %%
class Forgetful(Inertial):
    def transition(self, z_prev, x_prev, memo):
        return super().transition(z_prev, x_prev, None)


forgetful = Forgetful().double()
fast, slow = both_executions(forgetful)
print(f"without a memo: at once {fast:.4f}, frame by frame {slow:.4f}")
assert abs(slow / fast - 1) > 1e-6

# %% [markdown]
# ## Proof 2: nothing looks into the future
#
# Change $z$ at one frame, and see which conditionals move. Of $p(z_t \mid z_{<t})$ those must not that are
# of this frame or of an earlier one; of $p(x_t \mid z_{\le t})$, those of an earlier one.


# %%
def moves(model):
    """Row t, column s: does p(z_t | ·), or p(x_t | ·), move with z_s? Two tables (T, T)."""
    x, z = torch.randn(1, T, F).double(), torch.randn(1, T, D).double()
    changed = z.expand(T, T, D) + torch.eye(T).double()[..., None]  # sequence s has another z_s
    with local_parameters(), torch.no_grad():
        prior = model.prior(x)
        here, there = ((prior.along(p).mean, model.likelihood(p, x, prior).mean) for p in (z, changed))
    return [((b - a).abs().sum(-1) > 0).mT for a, b in zip(here, there, strict=True)]


p_z, p_x = moves(model)
print("p(z_t | ·) moves with z_s:\n", p_z.int().numpy())
band = torch.ones(T, T, dtype=torch.bool).tril(-1) & torch.ones(T, T, dtype=torch.bool).triu(-2)
assert (p_z == band).all()  # z_{t-1} and z_{t-2}, and no other
assert (p_x == torch.eye(T, dtype=torch.bool)).all()


class Clairvoyant(Inertial):  # the control: it takes the frame after for the frame before
    def transition(self, z_prev, x_prev, memo):
        return super().transition(z_prev.roll(-2, -2), x_prev, memo)


assert moves(Clairvoyant().double())[0].triu().any()

# %% [markdown]
# ## The graph, and what it says
#
# From the program the package derives the graph, the form of the exact posterior, and what a sampler may do
# frame by frame. You have written `reach = 2` above; the graph has to agree, as kernels rely on it.

# %%
graph = graph_of(model)
print(posterior(graph))
print(certificate(graph))
assert certificate(graph).reach == Inertial.reach
assert graph.parents("z_3") == ("z_1", "z_2")
show(plot_graph(graph, blanket_of="z_2"), "the graph of the inertial model and the blanket of z 2")

# %% [markdown]
# What if `reach` were wrong? Then kernels accept frames at once that share a term, and draw from some other
# law than the posterior. The test of [tutorial 8](08_write_your_own_kernel.py) shows it: pairs (z, x) from
# the model must have the same law after a kernel has moved z.

# %%
z, x = model.generate(frames=6, batch=300 if smoke() else 1000)
kernel = MALA(step_size=0.4, warmup=0)
honest = invariance(kernel, Target(model, None, (x,), reach=2), z)
wrong = invariance(kernel, Target(model, None, (x,), reach=0), z)
print(f"reach 2: {honest}\nreach 0: {wrong}")
assert honest.passed
assert not wrong.passed

# %% [markdown]
# ## A compliant guide
#
# The posterior of $z_t$ needs $z_{t-2}$, $z_{t-1}$ and $x_{t:T}$. `make_guide(model, "compliant")` is the
# best guide of stock: it has an LSTM over all of $z_{<t}$, so it misses nothing but could be distracted. One
# of our own looks at two frames, by the same memo as the model:


# %%
class TwoBack(Guide):
    def __init__(self, model, hidden=32):
        super().__init__(model, Sees(z_past="all", x_future=True))
        self.summary = Summary(model.observed, hidden, "backward")
        self.join = nn.Sequential(
            *mlp([hidden + 2 * model.latent, hidden]), nn.Linear(hidden, 2 * model.latent)
        )
        with torch.no_grad():  # begin fairly sure: a doubtful z would be doubled by the inertia
            self.join[-1].bias[model.latent :].fill_(-2.0)

    def context(self, x, lengths, shared):
        return self.summary(self.read(x), lengths)

    def conditional(self, z_prev, context, memo):
        before, memo = two_before(z_prev, memo)
        return gaussian(self.join(join(z_prev, before, context))), memo


for guide in (TwoBack(model), make_guide(model, "compliant"), make_guide(model, "filter")):
    print(compliance(model, guide))
assert compliance(model, TwoBack(model)).compliant
assert compliance(model, make_guide(model, "compliant")).sufficient
assert not compliance(model, make_guide(model, "filter")).sufficient

# %% [markdown]
# ## Training, and what the arrow is worth
#
# The data: a weight on a spring, kicked at random, its position seen through noise. They are drawn from a
# linear-Gaussian model, so [Kalman's filter](02_kalman_and_exactness.py) knows their evidence and the best
# forecast: a ceiling that no model can break through. Ours gets one number per frame, D = 1, the position.
# Beside it stands its own *ablation*, the same networks with $z_{t-1}$ put in the place of $z_{t-2}$: that
# cuts the arrow and leaves all else, the starting weights included.


# %%
class FirstOrder(Inertial):
    reach = 1

    def transition(self, z_prev, x_prev, memo):
        push, log_scale = self.force(join(z_prev, z_prev)).chunk(2, -1)
        return Normal(z_prev + push, log_scale.clamp(-7, 3).exp()).to_event(1), memo


PAST, AHEAD = 60, 30
train, parameters = oscillator(20 if smoke() else 200, PAST, seed=1, noise=0.1)
test, _ = oscillator(10 if smoke() else 100, PAST + AHEAD, seed=2, noise=0.1)
past, future = test[:, :PAST], test[:, PAST:]
settings = FitConfig(epochs=1 if smoke() else 50, frames=30, warmup=0 if smoke() else 5, learning_rate=1e-2)


def error(mean):
    """Root mean square error of a forecast, by frames ahead."""
    return (mean - future).square().mean((0, 2)).sqrt()


def nats(model, guide):
    """The ELBO on sequences that were not trained on, in nats per frame."""
    with local_parameters(), torch.no_grad():
        return -TraceMeanField_ELBO(num_particles=20).loss(model, guide, past.float()) / past.numel()


ceiling = kalman.filter(parameters, past).log_evidence.sum() / past.numel()
best = error(kalman.forecast(parameters, past, AHEAD).means)
bounds, errors, futures = {}, {}, {}
for name, kind in (("second order", Inertial), ("first order", FirstOrder)):
    torch.manual_seed(0)
    own = kind(observed=1, latent=1, hidden=16)
    guide = TwoBack(own, hidden=16)
    fit(own, guide, train, settings)
    bounds[name], futures[name] = nats(own, guide), forecast(own, guide, past.float(), AHEAD)
    errors[name] = error(futures[name].mean(0))
    print(f"{name}: ELBO {bounds[name]:.2f} nats per frame; five frames ahead off by {errors[name][4]:.2f}")
print(f"known truth: evidence {ceiling:.2f} nats per frame; five frames ahead off by {best[4]:.2f}")
assert max(bounds.values()) < ceiling
assert smoke() or bounds["second order"] > bounds["first order"] + 0.1
assert smoke() or best[4] < errors["second order"][4] < errors["first order"][4] - 0.1

# %%
figure = new_figure(8, 5)
above, below = figure.subplots(2, 1)
below.plot(range(1, AHEAD + 1), best, color="0.3", linestyle=":", label="exact")
t = torch.arange(PAST + AHEAD)
above.plot(t, test[0, :, 0], "k.", markersize=3, label="observed")
for (name, draws), color in zip(futures.items(), PALETTE, strict=False):
    low, middle, high = draws[:, 0, :, 0].quantile(torch.tensor([0.05, 0.5, 0.95]), 0)
    above.fill_between(t[PAST:], low, high, color=color, alpha=0.2, linewidth=0)
    above.plot(t[PAST:], middle, color=color, label=f"{name}: median and 90 %")
    below.plot(range(1, AHEAD + 1), errors[name], color=color, label=name)
above.set(xlabel="frame", ylabel="position (no unit)", xlim=(30, PAST + AHEAD))
below.set(xlabel="frames ahead", ylabel="error (no unit)", ylim=(0, None))
for axis in (above, below):
    axis.legend(fontsize=8)
show(figure, "forecasts of a spring with and without the second arrow")

# %% [markdown]
# The first-order state knows where the weight is and not where it goes: it forecasts a decay to the middle.
# Between the second-order model and the ceiling stand its guide, its short training, and the truth, in which
# kicks push the position, too. With D = 2 the two orders would come out alike, as a second number may learn
# to be a velocity: an arrow is knowledge that the data then need not teach.
#
# ## The same model, of speech
#
# Nothing above says what a frame is. With `data="speech"` the emission is a complex Gaussian, $s_t \mid z_t
# \sim \mathcal N_c(0, \operatorname{diag} v(z_t))$, and the model works wherever those of the package do.
# To train one takes an hour of speech ([tutorial 6](06_training_a_speech_model.py)), and here are two
# seconds. That is not enough for a decoder of 513 bins, but enough for our 3000 numbers: how the state
# moves. Parts are modules, so we borrow the decoder and the guide of the shipped DKF, and learn the dynamics
# alone. The guide does not look at $z_{t-2}$; the verdict says so, and the bound is still a bound.

# %%
clean, rate = read_audio(examples.clean())
noisy, _ = read_audio(examples.noisy())
cut = int(2.4 * rate)
dkf = load_run("dkf")
s = dkf.stft(torch.from_numpy(clean / abs(clean).max()).float())
seen, unseen = s[:, : cut // dkf.stft.hop], s[:, cut // dkf.stft.hop :]
crops = seen[0].unfold(0, 40, 2).movedim(-1, 1)
print("crops of clean speech:", tuple(crops.shape), "(B, T, F)")

torch.manual_seed(0)
speech = Inertial(dkf.stft.bins, dkf.model.latent, hidden=64, data="speech")
with torch.no_grad():  # begin with a random walk of steps N(0, 1)
    speech.keep.zero_()
    speech.force[-1].bias.zero_()
speech.decoder, speech.head = dkf.model.decoder, dkf.model.head
for borrowed in (speech.decoder, speech.head, dkf.guide):
    borrowed.requires_grad_(False)
print(compliance(speech, dkf.guide))


def bound(model, s):
    """The ELBO in nats per frame, of fifty draws: known to half a nat."""
    with local_parameters(), torch.no_grad():
        return -TraceMeanField_ELBO(num_particles=50).loss(model, dkf.guide, s) / s.shape[1]


walk = bound(speech, unseen)
weights = [p for p in speech.parameters() if p.requires_grad]
optimiser = torch.optim.Adam(weights, 1e-3)
for _ in range(10 if smoke() else 200):
    gain = 10 ** ((12 * torch.rand(8, 1, 1) - 9) / 20)  # up to 3 dB louder and 9 dB softer
    batch = gain * crops[torch.randperm(len(crops))[:8]]
    with local_parameters():
        loss = TraceMeanField_ELBO().differentiable_loss(speech, dkf.guide, batch)
    optimiser.zero_grad()
    loss.backward()
    nn.utils.clip_grad_norm_(weights, 5.0 * batch[..., 0].numel())
    optimiser.step()
end, theirs = bound(speech, unseen), bound(dkf.model, unseen)
print(f"on what is said next, in nats per frame: a random walk {walk:.0f}, our dynamics {end:.0f}")
print(f"the DKF's dynamics, learned from an hour: {theirs:.0f}")
assert smoke() or end > walk + 3

# %% [markdown]
# A `Run` is what `enhance` wants to know: the pair, the STFT, and a card with a name. The recording is what
# the same voice says next, in noise.

# %%
mine = Run(speech, dkf.guide, dkf.stft, {"model": "inertial"})
rest, truth = noisy[:, cut:], clean[:, cut:]
result = enhance(rest, sample_rate=rate, model=mine, config=EnhanceConfig(iterations=5 if smoke() else 40))
before, after = si_sdr(rest, truth, rate), si_sdr(result.speech, truth, rate)
print(f"SI-SDR {before:.1f} dB before, {after:.1f} dB after")
play(rest, rate, "noisy")
play(result.speech, rate, "enhanced with dynamics of our own")
assert after > before + (1 if smoke() else 2)

# %% [markdown]
# ## Exercises
#
# **Exercise 1.** Let the frames feed back: $p(z_t \mid z_{t-1}, z_{t-2}, x_{t-1})$. What changes in the
# class, what in the posterior, and is `TwoBack` still compliant? Which `reach` is right?

# %% tags=["hide-cell"]
# Solution of exercise 1: x_{t-1} is joined to the input of the force. Then x_{t-1} is a child of z_{t-1}
# and a parent of z_t. The posterior of z_t still needs z_{t-2:t-1} and x_{t:T}; and now also x_{t-1}.


class Feedback(Inertial):
    feedback = True

    def __init__(self, observed=2, latent=2, hidden=32, data="real"):
        super().__init__(observed, latent, hidden, data)
        self.force[0] = nn.Linear(2 * latent + observed, hidden)

    def transition(self, z_prev, x_prev, memo):
        before, memo = two_before(z_prev, memo)
        push, log_scale = self.force(join(z_prev, before, x_prev)).chunk(2, -1)
        mean = z_prev + self.keep * (z_prev - before) + push
        return Normal(mean, log_scale.clamp(-7, 3).exp()).to_event(1), memo


feedback = Feedback().double()
print(posterior(graph_of(feedback)))
verdict = compliance(feedback, TwoBack(feedback))
print(verdict)
fast, slow = both_executions(feedback)
assert abs(slow / fast - 1) < 1e-12
assert not verdict.sufficient
assert certificate(graph_of(feedback)).reach == 2

# %% [markdown]
# **Exercise 2.** Show that padding changes nothing: sequences of 7, 2 and 4 frames in one batch have the
# $\log p(x, z)$ that each has alone, and what stands in the padding does not matter.

# %% tags=["hide-cell"]
# Solution of exercise 2: the third control is that a real frame does matter.
lengths = torch.tensor([7, 2, 4])
x, z = torch.randn(B, T, F).double(), torch.randn(B, T, D).double()


def log_joint(x, z, lengths=None):
    with local_parameters():
        return poutine.trace(poutine.condition(model, {"z": z})).get_trace(x, lengths).log_prob_sum()


padded = log_joint(x, z, lengths)
alone = sum(log_joint(x[i : i + 1, :n], z[i : i + 1, :n]) for i, n in enumerate(lengths.tolist()))
junk = x.clone()
junk[1, 2:] = 1e3
other = x.clone()
other[1, 1] += 1
assert torch.allclose(padded, alone, rtol=1e-12)
assert torch.equal(log_joint(junk, z, lengths), padded)
assert not torch.equal(log_joint(other, z, lengths), padded)

# %% [markdown]
# **Exercise 3.** What would a guide lose that sees less? Ask the linear twin of the model (the same arrows,
# linear maps, Gaussian noise), for T = 12. Which of the arrows that `filter` misses is the dear one?

# %% tags=["hide-cell"]
# Solution of exercise 3: nobody needs more than the posterior; without the future of x much is lost.
twin = linear_twin(graph_of(model, 12))
cost = arrow_cost(twin, twin.sample(10))
print(cost)
gap = dict(zip(cost.sights, cost.gap.tolist(), strict=True))
assert abs(gap["full context"]) < 1e-8 < gap["filter"] < gap["factorised"]

# %% [markdown]
# ## Where to go on
#
# To give the model a key of its own, and with it the command line:
# [Add a model](../howto/add-a-model.md). Whether its posterior is to be believed:
# [tutorial 11](11_is_my_posterior_calibrated.py).
