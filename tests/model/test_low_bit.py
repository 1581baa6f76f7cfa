"""The published rules of low-bit attention in floating point beside the integer operators."""

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from vitloom.model.arith import scale_to_multiplier
from vitloom.model.log_softmax import coded_softmax, exp_table, log_table
from vitloom.model.low_bit import (
    maximum_distance,
    paired_weight,
    sign,
    sqrt2_codes,
    threshold_codes,
    uniform_codes,
    unit_pair,
)
from vitloom.model.matmul import SQRT2_WEIGHTS, log2_matmul
from vitloom.model.network import (
    AttentionScores,
    AttentionValues,
    Codes,
    Form,
    Linear,
    LogSoftmax,
    Operator,
    Tensor,
)


@pytest.mark.parametrize("width", [32, 64])
@pytest.mark.parametrize("tokens", [49, 197])
@pytest.mark.parametrize("seed", range(3))
def test_bivit_attention_is_the_float_rule_bit_for_bit(low_bit, width, tokens, seed):
    """``[softmax(q k^T / sqrt(d)) >= max / 4]`` and ``sign(A v)`` of random signs, sign(0) = +1."""
    rng, heads = np.random.default_rng([width, tokens, seed]), 3
    qk, v = low_bit.signs(rng, tokens, 2 * heads * width), low_bit.signs(rng, tokens, heads * width)
    if seed:
        qk[:, heads * width :] = qk[:, : heads * width] * rng.choice(np.array([-1, 1, 1, 1], np.int8), (tokens, heads * width))
    tensors = low_bit.run(low_bit.bivit(qk, v, heads, width))
    q, k = np.split(low_bit.by_head(qk, 2 * heads), 2, axis=1)
    p = low_bit.softmax(q @ k.swapaxes(-1, -2) / math.sqrt(width))
    a = p >= p.max(-1, keepdims=True) / 4
    np.testing.assert_array_equal(tensors["map"], low_bit.flat(a))
    assert 0 < a.mean() < 1
    np.testing.assert_array_equal(tensors["av"], sign(low_bit.flat(a @ low_bit.by_head(v, heads))))


def test_the_distance_of_bivit_is_that_of_the_hamming_distances():
    assert [maximum_distance(width) for width in (32, 64)] == [3, 5]
    for width in (16, 32, 48, 64, 96, 128):
        for steps in (1, 2, 4):
            real = np.arange(256) * 2 / (steps * math.sqrt(width))
            np.testing.assert_array_equal(np.arange(256) <= maximum_distance(width, steps), np.exp(-real) >= 0.25)


@pytest.mark.parametrize("width", [16, 32])
def test_bivit_with_position_bias_and_mask_is_the_float_rule_on_the_rounded_bias(low_bit, width):
    """Logits in steps of ``1 / (2 sqrt(d))``: the bias rounded to them is all the error; with it every bit is the float rule's."""
    rng, heads, windows, keys = np.random.default_rng(width), 2, 6, 49
    step = 2 / (4 * math.sqrt(width))
    rounded = np.clip(np.rint(rng.normal(0, 1, (2, heads, keys, keys)) / step), -60, 60).astype(np.int8)
    mask = rng.random((2, 1, keys, keys)) < 0.4
    mask[0] = False
    mask[:, :, np.arange(keys), np.arange(keys)] = False
    window_type = rng.integers(0, 2, windows).astype(np.uint8)
    bias = np.where(mask, np.int8(-128), rounded)
    qk, v = low_bit.signs(rng, windows * keys, 2 * heads * width), low_bit.signs(rng, windows * keys, heads * width)
    tensors = low_bit.run(_bivit_windows(low_bit, qk, v, heads, width, bias, window_type))
    q, k = np.split(low_bit.by_head(qk, 2 * heads, windows), 2, axis=1)
    logits = q @ k.swapaxes(-1, -2) / math.sqrt(width) + (rounded * step + np.where(mask, -100.0, 0.0))[window_type]
    p = low_bit.softmax(logits)
    a = p >= p.max(-1, keepdims=True) / 4
    np.testing.assert_array_equal(tensors["map"], low_bit.flat(a))
    np.testing.assert_array_equal(tensors["av"], sign(low_bit.flat(a @ low_bit.by_head(v, heads, windows))))


