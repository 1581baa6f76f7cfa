"""Networks by name: their structure, synthetic weights, and checkpoints of users."""

import re
import time
from dataclasses import replace

import numpy as np
import pytest

from vitloom.compiler.compile import compile_network
from vitloom.hw.config import preset
from vitloom.model.architectures import ARCHITECTURES, DIGITS_MLP
from vitloom.model.checkpoint import save_checkpoint
from vitloom.model.float_mlp import forward as mlp_forward
from vitloom.model.float_ops import normalise
from vitloom.model.float_swin import SwinConfig
from vitloom.model.float_swin import forward as swin_forward
from vitloom.model.float_vit import ViTConfig, forward, random_state
from vitloom.model.golden import predict, run
from vitloom.model.network import AttentionScores, IntegerNetwork, LayerNorm, Linear
from vitloom.model.networks import SHIPPED, integer_network, network_structure, read_network, samples
from vitloom.model.quantize import quantize
from vitloom.model.structure import array_formats, vit_structure
from vitloom.model.swin_structure import swin_structure
from vitloom.model.synthetic import OUTLIER_SHARE, shaped_images, synthetic_state
from vitloom.sim.report import report

SMALL = ViTConfig(img_size=32, patch_size=8, num_classes=5, embed_dim=96, depth=3, num_heads=3)
SMALL_SWIN = SwinConfig(img_size=56, num_classes=5, embed_dim=32, depths=(2, 2), num_heads=(2, 4))


@pytest.fixture
def small(monkeypatch):
    """A small architecture by name."""
    monkeypatch.setitem(ARCHITECTURES, "small", SMALL)
    return "small"


def _shapes(network):
    """Everything but numbers."""
    tensors = [replace(tensor, scale=1.0, zero_point=0) for tensor in network.tensors]
    operators = []
    for operator in network.operators:
        if isinstance(operator, Linear | AttentionScores):
            operator = replace(operator, residual_zero=0, residual_multiplier=0)
        operators.append(replace(operator, epsilon=1) if isinstance(operator, LayerNorm) else operator)
    arrays = [(name, array.dtype, array.shape) for name, array in network.arrays.items()]
    return network.name, network.scheme, network.image, network.input, network.outputs, network.constants, tensors, operators, arrays


@pytest.mark.parametrize("changed", [{}, {"distilled": True}, {"in_chans": 1, "mean": (0.3,), "std": (0.2,)}])
def test_the_structure_is_that_of_the_quantised_network(changed):
    config = replace(SMALL, **changed)
    network = quantize(config, random_state(config), shaped_images(config, 1), name="small", origin="random")
    assert _shapes(vit_structure(config, name="small", scheme=network.scheme, origin="none")) == _shapes(network)


def test_the_structure_of_a_swin_transformer_has_its_row_maps_and_masks():
    network = quantize(SMALL_SWIN, random_state(SMALL_SWIN), shaped_images(SMALL_SWIN, 1), name="small", origin="random")
    structure = swin_structure(SMALL_SWIN, name="small", scheme=network.scheme, origin="none")
    assert _shapes(structure) == _shapes(network)
    for name, array in structure.arrays.items():
        if name.endswith((".output_rows", ".output_groups", ".window_type")):
            np.testing.assert_array_equal(array, network.arrays[name], err_msg=name)
        elif name.endswith("qk.bias"):
            np.testing.assert_array_equal(array == -128, network.arrays[name] == -128, err_msg=name)


@pytest.mark.parametrize("config", [SMALL, SMALL_SWIN])
def test_a_quantised_network_has_every_array(config):
    network = quantize(config, random_state(config), shaped_images(config, 1), name="small", origin="random")
    assert all(any(array.strides) for array in network.arrays.values())


@pytest.mark.parametrize("name", SHIPPED)
def test_a_shipped_network_has_the_structure_of_its_name(name):
    shipped = integer_network(name)
    formats = {array: (value.dtype, value.shape) for array, value in shipped.arrays.items() if not array.startswith("cls_token")}
    assert formats == array_formats(network_structure(name))


@pytest.mark.parametrize("name", SHIPPED)
def test_a_shipped_network_takes_the_cycles_of_its_structure(name):
    totals = [
        report(compile_network(network, preset("l8-all")), preset="l8-all")["total"]
        for network in (integer_network(name), network_structure(name))
    ]
    assert totals[0] == totals[1]


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_a_structure_takes_no_time_and_no_memory(name):
    start = time.process_time()
    network = network_structure(name)
    assert time.process_time() - start < 0.2
    assert sum(array.nbytes for array in network.arrays.values() if any(array.strides)) < 1 << 22
    assert not any(any(array.strides) for name, array in network.arrays.items() if name.endswith(("weight", "multiplier", "shift")))
    assert network.origin == "no weights: shapes only"


