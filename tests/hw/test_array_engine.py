"""The array engine with a scratchpad: random programs of MATMULs against the golden model and against the timing model."""

import json
import os

import cocotb
import numpy as np
import pytest
from amaranth import Module
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out, connect, flipped
from cocotb.triggers import ClockCycles, RisingEdge

from vitloom.hw import isa
from vitloom.hw.array.accumulators import Accumulators
from vitloom.hw.array.drain import Drain
from vitloom.hw.array.engine import ArrayEngine
from vitloom.hw.array.fetch import StationaryFetch
from vitloom.hw.array.mac_array import array_latency
from vitloom.hw.config import MODES, PACKING, CoreConfig
from vitloom.hw.row_map import MapWrite
from vitloom.hw.scratchpad import PARTS, READ_LATENCY, READERS, WRITERS, Scratchpad, WritePort
from vitloom.model.packing import pack_rows, pack_values
from vitloom.model.requantize import apply_table, narrow, requantize, requantize_raw, requantize_residual
from vitloom.sim.array_timing import ArrayTiming
from vitloom.sim.operands import matmul, stationary_words
from vitloom.sim.runner import run_component
from vitloom.sim.streams import pack, reset, start_clock, unpack

#: Fields of cores with a narrow mode.
_PACKED = ("codebook", "moving_zero", "k_skip", "k_pad", "stationary_packing", "output_packing", "pack_rows", "part")


def config_of(lanes: int, epilogue_lanes: int, map_rows: int, modes: tuple[str, ...] = ("int8", "log2")) -> CoreConfig:
    return CoreConfig(
        lanes=lanes,
        modes=tuple(modes),
        epilogue_lanes=epilogue_lanes,
        scratchpad_bytes=8 * 1024 * lanes,
        accumulator_rows=32,
        constant_channels=16 * lanes,
        map_rows=map_rows,
    )


class EngineWithScratchpad(wiring.Component):
    """An array engine between the banks, the bench being loader, storer and sequencer."""

    def __init__(self, config: CoreConfig):
        self.config = config
        self.engine = ArrayEngine(config)
        address = isa.ADDRESS.width
        super().__init__(
            {
                "instruction": In(stream.Signature(isa.INSTRUCTION_BITS)),
                "start": Out(1),
                "done": Out(1),
                "error": Out(isa.Error),
                "load": In(WritePort(address, config.lanes)),
                "output": Out(WritePort(address, config.lanes)),
                "parts": Out(PARTS),
                "constants": self.engine.signature.members["constants"],
                "table": self.engine.signature.members["table"],
                **({"row_map": In(MapWrite(config))} if config.map_rows else {}),
                "fault": Out(1),
            }
        )

    def elaborate(self, platform):
        m = Module()
        m.submodules.engine = engine = self.engine
        m.submodules.scratchpad = scratchpad = Scratchpad(self.config)
        for name in ("moving", "stationary", "residual"):
            connect(m, engine=getattr(engine, name), scratchpad=scratchpad.reads[READERS.index(name)])
        connect(m, engine=engine.output, scratchpad=scratchpad.writes[WRITERS.index("epilogue")])
        connect(m, bench=flipped(self.load), scratchpad=scratchpad.writes[WRITERS.index("load")])
        for name in ("instruction", "constants", "table", *(["row_map"] if self.config.map_rows else [])):
            connect(m, bench=flipped(getattr(self, name)), engine=getattr(engine, name))
        m.d.comb += [getattr(self.output, name).eq(getattr(engine.output, name)) for name in ("enable", "address", "data")]
        m.d.comb += self.parts.eq(engine.parts if self.config.narrow else -1)
        if self.config.narrow:
            m.d.comb += scratchpad.parts.eq(engine.parts)
        m.d.comb += [self.start.eq(engine.start), self.done.eq(engine.done), self.error.eq(engine.error)]
        m.d.sync += self.fault.eq(self.fault | scratchpad.conflict | scratchpad.out_of_range)
        return m


