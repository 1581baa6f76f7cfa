"""A whole synthetic network: saved, loaded, run, and compared with plain loops."""

import numpy as np
import pytest

from vitloom.model.arith import scale_to_multiplier
from vitloom.model.golden import patches, predict, run
from vitloom.model.log_softmax import exp_table, log_table
from vitloom.model.network import (
    AttentionScores,
    AttentionValues,
    Constant,
    Form,
    ImageFormat,
    IntegerNetwork,
    LayerNorm,
    Linear,
    LogSoftmax,
    Tensor,
)
from vitloom.model.requantize import activation_table, gelu, residual_parameters


class _Builder:
    """Grows a random vision transformer whose activations use most of their range."""

    def __init__(self, image: ImageFormat, dim: int, heads: int, classes: int, seed: int = 0):
        self.rng = np.random.default_rng(seed)
        self.dim, self.heads, self.tokens = dim, heads, image.patches + 1
        columns = image.channels * image.patch**2
        self.network = IntegerNetwork(
            name="synthetic",
            scheme="fq-vit-8-8-4",
            origin="random",
            image=image,
            input="patches",
            outputs=["logits"],
            tensors=[
                Tensor(name="patches", rows=image.patches, channels=columns, zero_point=-128),
                Tensor(name="stem", rows=self.tokens, channels=dim, zero_point=3),
            ],
            constants=[Constant(name="cls", output="stem")],
            operators=[],
        )
        self.arrays["cls.value"] = self._bytes(1, dim)
        self.linear("patch_embed", "patches", "stem", columns, form=Form.RESIDUAL, rows=image.patches, output_row=1, residual_zero=-2)
        self.arrays["patch_embed.residual"] = self._bytes(image.patches, dim)
        self.classes = classes

    @property
    def arrays(self) -> dict:
        return self.network.arrays

    def _bytes(self, *shape: int) -> np.ndarray:
        return self.rng.integers(-128, 128, shape).astype(np.int8)

    def tensor(self, name: str, groups: int, channels: int, **options) -> str:
        self.network.tensors.append(Tensor(name=name, groups=groups, channels=channels, **{"rows": self.tokens, **options}))
        return name

    def linear(self, name: str, source: str, target: str, k: int, *, form: Form = Form.REQUANTIZE, **options) -> None:
        n = self.network.tensor(target).shape[1]
        self.arrays[f"{name}.weight"] = self._bytes(n, k)
        self.arrays[f"{name}.bias"] = self.rng.integers(-1000, 1000, n, dtype=np.int32)
        deviation = 74.0 * 74.0 * k**0.5
        scale = (1000.0 if form is Form.RAW else 35.0) / deviation * self.rng.uniform(0.7, 1.4, n)
        self.arrays[f"{name}.multiplier"], self.arrays[f"{name}.shift"] = scale_to_multiplier(scale)
        if form is Form.TABLE:
            self.arrays[f"{name}.table"] = activation_table(gelu, 0.04, -20, 0.02, -120)
        if form is Form.RESIDUAL:
            ratio = 0.7 * 2.0 ** self.rng.integers(-1, 2, n)
            multiplier, self.arrays[f"{name}.residual_shift"] = residual_parameters(ratio, self.arrays[f"{name}.shift"])
            options["residual_multiplier"] = multiplier
        self.network.operators.append(Linear(name=name, input=source, output=target, form=form, **{"rows": self.tokens, **options}))

    def norm(self, name: str, source: str, rows: int) -> str:
        target = self.tensor(f"{name}.out", 1, self.dim, rows=rows, zero_point=5)
        self.arrays[f"{name}.alpha"] = self.rng.integers(0, 4, self.dim).astype(np.uint8)
        self.arrays[f"{name}.gain"] = self.rng.integers(20_000, 50_000, self.dim, dtype=np.int32)
        self.arrays[f"{name}.offset"] = self.rng.integers(-20_000, 20_000, self.dim, dtype=np.int32)
        self.network.operators.append(LayerNorm(name=name, input=source, output=target, rows=rows, epsilon=400))
        return target

    def block(self, name: str, source: str) -> str:
        dim, heads, width = self.dim, self.heads, self.dim // self.heads
        operators = self.network.operators
        normal = self.norm(f"{name}.norm1", source, self.tokens)
        qkv = self.tensor(f"{name}.qkv.out", 3 * heads, width)
        self.linear(f"{name}.qkv", normal, qkv, dim)
        scores = self.tensor(f"{name}.scores.out", heads, self.tokens)
        parts = scale_to_multiplier(self.rng.uniform(0.7, 1.4, heads) * 40 / (35 * 35 * width**0.5))
        self.arrays[f"{name}.scores.multiplier"], self.arrays[f"{name}.scores.shift"] = parts
        operators.append(AttentionScores(name=f"{name}.scores", input=qkv, output=scores, heads=heads))
        codes = self.tensor(f"{name}.softmax.out", heads, self.tokens)
        self.arrays[f"{name}.softmax.exp_table"], self.arrays[f"{name}.softmax.log_table"] = exp_table(0.15), log_table(0.15)
        operators.append(LogSoftmax(name=f"{name}.softmax", input=scores, output=codes))
        mixed = self.tensor(f"{name}.values.out", heads, width, zero_point=-1)
        parts = scale_to_multiplier(self.rng.uniform(1, 3, dim) * 2.0**-14)
        self.arrays[f"{name}.values.multiplier"], self.arrays[f"{name}.values.shift"] = parts
        operators.append(AttentionValues(name=f"{name}.values", input=codes, values=qkv, output=mixed, heads=heads))
        middle = self.tensor(f"{name}.proj.out", 1, dim, zero_point=-4)
        self.linear(f"{name}.proj", mixed, middle, dim, form=Form.RESIDUAL, residual=source, residual_zero=3)
        normal = self.norm(f"{name}.norm2", middle, self.tokens)
        hidden = self.tensor(f"{name}.fc1.out", 1, 4 * dim, zero_point=-20)
        self.linear(f"{name}.fc1", normal, hidden, dim, form=Form.TABLE)
        result = self.tensor(f"{name}.fc2.out", 1, dim, zero_point=2)
        self.linear(f"{name}.fc2", hidden, result, 4 * dim, form=Form.RESIDUAL, residual=middle, residual_zero=-4)
        return result

    def finish(self, source: str) -> IntegerNetwork:
        logits = self.tensor("logits", 1, self.classes, rows=1, bits=32)
        self.linear("head", self.norm("norm", source, 1), logits, self.dim, form=Form.RAW, rows=1)
        return self.network


