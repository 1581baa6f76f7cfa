# amaranth: UnusedElaboratable=no
"""The AXI adapters against the masters and memories of cocotbext-axi, under random stalls and error responses."""

import json
import random

import cocotb
import numpy as np
import pytest
from amaranth import *
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out, connect, flipped
from cocotb.triggers import ClockCycles, RisingEdge
from cocotbext.axi import AxiLiteBus, AxiLiteMaster, AxiResp

from vitloom.hw import isa
from vitloom.hw.bus.axi import PAGE_BYTES, AxiControl, AxiMemory, PageSplit
from vitloom.hw.config import CoreConfig
from vitloom.hw.control import ControlRegisters
from vitloom.hw.isa import Register
from vitloom.hw.sequencer import ProgramWrite
from vitloom.sim.axi_traffic import READ_CHANNELS, WRITE_CHANNELS, begin, request, stall
from vitloom.sim.runner import build, run
from vitloom.sim.streams import drive, reset, start_clock

CONFIG = CoreConfig(lanes=4, program_depth=4)
#: On the memory; ``python -m vitloom.sim.bench axi`` does 10 000.
TRANSACTIONS = 1000


@cocotb.test(timeout_time=20, timeout_unit="us")
async def a_slave_may_take_an_address_after_its_data(dut):
    """It may even wait for the last of the data: AXI lets it, so the master must not wait for AWREADY."""
    await begin(dut)
    dut.memory__write_response__ready.value = 1
    cocotb.start_soon(drive(dut, "memory__write_request", [request(0, 3)]))
    cocotb.start_soon(drive(dut, "memory__write_data", [1, 2, 3 | 1 << len(dut.m_axi_wdata)]))
    dut.m_axi_wready.value = 1
    beats = []
    while not beats or not beats[-1][1]:
        await RisingEdge(dut.clk)
        if dut.m_axi_wvalid.value:
            beats.append((int(dut.m_axi_wdata.value), int(dut.m_axi_wlast.value)))
    assert beats == [(1, 0), (2, 0), (3, 1)]
    assert dut.m_axi_awvalid.value and int(dut.m_axi_awlen.value) == 2


