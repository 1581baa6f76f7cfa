import json
import os

import cocotb
import numpy as np
import pytest
from cocotb.triggers import ClockCycles, RisingEdge

from vitloom.hw import isa
from vitloom.hw.config import MODES, CoreConfig
from vitloom.hw.isa import Error, Opcode, Target
from vitloom.hw.load_engine import LoadEngine
from vitloom.hw.load_targets import block_words, table_words, target_words
from vitloom.hw.memory_port import MAX_BURST
from vitloom.hw.scratchpad import READ_LATENCY
from vitloom.hw.store_engine import StoreEngine
from vitloom.sim.memory import Memory
from vitloom.sim.runner import build, run
from vitloom.sim.streams import check_stream, drive, reset, start_clock

#: Bits of an entry.
TABLES = {Target.FUNCTION_TABLE: 8, Target.EXP_TABLE: isa.EXP_ENTRY.size, Target.CODE_TABLE: isa.CODE_ENTRY.width}
MAP_ROWS = 64
PORTS = {
    Target.SCRATCHPAD: "write",
    Target.CONSTANTS: "constants",
    Target.NORM_CONSTANTS: "norm_constants",
    Target.FUNCTION_TABLE: "table",
    Target.EXP_TABLE: "exp_table",
    Target.ROW_MAP: "row_map",
    Target.CODE_TABLE: "code_table",
    Target.PROGRAM: "program",
}
PROGRAM_DEPTH = 16
BASE = 37
MEMORY_WORDS = 1200


def config(lanes, memory_bytes_per_cycle, memory_latency, map_rows=MAP_ROWS, modes=MODES[:2], program_stream=False):
    return CoreConfig(
        lanes=lanes,
        memory_bytes_per_cycle=memory_bytes_per_cycle,
        memory_latency=memory_latency,
        scratchpad_bytes=512 * lanes,
        banks=2,
        constant_channels=128,
        norm_channels=128,
        map_rows=map_rows,
        program_depth=PROGRAM_DEPTH,
        program_stream=program_stream,
        modes=tuple(modes),
    )


def from_environment():
    return config(**json.loads(os.environ["CONFIG"]))


def instruction(opcode, **fields):
    return isa.pack(isa.HEADER, {"opcode": opcode}) | isa.pack(isa.BODIES[opcode], fields) << isa.HEADER.size


async def prepare(dut, config, rng, stall, errors=()):
    """Reset, memory of random content with BASE beats before it, and the engine's pulses as a growing list of (cycle, name, value)."""
    content = bytearray(rng.bytes((BASE + MEMORY_WORDS * config.beats) * config.port_bytes))
    memory = Memory(dut, content, config.port_bytes, config.memory_latency, rng=rng, stall=stall, errors=errors)
    start_clock(dut)
    dut.instruction__valid.value = dut.cancel.value = 0
    dut.base.value = BASE
    load = hasattr(dut, "read_request__valid")
    for name in ("read_data",) if load else ("write_response",):
        getattr(dut, f"{name}__valid").value = 0
    cocotb.start_soon(memory.read() if load else memory.write())
    await reset(dut)
    pulses = []
    cocotb.start_soon(watch(dut, pulses))
    for name in ("read_request",) if load else ("write_request", "write_data"):
        cocotb.start_soon(check_stream(dut, name))
    return memory, pulses


async def watch(dut, pulses):
    """Append (cycle, name, value) of each start, done, error and write, a write's value being (address, data)."""
    ports = [name for name in PORTS.values() if hasattr(dut, f"{name}__enable")]
    parts = {name: ("index", "word", "data") if name == "program" else ("address", "data") for name in ports}
    cycle = 0
    while True:
        await RisingEdge(dut.clk)
        for name in ("start", "done", "error"):
            if value := int(getattr(dut, name).value):
                pulses.append((cycle, name, value))
        for name in ports:
            if getattr(dut, f"{name}__enable").value:
                pulses.append((cycle, name, tuple(getattr(dut, f"{name}__{part}").value.to_unsigned() for part in parts[name])))
        cycle += 1


