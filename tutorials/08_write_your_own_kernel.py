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
# # 8 · Write your own kernel, and prove it right
#
# **You will be able to**
#
# - write a sampler as two functions, `init` and `step`, that runs wherever those of the package do;
# - prove that it leaves the posterior unchanged, for a model whose posterior nobody knows;
# - recognise the three classical faults, among them two that have been published, by tests they fail;
# - use it to enhance speech, and say what it lacks.
#
# *Runs in a minute on two cores; with `PYRODVAE_SMOKE=1` in the environment, in seconds. You need the idea of
# Markov chain Monte Carlo.*

# %%
from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import pyro
import torch
from torch import Tensor
from torch.distributions import Normal

from pyrodvae import EnhanceConfig, enhance, examples, load_run, models, read_audio
from pyrodvae.checks import calibration, invariance
from pyrodvae.engines import MALA, Engine, EngineKernel
from pyrodvae.graph import certificate, graph_of
from pyrodvae.metrics import si_sdr
from pyrodvae.plots import new_figure
from pyrodvae.potential import Target
from pyrodvae.teaching import PALETTE, play, show, smoke

torch.manual_seed(0)
pyro.set_rng_seed(0)
SMOKE = smoke()

# %% [markdown]
# ## The kernel: preconditioned Crank-Nicolson
#
# In an RVAE the prior is simple, $z \sim \mathcal N(0, I)$, and the likelihood $p(x \mid z)$ is a network. So
# propose a step that would leave the *prior* unchanged,
#
# $$ z' = \sqrt{1 - β^2}\, z + β\, ξ, \qquad ξ \sim \mathcal N(0, I), $$
#
# and accept it with probability $\min(1, r)$. As $p(z)\, q(z' \mid z) = p(z')\, q(z \mid z')$, prior and
# proposal cancel in the ratio of Metropolis and Hastings:
#
# $$ r = \frac{p(x, z')\, q(z \mid z')}{p(x, z)\, q(z' \mid z)} = \frac{p(x \mid z')}{p(x \mid z)}. $$
#
# It needs no gradient. In the package a kernel is a frozen dataclass of settings with two methods. Draws are
# $z$ of shape (S, B, T, D): S chains of B sequences, side by side. `target` is the posterior up to its
# normaliser: `log_joint(z)` is $\log p(x, z)$, (S, B). All that a kernel remembers is in its state; the
# target is not, since EM changes it from step to step.


# %%
class State(NamedTuple):
    z: Tensor


def log_prior(z):
    """log N(z; 0, I) frame by frame, (S, B, T)."""
    return Normal(0.0, 1.0).log_prob(z).sum(-1)


@dataclass(frozen=True)
class PCN(Engine):
    beta: float = 0.3

    local: ClassVar[bool] = True  # it takes small steps: let another engine lead it to the posterior

    def init(self, target, z):
        return State(z.detach())

    def step(self, target, state):
        z = state.z
        there = (1 - self.beta**2) ** 0.5 * z + self.beta * torch.randn_like(z)
        with torch.no_grad():
            rate = self.log_ratio(target, z, there).clamp(max=0).exp()  # (S, B, 1), or (S, B, T)
        accepted = torch.rand_like(rate) < rate
        return State(torch.where(accepted[..., None], there, z)), {"accept": rate.mean(-1)}

    def log_ratio(self, target, z, there):
        """log r, one for the whole path."""
        gain = target.log_joint(there) - target.log_joint(z)
        return (gain - (log_prior(there) - log_prior(z)).sum(-1))[..., None]


# %% [markdown]
# ## Proof: draw, move, compare
#
# Is that right? The posterior of a network is unknown, so there is nothing to compare draws with. But one
# draw from it is free: take $(z, x) \sim p(z)\, p(x \mid z)$ from the model, and $z$ *is* a draw from $p(z
# \mid x)$. Let the kernel move it, given $x$. If the kernel is exact, the pair $(z', x)$ has the same law as
# the pair $(z, x)$. Every sequence of a batch is one such experiment, independent of the others, so the
# p-value is honest however slowly the chain mixes.
#
# Our RVAE is small, of random weights, in 64 bits. The weights are made larger, so that frames depend on each
# other and $x$ says something about $z$. That matters: a test sees an error in proportion to its size, so
# test a kernel where it would hurt.

