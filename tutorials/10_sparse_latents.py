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
# # 10 · Sparse latents: which atoms speak when
#
# **You will be able to**
#
# - say why a Gaussian latent cannot find the causes of data, and a sparse one can, and show it where the
#   truth is known;
# - derive the prior of the SDM-VAE: an energy for every coefficient, best in closed form, found by
#   alternating updates inside a Pyro guide;
# - integrate the energies out, and get Student's t;
# - measure sparsity, see which atoms speak when in speech, and say why a point estimate is refused.
#
# *Runs in a minute on two cores; with `PYRODVAE_SMOKE=1` in the environment, in seconds. You need the ELBO,
# and Pyro's sites ([tutorial 5](05_trace_replay_condition.py)).*

# %%
import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pyro
import torch
from pyro import poutine
from pyro.distributions import Normal
from pyro.infer import SVI, TraceMeanField_ELBO

from pyrodvae import EnhanceConfig, enhance, examples, make_guide, read_audio
from pyrodvae.atoms import mean_latents
from pyrodvae.energies import FreeEnergies, InverseGammaEnergies
from pyrodvae.metrics import hoyer
from pyrodvae.models.sdm_vae import SDMVAE
from pyrodvae.models.vae import VAE
from pyrodvae.models.vsc import VSC
from pyrodvae.objective import KLWeight, terms
from pyrodvae.plots import new_figure, spectrogram
from pyrodvae.program import local_parameters
from pyrodvae.signal import STFT, resample
from pyrodvae.synthesis import reconstruct, resynthesize
from pyrodvae.teaching import PALETTE, play, show, smoke
from pyrodvae.weights import Run

_ = torch.manual_seed(0)

# %% [markdown]
# ## Why sparse?
#
# Let data be made of few causes at a time: eight *atoms* of sixteen numbers, each frame a mixture of those
# that happen to be on, one in five.

# %%
F, CAUSES = 16, 8
truth = torch.nn.functional.normalize(torch.randn(F, CAUSES), dim=0)
loud = torch.randn(200, 10, CAUSES) * (torch.rand(200, 10, CAUSES) < 0.2)
x = loud @ truth.mT + 0.05 * torch.randn(200, 10, F)
print("x", tuple(x.shape), " atoms", tuple(truth.shape), f" speaking at a time: {CAUSES * 0.2}")

# %% [markdown]
# Can a VAE find them? Give it a linear decoder, $x_t \approx W z_t$, so that the columns of $W$ are its
# atoms. Its prior $\mathcal N(0, I)$ looks the same from all sides: for any rotation $R$, the model with $WR$
# has the same evidence. Nothing tells an atom from a mixture of atoms. (With a constant variance of x it
# is probabilistic PCA. A guide with independent coordinates does prefer axes, but orthogonal ones, and
# atoms need not be orthogonal.)
#
# A prior finds atoms only if it prefers its axes: few large coordinates to many small ones.
#
# ## An energy for every coefficient
#
# The sparsity-promoting dictionary model writes the code as a combination of a dictionary's columns, of unit
# norm, and gives each coefficient in each frame a variance of its own, its *energy*:
#
# $$
# z_t = D a_t, \qquad a_{tn} \mid γ_{tn} \sim \mathcal N(0, γ_{tn}), \qquad
# x_t \mid z_t \sim p_θ(x_t \mid z_t).
# $$
#
# Nothing is believed of γ: it is whatever makes the bound largest. For $q(a) = \mathcal N(μ, σ^2)$, and one
# coefficient,
#
# $$
# \mathrm{KL}(q \,\|\, p) = \tfrac12 \Big(\log\frac{γ}{σ^2} + \frac{μ^2 + σ^2}{γ} - 1\Big), \qquad
# \frac{\partial}{\partial γ} = 0 \;\Rightarrow\; γ = μ^2 + σ^2, \qquad
# \mathrm{KL} = \tfrac12 \log\Big(1 + \frac{μ^2}{σ^2}\Big).
# $$
#
# Compare the two prices of a mean that is not zero. A parabola punishes what is loud: better to spread it
# over many coefficients. A logarithm hardly asks more for twice as much, but a coefficient that is off
# costs nothing: better all in one.

