"""The golden model's windows, row maps, masks and average pooling, against rolled and partitioned images and plain loops."""

import numpy as np
import pytest

from vitloom.model.golden import run
from vitloom.model.layer_norm import layer_norm
from vitloom.model.log_softmax import log_softmax
from vitloom.model.network import IntegerNetwork

SIDE, WINDOW, SHIFT, TOKENS = 14, 7, 3, 49
BLOCK = "layers.0.blocks.1"  # the one that is shifted, and before the patch merging


@pytest.fixture(scope="module")
def images() -> np.ndarray:
    return np.random.default_rng(5).integers(0, 256, (2, 3, 56, 56), dtype=np.uint8)


@pytest.fixture(scope="module")
def tensors(tiny_swin_network, images) -> dict:
    return run(tiny_swin_network, images)


def _partition(rows: np.ndarray, shift: int) -> np.ndarray:
    """(B, 14 * 14, C) of an image to windows (B, 4, 49, C), by rolling the image."""
    image = np.roll(rows.reshape(-1, SIDE, SIDE, rows.shape[-1]), (-shift, -shift), (1, 2))
    return np.stack([image[:, y : y + 7, x : x + 7].reshape(len(rows), TOKENS, -1) for y in (0, 7) for x in (0, 7)], axis=1)


def _requantized(network: IntegerNetwork, name: str, acc: np.ndarray, addend: np.ndarray | int = 0) -> np.ndarray:
    """``acc`` (..., N) through the epilogue of ``name``, ``addend`` being the scaled residual."""
    arrays = network.arrays
    multiplier, shift = (arrays[f"{name}.{part}"].astype(np.int64) for part in ("multiplier", "shift"))
    total = (acc.astype(np.int64) + arrays.get(f"{name}.bias", 0)) * multiplier + addend
    return np.clip(((total + (1 << (shift - 1))) >> shift) + network.tensor(name).zero_point, -128, 127)


def _operator(network: IntegerNetwork, name: str):
    return next(o for o in network.operators if o.name == name)


def _onto(network: IntegerNetwork, tensors: dict, name: str, source: np.ndarray) -> np.ndarray:
    """A residual layer in raster order, ``source`` being its input in raster order."""
    operator = _operator(network, name)
    residual = (tensors[operator.residual].astype(np.int64) - operator.residual_zero) * operator.residual_multiplier
    acc = source.astype(np.int64) @ network.arrays[f"{name}.weight"].astype(np.int64).T
    return _requantized(network, name, acc, residual << network.arrays[f"{name}.residual_shift"].astype(np.int64))


@pytest.mark.parametrize(("block", "shift"), [("layers.0.blocks.0", 0), (BLOCK, SHIFT)])
def test_norm_writes_the_shifted_windows_one_after_the_other(tiny_swin_network, tensors, block, shift):
    operator = _operator(tiny_swin_network, f"{block}.norm1")
    parts = (tiny_swin_network.arrays[f"{block}.norm1.{part}"] for part in ("alpha", "gain", "offset"))
    zero = tiny_swin_network.tensor(operator.input).zero_point
    raster = layer_norm(tensors[operator.input], zero, *parts, operator.epsilon)
    np.testing.assert_array_equal(tensors[f"{block}.norm1"], _partition(raster, shift).reshape(2, SIDE**2, -1))


@pytest.mark.parametrize(("block", "shift"), [("layers.0.blocks.0", 0), (BLOCK, SHIFT)])
def test_projection_writes_the_image_again_and_adds_its_residual_there(tiny_swin_network, tensors, block, shift):
    places = _partition(np.arange(SIDE**2).reshape(1, -1, 1), shift).reshape(-1)
    raster = np.empty_like(tensors[f"{block}.attn.av"])
    raster[:, places] = tensors[f"{block}.attn.av"]
    np.testing.assert_array_equal(tensors[f"{block}.attn.proj"], _onto(tiny_swin_network, tensors, f"{block}.attn.proj", raster))


def test_the_layer_before_a_merging_writes_four_neighbours_into_a_row(tiny_swin_network, tensors):
    name = f"{BLOCK}.mlp.fc2"
    raster = _onto(tiny_swin_network, tensors, name, tensors[f"{BLOCK}.mlp.fc1"]).reshape(2, SIDE, SIDE, -1)
    neighbours = [raster[:, y::2, x::2] for y, x in ((0, 0), (1, 0), (0, 1), (1, 1))]
    np.testing.assert_array_equal(tensors[name], np.concatenate(neighbours, axis=-1).reshape(2, 49, -1))


