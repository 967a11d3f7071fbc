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
# # 11 · Is my posterior calibrated?
#
# **You will be able to**
#
# - test a guide or a sampler without knowing the true posterior, by simulation-based calibration;
# - read from its curves whether a posterior is too narrow, too wide or off;
# - say in nats how far a guide is from the posterior, and in standard errors how far a sampler is;
# - find that a trained encoder of speech is far too sure of itself, and mend it.
#
# *Runs in half a minute on two cores; with `PYRODVAE_SMOKE=1` in the environment, in seconds. [Tutorial
# 2](02_kalman_and_exactness.py) is a good preparation.*

# %%
import pyro
import pyro.distributions as dist
import torch
from pyro.infer import Trace_ELBO
from pyro.infer.autoguide import AutoNormal
from torch.distributions.transforms import ReshapeTransform

from pyrodvae import kalman, load_run, make_guide
from pyrodvae.checks import calibration, evidence_gap, kalman_posterior, posterior_errors
from pyrodvae.engines import MALA, BatchedHMC, Chain, Encoder, Langevin
from pyrodvae.graph_cost import state_space
from pyrodvae.models import Kalman
from pyrodvae.plots import new_figure
from pyrodvae.potential import Target
from pyrodvae.program import local_parameters
from pyrodvae.simulate import oscillator
from pyrodvae.teaching import PALETTE, show, smoke

torch.manual_seed(0)
pyro.set_rng_seed(0)
SMOKE = smoke()

# %% [markdown]
# ## The idea
#
# Draw a truth and its data from the model, $z^* \sim p(z)$, $x \sim p(x \mid z^*)$. Given $x$, the truth is
# itself a draw from $p(z \mid x)$. So if $q(z \mid x)$ *is* the posterior, the truth is one among its draws
# $z^1 \dots z^L$, in no way special: for any number $h(z)$ that we read off,
#
# $$ \#\{l : h(z^l) < h(z^*)\} \ \sim\ \mathrm{Uniform}\{0, 1, \dots, L\}. $$
#
# We need the model and draws of $q$, and no posterior. Our model is one where we know it all the same, so
# that we can check the checks: a noisy linear oscillator, (B, T, F) = (replicates, 8, 1), D = 2.

# %%
T, D, L = 8, 2, 63
REPLICATES = 200 if SMOKE else 500
_, parameters = oscillator(1, 1, noise=0.5)
model = Kalman(observed=1, latent=2).double().requires_grad_(False)
model.assign(parameters)
z, x = model.generate(frames=T, batch=REPLICATES)
target = Target(model, None, (x,))
print("truths", tuple(z.shape), "and their data", tuple(x.shape))

# %% [markdown]
# ## By hand
#
# `kalman.sample` draws from the exact posterior. The ranks of the truth fill eight equal bins evenly: each
# holds B/8 of them, give or take what chance does to a count.

