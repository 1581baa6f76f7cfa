"""The quantiser: accuracy on digits, its choices, and the shipped network."""

from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest

from vitloom.model.checkpoint import load_checkpoint, save_checkpoint
from vitloom.model.float_ops import normalise
from vitloom.model.float_vit import ViTConfig, forward, random_state
from vitloom.model.golden import predict, run
from vitloom.model.network import Form, IntegerNetwork, LayerNorm, Linear
from vitloom.model.networks import ARCHITECTURES, DIGITS, SHIPPED, integer_network, samples
from vitloom.model.networks import DATA as SHIPPED_DATA
from vitloom.model.observers import affine, gelu_scales, observe_images, power_of_two_factors
from vitloom.model.quantize import quantize, quantize_checkpoint, quantize_digits

DATA = Path(__file__).parents[1] / "data"
PUBLISHED = ViTConfig(img_size=8, patch_size=2, in_chans=1, num_classes=10, embed_dim=96, depth=4, num_heads=3, mean=(0.5,), std=(0.5,))
SMALL = ViTConfig(img_size=8, patch_size=4, num_classes=5, embed_dim=24, depth=2, num_heads=3)


@pytest.fixture(scope="module")
def digits():
    """Training images, test images, test labels."""
    with np.load(DATA / "digits_split.npz") as file:
        return file["xtr"][:, None], file["xte"][:, None], file["yte"]


@pytest.fixture(scope="module")
def published(digits):
    """The float network, and quantised with five random calibration sets."""
    _, state = load_checkpoint(DATA / "timm_digits_vit.safetensors", PUBLISHED)
    orders = [np.random.default_rng(seed).permutation(len(digits[0])) for seed in range(5)]
    return state, [quantize(PUBLISHED, state, digits[0][order[:400]], name="digits", origin="timm") for order in orders]


def _images(count, config=SMALL):
    shape = (count, config.in_chans, config.img_size, config.img_size)
    return np.random.default_rng(1).integers(0, 256, shape, dtype=np.uint8)


def test_float_network_is_as_accurate_as_published(digits, published):
    _, images, labels = digits
    assert np.sum(forward(PUBLISHED, published[0], normalise(PUBLISHED, images)).argmax(axis=1) == labels) == 352


def test_integer_network_loses_nothing_on_average(digits, published):
    _, images, labels = digits
    correct = [int(np.sum(predict(network, images) == labels)) for network in published[1]]
    print(f"correct of {len(labels)}: {correct}, mean {np.mean(correct)}")
    assert np.mean(correct) >= 352.0
    assert min(correct) >= 348


def test_integer_logits_are_near_the_float_ones(digits, published):
    state, networks = published
    expected = forward(PUBLISHED, state, normalise(PUBLISHED, digits[1]))
    given = run(networks[0], digits[1])["head"][:, 0] * networks[0].tensor("head").scale
    assert np.sqrt(np.mean((given - expected) ** 2)) < 0.12 * np.sqrt(np.mean(expected**2))


@pytest.mark.parametrize("name", SHIPPED)
def test_shipped_network_is_made_from_the_shipped_parameters_and_images(name):
    again, shipped = quantize_digits(name=name), integer_network(name)
    assert {name: array.dtype for name, array in again.arrays.items()} == {name: array.dtype for name, array in shipped.arrays.items()}
    for name, array in again.arrays.items():
        np.testing.assert_array_equal(array, shipped.arrays[name], err_msg=name)
    assert again.operators == shipped.operators
    assert again.constants == shipped.constants
    for tensor, expected in zip(again.tensors, shipped.tensors, strict=True):
        assert replace(tensor, scale=1.0) == replace(expected, scale=1.0)
        assert tensor.scale == pytest.approx(expected.scale, rel=1e-9)


def test_shipped_network_knows_digits(digits):
    _, images, labels = digits
    config, state = load_checkpoint(SHIPPED_DATA / "digits_vit.safetensors")
    assert config == DIGITS
    assert np.mean(forward(config, state, normalise(config, images)).argmax(axis=1) == labels) >= 0.97
    assert np.mean(predict(integer_network("digits_vit"), images) == labels) >= 0.97


def test_samples_are_test_images(digits):
    images, labels = samples("digits_vit")
    np.testing.assert_array_equal(images, digits[1][:20])
    np.testing.assert_array_equal(labels, digits[2][:20])


def test_calibration_images_are_training_images(digits):
    with np.load(SHIPPED_DATA / "digits_calibration.npz") as file:
        shown = {image.tobytes() for image in file["images"]}
    assert len(shown) == 200
    assert shown <= {image.tobytes() for image in digits[0]}


