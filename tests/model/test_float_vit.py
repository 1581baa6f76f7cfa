"""The floating-point reference against timm's outputs."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from vitloom.model.checkpoint import load_checkpoint
from vitloom.model.float_ops import gelu, normalise
from vitloom.model.float_vit import ViTConfig, forward, random_state
from vitloom.model.networks import ARCHITECTURES
from vitloom.model.requantize import gelu as exact_gelu

DATA = Path(__file__).parents[1] / "data"
TINY = ViTConfig(img_size=8, patch_size=4, num_classes=5, embed_dim=12, depth=2, num_heads=3)


def test_logits_are_those_of_timm():
    config, state = load_checkpoint(DATA / "timm_deit_micro.safetensors")
    with np.load(DATA / "timm_deit_micro_io.npz") as vectors:
        logits = forward(config, state, vectors["images"])
        assert logits.dtype == np.float32
        np.testing.assert_allclose(logits, vectors["logits"], rtol=0, atol=1e-4)


PUBLISHED = json.loads((DATA / "timm_vit_shapes.json").read_text())


@pytest.mark.parametrize("name", PUBLISHED)
def test_parameters_are_named_and_shaped_as_in_timm(name):
    shapes = ARCHITECTURES[name.removesuffix("_patch16_224")].parameter_shapes()
    assert list(shapes.items()) == [(key, tuple(shape)) for key, shape in PUBLISHED[name].items()]


def test_gelu_is_within_its_error_bound():
    x = np.linspace(-10, 10, 20011)
    np.testing.assert_allclose(gelu(x), exact_gelu(x), rtol=0, atol=10 * 2e-8)


def test_distilled_logits_are_the_mean_of_two_heads():
    config = replace(TINY, distilled=True)
    state = random_state(config)
    images = np.random.default_rng(0).standard_normal((2, 3, 8, 8), dtype=np.float32)
    seen = {}
    logits = forward(config, state, images, seen.__setitem__)
    np.testing.assert_allclose(logits, (seen["head"] + seen["head_dist"]) / 2, rtol=1e-6)
    assert np.abs(seen["head"] - seen["head_dist"]).max() > 0.1
    assert seen["norm"].shape == (2, 2, 12)


def test_qkv_without_bias_is_qkv_with_a_bias_of_zero():
    without = replace(TINY, qkv_bias=False)
    state = random_state(without)
    zeros = {f"blocks.{i}.attn.qkv.bias": np.zeros(36, np.float32) for i in range(2)}
    images = np.random.default_rng(0).standard_normal((2, 3, 8, 8), dtype=np.float32)
    np.testing.assert_array_equal(forward(without, state, images), forward(TINY, state | zeros, images))


def test_observer_sees_every_operator_once():
    seen = []
    images = np.zeros((1, 3, 8, 8), np.float32)
    forward(TINY, random_state(TINY), images, lambda name, array: seen.append(name))
    parts = ("norm1", "attn.qkv", "attn.qk", "attn.softmax", "attn.av", "attn.proj", "norm2", "mlp.fc1", "mlp.fc2")
    assert seen == ["patch_embed", *(f"blocks.{i}.{part}" for i in range(2) for part in parts), "norm", "head"]


def test_a_batch_gives_what_its_images_give_alone():
    state = random_state(TINY)
    images = np.random.default_rng(0).standard_normal((3, 3, 8, 8))
    together = forward(TINY, state, images)
    np.testing.assert_allclose(together, np.concatenate([forward(TINY, state, image[None]) for image in images]), atol=1e-12)


def test_pixels_are_normalised_by_channel():
    images = np.full((1, 3, 8, 8), 255, np.uint8)
    expected = (1 - np.array(TINY.mean)) / np.array(TINY.std)
    np.testing.assert_allclose(normalise(TINY, images)[0, :, 3, 3], expected, rtol=1e-6)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"embed_dim": 13}, "embed_dim 13 is not a multiple of num_heads 3"),
        ({"img_size": 10}, "img_size 10 is not a multiple of patch_size 4"),
        ({"depth": 0}, "depth must be a positive integer, not 0"),
        ({"mean": (0.5, 0.5)}, "mean has 2 entries; 1 or 3"),
        ({"std": (0.5, 0.0, 0.5)}, "std must be positive"),
    ],
)
def test_impossible_configurations_are_refused(fields, message):
    with pytest.raises(ValueError, match=message):
        replace(TINY, **fields)


def test_images_of_another_kind_are_refused():
    with pytest.raises(ValueError, match=r"images are float64 of shape \(1, 3, 8, 8\); this network takes uint8 of shape \(B, 3, 8, 8\)"):
        normalise(TINY, np.zeros((1, 3, 8, 8)))
