"""The cocotb bench of a whole core: it does through the control port what a host does, for each run of a job."""

import json
import time
from pathlib import Path
from typing import Any

import cocotb
import numpy as np
from cocotb.clock import Clock
from cocotb.triggers import ClockCycles, First, RisingEdge, Timer

from ..hw import isa

__all__ = ["boot", "clear", "execute", "load_program", "read", "simulate", "strobe", "write"]

Register = isa.Register
_PERIOD = 2
START, CLEAR = 1, 2


async def boot(dut: Any) -> None:
    """Start the clock and reset the core."""
    for name in ("control__address", "control__write", "control__write_data", "control__read", "prepare", "finish", "run"):
        getattr(dut, name).value = 0
    Clock(dut.clk, _PERIOD, unit="step").start()
    dut.rst.value = 1
    await ClockCycles(dut.clk, 2)
    dut.rst.value = 0
    await RisingEdge(dut.clk)


async def write(dut: Any, address: int, value: int) -> None:
    """Write one control register, in one cycle."""
    dut.control__address.value, dut.control__write_data.value, dut.control__write.value = int(address), int(value), 1
    await RisingEdge(dut.clk)
    dut.control__write.value = 0


async def read(dut: Any, address: int) -> int:
    """Read one control register."""
    dut.control__address.value, dut.control__read.value = int(address), 1
    await RisingEdge(dut.clk)
    dut.control__read.value = 0
    await RisingEdge(dut.clk)
    return int(dut.control__read_data.value)


async def load_program(dut: Any, program: np.ndarray) -> None:
    """Write a program, (instructions, INSTRUCTION_WORDS) uint32."""
    for index, words in enumerate(program.tolist()):
        for offset, word in enumerate(words):
            await write(dut, isa.PROGRAM_WINDOW + 16 * index + offset, word)


async def clear(dut: Any) -> None:
    """Stop everything and forget status, error and tokens."""
    await write(dut, Register.CONTROL, CLEAR)
    await ClockCycles(dut.clk, 4)


async def strobe(dut: Any, name: str, run: int) -> None:
    """``prepare`` or ``finish`` run number ``run`` of the bench (``testbench.v``)."""
    dut.run.value = run
    getattr(dut, name).value = 1
    await RisingEdge(dut.clk)
    getattr(dut, name).value = 0
    await RisingEdge(dut.clk)


async def execute(dut: Any, limit: int) -> dict[str, float]:
    """Start the core, wait at most ``limit`` cycles for its interrupt, and read the registers that say how it went.

    ``seconds`` is the wall time between start and interrupt: what the simulation of those cycles took, and nothing else.
    """
    began = time.perf_counter()
    await write(dut, Register.CONTROL, START)
    await First(RisingEdge(dut.interrupt), Timer(_PERIOD * limit, unit="step"))
    seconds = time.perf_counter() - began
    names = ("STATUS", "ERROR", "ERROR_INSTRUCTION", "CYCLES_LOW", "CYCLES_HIGH")
    values = {name: await read(dut, Register[name]) for name in names}
    return {
        "seconds": seconds,
        "status": values["STATUS"],
        "error": values["ERROR"],
        "error_instruction": values["ERROR_INSTRUCTION"],
        "cycles": values["CYCLES_HIGH"] << 32 | values["CYCLES_LOW"],
    }


@cocotb.test()
async def simulate(dut):
    """Run ``job.json`` (runs, fingerprint, limit) with ``program.npy``; write ``runs.json``, after each run again."""
    job = json.loads(Path("job.json").read_text())
    await boot(dut)
    await load_program(dut, np.load("program.npy"))
    await write(dut, Register.EXPECTED, job["fingerprint"])
    runs = []
    for index in range(job["runs"]):
        await strobe(dut, "prepare", index)
        runs.append(await execute(dut, job["limit"]))
        await strobe(dut, "finish", index)
        Path("runs.part").write_text(json.dumps(runs))
        Path("runs.part").replace("runs.json")
        await clear(dut)