# %%
draws = kalman.sample(parameters, x, draws=L)
ranks = (draws[..., 0, 0] < z[..., 0, 0]).sum(0)
counts = torch.bincount(ranks * 8 // (L + 1), minlength=8)
spread = (REPLICATES * (1 / 8) * (7 / 8)) ** 0.5
print("ranks of the truth:", counts.tolist(), f"expected {REPLICATES / 8:.0f} ± {spread:.0f}")
assert ((counts - REPLICATES / 8).abs() < 4 * spread).all()

# %% [markdown]
# ## By the package
#
# `calibration` does this for eleven $h$ at once (entries of z, $\log p(z)$, $\log p(x \mid z)$, …) and gives
# one p-value for all, exact whatever their dependence. A posterior is a guide, an engine, or any Pyro program
# that samples the site `z`.
#
# The exact posterior is one big Gaussian, so we can write it down; and then also what is *not* exact: the
# same with a wrong width or a shifted mean.

# %%
joint = state_space(parameters, T)


def dense(width=1.0, shift=0.0):
    """A guide: the exact posterior of the whole path, stretched about its mean and shifted."""

    def guide(x):
        mean = joint.centred(x) @ joint.regression.mT + shift
        q = dist.MultivariateNormal(mean, precision_matrix=joint.precision / width**2)
        with pyro.plate("batch", len(x), dim=-1):
            return pyro.sample("z", dist.TransformedDistribution(q, [ReshapeTransform((T * D,), (T, D))]))

    return guide


def mean_field(x):
    """The best guide without arrows between frames: exact means, precisions P_tt."""
    P = joint.precision.view(T, D, T, D).diagonal(dim1=0, dim2=2).movedim(-1, 0)
    with pyro.plate("batch", len(x), dim=-1):
        return pyro.sample(
            "z", dist.MultivariateNormal(kalman.smooth(parameters, x).means, precision_matrix=P).to_event(1)
        )


posteriors = {
    "exact": dense(),
    "KalmanGuide": make_guide(model),
    "too narrow": dense(width=0.6),
    "too wide": dense(width=1.6),
    "shifted": dense(shift=0.3),
    "mean-field": mean_field,
}
results = {name: calibration(guide, target, z, chains=L) for name, guide in posteriors.items()}
for name, result in results.items():
    print(f"{name}: {result}")
    assert result.passed == (name in ("exact", "KalmanGuide"))

# %% [markdown]
# The mean-field guide is the *best* of its kind: its means are exact. But each of its frames takes the others
# for known, and so it is too narrow. `result.plot()` draws the curves of one result; here are those of
# $z_{0,0}$ for five. Above the line on the left and below on the right: too narrow. The other way round: too
# wide. All on one side: off.

# %%
figure = new_figure(9, 3.4)
axis = figure.subplots()
at = torch.arange(1, L + 1) / (L + 1)
low, high = (edge / REPLICATES - at for edge in results["exact"].band)
axis.fill_between(at, low, high, step="mid", color="0.87", label="exact: 99.9 %")
for (name, result), color in zip(results.items(), PALETTE, strict=True):
    if name != "KalmanGuide":
        below = torch.bincount(result.ranks["z[0, 0]"], minlength=L + 1).cumsum(0)[:-1] / REPLICATES
        style = "--" if name == "mean-field" else "-"
        axis.step(at, below - at, style, where="mid", color=color, label=name)
axis.set(xlabel="rank of the truth / (L + 1)", ylabel="distribution − uniform")
axis.legend(fontsize=8, loc="center left", bbox_to_anchor=(1, 0.5))
show(figure, "calibration curves of right and wrong posteriors")

# %% [markdown]
# ## Why log p(x | z)
#
# A guide that never looks at $x$ and draws from the prior passes for every $h$ of z alone: then truth and
# draws are from the same prior. Only an $h$ that looks at $x$ as well can tell.


# %%
def prior(x):
    with pyro.plate("batch", len(x), dim=-1):
        return pyro.sample("z", model.prior(x))


result = calibration(prior, target, z, chains=L)
print(result)
print({name: round(p, 3) for name, p in result.p_values.items()})
assert not result.passed
assert result.worst == "log p(x | z)"
assert min(p for name, p in result.p_values.items() if name != "log p(x | z)") > 0.001

# %% [markdown]
# ## How far, in nats
#
# A test says yes or no. A distance is the gap of the bound, $\log p(x) - \mathrm{ELBO} = \mathrm{KL}\big(q(z
# \mid x)\ \|\ p(z \mid x)\big)$, in nats per sequence. For the mean-field guide it has a closed form,
# $\frac12 \big(\sum_t \log\det P_{tt} - \log\det P\big)$, with P the precision of the posterior.

# %%
particles = 200 if SMOKE else 1000
exact_gap = evidence_gap(model, dense(), x[:50], particles=particles)
gap = evidence_gap(model, mean_field, x[:50], particles=particles)
P = joint.precision
blocks = P.view(T, D, T, D).diagonal(dim1=0, dim2=2).movedim(-1, 0)
formula = 0.5 * float(torch.logdet(blocks).sum() - torch.logdet(P))
print(f"exact: {exact_gap}\nmean-field: {gap}\nby the formula: {formula:.4f} nats")
assert exact_gap.gap.abs().max() < 1e-8
assert abs(gap.gap.mean() - formula) < 5 * gap.error.square().sum().sqrt() / 50

# %% [markdown]
# ## How far, in standard errors
#
# A sampler has no density, so it has no ELBO. Where the moments are known, count how many standard errors its
# draws are away from them: one number from each of 1000 independent chains. Hamiltonian Monte Carlo corrects
# the error that its steps make, by rejection; Langevin does not, and ours takes bold ones. Both start at
# exact draws, so whatever is wrong at the end they have made themselves.

# %%
STEPS = 40 if SMOKE else 100
mean, covariance = kalman_posterior(parameters, x[:1])
worst = {}
for name, engine in (
    ("HMC", BatchedHMC(step_size=0.1, leapfrogs=8, acceptance="joint", warmup=STEPS // 2)),
    ("Langevin", Langevin(step_size=0.036, precondition=False, temperature=1.0)),
):
    one = Target(model, None, (x[:1],), reach=model.reach)
    state = engine.init(one, kalman.sample(parameters, x[:1], draws=1000))
    for _ in range(STEPS):
        state, _ = engine.step(one, state)
    errors = posterior_errors(state.z.detach(), mean, covariance)
    worst[name] = errors.worst
    print(f"{name}: {errors}")
assert worst["HMC"] < 5 < worst["Langevin"]

# %% [markdown]
# ## A model that is used
#
# Now the shipped VAE of speech and its encoder: 513 bins, D = 16, no posterior known. It was trained to be
# good, not to be calibrated. We draw frames from the model, and ask.

# %%
run = load_run("vae")
z_speech, s = run.model.generate(frames=1, batch=48 if SMOKE else 100)
speech = Target(run.model, run.guide, (s,), reach=run.model.reach)
encoder = calibration(run.guide, speech, z_speech, chains=31)
print(encoder)
print(evidence_gap(run.model, run.guide, s[:20], particles=200))
assert not encoder.passed

# %% [markdown]
# The truth explains the data better than nearly all that the encoder draws. The remedy needs no training:
# start a kernel that is exact at the encoder's draws. (For a VAE, MALA may accept every frame on its own,
# [tutorial 8](08_write_your_own_kernel.py).)

# %%
STEPS = 10 if SMOKE else 160
mended = Chain((Encoder(), MALA(warmup=STEPS // 2)), (1, STEPS))
by_mala = calibration(mended, speech, z_speech, chains=31, warmup=STEPS)
print(by_mala)
assert SMOKE or by_mala.passed

# %% [markdown]
# One thing none of this can say: whether the *model* is right. All truths were drawn from it. On recordings
# of the world a posterior can be calibrated to the wrong model and still be wrong; there only held-out data
# and forecasts can tell ([tutorial 1](01_a_dynamical_vae_in_forty_lines.py), exercise 3).
#
# ## Exercises
#
# **Exercise 1.** Calibration in plain words: how many of the 90 % intervals of $z_{4,0}$ hold the truth, for
# the exact and for the mean-field posterior? Predict the second number from the two standard deviations.

# %% tags=["hide-cell"]
# Solution of exercise 1: both are Gaussian about the exact mean, so the coverage is P(|N(0, 1)| < 1.645 r),
# where r is the ratio of the two standard deviations.
exact_sd = covariance[0, 4 * D, 4 * D].sqrt()
field_sd = torch.linalg.inv(blocks[4])[0, 0].sqrt()
centre = kalman.smooth(parameters, x).means[:, 4, 0]
normal = torch.distributions.Normal(0.0, 1.0)
for name, sd in (("exact", exact_sd), ("mean-field", field_sd)):
    held = ((z[:, 4, 0] - centre).abs() < 1.645 * sd).double().mean()
    predicted = 2 * normal.cdf(1.645 * sd / exact_sd) - 1
    print(f"{name}: 90 % intervals hold {100 * held:.0f} %, predicted {100 * predicted:.0f} %")
    assert abs(held - predicted) < 4 * (0.25 / REPLICATES) ** 0.5
assert field_sd < 0.8 * exact_sd

# %% [markdown]
# **Exercise 2.** Fit Pyro's `AutoNormal` to the very $x$ of the replicates, and test it. (It is not
# amortised: it holds a mean and a spread for every replicate. Make and run it inside `local_parameters()`.)

# %% tags=["hide-cell"]
# Solution of exercise 2: independent in every number, so even narrower than frames that are independent.
with local_parameters():
    auto = AutoNormal(model)
    auto(x)  # its parameters are made at the first call
    optimiser = torch.optim.Adam(auto.parameters(), 0.1)
    loss_of = Trace_ELBO()
    for _ in range(40 if SMOKE else 200):
        optimiser.zero_grad()
        loss_of.differentiable_loss(model, auto, x).backward()
        optimiser.step()
    fitted = calibration(auto, target, z, chains=L)
print(fitted)
assert not fitted.passed

# %% [markdown]
# **Exercise 3.** A posterior is 3 % too narrow. How many replicates does it take to notice?

# %% tags=["hide-cell"]
# Solution of exercise 3: a test that is passed says that the error is small, not that there is none.
sizes = (100, 200) if SMOKE else (100, 400, 1600)
p_values = []
for B in sizes:
    truths, data = model.generate(frames=T, batch=B)
    p_values.append(calibration(dense(width=0.97), Target(model, None, (data,)), truths, chains=31).p_value)
    print(f"{B} replicates: p = {p_values[-1]:.4f}")
assert SMOKE or p_values[-1] < 0.001 < p_values[0]

# %% [markdown]
# ## Where to go on
#
# `docs/checks.md` has the tests in detail, and how they are tested. The same for kernels: [tutorial
# 8](08_write_your_own_kernel.py).
