"""Low-bit networks: each operator of the integer network against the float rule of its scheme, from the same codes."""

import math
from functools import cache

import numpy as np
import pytest

from vitloom.model.architectures import LOW_BIT_NETWORKS
from vitloom.model.check import check_network, check_structure
from vitloom.model.checkpoint import check_state, save_checkpoint
from vitloom.model.float_ops import gelu, normalise, normalised
from vitloom.model.float_swin import SwinConfig, relative_position_index, shift_mask
from vitloom.model.float_vit import ViTConfig
from vitloom.model.golden import run
from vitloom.model.network import IntegerNetwork, LayerNorm, Linear
from vitloom.model.networks import network_structure
from vitloom.model.quantize import quantize, quantize_checkpoint
from vitloom.model.schemes.quantize import calibrated_reference, quantize_low_bit
from vitloom.model.schemes.reference import head_norms
from vitloom.model.schemes.scheme import LOW_BIT, Attention, learned_shapes
from vitloom.model.schemes.structure import low_bit_structure
from vitloom.model.synthetic import shaped_images, synthetic_state

CONFIGS = {
    "vit": ViTConfig(img_size=32, patch_size=4, num_classes=40, embed_dim=64, depth=2, num_heads=2),
    "swin": SwinConfig(img_size=32, patch_size=4, num_classes=30, embed_dim=32, depths=(2, 2), num_heads=(2, 2), window_size=4),
}
CASES = [(family, name) for family in CONFIGS for name in LOW_BIT]
SPLIT = [(family, name) for family, name in CASES if LOW_BIT[name].split]


class Case:
    """A synthetic network of a scheme, its reference, and what it computes of four images; real values from the integers."""

    def __init__(self, family, name):
        self.config, self.scheme = CONFIGS[family], LOW_BIT[name]
        state, images = synthetic_state(self.config), shaped_images(self.config, 3)
        self.network = quantize_low_bit(self.scheme, self.config, state, images, name="micro", origin="synthetic", labels=())
        self.reference, _ = calibrated_reference(self.scheme, self.config, state, images)
        self.images = shaped_images(self.config, 4, seed=1)
        self.tensors = run(self.network, self.images)
        self.operators = {operator.name: operator for operator in self.network.operators}
        self.blocks = [n.removesuffix(".norm1") for n in self.operators if n.endswith(".norm1")]

    def split(self, name):
        """(B, windows, groups, rows, channels) of a tensor, float64."""
        tensor, block = self.network.tensor(name), name.partition(".attn")[0]
        windows = getattr(self.operators.get(f"{block}.attn.logits"), "windows", 1)
        shape = len(self.images), windows, tensor.rows // windows, tensor.groups, tensor.channels
        return self.tensors[name].reshape(shape).swapaxes(2, 3).astype(np.float64)

    def heads(self, block):
        """Real q, k and v of a block, in the order of windows."""
        operator = self.operators[f"{block}.attn.logits"]
        queries, keys = np.split(self.split(operator.input), 2, axis=2)
        values = self.split(f"{block}.attn.v")
        zeros = operator.query_zero, operator.key_zero, self.operators[f"{block}.attn.av"].value_zero
        grids = [self.reference.grids[f"{block}.attn.{part}"] for part in "qkv"]
        integers = [x - zero for x, zero in zip((queries, keys, values), zeros, strict=True)]
        return integers, [np.broadcast_to(g.scale, queries.shape[2])[:, None, None] for g in grids]

    def real_input(self, name):
        """Real values of what a linear layer takes."""
        tensor = self.network.tensor(self.operators[name].input)
        return (self.tensors[tensor.name].astype(np.float64) - tensor.zero_point), tensor.scale

    def stream(self, norm):
        """Real values of a LayerNorm's input, (B, rows, C)."""
        operator = self.operators[norm]
        tensor, alpha = self.network.tensor(operator.input), self.network.arrays[f"{norm}.alpha"].astype(np.int64)
        q = self.tensors[operator.input][..., : len(alpha)].astype(np.int64)
        return ((q - tensor.zero_point) << alpha) * tensor.scale

    def linear(self, name):
        """What the real layer makes of the integer network's input; exact where the input is of few bits."""
        part = name.rpartition(".")[2]
        layer = name.removesuffix(part) + ("qkv" if part in ("qk", "v") else part)
        x, scale = self.real_input(name)
        weight, state = self.reference.weight(layer), self.reference.state
        result = x @ weight.integers.T * (weight.scale * scale) + state.get(f"{layer}.bias", np.zeros(len(weight.scale)))
        width = x.shape[-1]
        return {"qk": result[..., : 2 * width], "v": result[..., 2 * width :]}.get(part, result)


