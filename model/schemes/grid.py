"""Activations of few bits: scale and zero point of each head or of the tensor."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from .scheme import Grids

__all__ = ["Grid", "fit_grid", "fit_sqrt2", "fit_steps", "fit_thresholds"]

_FRACTIONS = np.concatenate([np.geomspace(0.05, 0.3, 8)[:-1], np.linspace(0.3, 1.0, 21)])
_SAMPLE = 1 << 14  # values of a head that decide its grid


@dataclass(frozen=True, kw_only=True)
class Grid:
    """``value = scale * (code - zero)`` with scale (G,) and zero (G,) integers, for G heads or for the tensor (G = 1).

    Codes are two's complement of ``bits``; of 1 bit -1 and +1: +1 where ``x / scale + zero >= 0``.
    """

    scale: NDArray[np.float64]
    zero: NDArray[np.int64]
    bits: int

    @property
    def low(self) -> int:
        """Least code."""
        return -(1 << (self.bits - 1))

    @property
    def high(self) -> int:
        """Greatest code."""
        return max(1, (1 << (self.bits - 1)) - 1)

    def quantize(self, x: NDArray) -> NDArray[np.float64]:
        """Codes of x (..., G, rows, channels), or of any shape for one group."""
        scale, zero = self._broadcast()
        if self.bits == 1:
            return np.where(x / scale + zero >= 0, 1.0, -1.0)
        return np.clip(np.rint(x / scale) + zero, self.low, self.high).astype(np.float64)

    def dequantize(self, codes: NDArray) -> NDArray[np.float64]:
        """Values of codes."""
        scale, zero = self._broadcast()
        return (codes - zero) * scale

    def fake(self, x: NDArray) -> NDArray[np.float64]:
        """The values nearest to x, as the scheme rounds."""
        return self.dequantize(self.quantize(x))

    def common_zero(self, name: str) -> int:
        """The zero point of all heads."""
        if len(set(self.zero.tolist())) > 1:
            raise ValueError(f"{name} has the zero points {self.zero.tolist()}; all heads of a layer must have the same")
        return int(self.zero[0])

    def columns(self, groups: int, channels: int) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
        """Scale and zero point of each of ``groups * channels`` columns."""
        repeats = groups * channels // len(self.scale)
        return np.repeat(self.scale, repeats), np.repeat(self.zero, repeats)

    def _broadcast(self) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
        return (self.scale[:, None, None], self.zero[:, None, None]) if len(self.scale) > 1 else (self.scale, self.zero)


def fit_grid(rule: Grids, x: NDArray, bits: int) -> Grid:
    """Grid of ``bits`` for what calibration saw: x (B, heads, rows, channels) of q, k or v, or any shape of a layer's input."""
    if rule is Grids.SIGN:
        return Grid(scale=np.ones(1), zero=np.zeros(1, np.int64), bits=bits)
    heads = x.shape[1] if rule in (Grids.MEAN, Grids.SYMMETRIC) and x.ndim == 4 else 1
    values = _by_head(x, heads)
    none = np.zeros(heads, np.int64)
    if rule is Grids.MEAN:
        return Grid(scale=_positive(np.abs(values).mean(axis=1)), zero=none, bits=bits)
    steps, least = (1 << bits) - 1, -(1 << (bits - 1))
    low, high = np.minimum(values.min(axis=1), 0), np.maximum(values.max(axis=1), 0)
    if rule is Grids.SYMMETRIC:
        largest = _positive(np.maximum(high, -low) / max(-least - 1, 1))
        candidates = [Grid(scale=fraction * largest, zero=none, bits=bits) for fraction in _FRACTIONS]
    else:
        scales = [_positive(fraction * (high - low) / steps) for fraction in _FRACTIONS]
        zeros = [np.clip(np.rint(-f * low / s), 0, steps).astype(np.int64) + least for f, s in zip(_FRACTIONS, scales, strict=True)]
        candidates = [Grid(scale=s, zero=z, bits=bits) for s, z in zip(scales, zeros, strict=True)]
    shaped = values[:, None] if heads > 1 else values
    errors = [np.square(grid.fake(shaped) - shaped).reshape(heads, -1).sum(axis=1) for grid in candidates]
    best = np.argmin(errors, axis=0), np.arange(heads)
    scale, zero = np.array([grid.scale for grid in candidates])[best], np.array([grid.zero for grid in candidates])[best]
    return Grid(scale=scale, zero=zero, bits=bits)


def fit_thresholds(weights: NDArray) -> NDArray[np.float64]:
    """Bi-ViT's scale ``a`` of each head, of least squared error of ``2 a [p >= a]``; weights (B, heads, rows, keys)."""
    values = _by_head(weights, weights.shape[1])
    candidates = [values.max(axis=1) / 2 * fraction for fraction in _FRACTIONS]
    errors = [np.square(np.where(values >= a[:, None], 2 * a[:, None], 0) - values).sum(axis=1) for a in candidates]
    return np.array(candidates)[np.argmin(errors, axis=0), np.arange(len(values))]


def fit_steps(weights: NDArray, bits: int) -> NDArray[np.float64]:
    """Q-ViT's step of each head for unsigned codes, of least squared error; weights (B, heads, rows, keys)."""
    values, high = _by_head(weights, weights.shape[1]), (1 << bits) - 1
    candidates = [values.max(axis=1) / high * fraction for fraction in _FRACTIONS]
    errors = [np.square(np.clip(np.rint(values / a[:, None]), 0, high) * a[:, None] - values).sum(axis=1) for a in candidates]
    return np.array(candidates)[np.argmin(errors, axis=0), np.arange(len(values))]


def fit_sqrt2(weights: NDArray) -> float:
    """RepQ-ViT's ``delta``: of three quantiles the one whose ``delta 2**(-c / 2)`` have the least squared error."""
    values = weights.reshape(-1)
    values = values[_spread(len(values), 16 * _SAMPLE)]
    candidates = [float(np.quantile(values, q)) for q in (0.999, 0.9999, 0.99999)]

    def error(delta: float) -> float:
        codes = np.clip(np.rint(-2 * np.log2(np.maximum(values, 1e-30) / delta)), 0, 15)
        return float(np.square(np.where(codes < 15, delta * 2 ** (-codes / 2), 0) - values).sum())

    return min(candidates, key=error)


def _by_head(x: NDArray, heads: int) -> NDArray[np.float64]:
    """(heads, n) of at most some 16 thousand values each."""
    values = (x.swapaxes(0, 1) if heads > 1 else x).reshape(heads, -1)
    return values[:, _spread(values.shape[1], _SAMPLE)].astype(np.float64)


def _spread(count: int, most: int) -> NDArray[np.int64]:
    """Evenly spread indices, at most ``most``, in step with no power of two."""
    return np.linspace(0, count - 1, min(count, most), dtype=np.int64)


def _positive(scale: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.maximum(scale, 1e-9)
