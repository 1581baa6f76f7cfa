import os

import cocotb
import numpy as np
import pytest
from cocotb.triggers import RisingEdge

from vitloom.hw.config import CoreConfig
from vitloom.hw.scratchpad import PARTS, READ_LATENCY, READERS, WRITERS, Scratchpad
from vitloom.hw.verilog import to_verilog
from vitloom.sim.runner import run_component
from vitloom.sim.streams import pack, reset, start_clock, unpack

PLAIN = CoreConfig(lanes=4, banks=4, scratchpad_bytes=4 * 4 * 32)
PACKED = CoreConfig(lanes=8, banks=4, scratchpad_bytes=8 * 4 * 32, modes=("int8", "binary"))
CONFIG = PACKED if "PACKED" in os.environ else PLAIN
WORDS = CONFIG.bank_words


class Bench:
    """Drives one cycle at a time; ``history[t]`` is what the outputs showed in cycle t."""

    def __init__(self, dut):
        self.dut, self.history = dut, []

    async def start(self):
        start_clock(self.dut)
        await self.cycle(wait=False)
        await reset(self.dut)

    async def cycle(self, reads=(), writes=(), halt=0, wait=True, parts=-1):
        """``reads`` maps a client to an address, ``writes`` a client to an address and a word; returns the number of the cycle."""
        for client in range(len(READERS)):
            getattr(self.dut, f"reads__{client}__enable").value = int(client in reads)
            getattr(self.dut, f"reads__{client}__address").value = reads[client] if client in reads else 0
        for client in range(len(WRITERS)):
            address, word = writes[client] if client in writes else (0, np.zeros(CONFIG.lanes, np.int8))
            getattr(self.dut, f"writes__{client}__enable").value = int(client in writes)
            getattr(self.dut, f"writes__{client}__address").value = address
            getattr(self.dut, f"writes__{client}__data").value = pack(word)
        self.dut.halt.value = halt
        if CONFIG.narrow:
            self.dut.parts.value = parts & (1 << PARTS) - 1
        if wait:
            await RisingEdge(self.dut.clk)
            data = [unpack(getattr(self.dut, f"reads__{client}__data").value, CONFIG.lanes) for client in range(len(READERS))]
            self.history.append((data, int(self.dut.conflict.value), int(self.dut.out_of_range.value)))
            return len(self.history) - 1

    async def read(self, client, address):
        """The word that a read gets when nothing else goes on."""
        begin = await self.cycle({client: address})
        for _ in range(READ_LATENCY):
            await self.cycle()
        return self.history[begin + READ_LATENCY][0][client]

    def pulses(self, name):
        """Cycles in which ``conflict`` or ``out_of_range`` was high."""
        return [cycle for cycle, outputs in enumerate(self.history) if outputs[("conflict", "out_of_range").index(name) + 1]]


def word(number):
    return np.full(CONFIG.lanes, number, np.int8)


