"""Networks on windows of frames, and heads that return distributions."""

from __future__ import annotations

import itertools
from typing import Literal

import torch
from pyro.distributions import TorchDistribution
from torch import Tensor, nn

from pyrodvae.distributions import ComplexNormal, DiagonalNormal, power

POWER_FLOOR = 1e-6
"""Linear power, with speech scaled to a peak of one: under the noise of nearly every recording, so
it only keeps digital silence from sending a log-variance to minus infinity."""

State = tuple[Tensor, Tensor]


def shift(x: Tensor) -> Tensor:
    """The frame before: ``x_{t-1}`` for every t, zeros at the first; (..., T, F) → same."""
    return nn.functional.pad(x[..., :-1, :], (0, 0, 1, 0))


def reverse(x: Tensor, lengths: Tensor | None = None) -> Tensor:
    """Frames (axis -2) in reverse order, each sequence by its own length; padding stays in place."""
    if lengths is None:
        return x.flip(-2)
    t = torch.arange(x.shape[-2], device=x.device)
    end = lengths[..., None]
    order = torch.where(t < end, end - 1 - t, t)[..., None]
    return x.gather(-2, order.expand(x.shape))


def frame_mask(lengths: Tensor, frames: int) -> Tensor:
    """(B,) lengths → (B, T), True where a frame is real."""
    return torch.arange(frames, device=lengths.device) < lengths[..., None]


def mlp(sizes: list[int], activation: type[nn.Module] = nn.Tanh) -> nn.Sequential:
    """Dense layers with an activation after each; one size alone is the identity."""
    layers = [(nn.Linear(i, o), activation()) for i, o in itertools.pairwise(sizes)]
    return nn.Sequential(*(module for pair in layers for module in pair))


class Memory(nn.Module):
    """An LSTM that reads windows of any length and takes up where the last window ended.

    A window of one frame and a window of all frames share the parameters and give equal results, so
    a conditional written once runs both frame by frame and in one pass.

    Args:
        inputs, hidden: sizes I and H.

    Shapes: ``(u (..., L, I), state) -> (h (..., L, H), state)``; state is None at the start, else a
    pair (..., H).
    """

    def __init__(self, inputs: int, hidden: int) -> None:
        super().__init__()
        self.lstm = nn.LSTM(inputs, hidden)

    def forward(self, u: Tensor, state: State | None = None) -> tuple[Tensor, State]:
        """The hidden path on the window, and the state after it."""
        *batch, length, size = u.shape
        u = u.reshape(-1, length, size)
        h0, c0 = (
            (s.reshape(-1, self.lstm.hidden_size) for s in state)
            if state is not None
            else (torch.zeros(len(u), self.lstm.hidden_size, dtype=u.dtype, device=u.device),) * 2
        )
        if length == 1:  # the cell alone: a third of the cost of a whole LSTM call
            h, c = torch.lstm_cell(u[:, 0], (h0, c0), *self.lstm.all_weights[0])
            out = h[:, None]
        else:
            out, (h, c) = self.lstm(u.transpose(0, 1), (h0[None], c0[None]))
            out, h, c = out.transpose(0, 1), h[0], c[0]
        return out.reshape(*batch, length, -1), (h.reshape(*batch, -1), c.reshape(*batch, -1))


Direction = Literal["forward", "backward", "both"]


class Summary(nn.Module):
    """What an RNN over a whole sequence says at each frame about the past, the future, or both.

    Args:
        inputs, hidden: sizes I and H.
        direction: ``"forward"`` sees u_{1:t}, ``"backward"`` u_{t:T}, ``"both"`` all of it.

    Shapes: (..., T, I), lengths (...) → (..., T, ``size``), with size H, or 2H for both directions.
    A backward pass starts at each sequence's own last frame, so padding changes nothing.
    """

    def __init__(self, inputs: int, hidden: int, direction: Direction = "both") -> None:
        super().__init__()
        self.ahead = Memory(inputs, hidden) if direction != "backward" else None
        self.back = Memory(inputs, hidden) if direction != "forward" else None
        self.size = hidden * (2 if direction == "both" else 1)

    def forward(self, u: Tensor, lengths: Tensor | None = None) -> Tensor:
        """The summary of each frame."""
        if lengths is not None:
            lengths = lengths.expand(u.shape[:-2])
        parts = []
        if self.ahead is not None:
            parts.append(self.ahead(u)[0])
        if self.back is not None:
            parts.append(reverse(self.back(reverse(u, lengths))[0], lengths))
        return parts[0] if len(parts) == 1 else torch.cat(parts, -1)


class LogSpectrum(nn.Module):
    """The standardised log-power of each bin, and back: what encoders read and decoders write.

    .. math:: y_f = (\\log(|x_f|^2 + ε) - m_f) / r_f

    Encoders that read log-power train many times faster than on raw power, and a decoder that
    starts from the mean spectrum m has only the deviations to learn.

    Args:
        bins: F. Until :meth:`fit`, m = 0 and r = 1.
    """

    loc: Tensor
    scale: Tensor

    def __init__(self, bins: int) -> None:
        super().__init__()
        self.register_buffer("loc", torch.zeros(bins))
        self.register_buffer("scale", torch.ones(bins))

    def fit(self, x: Tensor) -> None:
        """Take m and r from a spectrogram (..., F) of training speech (complex)."""
        y = (power(x) + POWER_FLOOR).log().flatten(0, -2)
        self.loc.copy_(y.mean(0))
        self.scale.copy_(y.std(0).clamp(min=0.1))

    def forward(self, x: Tensor) -> Tensor:
        """Complex (..., F) → real (..., F), about zero mean and unit variance on speech."""
        return ((power(x) + POWER_FLOOR).log() - self.loc) / self.scale

    def variance(self, y: Tensor) -> Tensor:
        """The power that ``y`` stands for, bounded by the floor and e^20: linear power."""
        return torch.addcmul(self.loc, self.scale, y).clamp(max=20.0).exp() + POWER_FLOOR


def gaussian(parameters: Tensor) -> TorchDistribution:
    """A diagonal Gaussian, event (D,), from its mean and log-variance side by side, (..., 2D).

    The log-variance is kept within [-14, 6], which no posterior of a standardised latent leaves.
    """
    mean, log_variance = parameters.chunk(2, -1)
    return DiagonalNormal(mean, (0.5 * log_variance.clamp(-14.0, 6.0)).exp(), validate_args=False)


class SpectrumHead(nn.Module):
    """Features (..., I) → independent complex Gaussians, one per bin, event (F,)."""

    def __init__(self, inputs: int, bins: int) -> None:
        super().__init__()
        self.output = nn.Linear(inputs, bins)
        self.spectrum = LogSpectrum(bins)

    def forward(self, h: Tensor) -> TorchDistribution:
        """N_c(0, diag v(h)), v in linear power."""
        variance = self.spectrum.variance(self.output(h))
        return ComplexNormal(variance, validate_args=False).to_event(1)

    @torch.no_grad()
    def fit(self, x: Tensor) -> None:
        """Start from the mean power of each bin of x (..., F): there a constant v is optimal."""
        self.spectrum.fit(x)
        mean_power = power(x).flatten(0, -2).mean(0) + POWER_FLOOR
        self.output.bias.copy_((mean_power.log() - self.spectrum.loc) / self.spectrum.scale)


def standard_normal(like: Tensor) -> TorchDistribution:
    """N(0, I) of the shape of ``like``: made from its sizes alone, so that no value of it leaks in."""
    zeros = torch.zeros(like.shape, dtype=like.dtype, device=like.device)
    return DiagonalNormal(zeros, torch.ones_like(zeros), validate_args=False)