def test_a_name_without_trained_weights_gives_synthetic_ones(small):
    network = integer_network(small)
    assert network.origin == "synthetic weights (seed 0), calibrated on 2 images of 1/f noise"
    assert _shapes(network) == _shapes(network_structure(small))
    again = integer_network(small)
    for name, array in network.arrays.items():
        np.testing.assert_array_equal(array, again.arrays[name])


def test_a_synthetic_network_follows_its_float_logits(small):
    network, images = integer_network(small), shaped_images(SMALL, 16, seed=1)
    expected = forward(SMALL, synthetic_state(SMALL), normalise(SMALL, images))
    given = run(network, images)["head"][:, 0] * network.tensor("head").scale
    assert np.corrcoef(given.ravel(), expected.ravel())[0, 1] > 0.9


def test_a_synthetic_swin_transformer_follows_its_float_logits(monkeypatch):
    monkeypatch.setitem(ARCHITECTURES, "small_swin", SMALL_SWIN)
    network, images = integer_network("small_swin"), shaped_images(SMALL_SWIN, 16, seed=1)
    assert network.origin == "synthetic weights (seed 0), calibrated on 2 images of 1/f noise"
    assert _shapes(network) == _shapes(network_structure("small_swin"))
    expected = swin_forward(SMALL_SWIN, synthetic_state(SMALL_SWIN), normalise(SMALL_SWIN, images))
    given = run(network, images)["head.fc"][:, 0] * network.tensor("head.fc").scale
    assert np.corrcoef(given.ravel(), expected.ravel())[0, 1] > 0.9


def test_synthetic_activations_stay_sane_through_any_depth():
    config, deviations, ranges = replace(SMALL, depth=24), {}, {}

    def observe(name, array):
        deviations[name] = array.std()
        ranges[name] = np.ptp(array.reshape(-1, array.shape[-1]), axis=0)

    forward(config, synthetic_state(config), normalise(config, shaped_images(config, 4)), observe)
    for block in range(config.depth):
        assert 0.5 < deviations[f"blocks.{block}.norm1"] < 1.5
        assert 1 < deviations[f"blocks.{block}.attn.qk"] < 6
        assert 0.5 < deviations[f"blocks.{block}.mlp.fc1"] < 2
        assert deviations[f"blocks.{block}.mlp.fc2"] < 4 * deviations["patch_embed"]
        stream = ranges[f"blocks.{block}.mlp.fc2"]
        assert 5 < stream.max() / np.median(stream) < 30
        normed = ranges[f"blocks.{block}.norm1"]
        assert normed.max() / np.median(normed) < 8


def test_outliers_are_the_same_channels_of_every_layer():
    state = synthetic_state(SMALL)
    layers = [state[f"blocks.{i}.{part}.weight"] for i in range(3) for part in ("attn.proj", "mlp.fc2")]
    largest = [set(np.argsort(np.abs(layer).mean(axis=1))[-2:].tolist()) for layer in layers]
    assert round(SMALL.embed_dim * OUTLIER_SHARE) == 2
    assert all(channels == largest[0] for channels in largest)


def test_synthetic_weights_are_truncated_normal():
    weight = synthetic_state(SMALL)["blocks.0.mlp.fc1.weight"]
    rows = weight / weight.std(axis=1, keepdims=True)
    assert np.abs(rows).max() < 3  # two deviations before the truncation took a seventh of the deviation
    assert weight.std() == pytest.approx(1.3 * 0.88 / np.sqrt(96), rel=0.1)


def test_shaped_noise_has_the_spectrum_of_photographs():
    config = ViTConfig(embed_dim=12, depth=1, num_heads=1, img_size=64)
    images = shaped_images(config, 8)
    power = np.mean(np.abs(np.fft.fft(images.astype(float), axis=-1)) ** 2, axis=(0, 1, 2))
    slope = np.polyfit(np.log(np.arange(2, 25)), np.log(power[2:25]), 1)[0]
    assert -3 < slope < -1
    assert images.mean() == pytest.approx(118, abs=5)
    np.testing.assert_array_equal(images, shaped_images(config, 8))
    assert np.any(images != shaped_images(config, 8, seed=1))


