"""LayerNorm of int8 with power-of-two factors per channel, after FQ-ViT (Lin et al., IJCAI 2022), without division."""

from __future__ import annotations

from functools import cache

import numpy as np
from numpy.typing import ArrayLike, NDArray

from .arith import check_array, leading_one, round_shift, saturate

__all__ = [
    "GAIN_FRACTION",
    "MAX_CHANNELS",
    "NORMAL_FRACTION",
    "layer_norm",
    "layer_norm_by_group",
    "layer_norm_parameters",
    "layer_norm_reference",
    "row_scalars",
    "rsqrt",
    "rsqrt_table",
]

MAX_CHANNELS = 2048
GAIN_FRACTION = 10
NORMAL_FRACTION = 12


@cache
def rsqrt_table() -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """``base`` (256,), 2**16 / sqrt at each segment's start, and ``slope`` (256,), what it loses to the segment's end; int64, read-only.

    Segments 0..127 divide 1..2, segments 128..255 divide 2..4.
    """
    start = np.concatenate([1 + np.arange(128) / 128, 2 + np.arange(129) / 64])
    value = np.rint(2**16 / np.sqrt(start)).astype(np.int64)
    base, slope = value[:-1].copy(), value[:-1] - value[1:]
    base.setflags(write=False)
    slope.setflags(write=False)
    return base, slope


