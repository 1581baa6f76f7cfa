from importlib.metadata import version

import cocotb
import pytest
from amaranth import *
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out
from cocotb.triggers import ClockCycles, RisingEdge

from vitloom.hw import isa
from vitloom.hw.config import CoreConfig
from vitloom.hw.control import ERROR_SOURCES, ControlPort, ControlRegisters
from vitloom.hw.isa import Error, Opcode, Queue, Register
from vitloom.hw.sequencer import QueuePort, Sequencer
from vitloom.sim.runner import run_component
from vitloom.sim.sequencer_timing import simulate_queues
from vitloom.sim.streams import reset, start_clock

CONFIG = CoreConfig(lanes=8, epilogue_lanes=4, modes=("int8",), program_depth=16, queue_depth=4, memory_bytes_per_cycle=5)
START, CLEAR = 1, 2
BUSY, DONE, FAILED = 1, 2, 4
LOAD = {"opcode": Opcode.LOAD.value, "queue": Queue.LOAD.value, "wait": 0, "give": 0}
END = LOAD | {"opcode": Opcode.END.value}
DURATION = 5


class ControlledSequencer(wiring.Component):
    """Control registers and sequencer as a core connects them, the engines and their errors being outside."""

    def __init__(self):
        super().__init__(
            {
                "control": In(ControlPort()),
                "queues": Out(QueuePort()).array(isa.QUEUES),
                "errors": In(Error).array(len(ERROR_SOURCES)),
                "interrupt": Out(1),
                "start": Out(1),
                "clear": Out(1),
                "halt": Out(1),
                "memory_base": Out(32),
            }
        )

    def elaborate(self, platform):
        m = Module()
        m.submodules.control = control = ControlRegisters(CONFIG)
        sequencer = Sequencer(CONFIG)
        m.submodules.sequencer = ResetInserter(control.clear)(sequencer)
        wiring.connect(m, wiring.flipped(self.control), control.control)
        wiring.connect(m, control.program_write, sequencer.program_write)
        for outer, inner in zip(self.queues, sequencer.queues, strict=True):
            wiring.connect(m, wiring.flipped(outer), inner)
        for place, error in enumerate(self.errors):
            m.d.comb += control.errors[place].eq(sequencer.error if ERROR_SOURCES[place] == "sequencer" else error)
        for name in ("start", "halt"):
            m.d.comb += getattr(sequencer, name).eq(getattr(control, name))
        for name in ("finished", "dispatched"):
            m.d.comb += getattr(control, name).eq(getattr(sequencer, name))
        m.d.comb += [getattr(self, name).eq(getattr(control, name)) for name in ("interrupt", "start", "clear", "halt", "memory_base")]
        return m


class Host:
    """Accesses the registers; beside it, the load engine takes each instruction at once and ends it ``DURATION`` cycles later."""

    def __init__(self, dut):
        self.dut, self.taken = dut, []

    async def begin(self):
        dut = self.dut
        start_clock(dut)
        dut.control__write.value = dut.control__read.value = 0
        for queue in range(isa.QUEUES):
            getattr(dut, f"queues__{queue}__instruction__ready").value = getattr(dut, f"queues__{queue}__done").value = 0
        for place in range(len(ERROR_SOURCES)):
            getattr(dut, f"errors__{place}").value = 0
        await reset(dut)
        cocotb.start_soon(self.engine())

    async def engine(self):
        cycle, dones = 0, []
        self.dut.queues__0__instruction__ready.value = 1
        while True:
            self.dut.queues__0__done.value = int(cycle in dones)
            await RisingEdge(self.dut.clk)
            if self.dut.clear.value:
                dones.clear()
            if self.dut.queues__0__instruction__valid.value:
                self.taken.append(int(self.dut.queues__0__instruction__payload.value))
                dones.append(cycle + DURATION)
            cycle += 1

    async def write(self, address, value):
        self.dut.control__address.value, self.dut.control__write_data.value, self.dut.control__write.value = address, value, 1
        await RisingEdge(self.dut.clk)
        self.dut.control__write.value = 0

    async def read(self, address):
        self.dut.control__address.value, self.dut.control__read.value = address, 1
        await RisingEdge(self.dut.clk)
        self.dut.control__read.value = 0
        await RisingEdge(self.dut.clk)
        return int(self.dut.control__read_data.value)

    async def load(self, program):
        for index, fields in enumerate(program):
            word = isa.pack(isa.HEADER, fields)
            for place in range(isa.INSTRUCTION_WORDS):
                await self.write(isa.PROGRAM_WINDOW + 16 * index + place, word >> 32 * place & 0xFFFF_FFFF)

    async def run(self):
        """Start, and wait for the interrupt; returns (status, error, instruction of the error, cycles)."""
        await self.write(Register.CONTROL, START)
        for _ in range(500):
            await RisingEdge(self.dut.clk)
            if self.dut.interrupt.value:
                break
        values = [await self.read(register) for register in (Register.STATUS, Register.ERROR, Register.ERROR_INSTRUCTION)]
        return *values, await self.read(Register.CYCLES_LOW) | await self.read(Register.CYCLES_HIGH) << 32

    async def fail(self, *errors):
        """Show errors by source for one cycle."""
        for source, error in errors:
            getattr(self.dut, f"errors__{ERROR_SOURCES.index(source)}").value = error.value
        await RisingEdge(self.dut.clk)
        for source, _ in errors:
            getattr(self.dut, f"errors__{ERROR_SOURCES.index(source)}").value = 0


