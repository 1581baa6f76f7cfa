"""Bit streams of narrow values."""

import numpy as np
import pytest

from vitloom.model.packing import BITS, pack_rows, pack_values, unpack_rows, unpack_values, value_range

KINDS = [(bits, False) for bits in BITS] + [(1, True)]


def _values(shape: tuple[int, ...], bits: int, unit: bool, seed: int = 0) -> np.ndarray:
    low, high = value_range(bits, unit=unit)
    choices = np.array([low, high] if bits == 1 else range(low, high + 1), np.int8)
    return np.random.default_rng(seed).choice(choices, shape)


@pytest.mark.parametrize(("bits", "unit"), KINDS)
@pytest.mark.parametrize("count", [1, 7, 8, 13, 64])
def test_a_row_is_the_binary_number_of_its_values(bits, unit, count):
    values = _values((3, count), bits, unit)
    packed = pack_values(values, bits, unit=unit)
    assert packed.shape == (3, -(-count * bits // 8))
    for row, data in zip(values, packed, strict=True):
        codes = [int(v > 0) if bits == 1 else int(v) % (1 << bits) for v in row]
        assert int.from_bytes(data.tobytes(), "little") == sum(code << bits * place for place, code in enumerate(codes))
    np.testing.assert_array_equal(unpack_values(packed, bits, count, unit=unit), values)


@pytest.mark.parametrize(("bits", "unit"), KINDS)
@pytest.mark.parametrize("rows", [1, 8, 11])
def test_packed_rows_have_a_column_in_every_byte(bits, unit, rows):
    values = _values((2, rows, 5), bits, unit, seed=1)
    packed = pack_rows(values, bits, unit=unit)
    assert packed.shape == (2, -(-rows * bits // 8), 5)
    for column in range(5):
        np.testing.assert_array_equal(packed[0, :, column], pack_values(values[0, :, column].copy(), bits, unit=unit))
    np.testing.assert_array_equal(unpack_rows(packed, bits, rows, unit=unit), values)


def test_wrong_values_are_named():
    with pytest.raises(ValueError, match="has the value 8; of 4 bits they are -8 to 7"):
        pack_values(np.array([1, 8], np.int8), 4)
    with pytest.raises(ValueError, match=r"has the value 0; of 1 bit they are -1 or \+1"):
        pack_values(np.array([1, 0], np.int8), 1)
    with pytest.raises(ValueError, match="has the value -1; of 1 bit they are 0 to 1"):
        pack_values(np.array([1, -1], np.int8), 1, unit=True)
    with pytest.raises(ValueError, match="has 3 bits; values have 8, 4, 2 or 1"):
        pack_values(np.array([1], np.int8), 3)
    with pytest.raises(ValueError, match="unit tensor of 2 bits"):
        pack_values(np.array([1], np.int8), 2, unit=True)
    with pytest.raises(ValueError, match="2 bytes hold 4 values of 4 bits, not 5"):
        unpack_values(np.zeros(2, np.uint8), 4, 5)
    with pytest.raises(ValueError, match="must be int8, not int64"):
        pack_values(np.array([1]), 4)
