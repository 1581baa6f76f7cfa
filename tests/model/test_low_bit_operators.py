"""Operators on values of less than 8 bits, one by one."""

from dataclasses import replace

import numpy as np
import pytest

from vitloom.model.low_bit import (
    fold_threshold,
    maximum_tables,
    sign,
    threshold_codes,
    uniform_codes,
)
from vitloom.model.network import (
    Codes,
    LayerNorm,
    Linear,
    Operator,
    Tensor,
)


@pytest.mark.parametrize(
    ("bits", "weight_bits", "zeros"), [(8, 1, False), (8, 2, False), (4, 4, True), (4, 2, True), (2, 2, True), (1, 1, True)]
)
def test_a_linear_layer_multiplies_what_its_bits_mean(low_bit, bits, weight_bits, zeros):
    """Ternary weights against int8 (TerViT), zero points of weights (RepQ-ViT), signs; the result narrowed to every width."""
    rng, rows, inputs, outputs = np.random.default_rng([bits, weight_bits]), 9, 40, 12
    x = low_bit.signs(rng, rows, inputs) if bits == 1 else rng.integers(-(1 << bits - 1), 1 << bits - 1, (rows, inputs)).astype(np.int8)
    weight = low_bit.signs(rng, outputs, inputs) if weight_bits == 1 else rng.integers(-1, 2, (outputs, inputs)).astype(np.int8)
    zero = rng.integers(-8, 8, outputs).astype(np.int8)
    acc = x.astype(int) @ (weight.astype(int) - (zero[:, None] if zeros else 0)).T
    multiplier, shift = low_bit.exact(outputs)
    for target, unit in ((8, False), (4, False), (2, False), (1, False), (1, True)):
        tensors = [
            Tensor(name="x", rows=rows, channels=inputs, bits=bits),
            Tensor(name="y", rows=rows, channels=outputs, bits=target, unit=unit),
        ]
        arrays = {"fc.weight": weight, "fc.bias": np.zeros(outputs, np.int32), "fc.multiplier": multiplier, "fc.shift": shift}
        if zeros:
            arrays["fc.weight_zero"] = zero
        network = low_bit.network({"x": x}, tensors, [Linear(name="fc", input="x", output="y", rows=rows, weight_bits=weight_bits)], arrays)
        expected = np.clip(acc, -(1 << target - 1), (1 << target - 1) - 1) if target > 1 else np.where(acc >= 0, 1, 0 if unit else -1)
        np.testing.assert_array_equal(low_bit.run(network)["y"], expected)


def test_a_channel_with_a_negative_scale_is_a_threshold_with_turned_weights(low_bit):
    """``sign(a dot + b)`` with a of either sign: BiViT's linear layers before a sign."""
    rng, rows, inputs, outputs = np.random.default_rng(2), 64, 48, 40
    x, weight = low_bit.signs(rng, rows, inputs), low_bit.signs(rng, outputs, inputs)
    scale, bias = rng.normal(0, 0.3, outputs), rng.normal(0, 2, outputs)
    bias[:4] = scale[:4] * [2, -4, 0, 6]  # an exact tie
    turned, threshold = fold_threshold(weight, scale, bias)
    acc = x.astype(int) @ turned.T.astype(int) + threshold
    y = scale * (x.astype(float) @ weight.T.astype(float)) + bias
    np.testing.assert_array_equal(sign(acc), sign(y))
    assert (scale < 0).any()


def test_layer_norm_by_group_is_one_of_each_head(low_bit):
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
    result = low_bit.run(low_bit.network({"x": x}, tensors, [norm], arrays))["y"].reshape(exact.shape)
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
def test_what_no_core_can_run_is_named(low_bit, change, message):
    rng = np.random.default_rng(0)
    network = low_bit.bivit(low_bit.signs(rng, 5, 128), low_bit.signs(rng, 5, 64), 2, 32)
    for kind in ("tensors", "operators"):
        changes = change.get(kind, {})
        setattr(network, kind, [replace(each, **changes.get(each.name, {})) for each in getattr(network, kind)])
    for name, array in change.get("arrays", {}).items():
        network.arrays[name] = array
        if array is None:
            del network.arrays[name]
    with pytest.raises(ValueError, match=message):
        low_bit.run(network)


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
def test_weights_that_do_not_fit_their_bits_are_named(low_bit, bits, weight_bits, weight, zero, message):
    tensors = [Tensor(name="x", rows=1, channels=3, bits=bits), Tensor(name="y", rows=1, channels=2)]
    multiplier, shift = low_bit.exact(2)
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
        low_bit.run(low_bit.network({"x": np.ones((1, 3), np.int8)}, tensors, operators, arrays))


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
