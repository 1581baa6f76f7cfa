"""Rounding, saturation and scales against exact arithmetic."""

from fractions import Fraction
from math import floor

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vitloom.model.arith import check_array, leading_one, round_shift, saturate, scale_to_multiplier


@given(st.integers(-(2**60), 2**60), st.integers(0, 60))
def test_round_shift_is_nearest_with_ties_to_plus_infinity(v, s):
    assert round_shift(v, s) == floor(Fraction(v, 2**s) + Fraction(1, 2))


def test_round_shift_of_ties():
    np.testing.assert_array_equal(round_shift([-3, -2, -1, 0, 1, 2, 3], 1), [-1, -1, 0, 0, 1, 1, 2])
    np.testing.assert_array_equal(round_shift(np.array([5, -5, 6, -6]), np.array([0, 0, 2, 2])), [5, -5, 2, -1])


@pytest.mark.parametrize("shift", [-1, 63])
def test_round_shift_refuses_shifts_out_of_range(shift):
    with pytest.raises(ValueError, match=r"0\.\.62"):
        round_shift(1, shift)


def test_integer_functions_refuse_floats():
    for function in (lambda v: round_shift(v, 1), lambda v: saturate(v, 8), leading_one):
        with pytest.raises(ValueError, match="float64"):
            function(np.array([1.0]))


def test_saturate_keeps_the_signed_range():
    np.testing.assert_array_equal(saturate([-129, -128, 0, 127, 128], 8), [-128, -128, 0, 127, 127])
    np.testing.assert_array_equal(saturate([-(2**40), 2**31 - 1, 2**31], 32), [-(2**31), 2**31 - 1, 2**31 - 1])


def test_leading_one_is_exact_around_every_power_of_two():
    powers = [1 << p for p in range(63)]
    values = sorted({v for power in powers for v in (power - 1, power, power + 1) if v > 0})
    np.testing.assert_array_equal(leading_one(values), [v.bit_length() - 1 for v in values])
    with pytest.raises(ValueError, match="positive"):
        leading_one([3, 0])


@given(st.floats(0, 2**14, exclude_max=True))
def test_scale_keeps_its_stated_error(r):
    multiplier, shift = (int(part) for part in scale_to_multiplier(r))
    assert 1 <= shift <= 32
    assert 0 <= multiplier < 2**16
    bound = Fraction(r) / 2**16 if r >= 2.0**-17 else Fraction(1, 2**33)
    assert abs(Fraction(multiplier, 2**shift) - Fraction(r)) <= bound
    if r >= 2.0**-17:
        assert multiplier >= 2**15


def test_scale_edges():
    below_one = np.nextafter(1.0, 0)
    multiplier, shift = scale_to_multiplier([0.0, 1.0, below_one, 2.0**-17, 2.0**-18, 2.0**-40, 2.0**14 - 1, np.nextafter(2.0**14, 0)])
    assert (multiplier.dtype, shift.dtype) == (np.uint16, np.uint8)
    np.testing.assert_array_equal(multiplier, [0, 32768, 32768, 32768, 16384, 0, 65532, 32768])
    np.testing.assert_array_equal(shift, [32, 15, 15, 32, 32, 32, 2, 1])


@pytest.mark.parametrize("r", [2.0**14, -1e-9, np.inf, np.nan])
def test_scale_refuses_what_does_not_fit(r):
    with pytest.raises(ValueError, match="less than"):
        scale_to_multiplier([0.5, r])


def test_check_array_says_what_was_given():
    with pytest.raises(ValueError, match="x must be int8, not int64"):
        check_array("x", np.zeros(3, np.int64), np.int8)
    with pytest.raises(ValueError, match=r"\(\.\.\., n, 4\), not \(2, 3\)"):
        check_array("x", np.zeros((2, 3), np.int8), np.int8, (None, 4))
    with pytest.raises(ValueError, match="not list"):
        check_array("x", [1, 2], np.int8)
