"""Published rules of binary and low-bit attention as tables and constants of the integer operators (``docs/low-bit.md``)."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import ArrayLike, NDArray

from .log_softmax import CODE_ENTRIES, CODE_STEPS
from .matmul import ZERO_CODE

__all__ = [
    "fold_threshold",
    "maximum_distance",
    "maximum_tables",
    "paired_weight",
    "sign",
    "sqrt2_codes",
    "threshold_codes",
    "uniform_codes",
    "unit_pair",
]

#: Logarithm that is the greatest index of a code table, whatever is added.
_FAR = 4095
_INT32 = 2**31 - 1


def sign(x: ArrayLike, *, zero: int = 1) -> NDArray[np.int8]:
    """-1 or +1, and ``zero`` for 0: +1 as hardware has it, or 0 as PyTorch has it. Result int8 of x's shape."""
    if zero not in (0, 1):
        raise ValueError(f"the sign of zero is 0 or 1, not {zero}")
    x = np.asarray(x)
    return np.where(x == 0, zero, np.sign(x)).astype(np.int8)


def unit_pair(x: NDArray[np.int8], groups: int = 1) -> NDArray[np.int8]:
    """Ternary x (..., groups * C) as a unit tensor (..., groups * 2 C): of each group the places of +1, then those of -1."""
    parts = x.reshape(*x.shape[:-1], groups, -1)
    return np.concatenate([parts > 0, parts < 0], axis=-1).astype(np.int8).reshape(*x.shape[:-1], -1)


def paired_weight(weight: NDArray[np.int8], groups: int = 1) -> NDArray[np.int8]:
    """Weight (N, groups * 2 C) against a :func:`unit_pair`: ``[w, -w]`` of each group of a weight (N, groups * C) of -1 and +1."""
    parts = weight.reshape(len(weight), groups, -1)
    return np.concatenate([parts, -parts], axis=-1).reshape(len(weight), -1)


def fold_threshold(
    weight: NDArray[np.int8], scale: NDArray[np.float64], bias: NDArray[np.float64]
) -> tuple[NDArray[np.int8], NDArray[np.int32]]:
    """Weight and bias of ``acc + bias >= 0`` for ``scale * dot + bias >= 0``: the 1-bit output of a channel, sign(0) being +1.

    weight : (N, K) int8, of a range that holds its negative where a scale is negative. scale, bias : (N,), scale of either sign, not 0.
    Exact for the quotient of scale and bias in float64. GELU before the sign changes nothing.
    """
    if not np.all(np.isfinite(scale) & (scale != 0)):
        raise ValueError("scales must be finite and not 0: the sign of a channel would not depend on it")
    turned = np.where(scale < 0, -1, 1)[:, None] * weight.astype(np.int16)
    # int32 keeps a distance: no sum of int8 products reaches half of it.
    limits = -(_INT32 // 2), _INT32 // 2
    return turned.astype(np.int8), np.clip(np.floor(bias / np.abs(scale)), *limits).astype(np.int32)


def maximum_distance(head_channels: int, steps: int = 1) -> int:
    """How far below its row's greatest a logit of BiViT's attention may be: ``p >= max p / 4`` is ``logit >= max - distance``.

    Logits are ``steps * dot / 2`` of q and k of -1 and +1, that is steps of ``2 / (steps * sqrt(d_h))`` of the real ones; with a position
    bias in whole steps they are still exact. 5 for heads of 64 and 3 for 32. ``ln 4`` is no ratio of such steps, so nothing is a tie.
    """
    return math.floor(math.log(4) * math.sqrt(head_channels) / 2 * steps)


def maximum_tables(distance: int) -> tuple[NDArray[np.uint16], NDArray[np.int8]]:
    """``log_table`` (256,) and ``code_table`` (256,) of a relative softmax: 1 where a logit is at most ``distance`` below the greatest."""
    if not 0 <= distance < 255:
        raise ValueError(f"a distance of logits is 0..254, not {distance}")
    log_table = np.where(np.arange(256) <= distance, 0, _FAR).astype(np.uint16)
    code_table = np.zeros(CODE_ENTRIES, np.int8)
    code_table[0] = 1
    return log_table, code_table


def threshold_codes(thresholds: ArrayLike) -> NDArray[np.int8]:
    """Bi-ViT: 1 where a weight is at least its head's threshold. thresholds : (heads,), in ``2**-15 .. 1``. Result (heads, 256)."""
    t = np.asarray(thresholds, np.float64)[:, None]
    if not np.all((t >= 2.0**-15) & (t <= 1)):
        raise ValueError(f"thresholds of a softmax are 2**-15 .. 1, not {t.min():g}..{t.max():g}")
    return (_weights() >= t).astype(np.int8)


def uniform_codes(steps: ArrayLike, levels: int, zero_point: int = 0) -> NDArray[np.int8]:
    """Q-ViT: ``min(round(weight / step), levels - 1) + zero_point``, a step for each head; (heads,) to (heads, 256)."""
    a = np.asarray(steps, np.float64)[:, None]
    if not np.all(np.isfinite(a) & (a > 0)):
        raise ValueError("steps must be finite and positive")
    if not 2 <= levels <= 16 or not -8 <= zero_point <= 16 - levels:
        raise ValueError(f"4 bits hold 2..16 levels from -8 on, not {levels} from {zero_point} on")
    return (np.minimum(np.floor(_weights() / a + 0.5), levels - 1) + zero_point).astype(np.int8)


def sqrt2_codes(delta: ArrayLike) -> NDArray[np.int8]:
    """RepQ-ViT: ``round(-2 log2(weight / delta))`` in 0..15, 15 being zero; ``delta`` (heads,), positive. Result (heads, 256)."""
    d = np.asarray(delta, np.float64)[:, None]
    if not np.all(np.isfinite(d) & (d > 0)):
        raise ValueError("scales of a logarithm must be finite and positive")
    octaves = np.arange(CODE_ENTRIES) / CODE_STEPS
    codes = np.clip(np.floor(2 * (octaves + np.log2(d)) + 0.5), 0, ZERO_CODE)
    codes[:, -1] = ZERO_CODE
    return codes.astype(np.int8)


def _weights() -> NDArray[np.float64]:
    """Weight of each entry of a code table; the last one is 0."""
    return np.append(2.0 ** (-np.arange(CODE_ENTRIES - 1) / CODE_STEPS), 0.0)