def _network(image: ImageFormat, dim: int, heads: int, depth: int, classes: int) -> IntegerNetwork:
    builder = _Builder(image, dim, heads, classes)
    source = "stem"
    for index in range(depth):
        source = builder.block(f"blocks.{index}", source)
    return builder.finish(source)


SMALL = ImageFormat(channels=3, size=9, patch=4, mean=[0.5] * 3, std=[0.5] * 3)


@pytest.fixture(scope="module")
def network() -> IntegerNetwork:
    return _network(SMALL, dim=12, heads=3, depth=2, classes=7)


@pytest.fixture(scope="module")
def images() -> np.ndarray:
    return np.random.default_rng(1).integers(0, 256, (5, 3, 9, 9), dtype=np.uint8)


@pytest.fixture(scope="module")
def tensors(network, images) -> dict:
    return run(network, images)


def test_every_tensor_has_its_shape_type_and_spread(network, tensors):
    assert list(tensors) == [tensor.name for tensor in network.tensors]
    for tensor in network.tensors:
        array = tensors[tensor.name]
        assert array.shape == (5, *tensor.shape), tensor.name
        assert array.dtype == (np.int32 if tensor.bits == 32 else np.int8), tensor.name
        if "softmax" in tensor.name:
            assert (array.min(), array.max() > 4) == (0, True), tensor.name
            assert array.max() <= 15
        elif tensor.bits == 8:
            assert array.std() > 10, tensor.name
            assert np.mean((array == -128) | (array == 127)) < 0.4, tensor.name


def test_a_saved_network_runs_to_the_same_tensors(network, images, tensors, tmp_path):
    network.save(tmp_path / "network.safetensors")
    loaded = IntegerNetwork.load(tmp_path / "network.safetensors")
    assert loaded.operators == network.operators
    for name, array in run(loaded, images).items():
        np.testing.assert_array_equal(array, tensors[name], err_msg=name)


