"""Values of 8, 4, 2 and 1 bits as bytes: little-endian bit streams along rows, or the same column of consecutive rows in a byte."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from .arith import check_array

__all__ = ["BITS", "check_bits", "check_values", "pack_codes", "pack_rows", "pack_values", "unpack_rows", "unpack_values", "value_range"]

#: Widths of packed values; 8 / bits of them fill a byte.
BITS = (8, 4, 2, 1)


def check_bits(name: str, bits: int, *, unit: bool = False) -> None:
    """Raise ``ValueError`` unless values can have ``bits`` bits."""
    if bits not in BITS:
        raise ValueError(f"{name} has {bits} bits; values have {', '.join(map(str, BITS[:-1]))} or {BITS[-1]}")
    if unit and bits != 1:
        raise ValueError(f"{name} is a unit tensor of {bits} bits; only values of 1 bit are 0 or 1")


def value_range(bits: int, *, unit: bool = False) -> tuple[int, int]:
    """Least and greatest value: two's complement, of 1 bit -1 and +1 (``unit``: 0 and 1)."""
    check_bits("a value", bits, unit=unit)
    if bits == 1:
        return (0, 1) if unit else (-1, 1)
    return -(1 << bits - 1), (1 << bits - 1) - 1


def check_values(name: str, values: NDArray[np.int8], bits: int, *, unit: bool = False) -> None:
    """Raise ``ValueError`` unless ``values``, int8 of any shape, are values of ``bits`` bits."""
    check_array(name, values, np.int8)
    low, high = value_range(bits, unit=unit)
    signs = bits == 1 and not unit
    bad = (values < low) | (values > high) | (signs & (values == 0))
    if bad.any():
        allowed = "-1 or +1" if signs else f"{low} to {high}"
        raise ValueError(f"{name} has the value {values[bad].flat[0]}; of {bits} bit{'s' * (bits > 1)} they are {allowed}")


def pack_values(values: NDArray[np.int8], bits: int, *, unit: bool = False) -> NDArray[np.uint8]:
    """Each row as a stream of bits, value i at bits ``i * bits ..`` of its bytes, little-endian; of 1 bit, -1 is 0 and +1 is 1.

    values : (..., n) int8. Result (..., ceil(n * bits / 8)) uint8; bits behind the last value are 0.
    Raises ``ValueError`` for values out of :func:`value_range`.
    """
    check_values("values", values, bits, unit=unit)
    return pack_codes((values > 0).view(np.uint8) if bits == 1 else values.view(np.uint8), bits)


def pack_codes(codes: NDArray[np.uint8], bits: int) -> NDArray[np.uint8]:
    """The lowest ``bits`` bits of codes as such a stream; shapes as in :func:`pack_values`."""
    check_array("codes", codes, np.uint8, (None,))
    check_bits("codes", bits)
    per_byte = 8 // bits
    padded = np.pad(codes & (0xFF >> (8 - bits)), [(0, 0)] * (codes.ndim - 1) + [(0, -codes.shape[-1] % per_byte)])
    fields = padded.reshape(*padded.shape[:-1], -1, per_byte) << (bits * np.arange(per_byte, dtype=np.uint8))
    return np.bitwise_or.reduce(fields, axis=-1)


def unpack_values(packed: NDArray[np.uint8], bits: int, count: int | None = None, *, unit: bool = False) -> NDArray[np.int8]:
    """The first ``count`` values (all) of the bytes of :func:`pack_values`.

    packed : (..., bytes) uint8. Result (..., count) int8.
    """
    check_array("packed", packed, np.uint8, (None,))
    check_bits("packed", bits, unit=unit)
    per_byte = 8 // bits
    total = packed.shape[-1] * per_byte
    if count is not None and not 0 <= count <= total:
        raise ValueError(f"{packed.shape[-1]} bytes hold {total} values of {bits} bits, not {count}")
    # A field at the top of its byte, moved down as a signed number, is two's complement.
    top = packed[..., None] << (8 - bits - bits * np.arange(per_byte, dtype=np.uint8))
    fields = top.view(np.int8) >> (8 - bits)
    if bits == 1:
        fields = -fields if unit else -2 * fields - 1
    return np.ascontiguousarray(fields.reshape(*packed.shape[:-1], total)[..., :count])


def pack_rows(values: NDArray[np.int8], bits: int, *, unit: bool = False) -> NDArray[np.uint8]:
    """Byte c of group g has column c of rows ``g * p .. g * p + p - 1``, p = 8 / bits, from bit 0 on; missing rows are 0 bits.

    values : (..., rows, columns) int8. Result (..., ceil(rows / p), columns) uint8.
    """
    check_array("values", values, np.int8, (None, None))
    packed = pack_values(np.ascontiguousarray(values.swapaxes(-1, -2)), bits, unit=unit)
    return np.ascontiguousarray(packed.swapaxes(-1, -2))


def unpack_rows(packed: NDArray[np.uint8], bits: int, rows: int | None = None, *, unit: bool = False) -> NDArray[np.int8]:
    """The first ``rows`` rows (all) of the bytes of :func:`pack_rows`: (..., groups, columns) uint8 to (..., rows, columns) int8."""
    check_array("packed", packed, np.uint8, (None, None))
    values = unpack_values(np.ascontiguousarray(packed.swapaxes(-1, -2)), bits, rows, unit=unit)
    return np.ascontiguousarray(values.swapaxes(-1, -2))
