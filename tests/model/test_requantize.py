"""The epilogue against exact rationals."""

import math
from fractions import Fraction
from math import floor

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vitloom.model.arith import scale_to_multiplier
from vitloom.model.requantize import (
    activation_table,
    apply_table,
    gelu,
    requantize,
    requantize_raw,
    requantize_residual,
    residual_parameters,
)

INT32 = st.integers(-(2**31), 2**31 - 1)
INT8 = st.integers(-128, 127)


def _vectors(bias, multiplier, shift):
    return np.array([bias], np.int32), np.array([multiplier], np.uint16), np.array([shift], np.uint8)


def _nearest(value: Fraction, low: int, high: int) -> int:
    return min(max(floor(value + Fraction(1, 2)), low), high)


@given(INT32, st.integers(0, 2**16 - 1), st.integers(1, 32), INT8)
def test_requantize_is_the_rounded_rational(total, multiplier, shift, zero):
    bias = total // 3
    exact = Fraction(total * multiplier, 2**shift)
    acc = np.array([[total - bias]], np.int32)
    result = requantize(acc, *_vectors(bias, multiplier, shift), zero)
    assert result.dtype == np.int8
    assert result[0, 0] == _nearest(exact + zero, -128, 127)
    raw = requantize_raw(acc, *_vectors(bias, multiplier, shift))
    assert raw.dtype == np.int32
    assert raw[0, 0] == _nearest(exact, -(2**31), 2**31 - 1)


@given(INT32, st.integers(0, 2**16 - 1), st.integers(1, 32), INT8, INT8, INT8, st.integers(0, 2**16 - 1), st.integers(0, 31))
def test_residual_is_one_rounding_of_the_sum(acc, multiplier, shift, zero, residual, residual_zero, residual_multiplier, residual_shift):
    added = (residual - residual_zero) * residual_multiplier * 2**residual_shift
    expected = _nearest(Fraction(acc * multiplier + added, 2**shift) + zero, -128, 127)
    result = requantize_residual(
        np.array([acc], np.int32),
        *_vectors(0, multiplier, shift),
        zero,
        np.array([residual], np.int8),
        residual_zero,
        residual_multiplier,
        np.array([residual_shift], np.uint8),
    )
    assert result[0] == expected


@given(st.floats(2.0**-17, 2**10), st.integers(-(2**20), 2**20))
def test_requantize_with_a_real_scale_stays_within_its_bound(r, acc):
    """Half a unit, and 2**-16 of the result for the multiplier."""
    multiplier, shift = scale_to_multiplier([r])
    result = requantize_raw(np.array([acc], np.int32), np.zeros(1, np.int32), multiplier, shift)
    exact = acc * Fraction(r)
    assert abs(int(result[0]) - exact) <= Fraction(1, 2) + abs(exact) / 2**16


def test_ties_zero_multiplier_and_saturation():
    acc = np.array([[-3, -1, 1, 3, 1000, -1000]], np.int32).T
    half = _vectors(0, 1, 1)
    np.testing.assert_array_equal(requantize(acc, *half, 0)[:, 0], [-1, 0, 1, 2, 127, -128])
    np.testing.assert_array_equal(requantize(acc, *_vectors(5, 0, 32), -128)[:, 0], np.full(6, -128))
    extreme = np.array([[-(2**31)], [2**31 - 1]], np.int32)
    np.testing.assert_array_equal(requantize_raw(extreme, *_vectors(0, 65535, 1))[:, 0], [-(2**31), 2**31 - 1])