@cocotb.test(timeout_time=1, timeout_unit="ms")
async def random_traffic_equals_a_numpy_memory(dut):
    rng = np.random.default_rng(cocotb.RANDOM_SEED)
    bench = Bench(dut)
    await bench.start()
    memory = np.zeros((CONFIG.scratchpad_words, CONFIG.lanes), np.int8)
    expected, last = [], {}
    for _ in range(3000):
        banks = rng.permutation(CONFIG.banks) * WORDS
        write_banks = rng.permutation(CONFIG.banks) * WORDS
        writers = [client for client in range(len(WRITERS)) if rng.random() < 0.7]
        readers = rng.permutation(len(READERS))[: rng.integers(0, CONFIG.banks + 1)]
        writes = {
            client: (int(write_banks[client] + rng.integers(WORDS)), rng.integers(-128, 128, CONFIG.lanes, np.int8)) for client in writers
        }
        written = {address for address, _ in writes.values()}
        reads = {}
        for bank, client in zip(banks, readers, strict=False):
            # Half of the reads are of what was written in the cycle before.
            recent = [address for address in last if address // WORDS * WORDS == bank and rng.random() < 0.5]
            address = recent[0] if recent else int(bank + rng.integers(WORDS))
            if address not in written:
                reads[int(client)] = address
        parts = int(rng.integers(1 << PARTS))
        cycle = await bench.cycle(reads, writes, parts=parts)
        expected += [(cycle, client, memory[address].copy()) for client, address in reads.items()]
        for client, (address, value) in writes.items():
            partly = CONFIG.narrow and WRITERS[client] == "epilogue"
            mask = np.repeat(parts >> np.arange(PARTS) & 1 == 1, CONFIG.lanes // PARTS) if partly else slice(None)
            memory[address, mask] = value[mask]
        last = written
    for _ in range(READ_LATENCY):
        await bench.cycle()
    assert len(expected) > 3000 and len(np.unique(memory, axis=0)) > WORDS
    np.testing.assert_array_equal(
        [bench.history[cycle + Scratchpad.latency][0][client] for cycle, client, _ in expected], [value for _, _, value in expected]
    )
    assert bench.pulses("conflict") == bench.pulses("out_of_range") == []


@cocotb.test(timeout_time=100, timeout_unit="us")
async def a_write_is_seen_in_the_next_cycle_and_not_before(dut):
    bench = Bench(dut)
    await bench.start()
    await bench.cycle(writes={0: (5, word(1))})
    await bench.cycle({2: 5}, {1: (6, word(2))})
    after = await bench.cycle({2: 6}, {2: (5, word(3))})
    for _ in range(READ_LATENCY):
        await bench.cycle()
    np.testing.assert_array_equal(
        [bench.history[after - 1 + READ_LATENCY][0][2], bench.history[after + READ_LATENCY][0][2]], [word(1), word(2)]
    )


@cocotb.test(timeout_time=100, timeout_unit="us")
async def conflicts_are_reported_and_do_no_harm(dut):
    bench = Bench(dut)
    await bench.start()
    for address in range(WORDS, WORDS + 4):
        await bench.cycle(writes={0: (address, word(address))})
    cycles = []
    for first in range(len(READERS)):
        for second in range(first + 1, len(READERS)):
            cycles.append((await bench.cycle({first: WORDS, second: WORDS + 3}), first, word(WORDS)))
    for first in range(len(WRITERS)):
        for second in range(first + 1, len(WRITERS)):
            cycles.append((await bench.cycle(writes={first: (WORDS + 1, word(-1)), second: (WORDS + 2, word(-2))}), None, None))
    # A reader and a writer, or two readers of two banks, are no conflict.
    await bench.cycle({0: WORDS + 1, 1: 3}, {0: (WORDS, word(7)), 1: (3 * WORDS, word(8))})
    for _ in range(READ_LATENCY):
        await bench.cycle()
    assert bench.pulses("conflict") == [cycle + Scratchpad.ERROR_LATENCY for cycle, _, _ in cycles]
    for cycle, client, value in cycles:
        if client is not None:
            np.testing.assert_array_equal(bench.history[cycle + READ_LATENCY][0][client], value)
    for address, value in ((WORDS, word(7)), (WORDS + 1, word(WORDS + 1)), (WORDS + 2, word(WORDS + 2)), (3 * WORDS, word(8))):
        np.testing.assert_array_equal(await bench.read(4, address), value)


@cocotb.test(timeout_time=100, timeout_unit="us")
async def accesses_outside_are_reported_and_ignored(dut):
    bench = Bench(dut)
    await bench.start()
    last = CONFIG.scratchpad_words - 1
    await bench.cycle(writes={0: (last, word(1)), 1: (0, word(2))})
    outside = [CONFIG.scratchpad_words, CONFIG.scratchpad_words + last, (1 << 20) - 1, 1 << 19]
    cycles = [await bench.cycle({client: address}) for address in outside for client in range(len(READERS))]
    cycles += [await bench.cycle(writes={client: (address, word(3))}) for address in outside for client in range(len(WRITERS))]
    np.testing.assert_array_equal([await bench.read(0, last), await bench.read(0, 0)], [word(1), word(2)])
    assert bench.pulses("out_of_range") == [cycle + Scratchpad.ERROR_LATENCY for cycle in cycles]
    assert bench.pulses("conflict") == []


@cocotb.test(timeout_time=100, timeout_unit="us")
async def halt_stops_writes_but_not_reads(dut):
    bench = Bench(dut)
    await bench.start()
    await bench.cycle(writes={client: (client * WORDS, word(client + 1)) for client in range(3)})
    for _ in range(Scratchpad.WRITE_LATENCY):
        await bench.cycle()
    for _ in range(3):
        await bench.cycle(writes={client: (client * WORDS, word(-1)) for client in range(3)}, halt=1)
    for _ in range(Scratchpad.WRITE_LATENCY):
        await bench.cycle(halt=1)
    await bench.cycle({client: client * WORDS for client in range(3)}, halt=1)
    for _ in range(READ_LATENCY):
        await bench.cycle(halt=1)
    np.testing.assert_array_equal(bench.history[-1][0][:3], [word(1), word(2), word(3)])
    await bench.cycle(writes={0: (0, word(9))})
    np.testing.assert_array_equal(await bench.read(0, 0), word(9))


@pytest.mark.parametrize(("config", "env"), [(PLAIN, {}), (PACKED, {"PACKED": "1"})], ids=["plain", "packed"])
def test_scratchpad(config, env, tmp_path):
    run_component(Scratchpad(config), name="scratchpad", test_module=__file__, test_dir=tmp_path, env=env, seed=1)


@pytest.mark.parametrize(("config", "lane"), [(PLAIN, 32), (PACKED, 8)], ids=["plain", "packed"])
def test_only_a_core_with_a_narrow_mode_writes_parts_of_words(config, lane):
    scratchpad = Scratchpad(config)
    assert ("parts" in scratchpad.signature.members) == config.narrow
    assert to_verilog(scratchpad, "scratchpad").count(f".LANE(32'd{lane})") == config.banks
