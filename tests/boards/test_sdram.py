# amaranth: UnusedElaboratable=no
"""The SDRAM controller against a chip that refuses every command that comes too early."""

import os
import random
from dataclasses import replace

import cocotb
import pytest
from cocotb.triggers import ClockCycles, RisingEdge
from cocotb.utils import get_sim_time

from vitloom.boards.sdram import BUS_BYTES, Sdram, SdramChip
from vitloom.hw.memory_port import ADDRESS_BITS, MAX_BURST
from vitloom.sim.runner import SimulationError, build, run
from vitloom.sim.sdram import CHIP_VERILOG, SdramMemory, chip_plusargs
from vitloom.sim.streams import check_stream, collect, drive, reset, start_clock

WIDTH = 8 * BUS_BYTES
ERROR = LAST = 1 << WIDTH
#: Clock in Hz and chip.
VARIANTS = {
    "80 MHz, CAS 2": (80e6, SdramChip()),
    "100 MHz, CAS 2": (100e6, SdramChip()),
    "100 MHz, CAS 3, larger": (100e6, SdramChip(cas=3, column_bits=10)),
}
CLOCK, CHIP = VARIANTS[os.environ.get("VARIANT", "80 MHz, CAS 2")]
CLOCK_PERIOD = 10  # ns in the simulation; the chip is told another one
CONTROLLER = Sdram(CHIP, CLOCK)
ROW = 1 << CHIP.column_bits
#: A multiple of a row's beats that leads to another row of the same bank.
SAME_BANK = 4 * ROW


def burst(address, beats):
    return (beats - 1) << ADDRESS_BITS | address


async def begin(dut):
    start_clock(dut, CLOCK_PERIOD)
    for name in ("read_request", "write_request", "write_data"):
        getattr(dut, f"{name}__valid").value = 0
    for name in ("read_data", "write_response"):
        getattr(dut, f"{name}__ready").value = 0
    dut.load.value = dut.dump.value = dut.run.value = 0
    await reset(dut)
    for name in ("read_data", "write_response"):
        cocotb.start_soon(check_stream(dut, name))


async def read(dut, bursts, rng=None):
    cocotb.start_soon(drive(dut, "read_request", [burst(*one) for one in bursts], rng, 0.3))
    return await collect(dut, "read_data", sum(beats for _, beats in bursts), rng, 0.3)


async def write(dut, bursts, rng=None):
    """Write ``(address, words)`` and return the responses."""
    cocotb.start_soon(drive(dut, "write_request", [burst(address, len(words)) for address, words in bursts], rng, 0.3))
    data = [word | LAST * (index == len(words) - 1) for _, words in bursts for index, word in enumerate(words)]
    cocotb.start_soon(drive(dut, "write_data", data, rng, 0.3))
    return await collect(dut, "write_response", len(bursts), rng, 0.3)


def place(rng, half, longest=MAX_BURST):
    """A burst in one of two halves of the chip, near a boundary of rows: few rows, many crossings."""
    beats = rng.randint(1, longest)
    boundary = half * CHIP.beats // 2 + rng.randint(1, 12) * ROW
    return boundary - rng.randint(0, beats + 3), beats


@cocotb.test(timeout_time=20, timeout_unit="ms")
async def random_bursts_equal_a_dictionary(dut):
    await begin(dut)
    rng = random.Random(cocotb.RANDOM_SEED)
    memory = {}
    for turn in range(30):
        reads = [place(rng, turn & 1) for _ in range(5)]
        writes = [(address, [rng.getrandbits(WIDTH) for _ in range(beats)]) for address, beats in (place(rng, ~turn & 1) for _ in range(5))]
        reading = cocotb.start_soon(read(dut, reads, rng))
        writing = cocotb.start_soon(write(dut, writes, rng))
        assert await reading == [memory.get(address + beat, 0) for address, beats in reads for beat in range(beats)]
        assert await writing == [0] * len(writes)
        for address, words in writes:
            memory |= {address + beat: word for beat, word in enumerate(words)}
    places = sorted(memory)
    assert await read(dut, [(address, 1) for address in places]) == [memory[address] for address in places]
    assert len(memory) > 500 and int(dut.refreshes.value) > 10


async def latency(dut, address):
    """Cycles from the request to the first beat."""
    dut.read_data__ready.value = 1
    cocotb.start_soon(drive(dut, "read_request", [burst(address, 1)]))
    accepted = None
    cycle = 0
    while True:
        await RisingEdge(dut.clk)
        cycle += 1
        if dut.read_request__valid.value and dut.read_request__ready.value:
            accepted = cycle
        if dut.read_data__valid.value:
            await ClockCycles(dut.clk, 12)
            return cycle - accepted


@cocotb.test(timeout_time=2, timeout_unit="ms")
async def latency_is_as_documented(dut):
    await begin(dut)
    await latency(dut, 0)  # waits for the start
    before = int(dut.refreshes.value)
    while int(dut.refreshes.value) == before:  # room for all four until the next
        await RisingEdge(dut.clk)
    await ClockCycles(dut.clk, 12)
    timing = CONTROLLER.timing
    closed = CONTROLLER.latency + timing.rcd
    assert [await latency(dut, address) for address in (5, 9, SAME_BANK, ROW)] == [
        closed,
        CONTROLLER.latency,
        closed + max(2, timing.rp),
        closed,
    ]
    assert int(dut.refreshes.value) == before + 1