@cache
def case(family, name):
    return Case(family, name)


def mostly_equal(given, expected, share):
    """Equal but for a share of ones that are off by one (of 1 bit: by two)."""
    given, expected = np.broadcast_arrays(given, expected)
    assert (given != expected).mean() <= share
    assert np.abs(given - expected).max() <= (2 if set(np.unique(expected)) <= {-1.0, 1.0} else 1)


@pytest.mark.parametrize(("family", "name"), CASES)
def test_a_low_bit_network_is_one_that_cores_run(family, name):
    given = case(family, name)
    check_network(given.network)
    structure = low_bit_structure(given.config, given.scheme, name="micro", origin="")
    check_structure(structure)
    shapes = {key: (array.shape, array.dtype) for key, array in structure.arrays.items()}
    assert {key: (array.shape, array.dtype) for key, array in given.network.arrays.items()} == shapes
    assert [replaceable(o) for o in structure.operators] == [replaceable(o) for o in given.network.operators]


def replaceable(operator):
    """An operator without the numbers that a quantiser fills in."""
    return type(operator), operator.name, operator.input, operator.output


@pytest.mark.parametrize(("family", "name"), CASES)
def test_no_tensor_is_degenerate(family, name):
    given = case(family, name)
    for tensor in given.network.tensors:
        values = given.tensors[tensor.name]
        if tensor.bits == 1:
            assert 0.05 < (values > 0).mean() < 0.95, tensor.name
        elif tensor.bits < 8:
            assert len(np.unique(values)) > 2, tensor.name
            assert values.std() > 0.2, tensor.name


@pytest.mark.parametrize(("family", "name"), CASES)
def test_layer_norm_rounds_to_the_grid_of_the_layer_behind(family, name):
    given = case(family, name)
    epsilon = 1e-6 if family == "vit" else 1e-5
    for block in given.blocks:
        for norm, layer in (("norm1", "attn.qkv"), ("norm2", "mlp.fc1")):
            if (grid := given.reference.grids.get(f"{block}.{layer}")) is None:
                continue
            gamma, beta = (given.reference.state[f"{block}.{norm}.{what}"] for what in ("weight", "bias"))
            expected = grid.quantize(normalised(given.stream(f"{block}.{norm}"), epsilon) * gamma + beta)
            operator = given.operators[f"{block}.{norm}"]
            rows = given.network.arrays[f"{block}.{norm}.output_rows"] if operator.mapped else slice(None)
            mostly_equal(given.tensors[f"{block}.{norm}"][:, rows], expected, 0.006)


@pytest.mark.parametrize(("family", "name"), [c for c in CASES if LOW_BIT[c[1]].head_norm])
def test_layer_norm_over_heads_rounds_q_and_k(family, name):
    given = case(family, name)
    for block in given.blocks:
        norm = given.network.tensor(f"{block}.attn.qk_norm")
        real = given.stream(norm.name).reshape(len(given.images), norm.rows, norm.groups, norm.channels)
        for index, part in enumerate("qk"):
            gamma, beta = head_norms(given.reference.state, f"{block}.attn", norm.channels)[index]
            heads = np.array_split(real, 2, axis=2)[index].swapaxes(1, 2)
            expected = given.reference.grids[f"{block}.attn.{part}"].quantize(normalised(heads, 1e-6) * gamma + beta)
            tensor = given.tensors[norm.name].reshape(real.shape)
            mostly_equal(np.array_split(tensor, 2, axis=2)[index].swapaxes(1, 2), expected, 0.01)


@pytest.mark.parametrize(("family", "name"), SPLIT)
def test_q_k_and_v_are_rounded_as_the_scheme_says(family, name):
    given = case(family, name)
    for block in given.blocks:
        for layer, parts in (("qk", "qk"), ("v", "v")):
            tensor = given.network.tensor(f"{block}.attn.{layer}")
            if given.scheme.head_norm and layer == "qk":
                continue
            real = given.linear(tensor.name).reshape(len(given.images), tensor.rows, len(parts), -1, tensor.channels)
            codes = given.tensors[tensor.name].reshape(real.shape).astype(np.float64)
            for index, part in enumerate(parts):
                grid = given.reference.grids[f"{block}.attn.{part}"]
                expected = grid.quantize(real[:, :, index].swapaxes(1, 2))
                found = codes[:, :, index].swapaxes(1, 2)
                found = found + grid.zero[0] if given.scheme.attention is Attention.SQRT2 and part == "v" else found
                # Of 2 bits a step of the output is a few of the sum, and the bias is whole steps of the sum.
                mostly_equal(found, expected, {1: 0, 2: 0.08, 4: 0.02}[grid.bits])