@cocotb.test(timeout_time=20, timeout_unit="us")
async def latency_and_throughput_are_those_declared(dut):
    """Against a slave that is always ready: two bursts, the first across a page, one after the other without a gap."""
    size, cycle, seen = len(dut.m_axi_wdata) // 8, 0, []
    await begin(dut)
    for name in ("arready", "awready", "wready"):
        getattr(dut, f"m_axi_{name}").value = 1
    lengths = (10, 20)
    requests = [request(PAGE_BYTES // size - 3, lengths[0]), request(5 * PAGE_BYTES // size, lengths[1])]
    data = [index | int(index in (9, 29)) << 8 * size for index in range(sum(lengths))]
    for name, words in (("read_request", requests), ("write_request", requests), ("write_data", data)):
        cocotb.start_soon(drive(dut, f"memory__{name}", words))
    await RisingEdge(dut.clk)
    while cycle < 60:
        await RisingEdge(dut.clk)
        for name in ("ar", "aw"):
            if getattr(dut, f"m_axi_{name}valid").value:
                fields = [int(getattr(dut, f"m_axi_{name}{field}").value) for field in ("addr", "len", "size", "burst")]
                seen.append((cycle, name, *fields))
        if dut.m_axi_wvalid.value:
            seen.append((cycle, "w", int(dut.m_axi_wdata.value), int(dut.m_axi_wlast.value)))
        cycle += 1
    parts = [(PAGE_BYTES - 3 * size, 2), (PAGE_BYTES, 6), (5 * PAGE_BYTES, 19)]
    for name, latency in (("ar", PageSplit.latency), ("aw", AxiMemory.write_latency)):
        expected = [(latency - 1 + index, name, *part, size.bit_length() - 1, 1) for index, part in enumerate(parts)]
        assert [event for event in seen if event[1] == name] == expected
    beats = [event for event in seen if event[1] == "w"]
    assert [event[2:] for event in beats] == [(index, int(index in (2, 9, 29))) for index in range(30)]
    assert [event[0] - beats[0][0] for event in beats] == list(range(30))


class Registers(wiring.Component):
    """The control registers of a core behind AXI4-Lite, with nothing that runs."""

    def __init__(self):
        self.adapter = AxiControl()
        ports = {name: member for name, member in self.adapter.signature.members.items() if member.is_port}
        super().__init__({**ports, "program_write": Out(ProgramWrite(CONFIG.program_depth))})
        self.ports = ports

    def elaborate(self, platform):
        m = Module()
        m.submodules.adapter = adapter = self.adapter
        m.submodules.registers = registers = ControlRegisters(CONFIG)
        connect(m, adapter=adapter.control, registers=registers.control)
        connect(m, registers=registers.program_write, outside=flipped(self.program_write))
        for name, member in self.ports.items():
            inside, outside = getattr(adapter, name), getattr(self, name)
            m.d.comb += inside.eq(outside) if member.flow is In else outside.eq(inside)
        return m


async def boot_registers(dut, rng=None):
    start_clock(dut)
    master = AxiLiteMaster(AxiLiteBus.from_prefix(dut, "s_axi_ctrl"), dut.clk, dut.rst)
    if rng is not None:
        stall(master.write_if, WRITE_CHANNELS, rng)
        stall(master.read_if, READ_CHANNELS, rng)
    await reset(dut)
    return master


@cocotb.test(timeout_time=10, timeout_unit="ms")
async def registers_are_written_and_read(dut):
    """Random accesses to every kind of address, some at the same time, against a model in four lines."""
    rng = random.Random(cocotb.RANDOM_SEED)
    master = await boot_registers(dut, rng)
    held = {Register.EXPECTED: 0, Register.MEMORY_BASE: 0, Register.INTERRUPT: 1}
    constant = {Register.IDENTITY: isa.IDENTITY, Register.CONFIGURATION: CONFIG.fingerprint, Register.CONTROL: 0}
    beyond = {max(Register) + 1: 0, isa.PROGRAM_WINDOW: 0, (1 << isa.CONTROL_ADDRESS_BITS) - 1: 0}
    for _ in range(500):
        register = rng.choice([*held, *constant, *beyond])
        if register in held and rng.random() < 0.5:
            value = rng.getrandbits(32)
            answer = await master.write(4 * register, value.to_bytes(4, "little"))
            assert answer.resp == AxiResp.OKAY
            held[register] = value & 1 if register == Register.INTERRUPT else value
        else:
            answer = await master.read(4 * register, 4)
            expected = (held | constant | beyond)[register]
            assert (answer.resp, int.from_bytes(answer.data, "little")) == (AxiResp.OKAY, expected), register
    for register in held:
        answers = [master.init_write(4 * register, bytes(4)), master.init_read(4 * Register.IDENTITY, 4)]
        for answer in answers:
            await answer.wait()
        assert [answer.data.resp for answer in answers] == [AxiResp.OKAY] * 2
        assert bytes(answers[1].data.data) == b"VTLM"


@cocotb.test(timeout_time=10, timeout_unit="ms")
async def a_program_goes_into_its_window(dut):
    master = await boot_registers(dut, random.Random(3))
    seen = []

    async def watch():
        while True:
            await RisingEdge(dut.clk)
            if dut.program_write__enable.value:
                seen.append(tuple(int(getattr(dut, f"program_write__{name}").value) for name in ("index", "word", "data")))

    cocotb.start_soon(watch())
    for index, word in ((0, 0), (1, 11), (3, 5)):
        await master.write(4 * (isa.PROGRAM_WINDOW + 16 * index + word), (1000 * index + word).to_bytes(4, "little"))
    await master.write(4 * (isa.PROGRAM_WINDOW + 16 * CONFIG.program_depth), bytes(4))
    await ClockCycles(dut.clk, 5)
    assert seen == [(0, 0, 0), (1, 11, 1011), (3, 5, 3005)]


@cocotb.test(timeout_time=10, timeout_unit="ms")
async def a_write_of_some_bytes_is_refused(dut):
    master = await boot_registers(dut)
    await master.write(4 * Register.EXPECTED, b"abcd")
    for offset, data in ((0, b"x"), (1, b"xyz"), (3, b"x")):
        assert (await master.write(4 * Register.EXPECTED + offset, data)).resp == AxiResp.SLVERR
    assert (await master.read(4 * Register.EXPECTED, 4)).data == b"abcd"


@cocotb.test(timeout_time=20, timeout_unit="us")
async def an_access_takes_its_latency(dut):
    """A write and a read that come together every 2 cycles: the write goes first."""
    start_clock(dut)
    for name in ("awaddr", "awprot", "araddr", "arprot", "wdata"):
        getattr(dut, f"s_axi_ctrl_{name}").value = 0
    for name in ("awvalid", "wvalid", "bready", "arvalid", "rready"):
        getattr(dut, f"s_axi_ctrl_{name}").value = 0
    dut.s_axi_ctrl_wstrb.value = 15
    await reset(dut)
    for name in ("bready", "rready", "arvalid"):
        getattr(dut, f"s_axi_ctrl_{name}").value = 1
    seen = []
    for cycle in range(20):
        if cycle == 10:
            dut.s_axi_ctrl_awvalid.value = dut.s_axi_ctrl_wvalid.value = 1
        await RisingEdge(dut.clk)
        seen += [(cycle, name) for name in ("bvalid", "rvalid") if getattr(dut, f"s_axi_ctrl_{name}").value]
    reads, writes = ([cycle for cycle, name in seen if name == wanted] for wanted in ("rvalid", "bvalid"))
    assert reads[0] == AxiControl.latency and np.diff(reads[:4]).tolist() == [2, 2, 2]
    assert writes[0] == 10 + AxiControl.latency and np.diff(writes).tolist() == [2] * (len(writes) - 1)
    assert len(reads) >= 8


MEMORY_TESTS = ("a_slave_may_take_an_address_after_its_data", "latency_and_throughput_are_those_declared")
CONTROL_TESTS = (
    "registers_are_written_and_read",
    "a_program_goes_into_its_window",
    "a_write_of_some_bytes_is_refused",
    "an_access_takes_its_latency",
)


@pytest.mark.parametrize("port_bytes", [8, 64])
def test_the_memory_master_keeps_every_byte_and_reports_every_error(port_bytes, tmp_path):
    model = build(AxiMemory(port_bytes), name=f"axi_memory_{port_bytes}")
    run(model, __file__, test_dir=tmp_path, testcase=MEMORY_TESTS)
    run(model, "vitloom.sim.axi_traffic", test_dir=tmp_path, seed=port_bytes, plusargs=[f"transactions={TRANSACTIONS}"])
    counts = json.loads((tmp_path / "traffic.json").read_text())
    assert (counts["port_bytes"], counts["transactions"]) == (port_bytes, TRANSACTIONS)


def test_the_control_slave_reads_and_writes_registers(tmp_path):
    run(build(Registers(), name="axi_control"), __file__, test_dir=tmp_path, seed=1, testcase=CONTROL_TESTS)


def test_a_port_that_is_no_power_of_two_is_refused():
    with pytest.raises(ValueError, match="AXI takes a memory port of 1, 2, 4, 8, 16, 32 or 64 bytes, not 12: set memory_bytes_per_cycle"):
        AxiMemory(12)
