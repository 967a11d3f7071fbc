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
# # 3 · Markov blankets and conditional independence
#
# **You will be able to**
#
# - read a Markov blanket off a graph, and prove it right with numbers;
# - decide by d-separation who tells of whom, and name the trail if somebody does;
# - derive the form of the exact posterior of any dynamical VAE, and why no guide needs to see more;
# - do all of that for a Pyro program of your own.
#
# *Runs in half a minute on two cores; with `PYRODVAE_SMOKE=1` in the environment, in seconds. You need
# conditional probability; Pyro only at the end.*

# %%
import itertools
from inspect import signature

import pyro
import pyro.distributions as dist
import torch
from pyro.infer.inspect import get_dependencies

from pyrodvae import MODELS
from pyrodvae.graph import Graph, blankets, generative, graph_of, posterior, trace_graph
from pyrodvae.graph_drawing import plot_graph
from pyrodvae.graph_page import write_page
from pyrodvae.plots import new_figure
from pyrodvae.teaching import show, smoke

_ = torch.manual_seed(0)

# %% [markdown]
# ## The example of the lecture
#
# An arrow says: this distribution looks at that variable. With an arrow into each variable from its
# parents, the joint distribution is the product of the conditionals,
#
# $$ p(A, B, \dots) = \prod_v p(v \mid \mathrm{parents}(v)). $$
#
# Ten variables, written as each variable with its parents:

# %%
lecture = Graph(
    {"C": "", "D": "", "G": "", "A": "C", "B": "D", "F": "A", "E": "AB", "J": "G", "I": "EJ", "H": "I"}
)
print(lecture)
show(plot_graph(lecture, blanket_of="E", title="The Markov blanket of E"), "the Markov blanket of E")

# %% [markdown]
# The **Markov blanket** of E is the least set that makes E independent of everything else:
#
# $$ p(E \mid \text{all others}) = p(E \mid \mathcal B(E)). $$
#
# To find it, look at where E appears in the product: in its own factor $p(E \mid A, B)$, with its
# *parents*; and in the factor of its child, $p(I \mid E, J)$, with the *child* and the child's other
# parent, the *co-parent* J. All other factors cancel in Bayes' rule.

# %%
print(
    "parents", lecture.parents("E"), " children", lecture.children("E"), " co-parents", lecture.coparents("E")
)
assert set(lecture.markov_blanket("E")) == {"A", "B", "I", "J"}

# %% [markdown]
# Do not believe the graph: check it with numbers. Let every variable be Gaussian, $v = \sum_u w_{vu}\, u +
# ε_v$, with any weights on the arrows. The precision matrix of the joint is $K = (I - W)^⊤ (I - W)$, and
# for a Gaussian, $p(E \mid \text{others})$ looks at $u$ if and only if $K_{Eu} \ne 0$. So row E of $K$ is
# the blanket:

# %%
names = lecture.nodes
W = torch.zeros(len(names), len(names), dtype=torch.double)
for parent, child in lecture.arrows:
    W[names.index(child), names.index(parent)] = 0.5 + torch.rand(())
eye = torch.eye(len(names), dtype=torch.double)
K = (eye - W).mT @ (eye - W)
covariance = torch.linalg.inv(K)

for i, node in enumerate(names):
    by_numbers = {other for j, other in enumerate(names) if j != i and abs(K[i, j]) > 1e-12}
    assert by_numbers == set(lecture.markov_blanket(node)), node
print("the precision matrix and the graph agree on the blankets of all", len(names), "variables")

figure = new_figure(4.6, 3.8)
axis = figure.subplots()
image = axis.imshow(K.abs().numpy(), cmap="cividis")
axis.set_xticks(range(len(names)), names)
axis.set_yticks(range(len(names)), names)
axis.set(title="|precision|: who is in whose blanket", xlabel="variable", ylabel="variable")
figure.colorbar(image, label="no unit")
show(figure, "the precision matrix shows the blankets")

# %% [markdown]
# ## Who tells of whom: d-separation
#
# Two variables tell of each other if there is an open *trail* between them, along arrows in either
# direction. Three cases decide about a variable in the middle of a trail:
#
# | in the middle | not given | given |
# |---|---|---|
# | chain → v → | open | closed |
# | fork ← v → | open | closed |
# | collider → v ← | closed | **open**, also if a descendant of v is given |
#
# The last one is *explaining away*. A and J are causes of I that have nothing to do with each other. Once
# we know I (or H, which tells of I), one explains it, and the other becomes less needed.

# %%
for given in ([], ["I"], ["H"], ["E", "H"]):
    trail = lecture.open_trail("A", "J", given)
    print(f"A and J, given {' and '.join(given) or 'nothing'}:", trail.sentence() if trail else "separated.")
