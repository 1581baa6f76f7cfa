# amaranth: UnusedElaboratable=no
import random

import cocotb
import numpy as np

from vitloom.boards.arbiter import CLIENTS, MemoryArbiter
from vitloom.hw.memory_port import ADDRESS_BITS
from vitloom.sim.memory import Memory
from vitloom.sim.runner import build, run
from vitloom.sim.streams import check_stream, collect, drive, reset, start_clock

PORT_BYTES = 2
WIDTH = 8 * PORT_BYTES
#: Beats of each client's half of the memory.
HALF = 256
LAST = 1 << WIDTH


def burst(address, beats):
    return (beats - 1) << ADDRESS_BITS | address


async def client(dut, index, rng, turns):
    """Write a part of the client's half of the memory while it reads the other part, in turn, and compare with a list."""
    port, memory, part = f"clients__{index}__", [0] * HALF, HALF // 2
    for turn in range(turns):
        read_from, write_to = ((turn + side & 1) * part for side in (0, 1))
        reads = [(read_from + low, rng.randint(1, min(64, part - low))) for low in (rng.randrange(part) for _ in range(4))]
        writes = [(write_to + 20 * place, [rng.getrandbits(WIDTH) for _ in range(rng.randint(1, 20))]) for place in range(4)]
        data = [word | LAST * (place == len(words) - 1) for _, words in writes for place, word in enumerate(words)]
        requests = {
            "read_request": [burst(index * HALF + low, beats) for low, beats in reads],
            "write_request": [burst(index * HALF + low, len(words)) for low, words in writes],
            "write_data": data,
        }
        for name, words in requests.items():
            cocotb.start_soon(drive(dut, port + name, words, rng, 0.4))
        read = cocotb.start_soon(collect(dut, port + "read_data", sum(beats for _, beats in reads), rng, 0.4))
        written = cocotb.start_soon(collect(dut, port + "write_response", len(writes), rng, 0.4))
        assert await read == [memory[low + beat] for low, beats in reads for beat in range(beats)]
        assert await written == [0] * len(writes)
        for low, words in writes:
            memory[low : low + len(words)] = words


@cocotb.test(timeout_time=20, timeout_unit="ms")
@cocotb.parametrize(stall=[0.0, 0.4])
async def each_client_finds_its_own_bytes(dut, stall):
    start_clock(dut)
    for index in range(CLIENTS):
        for name in ("read_request", "write_request", "write_data"):
            getattr(dut, f"clients__{index}__{name}__valid").value = 0
        for name in ("read_data", "write_response"):
            getattr(dut, f"clients__{index}__{name}__ready").value = 0
    content = bytearray(CLIENTS * HALF * PORT_BYTES)
    memory = Memory(dut, content, PORT_BYTES, 5, rng=np.random.default_rng(cocotb.RANDOM_SEED), stall=stall, prefix="memory__")
    cocotb.start_soon(memory.read())
    cocotb.start_soon(memory.write())
    await reset(dut)
    for name in ("read_request", "write_request", "write_data"):
        cocotb.start_soon(check_stream(dut, f"memory__{name}"))
    tasks = [cocotb.start_soon(client(dut, index, random.Random(index), 20)) for index in range(CLIENTS)]
    for task in tasks:
        await task
    assert any(content)
    owners = [address >= HALF for address, _ in memory.requests]
    assert sum(before != after for before, after in zip(owners, owners[1:], strict=False)) > 30


def test_arbiter(tmp_path):
    run(build(MemoryArbiter(PORT_BYTES), name="memory_arbiter"), __file__, test_dir=tmp_path, seed=1)
