"""The floating-point Swin transformer against timm's outputs."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from safetensors import safe_open

from vitloom.model.architectures import SWIN
from vitloom.model.float_swin import (
    SwinConfig,
    forward,
    merge,
    relative_position_index,
    shift_mask,
    window_rows,
)
from vitloom.model.float_vit import random_state

DATA = Path(__file__).parents[1] / "data"
TINY = SwinConfig(img_size=16, patch_size=2, num_classes=5, embed_dim=8, depths=(2, 1), num_heads=(1, 2), window_size=4)


@pytest.fixture(scope="module")
def micro():
    """Configuration and parameters of timm's network, its images and logits."""
    with safe_open(DATA / "timm_swin_micro.safetensors", framework="np") as file:
        config = SwinConfig(**json.loads(file.metadata()["config"]))
        state = {name: file.get_tensor(name) for name in file.keys()}
    with np.load(DATA / "timm_swin_micro_io.npz") as vectors:
        return config, state, vectors["images"], vectors["logits"]


def test_logits_are_those_of_timm(micro):
    config, state, images, expected = micro
    logits = forward(config, state, images)
    assert logits.dtype == np.float32
    np.testing.assert_allclose(logits, expected, rtol=0, atol=1e-4)


def test_the_micro_network_has_shifted_windows_and_merging(micro):
    config = micro[0]
    assert [[stage.shift(block) for block in range(stage.depth)] for stage in config.stages] == [[0, 3], [0, 0]]
    assert [(stage.side, stage.windows) for stage in config.stages] == [(14, 4), (7, 1)]


@pytest.mark.parametrize("part", ["relative_position_bias_table", "downsample.norm.weight", "patch_embed.norm.bias"])
def test_every_part_matters_to_the_logits(micro, part):
    config, state, images, expected = micro
    changed = {
        name: value + 1 * (np.arange(value.size).reshape(value.shape) % 2) if part in name else value for name, value in state.items()
    }
    assert np.abs(forward(config, changed, images) - expected).max() > 1e-3


@pytest.mark.parametrize("name", SWIN)
def test_parameters_are_named_and_shaped_as_in_timm(name):
    published = json.loads((DATA / "timm_swin_shapes.json").read_text())[f"{name}_patch4_window7_224"]
    assert list(SWIN[name].parameter_shapes().items()) == [(key, tuple(shape)) for key, shape in published.items()]


def test_windows_take_every_token_once_and_a_shift_rolls_them():
    stage = TINY.stages[0]
    plain, shifted = window_rows(stage, 0), window_rows(stage, 2)
    np.testing.assert_array_equal(plain[0, :5], [0, 1, 2, 3, 8])
    np.testing.assert_array_equal(shifted[0, :5], [18, 19, 20, 21, 26])
    for rows in (plain, shifted):
        np.testing.assert_array_equal(np.sort(rows, axis=None), np.arange(64))


def test_the_mask_hides_what_is_not_near_in_the_image():
    stage = TINY.stages[0]
    rows, mask = window_rows(stage, 2), shift_mask(stage, 2)
    y, x = np.divmod(rows, stage.side)
    far = (np.abs(y[:, :, None] - y[:, None]) >= stage.window) | (np.abs(x[:, :, None] - x[:, None]) >= stage.window)
    np.testing.assert_array_equal(mask, far)
    assert not mask[0].any()
    assert not shift_mask(stage, 0).any()


def test_bias_rows_follow_the_offset_of_query_and_key():
    index = relative_position_index(7)
    assert (index.min(), index.max()) == (0, 168)
    assert len(np.unique(index)) == 169
    np.testing.assert_array_equal(np.diag(index), np.full(49, 84))
    assert index[0, 1] == 83  # the key lies one column to the right
    assert index[7, 0] == 84 + 13  # the key lies one row above


def test_merging_takes_neighbours_column_by_column():
    tokens = np.arange(16)[None, :, None]
    np.testing.assert_array_equal(merge(tokens, 4)[0], [[0, 4, 1, 5], [2, 6, 3, 7], [8, 12, 9, 13], [10, 14, 11, 15]])


def test_observer_sees_every_operator_once():
    seen = []
    forward(TINY, random_state(TINY), np.zeros((1, 3, 16, 16), np.float32), lambda name, array: seen.append((name, array.shape)))
    names, shapes = [name for name, _ in seen], dict(seen)
    parts = ("norm1", "attn.qkv", "attn.qk", "attn.softmax", "attn.av", "attn.proj", "norm2", "mlp.fc1", "mlp.fc2")
    first = [f"layers.0.blocks.{i}.{part}" for i in range(2) for part in parts]
    second = ["layers.1.downsample.norm", "layers.1.downsample.reduction", *(f"layers.1.blocks.0.{part}" for part in parts)]
    assert names == ["patch_embed.proj", "patch_embed.norm", *first, *second, "norm", "pool", "head.fc"]
    assert shapes["layers.0.blocks.1.attn.qk"] == (4, 1, 16, 16)
    assert shapes["layers.1.downsample.norm"] == (1, 16, 32)


def test_a_batch_gives_what_its_images_give_alone():
    state = random_state(TINY)
    images = np.random.default_rng(0).standard_normal((3, 3, 16, 16))
    together = forward(TINY, state, images)
    np.testing.assert_allclose(together, np.concatenate([forward(TINY, state, image[None]) for image in images]), atol=1e-12)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"window_size": 3}, r"layers.0: an edge of 8 tokens is not a multiple of window_size 3"),
        ({"window_size": 0}, "window_size must be a positive integer, not 0"),
        ({"num_heads": (3, 2)}, "layers.0: width 8 is not a multiple of its 3 heads"),
        ({"num_heads": (1,)}, "depths has 2 entries and num_heads 1; one of each per stage"),
        ({"depths": (2, 0)}, "each of depths must be a positive integer, not 0"),
        ({"img_size": 14}, "an edge of 7 patches cannot be halved 1 times, as 2 stages do"),
    ],
)
def test_impossible_configurations_are_refused(fields, message):
    with pytest.raises(ValueError, match=message):
        replace(TINY, **fields)
