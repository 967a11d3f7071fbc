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
# # Forecasting real sequences, with uncertainty
#
# Dynamical VAEs are not only for speech. Here one learns how a pendulum swings from noisy recordings
# of it, and then says what comes next and how sure it is. After that, a linear oscillator: its
# posterior and its forecast are known exactly, so we can see how close a learned guide comes.
#
# It takes a minute or two; `PYRODVAE_SMOKE=1` in the environment makes it a quick rehearsal.

# %%
import torch
from pyro.infer import Trace_ELBO

from pyrodvae import kalman, make_guide, models
from pyrodvae.plots import new_figure
from pyrodvae.program import local_parameters
from pyrodvae.sequences import FitConfig, fit, forecast, reconstruct
from pyrodvae.simulate import oscillator, pendulum
from pyrodvae.teaching import PALETTE, show, smoke

SMOKE = smoke()
EPOCHS = 2 if SMOKE else 60
_ = torch.manual_seed(0)

# %% [markdown]
# ## The data
#
# An array `x` of shape (N, T, F): N recordings, T frames each, F numbers per frame. Ours are the sine
# and the cosine of the pendulum's angle, ten times per second, with noise of 0.1 on each. Nobody
# measures the speed, small kicks come at random, and a wide swing takes longer than a narrow one.

# %%
FRAMES, PAST = 90, 60
x = pendulum(20 if SMOKE else 200, 60, seed=1)
test = pendulum(10 if SMOKE else 100, FRAMES, seed=2)
past, future = test[:, :PAST], test[:, PAST:]
print("train on", tuple(x.shape), "and forecast", tuple(future.shape), "from", tuple(past.shape))

# %% [markdown]
# ## Five lines
#
# The deep Kalman filter (`DKF`) has a latent state z_t with D = 4 that follows from z_{t-1}, and x_t
# follows from z_t. The guide `"smoother"` is an inference network that sees the whole recording. The
# weight of the KL term rises over the first ten epochs: so the states first learn to tell recordings
# apart, and then to follow from each other.

# %%
model = models.DKF(observed=2, latent=4, hidden=32, data="real")
guide = make_guide(model, "smoother", hidden=32)
history = fit(model, guide, x, FitConfig(epochs=EPOCHS, frames=30, warmup=10))
back = reconstruct(model, guide, past)
draws = forecast(model, guide, past, frames=FRAMES - PAST, draws=200)

# %% [markdown]
# `back` is a distribution with a mean and a spread per frame. `draws` is (S, B, H, F): 200 whole
# futures for each recording. Anything can be read off them: a mean, a quantile, the chance that the
# pendulum is on the left in one second.

# %%
print(f"validation loss {history[0]['val_loss']:.2f} -> {history[-1]['val_loss']:.2f} nats per frame")
noise = (back.mean - past).square().mean().sqrt()
print(f"reconstruction: off by {noise:.3f} (the noise is 0.1), and the model says {back.stddev.mean():.3f}")
left = (draws[..., 10, 0] < 0).float().mean(0)
right = ((left < 0.5) == (future[:, 10, 0] > 0)).float().mean()
print(f"left or right in 1.1 seconds: right {100 * right:.0f} % of the time")

# %% [markdown]
# ## Is it any good?
#
# Forecasts to beat: *persistence* says that everything stays as it was in the last frame; the *mean* of
# the training data ignores the past; a frame-wise `VAE` has no dynamics, so it can do no better than the
# mean. The serious one is `Kalman`, a linear state space with as many latents, fitted by EM: what a DKF
# gains over it is what it has learned of the pendulum that is not linear. Any causal model can take the
# place of the DKF; `SRNN` also feeds x_{t-1} back.


# %%
def error(guess):
    """Root mean square error of a forecast at each frame ahead."""
    return (guess - future).square().mean((0, 2)).sqrt()


errors = {"DKF": error(draws.mean(0))}
for name in ("SRNN", "VAE"):
    other = models.MODELS[name.lower()](observed=2, latent=4, hidden=32, data="real")
    other_guide = make_guide(other, hidden=32)
    fit(other, other_guide, x, FitConfig(epochs=EPOCHS, frames=30))
    errors[name] = error(forecast(other, other_guide, past, FRAMES - PAST).mean(0))

linear = models.Kalman(observed=2, latent=4).double()
linear.fit_statistics(x.double())
linear.assign(kalman.em(linear.exact(), x.double(), iterations=5 if SMOKE else 200)[0])
errors["Kalman"] = error(forecast(linear, make_guide(linear), past, FRAMES - PAST).mean(0))
errors["persistence"] = error(past[:, -1:])
errors["mean"] = error(x.mean((0, 1)))

for name, e in errors.items():
    print(f"{name:12s}", "  ".join(f"{h:2d} ahead {e[h - 1]:.3f}" for h in (1, 5, 10, 20, 30)))

# %% [markdown]
# A forecast is honest when its 90 % intervals hold 90 % of what then happens.

# %%
for level in (0.5, 0.9):
    low, high = draws.quantile(torch.tensor([(1 - level) / 2, (1 + level) / 2]), 0)
    inside = ((low <= future) & (future <= high)).float().mean()
    print(f"{100 * level:.0f} % intervals hold {100 * inside:.0f} % of the future")