# %%
mean = torch.linspace(-6, 6, 400)
figure = new_figure(6, 2.8)
axis = figure.subplots()
axis.plot(mean, 0.5 * mean.square(), color=PALETTE[1], label="VAE: ½ μ²")
axis.plot(mean, 0.5 * torch.log1p(mean.square()), color=PALETTE[0], label="best energy: ½ log(1 + μ²)")
axis.set(xlabel="mean μ, at σ = 1 (no unit)", ylabel="KL in nats", ylim=(-0.1, 6))
axis.legend(fontsize=8)
show(figure, "the price of a coefficient under two priors")

# %% [markdown]
# ## As a Pyro program
#
# The energies are a site `γ` in front of `z`, the site of the path. In the model its density is flat; in
# every guide it is a `Delta` at the best value for the q(a) at hand.

# %%
model = SDMVAE(F, 16, atoms=16, dense=(), dictionary="identity", data="real").double()
guide = make_guide(model, hidden=32).double()
data = x[:20].double()
model.fit_statistics(data)
guide.fit_statistics(data)
weights = [*model.parameters(), *guide.parameters()]

with local_parameters():
    sites = poutine.trace(guide).get_trace(data).nodes
    q = guide.posterior(data).draw_ahead()
print("sites of the guide:", [name for name, site in sites.items() if site["type"] == "sample"])

energies = sites["γ"]["value"]
assert torch.allclose(energies, q.mean.square() + q.variance)
_, kl = terms(model, guide, data)
by_formula = 0.5 * torch.log1p(q.mean.square() / q.variance).sum((-1, -2))
print("KL by Pyro's terms", kl[:3].tolist())
print("by the formula    ", by_formula[:3].tolist())
assert torch.allclose(kl, by_formula)

# %% [markdown]
# ### Is γ a constant or a function?
#
# γ depends on μ and σ, and so on the weights of the guide. The package says it as a number without history.
# Is the gradient then wrong? No: where γ is best, the bound has no slope in it (the envelope theorem). A
# guide asks `energies.of(q)` for γ, so let us say it in four ways.


# %%
@dataclass(frozen=True)
class Said(FreeEnergies):
    """γ as any function of the guide's q."""

    how: Callable

    def of(self, q):
        return self.how(q)


def loss(how):
    """Negative ELBO, the same draw each time."""
    guide.energies = Said(how)
    torch.manual_seed(1)
    with local_parameters():
        return TraceMeanField_ELBO().differentiable_loss(model, guide, data)


def gradient(how):
    return torch.cat([g.flatten() for g in torch.autograd.grad(loss(how), weights)])


def constant(γ):
    return lambda q: γ


def best(q):
    return q.mean.square() + q.variance


live, detached = gradient(best), gradient(lambda q: best(q).detach())
print(f"best γ: gradients differ by {(live - detached).norm() / live.norm():.1e} of their length")
assert torch.allclose(live, detached, rtol=1e-8, atol=1e-8)

live, detached = gradient(lambda q: best(q) + 1), gradient(lambda q: best(q).detach() + 1)
print(f"best γ + 1: by {(live - detached).norm() / live.norm():.1e}")
assert not torch.allclose(live, detached, rtol=1e-2)

# %% [markdown]
# ### Alternating updates
#
# So learning is a game of two players, who both climb the same bound: the networks take a gradient step
# with γ held; then γ jumps to its best with the networks held. We play it by hand. No jump may ever lower
# the bound.

# %%
optimiser = torch.optim.Adam(weights, 1e-2)
held = energies.detach()
rises = []
for _ in range(20):
    optimiser.zero_grad()
    loss(constant(held)).backward()
    optimiser.step()
    before = -float(loss(constant(held)).detach())
    with local_parameters():
        guide.energies = model.energies
        held = poutine.trace(guide).get_trace(data).nodes["γ"]["value"]
    rises.append(-float(loss(constant(held)).detach()) - before)
print(f"a jump of γ raises the bound by {min(rises):.3f} to {max(rises):.3f} nats")
assert min(rises) >= 0
assert loss(constant(2 * held)) > loss(constant(held))  # the control: twice the best is worse
guide.energies = model.energies

# %% [markdown]
# In the package the jump is inside the guide, so *a step of Pyro's `SVI`, as it is, is one round of the
# game*. That is all there is to training.
#
# Mind what the bound is now: γ is fitted to every frame, so it bounds a likelihood that is maximised over γ.
# It can be larger than a VAE's bound for that reason alone, and the two numbers do not compare.


