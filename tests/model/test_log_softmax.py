"""Log-Int-Softmax against the published codes and the true softmax."""

from fractions import Fraction
from math import floor
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vitloom.model.log_softmax import exp_table, log_softmax, log_softmax_exact, log_softmax_reference, log_table

PUBLISHED = np.load(Path(__file__).parents[1] / "data" / "fqvit_log_int_softmax.npz")
CASES = [(_i, float(PUBLISHED[f"scale_{_i}"])) for _i in range(len(PUBLISHED.files) // 3)]


def _logits(case: int) -> np.ndarray:
    return (PUBLISHED[f"logits_{case}"] ^ 128).view(np.int8)


@pytest.mark.parametrize(("case", "scale"), CASES)
def test_exact_form_gives_every_published_code(case, scale):
    np.testing.assert_array_equal(log_softmax_exact(_logits(case), scale), np.minimum(PUBLISHED[f"codes_{case}"], 15))


def test_log_form_is_nearly_always_the_rounded_logarithm():
    differ = total = 0
    for case, scale in CASES:
        x = _logits(case)
        difference = log_softmax(x, exp_table(scale), log_table(scale)).astype(int) - log_softmax_reference(x, scale)
        assert np.abs(difference).max() <= 1
        print(f"scale {scale:.4f}, {x.shape[1]} columns: {np.mean(difference != 0):.2%} of codes differ from the rounded log2")
        differ, total = differ + np.count_nonzero(difference), total + difference.size
    print(f"all: {differ} of {total}, {differ / total:.3%}")
    assert differ / total <= 0.005


@pytest.mark.parametrize(("case", "scale"), CASES)
def test_log_form_stays_within_its_stated_error(case, scale):
    x = _logits(case)
    d = (x.max(-1, keepdims=True).astype(np.int64) - x) * scale
    exact = np.log2(np.exp(-d).sum(-1, keepdims=True)) + d * np.log2(np.e)
    code = log_softmax(x, exp_table(scale), log_table(scale))
    assert np.abs(code - np.minimum(exact, 15)).max() <= 0.516 + 2.3e-5 * x.shape[1]


@given(st.lists(st.integers(-128, 127), min_size=1, max_size=20), st.sampled_from([2.0**-14, 0.01, 0.05, 0.4, 1.67]))
def test_exact_form_follows_its_thresholds_in_rationals(row, scale):
    """The published rule itself: the ratio rounded half to even, then its logarithm by the bit after the leading one."""
    b, c, z0 = floor(2.7073249 / scale), floor(2.7921147 / scale**2), floor(-0.6931 / scale)

    def exponential(d):
        t = max(-d, 16 * z0)
        q, r = t // z0, t - z0 * (t // z0)
        return (r * (r + b) + c) << (16 - q)

    e = [exponential(max(row) - x) for x in row]
    ratios = [round(Fraction(sum(e), part)) for part in e]
    powers = [ratio.bit_length() - 1 for ratio in ratios]
    codes = [p + (2 * (ratio - (1 << p)) >= 1 << p) for p, ratio in zip(powers, ratios, strict=True)]
    np.testing.assert_array_equal(log_softmax_exact(np.array(row, np.int8), scale), np.minimum(codes, 15))


@given(st.lists(st.integers(-60, 60), min_size=1, max_size=40), st.integers(-68, 67), st.floats(0.005, 1.5))
def test_codes_do_not_depend_on_a_common_offset_and_fall_with_the_logit(row, offset, scale):
    x, tables = np.array(row, np.int8), (exp_table(scale), log_table(scale))
    codes = log_softmax(x, *tables)
    np.testing.assert_array_equal(log_softmax((x + offset).astype(np.int8), *tables), codes)
    assert np.all(np.diff(codes[np.argsort(x)].astype(int)) <= 0)


def test_edges():
    tables = exp_table(0.05), log_table(0.05)
    np.testing.assert_array_equal(log_softmax(np.array([[-128]], np.int8), *tables), [[0]])
    np.testing.assert_array_equal(log_softmax(np.full((2, 64), -128, np.int8), *tables), np.full((2, 64), 6))
    np.testing.assert_array_equal(log_softmax(np.full(2048, 127, np.int8), *tables), np.full(2048, 11))
    np.testing.assert_array_equal(log_softmax(np.array([127, -128], np.int8), *tables), [0, 15])


@pytest.mark.parametrize("form", ["log", "exact", "reference"])
def test_columns_past_the_row_change_nothing_and_are_zero(form):
    rng = np.random.default_rng(5)
    x = rng.integers(-128, 128, (3, 4, 32)).astype(np.int8)
    tables = exp_table(0.07), log_table(0.07)
    functions = {
        "log": lambda x, **n: log_softmax(x, *tables, **n),
        "exact": lambda x, **n: log_softmax_exact(x, 0.07, **n),
        "reference": lambda x, **n: log_softmax_reference(x, 0.07, **n),
    }
    function = functions[form]
    x[..., 20:] = 127
    codes = function(x, columns=20)
    assert codes.dtype == np.uint8
    np.testing.assert_array_equal(codes[..., :20], function(np.ascontiguousarray(x[..., :20])))
    np.testing.assert_array_equal(codes[..., 20:], 15)


def test_tables_have_the_widths_of_the_hardware():
    for scale in (1e-6, 0.05, 10.0):
        assert exp_table(scale)[0] == 2**15
        assert exp_table(scale).max() == 2**15
        assert log_table(scale)[0] == 0
        assert log_table(scale).max() <= 4095


def test_bad_arguments_are_refused():
    x, tables = np.zeros((2, 8), np.int8), (exp_table(0.05), log_table(0.05))
    with pytest.raises(ValueError, match="x must be int8, not uint8"):
        log_softmax(x.view(np.uint8), *tables)
    with pytest.raises(ValueError, match=r"log_table must have the shape \(256,\)"):
        log_softmax(x, tables[0], tables[1][:255])
    for columns in (0, 9):
        with pytest.raises(ValueError, match=r"1\.\.8 that count"):
            log_softmax(x, *tables, columns=columns)
    with pytest.raises(ValueError, match="scale must be"):
        log_softmax_exact(x, 2.0)
    for scale in (0.0, -1.0, float("nan")):
        with pytest.raises(ValueError, match="positive"):
            exp_table(scale)


@given(st.lists(st.integers(-128, 127), min_size=1, max_size=40), st.floats(0.005, 1.5))
def test_masked_keys_have_no_weight_and_change_no_other(row, scale):
    x, tables = np.array([*row, -127], np.int8), (exp_table(scale), log_table(scale))
    codes = log_softmax(x, *tables, masked=True)
    assert (codes[x == -128] == 15).all()
    np.testing.assert_array_equal(codes[x != -128], log_softmax(x[x != -128], *tables))


def test_a_row_without_any_key_is_refused():
    with pytest.raises(ValueError, match="every row needs a key that is not masked"):
        log_softmax(np.array([[-128, -128], [0, 1]], np.int8), exp_table(0.1), log_table(0.1), masked=True)
