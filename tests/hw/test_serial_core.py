"""A serial core: the values and cycles of a whole network, and errors that stop it as they stop any core."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from vitloom.compiler.compile import compile_network, pack_input
from vitloom.compiler.program import Instruction
from vitloom.hw import isa
from vitloom.hw.config import CoreConfig
from vitloom.hw.isa import Error, Opcode, Queue
from vitloom.model import golden
from vitloom.model.network import AveragePool, Form, ImageFormat, IntegerNetwork, Linear, Tensor
from vitloom.sim.interpreter import Interpreter
from vitloom.sim.runner import run
from vitloom.sim.simulate import core_model, memory_plusargs, simulate, write_job
from vitloom.sim.stalls import cycle_bounds

CONFIG = CoreConfig(
    lanes=4,
    modes=("int8",),
    scratchpad_bytes=1 << 12,
    banks=4,
    accumulator_rows=16,
    constant_channels=64,
    map_rows=0,
    program_depth=64,
    memory_bytes_per_cycle=2,
    serial=True,
)
#: Tests of any core, which run the programs that a test here leaves in its folder.
BENCH = str(Path(__file__).with_name("test_core.py"))


def layer(rng, arrays, name, source, outputs, inputs, form, rows, shift):
    """A linear layer of random numbers; a few of its results saturate."""
    arrays[f"{name}.weight"] = rng.integers(-128, 128, (outputs, inputs), dtype=np.int8)
    arrays[f"{name}.bias"] = rng.integers(-5000, 5000, outputs, dtype=np.int32)
    arrays[f"{name}.multiplier"] = rng.integers(0, 1 << 16, outputs).astype(np.uint16)
    arrays[f"{name}.shift"] = rng.integers(shift, shift + 3, outputs).astype(np.uint8)
    if form is Form.TABLE:
        arrays[f"{name}.table"] = rng.integers(-128, 128, 256, dtype=np.int8)
    return Linear(name=name, input=source, output=name, form=form, rows=rows)


@pytest.fixture(scope="module")
def network():
    """All forms, pooling, widths that are no multiples of the lanes, and shifts from 1 to 32."""
    rng, arrays = np.random.default_rng(1), {}
    operators = [
        layer(rng, arrays, "table", "patches", 10, 16, Form.TABLE, 4, 22),
        layer(rng, arrays, "plain", "table", 13, 10, Form.REQUANTIZE, 4, 22),
        AveragePool(name="pool", input="plain", output="pool"),
        layer(rng, arrays, "head", "pool", 7, 13, Form.RAW, 1, 5),
    ]
    arrays["head.shift"][:3], arrays["head.multiplier"][0], arrays["head.bias"][0] = (1, 32, 31), 65535, 1 << 30
    arrays |= {
        "pool.bias": np.array([-12], np.int32),
        "pool.multiplier": np.array([40000], np.uint16),
        "pool.shift": np.array([17], np.uint8),
    }
    sizes = {"patches": (4, 16, -128), "table": (4, 10, 5), "plain": (4, 13, -3), "pool": (1, 13, 100)}
    tensors = [Tensor(name=name, rows=rows, channels=channels, zero_point=zero) for name, (rows, channels, zero) in sizes.items()]
    return IntegerNetwork(
        name="serial",
        scheme="random",
        origin="random",
        image=ImageFormat(channels=1, size=8, patch=4, mean=[0.5], std=[0.5]),
        input="patches",
        outputs=["head"],
        tensors=[*tensors, Tensor(name="head", rows=1, channels=7, bits=32)],
        constants=[],
        operators=operators,
        arrays=arrays,
    )


@pytest.fixture(scope="module")
def images():
    return np.random.default_rng(2).integers(0, 256, (3, 1, 8, 8), dtype=np.uint8)


def test_every_value_and_every_cycle_agrees(network, images):
    logits = golden.run(network, images)["head"]
    assert logits.max() == 2**31 - 1 and -128 in golden.run(network, images)["plain"]
    result = simulate(network, CONFIG, images)
    assert (result.mismatches, result.differences, result.agreed) == ([], [], True)
    assert result.values_compared == 3 * (4 * 10 + 4 * 13 + 13 + 2 * 7)


def test_a_memory_that_stalls_changes_no_value(network, images):
    result = simulate(network, CONFIG, images, stalls=4)
    assert result.agreed
    least, most = cycle_bounds(result.program, result.bounds[0])
    assert all(least < cycles <= most for cycles in result.cycles)


def test_the_interpreter_agrees(network, images):
    program = compile_network(network, CONFIG)
    patches = golden.patches(network.image, images[:1])[0]
    np.testing.assert_array_equal(Interpreter(program).run(patches)["head"], golden.run(network, images[:1])["head"][0])


def broken_programs(program):
    """Name, error and instructions of programs with one fault, and the instruction that has it."""
    good = program.instructions

    def with_field(opcode, error, **fields):
        index = next(index for index, instruction in enumerate(good) if instruction.opcode is opcode)
        changed = replace(good[index], fields={**good[index].fields, **fields})
        return f"{opcode.name} {fields}", error, [*good[:index], changed, *good[index + 1 :]], index

    last = CONFIG.scratchpad_words - 1
    sync = Instruction(opcode=Opcode.SYNC, queue=Queue.LOAD)
    yield "opcode 0", Error.OPCODE, [*good[:10], 0, *good[11:]], 10
    yield "no row units", Error.OPCODE, [*good[:3], Instruction(opcode=Opcode.NORM, queue=Queue.ROWS), *good[3:]], 3
    yield "wrong queue", Error.OPCODE, [replace(good[0], queue=Queue.STORE), *good[1:]], 0
    yield "no END", Error.PROGRAM, [sync] * CONFIG.program_depth, CONFIG.program_depth - 1
    yield with_field(Opcode.LOAD, Error.ADDRESS, destination=last, words=2)
    yield with_field(Opcode.LOAD, Error.ADDRESS, memory=CONFIG.memory_words - 1, words=2)
    yield with_field(Opcode.STORE, Error.ADDRESS, memory=CONFIG.memory_words)
    yield with_field(Opcode.LOAD, Error.FIELD, words=0)
    yield with_field(Opcode.LOAD, Error.FIELD, target=isa.Target.EXP_TABLE.value)
    yield with_field(Opcode.MATMUL, Error.FIELD, rows=CONFIG.accumulator_rows + 1)
    yield with_field(Opcode.MATMUL, Error.FIELD, mode=isa.Mode.LOG2.value)
    yield with_field(Opcode.MATMUL, Error.FIELD, form=isa.Form.RESIDUAL.value)
    yield with_field(Opcode.MATMUL, Error.FIELD, direction=isa.LoadDirection.COLUMN.value)
    yield with_field(Opcode.MATMUL, Error.FIELD, output_packing=1)
    yield with_field(Opcode.MATMUL, Error.ADDRESS, output=CONFIG.scratchpad_words)
    yield with_field(Opcode.MATMUL, Error.ADDRESS, moving=4 * CONFIG.scratchpad_words)
    yield with_field(Opcode.MATMUL, Error.ADDRESS, constant=CONFIG.constant_channels // CONFIG.lanes)
    yield with_field(Opcode.STORE, Error.ADDRESS, source=last, words=2)


@pytest.fixture
def on_core(network, images, tmp_path):
    """Run a test of any core on the serial one."""
    program = compile_network(network, CONFIG)

    def on_core(testcase, runs, *plusargs):
        write_job(tmp_path, program, [pack_input(program, golden.patches(network.image, images)[0])] * runs)
        for index in range(100, 100 + runs):  # of runs that end with an error
            (tmp_path / f"input_{index}.hex").write_text((tmp_path / "input_0.hex").read_text())
        run(core_model(CONFIG, program), BENCH, test_dir=tmp_path, testcase=testcase, plusargs=[*memory_plusargs(program), *plusargs])

    return on_core


def test_every_broken_program_stops_the_core_and_the_next_one_runs(on_core, network, tmp_path):
    cases = list(broken_programs(compile_network(network, CONFIG)))
    for number, (_, _, instructions, _) in enumerate(cases):
        packed = [word if isinstance(word, int) else word.word() for word in instructions]
        data = b"".join(word.to_bytes(isa.INSTRUCTION_BITS // 8, "little") for word in packed)
        np.save(tmp_path / f"broken_{number}.npy", np.frombuffer(data, "<u4").reshape(-1, isa.INSTRUCTION_WORDS))
    (tmp_path / "broken.json").write_text(json.dumps([(name, error.name, index) for name, error, _, index in cases]))
    on_core("stops_at_each_broken_program", len(cases))


def test_a_clear_at_any_time_leaves_nothing_behind(on_core):
    on_core("runs_again_after_a_clear_at_any_time", 12, "total=9000")


@pytest.mark.parametrize(
    "changes", [{"modes": ("int8", "log2")}, {"lanes": 8, "epilogue_lanes": 2}, {"map_rows": 16}, {"epilogue_lanes": 4}]
)
def test_a_serial_core_has_one_size(changes):
    with pytest.raises(ValueError, match="a serial core has lanes=4, epilogue_lanes=1, modes=int8"):
        replace(CONFIG, **changes)


def test_a_network_with_attention_is_refused(tiny_network):
    with pytest.raises(ValueError, match="patch_embed needs more than a serial core has"):
        compile_network(tiny_network, CONFIG)


def test_a_network_that_external_memory_does_not_hold_is_refused(network):
    wide = replace(network.operators[0], name="wide")
    arrays = {**network.arrays, "wide.weight": np.zeros((1 << 14, 16), np.int8)}
    arrays |= {f"wide.{part}": np.zeros(1 << 14, network.arrays[f"table.{part}"].dtype) for part in ("bias", "multiplier", "shift")}
    tensors = [network.tensors[0], Tensor(name="wide", rows=4, channels=1 << 14)]
    large = replace(
        network, operators=[replace(wide, output="wide", form=Form.REQUANTIZE)], tensors=tensors, arrays=arrays, outputs=["wide"]
    )
    with pytest.raises(ValueError, match="bytes of external memory; 131072 can be addressed"):
        compile_network(large, CONFIG)