def _bivit_windows(low_bit: Any, qk: np.ndarray, v: np.ndarray, heads: int, width: int, bias: np.ndarray, window_type: np.ndarray) -> Any:
    network = low_bit.bivit(qk, v, heads, width, bias, windows=len(window_type), masked=True)
    network.operators[0] = replace(network.operators[0], bias=True)
    network.arrays["scores.window_type"] = window_type
    return network


@pytest.mark.parametrize("zero", [0, 1])
def test_the_sign_of_zero_is_a_switch(low_bit, zero):
    """What ``proj`` takes: with sign(0) = 0 the ternary operand is a pair of unit operands, against ``[w, -w]``."""
    rng, heads, width, tokens, outputs = np.random.default_rng(zero), 2, 32, 49, 24
    qk, v = low_bit.signs(rng, tokens, 2 * heads * width), low_bit.signs(rng, tokens, heads * width)
    weight = low_bit.signs(rng, outputs, heads * width)
    # A head's values are [v, -v]: its result is where the sum is at least 1, and where it is at most -1.
    paired = v.reshape(tokens, heads, width)
    network = low_bit.bivit(qk, v if zero else np.concatenate([paired, -paired], -1).reshape(tokens, -1), heads, width)
    if not zero:
        network.tensors = [replace(t, unit=True, zero_point=-1) if t.name == "av" else t for t in network.tensors]
    network.tensors.append(Tensor(name="proj", rows=tokens, channels=outputs, bits=32))
    network.operators.append(Linear(name="proj", input="av", output="proj", form=Form.RAW, rows=tokens, weight_bits=1))
    multiplier, shift = low_bit.exact(outputs)
    network.arrays |= {
        "proj.weight": weight if zero else paired_weight(weight, heads),
        "proj.bias": np.zeros(outputs, np.int32),
        "proj.multiplier": multiplier,
        "proj.shift": shift,
    }
    tensors = low_bit.run(network)
    mixed = low_bit.flat(low_bit.by_head(tensors["map"], heads) @ low_bit.by_head(v, heads))
    assert np.mean(mixed == 0) > 0.02
    expected = sign(mixed, zero=zero)
    np.testing.assert_array_equal(tensors["av"], expected if zero else unit_pair(expected, heads))
    np.testing.assert_array_equal(tensors["proj"], expected.astype(int) @ weight.T.astype(int))


def test_bibert_attention_compares_the_scores_with_zero(low_bit):
    """``A = [q k^T > 0]``, no softmax: the map is the logits' epilogue, of 1 bit."""
    rng, heads, width, tokens = np.random.default_rng(7), 2, 32, 49
    qk, v = low_bit.signs(rng, tokens, 2 * heads * width), low_bit.signs(rng, tokens, heads * width)
    network = low_bit.bivit(qk, v, heads, width)
    network.tensors = [t for t in network.tensors if t.name != "logits"]
    network.tensors = [replace(t, zero_point=-1) if t.name == "map" else t for t in network.tensors]
    scores, _, values = network.operators
    network.operators = [replace(scores, output="map"), values]
    network.arrays["scores.multiplier"][:] = 2
    tensors = low_bit.run(network)
    q, k = np.split(low_bit.by_head(qk, 2 * heads), 2, axis=1)
    a = q @ k.swapaxes(-1, -2) > 0
    np.testing.assert_array_equal(tensors["map"], low_bit.flat(a))
    np.testing.assert_array_equal(tensors["av"], sign(low_bit.flat(a @ low_bit.by_head(v, heads))))


def _near(weights: np.ndarray, threshold: np.ndarray | float) -> np.ndarray:
    """Weights within :func:`coded_softmax`'s error of a threshold, in sixteenths of an octave."""
    return np.abs(16 * np.log2(weights / threshold)) <= 0.75 + 3.7e-4 * weights.shape[-1]