# %%
REPLICATES = 300 if SMOKE else 1000


def loud(model, factor):
    """A model with larger weights."""
    with torch.no_grad():
        for weight in model.parameters():
            weight.mul_(factor)
    return model.double()


model = loud(models.RVAE(observed=3, latent=2, hidden=8, data="real"), 5.0)
z, x = model.generate(frames=4, batch=REPLICATES)
target = Target(model, None, (x,), reach=model.reach)
found = invariance(PCN(0.4), target, z, steps=10)
print(found)
assert found.passed

# %% [markdown]
# ## Controls: three kernels that must fail
#
# That the test is passed means something only if it can be failed. **One:** put $\log p(x, z)$ into the
# ratio, as one would for a plain random walk. But this proposal knows the prior already: it then counts
# twice, and the kernel draws from $p(z)^2\, p(x \mid z)$. (Published code has done so, by a missing ½ in
# $\frac12 \|z\|^2$.)


# %%
class PriorTwice(PCN):
    def log_ratio(self, target, z, there):
        return (target.log_joint(there) - target.log_joint(z))[..., None]


# %% [markdown]
# **Two:** accept each frame on its own, by its own term $\log p(x_t \mid z)$. This mixes far better, and it
# has been published for the RVAE. But in an RVAE every $x_t$ depends on all of $z_{1:T}$: whether frame t may
# move depends on what the others just did, and nobody asked.


# %%
class FrameByFrame(PCN):
    def log_ratio(self, target, z, there):
        gain = target.frames(there) - target.frames(z)  # terms log p(z_t | ·) + log p(x_t | ·), (S, B, T)
        return gain - (log_prior(there) - log_prior(z))


print(certificate(graph_of(model)))

# %% [markdown]
# **Three:** never look at $x$. Without a rejection the proposal walks around in the prior, and leaves it
# exactly unchanged. Only the pair $(z, x)$ gives it away.


# %%
class Blind(PCN):
    def log_ratio(self, target, z, there):
        return torch.zeros(*z.shape[:2], 1, dtype=z.dtype)


wrong = {"prior twice": PriorTwice(0.4), "frame by frame": FrameByFrame(0.4), "blind": Blind(0.4)}
verdicts = {name: invariance(kernel, target, z, steps=10) for name, kernel in wrong.items()}
for name, verdict in verdicts.items():
    print(f"{name}: {verdict}")
    assert not verdict.passed

# %% [markdown]
# And a kernel that stands still changes nothing, so it passes every test of this kind. The verdict knows:

# %%
still = invariance(PCN(1e-4), target, z, steps=10)
print(still)
assert not still.passed

# %% [markdown]
# Accepting frame by frame is not wrong in itself. In a VAE no term of the density has two frames in it;
# there the same kernel is exact, and the graph says so.

# %%
vae = loud(models.VAE(observed=3, latent=2, hidden=8, data="real"), 2.0)
z_vae, x_vae = vae.generate(frames=4, batch=REPLICATES)
print(certificate(graph_of(vae)))
allowed = invariance(FrameByFrame(0.4), Target(vae, None, (x_vae,), reach=vae.reach), z_vae, steps=10)
print(allowed)
assert allowed.passed

# %% [markdown]
# ## Where the wrong ones go
#
# Let all chains start at exact draws, and follow the mean of $\log p(x \mid z)$ over the replicates. For an
# exact kernel it stays where it is. The others leave for the law that *they* leave unchanged.


# %%
def follow(kernel, steps):
    """Mean of log p(x | z) over replicates after every step, in nats, and its standard error."""
    state, means = kernel.init(target, z[None]), []
    for _ in range(steps):
        with torch.no_grad():
            value = target.log_joint(state.z) - log_prior(state.z).sum(-1)
        means.append(value.mean())
        state, _ = kernel.step(target, state)
    return torch.stack(means), float(value.std() / len(z) ** 0.5)


