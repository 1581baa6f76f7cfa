"""A quantised Swin transformer: its logits beside the float network's, and what the quantiser makes of bias, mask and merging."""

from pathlib import Path

import numpy as np
import pytest

from vitloom.model.checkpoint import load_checkpoint
from vitloom.model.float_ops import normalise
from vitloom.model.float_swin import forward
from vitloom.model.golden import run
from vitloom.model.network import AttentionScores, AveragePool, LayerNorm, Linear
from vitloom.model.quantize import quantize

ORACLE = Path(__file__).parents[1] / "data" / "timm_swin_micro.safetensors"


def _images(count: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (count, 3, 56, 56), dtype=np.uint8)


@pytest.fixture(scope="module")
def micro():
    """The small random network of timm."""
    return load_checkpoint(ORACLE)


@pytest.fixture(scope="module")
def network(micro):
    return quantize(*micro, _images(8), name="micro", origin="timm")


def _cosine(a: np.ndarray, b: np.ndarray) -> float:
    return float(np.sum(a * b) / np.sqrt(np.sum(a * a) * np.sum(b * b)))


def test_integer_logits_follow_the_float_ones(micro, network):
    """On images that calibration did not see; the part that depends on the image is compared too, as the rest is easier."""
    images = _images(32, seed=1)
    expected = forward(*micro, normalise(micro[0], images))
    given = run(network, images)["head.fc"][:, 0] * network.tensor("head.fc").scale
    whole = _cosine(given, expected)
    varying = _cosine(given - given.mean(axis=0), expected - expected.mean(axis=0))
    agree = np.mean(given.argmax(axis=1) == expected.argmax(axis=1))
    print(f"cosine {whole:.5f}, of what depends on the image {varying:.4f}; argmax agrees on {agree:.0%}")
    assert whole > 0.999
    assert varying > 0.98
    assert agree >= 30 / 32


def test_quantising_twice_gives_the_same_integers(micro, network):
    again = quantize(*micro, _images(8), name="micro", origin="timm")
    assert again.operators == network.operators
    for name, array in network.arrays.items():
        np.testing.assert_array_equal(again.arrays[name], array, err_msg=name)


def test_operators_are_those_of_timm_in_order(network):
    names = [operator.name for operator in network.operators]
    block = ["norm1", "attn.qkv", "attn.qk", "attn.softmax", "attn.av", "attn.proj", "norm2", "mlp.fc1", "mlp.fc2"]
    blocks = [[f"layers.{stage}.blocks.{index}.{part}" for index in (0, 1) for part in block] for stage in (0, 1)]
    merging = ["layers.1.downsample.norm", "layers.1.downsample.reduction"]
    assert names == ["patch_embed.proj", "patch_embed.norm", *blocks[0], *merging, *blocks[1], "norm", "pool", "head.fc"]
    assert network.outputs == ["head.fc"]


def test_only_the_layers_around_windows_and_mergings_are_mapped(network):
    mapped = {o.name.split(".", 1)[1] for o in network.operators if isinstance(o, LayerNorm | Linear) and o.mapped}
    wanted = {f"{stage}.blocks.{block}.{part}" for stage in (0, 1) for block in (0, 1) for part in ("norm1", "attn.proj")}
    assert mapped == wanted | {"0.blocks.1.mlp.fc2"}
    merged = network.tensor("layers.0.blocks.1.mlp.fc2")
    assert (merged.rows, merged.groups, merged.channels) == (49, 4, 32)
    alpha = network.arrays["layers.1.downsample.norm.alpha"].reshape(4, 32)
    np.testing.assert_array_equal(alpha, np.tile(alpha[0], (4, 1)))


def test_only_shifted_blocks_of_more_than_one_window_have_masks(network):
    scores = {o.name: o for o in network.operators if isinstance(o, AttentionScores)}
    masked = {name: (o.masked, o.windows, network.arrays[f"{name}.bias"].shape[:2]) for name, o in scores.items()}
    assert masked == {
        "layers.0.blocks.0.attn.qk": (False, 4, (1, 1)),
        "layers.0.blocks.1.attn.qk": (True, 4, (4, 1)),
        "layers.1.blocks.0.attn.qk": (False, 1, (1, 2)),
        "layers.1.blocks.1.attn.qk": (False, 1, (1, 2)),
    }


def test_the_integer_bias_is_the_table_of_relative_positions(micro, network):
    """Entry (query, key) is that of the row and column distance, within half a step of its head."""
    for name in ("layers.0.blocks.1", "layers.1.blocks.0"):
        table = micro[1][f"{name}.attn.relative_position_bias_table"].reshape(13, 13, -1)
        operator = next(o for o in network.operators if o.name == f"{name}.attn.qk")
        bias, shift = (network.arrays[f"{name}.attn.qk.{part}"] for part in ("bias", "shift"))
        for head in range(bias.shape[1]):
            residual = operator.residual_multiplier << int(network.arrays[f"{name}.attn.qk.residual_shift"][head])
            step = residual / 2 ** int(shift[head]) * network.tensor(f"{name}.attn.qk").scale
            for query, key in [(0, 0), (0, 48), (48, 0), (10, 3), (3, 10), (25, 30)]:
                distance = np.subtract(divmod(query, 7), divmod(key, 7)) + 6
                values = {int(v) for v in bias[:, head, query, key]} - {-128}
                assert values == {round(float(table[distance[0], distance[1], head]) / step)}


def test_pooling_precedes_the_head(network):
    pool = next(o for o in network.operators if isinstance(o, AveragePool))
    assert (pool.input, pool.output) == ("norm", "pool")
    assert network.tensor("pool").shape == (1, 64)
