"""Operands of the array as they lie in words, and its sums of products, in the hardware's own numbers (``docs/low-bit.md``)."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from ..hw.config import MODES, PACKING
from ..hw.isa import Codebook, LoadDirection, Mode
from ..model.matmul import LOG2_WEIGHTS, SQRT2_WEIGHTS, ZERO_CODE, int8_matmul, log2_matmul
from ..model.packing import unpack_rows, unpack_values

__all__ = ["matmul", "stationary_words"]

#: What a byte of equal and unequal signs gives more than the sum of their products.
_SIGNS = 8


def stationary_words(fields: Mapping[str, int], lanes: int) -> int:
    """Stored words of a stationary tile: fewer than L where weights have fewer bits than the mode."""
    mode = Mode(fields["mode"])
    packing = PACKING[MODES[mode.value]]
    denser = fields["stationary_packing"] - packing
    if fields["direction"] == LoadDirection.COLUMN.value:
        if denser:
            raise ValueError(f"a stationary operand in columns has the bits of mode {mode.name}, not {8 >> fields['stationary_packing']}")
    elif denser < 0:
        raise ValueError(f"mode {mode.name} takes weights of {8 >> packing} bits and less, not {8 >> fields['stationary_packing']}")
    return lanes >> denser


def matmul(
    fields: Mapping[str, int], moving: NDArray[np.uint8], stationary: NDArray[np.uint8]
) -> tuple[NDArray[np.int32], NDArray[np.int64]]:
    """Accumulators (rows, n_tiles * L) of a MATMUL with ``fields``, and the sum (rows,) of each row of the moving operand.

    moving : (rows, k_tiles, L) uint8. stationary : (n_tiles, k_tiles, words, L) uint8, :func:`stationary_words` of them.
    """
    mode, codebook = Mode(fields["mode"]), Codebook(fields["codebook"])
    rows, k_tiles, lanes = moving.shape
    packing = PACKING[MODES[mode.value]]
    kept = np.ones((k_tiles, lanes), bool)
    kept[0, : fields["k_skip"]] = False
    kept[-1, lanes - fields["k_pad"] :] = False
    weight = _stationary(fields, stationary)
    binary = mode is Mode.BINARY
    unit = binary and codebook is Codebook.UNIT
    x = unpack_values(moving, 8 >> packing, unit=unit)
    keeps = np.repeat(kept, 1 << packing, axis=-1)
    if mode is Mode.LOG2:
        codes = np.where(keeps, x & ZERO_CODE, ZERO_CODE).reshape(rows, -1).view(np.uint8)
        return log2_matmul(codes, weight, LOG2_WEIGHTS if codebook is Codebook.SIGNED else SQRT2_WEIGHTS), np.zeros(rows, np.int64)
    zero = fields["moving_zero"] if mode is Mode.INT4 else 0
    x = np.where(keeps, x - np.int8(zero), np.int8(0)).reshape(rows, -1)
    if unit:
        acc = 2 * int8_matmul(x, _columns(weight > 0))
    else:
        acc = int8_matmul(x, _columns(weight)) + np.int32(_SIGNS * np.count_nonzero(kept) if binary else 0)
    return acc, x.sum(-1, dtype=np.int64) * (mode is not Mode.INT8)


def _stationary(fields: Mapping[str, int], words: NDArray[np.uint8]) -> NDArray[np.int8]:
    """Weights (K, N) in tiles of words (n_tiles, k_tiles, words, L)."""
    bits = 8 >> fields["stationary_packing"]
    if fields["direction"] == LoadDirection.ROW.value:
        tiles = unpack_rows(words, bits)
    else:
        tiles = unpack_values(words, bits).swapaxes(-1, -2)
    n_tiles, k_tiles, depth, lanes = tiles.shape
    return np.ascontiguousarray(tiles.transpose(1, 2, 0, 3)).reshape(k_tiles * depth, n_tiles * lanes)


def _columns(weight: NDArray) -> NDArray[np.int8]:
    """Transposed, int8."""
    return np.ascontiguousarray(weight.T, np.int8)