@pytest.mark.parametrize(("family", "name"), SPLIT)
def test_logits_are_products_of_q_and_k(family, name):
    given = case(family, name)
    for block in given.blocks:
        (q, k, _), (q_scale, k_scale, _) = given.heads(block)
        real = q @ k.swapaxes(-1, -2) * (q_scale * k_scale / math.sqrt(q.shape[-1]))
        tensor = given.network.tensor(f"{block}.attn.logits")
        found = (given.split(tensor.name) - tensor.zero_point) * tensor.scale
        inside = np.abs(given.split(tensor.name)) < 127
        exact = given.scheme.attention is Attention.MAXIMUM
        steps = 0.0 if exact else 0.51
        if family == "swin":
            real = real + positions(given, block)
            steps = 0.51 + 0.26 * (not exact)
        np.testing.assert_array_less(np.abs(found - real)[inside], steps * tensor.scale + 1e-9)
        assert inside.mean() > 0.5


def positions(given, block):
    """Real position biases of a block (heads, T, T)."""
    stage = next(stage for stage in given.config.stages if block.startswith(f"{stage.name}."))
    table = given.reference.state[f"{block}.attn.relative_position_bias_table"]
    return table[relative_position_index(stage.window)].transpose(2, 0, 1).astype(np.float64)


@pytest.mark.parametrize("name", ["bivit", "bivit_w1a1"])
def test_bivit_attends_to_keys_of_a_quarter_of_the_greatest_weight_exactly(name):
    given = case("vit", name)
    for block in given.blocks:
        (q, k, _), _ = given.heads(block)
        logits = q @ k.swapaxes(-1, -2) / math.sqrt(q.shape[-1])
        weights = np.exp(logits - logits.max(-1, keepdims=True))
        weights /= weights.sum(-1, keepdims=True)
        expected = weights >= weights.max(-1, keepdims=True) / 4
        np.testing.assert_array_equal(given.split(f"{block}.attn.softmax"), expected)


@pytest.mark.parametrize("name", ["bivit", "bivit_w1a1"])
def test_bivit_with_position_bias_compares_exactly_what_its_logits_say(name):
    given = case("swin", name)
    for block in given.blocks:
        tensor = given.network.tensor(f"{block}.attn.logits")
        operator, logits = given.operators[tensor.name], given.split(tensor.name) * tensor.scale
        expected = logits >= logits.max(-1, keepdims=True) - np.log(4)
        if operator.masked:
            stage = next(stage for stage in given.config.stages if block.startswith(f"{stage.name}."))
            masks = shift_mask(stage, stage.shift(int(block.rpartition(".")[2])))[:, None]
            assert not given.split(f"{block}.attn.softmax")[np.broadcast_to(masks, logits.shape)].any()
        np.testing.assert_array_equal(given.split(f"{block}.attn.softmax"), expected)


@pytest.mark.parametrize(("family", "name"), [c for c in SPLIT if LOW_BIT[c[1]].attention is not Attention.MAXIMUM])
def test_codes_of_the_attention_map_are_those_of_a_float_softmax(family, name):
    given = case(family, name)
    for block in given.blocks:
        tensor, operator = given.network.tensor(f"{block}.attn.logits"), given.operators[f"{block}.attn.softmax"]
        integers = given.split(tensor.name)
        logits = np.where(integers == -128, -np.inf, integers * tensor.scale) if operator.masked else integers * tensor.scale
        weights = np.exp(logits - logits.max(-1, keepdims=True))
        weights /= weights.sum(-1, keepdims=True)
        scale = given.reference.grids[f"{block}.attn.map"].scale[:, None, None]
        found, zero = given.split(f"{block}.attn.softmax"), given.network.tensor(operator.name).zero_point
        match given.scheme.attention:
            case Attention.THRESHOLD:
                assert (found != (weights >= scale))[np.abs(np.log2(np.maximum(weights, 1e-30) / scale)) > 0.05].sum() == 0
            case Attention.UNIFORM:
                mostly_equal(found - zero, np.clip(np.rint(weights / scale), 0, 2**given.scheme.head_bits - 1), 0.12)
            case _:
                codes = np.clip(np.rint(-2 * np.log2(np.maximum(weights, 1e-30) / scale)), 0, 15)
                mostly_equal(found, codes, 0.06)