# %%
def fit(model, x, steps, rate=1e-2, hidden=64, beta=1.0):
    """Fit a model and a new guide to x (B, T, F) by Pyro's SVI; β weighs the KL. Returns the guide."""
    pyro.clear_param_store()
    guide = make_guide(model, hidden=hidden)
    model.fit_statistics(x)
    guide.fit_statistics(x)
    cycle = {"max_lr": rate, "total_steps": steps + 1}
    schedule = pyro.optim.OneCycleLR(
        {"optimizer": torch.optim.Adam, "optim_args": {"lr": rate}, **cycle},
    )
    svi = SVI(model, guide, schedule, TraceMeanField_ELBO())
    for _ in range(steps):
        with KLWeight(beta):
            svi.step(x[torch.randint(len(x), (20,))])
        schedule.step()
    pyro.clear_param_store()
    return guide


# %% [markdown]
# ## Are the atoms found?
#
# Both models get sixteen columns for eight atoms that nobody has told them of: what do they do with the rest?
# We look at the cosine of every true atom with the column that is nearest to it.


# %%
def columns(model):
    """What coefficient n does to the mean of x, in the units of the data: (F, N)."""
    W = model.head.standard.scale[:, None] * model.head.output.weight[:F]
    return (W @ model.dictionary.matrix if isinstance(model, SDMVAE) else W).detach()


def means(model, guide, x):
    """The means of the guide, (B, T, N)."""
    return mean_latents(Run(model, guide, STFT(), {}), x)


planted = {
    "VAE": VAE(F, 16, dense=(), data="real"),
    "SDM-VAE": SDMVAE(F, 16, atoms=16, dense=(), dictionary="identity", data="real"),
}
cosines, spoken = {}, {}
somebody = (loud != 0).any(-1)  # frames in which an atom speaks
for name, one in planted.items():
    torch.manual_seed(1)
    a = means(one, fit(one, x, 50 if smoke() else 1500), x)
    C = columns(one)
    cosines[name] = (torch.nn.functional.normalize(C, dim=0).mT @ truth).abs()
    spoken[name] = (a * C.norm(dim=0)).square().mean((0, 1)).sqrt()
    found = cosines[name].amax(0)
    in_use = int((spoken[name] > 0.2).sum())
    loudest = spoken[name].argsort(descending=True)[:CAUSES]
    sparse = float(hoyer(a[..., loudest][somebody][:, None]).mean())
    print(f"{name:8s} columns in use: {in_use}, Hoyer {sparse:.2f}")
    print("         cosines", found.double().numpy().round(2).tolist())
print(f"truth    Hoyer {float(hoyer(loud[somebody][:, None]).mean()):.2f}")
assert smoke() or cosines["SDM-VAE"].amax(0).min() > 0.95
assert smoke() or cosines["VAE"].amax(0).mean() < 0.9

# %% [markdown]
# The atoms are there, all of them, and the columns that are not needed have fallen silent by themselves
# (*automatic relevance determination*). The *Hoyer measure* of a vector of length $k$ is $(\sqrt k -
# \|a\|_1/\|a\|_2)/(\sqrt k - 1)$: 0 if all coordinates are equally loud, 1 if one speaks alone, about a
# quarter for a Gaussian vector.
#
# We took it over the eight loudest columns, since a column that is off *for all frames* would count as
# sparse, and that is low rank: sparsity is few at a time, and others at another time. The VAE is at
# the quarter; the SDM-VAE is far above it and below the truth, as what is off in its means is small, not 0.

# %%
figure = new_figure(8, 3.4)
axes = figure.subplots(1, 2, sharey=True)
for axis, name in zip(axes, planted, strict=True):
    C = cosines[name]
    order = torch.argsort(C.argmax(1) - 100.0 * (spoken[name] > 0.2))
    image = axis.imshow(C[order].mT.numpy(), aspect="auto", cmap="Greys", vmin=0, vmax=1)
    axis.set(xlabel="column of the model, those in use first", xticks=range(0, 16, 5), title=name)
axes[0].set(ylabel="true atom")
figure.colorbar(image, ax=axes, label="cosine (no unit)")
show(figure, "true atoms and the columns of two models")

# %% [markdown]
# ## The hierarchical form
#
# A flat density cannot be drawn from: energies belong to a recording. The model says so itself.

# %%
try:
    model.generate(10)
    raise AssertionError("it should have been refused")
except ValueError as refusal:
    print(refusal)