class LoadTiming:
    def accept(self, cycle, instruction):
        return cycle, cycle + DURATION


def cycles_of(program):
    return simulate_queues(program, [LoadTiming()] * isa.QUEUES, queue_depth=CONFIG.queue_depth)[1]


@cocotb.test(timeout_time=100, timeout_unit="us")
async def constants_tell_what_the_core_is(dut):
    host = Host(dut)
    await host.begin()
    assert (await host.read(Register.IDENTITY)).to_bytes(4, "little") == b"VTLM"
    number = await host.read(Register.VERSION)
    assert f"{number >> 16}.{number >> 8 & 255}.{number & 255}" == version("vitloom")
    assert await host.read(Register.CONFIGURATION) == CONFIG.fingerprint
    assert await host.read(Register.SHAPE) == 8 | 4 << 8 | 4 << 16 | 1 << 24
    assert [await host.read(address) for address in (Register.STATUS, Register.CONTROL, max(Register) + 1, isa.PROGRAM_WINDOW)] == [0] * 4


@cocotb.test(timeout_time=100, timeout_unit="us")
async def written_registers_read_back(dut):
    host = Host(dut)
    await host.begin()
    for address, value in ((Register.EXPECTED, 0x8765_4321), (Register.MEMORY_BASE, 0xFEDC_BA98)):
        await host.write(address, value)
    assert await host.read(Register.EXPECTED) == 0x8765_4321
    assert await host.read(Register.MEMORY_BASE) == int(dut.memory_base.value) == 0xFEDC_BA98
    await host.write(Register.CONTROL, CLEAR)
    assert await host.read(Register.MEMORY_BASE) == 0xFEDC_BA98


@cocotb.test(timeout_time=100, timeout_unit="us")
async def a_run_counts_the_cycles_of_the_timing_model(dut):
    host = Host(dut)
    await host.begin()
    await host.write(Register.EXPECTED, CONFIG.fingerprint)
    for loads in (3, 0, 15):
        program = [LOAD] * loads + [END]
        await host.load(program)
        host.taken.clear()
        assert await host.run() == (DONE, 0, 0, cycles_of(program))
        assert host.taken == [isa.pack(isa.HEADER, LOAD)] * loads
    # The interrupt is a level that its register hides and the next start ends.
    assert await host.read(Register.INTERRUPT) == 1
    await host.write(Register.INTERRUPT, 0)
    await RisingEdge(dut.clk)
    assert not dut.interrupt.value and await host.read(Register.INTERRUPT) == 0
    await host.write(Register.INTERRUPT, 1)
    await RisingEdge(dut.clk)
    assert dut.interrupt.value
    await host.write(Register.CONTROL, START)
    await RisingEdge(dut.clk)
    assert dut.start.value and not dut.interrupt.value
    assert await host.read(Register.STATUS) == BUSY


@cocotb.test(timeout_time=100, timeout_unit="us")
async def a_program_of_another_configuration_is_refused(dut):
    host = Host(dut)
    await host.begin()
    await host.load([LOAD, END])
    await host.write(Register.EXPECTED, CONFIG.fingerprint ^ 1)
    assert await host.run() == (FAILED, Error.CONFIGURATION.value, 0, 0)
    await host.write(Register.EXPECTED, CONFIG.fingerprint)
    assert await host.run() == (FAILED, Error.CONFIGURATION.value, 0, 0), "the error is held until it is cleared"
    assert not host.taken
    await host.write(Register.CONTROL, CLEAR)
    assert await host.read(Register.STATUS) == 0
    assert await host.run() == (DONE, 0, 0, cycles_of([LOAD, END]))