def test_patches_are_in_the_order_of_a_convolution(images):
    rows = patches(SMALL, images)
    assert (rows.dtype, rows.shape) == (np.int8, (5, 4, 48))
    weight = np.random.default_rng(2).integers(-128, 128, (6, 3, 4, 4))
    for row in range(2):
        for column in range(2):
            window = images[:, :, 4 * row : 4 * row + 4, 4 * column : 4 * column + 4].astype(int) - 128
            convolved = np.einsum("bcyx,ncyx->bn", window, weight)
            np.testing.assert_array_equal(rows[:, 2 * row + column].astype(int) @ weight.reshape(6, -1).T, convolved)


def test_the_batch_does_not_matter(network, images, tensors):
    for name, array in run(network, images[3:4]).items():
        np.testing.assert_array_equal(array[0], tensors[name][3], err_msg=name)


def test_the_class_token_and_the_position_embedding_enter_the_stem(network, tensors):
    stem, arrays = tensors["stem"], network.arrays
    np.testing.assert_array_equal(stem[:, 0], np.tile(arrays["cls.value"], (5, 1)))
    operator = network.operators[0]
    for patch, n in [(0, 0), (1, 5), (3, 11)]:
        acc = int(tensors["patches"][2, patch].astype(int) @ arrays["patch_embed.weight"][n].astype(int))
        added = (int(arrays["patch_embed.residual"][patch, n]) + 2) * operator.residual_multiplier
        total = (acc + int(arrays["patch_embed.bias"][n])) * int(arrays["patch_embed.multiplier"][n])
        total += added << int(arrays["patch_embed.residual_shift"][n])
        shift = int(arrays["patch_embed.shift"][n])
        assert stem[2, patch + 1, n] == max(-128, min(127, ((total + (1 << (shift - 1))) >> shift) + 3))


def test_attention_takes_each_head_from_its_place(network, tensors):
    """Head h has q in columns 4h.., k in 12 + 4h.., v in 24 + 4h..; codes and results lie head by head."""
    name, arrays, tokens = "blocks.1", network.arrays, 5
    qkv, scores = tensors[f"{name}.qkv.out"].astype(int), tensors[f"{name}.scores.out"]
    codes, mixed = tensors[f"{name}.softmax.out"], tensors[f"{name}.values.out"]

    def requantized(acc, operator, index, zero):
        shift = int(arrays[f"{name}.{operator}.shift"][index])
        product = int(acc) * int(arrays[f"{name}.{operator}.multiplier"][index])
        return max(-128, min(127, ((product + (1 << (shift - 1))) >> shift) + zero))

    for head in range(3):
        for m in range(tokens):
            for n in range(tokens):
                acc = qkv[0, m, 4 * head : 4 * head + 4] @ qkv[0, n, 12 + 4 * head : 16 + 4 * head]
                assert scores[0, m, tokens * head + n] == requantized(acc, "scores", head, 0)
            powers = [0 if c == 15 else 1 << (14 - int(c)) for c in codes[0, m, tokens * head : tokens * (head + 1)]]
            for channel in range(4 * head, 4 * head + 4):
                acc = np.dot(powers, qkv[0, :, 24 + channel])
                assert mixed[0, m, channel] == requantized(acc, "values", channel, -1)


def test_prediction_is_the_greatest_logit_and_heads_are_added(network, images, tensors):
    logits = tensors["logits"][:, 0]
    np.testing.assert_array_equal(predict(network, images), logits.argmax(-1))
    twice = IntegerNetwork(**{**vars(network), "outputs": ["logits", "logits"]})
    np.testing.assert_array_equal(predict(twice, images), logits.argmax(-1))


@pytest.mark.parametrize(
    ("wrong", "given"),
    [
        (np.zeros((1, 3, 8, 9), np.uint8), r"uint8 of shape \(1, 3, 8, 9\)"),
        (np.zeros((3, 9, 9), np.uint8), r"uint8 of shape \(3, 9, 9\)"),
        (np.zeros((1, 3, 9, 9), np.float32), "float32 of shape"),
        ([[1]], "list"),
    ],
)
def test_wrong_images_are_refused(network, wrong, given):
    with pytest.raises(ValueError, match=rf"images are {given}.*takes uint8 of shape \(B, 3, 9, 9\)"):
        run(network, wrong)


def test_an_output_of_the_wrong_width_is_refused(network, images):
    narrow = [Tensor(name="logits", rows=1, channels=7) if t.name == "logits" else t for t in network.tensors]
    with pytest.raises(ValueError, match="only raw gives int32"):
        run(IntegerNetwork(**{**vars(network), "tensors": narrow}), images)