class Bench:
    """Random MATMULs over a random scratchpad: operands in bank 0 (moving), 1 (stationary), 2 (residual), results from bank 3 on.

    Every second instruction is long, the others short, and when ``short_k`` all have one k tile: many tiles wait for the drain.
    """

    def __init__(self, config: CoreConfig, rng: np.random.Generator, *, count: int, short_k: bool):
        self.config, self.rng = config, rng
        lanes, bank = config.lanes, config.bank_words
        self.memory = rng.integers(-128, 128, (8 * bank, lanes)).astype(np.int8)
        self.memory[: bank // 8] = -128
        channels = config.constant_channels
        self.bias = rng.integers(-(2**20), 2**20, channels).astype(np.int32)
        self.multiplier = rng.integers(2**15, 2**16, channels).astype(np.uint16)
        self.shift = rng.integers(18, 31, channels).astype(np.uint8)
        if config.narrow:  # sums are small
            self.bias, self.shift = self.bias >> rng.choice([0, 8, 14], channels).astype(np.int32), self.shift - np.uint8(2)
        self.row_sum = rng.integers(-16, 16, channels).astype(np.int8)
        self.residual_shift = rng.integers(0, 12, channels).astype(np.uint8)
        self.tables = rng.integers(-128, 128, (config.tables, 256)).astype(np.int8)
        self.map = rng.permutation(config.map_rows) * 4
        self.instructions = [self.random_matmul(long=index % 2 == 1, short_k=short_k) for index in range(count)]

    def random_matmul(self, *, long: bool, short_k: bool) -> dict[str, int]:
        rng, lanes, bank = self.rng, self.config.lanes, self.config.bank_words
        k_tiles, n_tiles = 1 if short_k else int(rng.integers(1, 5)), int(rng.integers(1, 4))
        form = int(rng.integers(len(isa.Form)))
        words = n_tiles * (4 if form == isa.Form.RAW.value else 1)
        rows = int(rng.integers(20, 33) if long else rng.integers(1, 2 * lanes))
        mapped = int(rng.choice([0, 1, 3])) if self.config.map_rows else 0
        mode, direction = isa.Mode(MODES.index(rng.choice(self.config.modes))), int(rng.integers(2))
        fields = {
            "opcode": isa.Opcode.MATMUL.value,
            "queue": isa.Queue.ARRAY.value,
            "mode": mode.value,
            "direction": direction,
            "rows": rows,
            "k_tiles": k_tiles,
            "n_tiles": n_tiles,
            "moving": int(rng.integers(64)),
            "moving_row": k_tiles,
            "moving_k": 1,
            "stationary": bank + int(rng.integers(64)),
            "stationary_word": int(rng.integers(1, 3)),
            "stationary_k": lanes,
            "stationary_n": lanes * k_tiles,
            "output": 3 * bank + int(rng.integers(bank)),
            "output_row": words,
            "output_n": 4 * self.config.map_rows if mapped else words // n_tiles,
            "residual": 2 * bank + int(rng.integers(64)),
            "map": mapped,
            "map_base": int(rng.integers(self.config.map_rows - rows + 1)) if mapped else 0,
            "form": form,
            "masked": int(rng.integers(2)),
            "table": int(rng.integers(2)),
            "constant": int(rng.integers(16 - n_tiles)),
            "constant_n": int(rng.integers(2)),
            "zero_out": int(rng.integers(-128, 128)),
            "residual_zero": int(rng.integers(-128, 128)),
            "residual_multiplier": int(rng.integers(2**16)),
            **dict.fromkeys(_PACKED, 0),
        }
        if self.config.narrow:
            self.randomize_packing(fields)
        return fields

    def randomize_packing(self, fields: dict[str, int]) -> None:
        """Operands and results of any bits, in an instruction with operands and results of 8."""
        rng, lanes, mode = self.rng, self.config.lanes, isa.Mode(fields["mode"])
        packing = PACKING[mode.name.lower()]
        if mode in (isa.Mode.BINARY, isa.Mode.LOG2):
            fields["codebook"] = int(rng.integers(2))
        if mode is isa.Mode.INT4:
            fields["moving_zero"] = int(rng.integers(-8, 8))
        fields["k_skip"], fields["k_pad"] = (int(rng.choice([0, 1, rng.integers(lanes // 2 + 1)])) for _ in range(2))
        fields["stationary_packing"] = packing
        if fields["direction"] == isa.LoadDirection.ROW.value:
            fields["stationary_packing"] = int(rng.integers(packing, 4))
        if fields["form"] not in (isa.Form.RAW.value, isa.Form.RESIDUAL.value):
            fields["output_packing"] = int(rng.integers(4))
            fields["pack_rows"] = int(rng.integers(2)) if fields["map"] == 0 else 0
            fields["part"] = 0 if fields["pack_rows"] else int(rng.integers(1 << fields["output_packing"]))

    def expected(self, f: dict[str, int]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """What a MATMUL writes, in the order of the writes: addresses (…), words (…, L) uint8, and masks of their bytes."""
        lanes = self.config.lanes
        rows, ks, ns = np.arange(f["rows"]), np.arange(f["k_tiles"]), np.arange(f["n_tiles"])
        moving = self.memory[f["moving"] + rows[:, None] * f["moving_row"] + ks * f["moving_k"]]
        base = f["stationary"] + ns[:, None] * f["stationary_n"] + ks * f["stationary_k"]
        stored = np.arange(stationary_words(f, lanes))
        tiles = self.memory[base[..., None] + stored * f["stationary_word"]]  # n, k, word, byte
        acc, row_sums = matmul(f, moving.view(np.uint8), tiles.view(np.uint8))
        channel = ((f["constant"] + ns[:, None] * f["constant_n"]) * lanes + np.arange(lanes)).ravel()
        scale = (self.bias[channel], self.multiplier[channel], self.shift[channel])
        acc = (acc + row_sums[:, None] * self.row_sum[channel]).astype(np.int32)
        offsets = [self.map[f["map_base"] + rows] if f["map"] >> bit & 1 else rows * f["output_row"] for bit in (0, 1)]
        bases = f["output"], f["residual"]
        output, other = (base + offset + ns[:, None] * f["output_n"] for base, offset in zip(bases, offsets, strict=True))
        if f["form"] == isa.Form.RAW.value:
            raw = requantize_raw(acc, *scale).astype("<i4").view(np.uint8)
            words = raw.reshape(f["rows"], len(ns), 4, lanes).swapaxes(0, 1)
            return output[..., None] + np.arange(4), words, np.full_like(words, 255)
        if f["form"] == isa.Form.RESIDUAL.value:
            residual = self.memory[other.T].reshape(f["rows"], -1)
            settings = (residual, f["residual_zero"], f["residual_multiplier"], self.residual_shift[channel])
            result = requantize_residual(acc, *scale, f["zero_out"], *settings)
            if f["masked"]:
                result = np.where(residual == -128, -128, np.maximum(result, -127)).astype(np.int8)
        else:
            result = requantize(acc, *scale, f["zero_out"])
        if f["form"] == isa.Form.TABLE.value:
            result = apply_table(result, self.tables[f["table"]])
        return self.packed(f, bases[0] + offsets[0], result.reshape(f["rows"], len(ns), lanes).swapaxes(0, 1))

    def packed(self, f: dict[str, int], addresses: np.ndarray, result: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """As :meth:`expected`, of results (n tiles, rows, L) int8 and the addresses of the rows' first words."""
        bits, parts = 8 >> f["output_packing"], 1 << f["output_packing"]
        result, tiles = narrow(result, bits), np.arange(len(result))[:, None]
        if f["pack_rows"]:
            words = pack_rows(result, bits)
            rows = np.arange(words.shape[1])
            return f["output"] + rows * f["output_row"] + tiles * f["output_n"], words, np.full_like(words, 255)
        tiles = tiles + f["part"]
        words = np.tile(pack_values(result, bits), parts)
        here = np.arange(self.config.lanes) * parts // self.config.lanes == tiles[..., None] % parts
        return addresses + tiles // parts * f["output_n"], words, np.where(here, 255, 0) & np.full_like(words, 255)

    async def load(self, dut) -> None:
        """Fill the scratchpad, the constants, the tables and the map."""
        config = self.config
        records = [
            isa.pack(isa.CONSTANT_RECORD, dict(zip(isa.CONSTANT_RECORD.members, map(int, values), strict=True)))
            for values in zip(self.bias, self.multiplier, self.shift, self.row_sum, self.residual_shift, strict=True)
        ]
        constants = np.array(records, dtype="<u8").view(np.uint8).reshape(-1, config.lanes)
        writes = {"load": self.memory, "constants": constants, "table": self.tables.reshape(-1, 1)}
        if len(self.map):
            writes["row_map"] = self.map
        for name, words in writes.items():
            for address, word in enumerate(words):
                getattr(dut, f"{name}__enable").value = 1
                getattr(dut, f"{name}__address").value = address
                getattr(dut, f"{name}__data").value = int(word) if name == "row_map" else pack(word)
                await RisingEdge(dut.clk)
            getattr(dut, f"{name}__enable").value = 0


async def run_program(dut, bench: Bench, instructions, idle: float):
    """Offer the instructions one after the other; returns the cycles of offer, start and done of each, and (address, word) of writes."""
    offers, starts, dones, writes = [], [], [], []
    cycle, index, offered = 0, 0, False
    while len(dones) < len(instructions):
        if not offered and index < len(instructions) and bench.rng.random() >= idle:
            header = {name: instructions[index].get(name, 0) for name in isa.HEADER.members}
            body = {name: instructions[index][name] for name in isa.BODIES[isa.Opcode.MATMUL].members}
            dut.instruction__payload.value = isa.pack(isa.HEADER, header) | isa.pack(isa.BODIES[isa.Opcode.MATMUL], body) << isa.HEADER.size
            dut.instruction__valid.value = 1
            offered = True
            offers.append(cycle)
        await RisingEdge(dut.clk)
        if dut.start.value:
            starts.append(cycle)
            dut.instruction__valid.value = 0
            index, offered = index + 1, False
        if dut.done.value:
            dones.append(cycle)
        if dut.output__enable.value:
            writes.append([port.value.to_unsigned() for port in (dut.output__address, dut.output__data, dut.parts)])
        cycle += 1
        assert cycle < 100_000, f"{len(dones)} of {len(instructions)} instructions ended"
    return offers, starts, dones, writes


async def prepare(dut, *, short_k: bool = False) -> Bench:
    config = config_of(*json.loads(os.environ["CONFIG"]))
    bench = Bench(config, np.random.default_rng(cocotb.RANDOM_SEED), count=60, short_k=short_k)
    for name in ("load", "constants", "table", *(["row_map"] if config.map_rows else [])):
        getattr(dut, f"{name}__enable").value = 0
    dut.instruction__valid.value = 0
    start_clock(dut)
    await reset(dut)
    await bench.load(dut)
    return bench


@cocotb.test(timeout_time=10, timeout_unit="ms")
@cocotb.parametrize((("idle", "short_k"), [(0.0, False), (0.0, True), (0.9, False), (0.98, True), (0.995, False)]))
async def programs_match_golden_and_timing(dut, idle, short_k):
    bench = await prepare(dut, short_k=short_k)
    offers, starts, dones, writes = await run_program(dut, bench, bench.instructions, idle)
    timing = ArrayTiming(bench.config)
    expected = [timing.accept(offer, fields) for offer, fields in zip(offers, bench.instructions, strict=True)]
    np.testing.assert_array_equal(starts, [start for start, _ in expected])
    np.testing.assert_array_equal(dones, [done for _, done in expected])
    for index, fields in enumerate(bench.instructions):
        addresses, words, mask = bench.expected(fields)
        written, writes = writes[: addresses.size], writes[addresses.size :]
        message = f"instruction {index}: {fields}"
        np.testing.assert_array_equal([address for address, _, _ in written], addresses.ravel(), err_msg=message)
        results = np.array([unpack(word, bench.config.lanes) for _, word, _ in written]).view(np.uint8)
        eighths = np.arange(bench.config.lanes) * PARTS // bench.config.lanes
        valid = [np.where(parts >> eighths & 1, 255, 0) for _, _, parts in written]
        np.testing.assert_array_equal(valid, mask.reshape(results.shape), err_msg=message)
        np.testing.assert_array_equal(results & valid, (words & mask).reshape(results.shape), err_msg=message)
    assert not writes
    assert not dut.fault.value


@cocotb.test(timeout_time=1, timeout_unit="ms")
async def short_tiles_follow_without_a_stall(dut):
    bench = await prepare(dut)
    lanes, groups = bench.config.lanes, bench.config.groups
    for rows in (1, lanes, lanes + 1, 2 * lanes + 1):
        change = {"k_tiles": 1, "n_tiles": 1, "rows": rows, "form": isa.Form.REQUANTIZE.value, "map": 0}
        _, _, dones, _ = await run_program(dut, bench, [{**bench.instructions[0], **change}] * 12, 0.0)
        np.testing.assert_array_equal(np.diff(dones)[4:], max(rows * groups, lanes + 1))


@cocotb.test(timeout_time=1, timeout_unit="ms")
async def a_product_that_fills_its_tiles_takes_its_share_of_the_cycles_of_int8(dut):
    """In mode int4 a half, int2 a quarter, binary an eighth: exactly, from one result to the next of products that follow each other."""
    bench = await prepare(dut)
    rows, depth = bench.config.accumulator_rows, 32  # k tiles of operands of 8 bits
    for name in bench.config.modes:
        mode = isa.Mode[name.upper()]
        change = {"mode": mode.value, "rows": rows, "k_tiles": depth >> PACKING[mode.name.lower()], "n_tiles": 1, "map": 0}
        change |= {"form": isa.Form.REQUANTIZE.value, **dict.fromkeys(_PACKED, 0)}
        if bench.config.narrow:
            change["stationary_packing"] = PACKING[mode.name.lower()]
        _, _, dones, _ = await run_program(dut, bench, [{**bench.instructions[0], **change}] * 4, 0.0)
        np.testing.assert_array_equal(np.diff(dones), rows * depth >> PACKING[mode.name.lower()], err_msg=name)


@cocotb.test(timeout_time=10, timeout_unit="ms")
async def bad_instructions_are_refused(dut):
    bench = await prepare(dut)
    good = bench.instructions[0] | {"output_packing": 0, "pack_rows": 0, "part": 0}
    blocks = bench.config.constant_channels // bench.config.lanes
    outside = isa.Error.ADDRESS if bench.config.map_rows else isa.Error.FIELD
    cases = [
        ({"rows": 0}, isa.Error.FIELD),
        ({"rows": bench.config.accumulator_rows + 1}, isa.Error.FIELD),
        ({"k_tiles": 0}, isa.Error.FIELD),
        ({"n_tiles": 0}, isa.Error.FIELD),
        ({"mode": 7}, isa.Error.FIELD),
        ({"part": 1}, isa.Error.FIELD),
        ({"output_packing": 1, "form": isa.Form.RAW.value}, isa.Error.FIELD),
        ({"output_packing": 1, "form": isa.Form.RESIDUAL.value}, isa.Error.FIELD),
        ({"pack_rows": 1, "map": 1, "map_base": 0}, isa.Error.FIELD),
        ({"form": 4}, isa.Error.FIELD),
        ({"constant": blocks}, isa.Error.ADDRESS),
        ({"constant": blocks - 1, "constant_n": 1, "n_tiles": 2}, isa.Error.ADDRESS),
        ({"map": 2}, isa.Error.FIELD),
        ({"map": 1, "map_base": 60, "rows": 5}, outside),
        ({"map": 3, "map_base": 64, "rows": 1}, outside),
    ]
    for change, error in cases:
        fields = {**good, **change}
        body = {name: fields[name] for name in isa.BODIES[isa.Opcode.MATMUL].members}
        dut.instruction__payload.value = isa.pack(isa.BODIES[isa.Opcode.MATMUL], body) << isa.HEADER.size
        dut.instruction__valid.value = 1
        await RisingEdge(dut.clk)
        dut.instruction__valid.value = 0
        await ClockCycles(dut.clk, StationaryFetch.CHECK_CYCLES)
        assert dut.error.value.to_unsigned() == error.value, f"{change} gives {dut.error.value}"
        for _ in range(100):
            await RisingEdge(dut.clk)
            assert not dut.done.value


@pytest.mark.parametrize(
    "sizes",
    [
        *((4, 1, 64), (4, 2, 0), (4, 4, 64), (8, 8, 0), (8, 4, 64)),
        *((8, 2, 64, ["int8", "int4"]), (8, 4, 0, ["log2", "binary"]), (8, 8, 64, MODES), (8, 8, 0, ["int2"])),
    ],
    ids=lambda sizes: " ".join(map(str, sizes[:3])) + " " + "+".join(sizes[3] if len(sizes) > 3 else []),
)
def test_array_engine(sizes, tmp_path):
    component = EngineWithScratchpad(config_of(*sizes))
    env = {"CONFIG": json.dumps(sizes)}
    run_component(component, name="engine", test_module=__file__, test_dir=tmp_path, env=env, seed=sum(sizes[:3]))


@pytest.mark.parametrize(("lanes", "rows"), [(16, 17), (16, 49), (32, 49)])
def test_a_tile_of_one_pass_takes_as_long_as_its_rows(lanes, rows):
    timing = ArrayTiming(CoreConfig(lanes=lanes, epilogue_lanes=lanes))
    fields = {"rows": rows, "k_tiles": 1, "n_tiles": 1, "form": isa.Form.REQUANTIZE.value}
    dones = [timing.accept(0, fields)[1] for _ in range(100)]
    np.testing.assert_array_equal(np.diff(dones), rows)


@pytest.mark.parametrize(("lanes", "epilogue_lanes"), [(4, 1), (4, 4), (8, 8), (16, 8), (32, 32)])
def test_a_result_is_read_after_it_is_written_and_before_it_is_overwritten(lanes, epilogue_lanes):
    """The argument in the docstring of Drain, tried on many programs, with the cycles in which the memories are accessed."""
    rng, config = np.random.default_rng(lanes + epilogue_lanes), CoreConfig(lanes=lanes, epilogue_lanes=epilogue_lanes)
    timing, arrival, asked = ArrayTiming(config), READ_LATENCY + array_latency(config), READ_LATENCY - Accumulators.READ_LATENCY
    reads, drains, margins, waiting = np.zeros(config.accumulator_rows, int), [], [], []
    for index in range(3000):
        raw = rng.random() < 0.1
        rows = int(rng.integers(1, [3, 2 * lanes, config.accumulator_rows][rng.integers(3)] + 1))
        form = isa.Form.RAW if raw else isa.Form.REQUANTIZE
        timing.accept(0, {"rows": rows, "k_tiles": 1 + index % 50 // 40, "n_tiles": 1, "form": form.value})
        period, row = 4 if raw else config.groups, np.arange(rows)
        begin, drain = timing.swapped, timing.drained - rows * period
        first_written = begin + row + arrival + 3
        assert (drain + row * period + asked > first_written + lanes - 1).all()
        margins.append((first_written - reads[:rows]).min())
        waiting.append(1 + sum(earlier > begin for earlier in drains[-5:]))
        reads[:rows] = drain + row * period + asked
        drains.append(drain)
    assert min(margins) == 1
    assert max(waiting) <= Drain.WAITING