@cocotb.test(timeout_time=100, timeout_unit="us")
async def the_first_error_stops_the_core_until_it_is_cleared(dut):
    host = Host(dut)
    await host.begin()
    await host.write(Register.EXPECTED, CONFIG.fingerprint)
    program = [LOAD] * 12 + [END]
    await host.load(program)
    await host.write(Register.CONTROL, START)
    await ClockCycles(dut.clk, 12)
    assert not dut.halt.value
    # 12 cycles after the start pulse: instruction 5 was the last one with time to be dispatched.
    await host.fail(("rows", Error.FIELD), ("load", Error.MEMORY_READ))
    await host.fail(("array", Error.ADDRESS))
    await ClockCycles(dut.clk, ControlRegisters.ERROR_LATENCY - 1)
    assert dut.halt.value and dut.interrupt.value
    taken = len(host.taken)
    assert [await host.read(register) for register in (Register.STATUS, Register.ERROR, Register.ERROR_INSTRUCTION)] == [
        FAILED,
        Error.MEMORY_READ.value,
        (12 - Sequencer.DISPATCH_CYCLES - 1) // Sequencer.DISPATCH_CYCLES,
    ]
    assert await host.read(Register.CYCLES_LOW) == 12 + ControlRegisters.ERROR_LATENCY - 1
    assert len(host.taken) == taken < 12
    await host.write(Register.CONTROL, START)
    await ClockCycles(dut.clk, 30)
    assert len(host.taken) == taken
    await host.write(Register.CONTROL, CLEAR | START)
    await RisingEdge(dut.clk)
    assert dut.clear.value and dut.halt.value and not dut.start.value
    await RisingEdge(dut.clk)
    assert not dut.clear.value and not dut.halt.value and not dut.interrupt.value
    assert await host.read(Register.STATUS) == 0 == await host.read(Register.ERROR)
    # The program is still there.
    assert await host.run() == (DONE, 0, 0, cycles_of(program))


@cocotb.test(timeout_time=100, timeout_unit="us")
async def a_word_of_the_program_may_follow_a_clear_at_once(dut):
    """Accesses in consecutive cycles: the reset of the sequencer meets the word on its way to the memory."""
    host = Host(dut)
    await host.begin()
    await host.write(Register.EXPECTED, CONFIG.fingerprint)
    await host.load([LOAD, LOAD, END])
    await host.write(Register.CONTROL, CLEAR)
    await host.write(isa.PROGRAM_WINDOW + 16, isa.pack(isa.HEADER, END))
    assert await host.run() == (DONE, 0, 0, cycles_of([LOAD, END]))


@cocotb.test(timeout_time=100, timeout_unit="us")
async def an_error_of_the_sequencer_names_the_instruction(dut):
    host = Host(dut)
    await host.begin()
    await host.write(Register.EXPECTED, CONFIG.fingerprint)
    await host.load([LOAD, LOAD, LOAD | {"opcode": 7}, END])
    status, error, instruction, _ = await host.run()
    assert (status, error, instruction) == (FAILED, Error.OPCODE.value, 2)


@cocotb.test(timeout_time=100, timeout_unit="us")
async def the_program_cannot_be_changed_while_it_runs_nor_outside_its_memory(dut):
    host = Host(dut)
    await host.begin()
    await host.write(Register.EXPECTED, CONFIG.fingerprint)
    program = [LOAD] * 12 + [END]
    await host.load(program)
    for index, word in ((CONFIG.program_depth, 0), (0, isa.INSTRUCTION_WORDS), (CONFIG.program_depth * 3, 0)):
        await host.write(isa.PROGRAM_WINDOW + 16 * index + word, 0)
    await host.write(Register.CONTROL, START)
    await host.load([END])
    assert await host.read(Register.STATUS) == BUSY
    await ClockCycles(dut.clk, 100)
    assert await host.read(Register.STATUS) == DONE
    assert await host.run() == (DONE, 0, 0, cycles_of(program))


@pytest.mark.parametrize("seed", [1])
def test_control(seed, tmp_path):
    run_component(ControlledSequencer(), name="controlled_sequencer", test_module=__file__, test_dir=tmp_path, seed=seed)
