"""Quantisers with straight-through gradients: what the low-bit papers put into the forward pass of a training network."""

# pyright: reportMissingImports=false
# torch comes with the extra `train`.

from __future__ import annotations

import torch
from torch import Tensor, nn

__all__ = ["LearnedStep", "WeightScale", "bit8", "sign", "softmax_aware", "straight_through", "ternary"]


def straight_through(value: Tensor, source: Tensor) -> Tensor:
    """``value`` forward, the gradient of ``source`` backward."""
    return source + (value - source).detach()


def sign(x: Tensor) -> Tensor:
    """-1 or +1, sign(0) = +1; the gradient passes where ``|x| < 1``."""
    return straight_through(torch.where(x >= 0, 1.0, -1.0), x.clamp(-1, 1))


def ternary(weight: Tensor) -> Tensor:
    """Ternary weight networks (Li et al., 2016), per output channel: threshold 0.7 mean|w|, scale the mean of |w| above it."""
    size = weight.abs()
    kept = (size > 0.7 * size.mean(1, keepdim=True)).to(weight.dtype)
    scale = (size * kept).sum(1, keepdim=True) / kept.sum(1, keepdim=True).clamp(min=1)
    return straight_through(scale * kept * weight.sign(), weight)


def bit8(x: Tensor) -> Tensor:
    """8 bits over the range of the batch, asymmetric."""
    low, high = x.detach().amin().clamp(max=0), x.detach().amax().clamp(min=0)
    step = ((high - low) / 255).clamp(min=1e-8)
    return straight_through((x / step).round() * step, x)


def softmax_aware(weights: Tensor) -> Tensor:
    """BiViT (He et al., ICCV 2023): 1 where a weight is at least a quarter of its row's greatest; the gradient goes on to the softmax."""
    return straight_through((weights >= weights.amax(-1, keepdim=True) / 4).to(weights.dtype), weights)


class WeightScale(nn.Module):
    """Binary weights ``scale * sign(w)``, one scale an output channel.

    Parameters
    ----------
    weight : Tensor
        Where the scale begins: the mean of |w| of each row.
    learned : bool
        BiViT's parameterised weight scale; otherwise the scale follows the weights.
    centred : bool
        The mean of a row is taken off first (BiViT, BiBERT).
    """

    def __init__(self, weight: Tensor, *, learned: bool, centred: bool) -> None:
        super().__init__()
        self.centred = centred
        self.scale = nn.Parameter(self._centre(weight.detach()).abs().mean(1)) if learned else None

    def _centre(self, weight: Tensor) -> Tensor:
        return weight - weight.mean(1, keepdim=True) if self.centred else weight

    def current(self, weight: Tensor) -> Tensor:
        """Scale (outputs,)."""
        return self._centre(weight).abs().mean(1) if self.scale is None else self.scale

    def forward(self, weight: Tensor) -> tuple[Tensor, Tensor]:
        """Signs (outputs, inputs) and scale (outputs,) of a weight."""
        centred, scale = self._centre(weight), self.current(weight)
        signs = straight_through(torch.where(centred >= 0, 1.0, -1.0), centred / scale.detach().abs().clamp(min=1e-8)[:, None])
        return signs, scale


class LearnedStep(nn.Module):
    """LSQ (Esser et al., 2020): ``step * clip(round(x / step))`` with a learned step, optionally one for each place of one dimension.

    Parameters
    ----------
    bits : int
    signed : bool
        -2**(bits-1) .. 2**(bits-1) - 1, or 0 .. 2**bits - 1.
    shape : tuple of int
        Of the step, that it broadcasts to x; it begins from the first x it sees.
    """

    def __init__(self, bits: int, *, signed: bool, shape: tuple[int, ...] = ()) -> None:
        super().__init__()
        self.low, self.high = (-(1 << bits - 1), (1 << bits - 1) - 1) if signed else (0, (1 << bits) - 1)
        self.step = nn.Parameter(torch.ones(shape))
        self.register_buffer("begun", torch.tensor(False), persistent=False)
        self.begun: Tensor

    def forward(self, x: Tensor) -> Tensor:
        """The quantised x."""
        if not self.begun:
            over = [d for d in range(x.ndim) if x.ndim - d > self.step.ndim or self.step.shape[d - x.ndim] == 1]
            mean = x.detach().abs().mean(over, keepdim=True).reshape(self.step.shape)
            self.step.data = (2 * mean / max(self.high, 1) ** 0.5).clamp(min=1e-5)
            self.begun.fill_(True)
        # The gradient of the step is scaled down as in the paper.
        factor = (x.numel() / max(1, self.step.numel()) * max(self.high, 1)) ** -0.5
        step = self.step.abs().clamp(min=1e-6)
        step = straight_through(step, step * factor)
        scaled = (x / step).clamp(self.low, self.high)
        return straight_through(scaled.round(), scaled) * step