@cocotb.test(timeout_time=4, timeout_unit="ms")
async def bandwidth_is_as_documented(dut):
    await begin(dut)
    await latency(dut, 0)
    beats = 16 * ROW
    measured = {}
    for direction in ("read", "write"):
        first = get_sim_time("ns")
        if direction == "read":
            dut.read_data__ready.value = 1
            cocotb.start_soon(drive(dut, "read_request", [burst(address, MAX_BURST) for address in range(0, beats, MAX_BURST)]))
            await collect(dut, "read_data", beats)
        else:
            await write(dut, [(address, [1] * MAX_BURST) for address in range(0, beats, MAX_BURST)])
        measured[direction] = beats * BUS_BYTES * CLOCK_PERIOD / (get_sim_time("ns") - first)
    cocotb.log.info(f"bytes per cycle: {measured}, documented {CONTROLLER.bytes_per_cycle}")
    for value in measured.values():
        assert CONTROLLER.bytes_per_cycle * 0.995 < value < CONTROLLER.bytes_per_cycle * 1.01


@cocotb.test(timeout_time=2, timeout_unit="ms")
async def a_reader_that_waits_does_not_keep_refreshes_off(dut):
    await begin(dut)
    assert await write(dut, [(0, list(range(1, 41)))]) == [0]
    reading = cocotb.start_soon(drive(dut, "read_request", [burst(0, 40)]))
    await ClockCycles(dut.clk, 12 * CONTROLLER.timing.refresh)
    assert int(dut.refreshes.value) >= 12 + 8
    assert await collect(dut, "read_data", 40) == list(range(1, 41))
    await reading


@cocotb.test(timeout_time=2, timeout_unit="ms")
async def beats_beyond_the_chip_answer_error_and_change_nothing(dut):
    await begin(dut)
    assert await write(dut, [(0, [1, 2]), (CHIP.beats - 1, [3, 4]), (CHIP.beats - 1, [5]), (CHIP.beats, [6])]) == [0, 1, 0, 1]
    assert [word >> WIDTH for word in await read(dut, [(CHIP.beats - 1, 3)])] == [0, 1, 1]
    assert await read(dut, [(CHIP.beats - 1, 1), (0, 2)]) == [5, 1, 2]


@cocotb.test(timeout_time=2, timeout_unit="ms")
async def rows_are_changed(dut):
    await begin(dut)
    assert await write(dut, [(0, [1]), (SAME_BANK, [2]), (0, [3])]) == [0] * 3
    await ClockCycles(dut.clk, 1000)
    assert await read(dut, [(0, 1), (SAME_BANK, 1)]) == [3, 2]


def start(model, tmp_path, clock, chip, **options):
    """Run on a chip that starts sooner than a real one."""
    run(model, __file__, test_dir=tmp_path, seed=1, plusargs=chip_plusargs(chip, clock), **options)


def built(clock, chip):
    return build(SdramMemory(chip, clock, chip.beats), name="sdram_memory", verilog=[CHIP_VERILOG])


@pytest.mark.parametrize("variant", VARIANTS)
def test_sdram(variant, tmp_path):
    clock, chip = VARIANTS[variant]
    start(built(clock, chip), tmp_path, clock, chip, env={"VARIANT": variant})


#: Times of a slower chip than the controller knows, and what the chip's model says.
SLOWER = {
    "rcd": (40, "tRCD"),
    "rp": (40, "tRP"),
    "rc": (150, "tRC"),
    "ras": (90, "tRAS"),
    "rfc": (100, "tRFC"),
    "wr": (50, "tWR"),
    "mrd": (4, "tMRD"),
    "cas": (3, "with this CAS latency"),
    "refresh_interval": (3000, "too few refreshes"),
    "startup": (300_000, "before the chip has started"),
}


@pytest.mark.parametrize("name", SLOWER)
def test_a_chip_that_is_slower_in_one_time_finds_the_violation(name, tmp_path):
    clock, chip = next(iter(VARIANTS.values()))
    value, said = SLOWER[name]
    with pytest.raises(SimulationError, match=f"SDRAM at .* ps: .*{said}"):
        start(built(clock, chip), tmp_path, clock, replace(chip, **{name: value}), testcase="rows_are_changed")


@pytest.mark.parametrize(("field", "value", "message"), [("cas", 1, "2 or 3 cycles, not 1"), ("column_bits", 11, "8 to 10, not 11")])
def test_impossible_chips_are_refused(field, value, message):
    with pytest.raises(ValueError, match=message):
        SdramChip(**{field: value})


def test_a_clock_too_slow_to_refresh_or_too_fast_for_the_chip_is_refused():
    with pytest.raises(ValueError, match="a clock of at least 8.2 MHz"):
        Sdram(SdramChip(), 5e6)
    with pytest.raises(ValueError, match="with CAS latency 2 takes at most 100 MHz, not 100.5 MHz"):
        Sdram(SdramChip(), 100.5e6)
    with pytest.raises(ValueError, match="with CAS latency 3 takes at most 133.333 MHz, not 140 MHz"):
        Sdram(SdramChip(cas=3), 140e6)
    assert [SdramChip().at(clock).cas for clock in (80e6, 100e6, 100.5e6, 400e6 / 3)] == [2, 2, 3, 3]