STEPS = 20 if SMOKE else 80
figure = new_figure(8, 3)
axis = figure.subplots()
ends = {}
for (name, kernel), color in zip({"exact": PCN(0.4), **wrong}.items(), PALETTE, strict=False):
    mean, error = follow(kernel, STEPS)
    ends[name] = float((mean[-1] - mean[0]) / error)
    axis.plot(mean, color=color, label=name)
    axis.fill_between(range(STEPS), mean - 2 * error, mean + 2 * error, color=color, alpha=0.2, linewidth=0)
axis.set(xlabel="steps of the kernel", ylabel="log p(x | z) in nats")
axis.legend(ncols=4, fontsize=8)
show(figure, "what exact and wrong kernels do to the likelihood")
print("change in standard errors:", {name: round(end, 1) for name, end in ends.items()})
assert abs(ends["exact"]) < 4
assert ends["blind"] < -4

# %% [markdown]
# ## Exact is not enough
#
# Invariance says that whoever is at the posterior stays there. It does not say that one gets there.
# Calibration asks for both: chains start at the truth of *another* replicate, and after `warmup` steps the
# right truth must be a draw like any other. Two steps are too few; two hundred do.

# %%
fewer = Target(model, None, (x[:300],))
few = calibration(PCN(0.4), fewer, z[:300], chains=31, warmup=2)
many = calibration(PCN(0.4), fewer, z[:300], chains=31, warmup=50 if SMOKE else 200)
print(f"after two steps: {few}\nafter more: {many}")
assert not few.passed
assert SMOKE or many.passed

# %% [markdown]
# ## In use
#
# An engine with `init` and `step` works wherever one of ours does: in a chain with others, as a kernel of
# Pyro's MCMC, and in EM. Here is one step of Pyro's sampler with it, on two sequences:

# %%
mcmc = pyro.infer.MCMC(
    EngineKernel(PCN(0.4), model, chains=5), num_samples=20, warmup_steps=20, disable_progbar=True
)
mcmc.run(x[:2])
print("draws by Pyro's MCMC:", tuple(mcmc.get_samples()["z"].shape), "(samples, S, B, T, D)")

# %% [markdown]
# Now the packaged recording. A path has T = 270 frames of D = 16 numbers: one decision for all of them
# allows tiny steps only, where there is no gradient to say where to. That is why `local = True`: the first
# iterations are then Langevin's, who follows the gradient to the posterior. Without them (`approach=0`) our
# kernel would have to walk there alone, while the noise model takes the speech for noise.

# %%
noisy, rate = read_audio(examples.noisy())
clean, _ = read_audio(examples.clean())
if SMOKE:
    noisy, clean = noisy[:, :24_000], clean[:, :24_000]