@pytest.mark.parametrize("keys", [49, 197])
def test_bi_vit_thresholds_are_exact_but_next_to_the_threshold(low_bit, keys):
    """``p >= t`` of each head: where p is 3.3 % and a rounding of the sum from t the bit is the float rule's."""
    rng, scale = np.random.default_rng(keys), 0.1
    x = np.clip(rng.normal(0, 30, (4, keys, keys)), -128, 127).astype(np.int8)
    thresholds = np.array([0.005, 0.02, 0.1, 0.3])
    codes = coded_softmax(x, exp_table(scale), log_table(scale), threshold_codes(thresholds))
    p = low_bit.softmax(scale * x.astype(np.float64))
    expected, near = p >= thresholds[:, None, None], _near(p, thresholds[:, None, None])
    np.testing.assert_array_equal(codes[~near], expected[~near])
    assert near.mean() < 0.05
    assert expected.any((1, 2)).all()
    assert np.mean(codes != expected) < 0.02


def test_a_bi_vit_product_has_both_zero_points(low_bit):
    """Map of {0, 2 a} against ``s - z`` of signs, q against ``k - z``: the affine form of the paper, exact in integers."""
    rng, heads, width, tokens = np.random.default_rng(5), 2, 32, 21
    qk, v = low_bit.signs(rng, tokens, 2 * heads * width), low_bit.signs(rng, tokens, heads * width)
    network = low_bit.bivit(qk, v, heads, width)
    network.tensors = [replace(t, bits=8) if t.name == "av" else t for t in network.tensors]
    scores, softmax, values = network.operators
    network.operators = [replace(scores, key_zero=-1), softmax, replace(values, value_zero=3)]
    tensors = low_bit.run(network)
    q, k = np.split(low_bit.by_head(qk, 2 * heads), 2, axis=1)
    np.testing.assert_array_equal(tensors["logits"], low_bit.flat(q @ (k + 1).swapaxes(-1, -2) // 2))
    mixed = low_bit.by_head(tensors["map"], heads) @ (low_bit.by_head(v, heads) - 3)
    np.testing.assert_array_equal(tensors["av"], np.clip(low_bit.flat(mixed), -128, 127))


@pytest.mark.parametrize("delta", [1.0, 0.37, 0.05])
def test_repq_codes_are_off_by_one_at_most_and_only_next_to_a_half(low_bit, delta):
    """``round(-2 log2(p / delta))``, 16 and 15 being zero."""
    rng, scale, keys = np.random.default_rng(3), 0.08, 197
    x = np.clip(rng.normal(0, 40, (2, keys, keys)), -128, 127).astype(np.int8)
    codes = coded_softmax(x, exp_table(scale), log_table(scale), sqrt2_codes([delta, delta]))
    exact = np.clip(-2 * np.log2(low_bit.softmax(scale * x.astype(np.float64)) / delta), -0.4, 15.6)
    expected = np.minimum(np.floor(exact + 0.5), 15)
    error = (0.75 + 3.7e-4 * keys) / 8
    near = np.abs(exact + 0.5 - np.rint(exact + 0.5)) <= error
    np.testing.assert_array_equal(codes[~near], expected[~near])
    assert np.abs(codes - expected).max() <= 1
    assert len(np.unique(codes)) > 10


def test_half_octaves_are_the_two_exact_sums_but_for_their_last_bit():
    """RepQ-ViT: ``S_even + sqrt(2) S_odd`` of shifted values. An odd code's weight is off by half a unit at most: 1.1e-4 of it."""
    weights = 2.0 ** (14 - np.arange(15) / 2)
    assert np.abs(SQRT2_WEIGHTS[:15] / weights - 1).max() <= 1.1e-4
    rng = np.random.default_rng(0)
    codes = rng.integers(0, 16, (40, 197)).astype(np.uint8)
    codes[:, ::2] |= 8  # a row's powers stay in 32 bits
    v = rng.integers(-15, 16, (197, 64)).astype(np.int8)
    shifted = np.where(codes < 15, 2.0 ** (14 - (codes + 1) // 2), 0.0)
    odd = codes % 2 == 1
    two_sums = (shifted * ~odd) @ v.astype(float) + math.sqrt(2) * ((shifted * odd) @ v.astype(float))
    acc = log2_matmul(codes, v, SQRT2_WEIGHTS)
    bound = 0.5 * (odd & (codes < 15)).astype(float) @ np.abs(v).astype(float)
    assert np.all(np.abs(acc - two_sums) <= bound + 1e-6)


def test_qvit_quantises_and_multiplies_with_zero_points(low_bit):
    """4 bits: ``a (q - z)`` of q, k, v and the map. The integer product is the real one over its scales, the map's codes are the float
    rule's but next to a rounding boundary.
    """
    rng, heads, width, tokens = np.random.default_rng(11), 2, 32, 49
    scales, zeros = (0.3, 0.2, 0.25), (-3, 2, 5)
    real = rng.normal(0, 1, (3, tokens, heads * width))
    q, k, v = (np.clip(np.floor(x / a + 0.5) + z, -8, 7).astype(np.int8) for x, a, z in zip(real, scales, zeros, strict=True))
    steps = np.array([0.02, 0.05])
    scale = 0.06
    multiplier, shift = scale_to_multiplier(np.full(heads, scales[0] * scales[1] / (math.sqrt(width) * scale)))
    values_multiplier, values_shift = scale_to_multiplier(np.repeat(steps, width) * scales[2] / 0.02)
    bias = rng.integers(-20, 20, heads * width, dtype=np.int32)
    tensors = [
        Tensor(name="qkv", rows=tokens, groups=3 * heads, channels=width, bits=4),
        Tensor(name="logits", rows=tokens, groups=heads, channels=tokens),
        Tensor(name="map", rows=tokens, groups=heads, channels=tokens, bits=4, zero_point=-8),
        Tensor(name="av", rows=tokens, groups=heads, channels=width, bits=4, zero_point=1),
    ]
    operators: list[Operator] = [
        AttentionScores(name="scores", input="qkv", output="logits", heads=heads, query_zero=zeros[0], key_zero=zeros[1]),
        LogSoftmax(name="softmax", input="logits", output="map", coded=True),
        AttentionValues(name="values", input="map", values="qkv", output="av", heads=heads, codes=Codes.LINEAR, value_zero=zeros[2]),
    ]
    arrays = {
        "scores.multiplier": multiplier,
        "scores.shift": shift,
        "softmax.exp_table": exp_table(scale),
        "softmax.log_table": log_table(scale),
        "softmax.code_table": uniform_codes(steps, 16, -8),
        "values.multiplier": values_multiplier,
        "values.shift": values_shift,
        "values.bias": bias,
    }
    result = low_bit.run(low_bit.network({"qkv": np.concatenate([q, k, v], axis=1)}, tensors, operators, arrays))

    q, k, v = (low_bit.by_head(x, heads) - z for x, z in zip((q, k, v), zeros, strict=True))
    logits = q @ k.swapaxes(-1, -2) * scales[0] * scales[1] / math.sqrt(width)
    assert np.abs(low_bit.by_head(result["logits"], heads) - np.clip(logits / scale, -128, 127)).max() <= 0.51
    p = low_bit.softmax(scale * low_bit.by_head(result["logits"], heads))
    wide = steps[:, None, None]
    codes = np.minimum(np.floor(p / wide + 0.5), 15)
    boundary = (np.maximum(np.rint(p / wide - 0.5), 0) + 0.5) * wide  # the nearest one
    near = _near(p, boundary)
    given = low_bit.by_head(result["map"], heads) + 8
    np.testing.assert_array_equal(given[~near], codes[~near])
    assert np.abs(given - codes).max() <= 1
    mixed = (given * wide) @ v * scales[2] + (bias * np.repeat(steps, width) * scales[2]).reshape(heads, 1, width)
    expected = np.clip(np.floor(mixed / 0.02 + 0.5) + 1, -8, 7)
    close = np.abs(mixed / 0.02 + 0.5 - np.rint(mixed / 0.02 + 0.5)) < 1e-2
    np.testing.assert_array_equal(low_bit.by_head(result["av"], heads)[~close], expected[~close])
