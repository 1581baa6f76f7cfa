import os

import cocotb
import numpy as np
import pytest
from cocotb.triggers import ClockCycles, RisingEdge

from vitloom.boards.standalone import Host, LargestLogit
from vitloom.hw import isa
from vitloom.hw.config import CoreConfig
from vitloom.hw.memory_port import ADDRESS_BITS
from vitloom.sim.runner import build, run
from vitloom.sim.streams import check_stream, drive, pack, reset, start_clock

CONFIG = CoreConfig(lanes=4, scratchpad_bytes=2048, program_depth=16)
INSTRUCTIONS = tuple(sum(0x10000 * (index + 1) + word << 32 * word for word in range(isa.INSTRUCTION_WORDS)) for index in range(3))
PROGRAM = [
    (isa.PROGRAM_WINDOW + 16 * index + word, 0x10000 * (index + 1) + word) for index in range(3) for word in range(isa.INSTRUCTION_WORDS)
]
RUN = [(isa.Register.CONTROL, 2), (isa.Register.CONTROL, 1)]
CLASSES, ADDRESS = 10, 96


async def registers(dut, writes, reads, statuses):
    """The control port of a core that answers the reads of STATUS with ``statuses``, in turn; the last one stays."""
    while True:
        await RisingEdge(dut.clk)
        if dut.control__write.value:
            writes.append((int(dut.control__address.value), int(dut.control__write_data.value)))
        if dut.control__read.value:
            reads.append(int(dut.control__address.value))
            dut.control__read_data.value = statuses.pop(0) if len(statuses) > 1 else statuses[0]


@cocotb.test(timeout_time=100, timeout_unit="us")
@cocotb.parametrize(lamp=["done", "error"])
async def the_program_is_loaded_once_and_run_at_every_start(dut, lamp):
    writes, reads, statuses = [], [], [0, 1, 1, {"done": 2, "error": 4}[lamp]]
    start_clock(dut)
    dut.start.value = 0
    await reset(dut)
    cocotb.start_soon(registers(dut, writes, reads, statuses))
    for expected in ([*PROGRAM, (isa.Register.EXPECTED, CONFIG.fingerprint), *RUN], RUN):
        while dut.busy.value:
            await RisingEdge(dut.clk)
        assert writes == expected and set(reads) == {isa.Register.STATUS}
        assert [dut.done.value, dut.error.value] == [lamp == "done", lamp == "error"]
        writes.clear()
        await ClockCycles(dut.clk, 5)
        assert not dut.busy.value
        dut.start.value = 1
        await ClockCycles(dut.clk, 1)
        dut.start.value = 0
        await ClockCycles(dut.clk, 1)
        assert dut.busy.value
    assert len(reads) >= 4


@cocotb.test(timeout_time=1, timeout_unit="ms")
async def the_index_is_numpys_argmax(dut):
    size = int(os.environ["PORT_BYTES"])
    rng = np.random.default_rng(cocotb.RANDOM_SEED)
    start_clock(dut)
    dut.enable.value = dut.read_data__valid.value = 0
    dut.read_request__ready.value = 1
    await reset(dut)
    cocotb.start_soon(check_stream(dut, "read_request"))
    limits = np.iinfo(np.int32)
    cases = [rng.integers(limits.min, limits.max, CLASSES, np.int32, endpoint=True) for _ in range(20)]
    cases += [np.full(CLASSES, limits.min, np.int32), rng.integers(-2, 0, CLASSES, np.int32), np.arange(CLASSES, dtype=np.int32)]
    beats = -(-4 * CLASSES // size)
    for logits in cases:
        dut.enable.value = 1
        while not dut.read_request__valid.value:
            await RisingEdge(dut.clk)
        assert dut.read_request__payload.value == (beats - 1) << ADDRESS_BITS | ADDRESS // size
        content = np.frombuffer(logits.tobytes().ljust(beats * size, b"\x7f"), np.uint8).reshape(beats, size)
        await drive(dut, "read_data", [pack(beat) for beat in content], rng, 0.3)
        while not dut.valid.value:
            await RisingEdge(dut.clk)
        assert int(dut.index.value) == np.argmax(logits)
        dut.enable.value = 0
        await ClockCycles(dut.clk, 2)
        assert not dut.valid.value


def test_host(tmp_path):
    name = "the_program_is_loaded_once_and_run_at_every_start"
    run(build(Host(CONFIG, INSTRUCTIONS), name="host"), __file__, test_dir=tmp_path, testcase=name)


@pytest.mark.parametrize("port_bytes", [2, 4, 8, 16])
def test_largest_logit(port_bytes, tmp_path):
    model = build(LargestLogit(port_bytes, ADDRESS, CLASSES), name="largest_logit")
    run(model, __file__, test_dir=tmp_path, env={"PORT_BYTES": str(port_bytes)}, seed=1, testcase="the_index_is_numpys_argmax")