# %% [markdown]
# ## Where the truth is known: a linear oscillator
#
# `oscillator` draws from a linear-Gaussian model and hands it out. `Kalman` is that model as a Pyro
# program, and its guide is the exact posterior: computed, not learned. Beside it we train a network
# guide on the same, fixed model. What the network misses shows twice: in nats (the gap of its bound to
# the evidence is the KL divergence of its posterior from the exact one), and in the plot below.

# %%
y, parameters = oscillator(20 if SMOKE else 200, 60, seed=1)
unseen, _ = oscillator(20, FRAMES, seed=2)
known = models.Kalman(observed=1, latent=2).double()
known.assign(parameters)
known.requires_grad_(False)
exact_guide = make_guide(known)
learned_guide = make_guide(known, "smoother", hidden=16).double()
_ = fit(known, learned_guide, y, FitConfig(epochs=EPOCHS, frames=60, batch_size=8), standardise=False)

# %%
start, rest = unseen[:, :PAST], unseen[:, PAST:]
evidence = kalman.filter(parameters, start).log_evidence.sum() / start.numel()
for name, g in {"exact": exact_guide, "learned": learned_guide}.items():
    with local_parameters():
        bound = -Trace_ELBO(num_particles=20).loss(known, g, start) / start.numel()
    print(f"{name:8s} bound {bound:.4f} nats per frame; the evidence is {evidence:.4f}")

# %% [markdown]
# The posterior of the position at each frame, its mean and its spread, by the smoother of the Kalman
# toolbox and by draws from the learned guide.

# %%
smoothed = kalman.smooth(parameters, start)
spread = smoothed.covariances[..., 0, 0].sqrt()
with torch.no_grad(), local_parameters():
    z = learned_guide.posterior(start).rsample((1000,))
difference = (z.mean(0) - smoothed.means)[..., 0]
print(f"means differ by {(difference / spread).square().mean().sqrt():.2f} of the exact spread")
print(f"spreads differ by {100 * (z.std(0)[..., 0] / spread - 1).abs().mean():.0f} %")

# %% [markdown]
# The forecast of the exact pair has only the error of finitely many draws:

# %%
truth = kalman.forecast(parameters, start, FRAMES - PAST)
ahead = forecast(known, exact_guide, start, FRAMES - PAST, draws=2000)
by_network = forecast(known, learned_guide, start, FRAMES - PAST, draws=2000)
scale = truth.covariances[..., 0].sqrt()
for name, f in {"exact": ahead, "learned": by_network}.items():
    off = ((f.mean(0) - truth.means) / scale).square().mean().sqrt()
    print(f"{name:8s} guide: the mean is off by {off:.3f} exact spreads, 1/√2000 = 0.022 is chance")

# %% [markdown]
# ## The picture


# %%
def bands(axis, t, draws, color):
    """Median, 50 % and 90 % intervals of draws (S, T)."""
    levels = torch.tensor([0.05, 0.25, 0.5, 0.75, 0.95], dtype=draws.dtype)
    q = draws.quantile(levels, 0)
    axis.fill_between(t, q[0], q[4], color=color, alpha=0.2, linewidth=0)
    axis.fill_between(t, q[1], q[3], color=color, alpha=0.3, linewidth=0, label="50 % and 90 %")
    axis.plot(t, q[2], color=color, label="median")


figure = new_figure(10, 6.4)
top, middle, bottom = figure.subplots(3, 1)
beside = {"loc": "center left", "bbox_to_anchor": (1, 0.5), "fontsize": 8}
then, now = torch.arange(PAST), torch.arange(PAST, FRAMES)

top.plot(then, past[0, :, 0], "k.", markersize=3, label="observed")
top.plot(then, back.mean[0, :, 0], color=PALETTE[0], label="reconstructed")
bands(top, now, draws[:, 0, :, 0], PALETTE[1])
top.plot(now, future[0, :, 0], "kx", markersize=4, label="what came")
top.set(title="pendulum, sin θ: a DKF that was trained on others", xlim=(0, FRAMES))
top.legend(**beside)

styles = *((color, "-") for color in PALETTE[1:5]), ("k", ":"), ("k", "--")
for (name, e), (color, style) in zip(errors.items(), styles, strict=True):
    middle.plot(range(1, len(e) + 1), e, style, color=color, label=name)
middle.set(
    title="error of the forecast, by frames ahead", ylabel="error", ylim=(0, None), xlim=(1, FRAMES - PAST)
)
middle.legend(**beside)

bottom.plot(then, start[0, :, 0], "k.", markersize=3, label="observed")
mean, sd = smoothed.means[0, :, 0], spread[0]
bottom.fill_between(then, mean - 1.645 * sd, mean + 1.645 * sd, color=PALETTE[0], alpha=0.3, linewidth=0)
bottom.plot(then, mean, color=PALETTE[0], label="exact posterior, 90 %")
for edge in z[:, 0, :, 0].quantile(torch.tensor([0.05, 0.95], dtype=z.dtype), 0):
    bottom.plot(then, edge, "--", color=PALETTE[2], linewidth=1)
bottom.plot(then, z[:, 0, :, 0].mean(0), "--", color=PALETTE[2], linewidth=1, label="learned guide, 90 %")
bands(bottom, now, ahead[:, 0, :, 0], PALETTE[1])
bottom.plot(now, rest[0, :, 0], "kx", markersize=4, label="what came")
bottom.set(title="linear oscillator: the guide beside the exact posterior", xlabel="frame", xlim=(0, FRAMES))
bottom.legend(**beside)

show(figure, "forecast of a pendulum and of a linear oscillator")