trail = lecture.open_trail("A", "J", "H")
show(plot_graph(lecture, trail=trail, given="H"), "an open trail from A to J when H is given")

# %% [markdown]
# Again with numbers: what remains of the correlation of $a$ and $b$ when $S$ is known. d-separation
# promises that it is zero *whatever the weights*; and for weights drawn at random, it is zero *only* then.


# %%
def partial_correlation(a, b, given):
    """Correlation of two variables given others, of the Gaussian above."""
    where = [names.index(v) for v in (a, b, *given)]
    precision = torch.linalg.inv(covariance[where][:, where])
    return -precision[0, 1] / (precision[0, 0] * precision[1, 1]).sqrt()


asked = 0
for a, b in itertools.combinations(names, 2):
    others = [v for v in names if v not in (a, b)]
    for size in range(2 if smoke() else 4):
        for given in itertools.combinations(others, size):
            separated = lecture.d_separated(a, b, given)
            assert separated == (abs(partial_correlation(a, b, given)) < 1e-9)
            asked += 1
print(f"{asked} questions, and the graph answered all of them like the numbers")
before, after = partial_correlation("A", "J", []), partial_correlation("A", "J", ["H"])
print(f"correlation of A and J: {before:.3f}, and {after:.3f} given H")

# %% [markdown]
# ## From blankets to posteriors
#
# Now a dynamical VAE: the deep Kalman filter, $p(z_t \mid z_{t-1})\, p(x_t \mid z_t)$. `graph_of` finds its
# arrows by running the Pyro program and watching which values each distribution was computed from.

# %%
dkf = graph_of(MODELS["dkf"](observed=3, latent=2, hidden=4))
print(generative(dkf))
print("blanket of z_2:", dkf.markov_blanket("z_2"))
assert set(dkf.markov_blanket("z_2")) == {"z_1", "z_3", "x_2"}
show(plot_graph(dkf, blanket_of="z_2", title="Deep Kalman filter"), "the graph of a deep Kalman filter")

# %% [markdown]
# A blanket is what a Gibbs sampler needs, which moves one $z_t$ and keeps the others. A *guide* draws them
# one after another, and by the chain rule
#
# $$ p(z_{1:T} \mid x_{1:T}) = \prod_t p(z_t \mid z_{<t}, x_{1:T}). $$
#
# Here $z_{t+1}$ is not known yet when $z_t$ is drawn. What does $z_t$ depend on, of the things that *are*
# there? A variable can be left out if it is d-separated from $z_t$ by all the others. That is three lines:


# %%
def needed(graph, node, available):
    """The least part of what is available that p(node | available) depends on."""
    return {u for u in available if not graph.d_separated(node, u, set(available) - {u})}


observed = [f"x_{t}" for t in range(5)]
print("z_2 depends on", sorted(needed(dkf, "z_2", ["z_0", "z_1", *observed])))
assert needed(dkf, "z_2", ["z_0", "z_1", *observed]) == {"z_1", "x_2", "x_3", "x_4"}

# %% [markdown]
# $z_{t-1}$ blocks the way to the past, and nothing blocks the way to the future: $q(z_t \mid z_{t-1},
# x_{t:T})$. The package does this for all frames, and writes the pattern down for any T. Here are all its
# models. Cover the right side and try for yourself: when does the posterior of $z_t$ need all of $z_{<t}$?
# When the past of $x$?

# %%
forms = {}
for key, kind in MODELS.items():
    sizes = {"observed": 3, "latent": 2, "hidden": 4}
    graph = graph_of(kind(**{k: v for k, v in sizes.items() if k in signature(kind).parameters}))
    forms[key] = graph
    print(f"{key:12s} {generative(graph)}\n{'':12s} {posterior(graph)}")
    print(f"{'':12s} B(z_t) = {{{', '.join(blankets(graph, 'z').parts())}}}\n")

assert posterior(forms["dkf"])["z"].parts() == ("z_{t-1}", "x_{t:T}")
assert posterior(forms["vae"])["z"].parts() == ("x_t",)
assert posterior(forms["rvae"])["z"].parts() == ("z_{<t}", "x_{1:T}")

# %% [markdown]
# Two to look at twice:
#
# - `rvae`: the latents are *independent* a priori, $p(z_t) = \mathcal N(0, I)$. But every $x_t$ is a child
#   of all of them, a collider, and it is given: so a posteriori each tells of each.
# - `srnn`: with $x_{t-1} → z_t$ the past of $x$ comes in, although $z_{t-1}$ is known: those arrows bypass
#   it.
#
# ## A program of your own
#
# `trace_graph` takes any Pyro program. Say, the level of a recording in decibel: a speaker has a usual
# level, the microphone a gain, and the level drifts from frame to frame.


