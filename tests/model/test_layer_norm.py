"""Integer LayerNorm against the correctly rounded one."""

from pathlib import Path

import numpy as np
import pytest

from vitloom.model.layer_norm import layer_norm, layer_norm_parameters, layer_norm_reference, row_scalars, rsqrt, rsqrt_table

PUBLISHED = np.load(Path(__file__).parents[1] / "data" / "fqvit_ptf_layernorm.npz")
CASES = range(len(PUBLISHED.files) // 10)


def _case(index: int) -> dict:
    """A published case with its bytes as int8, and its zero points likewise."""
    case = {name: PUBLISHED[f"{name}_{index}"] for name in ("alpha", "gamma", "beta")}
    case |= {name: float(PUBLISHED[f"{name}_{index}"]) for name in ("s1", "s_out")}
    case |= {name: int(PUBLISHED[f"{name}_{index}"]) - 128 for name in ("zero", "z_out")}
    return case | {name: (PUBLISHED[f"{name}_{index}"] ^ 128).view(np.int8) for name in ("q", "y_ideal", "y_official")}


def _normalise(case: dict) -> np.ndarray:
    channels = case["q"].shape[-1]
    parameters = layer_norm_parameters(case["gamma"], case["beta"], case["s1"], 0, case["s_out"], case["z_out"], channels)
    return layer_norm(case["q"], case["zero"], case["alpha"], *parameters)


def test_published_inputs_are_nearly_always_correctly_rounded():
    differ = total = 0
    for index in CASES:
        case = _case(index)
        difference = _normalise(case).astype(int) - case["y_ideal"]
        official = np.mean(case["y_official"] != case["y_ideal"])
        print(f"{case['q'].shape}: {np.mean(difference != 0):.3%} of outputs differ from ideal, published {official:.2%}")
        assert np.abs(difference).max() <= 1
        differ, total = differ + np.count_nonzero(difference), total + difference.size
    print(f"all: {differ} of {total}, {differ / total:.3%}")
    assert differ / total <= 0.0035


@pytest.mark.parametrize("index", CASES)
def test_reference_is_the_published_ideal(index):
    case = _case(index)
    arguments = [case[name] for name in ("q", "zero", "alpha", "gamma", "beta", "s1")]
    np.testing.assert_array_equal(layer_norm_reference(*arguments, 0.0, case["s_out"], case["z_out"]), case["y_ideal"])


def test_reciprocal_root_keeps_its_stated_error():
    rng = np.random.default_rng(0)
    d = np.unique(np.concatenate([np.arange(1, 1 << 18), (2.0 ** rng.uniform(0, 46, 200_000)).astype(np.int64), [2**46 - 1]]))
    root, exponent = rsqrt(d)
    assert root.min() >= 2**15
    assert root.max() == 2**16
    worst = np.abs(root - np.ldexp(1 / np.sqrt(d), 16 + exponent)).max()
    print(f"reciprocal root: at most {worst:.3f} of 2**15..2**16")
    assert worst <= 1.5
    np.testing.assert_array_equal(rsqrt(4 ** np.arange(23))[0], np.full(23, 2**16))


def test_reciprocal_root_table_fits_its_widths():
    base, slope = rsqrt_table()
    assert base.shape == slope.shape == (256,)
    assert (base[0], base.max(), base.min() > 2**15) == (2**16, 2**16, True)
    assert 0 < slope.min() <= slope.max() < 2**8
    np.testing.assert_array_equal(base[1:], (base - slope)[:-1])


@pytest.mark.parametrize("channels", [1, 2, 3, 96, 192, 768, 2047, 2048])
def test_row_scalars_keep_their_stated_error_and_widths(channels):
    rng = np.random.default_rng(channels)
    spread = rng.choice([1, 10, 127], (40, 1))
    q = np.clip(rng.normal(0, spread, (40, channels)) + rng.integers(-60, 60, (40, 1)), -128, 127).astype(np.int8)
    alpha = rng.integers(0, 4, channels).astype(np.uint8)
    slope, intercept, shift = row_scalars(q, -20, alpha, 1)
    assert 0 < slope.min() <= slope.max() < 2**17
    assert np.abs(intercept).max() < 2**28
    assert 4 <= shift.min() <= shift.max() <= 37
    x = (q.astype(np.int64) + 20) << alpha.astype(np.int64)
    std = np.sqrt((channels * (x * x).sum(-1) - x.sum(-1) ** 2 + 1.0) / channels**2)[:, None]
    exact = (x - x.mean(-1, keepdims=True)) / std
    found = np.ldexp((x * slope[:, None] - intercept[:, None]).astype(float), 11 - shift[:, None] - 12)
    bound = np.abs(exact) * 2.0**-14 + (np.abs(x) + 1) / std * 2.0**-16
    assert np.all(np.abs(found - exact) <= bound)


@pytest.mark.parametrize("channels", [48, 192, 1024, 2048])
def test_random_rows_never_differ_by_more_than_one(channels):
    rng = np.random.default_rng(channels)
    q = np.clip(rng.normal(-10, 40, (3, 20, channels)), -128, 127).astype(np.int8)
    alpha = rng.integers(0, 4, channels).astype(np.uint8)
    gamma, beta = rng.normal(1, 0.5, channels), rng.normal(0, 0.5, channels)
    gain, offset, epsilon = layer_norm_parameters(gamma, beta, 0.02, 1e-6, 0.03, 7, channels)
    y = layer_norm(q, -10, alpha, gain, offset, epsilon)
    ideal = layer_norm_reference(q, -10, alpha, gamma, beta, 0.02, 1e-6, 0.03, 7)
    difference = y.astype(int) - ideal
    assert np.abs(difference).max() <= 1
    assert np.mean(difference != 0) <= 0.01


@pytest.mark.parametrize("value", [-128, 0, 127])
@pytest.mark.parametrize("channels", [1, 5, 96, 2048])
def test_constant_rows_give_the_offset(value, channels):
    rng = np.random.default_rng(channels)
    q, alpha = np.full((2, channels), value, np.int8), np.full(channels, 3, np.uint8)
    beta = rng.normal(0, 3, channels)
    gain, offset, epsilon = layer_norm_parameters(np.full(channels, 4.0), beta, 0.01, 0, 0.035, 5, channels)
    assert epsilon == 1
    expected = np.clip((offset.astype(int) + 512) >> 10, -128, 127)
    np.testing.assert_array_equal(layer_norm(q, -128, alpha, gain, offset, epsilon), np.tile(expected, (2, 1)))


def test_outliers_saturate_at_32_deviations():
    channels = 2048
    q, alpha = np.zeros((1, channels), np.int8), np.zeros(channels, np.uint8)
    q[0, 0] = 127
    gain = np.full(channels, 2**10, np.int32)
    y = layer_norm(q, 0, alpha, gain, np.zeros(channels, np.int32), 1)
    assert y[0, 0] == 32
    assert np.all(y[0, 1:] == 0)


def test_epsilon_and_parameters_are_clipped_to_their_widths():
    gain, offset, epsilon = layer_norm_parameters([1e6, -1e6], [1e6, -1e6], 1e-6, 1.0, 0.01, 0, 2)
    np.testing.assert_array_equal(gain, [2**17 - 1, 1 - 2**17])
    np.testing.assert_array_equal(offset, [2**19 - 1, 1 - 2**19])
    assert epsilon == 2**32 - 1
    assert layer_norm_parameters([1.0] * 192, [0.0] * 192, 0.01, 1e-6, 0.03, 0, 192)[2] == round(192**2 * 1e-6 / 0.01**2)


def test_bad_arguments_are_refused():
    q, alpha = np.zeros((2, 4), np.int8), np.zeros(4, np.uint8)
    gain, offset = np.ones(4, np.int32), np.zeros(4, np.int32)
    with pytest.raises(ValueError, match="q must be int8, not int64"):
        layer_norm(q.astype(np.int64), 0, alpha, gain, offset, 1)
    with pytest.raises(ValueError, match=r"alpha must be 4 values in 0\.\.3"):
        layer_norm(q, 0, alpha + np.uint8(4), gain, offset, 1)
    with pytest.raises(ValueError, match=r"gain must have the shape \(4,\)"):
        layer_norm(q, 0, alpha, gain[:3], offset, 1)
    with pytest.raises(ValueError, match="offset must fit 20 bits"):
        layer_norm(q, 0, alpha, gain, offset + np.int32(2**19), 1)
    with pytest.raises(ValueError, match="epsilon must be"):
        layer_norm(q, 0, alpha, gain, offset, 0)
    with pytest.raises(ValueError, match="2048 channels, not 2049"):
        row_scalars(np.zeros((1, 2049), np.int8), 0, np.zeros(2049, np.uint8), 1)