def test_channels_use_their_own_parameters():
    rng = np.random.default_rng(1)
    acc = rng.integers(-(2**20), 2**20, (3, 5, 7), dtype=np.int32)
    bias = rng.integers(-1000, 1000, 7, dtype=np.int32)
    multiplier = rng.integers(2**15, 2**16, 7, dtype=np.uint16)
    shift = rng.integers(24, 30, 7, dtype=np.uint8)
    together = requantize(acc, bias, multiplier, shift, 3)
    for n in range(7):
        alone = requantize(acc[..., n : n + 1], bias[n : n + 1], multiplier[n : n + 1], shift[n : n + 1], 3)
        np.testing.assert_array_equal(together[..., n : n + 1], alone)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"acc": np.zeros((2, 3), np.int64)}, "acc must be int32, not int64"),
        ({"bias": np.zeros(2, np.int32)}, r"bias must have the shape \(3,\), not \(2,\)"),
        ({"multiplier": np.zeros(3, np.int32)}, "multiplier must be uint16"),
        ({"shift": np.zeros(3, np.uint8)}, r"shift must be 1\.\.32, not 0\.\.0"),
        ({"shift": np.full(3, 33, np.uint8)}, r"shift must be 1\.\.32, not 33\.\.33"),
        ({"zero_out": 128}, r"zero_out must be -128\.\.127, not 128"),
        ({"acc": np.full((2, 3), 2**31 - 1, np.int32)}, "exceed 32 bits"),
    ],
)
def test_requantize_refuses(change, message):
    good = {
        "acc": np.zeros((2, 3), np.int32),
        "bias": np.ones(3, np.int32),
        "multiplier": np.ones(3, np.uint16),
        "shift": np.ones(3, np.uint8),
        "zero_out": 0,
    }
    with pytest.raises(ValueError, match=message):
        requantize(**{**good, **change})


@settings(max_examples=200)
@given(st.floats(2.0**-8, 8), st.lists(st.tuples(st.integers(-3, 3), st.integers(20, 32)), min_size=1, max_size=8))
def test_residual_parameters_keep_the_common_factor(factor, channels):
    steps, shifts = (np.array(part) for part in zip(*channels, strict=True))
    scale, shift = factor * 2.0**steps, shifts.astype(np.uint8)
    multiplier, residual_shift = residual_parameters(scale, shift)
    assert 0 < multiplier < 2**16
    assert residual_shift.dtype == np.uint8
    least = min(Fraction(s) * 2 ** int(n) for s, n in zip(scale, shift, strict=True))
    bound = Fraction(1, 2**16) if least >= 2**15 else Fraction(1, 2) / least
    for s, n, left in zip(scale, shift, residual_shift, strict=True):
        assert abs(Fraction(multiplier * 2 ** int(left), 2 ** int(n)) / Fraction(s) - 1) <= bound


def test_residual_parameters_refuse_other_ratios_and_ranges():
    shift = np.full(2, 20, np.uint8)
    with pytest.raises(ValueError, match="powers of two"):
        residual_parameters([1.0, 3.0], shift)
    with pytest.raises(ValueError, match="positive"):
        residual_parameters([1.0, 0.0], shift)
    for scale in (2.0**-22, 2.0**28):
        with pytest.raises(ValueError, match=r"2\*\*-1 \.\. 2\*\*47"):
            residual_parameters([scale, scale], shift)


def test_activation_table_is_the_nearest_byte():
    table = activation_table(gelu, 0.05, -40, 0.03, -100)
    assert (table.dtype, table.shape) == (np.int8, (256,))
    for q in range(-128, 128):
        x = (q + 40) * 0.05
        exact = x * 0.5 * (1 + math.erf(x / math.sqrt(2))) / 0.03 - 100
        assert abs(int(apply_table(np.array([q], np.int8), table)[0]) - min(max(exact, -128), 127)) <= 0.5 + 1e-9


def test_table_of_the_identity_saturates():
    every = np.arange(-128, 128).astype(np.int8)
    np.testing.assert_array_equal(apply_table(every, activation_table(lambda x: x, 0.1, 3, 0.1, 3)), every)
    doubled = apply_table(every, activation_table(lambda x: x, 2.0, 0, 1.0, 0))
    np.testing.assert_array_equal(doubled, np.clip(2 * every.astype(int), -128, 127))
    with pytest.raises(ValueError, match=r"\(256,\)"):
        apply_table(every, every[1:])


def test_gelu_keeps_the_digits_of_the_tail():
    assert gelu(0.0) == 0
    assert gelu(10.0) == pytest.approx(10, rel=1e-15)
    assert gelu(-10.0) == pytest.approx(-7.619853024160525e-23, rel=1e-12)
    assert gelu(np.zeros((2, 3))).dtype == np.float64