def test_a_window_sees_its_own_keys_and_those_that_were_neighbours_before_the_shift(tiny_swin_network, tensors):
    arrays, name = tiny_swin_network.arrays, f"{BLOCK}.attn.qk"
    operator = _operator(tiny_swin_network, name)
    qkv = tensors[f"{BLOCK}.attn.qkv"].astype(np.int64).reshape(2, 4, TOKENS, 3, 16)
    q, k = qkv[..., 0, :], qkv[..., 1, :]
    y, x = np.divmod(_partition(np.arange(SIDE**2).reshape(1, -1, 1), SHIFT).reshape(4, TOKENS), SIDE)
    scale = {part: int(arrays[f"{name}.{part}"][0]) for part in ("multiplier", "shift", "residual_shift")}
    zero = tiny_swin_network.tensor(name).zero_point
    masked = 0
    for window in range(4):
        bias = arrays[f"{name}.bias"][arrays[f"{name}.window_type"][window], 0].astype(np.int64)
        far = (abs(y[window][:, None] - y[window]) >= WINDOW) | (abs(x[window][:, None] - x[window]) >= WINDOW)
        np.testing.assert_array_equal(bias == -128, far)
        acc = q[:, window] @ k[:, window].swapaxes(1, 2)
        total = acc * scale["multiplier"] + ((bias * operator.residual_multiplier) << scale["residual_shift"])
        logits = np.clip(((total + (1 << (scale["shift"] - 1))) >> scale["shift"]) + zero, -127, 127)
        given = tensors[name][:, TOKENS * window : TOKENS * (window + 1)]
        np.testing.assert_array_equal(given, np.where(far, -128, logits))
        masked += far.sum()
    assert masked == 2 * 2 * 21 * 28 + (49**2 - 16**2 - 2 * 12**2 - 9**2)
    assert tensors[name].shape == (2, SIDE**2, TOKENS)


def test_masked_logits_stay_apart_from_saturated_ones(tiny_swin_network, images):
    """With logits that saturate, only masked keys are -128."""
    name = f"{BLOCK}.attn.qk"
    shift = tiny_swin_network.arrays[f"{name}.shift"] - np.uint8(5)
    loud = IntegerNetwork(**{**vars(tiny_swin_network), "arrays": {**tiny_swin_network.arrays, f"{name}.shift": shift}})
    types = loud.arrays[f"{name}.window_type"]
    masked = (loud.arrays[f"{name}.bias"][types] == -128).reshape(SIDE**2, TOKENS)
    tensors = run(loud, images)
    logits, codes = tensors[name], tensors[f"{BLOCK}.attn.softmax"]
    assert (logits[:, masked] == -128).all()
    assert logits[:, ~masked].min() == -127
    assert (codes[:, masked] == 15).all()
    assert codes.reshape(2, SIDE**2, TOKENS).min(-1).max() <= 6  # every row keeps a weight: 1/49 at least


def test_softmax_takes_the_keys_that_are_not_masked(tiny_swin_network, tensors):
    logits, codes = tensors[f"{BLOCK}.attn.qk"][1], tensors[f"{BLOCK}.attn.softmax"][1].view(np.uint8)
    tables = [tiny_swin_network.arrays[f"{BLOCK}.attn.softmax.{part}_table"] for part in ("exp", "log")]
    for row in range(SIDE**2):
        seen = logits[row] != -128
        np.testing.assert_array_equal(codes[row, seen], log_softmax(logits[row, seen], *tables))
        assert (codes[row, ~seen] == 15).all()


def test_values_are_those_of_the_window(tiny_swin_network, tensors):
    codes = tensors[f"{BLOCK}.attn.softmax"].reshape(2, 4, TOKENS, TOKENS).astype(np.int64)
    values = tensors[f"{BLOCK}.attn.qkv"][..., 32:].reshape(2, 4, TOKENS, 16).astype(np.int64)
    acc = np.where(codes == 15, 0, 1 << (14 - np.minimum(codes, 14))) @ values
    given = tensors[f"{BLOCK}.attn.av"].reshape(2, 4, TOKENS, 16)
    np.testing.assert_array_equal(given, _requantized(tiny_swin_network, f"{BLOCK}.attn.av", acc))


def test_pooling_is_the_rounded_mean(tiny_swin_network, tensors):
    norm, pool = (tiny_swin_network.tensor(name) for name in ("norm", "pool"))
    mean = (tensors["norm"].astype(float).mean(axis=1) - norm.zero_point) * norm.scale
    exact = np.clip(mean / pool.scale + pool.zero_point, -128, 127)
    assert np.abs(tensors["pool"][:, 0] - exact).max() <= 0.51
    total = tensors["norm"].sum(axis=1, dtype=np.int64)
    np.testing.assert_array_equal(tensors["pool"][:, 0], _requantized(tiny_swin_network, "pool", total))


def test_a_saved_network_runs_to_the_same_tensors(tiny_swin_network, images, tensors, tmp_path):
    tiny_swin_network.save(tmp_path / "swin.safetensors")
    loaded = IntegerNetwork.load(tmp_path / "swin.safetensors")
    assert loaded.operators == tiny_swin_network.operators
    for name, array in run(loaded, images).items():
        np.testing.assert_array_equal(array, tensors[name], err_msg=name)
