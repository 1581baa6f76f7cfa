"""Weights of few bits, an output channel at a time."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from .scheme import Scheme, Weights

__all__ = ["LowBitWeight", "low_bit_weight"]

_FRACTIONS = np.linspace(0.3, 1.0, 29)
"""Of the greatest magnitude, or of the range: candidates for what is not clipped."""


@dataclass(frozen=True, kw_only=True)
class LowBitWeight:
    """``(weight - zero) * scale`` with weight (N, K) int8, zero (N,) int8 and scale (N,), positive."""

    weight: NDArray[np.int8]
    zero: NDArray[np.int8]
    scale: NDArray[np.float64]

    @property
    def integers(self) -> NDArray[np.float64]:
        """``weight - zero``."""
        return self.weight.astype(np.float64) - self.zero[:, None]

    @property
    def value(self) -> NDArray[np.float64]:
        """Real weights (N, K)."""
        return self.integers * self.scale[:, None]

    def rows(self, chosen: slice) -> LowBitWeight:
        """Some of the output channels."""
        return LowBitWeight(weight=self.weight[chosen], zero=self.zero[chosen], scale=self.scale[chosen])


def low_bit_weight(scheme: Scheme, weight: NDArray, learned: NDArray | None = None) -> LowBitWeight:
    """Weight (N, K) by the rule of ``scheme``; learned : (N,) scales in place of those of the rule."""
    weight = weight.astype(np.float64)
    match scheme.weights:
        case Weights.CENTRED_SIGN:
            return _sign(weight - weight.mean(axis=1, keepdims=True), np.abs(weight).mean(axis=1) if learned is None else learned)
        case Weights.SIGN:
            return _sign(weight, np.abs(weight).mean(axis=1) if learned is None else learned)
        case Weights.TERNARY:
            return _ternary(weight, learned)
        case Weights.SYMMETRIC:
            return _symmetric(weight, scheme.weight_bits, learned)
        case Weights.ASYMMETRIC:
            return _asymmetric(weight, scheme.weight_bits, learned)


def _sign(weight: NDArray[np.float64], scale: NDArray) -> LowBitWeight:
    """Signs, those of a channel with a negative scale turned; sign(0) = +1."""
    signs = np.where((weight >= 0) == (np.asarray(scale) >= 0)[:, None], 1, -1)
    return _plain(signs, np.abs(scale))


def _ternary(weight: NDArray[np.float64], learned: NDArray | None) -> LowBitWeight:
    magnitude = np.abs(weight)
    kept = magnitude > 0.7 * magnitude.mean(axis=1, keepdims=True)
    scale = (magnitude * kept).sum(axis=1) / np.maximum(kept.sum(axis=1), 1) if learned is None else np.asarray(learned)
    return _plain(np.sign(weight) * kept * np.where(scale < 0, -1, 1)[:, None], np.abs(scale))


def _symmetric(weight: NDArray[np.float64], bits: int, learned: NDArray | None) -> LowBitWeight:
    high = (1 << (bits - 1)) - 1
    if learned is not None:
        if not np.all(np.asarray(learned) > 0):
            raise ValueError(f"the learned scales of {bits}-bit weights must be positive")
        return _plain(_rounded(weight, np.asarray(learned), bits), learned)
    largest = np.abs(weight).max(axis=1) / max(high, 1)
    errors = [np.square(_rounded(weight, s, bits) * s[:, None] - weight).sum(axis=1) for s in _positive(np.outer(_FRACTIONS, largest))]
    scale = _positive(_FRACTIONS[np.argmin(errors, axis=0)] * largest)
    return _plain(_rounded(weight, scale, bits), scale)


def _asymmetric(weight: NDArray[np.float64], bits: int, learned: NDArray | None) -> LowBitWeight:
    low, high = np.minimum(weight.min(axis=1), 0), np.maximum(weight.max(axis=1), 0)
    steps, least = (1 << bits) - 1, -(1 << (bits - 1))

    def quantised(scale: NDArray[np.float64]) -> LowBitWeight:
        shrunk = scale * steps / _positive(high - low)
        zero = np.clip(np.rint(-shrunk * low / scale), 0, steps) + least
        integers = np.clip(np.rint(weight / scale[:, None]) + zero[:, None], least, least + steps)
        return LowBitWeight(weight=integers.astype(np.int8), zero=zero.astype(np.int8), scale=scale)

    if learned is not None:
        return quantised(np.asarray(learned, np.float64))
    scales = _positive(np.outer(_FRACTIONS, (high - low) / steps))
    errors = [np.square(quantised(scale).value - weight).sum(axis=1) for scale in scales]
    return quantised(scales[np.argmin(errors, axis=0), np.arange(len(weight))])


def _rounded(weight: NDArray[np.float64], scale: NDArray, bits: int) -> NDArray[np.float64]:
    return np.clip(np.rint(weight / scale[:, None]), -(1 << (bits - 1)), (1 << (bits - 1)) - 1)


def _plain(integers: NDArray, scale: NDArray) -> LowBitWeight:
    zero = np.zeros(len(integers), np.int8)
    return LowBitWeight(weight=integers.astype(np.int8), zero=zero, scale=_positive(scale))


def _positive(scale: NDArray) -> NDArray[np.float64]:
    """The scale, or 1e-9 where a channel's weights are all alike and give none."""
    return np.maximum(np.asarray(scale, np.float64), 1e-9)