# %% [markdown]
# If energies are random, $γ \sim \mathrm{InverseGamma}(α, β)$, they can be integrated out:
#
# $$ p(a) = \int \mathcal N(a; 0, γ)\, p(γ)\, dγ = \mathrm{StudentT}_{2α}\big(a; 0, \sqrt{β/α}\big). $$
#
# A peak, and heavy tails. Check it on a grid of $\log γ$, and by drawing from the model, with `hyper=(α, β)`.

# %%
law = InverseGammaEnergies(2.0, 0.5)
grid = torch.linspace(-18, 18, 8001).double()
prior = law.prior(torch.Size((len(grid), 1, 1)), None, grid).log_prob(grid.exp()[:, None, None])
a = torch.linspace(-4, 4, 101).double()
joint = Normal(0.0, (0.5 * grid).exp()).log_prob(a[:, None]) + prior + grid  # dγ = γ d log γ
integral = torch.trapezoid(joint.exp(), grid, dim=-1).log()
print(f"largest difference of log p(a): {(integral - law.marginal().log_prob(a)).abs().max():.1e}")
assert torch.allclose(integral, law.marginal().log_prob(a), rtol=1e-6)
assert not torch.allclose(integral, InverseGammaEnergies(2.1, 0.5).marginal().log_prob(a), rtol=1e-3)

random = SDMVAE(F, 16, atoms=16, dense=(), data="real", hyper=(2.0, 0.5))
with torch.no_grad(), local_parameters():
    draws, _ = random.generate(4, 200 if smoke() else 2000)
tail = torch.linspace(2, 200, 100_001).double()
heavy = 2 * float(torch.trapezoid(law.marginal().log_prob(tail).exp(), tail))
spread = math.sqrt(0.5)  # t with 4 degrees of freedom has twice the variance of its scale squared
light = math.erfc(2 / spread / math.sqrt(2))
share = float((draws.abs() > 2).float().mean())
error = math.sqrt(heavy * (1 - heavy) / draws.numel())
print(f"|a| > 2: {share:.4f} ± {error:.4f} of draws; Student's t {heavy:.4f}; a Gaussian as wide {light:.4f}")
assert abs(share - heavy) < 5 * error < abs(share - light)

figure = new_figure(6, 2.8)
axis = figure.subplots()
axis.hist(
    draws.flatten().numpy(), 80, range=(-4, 4), density=True, color=PALETTE[5], label="drawn from the model"
)
axis.plot(a, law.marginal().log_prob(a).exp(), color=PALETTE[0], label="Student's t")
axis.plot(
    a, Normal(0.0, spread).log_prob(a).exp(), "--", color=PALETTE[1], label="Gaussian of equal variance"
)
axis.set(xlabel="coefficient (no unit)", ylabel="density", yscale="log", ylim=(1e-4, 2))
axis.legend(fontsize=8)
show(figure, "the tails of a coefficient without its energy")

# %% [markdown]
# ## Speech
#
# The packaged sentence at other speeds is spoken by other people, so to say: on these we train, and look at
# the sentence itself. It is no corpus, and no result on speech at large. Three models with a code of 32: the
# VAE, and the sparse one with the identity for its dictionary, and with 64 atoms of an over-complete DCT. The
# KL is weighed by β = 5 for all; exercise 2 asks why.

# %%
clean, rate = read_audio(examples.clean())
stft, noise = STFT(), np.random.default_rng(0)
crops = []
for speed in (0.88, 1.12) if smoke() else (0.8, 0.88, 0.96, 1.04, 1.12, 1.2):
    voice = resample(clean, round(rate * speed), rate)
    voice = voice / abs(voice).max() + 1e-3 * noise.standard_normal(voice.shape).astype(np.float32)
    crops += stft(torch.from_numpy(voice))[0].split(40)[:-1]
crops = torch.stack(crops)
s = stft(torch.from_numpy(clean / abs(clean).max()))
top = float(20 * s.abs().max().log10())


def distance(run):
    """Root mean square difference of the level of a bin, in dB, over bins within 50 dB of the loudest."""
    level, again = (20 * v.abs().clamp(min=1e-6).log10() for v in (s, reconstruct(run, s)))
    return float((level - again)[level > top - 50].square().mean().sqrt())


def speech_models():
    torch.manual_seed(2)
    yield "VAE, 32", "vae", VAE(513, 32, 64)
    yield "SDM-VAE, identity, 32", "sdm-vae", SDMVAE(513, 32, 64, dictionary="identity")
    yield "SDM-VAE, DCT, 64", "sdm-vae", SDMVAE(513, 32, 64, atoms=64)