# %%
def recording(levels):
    speaker = pyro.sample("speaker", dist.Normal(60.0, 10.0))
    gain = pyro.sample("gain", dist.Normal(0.0, 5.0))
    noise = pyro.sample("noise", dist.LogNormal(0.0, 1.0))
    z = speaker
    for t, level in enumerate(levels):
        z = pyro.sample(f"z_{t}", dist.Normal(0.9 * z + 0.1 * speaker, 1.0))
        pyro.sample(f"x_{t}", dist.Normal(z + gain, noise), obs=level)


graph = trace_graph(recording, torch.tensor([55.0, 58.0, 61.0, 60.0]))
print(generative(graph))
print(posterior(graph))
print("blanket of gain:", graph.markov_blanket("gain"))
show(plot_graph(graph, blanket_of="gain"), "the graph of a recording and the blanket of its gain")

# %% [markdown]
# Speaker and gain are independent in the program, and no more once a frame is heard: a loud recording is a
# loud speaker *or* a high gain. A guide that draws them independently cannot be exact. And if somebody
# tells us all the $z$? Then the trail is closed.

# %%
heard = [f"x_{t}" for t in range(4)]
print(graph.open_trail("speaker", "gain", heard).sentence())
assert graph.d_separated("speaker", "gain")
assert not graph.d_separated("speaker", "gain", heard)
assert graph.d_separated("speaker", "gain", [*heard, *(f"z_{t}" for t in range(4))])

# %% [markdown]
# The same as a page to play with, in any browser: tap a variable to see its blanket, two to see whether
# they are separated, and let it set you exercises.

# %%
write_page(graph, "recording.html", title="The level of a recording")
print("written: recording.html")

# %% [markdown]
# ## Exercises
#
# **Exercise 1.** In the lecture's graph, what is the least that has to be given so that C tells nothing of
# H? And so that F tells nothing of E? Find out by hand, then ask `separator`.

# %% tags=["hide-cell"]
# Solution of exercise 1: C → A → E → I → H is the only trail, and any one on it closes it. From F to E
# there is one trail only, the fork F ← A → E: give A.
print("C from H:", lecture.separator("C", "H"), " F from E:", lecture.separator("F", "E"))
assert len(lecture.separator("C", "H")) == 1
assert all(lecture.d_separated("C", "H", v) for v in "AEI")
assert lecture.separator("F", "E") == ("A",)

# %% [markdown]
# **Exercise 2.** A guide may also draw the states of a deep Kalman filter *backward*, from the last to the
# first. What does $q(z_t \mid \cdot)$ have to see then? (`posterior` takes an order.)

# %% tags=["hide-cell"]
# Solution of exercise 2: the mirror image, z_{t+1} and the frames up to now. It is how a filter that runs
# forward is turned into draws of the whole path.
backward = posterior(dkf, tuple(reversed(dkf.latent)))
print(backward)
assert backward["z"].parts() == ("z_{t+1}", "x_{1:t}")

# %% [markdown]
# **Exercise 3.** A program that feeds earlier frames back: $p(z_t \mid x_{t-1})$. Write it twice: with the
# value that `pyro.sample("x_t", …, obs=…)` returns, and with the data themselves. Which graph is right, and
# how does the other one give itself away? What does Pyro's own `get_dependencies` say of $x_0 → z_1$?

# %% tags=["hide-cell"]
# Solution of exercise 3: the data are an argument like any other and carry no arrow; a note says so. Pyro's
# function is made for latent variables, and leaves out arrows that come from what is observed.


def feeding(x, returned):
    before = torch.tensor(0.0)
    for t in range(len(x)):
        z = pyro.sample(f"z_{t}", dist.Normal(before, 1.0))
        value = pyro.sample(f"x_{t}", dist.Normal(z, 1.0), obs=x[t])
        before = value if returned else x[t]


x = torch.tensor([0.3, -0.2, 1.0])
right, wrong = trace_graph(feeding, x, True), trace_graph(feeding, x, False)
print(right, "\n\n", wrong, sep="")
assert right.parents("z_1") == ("x_0",)
assert wrong.parents("z_1") == ()
assert wrong.notes
assert not right.notes
print(
    "Pyro says that z_1 depends on", dict(get_dependencies(feeding, (x, True))["prior_dependencies"]["z_1"])
)
assert "x_0" not in get_dependencies(feeding, (x, True))["prior_dependencies"]["z_1"]

# %% [markdown]
# ## Where to go on
#
# [Tutorial 4](04_swapping_guides.py) holds guides to what we found here, and says in nats what it costs to
# leave an arrow out.