@pytest.mark.parametrize("changed", [{}, {"distilled": True}, {"qkv_bias": False}, {"in_chans": 1, "mean": (0.3,), "std": (0.2,)}])
def test_every_variant_runs_and_follows_the_float_logits(changed):
    config = replace(SMALL, **changed)
    state = random_state(config)
    images = _images(30, config)
    network = quantize(config, state, images, name="small", origin="random")
    tensors, seen = run(network, images), {}
    expected = forward(config, state, normalise(config, images), seen.__setitem__)
    scores = network.tensor("blocks.0.attn.qk")
    exact = seen["blocks.0.attn.qk"].swapaxes(1, 2).reshape(30, *scores.shape)
    np.testing.assert_allclose((tensors[scores.name].astype(int) - scores.zero_point) * scores.scale, exact, atol=0.15)
    given = np.mean([tensors[name][:, 0] * network.tensor(name).scale for name in network.outputs], axis=0)
    assert network.outputs == ["head", "head_dist"][: config.prefix_tokens]
    assert np.corrcoef(given.ravel(), expected.ravel())[0, 1] > 0.95  # random attention over few tokens feels the log2 grid


def test_a_saved_network_computes_the_same(tmp_path):
    images = _images(4)
    network = quantize(SMALL, random_state(SMALL), images, name="small", origin="random", labels=list("abcde"))
    network.save(tmp_path / "n.safetensors")
    read = IntegerNetwork.load(tmp_path / "n.safetensors")
    assert {k: v for k, v in asdict(read).items() if k != "arrays"} == {k: v for k, v in asdict(network).items() if k != "arrays"}
    given, expected = run(read, images), run(network, images)
    for name in expected:
        np.testing.assert_array_equal(given[name], expected[name])


def test_parameters_are_integers_of_the_stated_types():
    network = quantize(SMALL, random_state(SMALL), _images(4), name="small", origin="random")
    types = {"weight": "int8", "bias": "int32", "multiplier": "uint16", "shift": "uint8", "residual": "int8", "residual_shift": "uint8"}
    types |= {
        "table": "int8",
        "alpha": "uint8",
        "gain": "int32",
        "offset": "int32",
        "exp_table": "uint16",
        "log_table": "uint16",
        "value": "int8",
    }
    for name, array in network.arrays.items():
        assert array.dtype == types[name.rpartition(".")[2]], name


def test_norms_and_residuals_share_the_streams_factors():
    network = quantize(SMALL, random_state(SMALL), _images(4), name="small", origin="random")
    norms = {o.input: network.arrays[f"{o.name}.alpha"] for o in network.operators if isinstance(o, LayerNorm)}
    stream = [o for o in network.operators if isinstance(o, Linear) and o.form is Form.RESIDUAL]
    assert [o.output for o in stream] == list(norms)
    for operator in stream[1:]:
        assert operator.residual_zero == network.tensor(operator.residual).zero_point
        ratio = np.ldexp(float(operator.residual_multiplier), network.arrays[f"{operator.name}.residual_shift"].astype(int))
        ratio = np.ldexp(ratio, -network.arrays[f"{operator.name}.shift"].astype(int))
        factors = norms[operator.residual].astype(int) - norms[operator.output]
        wanted = network.tensor(operator.residual).scale / network.tensor(operator.output).scale * 2.0**factors
        np.testing.assert_allclose(ratio, wanted, rtol=2**-10)


def test_accumulators_cannot_overflow():
    network = quantize(SMALL, random_state(SMALL), _images(4), name="small", origin="random")
    for operator in network.operators:
        if isinstance(operator, Linear):
            weight, bias = (network.arrays[f"{operator.name}.{part}"].astype(np.int64) for part in ("weight", "bias"))
            assert (np.abs(weight).sum(axis=1) * 128 + np.abs(bias)).max() < 2**31


def test_a_bias_that_cannot_be_held_beside_its_weight_takes_the_precision():
    state = random_state(SMALL)
    state["blocks.0.mlp.fc2.weight"][3] = 1e-12
    state["blocks.0.mlp.fc2.bias"][3] = 5.0
    state["blocks.0.mlp.fc2.weight"][4] = 0.0
    state["blocks.0.mlp.fc2.bias"][4] = 0.0
    images = _images(10)
    network = quantize(SMALL, state, images, name="small", origin="random")
    given = run(network, images)["head"][:, 0] * network.tensor("head").scale
    expected = forward(SMALL, state, normalise(SMALL, images))
    assert np.corrcoef(given.ravel(), expected.ravel())[0, 1] > 0.95


@pytest.mark.parametrize(("low", "high"), [(-1.0, 3.0), (0.0, 2.0), (-2.0, 0.0), (0.5, 2.0), (-3.0, -1.0), (0.0, 0.0)])
def test_affine_range_holds_zero_exactly_and_the_ends_within_a_step(low, high):
    scale = affine(low, high)
    x = np.linspace(low, high, 1001)
    assert -128 <= scale.zero_point <= 127
    assert scale.quantize(np.zeros(1)) == scale.zero_point
    np.testing.assert_allclose(scale.dequantize(scale.quantize(x)), x, rtol=0, atol=scale.scale * 1.001)