def rsqrt(d: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """``root, exponent`` with ``1 / sqrt(d) = root * 2**-(16 + exponent)`` and root in 2**15..2**16; both int64.

    d : positive int64 below 2**46, any shape. Error of root: at most 1.5.
    """
    position = leading_one(d)
    fraction = ((d << np.maximum(17 - position, 0)) >> np.maximum(position - 17, 0)) & 0x1FFFF
    base, slope = rsqrt_table()
    segment = 128 * (position & 1) + (fraction >> 10)
    return base[segment] - round_shift(slope[segment] * (fraction & 1023), 10), position >> 1


def row_scalars(
    q: NDArray[np.int8], zero: int, alpha: NDArray[np.uint8], epsilon: int
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """``A``, ``B`` and ``shift`` of each token: ``(x - mean) / std = round_shift((x A - B) << 11, shift)`` with 12 fraction bits.

    q : (..., C) int8. Results (...) int64: ``A < 2**17``, ``|B| < 2**28``, ``4 <= shift <= 37``.
    Error of the normalised value ``n``: ``2**-14 |n|`` from the reciprocal root, ``(|x| + 1) / std * 2**-16`` from rounding A and B.
    """
    x = _shifted(q, zero, alpha)
    channels = q.shape[-1]
    if not 1 <= epsilon < 1 << 32:
        raise ValueError(f"epsilon must be 1..2**32-1, not {epsilon}")
    total, squares = x.sum(-1), (x * x).sum(-1)
    determinant = channels * squares - total * total + epsilon
    root, exponent = rsqrt(determinant)
    size = channels.bit_length() - 1
    return round_shift(channels * root, size), round_shift(total * root, size), 15 + exponent - size


def layer_norm(
    q: NDArray[np.int8],
    zero: int,
    alpha: NDArray[np.uint8],
    gain: NDArray[np.int32],
    offset: NDArray[np.int32],
    epsilon: int,
) -> NDArray[np.int8]:
    """LayerNorm over the last dimension of ``(q - zero) << alpha``.

    q : (..., C) int8, C <= 2048. alpha : (C,) uint8 in 0..3. gain, offset : (C,) int32 of 18 and 20 bits, 10 of them
    fraction. Result (..., C) int8.
    Error: 0.2 % of outputs differ from :func:`layer_norm_reference`, by one, on the published vectors. Rows whose mean is hundreds of
    deviations (nearly constant ones) can be off by more: the term of :func:`row_scalars` with ``|x| / std``, times ``gain / 2**10``.
    """
    channels = _shifted(q, zero, alpha).shape[-1]
    for name, vector, bits in (("gain", gain, 18), ("offset", offset, 20)):
        check_array(name, vector, np.int32)
        if vector.shape != (channels,):
            raise ValueError(f"{name} must have the shape ({channels},), not {vector.shape}")
        if not np.array_equal(saturate(vector, bits), vector):
            raise ValueError(f"{name} must fit {bits} bits")
    slope, intercept, shift = (scalar[..., None] for scalar in row_scalars(q, zero, alpha, epsilon))
    limit = (1 << 17) - 1
    normal = np.clip(round_shift((_shifted(q, zero, alpha) * slope - intercept) << 11, shift), -limit, limit)
    result = gain.astype(np.int64) * normal + (offset.astype(np.int64) << NORMAL_FRACTION)
    return saturate(round_shift(result, GAIN_FRACTION + NORMAL_FRACTION), 8).astype(np.int8)


def layer_norm_by_group(
    q: NDArray[np.int8],
    zero: int,
    alpha: NDArray[np.uint8],
    gain: NDArray[np.int32],
    offset: NDArray[np.int32],
    epsilon: int,
    groups: int,
) -> NDArray[np.int8]:
    """:func:`layer_norm` of each of ``groups`` equal parts of a row on its own: a head's q or k.

    q : (..., groups * C) int8; alpha, gain, offset : (groups * C,). Result of q's shape.
    """
    if groups < 1 or q.shape[-1] % groups:
        raise ValueError(f"{q.shape[-1]} channels are not {groups} equal groups")
    parts = np.split(np.arange(q.shape[-1]), groups)
    results = [layer_norm(np.ascontiguousarray(q[..., part]), zero, alpha[part], gain[part], offset[part], epsilon) for part in parts]
    return np.concatenate(results, axis=-1)


def layer_norm_parameters(
    gamma: ArrayLike, beta: ArrayLike, s1: float, eps: float, s_out: ArrayLike, z_out: ArrayLike, channels: int
) -> tuple[NDArray[np.int32], NDArray[np.int32], int]:
    """``gain``, ``offset`` (C,) int32 and ``epsilon`` of a float LayerNorm.

    s1 : scale of input channels with alpha 0. s_out, z_out : step and (real) zero point of the output, one or one per channel.
    Rounded to 10 fraction bits and clipped: ``|gamma / s_out| < 128``, ``|beta / s_out + z_out| < 512``.
    """
    gamma, beta, s_out, z_out = (np.asarray(v, dtype=np.float64) for v in (gamma, beta, s_out, z_out))
    for name, vector in (("gamma", gamma), ("beta", beta)):
        if vector.shape != (channels,):
            raise ValueError(f"{name} must have the shape ({channels},), not {vector.shape}")
    one = 1 << GAIN_FRACTION
    gain = np.clip(np.rint(gamma / s_out * one), 1 - 2**17, 2**17 - 1).astype(np.int32)
    offset = np.clip(np.rint((beta / s_out + z_out) * one), 1 - 2**19, 2**19 - 1).astype(np.int32)
    epsilon = int(np.clip(np.rint(channels**2 * eps / s1**2), 1, 2**32 - 1))
    return gain, offset, epsilon


def layer_norm_reference(
    q: NDArray[np.int8],
    zero: int,
    alpha: NDArray[np.uint8],
    gamma: ArrayLike,
    beta: ArrayLike,
    s1: float,
    eps: float,
    s_out: float,
    z_out: int,
) -> NDArray[np.int8]:
    """LayerNorm of the same input in float64, correctly rounded to int8: bounds the error of :func:`layer_norm`."""
    x = _shifted(q, zero, alpha) * s1
    centred = x - x.mean(-1, keepdims=True)
    deviation = np.sqrt((centred * centred).mean(-1, keepdims=True) + eps)
    normal = np.divide(centred, deviation, out=np.zeros_like(centred), where=deviation > 0)
    exact = (normal * np.asarray(gamma) + np.asarray(beta)) / s_out + z_out
    return np.clip(np.rint(exact), -128, 127).astype(np.int8)


def _shifted(q: NDArray[np.int8], zero: int, alpha: NDArray[np.uint8]) -> NDArray[np.int64]:
    """``(q - zero) << alpha``, 12 bits signed."""
    check_array("q", q, np.int8, (None,))
    check_array("alpha", alpha, np.uint8)
    channels = q.shape[-1]
    if not 1 <= channels <= MAX_CHANNELS:
        raise ValueError(f"LayerNorm takes 1..{MAX_CHANNELS} channels, not {channels}")
    if alpha.shape != (channels,) or alpha.max() > 3:
        raise ValueError(f"alpha must be {channels} values in 0..3, not of shape {alpha.shape} with maximum {alpha.max(initial=0)}")
    if not -128 <= zero <= 127:
        raise ValueError(f"zero must be -128..127, not {zero}")
    return (q.astype(np.int64) - zero) << alpha.astype(np.int64)