run = load_run("rvae")
ITERATIONS = 9 if SMOKE else 60
scores = {}
for name, kernel, approach in (
    ("pCN alone", PCN(0.002), 0),
    ("Langevin, then pCN", PCN(0.002), 20),
    ("Langevin, then MALA", MALA(), 20),
):
    config = EnhanceConfig(iterations=ITERATIONS, approach=approach)
    result = enhance(noisy, sample_rate=rate, model=run, engine=kernel, config=config)
    accepted = result.diagnostics.trace("accept")[-ITERATIONS // 2 :].nanmean()
    scores[name] = si_sdr(result.speech, clean, rate)
    print(f"{name}: SI-SDR {scores[name]:.1f} dB, accepts {100 * accepted:.0f} %")
    if approach:
        play(result.speech, rate, name)
before = si_sdr(noisy, clean, rate)
print(f"the recording: {before:.1f} dB")
assert scores["Langevin, then pCN"] > before + 1
assert SMOKE or scores["Langevin, then pCN"] > scores["pCN alone"]

# %% [markdown]
# ## Exercises
#
# **Exercise 1.** Which β? On paths of 30 frames, measure for several how often the kernel accepts, and how
# far it really moves: the mean of $\|z' - z\|^2$ over accepted and rejected steps. Which acceptance goes with
# the longest move?

# %% tags=["hide-cell"]
# Solution of exercise 1: neither the boldest nor the most agreeable step goes farthest.
z_long, x_long = model.generate(frames=30, batch=REPLICATES)
long = Target(model, None, (x_long,))
betas, rates, jumps = (0.02, 0.05, 0.1, 0.2, 0.4, 0.7, 1.0), [], []
for beta in betas:
    kernel, moved, rate_sum = PCN(beta), 0.0, 0.0
    state = kernel.init(long, z_long[None])
    for _ in range(5):
        after, info = kernel.step(long, state)
        moved += float((after.z - state.z).square().sum((-2, -1)).mean()) / 5
        rate_sum += float(info["accept"].mean()) / 5
        state = after
    rates.append(rate_sum)
    jumps.append(moved)
    print(f"β = {beta:4.2f}: accepts {100 * rate_sum:3.0f} %, moves by {moved:.3f}")
best = max(range(len(betas)), key=jumps.__getitem__)
print(f"farthest with β = {betas[best]}, which accepts {100 * rates[best]:.0f} %")
assert rates == sorted(rates, reverse=True)
assert betas[0] < betas[best] < betas[-1]

# %% [markdown]
# **Exercise 2.** *Elliptical slice sampling* (Murray, Adams & MacKay 2010) needs no β. It draws $ξ \sim
# \mathcal N(0, I)$, which with $z$ spans an ellipse $z \cos θ + ξ \sin θ$; a level $\log y = \log p(x \mid z)
# + \log u$, $u$ uniform on (0, 1); and an angle θ from a bracket $[θ_0 - 2π, θ_0]$, that shrinks towards 0 as
# long as the likelihood there is below the level. Write it for all chains at once, and prove it.

# %% tags=["hide-cell"]
# Solution of exercise 2: chains that have found their angle keep it while the others shrink their brackets.


@dataclass(frozen=True)
class EllipticalSlice(Engine):
    tries: int = 40  # by then a bracket has shrunk to nothing, and whoever has found none stays

    local: ClassVar[bool] = True

    def init(self, target, z):
        return State(z.detach())

    @torch.no_grad()
    def step(self, target, state):
        z, xi = state.z, torch.randn_like(state.z)

        def likelihood(path):
            return target.log_joint(path) - log_prior(path).sum(-1)

        level = likelihood(z)
        level = level + torch.rand_like(level).log()
        theta = 2 * torch.pi * torch.rand_like(level)
        low, high = theta - 2 * torch.pi, theta.clone()
        found, chosen = torch.zeros_like(level, dtype=torch.bool), z
        for _ in range(self.tries):
            there = z * theta.cos()[..., None, None] + xi * theta.sin()[..., None, None]
            good = ~found & (likelihood(there) > level)
            chosen, found = torch.where(good[..., None, None], there, chosen), found | good
            if found.all():
                break
            low, high = torch.where(theta < 0, theta, low), torch.where(theta >= 0, theta, high)
            theta = low + (high - low) * torch.rand_like(theta)
        return State(chosen), {"accept": found.to(z)}


slices = invariance(EllipticalSlice(), target, z, steps=10)
print(slices)
assert slices.passed
assert slices.moved > found.moved  # and without a step size to choose

# %% [markdown]
# **Exercise 3.** The blind kernel is perfect for everything that looks at $z$ alone. Show it: which of the
# statistics in `verdicts["blind"].changes` are beyond four standard errors?

# %% tags=["hide-cell"]
# Solution of exercise 3: only those with log p(x | z), and a function of z alone never.
changes = verdicts["blind"].changes
large = {name for name, change in changes.items() if abs(change) > 4}
print(f"{len(large)} of {len(changes)} statistics, for example: {sorted(large)[:3]}")
assert "log p(x | z)" in large
assert all("log p(x | z)" in name for name in large)

# %% [markdown]
# ## Where to go on
#
# What engines there are and what each converges to: `docs/engines.md`. The same question, asked of guides:
# [tutorial 11](11_is_my_posterior_calibrated.py).