def test_a_float_checkpoint_is_calibrated_on_noise_and_says_so(small, tmp_path):
    config = replace(SMALL, num_classes=3)
    save_checkpoint(tmp_path / "mine.safetensors", config, random_state(config))
    network = integer_network(small, tmp_path / "mine.safetensors")
    assert network.origin == "mine.safetensors, calibrated on 2 images of 1/f noise"
    assert (network.name, network.tensor("head").channels) == ("small", 3)


def test_an_integer_checkpoint_is_taken_as_it_is(small, tmp_path):
    config = replace(SMALL, num_classes=3)
    network = quantize(config, random_state(config), shaped_images(config, 1), name="mine", origin="my weights")
    network.save(tmp_path / "mine.int.safetensors")
    read = integer_network(small, tmp_path / "mine.int.safetensors")
    assert (read.name, read.origin, read.operators) == ("mine", "my weights", network.operators)


def test_a_float_checkpoint_of_another_architecture_names_the_first_tensor_that_differs(small, tmp_path):
    other = replace(SMALL, embed_dim=48)
    save_checkpoint(tmp_path / "other.safetensors", other, random_state(other))
    message = r"other.safetensors does not fit the architecture, first in cls_token: .*cls_token \(1, 1, 48\) instead of \(1, 1, 96\)"
    with pytest.raises(ValueError, match=message):
        integer_network(small, tmp_path / "other.safetensors")


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"embed_dim": 48}, "is not a small: cls_token.value is int8 (1, 48) instead of int8 (1, 96)"),
        ({"num_heads": 2}, "is not a small: blocks.0.attn.qk.multiplier is uint16 (2,) instead of uint16 (3,)"),
        ({"depth": 2}, "is not a small: it has no blocks.2.norm1.alpha"),
        ({"depth": 4}, "is not a small, which has no blocks.3.attn.av.multiplier"),
    ],
)
def test_an_integer_checkpoint_of_another_architecture_names_the_first_array_that_differs(small, tmp_path, changed, message):
    config = replace(SMALL, **changed)
    path = tmp_path / "other.int.safetensors"
    quantize(config, random_state(config), shaped_images(config, 1), name="other", origin="random").save(path)
    with pytest.raises(ValueError, match=re.escape(message)):
        integer_network(small, path)


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04" + bytes(100)])
def test_other_files_are_refused(small, tmp_path, content):
    (tmp_path / "c.bin").write_bytes(content)
    with pytest.raises(ValueError, match=r"c\.bin is not a safetensors file"):
        integer_network(small, tmp_path / "c.bin")
    with pytest.raises(ValueError, match="nothing does not exist or is not a file"):
        integer_network(small, tmp_path / "nothing")


def test_a_network_that_no_core_runs_is_refused_where_it_is_read(small, tmp_path):
    network = integer_network(small)
    tensors = tuple(replace(tensor, bits=3) if tensor.name == network.input else tensor for tensor in network.tensors)
    replace(network, tensors=tensors).save(tmp_path / "n.safetensors")
    with pytest.raises(ValueError, match=f"{network.input} .*bits"):
        read_network(tmp_path / "n.safetensors")


def test_a_loaded_network_keeps_its_origin(small, tmp_path):
    integer_network(small).save(tmp_path / "n.safetensors")
    assert IntegerNetwork.load(tmp_path / "n.safetensors").origin.startswith("synthetic weights (seed 0)")


def test_a_perceptron_is_a_whole_image_and_has_one_scheme():
    with pytest.raises(ValueError, match="patch_size must be 8, not 4"):
        replace(DIGITS_MLP, patch_size=4)
    images, state = shaped_images(DIGITS_MLP, 2), random_state(DIGITS_MLP)
    with pytest.raises(ValueError, match="the scheme w1a8 is for transformers"):
        quantize(DIGITS_MLP, state, images, scheme="w1a8", name="mlp", origin="random")
    network = quantize(DIGITS_MLP, state, images, name="mlp", origin="random")
    integer = run(network, images)["head"][:, 0] * network.tensor("head").scale
    floats = mlp_forward(DIGITS_MLP, state, normalise(DIGITS_MLP, images))
    assert np.abs(integer - floats).max() < 0.1 * np.abs(floats).max()


def test_the_shipped_perceptron_knows_digits():
    images, labels = samples("digits_mlp")
    np.testing.assert_array_equal(predict(integer_network("digits_mlp"), images), labels)
