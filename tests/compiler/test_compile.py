"""Programs for small transformers of awkward sizes: executed instruction by instruction, every word they write is the golden model's."""

from dataclasses import replace

import numpy as np
import pytest

from vitloom.compiler import compile_network, pack_input, unpack_output
from vitloom.compiler.check import check
from vitloom.hw import isa
from vitloom.hw.config import CoreConfig
from vitloom.model import golden
from vitloom.model.float_vit import ViTConfig, random_state
from vitloom.model.networks import network_structure
from vitloom.model.quantize import quantize

SMALL = ViTConfig(img_size=12, patch_size=3, in_chans=3, num_classes=7, embed_dim=20, depth=2, num_heads=2, mean=(0.5,), std=(0.5,))
SHAPES = {
    "two heads of 10": SMALL,
    "one head": replace(SMALL, num_heads=1, depth=1),
    "five heads and two outputs": replace(SMALL, num_heads=5, distilled=True, num_classes=18),
    "37 tokens": replace(SMALL, img_size=18, embed_dim=24, num_heads=3),
}


def quantized(shape: ViTConfig):
    noise = np.random.default_rng(0).integers(0, 256, (2, shape.in_chans, shape.img_size, shape.img_size), dtype=np.uint8)
    return quantize(shape, random_state(shape, 1), noise, name="small", origin="random")


@pytest.fixture(scope="module")
def networks() -> dict:
    return {name: quantized(shape) for name, shape in SHAPES.items()}


@pytest.fixture(scope="module")
def network(networks):
    return networks["two heads of 10"]


@pytest.mark.parametrize("lanes", [4, 8, 12, 16])
@pytest.mark.parametrize("shape", SHAPES)
def test_every_written_word_is_the_golden_one(networks, shape, lanes, assert_runs_as_golden):
    network = networks[shape]
    assert_runs_as_golden(network, compile_network(network, CoreConfig(lanes=lanes)), [None, 0, 1])


@pytest.mark.parametrize(
    "settings",
    [
        {"scratchpad_bytes": 8 << 10},
        {"accumulator_rows": 8},
        {"constant_channels": 32},
        {"queue_depth": 2, "banks": 4},
        {"memory_bytes_per_cycle": 1, "epilogue_lanes": 8},
        {"banks": 16},
    ],
    ids=str,
)
def test_small_memories_change_the_program_but_not_its_results(network, settings, assert_runs_as_golden):
    config = CoreConfig(lanes=8, **settings)
    program = compile_network(network, config)
    assert_runs_as_golden(network, program, [None, 0, 1, 2])


def test_q_k_and_v_are_made_head_by_head_where_memory_is_short(networks, assert_runs_as_golden):
    network = networks["37 tokens"]
    program = compile_network(network, CoreConfig(lanes=4, scratchpad_bytes=8 << 10))
    assert sum(name.startswith("blocks.0.attn.qkv.k") for name in program.buffers) == 3
    assert_runs_as_golden(network, program, [None, 0])


def test_programs_longer_than_the_program_memory_come_in_blocks(network, assert_runs_as_golden):
    whole = compile_network(network, CoreConfig(lanes=8))
    program = compile_network(network, CoreConfig(lanes=8, program_depth=32, program_stream=True))
    blocks = [i for i, x in enumerate(program.instructions) if x.fields.get("target") == isa.Target.PROGRAM.value]
    assert blocks == list(range(8, len(program.instructions) - 8, 8))
    assert len(program.instructions) == len(whole.instructions) + len(blocks)
    assert program.resident_words() == program.words()[:16] and not whole.streamed
    assert "instructions in blocks of 8" in program.describe()
    assert_runs_as_golden(network, program, [None, 0, 1])


def test_a_core_that_streams_keeps_short_programs_whole(network):
    program = compile_network(network, CoreConfig(lanes=8, program_stream=True))
    assert program.resident_words() == program.words() == compile_network(network, CoreConfig(lanes=8)).words()


