"""The same networks in plain torch: what a research script would write, one function per model.

Each returns mean and log-variance of q(z_t | ·) and of p(z_t | ·) along the drawn path, and the
log-variance of x; :func:`loss` makes the negative evidence lower bound of them.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

Terms = tuple[Tensor, Tensor, Tensor, Tensor, Tensor]


def draw(parameters: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """z, mean and log-variance."""
    mean, log_variance = parameters.chunk(2, -1)
    return mean + (0.5 * log_variance).exp() * torch.randn_like(mean), mean, log_variance


def log_power(p: Tensor, read: Any) -> Tensor:
    """The standardised log-power that encoders read."""
    return ((p + 1e-6).log() - read.loc) / read.scale


def log_variance(head: Any, h: Tensor) -> Tensor:
    """The decoder's last layer, around the mean spectrum."""
    return head.spectrum.loc + head.spectrum.scale * head.output(h)


def before(x: Tensor) -> Tensor:
    """Frames one step later, zeros first."""
    return torch.cat([torch.zeros_like(x[:, :1]), x[:, :-1]], 1)


def stack(*parts: list[Tensor]) -> list[Tensor]:
    """Lists of frames as sequences."""
    return [torch.stack(part, 1) for part in parts]


def backward(summary: Any, u: Tensor) -> Tensor:
    """An LSTM from the last frame to the first."""
    return summary.rnn(u.flip(1))[0].flip(1)


def vae(m: Any, g: Any, p: Tensor) -> Terms:
    """VAE: no loop."""
    z, mean, lv = draw(g.from_x(g.dense(log_power(p, g.read))))
    nothing = torch.zeros_like(mean)
    return mean, lv, nothing, nothing, log_variance(m.head, m.decoder(z))


def rvae_path(m: Any, g: Any, of_x: Tensor) -> list[Tensor]:
    """The encoder's loop of an RVAE, an LSTM over the draws: mean, log-variance and z."""
    cell, B = g.memory.rnn, len(of_x)
    z, h = of_x.new_zeros(B, m.latent), of_x.new_zeros(B, cell.hidden_size)
    c, means, lvs, zs = h, [], [], []
    for t in range(of_x.shape[1]):
        h, c = torch.lstm_cell(z, (h, c), *cell.all_weights[0])
        z, mean, lv = draw(of_x[:, t] + g.from_z(h))
        means.append(mean), lvs.append(lv), zs.append(z)
    return stack(means, lvs, zs)


def rvae(m: Any, g: Any, p: Tensor) -> Terms:
    """RVAE: the loop, and an LSTM over all draws in the decoder."""
    mean, lv, z = rvae_path(m, g, g.from_x(g.summary(log_power(p, g.read))))
    nothing = torch.zeros_like(mean)
    return mean, lv, nothing, nothing, log_variance(m.head, m.memory.rnn(z)[0])


def causal_rvae(m: Any, g: Any, p: Tensor) -> Terms:
    """As the RVAE, but its encoder reads backward alone, and its decoder's memory wants time first."""
    mean, lv, z = rvae_path(m, g, g.from_x(backward(g.summary, log_power(p, g.read))))
    nothing = torch.zeros_like(mean)
    h = m.memory.rnn(z.transpose(0, 1))[0].transpose(0, 1)
    return mean, lv, nothing, nothing, log_variance(m.head, h)


def dkf(m: Any, g: Any, p: Tensor) -> Terms:
    """DKF: the combiner in the loop, the gated transition on the whole path after it."""
    y = log_power(p, g.read)
    of_x = backward(g.summary, g.dense(y)) + g.from_x(y)
    z, means, lvs, zs = p.new_zeros(len(p), m.latent), [], [], []
    for t in range(p.shape[1]):
        z, mean, lv = draw(g.head(g.combined((g.from_z(z) + of_x[:, t]) / 3)))
        means.append(mean), lvs.append(lv), zs.append(z)
    mean, lv, z = stack(means, lvs, zs)
    z_prev, gated = before(z), m.gated
    gate, h = gated.gate(z_prev), gated.proposal(z_prev)
    prior_mean = (1 - gate) * gated.linear(z_prev) + gate * h
    prior_lv = torch.nn.functional.softplus(gated.spread(h.relu())).log()
    return mean, lv, prior_mean, prior_lv, log_variance(m.head, m.decoder(z))


def storn(m: Any, g: Any, p: Tensor) -> Terms:
    """STORN: no loop."""
    y = log_power(p, g.read)
    z, mean, lv = draw(g.head(g.combined(g.summary.rnn(g.dense(y))[0])))
    u = torch.cat([m.z_dense(z), m.x_dense(log_power(before(p), m.read))], -1)
    h = m.memory.rnn(u.transpose(0, 1))[0].transpose(0, 1)
    nothing = torch.zeros_like(mean)
    return mean, lv, nothing, nothing, log_variance(m.head, m.decoder(h))


