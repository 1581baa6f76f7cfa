"""The comparisons see every wrong, missing or late thing in a trace. The traces are made from the golden tensors, without a simulation."""

from dataclasses import replace

import numpy as np
import pytest

from vitloom.compiler.compile import compile_network
from vitloom.compiler.program import expected_words
from vitloom.hw import isa
from vitloom.model import golden
from vitloom.sim.sequencer_timing import Timing
from vitloom.sim.trace import Trace, check_coverage, compare_outputs, compare_timing, compare_values, read_outputs

LANES = 4
EVERY_PART = (255).to_bytes(4, "little")
ENGINES = {isa.Queue.ARRAY: "array", isa.Queue.ROWS: "rows"}


@pytest.fixture(scope="module")
def program(tiny_network, tiny_config):
    return compile_network(tiny_network, tiny_config(LANES))


@pytest.fixture(scope="module")
def tensors(tiny_network, tiny_images):
    return {name: tensor[0] for name, tensor in golden.run(tiny_network, tiny_images).items()}


@pytest.fixture(scope="module")
def model(program):
    """Instruction i of an engine runs from cycle 10 i to 10 i + 7."""
    return [Timing(dispatch=0, start=10 * index, done=10 * index + 7) for index in range(len(program.instructions))]


@pytest.fixture
def trace(program, tensors, model, tmp_path):
    """What a core without a fault writes; within an instruction the words come in any order."""
    rng = np.random.default_rng(4)
    for queue, name in ENGINES.items():
        with (tmp_path / f"{name}_5.bin").open("wb") as file:
            for instruction in program.instructions:
                words = list(expected_words(program, instruction, tensors).items()) if instruction.queue is queue else []
                for index in rng.permutation(len(words)):
                    address, (content, mask) = words[index]
                    noise = rng.integers(0, 256, LANES, dtype=np.uint8)
                    data = np.where(np.frombuffer(mask, np.uint8), np.frombuffer(content, np.uint8), noise)
                    file.write(address.to_bytes(4, "little") + EVERY_PART + data.tobytes())
    events = []
    for instruction, timing in zip(program.instructions, model, strict=True):
        if instruction.opcode in isa.OPCODE_QUEUE:
            bit = instruction.queue.value
            events += [(timing.start, 1 << isa.QUEUES + bit), (timing.done, 1 << bit)]
    np.array(events, "<u4").tofile(tmp_path / "events_5.bin")
    return Trace.read(tmp_path, 5, LANES)


def with_writes(trace, queue, writes):
    return replace(trace, writes={**trace.writes, queue: writes})


def test_a_core_without_a_fault_is_found_equal_in_every_value(program, tiny_network, tensors, trace):
    compared, mismatches = compare_values(program, trace, tensors, 5)
    loaded = tensors["patches"].size + sum(tiny_network.arrays[f"{constant.name}.value"].size for constant in tiny_network.constants)
    assert mismatches == []
    assert compared == sum(tensor.size for tensor in tensors.values()) - loaded


@pytest.mark.parametrize("queue", ENGINES)
def test_every_wrong_bit_that_matters_is_found(program, tensors, trace, queue):
    rng = np.random.default_rng(6)
    found = 0
    for index in rng.choice(len(trace.writes[queue]), 12, replace=False):
        writes = trace.writes[queue].copy()
        lane, bit = rng.integers(LANES), rng.integers(8)
        writes["data"][index, lane] ^= 1 << bit
        _, mismatches = compare_values(program, with_writes(trace, queue, writes), tensors, 5)
        assert len(mismatches) <= 1
        for entry in mismatches:
            if entry.column is not None:
                assert (entry.run, entry.expected) == (5, tensors[entry.tensor][entry.row, entry.column])
            assert entry.expected ^ entry.got in {-128, *(1 << shift for shift in range(7))} or entry.tensor == "head"
        found += len(mismatches)
    assert found >= 6


def test_a_missing_word_is_a_mismatch_in_each_of_its_values(program, tensors, trace):
    writes = trace.writes[isa.Queue.ARRAY][:-1]
    _, mismatches = compare_values(program, with_writes(trace, isa.Queue.ARRAY, writes), tensors, 5)
    assert [(entry.tensor, entry.got) for entry in mismatches] == [("head", None)]


def test_a_word_at_another_address_is_found(program, tensors, trace):
    writes = trace.writes[isa.Queue.ROWS].copy()
    writes["address"][3] += 1000
    _, mismatches = compare_values(program, with_writes(trace, isa.Queue.ROWS, writes), tensors, 5)
    assert mismatches
    assert all(entry.got is None for entry in mismatches)


def test_with_stalls_an_instruction_may_be_late_and_not_early(program, trace, model):
    early = [replace(timing, start=timing.start - 1, done=timing.done - 2) for timing in model]
    assert compare_timing(program, trace, early, stalled=True) == []
    other = [*early[:3], replace(early[3], done=model[3].done + 1), *early[4:]]
    (said,) = compare_timing(program, trace, other, stalled=True)
    assert said.startswith("instruction 3 ")


def test_words_that_no_instruction_has_are_found(program, tensors, trace, model):
    writes = trace.writes[isa.Queue.ROWS]
    more = with_writes(trace, isa.Queue.ROWS, np.concatenate([writes, writes[:2]]))
    assert compare_timing(program, more, model) == [f"queue ROWS wrote {len(writes) + 2} words, its instructions have {len(writes)}"]


def test_equal_cycles_leave_nothing_to_say(program, trace, model):
    assert compare_timing(program, trace, model) == []


@pytest.mark.parametrize("field", ["start", "done"])
def test_one_cycle_more_is_said_with_the_instruction(program, trace, model, field):
    index = next(i for i, instruction in enumerate(program.instructions) if instruction.opcode is isa.Opcode.SOFTMAX)
    other = [*model[:index], replace(model[index], **{field: getattr(model[index], field) + 1}), *model[index + 1 :]]
    (said,) = compare_timing(program, trace, other)
    name = f"instruction {index} (SOFTMAX of {program.instructions[index].layer})"
    assert said.startswith(f"{name} ran from cycle {10 * index} to {10 * index + 7}")


def test_a_missing_event_is_said(program, trace, model):
    dones = {**trace.dones, isa.Queue.STORE: trace.dones[isa.Queue.STORE][:-1]}
    said = compare_timing(program, replace(trace, dones=dones), model)
    assert said[0] == "0 instructions of queue STORE ended, the program has 1"


def test_outputs_are_read_as_the_core_stored_them(program, tiny_network, tensors, tmp_path):
    name = tiny_network.outputs[0]
    words = program.layouts[name].pack(tensors[name])
    beats = [words[i : i + LANES][::-1].hex() for i in range(0, len(words), LANES)]
    (tmp_path / "output_0.hex").write_text("\n".join(beats))
    outputs = read_outputs(tmp_path, program, 0)
    assert compare_outputs(outputs, tensors, 0) == (tensors[name].size, [])
    outputs[name][0, 3] += 1
    _, (entry,) = compare_outputs(outputs, tensors, 0)
    assert (entry.tensor, entry.row, entry.column, entry.got) == (name, 0, 3, entry.expected + 1)


def test_a_tensor_that_nothing_writes_is_not_passed_over(program):
    check_coverage(program)
    index = next(i for i, instruction in enumerate(program.instructions) if instruction.opcode is isa.Opcode.SOFTMAX)
    instructions = list(program.instructions)
    instructions[index] = replace(instructions[index], slice=None)
    with pytest.raises(RuntimeError, match=r"writes 25 of 75 values of blocks.0.attn.softmax"):
        check_coverage(replace(program, instructions=instructions))
