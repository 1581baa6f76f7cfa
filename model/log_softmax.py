"""Log-Int-Softmax: 4-bit codes of ``-log2 softmax``, after FQ-ViT (Lin et al., IJCAI 2022)."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from .arith import check_array, leading_one
from .matmul import ZERO_CODE

__all__ = [
    "CODE_ENTRIES",
    "CODE_STEPS",
    "LOG2_TABLE",
    "MASKED",
    "coded_softmax",
    "exp_table",
    "log_softmax",
    "log_softmax_exact",
    "log_softmax_reference",
    "log_table",
]

LOG2_TABLE: NDArray[np.uint8] = np.rint(256 * np.log2(1 + (np.arange(64) + 0.5) / 64)).astype(np.uint8)
"""log2 of a mantissa in 1..2 by its 6 bits after the leading one, at the middle of the segment, 8 fraction bits."""

MASKED = -128
"""Logit of a masked key."""

CODE_STEPS = 16
"""Entries of a code table to an octave of the weight."""

CODE_ENTRIES = 256

_EXP_STEPS = 16  # n of the published i-exp: exponents below 2**-16 count as 2**-16


def exp_table(scale: float) -> NDArray[np.uint16]:
    """``round(2**15 exp(-scale d))`` for d = 0..255, uint16."""
    return np.rint(2**15 * np.exp(-_checked(scale) * np.arange(256))).astype(np.uint16)


def log_table(scale: float) -> NDArray[np.uint16]:
    """``min(round(256 scale d log2 e), 4095)`` for d = 0..255, uint16 (12 bits)."""
    return np.minimum(np.rint(256 * _checked(scale) * math.log2(math.e) * np.arange(256)), 4095).astype(np.uint16)


def log_softmax(
    x: NDArray[np.int8],
    exp_table: NDArray[np.uint16],
    log_table: NDArray[np.uint16],
    columns: int | None = None,
    *,
    masked: bool = False,
) -> NDArray[np.uint8]:
    """Form ``log``: codes ``round(log2(sum exp) + scale d log2 e)`` through the two tables; what the hardware computes.

    x : (..., n) int8 logits. columns : how many columns of a row count (all); the others get 15. masked : logits of -128 do not count
    either; every row needs one that counts. Result (..., n) uint8 in 0..15.
    Error before the clip, against ``-log2 softmax``: at most ``0.516 + 2.3e-5 n`` (segment of LOG2_TABLE, two roundings,
    n rounded exponentials).
    """
    logarithm, counts = _logarithms(x, exp_table, log_table, columns, masked=masked)
    return _padded(np.where(counts, (logarithm + 128) >> 8, ZERO_CODE), x)


def coded_softmax(
    x: NDArray[np.int8],
    exp_table: NDArray[np.uint16],
    log_table: NDArray[np.uint16],
    code_table: NDArray[np.int8],
    columns: int | None = None,
    *,
    masked: bool = False,
    relative: bool = False,
) -> NDArray[np.int8]:
    """Codes of the weights from a table: entry ``i`` is the code of ``2**(-i / 16)``, entry 255 also of all that is less or does not count.

    x : (..., n), or (..., groups, rows, n) for a table a group. code_table : (256,) or (groups, 256) int8. relative : weights are over
    the row's greatest one, so that ``log_table`` alone says what they are. The rest as :func:`log_softmax`. Result of the shape of x.
    Error of an index before it is clipped, against ``-16 log2 softmax``: 1/2 of rounding, and at most ``0.25 + 3.7e-4 n`` of the tables
    and of LOG2_TABLE; so a threshold on the weights is off by 3.3 % at most, and by 2.2 % where the sum is exact. Relative: as exact as
    ``log_table``.
    """
    check_array("code_table", code_table, np.int8)
    groups = code_table.shape[:-1]
    if code_table.shape[-1:] != (CODE_ENTRIES,) or groups not in ((), x.shape[-3:-2]):
        raise ValueError(f"code_table must have the shape (256,) or one of 256 a group, not {code_table.shape} for logits {x.shape}")
    logarithm, counts = _logarithms(x, exp_table, log_table, columns, masked=masked, relative=relative)
    index = np.full(x.shape, CODE_ENTRIES - 1)
    index[..., : logarithm.shape[-1]] = np.where(counts, np.minimum((logarithm + 8) >> 4, CODE_ENTRIES - 1), CODE_ENTRIES - 1)
    if groups:
        index += CODE_ENTRIES * np.arange(groups[0])[:, None, None]
    return code_table.reshape(-1)[index]


def log_softmax_exact(x: NDArray[np.int8], scale: float, columns: int | None = None) -> NDArray[np.uint8]:
    """Form ``exact``: every code as in FQ-ViT's published program, without its divisions.

    x, columns, result : as :func:`log_softmax`. ``2**-14 <= scale <= 1.67`` (the polynomial's constant is 0 above).
    The published codes 15 and 16 (zero) are both 15.
    """
    if not 2.0**-14 <= scale <= 1.67:
        raise ValueError(f"scale must be 2**-14 .. 1.67, not {scale}")
    valid = _valid(x, columns)
    b, c = math.floor(2.7073249 / scale), math.floor(2.7921147 / scale**2)
    z0 = math.floor(-0.6931 / scale)
    t = np.maximum(-np.arange(256, dtype=np.int64), _EXP_STEPS * z0)
    q = t // z0
    r = t - z0 * q
    exponential = (r * (r + b) + c) << (_EXP_STEPS - q)
    e = exponential[_distance(valid)]
    # e < 2**46 and n <= 2**16: neither the doubled sum nor e times the last threshold reaches 2**63.
    doubled = 2 * e.sum(-1, keepdims=True)
    code = (doubled >= 3 * e).astype(np.int64) + (doubled > 5 * e)
    for j in range(2, ZERO_CODE):
        code += doubled >= ((3 << j) - 1) * e
    return _padded(code, x)


def log_softmax_reference(x: NDArray[np.int8], scale: float, columns: int | None = None) -> NDArray[np.uint8]:
    """``-log2 softmax(scale x)`` in float64, correctly rounded, and clipped to 15: bounds the error of the other two."""
    d = _distance(_valid(x, columns)) * _checked(scale)
    exact = np.log2(np.exp(-d).sum(-1, keepdims=True)) + d * math.log2(math.e)
    return _padded(np.rint(exact), x)


def _logarithms(
    x: NDArray[np.int8],
    exp_table: NDArray[np.uint16],
    log_table: NDArray[np.uint16],
    columns: int | None,
    *,
    masked: bool,
    relative: bool = False,
) -> tuple[NDArray[np.int64], NDArray[np.bool_] | np.bool_]:
    """``-log2`` of the weights of the columns that count, 8 fraction bits; and which of them are not masked."""
    valid = _valid(x, columns)
    for name, table in (("exp_table", exp_table), ("log_table", log_table)):
        check_array(name, table, np.uint16)
        if table.shape != (256,):
            raise ValueError(f"{name} must have the shape (256,), not {table.shape}")
    d = _distance(valid)
    counts = valid != MASKED if masked else np.True_
    if not np.all(np.any(counts, axis=-1)):
        raise ValueError("every row needs a key that is not masked")
    if relative:
        return log_table[d].astype(np.int64), counts
    total = exp_table[d].sum(-1, keepdims=True, dtype=np.int64, where=counts)
    position = leading_one(total)
    mantissa = ((total << 6) >> position) & 63
    return ((position - 15) << 8) + LOG2_TABLE[mantissa] + log_table[d], counts


def _checked(scale: float) -> float:
    if not (math.isfinite(scale) and scale > 0):
        raise ValueError(f"scale must be positive, not {scale}")
    return scale


def _valid(x: NDArray[np.int8], columns: int | None) -> NDArray[np.int8]:
    """The columns that count."""
    check_array("x", x, np.int8, (None,))
    count = x.shape[-1] if columns is None else columns
    if not 1 <= count <= min(x.shape[-1], 1 << 16):
        raise ValueError(f"a row of {x.shape[-1]} columns can have 1..{min(x.shape[-1], 1 << 16)} that count, not {count}")
    return x[..., :count]


def _distance(x: NDArray[np.int8]) -> NDArray[np.int16]:
    """``max - x`` of each row, 0..255."""
    wide = x.astype(np.int16)
    return wide.max(-1, keepdims=True) - wide


def _padded(code: NDArray, x: NDArray[np.int8]) -> NDArray[np.uint8]:
    """Codes clipped to 15; 15 in the columns that do not count."""
    codes = np.full(x.shape, ZERO_CODE, dtype=np.uint8)
    codes[..., : code.shape[-1]] = np.minimum(code, ZERO_CODE)
    return codes
