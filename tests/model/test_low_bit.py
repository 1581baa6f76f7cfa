"""The published rules of low-bit attention in floating point beside the integer operators."""

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from vitloom.model.arith import scale_to_multiplier
from vitloom.model.golden import run
from vitloom.model.log_softmax import coded_softmax, exp_table, log_table
from vitloom.model.low_bit import (
    fold_threshold,
    maximum_distance,
    maximum_tables,
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
    Constant,
    Form,
    ImageFormat,
    IntegerNetwork,
    LayerNorm,
    Linear,
    LogSoftmax,
    Operator,
    Tensor,
)

IMAGE = ImageFormat(channels=1, size=2, patch=2, mean=[0.0], std=[1.0])


def _network(values: dict[str, np.ndarray], tensors: list[Tensor], operators: list[Operator], arrays: dict[str, np.ndarray]) -> Any:
    """Operators on tensors that hold ``values``, without an image before them."""
    return IntegerNetwork(
        name="part",
        scheme="none",
        origin="random",
        image=IMAGE,
        input="patches",
        outputs=[],
        tensors=[Tensor(name="patches", rows=1, channels=4), *tensors],
        constants=[Constant(name=name, output=name) for name in values],
        operators=operators,
        arrays={**arrays, **{f"{name}.value": value for name, value in values.items()}},
    )


def _run(network: IntegerNetwork) -> dict[str, np.ndarray]:
    return {name: array[0] for name, array in run(network, np.zeros((1, 1, 2, 2), np.uint8)).items()}


def _exact(count: int) -> tuple[np.ndarray, np.ndarray]:
    """Multiplier and shift of a requantisation that changes nothing but saturates."""
    return np.full(count, 2, np.uint16), np.ones(count, np.uint8)


def _signs(rng: np.random.Generator, *shape: int) -> np.ndarray:
    return rng.choice(np.array([-1, 1], np.int8), shape)