async def until(dut, pulses, name, count):
    """Wait for pulse number ``count`` of that name, and some cycles more for what should not come."""
    while len(of(pulses, name)) < count:
        await RisingEdge(dut.clk)
    await ClockCycles(dut.clk, 20)


def of(pulses, *names):
    """Values of the pulses with these names."""
    return [value for _, name, value in pulses if name in names]


def memory_words(config, content, first, words):
    """Words of L bytes as integers."""
    start = BASE * config.port_bytes + first * config.lanes
    return [int.from_bytes(content[start + word * config.lanes :][: config.lanes], "little") for word in range(words)]


def expected_writes(config, content, target, memory, words, destination):
    """(address, data) of every write of a LOAD."""
    data = memory_words(config, content, memory, words)
    if target is Target.ROW_MAP:
        first, width = destination * (config.lanes // 4), isa.ADDRESS.width
        entries = [value >> 32 * part & (1 << width) - 1 for value in data for part in range(config.lanes // 4)]
        return [(entry, value) for entry, value in enumerate(entries, first) if entry < MAP_ROWS]
    if target is Target.PROGRAM:
        first = PROGRAM_DEPTH // 2 * isa.INSTRUCTION_WORDS + destination * config.lanes // 4
        entries = [value >> 32 * part & 0xFFFF_FFFF for value in data for part in range(config.lanes // 4)]
        return [(*divmod(entry, isa.INSTRUCTION_WORDS), value) for entry, value in enumerate(entries, first)]
    if target not in TABLES:
        return [(destination + word, value) for word, value in enumerate(data)]
    mask = (1 << TABLES[target]) - 1
    writes, size = [], table_words(config.lanes)
    for word, value in enumerate(data):
        for part in range(config.lanes // 4):
            table, entry = (destination + word) // size, (destination + word) % size * (config.lanes // 4) + part
            if entry < 256:
                writes.append((table * 256 + entry, value >> 32 * part & mask))
    return writes


@cocotb.test(timeout_time=1, timeout_unit="ms")
@cocotb.parametrize(stall=[0.0, 0.3])
async def loads(dut, stall):
    """LOADs of all targets and lengths, one right after the other."""
    config_, rng = from_environment(), np.random.default_rng(cocotb.RANDOM_SEED)
    memory, pulses = await prepare(dut, config_, rng, stall)
    table = table_words(config_.lanes)
    jobs = [(Target.SCRATCHPAD, 0, words, 3) for words in (1, 2, MAX_BURST - 1, MAX_BURST, MAX_BURST + 1, 200)]
    jobs += [(target, 7, words, 0) for target in PORTS if target not in TABLES and (words := target_words(config_, target))]
    tables = [target for target in TABLES if target_words(config_, target)]
    jobs += [(target, 11, words, start) for target in tables for words, start in ((table, 0), (table, table), (2 * table, 0), (1, table))]
    if config_.map_rows:
        jobs += [(Target.ROW_MAP, 13, 2, 3), (Target.ROW_MAP, 17, 1, target_words(config_, Target.ROW_MAP) - 1)]
    if config_.program_stream:
        block = block_words(config_)
        jobs += [(Target.PROGRAM, 19, block, 0), (Target.PROGRAM, 23, block, block), (Target.PROGRAM, 29, 2, block)]
    jobs += [(Target.SCRATCHPAD, MEMORY_WORDS - 5, 5, config_.scratchpad_words - 5)]
    jobs = [jobs[index] for index in rng.permutation(len(jobs))]
    words = [instruction(Opcode.LOAD, target=target, memory=first, words=count, destination=start) for target, first, count, start in jobs]
    cocotb.start_soon(drive(dut, "instruction", words))
    await until(dut, pulses, "done", len(jobs))
    assert not of(pulses, "error")
    assert len(of(pulses, "start")) == len(of(pulses, "done")) == len(jobs)
    starts, dones = ([cycle for cycle, name, _ in pulses if name == wanted] for wanted in ("start", "done"))
    for (target, first, count, start), began, ended in zip(jobs, starts, dones, strict=True):
        written = [(cycle, name, value) for cycle, name, value in pulses if began <= cycle < ended and name in PORTS.values()]
        assert {name for _, name, _ in written} == {PORTS[target]}
        assert of(written, PORTS[target]) == expected_writes(config_, memory.content, target, first, count, start)
        assert ended > max(cycle for cycle, _, _ in written)
    if not stall:
        assert np.subtract(dones, starts).tolist() == [LoadEngine.cycles(config_, count, target) for target, _, count, _ in jobs]
        assert starts[1:] == dones[:-1]
    assert {count for _, count in memory.requests} >= {config_.beats, MAX_BURST}


@cocotb.test(timeout_time=200, timeout_unit="us")
async def refused_loads(dut):
    """Instructions that must not do anything, and a good one after each."""
    config_, rng = from_environment(), np.random.default_rng(cocotb.RANDOM_SEED)
    memory, pulses = await prepare(dut, config_, rng, 0.0)
    good = {"target": Target.SCRATCHPAD, "memory": 3, "words": 2, "destination": 5}
    targets = [target for target in PORTS if target_words(config_, target)]
    bad = [({"words": 0}, Error.FIELD), ({"target": 7, "words": 0}, Error.FIELD)]
    bad += [({"target": target}, Error.FIELD) for target in PORTS if target not in targets]
    for target in targets:
        size = target_words(config_, target)
        last = size - table_words(config_.lanes) if target in TABLES else size - 1
        bad += [({"target": target, "words": size - last + 1, "destination": last}, Error.ADDRESS)]
        bad += [({"target": target, "words": 1, "destination": size}, Error.ADDRESS)]
        bad += [({"target": target, "words": (1 << 20) - 1, "destination": (1 << 20) - 1}, Error.ADDRESS)]
    bad += [({"target": target, "words": 1, "destination": 1}, Error.ADDRESS) for target in (*TABLES, Target.PROGRAM) if target in targets]
    words = [instruction(Opcode.LOAD, **fields) for change, _ in bad for fields in (good | change, good)]
    cocotb.start_soon(drive(dut, "instruction", words))
    await until(dut, pulses, "done", len(bad))
    assert [Error(value) for value in of(pulses, "error")] == [error for _, error in bad]
    expected = expected_writes(config_, memory.content, Target.SCRATCHPAD, 3, 2, 5)
    assert of(pulses, *PORTS.values()) == expected * len(bad)
    starts = [cycle for cycle, name, _ in pulses if name == "start"]
    assert [cycle for cycle, name, _ in pulses if name == "error"] == [cycle + 3 for cycle in starts[::2]]


@cocotb.test(timeout_time=200, timeout_unit="us")
@cocotb.parametrize(target=[Target.SCRATCHPAD, Target.EXP_TABLE], stall=[0.0, 0.3])
async def a_read_error_ends_the_writes(dut, target, stall):
    config_, rng = from_environment(), np.random.default_rng(cocotb.RANDOM_SEED)
    failing, words = 20, 50
    errors = [BASE + failing * config_.beats + config_.beats // 2, BASE + (failing + 5) * config_.beats]
    memory, pulses = await prepare(dut, config_, rng, stall, errors)
    after = {"target": Target.SCRATCHPAD, "memory": 100, "words": 3, "destination": 9}
    both = [instruction(Opcode.LOAD, target=target, memory=0, words=words, destination=0), instruction(Opcode.LOAD, **after)]
    cocotb.start_soon(drive(dut, "instruction", both))
    await until(dut, pulses, "done", 1)
    assert of(pulses, "error") == [Error.MEMORY_READ.value]
    assert len(of(pulses, "done")) == 1
    expected = expected_writes(config_, memory.content, target, 0, failing, 0)
    expected += expected_writes(config_, memory.content, Target.SCRATCHPAD, 100, 3, 9)
    assert of(pulses, *PORTS.values()) == expected


@cocotb.test(timeout_time=200, timeout_unit="us")
@cocotb.parametrize(wait=[0, 1, 2, 30, 70])
async def a_cancelled_load_leaves_no_beats_behind(dut, wait):
    """Cancelled ``wait`` cycles after its start; the next LOAD gets its own words."""
    config_, rng = from_environment(), np.random.default_rng(cocotb.RANDOM_SEED)
    memory, pulses = await prepare(dut, config_, rng, 0.0)
    dut.instruction__payload.value = instruction(Opcode.LOAD, memory=0, words=100, destination=0)
    dut.instruction__valid.value = 1
    for cycle in range(wait + 1):
        dut.cancel.value = int(cycle == wait)
        await RisingEdge(dut.clk)
        dut.instruction__valid.value = 0
    dut.cancel.value = 0
    cocotb.start_soon(drive(dut, "instruction", [instruction(Opcode.LOAD, memory=200, words=3, destination=300)]))
    await until(dut, pulses, "done", 1)
    assert len(of(pulses, "done")) == 1
    expected = expected_writes(config_, memory.content, Target.SCRATCHPAD, 200, 3, 300)
    assert of(pulses, "write")[-3:] == expected
    writes = [cycle for cycle, name, _ in pulses if name == "write"][:-3]
    first_start = next(cycle for cycle, name, _ in pulses if name == "start")
    assert all(cycle <= first_start + wait for cycle in writes)


async def scratchpad(dut, config, words):
    """Answer the engine's reads; anything else is on the data in all other cycles."""
    pipe = [None] * READ_LATENCY
    while True:
        address = pipe.pop(0)
        dut.read__data.value = 0 if address is None else words[address]
        await RisingEdge(dut.clk)
        address = dut.read__address.value.to_unsigned() if dut.read__enable.value else None
        assert address is None or address < config.scratchpad_words
        pipe.append(address)


async def prepare_store(dut, stall, errors=()):
    config_, rng = from_environment(), np.random.default_rng(cocotb.RANDOM_SEED)
    memory, pulses = await prepare(dut, config_, rng, stall, errors)
    words = [int.from_bytes(rng.bytes(config_.lanes), "little") for _ in range(config_.scratchpad_words)]
    cocotb.start_soon(scratchpad(dut, config_, words))
    return config_, rng, memory, pulses, words


def stored(config, content, words, jobs):
    """``content`` after STOREs (memory, words, source)."""
    content = bytearray(content)
    for first, count, source in jobs:
        start = BASE * config.port_bytes + first * config.lanes
        content[start : start + count * config.lanes] = b"".join(w.to_bytes(config.lanes, "little") for w in words[source : source + count])
    return content


@cocotb.test(timeout_time=1, timeout_unit="ms")
@cocotb.parametrize(stall=[0.0, 0.3])
async def stores(dut, stall):
    config_, rng, memory, pulses, words = await prepare_store(dut, stall)
    size = config_.scratchpad_words
    jobs = [(count, count, 3) for count in (1, 2, MAX_BURST - 1, MAX_BURST, MAX_BURST + 1, 200)]
    jobs += [(0, size, 0), (MEMORY_WORDS - 5, 5, size - 5)]
    jobs = [jobs[index] for index in rng.permutation(len(jobs))]
    expected = stored(config_, memory.content, words, jobs)
    cocotb.start_soon(
        drive(dut, "instruction", [instruction(Opcode.STORE, memory=first, words=count, source=source) for first, count, source in jobs])
    )
    await until(dut, pulses, "done", len(jobs))
    assert not of(pulses, "error")
    assert len(of(pulses, "start")) == len(of(pulses, "done")) == len(jobs)
    assert memory.content == expected
    starts, dones = ([cycle for cycle, name, _ in pulses if name == wanted] for wanted in ("start", "done"))
    if not stall:
        assert np.subtract(dones, starts).tolist() == [StoreEngine.cycles(config_, count) for _, count, _ in jobs]
        assert starts[1:] == dones[:-1]


@cocotb.test(timeout_time=200, timeout_unit="us")
async def refused_stores(dut):
    config_, _, memory, pulses, words = await prepare_store(dut, 0.0)
    size = config_.scratchpad_words
    bad = [((5, 0, 0), Error.FIELD), ((5, 2, size - 1), Error.ADDRESS), ((5, 1, size), Error.ADDRESS)]
    bad += [((5, (1 << 20) - 1, (1 << 20) - 1), Error.ADDRESS)]
    good = (3, 2, size - 2)
    expected = stored(config_, memory.content, words, [good])
    names = ("memory", "words", "source")
    program = [instruction(Opcode.STORE, **dict(zip(names, job, strict=True))) for job, _ in bad for job in (job, good)]
    cocotb.start_soon(drive(dut, "instruction", program))
    await until(dut, pulses, "done", len(bad))
    assert [Error(value) for value in of(pulses, "error")] == [error for _, error in bad]
    assert memory.content == expected
    assert memory.requests == [(BASE + 3 * config_.beats, 2 * config_.beats)] * len(bad)


@cocotb.test(timeout_time=200, timeout_unit="us")
@cocotb.parametrize(stall=[0.0, 0.3], burst=[0, 1, 2])
async def a_write_error_is_reported_once_and_without_done(dut, stall, burst):
    errors = [BASE + burst * MAX_BURST + beat for beat in (5, 6)]
    config_, _, memory, pulses, words = await prepare_store(dut, stall, errors)
    jobs = [(0, 3 * MAX_BURST // config_.beats, 0), (500, 2, 7)]
    expected = stored(config_, memory.content, words, jobs)
    program = [instruction(Opcode.STORE, memory=first, words=count, source=source) for first, count, source in jobs]
    cocotb.start_soon(drive(dut, "instruction", program))
    await until(dut, pulses, "done", 1)
    assert of(pulses, "error") == [Error.MEMORY_WRITE.value]
    assert len(of(pulses, "start")) == 2 and len(of(pulses, "done")) == 1
    assert memory.content == expected


@cocotb.test(timeout_time=200, timeout_unit="us")
@cocotb.parametrize(wait=[0, 1, 3, 4, 40])  # cancelled when accepted, before its first burst, after it
async def a_cancelled_store_keeps_the_port_in_order(dut, wait):
    config_, _, memory, pulses, words = await prepare_store(dut, 0.0)
    dut.instruction__payload.value = instruction(Opcode.STORE, memory=0, words=100, source=0)
    dut.instruction__valid.value = 1
    for cycle in range(wait + 1):
        dut.cancel.value = int(cycle == wait)
        await RisingEdge(dut.clk)
        dut.instruction__valid.value = 0
    dut.cancel.value = 0
    jobs = ([(0, 100, 0)] if wait > 3 else []) + [(500, 5, 7)]
    expected = stored(config_, memory.content, words, jobs)
    cocotb.start_soon(drive(dut, "instruction", [instruction(Opcode.STORE, memory=500, words=5, source=7)]))
    await until(dut, pulses, "done", 1)
    assert len(of(pulses, "done")) == 1
    assert memory.content == expected


CONFIGURATIONS = [
    {"lanes": 8, "memory_bytes_per_cycle": 8, "memory_latency": 1},
    {"lanes": 8, "memory_bytes_per_cycle": 2, "memory_latency": 12, "map_rows": 0, "program_stream": True},
    {"lanes": 8, "memory_bytes_per_cycle": 4, "memory_latency": 12, "modes": ["int8", "binary"]},
    {"lanes": 12, "memory_bytes_per_cycle": 4, "memory_latency": 30, "program_stream": True},
]


@pytest.mark.parametrize("settings", CONFIGURATIONS, ids=lambda s: f"L{s['lanes']}-{s['memory_bytes_per_cycle']}-bytes")
@pytest.mark.parametrize("engine", [LoadEngine, StoreEngine])
def test_engine(engine, settings, tmp_path):
    names = {
        LoadEngine: ["loads", "refused_loads", "a_read_error_ends_the_writes", "a_cancelled_load_leaves_no_beats_behind"],
        StoreEngine: [
            "stores",
            "refused_stores",
            "a_write_error_is_reported_once_and_without_done",
            "a_cancelled_store_keeps_the_port_in_order",
        ],
    }
    model = build(engine(config(**settings)), name=engine.__name__.lower())
    run(model, __file__, test_dir=tmp_path, env={"CONFIG": json.dumps(settings)}, seed=settings["lanes"], testcase=names[engine])
