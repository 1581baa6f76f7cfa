"""Programs for windows: row maps, shifts, masks, merging and pooling, in all memory sizes the golden model's."""

import pytest

from vitloom.compiler import compile_network
from vitloom.hw.config import CoreConfig


@pytest.mark.parametrize("lanes", [4, 8, 12, 16])
def test_every_written_word_is_the_golden_one(tiny_swin_network, lanes, assert_runs_as_golden):
    program = compile_network(tiny_swin_network, CoreConfig(lanes=lanes))
    assert_runs_as_golden(tiny_swin_network, program, [None, 0, 1])


@pytest.mark.parametrize(
    "settings", [{"scratchpad_bytes": 64 << 10}, {"accumulator_rows": 64}, {"map_rows": 256}, {"memory_bytes_per_cycle": 2}], ids=str
)
def test_small_memories_change_the_program_but_not_its_results(tiny_swin_network, settings, assert_runs_as_golden):
    program = compile_network(tiny_swin_network, CoreConfig(lanes=8, **settings))
    assert_runs_as_golden(tiny_swin_network, program, [None, 0])