def _by_head(x: np.ndarray, heads: int, windows: int = 1) -> np.ndarray:
    """(windows * T, heads * channels) to (windows, heads, T, channels) in float64."""
    return x.reshape(windows, len(x) // windows, heads, -1).swapaxes(1, 2).astype(np.float64)


def _flat(x: np.ndarray) -> np.ndarray:
    windows, heads, tokens, channels = x.shape
    return x.swapaxes(1, 2).reshape(windows * tokens, heads * channels)


def _softmax(logits: np.ndarray) -> np.ndarray:
    e = np.exp(logits - logits.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def _bivit(qk: np.ndarray, v: np.ndarray, heads: int, width: int, bias: np.ndarray | None = None, **biased: Any) -> Any:
    """BiViT's attention: qk (rows, 2 heads * width) and v (rows, heads * channels) of signs. The logits are ``dot / 2``, or
    ``2 dot + bias`` with bias (types, heads, T, T).
    """
    rows, channels = len(qk), v.shape[1] // heads
    windows = biased.get("windows", 1)
    keys = rows // windows
    tensors = [
        Tensor(name="qk", rows=rows, groups=2 * heads, channels=width, bits=1),
        Tensor(name="v", rows=rows, groups=heads, channels=channels, bits=1),
        Tensor(name="logits", rows=rows, groups=heads, channels=keys),
        Tensor(name="map", rows=rows, groups=heads, channels=keys, bits=1, unit=True),
        Tensor(name="av", rows=rows, groups=heads, channels=channels, bits=1),
    ]
    masked = biased.get("masked", False)
    operators: list[Operator] = [
        AttentionScores(
            name="scores", input="qk", output="logits", heads=heads, residual_multiplier=2 if bias is not None else 0, **biased
        ),
        LogSoftmax(name="softmax", input="logits", output="map", windows=windows, coded=True, relative=True, masked=masked),
        AttentionValues(name="values", input="map", values="v", output="av", heads=heads, windows=windows, codes=Codes.LINEAR),
    ]
    logs, codes = maximum_tables(maximum_distance(width, 1 if bias is None else 4))
    multiplier, shift = _exact(heads * channels)
    arrays = {
        "scores.multiplier": np.full(heads, 1 if bias is None else 4, np.uint16),
        "scores.shift": np.ones(heads, np.uint8),
        "softmax.exp_table": np.zeros(256, np.uint16),
        "softmax.log_table": logs,
        "softmax.code_table": np.tile(codes, (heads, 1)),
        "values.multiplier": multiplier,
        "values.shift": shift,
        "values.bias": np.zeros(heads * channels, np.int32),
    }
    if bias is not None:
        arrays |= {"scores.bias": bias, "scores.residual_shift": np.zeros(heads, np.uint8)}
    return _network({"qk": qk, "v": v}, tensors, operators, arrays)


@pytest.mark.parametrize("width", [32, 64])
@pytest.mark.parametrize("tokens", [49, 197])
@pytest.mark.parametrize("seed", range(3))
def test_bivit_attention_is_the_float_rule_bit_for_bit(width, tokens, seed):
    """``[softmax(q k^T / sqrt(d)) >= max / 4]`` and ``sign(A v)`` of random signs, sign(0) = +1."""
    rng, heads = np.random.default_rng([width, tokens, seed]), 3
    qk, v = _signs(rng, tokens, 2 * heads * width), _signs(rng, tokens, heads * width)
    if seed:
        qk[:, heads * width :] = qk[:, : heads * width] * rng.choice(np.array([-1, 1, 1, 1], np.int8), (tokens, heads * width))
    tensors = _run(_bivit(qk, v, heads, width))
    q, k = np.split(_by_head(qk, 2 * heads), 2, axis=1)
    p = _softmax(q @ k.swapaxes(-1, -2) / math.sqrt(width))
    a = p >= p.max(-1, keepdims=True) / 4
    np.testing.assert_array_equal(tensors["map"], _flat(a))
    assert 0 < a.mean() < 1
    np.testing.assert_array_equal(tensors["av"], sign(_flat(a @ _by_head(v, heads))))


def test_the_distance_of_bivit_is_that_of_the_hamming_distances():
    assert [maximum_distance(width) for width in (32, 64)] == [3, 5]
    for width in (16, 32, 48, 64, 96, 128):
        for steps in (1, 2, 4):
            real = np.arange(256) * 2 / (steps * math.sqrt(width))
            np.testing.assert_array_equal(np.arange(256) <= maximum_distance(width, steps), np.exp(-real) >= 0.25)


@pytest.mark.parametrize("width", [16, 32])
def test_bivit_with_position_bias_and_mask_is_the_float_rule_on_the_rounded_bias(width):
    """Logits in steps of ``1 / (2 sqrt(d))``: the bias rounded to them is all the error; with it every bit is the float rule's."""
    rng, heads, windows, keys = np.random.default_rng(width), 2, 6, 49
    step = 2 / (4 * math.sqrt(width))
    rounded = np.clip(np.rint(rng.normal(0, 1, (2, heads, keys, keys)) / step), -60, 60).astype(np.int8)
    mask = rng.random((2, 1, keys, keys)) < 0.4
    mask[0] = False
    mask[:, :, np.arange(keys), np.arange(keys)] = False
    window_type = rng.integers(0, 2, windows).astype(np.uint8)
    bias = np.where(mask, np.int8(-128), rounded)
    qk, v = _signs(rng, windows * keys, 2 * heads * width), _signs(rng, windows * keys, heads * width)
    tensors = _run(_bivit_windows(qk, v, heads, width, bias, window_type))
    q, k = np.split(_by_head(qk, 2 * heads, windows), 2, axis=1)
    logits = q @ k.swapaxes(-1, -2) / math.sqrt(width) + (rounded * step + np.where(mask, -100.0, 0.0))[window_type]
    p = _softmax(logits)
    a = p >= p.max(-1, keepdims=True) / 4
    np.testing.assert_array_equal(tensors["map"], _flat(a))
    np.testing.assert_array_equal(tensors["av"], sign(_flat(a @ _by_head(v, heads, windows))))


def _bivit_windows(qk: np.ndarray, v: np.ndarray, heads: int, width: int, bias: np.ndarray, window_type: np.ndarray) -> Any:
    network = _bivit(qk, v, heads, width, bias, windows=len(window_type), masked=True)
    network.operators[0] = replace(network.operators[0], bias=True)
    network.arrays["scores.window_type"] = window_type
    return network


@pytest.mark.parametrize("zero", [0, 1])
def test_the_sign_of_zero_is_a_switch(zero):
    """What ``proj`` takes: with sign(0) = 0 the ternary operand is a pair of unit operands, against ``[w, -w]``."""
    rng, heads, width, tokens, outputs = np.random.default_rng(zero), 2, 32, 49, 24
    qk, v = _signs(rng, tokens, 2 * heads * width), _signs(rng, tokens, heads * width)
    weight = _signs(rng, outputs, heads * width)
    # A head's values are [v, -v]: its result is where the sum is at least 1, and where it is at most -1.
    paired = v.reshape(tokens, heads, width)
    network = _bivit(qk, v if zero else np.concatenate([paired, -paired], -1).reshape(tokens, -1), heads, width)
    if not zero:
        network.tensors = [replace(t, unit=True, zero_point=-1) if t.name == "av" else t for t in network.tensors]
    network.tensors.append(Tensor(name="proj", rows=tokens, channels=outputs, bits=32))
    network.operators.append(Linear(name="proj", input="av", output="proj", form=Form.RAW, rows=tokens, weight_bits=1))
    multiplier, shift = _exact(outputs)
    network.arrays |= {
        "proj.weight": weight if zero else paired_weight(weight, heads),
        "proj.bias": np.zeros(outputs, np.int32),
        "proj.multiplier": multiplier,
        "proj.shift": shift,
    }
    tensors = _run(network)
    mixed = _flat(_by_head(tensors["map"], heads) @ _by_head(v, heads))
    assert np.mean(mixed == 0) > 0.02
    expected = sign(mixed, zero=zero)
    np.testing.assert_array_equal(tensors["av"], expected if zero else unit_pair(expected, heads))
    np.testing.assert_array_equal(tensors["proj"], expected.astype(int) @ weight.T.astype(int))


def test_bibert_attention_compares_the_scores_with_zero():
    """``A = [q k^T > 0]``, no softmax: the map is the logits' epilogue, of 1 bit."""
    rng, heads, width, tokens = np.random.default_rng(7), 2, 32, 49
    qk, v = _signs(rng, tokens, 2 * heads * width), _signs(rng, tokens, heads * width)
    network = _bivit(qk, v, heads, width)
    network.tensors = [t for t in network.tensors if t.name != "logits"]
    network.tensors = [replace(t, zero_point=-1) if t.name == "map" else t for t in network.tensors]
    scores, _, values = network.operators
    network.operators = [replace(scores, output="map"), values]
    network.arrays["scores.multiplier"][:] = 2
    tensors = _run(network)
    q, k = np.split(_by_head(qk, 2 * heads), 2, axis=1)
    a = q @ k.swapaxes(-1, -2) > 0
    np.testing.assert_array_equal(tensors["map"], _flat(a))
    np.testing.assert_array_equal(tensors["av"], sign(_flat(a @ _by_head(v, heads))))


def _near(weights: np.ndarray, threshold: np.ndarray | float) -> np.ndarray:
    """Weights within :func:`coded_softmax`'s error of a threshold, in sixteenths of an octave."""
    return np.abs(16 * np.log2(weights / threshold)) <= 0.75 + 3.7e-4 * weights.shape[-1]


@pytest.mark.parametrize("keys", [49, 197])
def test_bi_vit_thresholds_are_exact_but_next_to_the_threshold(keys):
    """``p >= t`` of each head: where p is 3.3 % and a rounding of the sum from t the bit is the float rule's."""
    rng, scale = np.random.default_rng(keys), 0.1
    x = np.clip(rng.normal(0, 30, (4, keys, keys)), -128, 127).astype(np.int8)
    thresholds = np.array([0.005, 0.02, 0.1, 0.3])
    codes = coded_softmax(x, exp_table(scale), log_table(scale), threshold_codes(thresholds))
    p = _softmax(scale * x.astype(np.float64))
    expected, near = p >= thresholds[:, None, None], _near(p, thresholds[:, None, None])
    np.testing.assert_array_equal(codes[~near], expected[~near])
    assert near.mean() < 0.05
    assert expected.any((1, 2)).all()
    assert np.mean(codes != expected) < 0.02


def test_a_bi_vit_product_has_both_zero_points():
    """Map of {0, 2 a} against ``s - z`` of signs, q against ``k - z``: the affine form of the paper, exact in integers."""
    rng, heads, width, tokens = np.random.default_rng(5), 2, 32, 21
    qk, v = _signs(rng, tokens, 2 * heads * width), _signs(rng, tokens, heads * width)
    network = _bivit(qk, v, heads, width)
    network.tensors = [replace(t, bits=8) if t.name == "av" else t for t in network.tensors]
    scores, softmax, values = network.operators
    network.operators = [replace(scores, key_zero=-1), softmax, replace(values, value_zero=3)]
    tensors = _run(network)
    q, k = np.split(_by_head(qk, 2 * heads), 2, axis=1)
    np.testing.assert_array_equal(tensors["logits"], _flat(q @ (k + 1).swapaxes(-1, -2) // 2))
    mixed = _by_head(tensors["map"], heads) @ (_by_head(v, heads) - 3)
    np.testing.assert_array_equal(tensors["av"], np.clip(_flat(mixed), -128, 127))


@pytest.mark.parametrize("delta", [1.0, 0.37, 0.05])
def test_repq_codes_are_off_by_one_at_most_and_only_next_to_a_half(delta):
    """``round(-2 log2(p / delta))``, 16 and 15 being zero."""
    rng, scale, keys = np.random.default_rng(3), 0.08, 197
    x = np.clip(rng.normal(0, 40, (2, keys, keys)), -128, 127).astype(np.int8)
    codes = coded_softmax(x, exp_table(scale), log_table(scale), sqrt2_codes([delta, delta]))
    exact = np.clip(-2 * np.log2(_softmax(scale * x.astype(np.float64)) / delta), -0.4, 15.6)
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


def test_qvit_quantises_and_multiplies_with_zero_points():
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
    result = _run(_network({"qkv": np.concatenate([q, k, v], axis=1)}, tensors, operators, arrays))

    q, k, v = (_by_head(x, heads) - z for x, z in zip((q, k, v), zeros, strict=True))
    logits = q @ k.swapaxes(-1, -2) * scales[0] * scales[1] / math.sqrt(width)
    assert np.abs(_by_head(result["logits"], heads) - np.clip(logits / scale, -128, 127)).max() <= 0.51
    p = _softmax(scale * _by_head(result["logits"], heads))
    wide = steps[:, None, None]
    codes = np.minimum(np.floor(p / wide + 0.5), 15)
    boundary = (np.maximum(np.rint(p / wide - 0.5), 0) + 0.5) * wide  # the nearest one
    near = _near(p, boundary)
    given = _by_head(result["map"], heads) + 8
    np.testing.assert_array_equal(given[~near], codes[~near])
    assert np.abs(given - codes).max() <= 1
    mixed = (given * wide) @ v * scales[2] + (bias * np.repeat(steps, width) * scales[2]).reshape(heads, 1, width)
    expected = np.clip(np.floor(mixed / 0.02 + 0.5) + 1, -8, 7)
    close = np.abs(mixed / 0.02 + 0.5 - np.rint(mixed / 0.02 + 0.5)) < 1e-2
    np.testing.assert_array_equal(_by_head(result["av"], heads)[~close], expected[~close])


@pytest.mark.parametrize(
    ("bits", "weight_bits", "zeros"), [(8, 1, False), (8, 2, False), (4, 4, True), (4, 2, True), (2, 2, True), (1, 1, True)]
)
def test_a_linear_layer_multiplies_what_its_bits_mean(bits, weight_bits, zeros):
    """Ternary weights against int8 (TerViT), zero points of weights (RepQ-ViT), signs; the result narrowed to every width."""
    rng, rows, inputs, outputs = np.random.default_rng([bits, weight_bits]), 9, 40, 12
    x = _signs(rng, rows, inputs) if bits == 1 else rng.integers(-(1 << bits - 1), 1 << bits - 1, (rows, inputs)).astype(np.int8)
    weight = _signs(rng, outputs, inputs) if weight_bits == 1 else rng.integers(-1, 2, (outputs, inputs)).astype(np.int8)
    zero = rng.integers(-8, 8, outputs).astype(np.int8)
    acc = x.astype(int) @ (weight.astype(int) - (zero[:, None] if zeros else 0)).T
    multiplier, shift = _exact(outputs)
    for target, unit in ((8, False), (4, False), (2, False), (1, False), (1, True)):
        tensors = [
            Tensor(name="x", rows=rows, channels=inputs, bits=bits),
            Tensor(name="y", rows=rows, channels=outputs, bits=target, unit=unit),
        ]
        arrays = {"fc.weight": weight, "fc.bias": np.zeros(outputs, np.int32), "fc.multiplier": multiplier, "fc.shift": shift}
        if zeros:
            arrays["fc.weight_zero"] = zero
        network = _network({"x": x}, tensors, [Linear(name="fc", input="x", output="y", rows=rows, weight_bits=weight_bits)], arrays)
        expected = np.clip(acc, -(1 << target - 1), (1 << target - 1) - 1) if target > 1 else np.where(acc >= 0, 1, 0 if unit else -1)
        np.testing.assert_array_equal(_run(network)["y"], expected)


def test_a_channel_with_a_negative_scale_is_a_threshold_with_turned_weights():
    """``sign(a dot + b)`` with a of either sign: BiViT's linear layers before a sign."""
    rng, rows, inputs, outputs = np.random.default_rng(2), 64, 48, 40
    x, weight = _signs(rng, rows, inputs), _signs(rng, outputs, inputs)
    scale, bias = rng.normal(0, 0.3, outputs), rng.normal(0, 2, outputs)
    bias[:4] = scale[:4] * [2, -4, 0, 6]  # an exact tie
    turned, threshold = fold_threshold(weight, scale, bias)
    acc = x.astype(int) @ turned.T.astype(int) + threshold
    y = scale * (x.astype(float) @ weight.T.astype(float)) + bias
    np.testing.assert_array_equal(sign(acc), sign(y))
    assert (scale < 0).any()


def test_layer_norm_by_group_is_one_of_each_head():
    """Q and k of Q-ViT and Bi-ViT, v left alone; the result is narrowed."""
    rng, rows, groups, channels = np.random.default_rng(9), 5, 4, 16
    x = rng.integers(-128, 128, (rows, 6 * channels)).astype(np.int8)
    gain = rng.integers(1000, 3000, groups * channels, dtype=np.int32)
    arrays = {"norm.alpha": np.zeros(groups * channels, np.uint8), "norm.gain": gain, "norm.offset": np.zeros(groups * channels, np.int32)}
    tensors = [
        Tensor(name="x", rows=rows, groups=6, channels=channels),
        Tensor(name="y", rows=rows, groups=groups, channels=channels, bits=4),
    ]
    norm = LayerNorm(name="norm", input="x", output="y", rows=rows, epsilon=1, by_group=True)
    real = x[:, : groups * channels].reshape(rows, groups, channels).astype(np.float64)
    normal = (real - real.mean(-1, keepdims=True)) / real.std(-1, keepdims=True)
    exact = normal * gain.reshape(groups, channels) / 1024
    result = _run(_network({"x": x}, tensors, [norm], arrays))["y"].reshape(exact.shape)
    assert np.abs(result - np.clip(exact, -8, 7)).max() <= 0.51


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"tensors": {"qk": {"bits": 3}}}, "qk has 3 bits; values have 8, 4, 2 or 1"),
        ({"tensors": {"qk": {"unit": True, "bits": 2}}}, "qk is a unit tensor of 2 bits"),
        ({"tensors": {"map": {"unit": False}}}, "codes of 1 bit from a unit tensor, and map is none"),
        ({"tensors": {"v": {"bits": 2}}}, "codes and values of the same bits, not 1 and 2"),
        ({"tensors": {"logits": {"bits": 4}}}, "softmax reads logits of 4 bits where only 8 will do"),
        ({"tensors": {"v": {"groups": 1}}}, "values takes v or q, k and v of 2 heads, a group each; v has 1 groups"),
        ({"operators": {"scores": {"query_zero": 1}}}, "scores.query_zero must be -8..7, and 0 but for 4 bits; it is 1 for 1"),
        ({"operators": {"scores": {"key_zero": 16}}}, "scores.key_zero must be -15..15, not 16"),
        ({"operators": {"softmax": {"coded": False, "relative": False}}}, "codes of octaves, which take 8 bits, not 1"),
        ({"operators": {"values": {"codes": Codes.SQRT2}}}, "takes sqrt2 codes in 8 bits, not in 1"),
        ({"arrays": {"scores.shift": np.ones(3, np.uint8)}}, r"scores.shift must have the shape \(2,\), not \(3,\)"),
        ({"arrays": {"softmax.code_table": np.zeros((1, 256), np.int8)}}, r"code_table must have the shape \(2, 256\), not \(1, 256\)"),
        ({"arrays": {"softmax.code_table": np.full((2, 256), 2, np.int8)}}, "code_table has the value 2; of 1 bit they are 0 to 1"),
        ({"arrays": {"softmax.code_table": np.ones((2, 256), np.int8)}}, r"must end with the code of zero, 0, and not with \[1, 1\]"),
        ({"arrays": {"v.value": np.zeros((5, 64), np.int8)}}, r"v.value has the value 0; of 1 bit they are -1 or \+1"),
        ({"arrays": {"values.bias": None}}, "part has no array values.bias"),
    ],
)
def test_what_no_core_can_run_is_named(change, message):
    rng = np.random.default_rng(0)
    network = _bivit(_signs(rng, 5, 128), _signs(rng, 5, 64), 2, 32)
    for kind in ("tensors", "operators"):
        changes = change.get(kind, {})
        setattr(network, kind, [replace(each, **changes.get(each.name, {})) for each in getattr(network, kind)])
    for name, array in change.get("arrays", {}).items():
        network.arrays[name] = array
        if array is None:
            del network.arrays[name]
    with pytest.raises(ValueError, match=message):
        _run(network)


