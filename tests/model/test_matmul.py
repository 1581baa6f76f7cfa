"""Matrix products through BLAS against int64 einsum."""

import numpy as np
import pytest

from vitloom.model.matmul import int8_matmul, log2_matmul


@pytest.mark.parametrize("k", [1, 7, 1024, 1025, 4096])
def test_int8_product_is_exact(k):
    rng = np.random.default_rng(k)
    x, w = (rng.integers(-128, 128, (2, 5, k)).astype(np.int8) for _ in range(2))
    acc = int8_matmul(x, w)
    assert acc.dtype == np.int32
    np.testing.assert_array_equal(acc, np.einsum("bmk,bnk->bmn", x.astype(np.int64), w.astype(np.int64)))


@pytest.mark.parametrize("k", [1023, 1024, 1025, 131071])
def test_int8_product_is_exact_at_its_bound(k):
    """All products at their greatest, one of them one less: the sum needs every bit."""
    x, w = np.full((1, k), -128, np.int8), np.full((1, k), -128, np.int8)
    assert int8_matmul(x, w)[0, 0] == k * 2**14
    x[0, 0], w[0, 0] = 127, 1
    assert int8_matmul(x, w)[0, 0] == (k - 1) * 2**14 + 127


def test_weights_broadcast_over_the_batch():
    rng = np.random.default_rng(3)
    x, w = rng.integers(-128, 128, (4, 3, 8)).astype(np.int8), rng.integers(-128, 128, (6, 8)).astype(np.int8)
    np.testing.assert_array_equal(int8_matmul(x, w)[2], int8_matmul(x[2], w))


def test_products_refuse_what_could_overflow_or_has_the_wrong_type():
    x = np.zeros((1, 131072), np.int8)
    with pytest.raises(ValueError, match="int32"):
        int8_matmul(x, x)
    with pytest.raises(ValueError, match="w must have the shape"):
        int8_matmul(np.zeros((2, 3), np.int8), np.zeros((3, 2), np.int8))
    with pytest.raises(ValueError, match="x must be int8, not uint8"):
        int8_matmul(np.zeros((2, 3), np.uint8), np.zeros((2, 3), np.int8))
    with pytest.raises(ValueError, match=r"codes must be 0\.\.15, not 16"):
        log2_matmul(np.full((1, 1), 16, np.uint8), np.zeros((1, 1), np.int8))
    with pytest.raises(ValueError, match="int32"):
        log2_matmul(np.zeros((1, 1024), np.uint8), np.zeros((1024, 1), np.int8))


def test_log2_product_shifts_and_skips():
    codes = np.arange(16, dtype=np.uint8)[:, None]
    v = np.array([[-128, 127]], np.int8)
    powers = [1 << (14 - c) for c in range(15)] + [0]
    np.testing.assert_array_equal(log2_matmul(codes, v), np.outer(powers, [-128, 127]))


@pytest.mark.parametrize("low", [0, 5])
def test_log2_product_is_exact(low):
    """From code 0 on the bound needs float64, from code 5 on float32 is enough."""
    rng = np.random.default_rng(low)
    codes = rng.integers(low, 16, (3, 4, 200)).astype(np.uint8)
    v = rng.integers(-128, 128, (3, 200, 6)).astype(np.int8)
    shifted = np.where(codes == 15, 0, 1 << (14 - np.minimum(codes, 14).astype(np.int64)))
    acc = log2_matmul(codes, v)
    assert acc.dtype == np.int32
    np.testing.assert_array_equal(acc, np.einsum("bmk,bkn->bmn", shifted, v.astype(np.int64)))
