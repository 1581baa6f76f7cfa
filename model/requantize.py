"""The epilogue: int32 accumulators to int8 (or int32 logits), with residual and table, and the parameters it needs."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
from numpy.typing import ArrayLike, NDArray

from .arith import MAX_SHIFT, check_array, round_shift, saturate
from .packing import value_range

__all__ = [
    "activation_table",
    "apply_table",
    "gelu",
    "narrow",
    "requantize",
    "requantize_raw",
    "requantize_residual",
    "residual_parameters",
]


def requantize(
    acc: NDArray[np.int32], bias: NDArray[np.int32], multiplier: NDArray[np.uint16], shift: NDArray[np.uint8], zero_out: int
) -> NDArray[np.int8]:
    """``sat8(round_shift((acc + bias) * multiplier, shift) + zero_out)``.

    acc : (..., N) int32. bias, multiplier, shift : (N,), ``1 <= shift <= 32``. Result (..., N) int8.
    Ties to +infinity. Error before saturation: at most 1/2, the multiplier taken as exact.
    """
    _check_zero("zero_out", zero_out)
    product, shifts = _product(acc, bias, multiplier, shift)
    return saturate(round_shift(product, shifts) + zero_out, 8).astype(np.int8)


def requantize_residual(
    acc: NDArray[np.int32],
    bias: NDArray[np.int32],
    multiplier: NDArray[np.uint16],
    shift: NDArray[np.uint8],
    zero_out: int,
    residual: NDArray[np.int8],
    residual_zero: int,
    residual_multiplier: int,
    residual_shift: NDArray[np.uint8],
) -> NDArray[np.int8]:
    """``sat8(round_shift(p + (((residual - residual_zero) * residual_multiplier) << residual_shift), shift) + zero_out)``.

    ``p = (acc + bias) * multiplier``; residual (..., N) int8 broadcasts to acc; residual_shift (N,) uint8, at most 31;
    the rest as :func:`requantize`.
    One rounding for the sum: error before saturation at most 1/2, both multipliers taken as exact.
    """
    _check_zero("zero_out", zero_out)
    _check_zero("residual_zero", residual_zero)
    product, shifts = _product(acc, bias, multiplier, shift)
    channels = acc.shape[-1]
    check_array("residual", residual, np.int8, (channels,))
    check_array("residual_shift", residual_shift, np.uint8, (channels,))
    if not 0 <= residual_multiplier < 1 << 16:
        raise ValueError(f"residual_multiplier must be 0..65535, not {residual_multiplier}")
    if residual_shift.max(initial=0) > 31:
        raise ValueError(f"residual_shift must be at most 31, not {residual_shift.max()}")
    addend = ((residual.astype(np.int64) - residual_zero) * residual_multiplier) << residual_shift.astype(np.int64)
    return saturate(round_shift(product + addend, shifts) + zero_out, 8).astype(np.int8)


def requantize_raw(
    acc: NDArray[np.int32], bias: NDArray[np.int32], multiplier: NDArray[np.uint16], shift: NDArray[np.uint8]
) -> NDArray[np.int32]:
    """``clip(round_shift((acc + bias) * multiplier, shift), -2**31, 2**31 - 1)`` as int32; arguments as :func:`requantize`."""
    product, shifts = _product(acc, bias, multiplier, shift)
    return saturate(round_shift(product, shifts), 32).astype(np.int32)


def apply_table(q: NDArray[np.int8], table: NDArray[np.int8]) -> NDArray[np.int8]:
    """``table[q + 128]``; q (...) int8, table (256,) int8."""
    check_array("q", q, np.int8)
    _check_vector("table", table, np.int8, 256)
    return table[q.view(np.uint8) ^ 128]


def narrow(y: NDArray[np.int8], bits: int, *, unit: bool = False) -> NDArray[np.int8]:
    """A result as a value of ``bits`` bits: clipped to the range; of 1 bit whether ``y >= 0``, as +1 or -1 (``unit``: 1 or 0).

    y : int8, any shape. Result int8 of its shape.
    """
    check_array("y", y, np.int8)
    low, high = (np.int8(limit) for limit in value_range(bits, unit=unit))
    return np.where(y >= 0, high, low) if bits == 1 else np.clip(y, low, high)


def residual_parameters(scale: ArrayLike, shift: NDArray[np.uint8]) -> tuple[int, NDArray[np.uint8]]:
    """``residual_multiplier, residual_shift`` with ``scale[n] * 2**shift[n] = residual_multiplier * 2**residual_shift[n]``.

    scale : (N,) real, step of the residual over step of the output; all are one factor times powers of two. shift : (N,) uint8.
    Relative error, the same for all channels: at most ``2**-16``, or ``0.5 / m`` where ``m``, the least ``scale[n] * 2**shift[n]``,
    is below ``2**15`` (then no channel's shift may be negative, and fewer bits are left for the multiplier).
    """
    scale = np.asarray(scale, dtype=np.float64)
    _check_vector("shift", shift, np.uint8, scale.size)
    if not np.all(np.isfinite(scale) & (scale > 0)):
        raise ValueError("residual scales must be finite and positive")
    wanted = np.ldexp(scale, shift.astype(np.int64))
    least = float(wanted.min())
    steps = np.rint(np.log2(wanted / least)).astype(np.int64)
    if np.any(np.abs(np.ldexp(wanted, -steps) / least - 1) > 2.0**-20):
        raise ValueError("residual scales must be one factor times powers of two; these are not")
    common = max(0, math.frexp(least)[1] - 16)
    multiplier = round(math.ldexp(least, -common))
    if multiplier == 1 << 16:
        multiplier, common = 1 << 15, common + 1
    if multiplier == 0 or common + steps.max() > 31:
        raise ValueError(f"residual scales times 2**shift must be in 2**-1 .. 2**47, not {least:g} .. {wanted.max():g}")
    return multiplier, (steps + common).astype(np.uint8)


def activation_table(
    function: Callable[[NDArray[np.float64]], NDArray[np.float64]], s_in: float, z_in: int, s_out: float, z_out: int
) -> NDArray[np.int8]:
    """Table of ``function``: entry ``q + 128`` is the int8 nearest to ``function((q - z_in) s_in) / s_out + z_out``.

    Result (256,) int8. Error at most 1/2 before saturation.
    """
    x = (np.arange(-128, 128) - z_in) * np.float64(s_in)
    return saturate(np.rint(function(x) / s_out).astype(np.int64) + z_out, 8).astype(np.int8)


def gelu(x: ArrayLike) -> NDArray[np.float64]:
    """GELU by the error function, ``x Phi(x)``, in float64."""
    x = np.asarray(x, dtype=np.float64)
    erfc = np.frompyfunc(math.erfc, 1, 1)
    return 0.5 * x * np.asarray(erfc(x * -math.sqrt(0.5)), dtype=np.float64)  # erfc keeps the digits of the negative tail


def _product(
    acc: NDArray[np.int32], bias: NDArray[np.int32], multiplier: NDArray[np.uint16], shift: NDArray[np.uint8]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """``(acc + bias) * multiplier`` and the shifts, as int64; refuses what 32 bits do not hold."""
    check_array("acc", acc, np.int32, (None,))
    for name, vector, dtype in (("bias", bias, np.int32), ("multiplier", multiplier, np.uint16), ("shift", shift, np.uint8)):
        _check_vector(name, vector, dtype, acc.shape[-1])
    if shift.size and not 1 <= shift.min() <= shift.max() <= MAX_SHIFT:
        raise ValueError(f"shift must be 1..{MAX_SHIFT}, not {shift.min()}..{shift.max()}")
    biased = acc.astype(np.int64) + bias
    if biased.size and (biased.min() < -(1 << 31) or biased.max() >= 1 << 31):
        raise ValueError("an accumulator and its bias together exceed 32 bits")
    return biased * multiplier.astype(np.int64), shift.astype(np.int64)


def _check_vector(name: str, vector: NDArray, dtype: type, length: int) -> None:
    check_array(name, vector, dtype)
    if vector.shape != (length,):
        raise ValueError(f"{name} must have the shape ({length},), not {vector.shape}")


def _check_zero(name: str, zero: int) -> None:
    if not -128 <= zero <= 127:
        raise ValueError(f"{name} must be -128..127, not {zero}")
