"""Rounding, saturation and fixed-point scales: the numpy twins of ``hw/arith.py``."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, DTypeLike, NDArray

__all__ = ["MAX_SHIFT", "check_array", "leading_one", "round_shift", "saturate", "scale_to_multiplier"]

MAX_SHIFT = 32


def check_array(name: str, array: NDArray, dtype: DTypeLike, shape: Sequence[int | None] | None = None) -> None:
    """Raise ``ValueError`` unless ``array`` is an ndarray of ``dtype`` whose last dimensions are ``shape`` (None: any length)."""
    wanted = np.dtype(dtype)
    if not isinstance(array, np.ndarray):
        raise ValueError(f"{name} must be an ndarray of {wanted}, not {type(array).__name__}")
    if array.dtype != wanted:
        raise ValueError(f"{name} must be {wanted}, not {array.dtype}")
    if shape is None:
        return
    given = array.shape[array.ndim - len(shape) :]
    if array.ndim < len(shape) or any(w not in (None, g) for w, g in zip(shape, given, strict=True)):
        sizes = ", ".join("n" if w is None else str(w) for w in shape)
        raise ValueError(f"{name} must have the shape (..., {sizes}), not {array.shape}")


def round_shift(v: ArrayLike, s: ArrayLike) -> NDArray[np.int64]:
    """``v / 2**s`` rounded to the nearest integer, ties to +infinity: ``(v + 2**(s-1)) >> s``; ``s = 0`` is the identity.

    v, s : integers that broadcast; ``0 <= s <= 62`` and ``|v| + 2**(s-1) < 2**63``. Result int64, error at most 1/2.
    """
    v, s = _integers(v), _integers(s)
    if s.size and not 0 <= s.min() <= s.max() <= 62:
        raise ValueError(f"round_shift shifts by 0..62, not {s.min()}..{s.max()}")
    return (v + ((np.int64(1) << s) >> 1)) >> s


def saturate(v: ArrayLike, bits: int) -> NDArray[np.int64]:
    """Clip to the range of a signed integer of ``bits`` bits; result int64."""
    return np.clip(_integers(v), -(1 << (bits - 1)), (1 << (bits - 1)) - 1)


def leading_one(v: ArrayLike) -> NDArray[np.int64]:
    """Position of the most significant one, ``floor(log2 v)``, of positive int64 values. Exact."""
    v = _integers(v)
    if v.size and v.min() < 1:
        raise ValueError(f"leading_one takes positive integers, not {v.min()}")
    position = np.zeros_like(v)
    for step in (32, 16, 8, 4, 2, 1):
        high = v >> step
        found = high > 0
        position += np.where(found, step, 0)
        v = np.where(found, high, v)
    return position


def scale_to_multiplier(r: ArrayLike) -> tuple[NDArray[np.uint16], NDArray[np.uint8]]:
    """Fixed-point form of real scales: ``r = multiplier * 2**-shift``, ``1 <= shift <= 32``.

    r : real, any shape, ``0 <= r < 2**14``. Results have its shape.
    Error: at most ``r * 2**-16`` for ``r >= 2**-17``, at most ``2**-33`` below; 0 gives multiplier 0.
    """
    r = np.asarray(r, dtype=np.float64)
    bad = ~np.isfinite(r) | (r < 0) | (r >= 2.0**14)
    if bad.any():
        raise ValueError(f"a scale must be at least 0 and less than 2**14, not {r[bad].flat[0]}")
    exponent = np.frexp(r)[1].astype(np.int64)  # r = m * 2**exponent with m in [1/2, 1)
    shift = np.where(r == 0, MAX_SHIFT, np.minimum(MAX_SHIFT, 16 - exponent))
    multiplier = np.rint(np.ldexp(r, shift)).astype(np.int64)
    carried = multiplier == 1 << 16
    return np.where(carried, 1 << 15, multiplier).astype(np.uint16), (shift - carried).astype(np.uint8)


def _integers(v: ArrayLike) -> NDArray[np.int64]:
    array = np.asarray(v)
    if array.dtype.kind not in "iu":
        raise ValueError(f"integers are wanted here, not {array.dtype}")
    return array.astype(np.int64, copy=False)