def test_deit_tiny_fits_256_kib_at_two_bytes_a_cycle():
    """Every weight is loaded once: q, k and v are made head by head, and their rows are cut, so that all of an MLP fits."""
    config = CoreConfig(scratchpad_bytes=256 << 10, memory_bytes_per_cycle=2, memory_latency=8, program_depth=512, program_stream=True)
    program = compile_network(network_structure("deit_tiny"), config)
    weights = [i for i in program.instructions if i.opcode is isa.Opcode.LOAD and i.layer.endswith(("qkv", "proj", "fc1", "fc2"))]
    loaded = [i.anchors or (i.fields["memory"], i.fields["target"]) for i in weights if i.fields["target"] == isa.Target.SCRATCHPAD.value]
    assert len(set(loaded)) == len(loaded) > 0


def test_rows_are_cut_where_accumulators_are_few(network):
    program = compile_network(network, CoreConfig(lanes=8, accumulator_rows=8))
    rows = [i.fields["rows"] for i in program.instructions if i.opcode is isa.Opcode.MATMUL]
    assert max(rows) <= 8


def test_instructions_survive_their_encoding(network):
    program = compile_network(network, CoreConfig(lanes=8))
    words = program.words()
    assert len(words) <= program.config.program_depth
    for instruction, word in zip(program.instructions, words, strict=True):
        header = isa.unpack(isa.HEADER, word)
        assert header == instruction.header
        body = isa.unpack(isa.BODIES[instruction.opcode], word >> isa.HEADER.size)
        assert {**header, **body} == instruction.values
    assert program.instructions[-1].opcode is isa.Opcode.END
    assert program.fingerprint == program.config.fingerprint


def test_input_and_output_are_packed_in_their_layouts(network, image_of):
    program = compile_network(network, CoreConfig(lanes=8))
    patches = golden.patches(network.image, image_of(network))[0]
    content = pack_input(program, patches)
    assert len(content) == program.input_region[1] * 8
    np.testing.assert_array_equal(program.layouts[network.input].unpack(content), patches)
    logits = np.arange(-3, 4, dtype=np.int32)[None] * 100_000
    name = network.outputs[0]
    np.testing.assert_array_equal(unpack_output(program, name, program.layouts[name].pack(logits)), logits)
    with pytest.raises(ValueError, match=r"the input is int8 of shape \(16, 27\), not int8 of shape \(15, 27\)"):
        pack_input(program, patches[1:])


def test_layers_count_every_mac_and_own_their_instructions(network):
    program = compile_network(network, CoreConfig(lanes=8))
    layers = {layer.name: layer for layer in program.layers}
    qkv, qk, av = layers["blocks.0.attn.qkv"], layers["blocks.0.attn.qk"], layers["blocks.0.attn.av"]
    assert (qkv.M, qkv.K, qkv.N, qkv.count, qkv.mode) == (17, 20, 60, 1, "int8")
    assert (qk.M, qk.K, qk.N, qk.count, qk.mode) == (17, 10, 17, 2, "int8")
    assert (av.M, av.K, av.N, av.count, av.mode) == (17, 17, 10, 2, "log2")
    assert qk.lower_bound_cycles == 2 * 17 * 2 * 3
    # q, k and v are padded head by head: 6 groups of 2 tiles.
    assert qkv.lower_bound_cycles == 17 * 3 * 12
    for layer in program.layers:
        assert layer.instructions
        assert all(program.instructions[index].layer == layer.name for index in layer.instructions)
    macs = 16 * 27 * 20 + 2 * (17 * 20 * 60 + 4 * 17 * 10 * 17 + 17 * 20 * 20 + 2 * 17 * 20 * 80) + 20 * 7
    assert sum(layer.macs for layer in program.layers) == macs


def test_deit_tiny_reaches_the_published_tile_limit():
    """4 947 552 cycles at L = 16: what the sum of the tiles of all its products takes."""
    program = compile_network(network_structure("deit_tiny"), CoreConfig())
    assert program.lower_bound_cycles == 4_947_552
    check(program)