@pytest.mark.parametrize(
    ("bits", "weight_bits", "weight", "zero", "message"),
    [
        (2, 4, 1, 0, "fc has weights of 4 bits; those of an input of 2 bits have no more than it"),
        (8, 3, 1, 0, "fc.weight has 3 bits"),
        (8, 2, 2, 0, "fc.weight has the value 2; of 2 bits they are -2 to 1"),
        (8, 1, 0, 0, r"fc.weight has the value 0; of 1 bit they are -1 or \+1"),
        (8, 4, 1, 1, "fc.weight_zero needs an operand of 4, 2 or 1 bits on the other side; x has 8"),
        (4, 4, 1, 16, "fc.weight_zero must be -15..15, not 16..16"),
    ],
)
def test_weights_that_do_not_fit_their_bits_are_named(bits, weight_bits, weight, zero, message):
    tensors = [Tensor(name="x", rows=1, channels=3, bits=bits), Tensor(name="y", rows=1, channels=2)]
    multiplier, shift = _exact(2)
    arrays = {
        "fc.weight": np.full((2, 3), weight, np.int8),
        "fc.bias": np.zeros(2, np.int32),
        "fc.multiplier": multiplier,
        "fc.shift": shift,
    }
    if zero:
        arrays["fc.weight_zero"] = np.full(2, zero, np.int8)
    operators: list[Operator] = [Linear(name="fc", input="x", output="y", rows=1, weight_bits=weight_bits)]
    with pytest.raises(ValueError, match=message):
        _run(_network({"x": np.ones((1, 3), np.int8)}, tensors, operators, arrays))


def test_wrong_rules_are_named():
    with pytest.raises(ValueError, match=r"thresholds of a softmax are 2\*\*-15 .. 1, not 0..0"):
        threshold_codes([0.0])
    with pytest.raises(ValueError, match=r"4 bits hold 2..16 levels from -8 on, not 16 from 1 on"):
        uniform_codes([0.1], 16, 1)
    with pytest.raises(ValueError, match="scales must be finite and not 0"):
        fold_threshold(np.ones((1, 2), np.int8), np.zeros(1), np.zeros(1))
    with pytest.raises(ValueError, match=r"a distance of logits is 0..254, not 300"):
        maximum_tables(300)
    with pytest.raises(ValueError, match="the sign of zero is 0 or 1, not -1"):
        sign([0], zero=-1)