def compare(beta, steps):
    """Train all three; print and return the runs, and the sparsity of the means of each."""
    runs, sparsity = {}, {}
    for name, key, one in speech_models():
        runs[name] = Run(one, fit(one, crops, steps, rate=5e-3, beta=beta), stft, {"model": key})
        sparsity[name] = float(hoyer(mean_latents(runs[name], s)).mean())
        print(f"{name:22s} Hoyer {sparsity[name]:.2f}, off by {distance(runs[name]):.1f} dB")
    return runs, sparsity


runs, sparsity = compare(beta=5.0, steps=5 if smoke() else 400)
assert smoke() or sparsity["SDM-VAE, DCT, 64"] > sparsity["VAE, 32"] + 0.05

# %% [markdown]
# Sparser, and more so with more atoms (in one run, of one seed). Is it the better model? By the distance it
# is about as good, no more: what is won is a code that is easier to read.
#
# Which atoms speak when? Every row is a coefficient, in the order of their energy in this sentence; what is
# 40 dB under the loudest is white. (`pyrodvae.atoms.plot_atoms(run, s, path)` draws it for one run.)

# %%
figure = new_figure(8, 6.5)
seconds = clean.shape[-1] / rate
axes = figure.subplots(3, 1, sharex=True)
spectrogram(axes[0], s[0].abs(), seconds, top)
axes[0].set(xlabel="", ylabel="kHz", title="clean speech")
for axis, name in zip(axes[1:], ("VAE, 32", "SDM-VAE, DCT, 64"), strict=True):
    a = mean_latents(runs[name], s)[0]
    a = a[:, a.square().mean(0).argsort(descending=True)].abs()
    level = 20 * (a / a.max()).clamp(min=1e-6).log10()
    extent = (0, seconds, a.shape[-1], 0)
    image = axis.imshow(level.mT.numpy(), aspect="auto", extent=extent, cmap="Greys", vmin=-40, vmax=0)
    axis.set(ylabel="coefficient", title=name)
axes[2].set(xlabel="time in seconds")
figure.colorbar(image, ax=axes[1:], label="dB")
show(figure, "which atoms speak when")

play(clean, rate, "clean")
for name, run in runs.items():
    play(resynthesize(clean, rate, run), rate, f"resynthesised by {name}")

# %% [markdown]
# ## Exact zeros
#
# The sparse coefficients are small where they are off, not zero. *Variational sparse coding* (VSC) has
# exact zeros, by a prior of a spike and a slab, $z \sim α\, \mathcal N(0, 1) + (1 - α)\, δ_0$, and a guide
# of the same kind, with a probability $π(x)$ that a coordinate speaks. Its price: α has to be chosen, while
# energies are found; and a draw is a switch, through which no gradient goes, so the paper puts a steep
# sigmoid in its place. Exercise 3 tries it.
#
# ## Why a point estimate is refused
#
# Why not skip $q$, and climb $\log p(x, a \mid γ)$ in $a$ itself, with $γ = a^2$, the best for a point?
# Turn all coefficients down, and look:

# %%
frame = data[0, :1]
with torch.no_grad(), local_parameters():
    point = guide.posterior(data).draw_ahead().mean[0, :1]
bounded = InverseGammaEnergies(2.0, 0.5)


def log_joint(law, a):
    """log p(x | a) + log p(a | γ) + log p(γ) of one frame, γ the best for the point a."""
    γ = law.best(a.square())
    a_and_γ = Normal(0.0, γ.sqrt()).log_prob(a).sum() + law.prior(a.shape, None, a).log_prob(γ).sum()
    return float(a_and_γ + model.decode(model.dictionary(a), None).log_prob(frame).sum())


print("turned down by   nothing believed   inverse-Gamma")
ladder = []
with torch.no_grad(), local_parameters():
    for decades in range(0, 13, 3):
        a = point * 10.0**-decades
        ladder.append((log_joint(FreeEnergies(), a), log_joint(bounded, a)))
        print(f"{10.0**decades:10.0e}   {ladder[-1][0]:15.1f}   {ladder[-1][1]:15.1f}   nats")
free, hyper = zip(*ladder, strict=True)
per_decade = (free[-1] - free[-2]) / 3
print(f"{per_decade:.1f} nats per decade: 16 log 10 = {16 * math.log(10):.1f}, with no end")
assert abs(per_decade - 16 * math.log(10)) < 0.1
assert abs(hyper[-1] - hyper[-2]) < 0.1

