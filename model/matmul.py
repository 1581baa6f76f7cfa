"""Integer matrix products, computed by BLAS in floating point where every partial sum is exact."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from .arith import check_array

__all__ = ["LOG2_WEIGHTS", "SQRT2_WEIGHTS", "ZERO_CODE", "int8_matmul", "log2_matmul"]

ZERO_CODE = 15

#: What codes mean, in units of 2**-14: octaves, and half octaves. The last one is zero.
LOG2_WEIGHTS = np.append(np.int32(1) << np.arange(14, -1, -1, dtype=np.int32), np.int32(0))
SQRT2_WEIGHTS = np.append(np.rint(2.0 ** (14 - np.arange(ZERO_CODE) / 2)), 0).astype(np.int32)
_INT32_MAX = 2**31 - 1


def int8_matmul(x: NDArray[np.int8], w: NDArray[np.int8]) -> NDArray[np.int32]:
    """``acc[..., m, n] = sum_k x[..., m, k] * w[..., n, k]``, exact.

    x : (..., M, K) int8. w : (..., N, K) int8. Result (..., M, N) int32.
    Raises ``ValueError`` where int32 could overflow (K > 131071).
    """
    check_array("x", x, np.int8, (None, None))
    check_array("w", w, np.int8, (None, x.shape[-1]))
    return _exact(x, np.swapaxes(w, -1, -2), x.shape[-1] << 14)


def log2_matmul(codes: NDArray[np.uint8], v: NDArray[np.int8], weights: NDArray[np.int32] = LOG2_WEIGHTS) -> NDArray[np.int32]:
    """``acc[..., m, n] = sum_k weights[codes[..., m, k]] * v[..., k, n]``, exact; a weight of :data:`LOG2_WEIGHTS` is a shift of v.

    codes : (..., M, K) uint8 in 0..15, meaning ``2**-code``, with :data:`SQRT2_WEIGHTS` ``2**(-code / 2)``; 15 meaning zero.
    v : (..., K, N) int8. Result (..., M, N) int32 in units of ``2**-14`` of v.
    Raises ``ValueError`` where some v could make int32 overflow (a row's powers of two together above 1023; a softmax's are below 2).
    """
    check_array("codes", codes, np.uint8, (None, None))
    check_array("v", v, np.int8, (codes.shape[-1], None))
    if codes.size and codes.max() > ZERO_CODE:
        raise ValueError(f"codes must be 0..{ZERO_CODE}, not {codes.max()}")
    moving = weights[codes]
    return _exact(moving, v, int(moving.sum(-1, dtype=np.int64).max(initial=0)) << 7)


def _exact(a: NDArray, b: NDArray, bound: int) -> NDArray[np.int32]:
    """``a @ b`` given that no partial sum of a result exceeds ``bound``: float32 holds integers to 2**24, float64 to 2**53."""
    if bound > _INT32_MAX:
        raise ValueError(f"sums of up to {bound} do not fit int32")
    dtype = np.float32 if bound <= 1 << 24 else np.float64
    return (a.astype(dtype) @ b.astype(dtype)).astype(np.int32)