def test_power_of_two_factors_follow_the_channels_ranges():
    sample = np.random.default_rng(0).uniform(-1, 1, (1000, 4)) * [8, 4, 2, 0.5]
    factors = power_of_two_factors(sample.min(axis=0), sample.max(axis=0), sample)
    np.testing.assert_array_equal(factors.alpha, [3, 2, 1, 0])
    assert factors.scale == pytest.approx(2 / 255, rel=0.02)


def test_gelu_input_is_cut_below():
    sample = np.random.default_rng(0).normal(-1, 1.6, (2000, 4))
    entry, output = gelu_scales(sample.min(), sample.max(), sample)
    lowest = (-128 - entry.zero_point) * entry.scale
    assert sample.min() < lowest < -2
    assert (-128 - output.zero_point) * output.scale == pytest.approx(-0.17, abs=0.03)


def test_statistics_do_not_depend_on_the_batches(monkeypatch):
    state, images = random_state(SMALL), _images(10)
    whole = observe_images(SMALL, state, images)
    monkeypatch.setattr("vitloom.model.observers._LARGEST_BATCH", 3 * SMALL.tokens * SMALL.hidden_dim)
    parts = observe_images(SMALL, state, images)
    assert list(parts.channels) == list(whole.channels)
    for name in whole.channels:
        np.testing.assert_allclose(parts.low(name), whole.low(name), rtol=1e-9, atol=1e-12)
        np.testing.assert_allclose(parts.high(name), whole.high(name), rtol=1e-9, atol=1e-12)


@pytest.fixture
def files(tmp_path):
    """A checkpoint and calibration images on disk."""
    save_checkpoint(tmp_path / "small.safetensors", SMALL, random_state(SMALL))
    np.savez(tmp_path / "calibration.npz", images=_images(4))
    return tmp_path


def test_a_checkpoint_is_quantised_into_a_file(files):
    quantize_checkpoint(files / "small.safetensors", "auto", "fq-vit-8-8-4", files / "calibration.npz", files / "out.safetensors")
    network = IntegerNetwork.load(files / "out.safetensors")
    assert (network.name, network.scheme, network.origin) == ("small", "fq-vit-8-8-4", "small.safetensors")
    assert run(network, _images(2))["head"].shape == (2, 1, 5)
    assert {path.name for path in files.iterdir()} == {"small.safetensors", "calibration.npz", "out.safetensors"}


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"arch": "resnet50"}, f"unknown architecture 'resnet50'; known: {', '.join(ARCHITECTURES)}"),
        ({"scheme": "int2"}, "unknown scheme 'int2'; known: fq-vit-8-8-4"),
        ({"arch": "deit_tiny"}, "does not fit the architecture"),
        ({"checkpoint": "calibration.npz"}, "is not a safetensors file"),
        ({"calibration": "small.safetensors"}, "is not an npz file with an array 'images'"),
        ({"calibration": "nothing.npz"}, "nothing.npz does not exist"),
        ({"calibration": "other.npz"}, "is not an npz file with an array 'images'"),
        ({"calibration": "gray.npz"}, r"images are uint8 of shape \(4, 1, 8, 8\); this network takes uint8 of shape \(B, 3, 8, 8\)"),
        ({"calibration": "empty.npz"}, "calibration needs at least one image"),
        ({"output": "nowhere/out.safetensors"}, "nowhere of the output does not exist"),
    ],
)
def test_what_cannot_be_quantised_is_refused_and_nothing_written(files, changed, message):
    np.savez(files / "other.npz", pictures=_images(4))
    np.savez(files / "gray.npz", images=_images(4)[:, :1])
    np.savez(files / "empty.npz", images=_images(0))
    before = sorted(files.iterdir())
    arguments = {"checkpoint": "small.safetensors", "arch": "auto", "scheme": "fq-vit-8-8-4"}
    arguments |= {"calibration": "calibration.npz", "output": "out.safetensors"} | changed
    paths = {name: files / arguments[name] for name in ("checkpoint", "calibration", "output")}
    with pytest.raises(ValueError, match=message):
        quantize_checkpoint(**(arguments | paths))
    assert sorted(files.iterdir()) == before


def test_fields_that_no_shape_says_can_be_stated(tmp_path):
    with np.load(DATA / "digits_split.npz") as digits:
        np.savez(tmp_path / "images.npz", images=digits["xtr"][:20, None])
    arguments = ("fq-vit-8-8-4", tmp_path / "images.npz", tmp_path / "out.safetensors")
    network = quantize_checkpoint(DATA / "timm_digits_vit.safetensors", "auto:num_heads=3,mean=0.5,std=0.5", *arguments)
    assert (network.image.mean, network.tensor("blocks.0.attn.qk").groups) == ([0.5], 3)
    for arch, message in {
        "auto": "does not say its num_heads",
        "auto:heads=3": "unknown configuration fields heads",
        "auto:num_heads=many": "takes name=number settings, not 'num_heads=many'",
    }.items():
        with pytest.raises(ValueError, match=message):
            quantize_checkpoint(DATA / "timm_digits_vit.safetensors", arch, *arguments)
