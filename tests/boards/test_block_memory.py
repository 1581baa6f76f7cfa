# amaranth: UnusedElaboratable=no
import random

import cocotb
import pytest
from cocotb.triggers import RisingEdge

from vitloom.boards.block_memory import BlockMemory
from vitloom.hw.memory_port import ADDRESS_BITS
from vitloom.sim.runner import build, run
from vitloom.sim.streams import check_stream, collect, drive, reset, start_clock

PORT_BYTES = 4
WIDTH = 8 * PORT_BYTES
DEPTH = 24
INIT = [0x01010101 * index for index in range(20)]
ERROR = LAST = 1 << WIDTH


def burst(address, beats):
    return (beats - 1) << ADDRESS_BITS | address


async def begin(dut):
    start_clock(dut)
    for name in ("read_request", "write_request", "write_data"):
        getattr(dut, f"port__{name}__valid").value = 0
    for name in ("read_data", "write_response"):
        getattr(dut, f"port__{name}__ready").value = 0
    await reset(dut)
    for name in ("read_data", "write_response"):
        cocotb.start_soon(check_stream(dut, f"port__{name}"))


async def read(dut, bursts, rng=None):
    cocotb.start_soon(drive(dut, "port__read_request", [burst(*one) for one in bursts], rng, 0.3))
    return await collect(dut, "port__read_data", sum(beats for _, beats in bursts), rng, 0.3)


async def write(dut, address, words):
    cocotb.start_soon(drive(dut, "port__write_request", [burst(address, len(words))]))
    await drive(dut, "port__write_data", [*words[:-1], words[-1] | LAST])
    return (await collect(dut, "port__write_response", 1))[0]


@cocotb.test(timeout_time=1, timeout_unit="ms")
async def random_bursts_equal_a_list(dut):
    await begin(dut)
    rng = random.Random(cocotb.RANDOM_SEED)
    memory = INIT + [0] * (DEPTH - len(INIT))
    for _ in range(60):
        bursts = []
        for _ in range(3):
            address = rng.randrange(DEPTH)
            bursts.append((address, rng.randint(1, DEPTH - address)))
        expected = [memory[address + beat] for address, beats in bursts for beat in range(beats)]
        assert await read(dut, bursts, rng) == expected
        address = rng.randrange(DEPTH)
        words = [rng.getrandbits(WIDTH) for _ in range(rng.randint(1, DEPTH - address))]
        assert await write(dut, address, words) == 0
        memory[address : address + len(words)] = words
    assert memory[: len(INIT)] != INIT


@cocotb.test(timeout_time=100, timeout_unit="us")
async def beats_outside_answer_error_and_change_nothing(dut):
    await begin(dut)
    assert await write(dut, 0, [0x55]) == 0
    got = await read(dut, [(DEPTH - 2, 4)])
    assert [word >> WIDTH for word in got] == [0, 0, 1, 1]
    assert await write(dut, DEPTH - 1, [0x11, 0x22]) == 1
    assert await write(dut, DEPTH - 2, [0x33]) == 0
    assert await write(dut, (1 << ADDRESS_BITS) - 1, [0x44]) == 1
    assert await read(dut, [(0, 1), (DEPTH - 2, 2)]) == [0x55, 0x33, 0x11]


@cocotb.test(timeout_time=100, timeout_unit="us")
async def bursts_follow_without_a_gap_after_the_latency(dut):
    await begin(dut)
    dut.port__read_data__ready.value = 1
    cocotb.start_soon(drive(dut, "port__read_request", [burst(0, 3), burst(7, 1), burst(5, 4)]))
    valid, accepted = [], []
    for cycle in range(20):
        await RisingEdge(dut.clk)
        if dut.port__read_request__valid.value and dut.port__read_request__ready.value:
            accepted.append(cycle)
        if dut.port__read_data__valid.value:
            valid.append(cycle)
    assert valid == list(range(accepted[0] + BlockMemory.latency, accepted[0] + BlockMemory.latency + 8))


@pytest.mark.parametrize("seed", [1])
def test_block_memory(seed, tmp_path):
    run(build(BlockMemory(PORT_BYTES, DEPTH, INIT), name="block_memory"), __file__, test_dir=tmp_path, seed=seed)


def test_contents_larger_than_the_memory_are_refused():
    with pytest.raises(ValueError, match="at least 20 for contents of 20 beats, not 19"):
        BlockMemory(PORT_BYTES, 19, INIT)
