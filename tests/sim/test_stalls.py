"""Bounds on the cycles of a run whose memory stalls."""

import numpy as np
import pytest

from vitloom.compiler.compile import compile_network
from vitloom.compiler.program import Instruction
from vitloom.hw import isa
from vitloom.sim.stalls import check_seed, cycle_bounds, handshakes


def program_with(program, *transfers):
    """A program that only moves so many words."""
    instructions = [Instruction(opcode=opcode, queue=isa.OPCODE_QUEUE[opcode], fields={"words": words}) for opcode, words in transfers]
    program.instructions = instructions
    return program


@pytest.fixture
def program(tiny_network, tiny_config):
    return compile_network(tiny_network, tiny_config(8, memory_bytes_per_cycle=4))


def test_handshakes_are_requests_beats_and_responses(program):
    assert handshakes(program_with(program, (isa.Opcode.LOAD, 32))) == 1 + 64
    assert handshakes(program_with(program, (isa.Opcode.LOAD, 33))) == 2 + 66
    assert handshakes(program_with(program, (isa.Opcode.STORE, 33))) == 2 + 66 + 2
    assert handshakes(program_with(program, (isa.Opcode.STORE, 1), (isa.Opcode.MATMUL, 9), (isa.Opcode.LOAD, 1))) == 1 + 2 + 1 + 1 + 2


def test_the_bound_is_above_the_sum_of_all_waits(program):
    """Waits drawn as the memory draws them: on average a third of a cycle, and never six deviations more."""
    count = handshakes(program)
    least, most = cycle_bounds(program, 1000)
    waits = np.random.default_rng(0).negative_binomial(count, 0.75, 20_000)
    assert least == 1000
    assert waits.max() <= most - 1000
    assert abs(most - 1000 - (waits.mean() + 6 * waits.std())) < 0.02 * (most - 1000)


@pytest.mark.parametrize("seed", [0, -1, 1 << 32])
def test_seeds_that_stall_nothing_are_refused(seed):
    check_seed(1)
    with pytest.raises(ValueError, match=f"must be 1 to 4294967295, not {seed}"):
        check_seed(seed)
