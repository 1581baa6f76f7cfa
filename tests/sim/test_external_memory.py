"""The memory of the bench keeps the timing that the timing model assumes, and misbehaves on request."""

import random
from pathlib import Path

import cocotb
import pytest
from cocotb.clock import Clock
from cocotb.triggers import RisingEdge

import vitloom.sim
from vitloom.sim.runner import build, run
from vitloom.sim.streams import check_stream, collect, drive, reset

BEATS, LATENCY, ADDRESS_BITS = 64, 7, 32
TESTBENCH = Path(vitloom.sim.__file__).with_name("testbench.v")


def burst(address: int, beats: int) -> int:
    return (beats - 1) << ADDRESS_BITS | address


def content(address: int) -> int:
    return 0x0101 * address


async def start(dut):
    for name in ("read_request", "write_request", "write_data"):
        getattr(dut, f"{name}__valid").value = 0
    for name in ("read_data", "write_response"):
        getattr(dut, f"{name}__ready").value = 0
    dut.load.value = dut.dump.value = dut.run.value = 0
    Clock(dut.clk, 2, unit="step").start()
    await reset(dut)


async def strobe(dut, signal, index=0):
    signal.value, dut.run.value = 1, index
    await RisingEdge(dut.clk)
    signal.value = 0
    await RisingEdge(dut.clk)


async def transfers(dut, name: str, count: int) -> list[int]:
    """Cycles of the next ``count`` transfers, counted from the next edge."""
    cycles, cycle = [], 0
    while len(cycles) < count:
        await RisingEdge(dut.clk)
        if getattr(dut, f"{name}__valid").value and getattr(dut, f"{name}__ready").value:
            cycles.append(cycle)
        cycle += 1
    return cycles


@cocotb.test(timeout_time=10000, timeout_unit="step")
async def bursts_follow_each_other_without_gaps(dut):
    await start(dut)
    dut.read_data__ready.value = 1
    seen = cocotb.start_soon(transfers(dut, "read_data", 9))
    values = cocotb.start_soon(collect(dut, "read_data", 9))
    cocotb.start_soon(drive(dut, "read_request", [burst(3, 2), burst(10, 4), burst(0, 3)]))
    assert await seen == list(range(LATENCY, LATENCY + 9))
    assert await values == [content(a) for a in (3, 4, 10, 11, 12, 13, 0, 1, 2)]


@cocotb.test(timeout_time=10000, timeout_unit="step")
async def a_response_comes_after_the_last_beat(dut):
    await start(dut)
    dut.write_response__ready.value = 1
    data = cocotb.start_soon(transfers(dut, "write_data", 5))
    responses = cocotb.start_soon(transfers(dut, "write_response", 2))
    cocotb.start_soon(drive(dut, "write_request", [burst(3, 2), burst(10, 3)]))
    await drive(dut, "write_data", [0xAAAA, 1 << 16 | 0xBBBB, 1, 2, 1 << 16 | 3])
    assert await data == [1, 2, 3, 4, 5]
    assert await responses == [2 + LATENCY, 5 + LATENCY]
    await strobe(dut, dut.dump, 4)
    lines = Path("output_4.hex").read_text().split()
    assert [int(line, 16) for line in lines if "//" not in line] == [content(2), 0xAAAA, 0xBBBB, content(5)]
    await strobe(dut, dut.load, 9)
    cocotb.start_soon(drive(dut, "read_request", [burst(2, 3)]))
    assert await collect(dut, "read_data", 3) == [content(2), 0x1234, 0x5678]


@cocotb.test(timeout_time=100000, timeout_unit="step")
async def stalls_lose_nothing(dut):
    await start(dut)
    rng = random.Random(5)
    addresses = [rng.randrange(16, BEATS - 4) for _ in range(60)]
    for name in ("read_data", "write_response"):
        cocotb.start_soon(check_stream(dut, name))
    values = cocotb.start_soon(collect(dut, "read_data", 120, rng, 0.3))
    await drive(dut, "read_request", [burst(a, 2) for a in addresses])
    assert await values == [content(b) for a in addresses for b in (a, a + 1)]
    responses = cocotb.start_soon(collect(dut, "write_response", 4, rng, 0.3))
    cocotb.start_soon(drive(dut, "write_request", [burst(a, 2) for a in (20, 24, 20, 22)]))
    await drive(dut, "write_data", [(n & 1) << 16 | n for n in range(8)])
    assert await responses == [0] * 4
    values = cocotb.start_soon(collect(dut, "read_data", 6, rng, 0.3))
    await drive(dut, "read_request", [burst(20, 6)])
    assert await values == [4, 5, 6, 7, 2, 3]


@cocotb.test(timeout_time=10000, timeout_unit="step")
async def errors_are_answered(dut):
    await start(dut)
    cocotb.start_soon(drive(dut, "read_request", [burst(4, 3), burst(BEATS - 1, 2)]))
    assert [word >> 16 for word in await collect(dut, "read_data", 5)] == [0, 1, 0, 0, 1]
    cocotb.start_soon(drive(dut, "write_request", [burst(4, 3), burst(6, 1), burst(BEATS, 1)]))
    cocotb.start_soon(drive(dut, "write_data", [7, 7, 1 << 16 | 7, 1 << 16 | 7, 1 << 16 | 7]))
    assert await collect(dut, "write_response", 3) == [1, 0, 1]
    cocotb.start_soon(drive(dut, "read_request", [burst(4, 3)]))
    assert [word & 0xFFFF for word in await collect(dut, "read_data", 3)] == [7, content(5), 7]


@pytest.fixture(scope="module")
def memory():
    return build(None, name="external_memory", verilog=[stub(), TESTBENCH], parameters={"PORT_BYTES": 2, "BEATS": BEATS})


def stub() -> str:
    """The bench is in the same file and needs a module of this name."""
    return "module core(); endmodule"


@pytest.mark.parametrize(
    ("testcase", "plusargs"),
    [
        ("bursts_follow_each_other_without_gaps", []),
        ("a_response_comes_after_the_last_beat", ["first=2", "last=5"]),
        ("stalls_lose_nothing", ["stalls=3"]),
        ("errors_are_answered", ["error=5"]),
    ],
)
def test_external_memory(memory, testcase, plusargs, tmp_path):
    (tmp_path / "memory.hex").write_text("\n".join(f"{content(a):04x}" for a in range(BEATS)))
    for index in (0, 4):
        (tmp_path / f"input_{index}.hex").write_text("")
    (tmp_path / "input_9.hex").write_text("@3\n1234\n5678\n")
    arguments = ["memory=memory.hex", f"latency={LATENCY}", *plusargs]
    run(memory, __file__, test_dir=tmp_path, testcase=testcase, plusargs=arguments)