@pytest.mark.parametrize(("family", "name"), SPLIT)
def test_attention_times_v_is_rounded_to_what_the_projection_takes(family, name):
    given = case(family, name)
    for block in given.blocks:
        (_, _, v), (_, _, v_scale) = given.heads(block)
        tensor = given.network.tensor(f"{block}.attn.softmax")
        codes = given.split(tensor.name) - tensor.zero_point
        if given.scheme.attention is Attention.SQRT2:
            codes = np.where(codes < 15, np.rint(2.0 ** (14 - codes / 2)) / 2**14, 0)
        scale = 1.0 if given.scheme.attention is Attention.MAXIMUM else given.reference.grids[f"{block}.attn.map"].scale[:, None, None]
        real = codes @ v * (scale * v_scale)
        expected = given.reference.grids[f"{block}.attn.proj"].quantize(real)
        mostly_equal(given.split(f"{block}.attn.av"), expected, 0 if given.scheme.token_bits == 1 else 0.01)


@pytest.mark.parametrize(("family", "name"), CASES)
def test_hidden_layers_are_rounded_to_what_the_layer_behind_takes(family, name):
    given = case(family, name)
    for block in given.blocks:
        layer = f"{block}.mlp.fc1"
        real, tensor = given.linear(layer), given.network.tensor(layer)
        if tensor.bits == 8:
            found = (given.tensors[layer].astype(np.float64) - tensor.zero_point) * tensor.scale
            assert np.abs(found - gelu(real)).mean() < 1.2 * tensor.scale
            continue
        grid = given.reference.grids[f"{block}.mlp.fc2"]
        if tensor.bits == 1:
            np.testing.assert_array_equal(given.tensors[layer], grid.quantize(real))
        else:
            mostly_equal(given.tensors[layer], grid.quantize(gelu(real)), 0.03)


@pytest.mark.parametrize(("family", "name"), CASES)
def test_a_low_bit_network_follows_its_float_reference(family, name):
    given = case(family, name)
    expected = given.reference.forward(normalise(given.config, given.images))
    head = given.network.outputs[0]
    found = given.tensors[head][:, 0] * given.network.tensor(head).scale
    # Signs of random networks amplify every rounding of the stream.
    least = {1: 0.3, 2: 0.6, 4: 0.8, 8: 0.9}[given.scheme.token_bits]
    assert np.corrcoef(found.ravel(), expected.ravel())[0, 1] > least


def test_learned_scales_take_the_place_of_calibrated_ones():
    config, scheme = CONFIGS["vit"], LOW_BIT["qvit_w4a4"]
    state, images = dict(synthetic_state(config)), shaped_images(config, 2)
    rng = np.random.default_rng(0)
    for name, shape in learned_shapes(config).items():
        if name.endswith("_scale"):
            state[name] = rng.uniform(0.1, 0.2, shape).astype(np.float32)
        elif name.endswith("q_zero"):
            state[name] = np.full(shape, 1, np.float32)
    network = quantize_low_bit(scheme, config, state, images, name="learned", origin="", labels=())
    check_network(network)
    reference, _ = calibrated_reference(scheme, config, state, images)
    block = "blocks.1"
    np.testing.assert_array_equal(reference.weights[f"{block}.mlp.fc1"].scale, state[f"{block}.mlp.fc1.weight_scale"].astype(np.float64))
    np.testing.assert_array_equal(reference.grids[f"{block}.attn.map"].scale, state[f"{block}.attn.map_scale"].astype(np.float64))
    assert network.tensor(f"{block}.norm2").scale == pytest.approx(float(state[f"{block}.mlp.fc1.act_scale"][0]))
    assert next(o for o in network.operators if o.name == f"{block}.attn.logits").query_zero == 1


