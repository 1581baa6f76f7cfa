"""Programs for layers cut out of a network: any tensor may be the input, and any the output."""

from functools import cache

import numpy as np
import pytest

from vitloom.compiler import compile_network
from vitloom.hw.config import CoreConfig, preset
from vitloom.model import golden
from vitloom.model.float_swin import SwinConfig
from vitloom.model.float_vit import ViTConfig
from vitloom.model.networks import network_structure
from vitloom.model.part import part, part_input
from vitloom.model.quantize import quantize
from vitloom.model.schemes.scheme import LOW_BIT
from vitloom.model.synthetic import shaped_images, synthetic_state
from vitloom.sim.trace import check_coverage

CONFIGS = {
    "vit": ViTConfig(img_size=16, patch_size=4, num_classes=5, embed_dim=48, depth=1, num_heads=3, distilled=True),
    "swin": SwinConfig(img_size=16, patch_size=2, num_classes=5, embed_dim=16, depths=(2, 1), num_heads=(1, 2), window_size=4),
}


@pytest.mark.parametrize("lanes", [4, 8, 16])
@pytest.mark.parametrize(
    ("name", "layers"),
    [
        ("tiny_network", ["blocks.0"]),
        ("tiny_network", ["patch_embed"]),
        ("tiny_network", ["blocks.0.norm1"]),
        ("tiny_network", ["blocks.0.attn.qkv"]),
        ("tiny_network", ["norm", "head"]),
        ("tiny_swin_network", ["patch_embed"]),
        ("tiny_swin_network", ["layers.0"]),
        ("tiny_swin_network", ["layers.0.blocks.1"]),
        ("tiny_swin_network", ["layers.1"]),
        ("tiny_swin_network", ["layers.1.downsample.norm"]),
        ("tiny_swin_network", ["pool"]),
        ("tiny_swin_network", ["norm", "pool"]),
    ],
)
def test_every_written_word_is_the_golden_one(request, image_of, name, layers, lanes, assert_runs_as_golden):
    network = request.getfixturevalue(name)
    cut = part(network, layers)
    program = compile_network(cut, CoreConfig(lanes=lanes))
    check_coverage(program)
    assert_runs_as_golden(cut, program, [None, 0], part_input(network, cut, image_of(network)))


@pytest.fixture(scope="module")
def low_bit_network():
    """The network of a low-bit scheme and a family, made once."""

    @cache
    def low_bit_network(scheme, family):
        config = CONFIGS[family]
        return quantize(config, synthetic_state(config), shaped_images(config, 2), scheme=scheme, name=scheme, origin="synthetic")

    return low_bit_network


@pytest.mark.parametrize(
    ("family", "layers"),
    [
        ("vit", ["blocks.0"]),
        ("vit", ["blocks.0.norm1", "blocks.0.attn"]),
        ("vit", ["blocks.0.mlp.fc1"]),
        ("vit", ["blocks.0.norm2"]),
        ("vit", ["norm", "head", "head_dist"]),
        ("swin", ["layers.0"]),
        ("swin", ["layers.1"]),
    ],
)
@pytest.mark.parametrize("scheme", LOW_BIT)
def test_a_part_of_a_low_bit_network_does_what_the_whole_does(low_bit_network, image_of, scheme, family, layers, assert_runs_as_golden):
    network = low_bit_network(scheme, family)
    cut, image = part(network, layers), image_of(network)
    start = part_input(network, cut, image)
    whole = golden.run(network, image)
    for name, values in golden.run_from(cut, start).items():
        np.testing.assert_array_equal(values, whole[name])
    program = compile_network(cut, preset("l8-all"))
    check_coverage(program)
    assert_runs_as_golden(cut, program, [None, 0], start)


def test_parts_fit_small_memories(tiny_swin_network, image_of, assert_runs_as_golden):
    cut = part(tiny_swin_network, ["layers.0"])
    program = compile_network(cut, CoreConfig(lanes=4, scratchpad_bytes=32 << 10, accumulator_rows=64))
    assert_runs_as_golden(cut, program, [None, 0], part_input(tiny_swin_network, cut, image_of(tiny_swin_network)))


def test_half_an_attention_is_refused():
    with pytest.raises(ValueError, match="stands alone; attention is norm, q, k and v"):
        compile_network(part(network_structure("deit_tiny"), ["blocks.0.attn.softmax"]), CoreConfig(lanes=16))
