"""Programs for windows: row maps, shifts, masks, merging and pooling, in all memory sizes the golden model's."""

from copy import copy
from dataclasses import replace

import numpy as np
import pytest

from vitloom.compiler import compile_network
from vitloom.compiler.check import check
from vitloom.hw import isa
from vitloom.hw.config import CoreConfig


@pytest.mark.parametrize("lanes", [4, 8, 12, 16])
def test_every_written_word_is_the_golden_one(tiny_swin_network, lanes, assert_runs_as_golden):
    program = compile_network(tiny_swin_network, CoreConfig(lanes=lanes))
    assert_runs_as_golden(tiny_swin_network, program, [None, 0, 1])


@pytest.mark.parametrize(
    "settings",
    [
        {"scratchpad_bytes": 32 << 10},
        {"accumulator_rows": 32},
        {"map_rows": 256},
        {"memory_bytes_per_cycle": 2},
        {"lanes": 4, "scratchpad_bytes": 32 << 10, "accumulator_rows": 64},
    ],
    ids=str,
)
def test_small_memories_change_the_program_but_not_its_results(tiny_swin_network, settings, assert_runs_as_golden):
    program = compile_network(tiny_swin_network, CoreConfig(**{"lanes": 8, **settings}))
    assert_runs_as_golden(tiny_swin_network, program, [None, 0])


def test_chunks_of_windows_have_memory_of_their_own(tiny_swin_network):
    program = compile_network(tiny_swin_network, CoreConfig(lanes=4, scratchpad_bytes=32 << 10, accumulator_rows=64))
    keys = [name for name in program.buffers if name.startswith("layers.0.blocks.0.attn.qkv.k")]
    assert len(keys) > 1


def test_a_core_without_maps_is_refused(tiny_swin_network):
    message = r"^layers.0.blocks.0.norm1 needs a map of \d+ rows; map_rows allows 0; the least that works is --set map_rows=64$"
    with pytest.raises(ValueError, match=message):
        compile_network(tiny_swin_network, CoreConfig(lanes=8, map_rows=0))


def test_the_checker_reads_the_maps(tiny_swin_network):
    """With other offsets in external memory, a mapped write lands where another instruction works, or outside."""
    program = compile_network(tiny_swin_network, CoreConfig(lanes=8))
    check(program)
    image = np.frombuffer(program.memory_image, np.uint8).copy()
    loads = [i for i in program.instructions if i.opcode is isa.Opcode.LOAD and i.fields["target"] == isa.Target.ROW_MAP.value]
    assert loads
    first, size = loads[0].fields["memory"] * 8, loads[0].fields["words"] * 8
    image[first : first + size].view("<u4")[:] = program.config.scratchpad_words
    broken = copy(program.image)
    broken.data = image.tobytes()
    with pytest.raises(RuntimeError, match="reaches address"):
        check(replace(program, image=broken))


def test_programs_are_deterministic(tiny_swin_network):
    config = CoreConfig(lanes=8)
    first, second = (compile_network(tiny_swin_network, config) for _ in range(2))
    assert first.words() == second.words()
    assert first.memory_image == second.memory_image