def vrnn(m: Any, g: Any, p: Tensor) -> Terms:
    """VRNN: everything goes through the one memory, frame by frame."""
    fx, cell, B = m.x_dense(log_power(p, m.read)), m.memory.rnn, len(p)
    h = p.new_zeros(B, cell.hidden_size)
    c, means, lvs, hs, fzs = h, [], [], [], []
    for t in range(p.shape[1]):
        z, mean, lv = draw(g.tail(g.from_x(fx[:, t]) + g.from_h(h)))
        fz = m.z_dense(z)
        means.append(mean), lvs.append(lv), hs.append(h), fzs.append(fz)
        h, c = torch.lstm_cell(torch.cat([fx[:, t], fz], -1), (h, c), *cell.all_weights[0])
    mean, lv, h, fz = stack(means, lvs, hs, fzs)
    prior_mean, prior_lv = m.drift(h).chunk(2, -1)
    return mean, lv, prior_mean, prior_lv, log_variance(m.head, m.decoder(torch.cat([fz, h], -1)))


def srnn(m: Any, g: Any, p: Tensor) -> Terms:
    """SRNN: the memory of the frames first, then a loop over the draws."""
    y = log_power(p, m.read)
    u = m.dense(log_power(before(p), m.read))
    h = m.memory.rnn(u.transpose(0, 1))[0].transpose(0, 1)
    of_x = backward(g.summary, g.dense(torch.cat([h, y], -1)))
    z, means, lvs, zs = p.new_zeros(len(p), m.latent), [], [], []
    for t in range(p.shape[1]):
        z, mean, lv = draw(g.tail(g.from_g(of_x[:, t]) + g.from_z(z)))
        means.append(mean), lvs.append(lv), zs.append(z)
    mean, lv, z = stack(means, lvs, zs)
    prior_mean, prior_lv = m.drift(torch.cat([h, before(z)], -1)).chunk(2, -1)
    return mean, lv, prior_mean, prior_lv, log_variance(m.head, m.decoder(torch.cat([h, z], -1)))


def dsae(m: Any, g: Any, p: Tensor) -> Terms:
    """DSAE: w first, then all of z at once. (The KL term of w, which costs nothing, is left out.)"""
    y = g.dense(log_power(p, g.read))
    w = g.segment(y, None).rsample()[:, None].expand(-1, p.shape[1], -1)
    r = g.recursion.rnn(g.after(g.summary.rnn(g.joined(torch.cat([y, w], -1)))[0]))[0]
    z, mean, lv = draw(g.head(r))
    h = m.memory.rnn(before(z).transpose(0, 1))[0].transpose(0, 1)
    prior_mean, prior_lv = m.drift(h).chunk(2, -1)
    return mean, lv, prior_mean, prior_lv, log_variance(m.head, m.decoder(torch.cat([w, z], -1)))


def general(m: Any, g: Any, p: Tensor) -> Terms:
    """The general DVAE: a plain RNN of the encoder over frames and draws, one of the model."""
    y, y_prev = log_power(p, g.read), log_power(before(p), g.read)
    of_x, cell = backward(g.summary, y), g.memory.rnn
    z, h = p.new_zeros(len(p), m.latent), p.new_zeros(len(p), cell.hidden_size)
    means, lvs, zs = [], [], []
    for t in range(p.shape[1]):
        h = torch.rnn_tanh_cell(torch.cat([y_prev[:, t], z], -1), h, *cell.all_weights[0])
        z, mean, lv = draw(g.head(g.combined(torch.cat([h, of_x[:, t]], -1))))
        means.append(mean), lvs.append(lv), zs.append(z)
    mean, lv, z = stack(means, lvs, zs)
    u = torch.cat([log_power(before(p), m.read), before(z)], -1)
    h = m.memory.rnn(u.transpose(0, 1))[0].transpose(0, 1)
    prior_mean, prior_lv = m.drift(h).chunk(2, -1)
    return mean, lv, prior_mean, prior_lv, log_variance(m.head, m.decoder(torch.cat([z, h], -1)))


def transformer(m: Any, g: Any, p: Tensor) -> Terms:
    """The transformer, with the cache in the encoder's loop: the blocks themselves are ours."""
    of_x = g.from_x(g.summary(log_power(p, g.read)))
    z, cache, means, lvs, zs = p.new_zeros(len(p), m.latent), None, [], [], []
    for t in range(p.shape[1]):
        a, cache = g.past(z[:, None], cache)
        z, mean, lv = draw(g.head((of_x[:, t] + g.from_z(a[:, 0])).tanh()))
        means.append(mean), lvs.append(lv), zs.append(z)
    mean, lv, z = stack(means, lvs, zs)
    prior_mean, prior_lv = m.drift(m.past(before(z))[0]).chunk(2, -1)
    return mean, lv, prior_mean, prior_lv, log_variance(m.head, m.decoder(z)[0])


PLAIN = {
    "vae": vae,
    "dkf": dkf,
    "storn": storn,
    "vrnn": vrnn,
    "srnn": srnn,
    "rvae": rvae,
    "rvae-causal": causal_rvae,
    "dsae": dsae,
    "dvae": general,
    "transformer": transformer,
}


def loss(key: str, m: Any, g: Any, x: Tensor) -> Tensor:
    """The negative evidence lower bound of complex spectra x (B, T, F), in nats."""
    p = x.real.square() + x.imag.square()
    mean, lv, prior_mean, prior_lv, y = PLAIN[key](m, g, p)
    v = y.exp() + 1e-6
    nll = (v.log() + p / v + math.log(math.pi)).sum()
    kl = 0.5 * (prior_lv - lv - 1 + (lv.exp() + (mean - prior_mean).square()) / prior_lv.exp()).sum()
    return nll + kl