# %% [markdown]
# $\mathcal N(a; 0, a^2) \propto 1/|a|$ is unbounded, so the highest point is *all zeros*, for any data: the
# maximum says nothing. A distribution q cannot fall into it: its entropy falls as fast as the density
# rises, the KL is ½ log(1 + μ²/σ²) ≥ 0, and the bound stays under $\mathbb E_q \log p(x \mid a)$. An
# inverse-Gamma keeps γ from zero. So engines that make point estimates are refused, unless there is one:

# %%
try:
    quick = EnhanceConfig(iterations=1)
    enhance(examples.noisy(), model=runs["SDM-VAE, DCT, 64"], engine="peem", config=quick)
    raise AssertionError("it should have been refused")
except ValueError as refusal:
    print(refusal)

# %% [markdown]
# ## Exercises
#
# **Exercise 1.** With the inverse-Gamma, the best γ is $(2β + \mathbb E_q[a^2]) / (2α + 3)$. Show it
# without calculus on paper: the slope of the bound in γ is zero there, and not at $\mathbb E_q[a^2]$. Which
# α and β give back the flat density?

# %% tags=["hide-cell"]
# Solution of exercise 1: the limit α → −1, β → 0, where γ^(−α−1) e^(−β/γ) is one for all γ.
square = torch.rand(5).double()


def slope(γ):
    γ = γ.clone().requires_grad_()
    of_a = -0.5 * (γ.log() + square / γ)
    of_γ = -(law.shape + 1) * γ.log() - law.rate / γ
    (found,) = torch.autograd.grad((of_a + of_γ).sum(), γ)
    return found


print("slopes:", slope(law.best(square)).abs().max().item(), slope(square).abs().min().item())
assert slope(law.best(square)).abs().max() < 1e-9 < 0.1 < slope(square).abs().min()
assert torch.allclose((2 * 1e-9 + square) / (2 * (-1 + 1e-9) + 3), square)

# %% [markdown]
# **Exercise 2.** Train the three speech models with β = 1, the evidence lower bound itself. What happens to
# the sparsity, and why? (How many nats is a frame of 513 bins, and how many a coefficient?)

# %% tags=["hide-cell"]
# Solution of exercise 2: the models are nearly level. A coefficient costs a few nats, ½ log(1 + μ²/σ²), where
# a frame has 513 bins to explain: any coefficient that helps a little is worth its price, so all are in use.
# Where fewer suffice, as with the planted atoms, β = 1 is enough; with little speech and short training it
# is not.
_, at_one = compare(beta=1.0, steps=5 if smoke() else 400)
assert smoke() or at_one["SDM-VAE, DCT, 64"] < sparsity["SDM-VAE, DCT, 64"]

# %% [markdown]
# **Exercise 3.** Train a VSC on the planted data, with α = 0.1, near the truth (8 · 0.2 of 16 speak), and
# with α = 0.9. How many coordinates of a draw of the guide are exactly zero? Are the atoms found?

# %% tags=["hide-cell"]
# Solution of exercise 3: the zeros are exact, and how many there are, and what is found, depends on α. With
# this seed six atoms of eight are found at 0.1, and fewer at 0.9; energies found all, with nothing to choose.
zeros = {}
for alpha in (0.1, 0.9):
    torch.manual_seed(1)
    spiky = VSC(F, 16, alpha=alpha, dense=(), data="real")
    its_guide = fit(spiky, x, 50 if smoke() else 1500)
    with torch.no_grad(), local_parameters():
        zeros[alpha] = float((its_guide.posterior(x).rsample() == 0).float().mean())
    nearest = (torch.nn.functional.normalize(columns(spiky), dim=0).mT @ truth).abs().amax(0)
    print(
        f"α = {alpha}: {100 * zeros[alpha]:.0f} % zeros, cosines {nearest.double().numpy().round(2).tolist()}"
    )
assert zeros[0.1] > zeros[0.9] > 0

# %% [markdown]
# ## Where to go on
#
# `docs/sparse.md` has the whole family: the same prior under a recurrent decoder, two Gaussians, a
# selector, and how γ joins the M-step in noise. A model of your own: [tutorial
# 12](12_a_model_of_your_own.py).
#
# **Sources.** Sadeghi & Magron, *A Sparsity-promoting Dictionary Model for Variational Autoencoders*
# (Interspeech 2022); Tipping, *Sparse Bayesian learning and the relevance vector machine* (2001); Tonolini,
# Jensen & Murray-Smith, *Variational Sparse Coding* (UAI 2020).
