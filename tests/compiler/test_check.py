"""The checker finds every dependency that is taken out of a program."""

from dataclasses import replace

import numpy as np
import pytest

from vitloom.compiler import compile_network
from vitloom.compiler.check import check
from vitloom.compiler.program import Program
from vitloom.hw import isa
from vitloom.hw.config import CoreConfig
from vitloom.model.float_vit import ViTConfig, random_state
from vitloom.model.quantize import quantize
from vitloom.sim.interpreter import Interpreter

SHAPE = ViTConfig(img_size=8, patch_size=2, in_chans=1, num_classes=5, embed_dim=16, depth=1, num_heads=2, mean=(0.5,), std=(0.5,))


@pytest.fixture(scope="module")
def network():
    noise = np.random.default_rng(0).integers(0, 256, (1, 1, 8, 8), dtype=np.uint8)
    return quantize(SHAPE, random_state(SHAPE, 1), noise, name="small", origin="random")


@pytest.fixture(scope="module")
def program(network) -> Program:
    return compile_network(network, CoreConfig(lanes=4, scratchpad_bytes=16 << 10))


def changed(program: Program, **changes: dict[int, dict]) -> Program:
    instructions = list(program.instructions)
    for index, change in changes["at"].items():
        instructions[index] = replace(instructions[index], **change)
    return replace(program, instructions=instructions)


def test_a_compiled_program_passes(program):
    check(program)


def test_no_token_can_be_left_out(program):
    removed = 0
    for index, sources in enumerate(program.dependencies):
        taker = program.instructions[index]
        for source in sources:
            giver = program.instructions[source]
            without = {
                index: {"wait": taker.wait & ~(1 << giver.queue.value)},
                source: {"give": giver.give & ~(1 << taker.queue.value)},
            }
            with pytest.raises(RuntimeError, match="may run together"):
                check(changed(program, at=without))
            removed += 1
    assert removed > 30


def test_no_wait_for_the_own_queue_can_be_left_out(network):
    """With 16 lanes the rows are too few to be cut: some products wait for the one before."""
    program = compile_network(network, CoreConfig(lanes=16))
    own = [i for i, x in enumerate(program.instructions) if x.wait >> x.queue.value & 1]
    assert own
    for index in own:
        wait = program.instructions[index].wait & ~(1 << program.instructions[index].queue.value)
        with pytest.raises(RuntimeError, match="may run together"):
            check(changed(program, at={index: {"wait": wait}}))


def test_a_token_that_is_never_given_is_found(program):
    index, source = next((i, s[0]) for i, s in enumerate(program.dependencies) if s)
    with pytest.raises(RuntimeError, match="waits for"):
        check(changed(program, at={source: {"give": 0}}))
    with pytest.raises(RuntimeError, match="no instruction can go on"):
        Interpreter(changed(program, at={source: {"give": 0}})).run(np.zeros((16, 4), np.int8), seed=0)
    assert program.instructions[index].wait


def test_operands_in_one_bank_are_found(program):
    index = next(i for i, x in enumerate(program.instructions) if x.fields.get("form") == isa.Form.RESIDUAL.value)
    fields = dict(program.instructions[index].fields)
    with pytest.raises(RuntimeError, match=f"operands of instruction {index} share a bank"):
        check(changed(program, at={index: {"fields": fields | {"residual": fields["moving"]}}}))


def test_a_block_of_the_program_that_comes_wrong_is_found(network):
    program = compile_network(network, CoreConfig(lanes=8, program_depth=32, program_stream=True))
    index = next(i for i, x in enumerate(program.instructions) if x.fields.get("target") == isa.Target.PROGRAM.value)
    fields = dict(program.instructions[index].fields)
    for wrong in (
        {"give": 0},
        {"fields": fields | {"destination": 12}},
        {"fields": fields | {"words": 1}},
        {"fields": fields | {"memory": fields["memory"] + 1}},
    ):
        with pytest.raises(RuntimeError, match=f"instruction {index} does not bring block 2 of the program to its place"):
            check(changed(program, at={index: wrong}))
    with pytest.raises(RuntimeError, match="nothing brings block 2 of the program"):
        check(changed(program, at={index: {"opcode": isa.Opcode.SYNC, "fields": {}}}))
    missing = changed(program, at={index: {"fields": fields | {"memory": 0}}})
    with pytest.raises(RuntimeError, match="instruction 16 is not in the program memory"):
        Interpreter(missing).run(np.zeros((16, 4), np.int8))


def test_an_address_outside_is_found(program):
    index = next(i for i, x in enumerate(program.instructions) if x.opcode is isa.Opcode.NORM)
    fields = dict(program.instructions[index].fields)
    last = program.config.scratchpad_words - 1
    with pytest.raises(RuntimeError, match=f"instruction {index} reaches address"):
        check(changed(program, at={index: {"fields": fields | {"output": last}}}))


def test_results_depend_on_the_tokens(program):
    """Without tokens, a random order of the queues mixes an image with the one before it: the interpreter can tell."""
    rng = np.random.default_rng(5)
    before, patches = rng.integers(-128, 128, (2, 16, 4)).astype(np.int8)
    right = Interpreter(program).run(patches)
    bare = Interpreter(changed(program, at={i: {"wait": 0, "give": 0} for i in range(len(program.instructions))}))
    bare.run(before)
    found = bare.run(patches, seed=0)
    assert any((found[name] != right[name]).any() for name in right)
