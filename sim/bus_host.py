"""A host that has nothing but a core's bus loads a network, runs it, and keeps what its memory is then: a cocotb test."""

import json
import random
from pathlib import Path
from typing import Any

import cocotb
import numpy as np
from cocotb.clock import Clock
from cocotb.triggers import ClockCycles, First, RisingEdge
from cocotbext.axi import AxiBus, AxiLiteBus, AxiLiteMaster, AxiResp, AxiSlave

from ..hw import isa
from ..hw.isa import Error, Register

__all__ = ["AxiSystem", "Memory", "WishboneSystem", "runs_a_network"]

START, CLEAR = 1, 2
DONE, FAILED = 2, 4


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
        self.master: Any = AxiLiteMaster(AxiLiteBus.from_prefix(dut, "s_axi_ctrl"), dut.aclk, dut.aresetn, reset_active_level=False)
        slave: Any = AxiSlave(AxiBus.from_prefix(dut, "m_axi"), dut.aclk, dut.aresetn, target=memory, reset_active_level=False)
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
    """``job.json`` (fingerprint, base, limit), ``program.npy`` and ``memory.bin``; ``after.bin`` gets the memory after the run."""
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
    cycles = [await system.read(register) for register in (Register.CYCLES_LOW, Register.CYCLES_HIGH)]
    Path("cycles.json").write_text(json.dumps(cycles[0] | cycles[1] << 32))
    Path("after.bin").write_bytes(memory.content)
