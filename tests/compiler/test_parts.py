"""Programs for layers cut out of a network: any tensor may be the input, and any the output."""

import pytest

from vitloom.compiler import compile_network
from vitloom.hw.config import CoreConfig
from vitloom.model.networks import network_structure
from vitloom.model.part import part, part_input
from vitloom.sim.trace import check_coverage


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


def test_parts_fit_small_memories(tiny_swin_network, image_of, assert_runs_as_golden):
    cut = part(tiny_swin_network, ["layers.0"])
    program = compile_network(cut, CoreConfig(lanes=4, scratchpad_bytes=32 << 10, accumulator_rows=64))
    assert_runs_as_golden(cut, program, [None, 0], part_input(tiny_swin_network, cut, image_of(tiny_swin_network)))


def test_half_an_attention_is_refused():
    with pytest.raises(ValueError, match="stands alone; attention is norm, q, k and v"):
        compile_network(part(network_structure("deit_tiny"), ["blocks.0.attn.softmax"]), CoreConfig(lanes=16))