def test_the_description_lists_every_buffer_and_weight_chunk(network):
    program = compile_network(network, CoreConfig(lanes=8))
    text = program.describe()
    for name in ("weights", "blocks.1.attn.qkv.weight", "patch_embed.residual", "input", *network.outputs):
        assert f"  {name}" in text
    loads = sum(i.opcode is isa.Opcode.LOAD and i.writes[0].buffer.startswith("weights.") for i in program.instructions)
    assert len(text.partition("weight chunk")[2].splitlines()) == 1 + loads


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"scratchpad_bytes": 2048},
            r"small needs a scratchpad of 4096 bytes in 8 banks; .* 2048 too few; the least that works is --set scratchpad_bytes=4096",
        ),
        (
            {"program_depth": 32},
            r"small needs program_depth of 128; this configuration has 32; the least that works is --set program_depth=128",
        ),
        ({"modes": ("int8",)}, r"blocks.0.attn.av needs the operand mode log2; this core has int8"),
        (
            {"norm_channels": 16},
            r"blocks.0.norm1 has 24 channels; norm_channels allows 16; the least that works is --set norm_channels=32",
        ),
        (
            {"constant_channels": 8},
            r"small needs constant_channels of 16; this configuration has 8; the least that works is --set constant_channels=16",
        ),
        ({"banks": 2}, r"small needs banks of 4; this configuration has 2; the least that works is --set banks=4"),
        (
            {"banks": 2, "constant_channels": 8},
            r"small does not fit this configuration; a larger value of one of program_depth, scratchpad_bytes, .*, banks is not enough",
        ),
    ],
)
def test_what_does_not_fit_is_refused_with_its_reason(network, settings, message):
    with pytest.raises(ValueError, match=f"^{message}$"):
        compile_network(network, CoreConfig(lanes=8, **settings))


@pytest.mark.parametrize(
    ("settings", "field"),
    [
        ({"scratchpad_bytes": 2048}, "scratchpad_bytes"),
        ({"program_depth": 16}, "program_depth"),
        ({"norm_channels": 8}, "norm_channels"),
        ({"constant_channels": 8}, "constant_channels"),
        ({"accumulator_rows": 2, "program_depth": 128}, "program_depth"),
    ],
)
def test_the_value_that_a_refusal_names_works_and_half_of_it_does_not(network, settings, field):
    config = CoreConfig(lanes=8, **settings)
    with pytest.raises(ValueError, match=rf"--set {field}=\d+$") as error:
        compile_network(network, config)
    setting = str(error.value).rpartition("--set ")[2]
    assert compile_network(network, config.override([setting])).instructions
    half = int(setting.rpartition("=")[2]) // 2
    assert half >= getattr(config, field)
    with pytest.raises(ValueError, match=setting):
        compile_network(network, config.override([f"{field}={half}"]))


def test_a_map_that_is_too_small_is_refused_with_one_that_works(tiny_swin_network, tiny_config):
    config = tiny_config(8, map_rows=0, scratchpad_bytes=1 << 15, program_depth=1024)
    with pytest.raises(
        ValueError, match=r"needs a map of \d+ rows; map_rows allows 0; the least that works is --set map_rows=\d+$"
    ) as error:
        compile_network(tiny_swin_network, config)
    assert compile_network(tiny_swin_network, config.override([str(error.value).rpartition("--set ")[2]])).instructions


def test_accumulators_that_are_too_few_for_the_longest_program_are_refused_with_what_works():
    network, config = network_structure("deit_tiny"), CoreConfig(accumulator_rows=4)
    said = "deit_tiny needs accumulator_rows of 8; this configuration has 4; the least that works is --set accumulator_rows=8"
    with pytest.raises(ValueError, match=f"^{said}$"):
        compile_network(network, config)
    assert compile_network(network, config.override(["accumulator_rows=8"])).instructions