def test_a_negative_scale_of_binary_weights_turns_their_signs():
    config, scheme = CONFIGS["vit"], LOW_BIT["bivit_w1a1"]
    state, images = dict(synthetic_state(config)), shaped_images(config, 2)
    layer = "blocks.0.mlp.fc1"
    scales = np.abs(state[f"{layer}.weight"]).mean(axis=1)
    networks = []
    for factor in (1, -1):
        given = state | {f"{layer}.weight_scale": (factor * scales).astype(np.float32)}
        networks.append(quantize_low_bit(scheme, config, given, images, name="signs", origin="", labels=()))
    first, second = (network.arrays[f"{layer}.weight"] for network in networks)
    np.testing.assert_array_equal(first, -second)
    np.testing.assert_array_equal(*(network.arrays[f"{layer}.bias"] for network in networks))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"blocks.0.attn.k_scale": [0.1, -0.1]}, "blocks.0.attn.k_scale must be positive, not -0.1"),
        (
            {"blocks.0.attn.k_scale": [0.1, 0.1], "blocks.0.attn.k_zero": [0, 1]},
            "all heads of a layer must have the same",
        ),
        ({"blocks.0.attn.map_scale": [0.1, 0.1], "blocks.0.attn.map_zero": [1, 1]}, "map of 1 bit has -1, others 0"),
        ({"blocks.0.mlp.fc1.weight_scale": [-1] * 256}, "the learned scales of 4-bit weights must be positive"),
    ],
)
def test_learned_numbers_that_no_core_takes_are_refused(changes, message):
    config = CONFIGS["vit"]
    state = synthetic_state(config) | {name: np.array(value, np.float32) for name, value in changes.items()}
    with pytest.raises(ValueError, match=message):
        quantize_low_bit(LOW_BIT["qvit_w4a4"], config, state, shaped_images(config, 1), name="", origin="", labels=())


@pytest.mark.parametrize(
    ("scheme", "name"),
    [
        ("bivit", "blocks.0.attn.q_norm.weight"),
        ("bivit", "blocks.0.attn.map_scale"),
        ("bivit", "blocks.1.mlp.fc2.act_scale"),
        ("tervit", "blocks.0.attn.q_scale"),
        ("fq-vit-8-8-4", "blocks.0.attn.proj.weight_scale"),
    ],
)
def test_what_a_scheme_cannot_use_is_refused(scheme, name):
    config = CONFIGS["vit"]
    state = synthetic_state(config) | {name: np.ones(learned_shapes(config)[name], np.float32)}
    with pytest.raises(ValueError, match=f"the scheme {scheme} has no place for {name}, which the checkpoint has learned"):
        quantize(config, state, shaped_images(config, 1), scheme=scheme, name="", origin="")


def test_a_checkpoint_brings_its_learned_scales(tmp_path):
    config, images = CONFIGS["vit"], shaped_images(CONFIGS["vit"], 2)
    state, layer = dict(synthetic_state(config)), "blocks.1.attn.proj"
    state[f"{layer}.weight_scale"] = np.linspace(-1, 1, 64, dtype=np.float32)
    save_checkpoint(tmp_path / "learned.safetensors", config, state)
    np.savez(tmp_path / "images.npz", images=images)
    paths = tmp_path / "learned.safetensors", tmp_path / "images.npz", tmp_path / "learned.int.safetensors"
    quantize_checkpoint(paths[0], "auto", "bivit", paths[1], paths[2])
    network = IntegerNetwork.load(paths[2])
    expected = quantize(config, state, images, scheme="bivit", name="learned", origin="learned.safetensors")
    for name, array in expected.arrays.items():
        np.testing.assert_array_equal(network.arrays[name], array)
    assert (network.operators, network.tensors) == (expected.operators, expected.tensors)


def test_a_learned_parameter_of_another_shape_is_named():
    config = CONFIGS["vit"]
    state = synthetic_state(config) | {"blocks.0.attn.q_scale": np.ones(3, np.float32)}
    with pytest.raises(ValueError, match=r"1 wrongly shaped \(blocks.0.attn.q_scale \(3,\) instead of \(2,\)\)"):
        check_state(config, state, source="it")


@pytest.mark.parametrize("name", LOW_BIT_NETWORKS)
def test_every_name_has_a_structure_that_cores_run(name):
    network = network_structure(name)
    check_structure(network)
    assert isinstance(network, IntegerNetwork)
    scheme = LOW_BIT[LOW_BIT_NETWORKS[name][1]]
    for operator in network.operators:
        if isinstance(operator, Linear):
            inside = "blocks." in operator.name
            assert operator.weight_bits == (scheme.weight_bits if inside else 8)
            assert network.tensor(operator.input).bits == (scheme.input_bits(operator.name) if inside else 8)
        elif isinstance(operator, LayerNorm) and operator.by_group:
            assert scheme.head_norm
