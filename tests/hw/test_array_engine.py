"""The array engine with a scratchpad: random programs of MATMULs against the golden model and against the timing model."""

import os

import cocotb
import numpy as np
import pytest
from amaranth import Module
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out, connect, flipped
from cocotb.triggers import RisingEdge

from vitloom.hw import isa
from vitloom.hw.array.engine import ArrayEngine
from vitloom.hw.config import CoreConfig
from vitloom.hw.scratchpad import READ_LATENCY, READERS, WRITERS, ReadPort, Scratchpad, WritePort
from vitloom.model.matmul import int8_matmul, log2_matmul
from vitloom.model.requantize import apply_table, requantize, requantize_raw, requantize_residual
from vitloom.sim.array_timing import ArrayTiming
from vitloom.sim.runner import run_component
from vitloom.sim.streams import pack, reset, start_clock, unpack


def config_of(lanes: int, epilogue_lanes: int) -> CoreConfig:
    return CoreConfig(
        lanes=lanes, epilogue_lanes=epilogue_lanes, scratchpad_bytes=8 * 512 * lanes, accumulator_rows=32, constant_channels=16 * lanes
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
                "store": In(ReadPort(address, config.lanes)),
                "constants": self.engine.signature.members["constants"],
                "table": self.engine.signature.members["table"],
                "fault": Out(1),
            }
        )

    def elaborate(self, platform):
        m = Module()
        m.submodules.engine = engine = self.engine
        m.submodules.scratchpad = scratchpad = Scratchpad(self.config)
        for name in ("moving", "stationary", "residual"):
            connect(m, engine=getattr(engine, name), scratchpad=scratchpad.reads[READERS.index(name)])
        connect(m, bench=flipped(self.store), scratchpad=scratchpad.reads[READERS.index("store")])
        connect(m, engine=engine.output, scratchpad=scratchpad.writes[WRITERS.index("epilogue")])
        connect(m, bench=flipped(self.load), scratchpad=scratchpad.writes[WRITERS.index("load")])
        for name in ("instruction", "constants", "table"):
            connect(m, bench=flipped(getattr(self, name)), engine=getattr(engine, name))
        m.d.comb += [self.start.eq(engine.start), self.done.eq(engine.done), self.error.eq(engine.error)]
        m.d.sync += self.fault.eq(self.fault | scratchpad.conflict | scratchpad.out_of_range)
        return m


class Bench:
    """Random MATMULs over a random scratchpad: operands in bank 0 (moving), 1 (stationary), 2 (residual), results from bank 3 on."""

    def __init__(self, config: CoreConfig, rng: np.random.Generator, count: int):
        self.config, self.rng = config, rng
        lanes, bank = config.lanes, config.bank_words
        self.memory = rng.integers(-128, 128, (8 * bank, lanes)).astype(np.int8)
        self.memory[: bank // 8] = -128
        channels = config.constant_channels
        self.bias = rng.integers(-(2**20), 2**20, channels).astype(np.int32)
        self.multiplier = rng.integers(2**15, 2**16, channels).astype(np.uint16)
        self.shift = rng.integers(18, 31, channels).astype(np.uint8)
        self.residual_shift = rng.integers(0, 12, channels).astype(np.uint8)
        self.tables = rng.integers(-128, 128, (config.tables, 256)).astype(np.int8)
        self.free = 3 * bank
        self.instructions = [self.random_matmul() for _ in range(count)]

    def random_matmul(self) -> dict[str, int]:
        rng, lanes = self.rng, self.config.lanes
        k_tiles, n_tiles = int(rng.integers(1, 5)), int(rng.integers(1, 4))
        form = int(rng.integers(len(isa.Form)))
        words = n_tiles * (4 if form == isa.Form.RAW.value else 1)
        rows = int(rng.integers(1, min(32, (8 * self.config.bank_words - self.free) // words // 8) + 1))
        fields = {
            "opcode": isa.Opcode.MATMUL.value,
            "queue": isa.Queue.ARRAY.value,
            "mode": int(rng.integers(2)),
            "direction": int(rng.integers(2)),
            "rows": rows,
            "k_tiles": k_tiles,
            "n_tiles": n_tiles,
            "moving": int(rng.integers(64)),
            "moving_row": k_tiles,
            "moving_k": 1,
            "stationary": self.config.bank_words + int(rng.integers(64)),
            "stationary_word": int(rng.integers(1, 3)),
            "stationary_k": lanes,
            "stationary_n": lanes * k_tiles,
            "output": self.free,
            "output_row": words,
            "output_n": words // n_tiles,
            "residual": 2 * self.config.bank_words + int(rng.integers(64)),
            "form": form,
            "table": int(rng.integers(2)),
            "constant": int(rng.integers(16 - n_tiles)),
            "constant_n": int(rng.integers(2)),
            "zero_out": int(rng.integers(-128, 128)),
            "residual_zero": int(rng.integers(-128, 128)),
            "residual_multiplier": int(rng.integers(2**16)),
        }
        self.free += rows * words
        return fields

    def expected(self, f: dict[str, int]) -> tuple[np.ndarray, np.ndarray]:
        """Addresses (rows, n tiles, words) and the words that a MATMUL writes there."""
        lanes = self.config.lanes
        rows, ks, ns = np.arange(f["rows"]), np.arange(f["k_tiles"]), np.arange(f["n_tiles"])
        moving = self.memory[f["moving"] + rows[:, None] * f["moving_row"] + ks * f["moving_k"]].reshape(f["rows"], -1)
        base = f["stationary"] + ns[:, None] * f["stationary_n"] + ks * f["stationary_k"]
        tiles = self.memory[base[..., None] + np.arange(lanes) * f["stationary_word"]]  # n, k, word, byte
        if f["direction"] == isa.LoadDirection.ROW.value:
            tiles = tiles.swapaxes(2, 3)  # n, k, output, input
        weight = tiles.transpose(0, 2, 1, 3).reshape(len(ns) * lanes, -1)
        is_log2 = f["mode"] == isa.Mode.LOG2.value
        acc = log2_matmul((moving & 15).astype(np.uint8), weight.T.copy()) if is_log2 else int8_matmul(moving, weight)
        channel = ((f["constant"] + ns[:, None] * f["constant_n"]) * lanes + np.arange(lanes)).ravel()
        scale = (self.bias[channel], self.multiplier[channel], self.shift[channel])
        output = f["output"] + rows[:, None, None] * f["output_row"] + ns[:, None] * f["output_n"]
        if f["form"] == isa.Form.RAW.value:
            raw = requantize_raw(acc, *scale).astype("<i4").view(np.int8)
            return output + np.arange(4), raw.reshape(f["rows"], len(ns), 4, lanes)
        if f["form"] == isa.Form.RESIDUAL.value:
            residual = self.memory[f["residual"] + (output - f["output"])[..., 0]].reshape(f["rows"], -1)
            settings = (residual, f["residual_zero"], f["residual_multiplier"], self.residual_shift[channel])
            result = requantize_residual(acc, *scale, f["zero_out"], *settings)
        else:
            result = requantize(acc, *scale, f["zero_out"])
        if f["form"] == isa.Form.TABLE.value:
            result = apply_table(result, self.tables[f["table"]])
        return output, result.reshape(f["rows"], len(ns), 1, lanes)

    async def load(self, dut) -> None:
        """Fill the scratchpad, the constants and the tables."""
        config = self.config
        records = [
            isa.pack(isa.CONSTANT_RECORD, dict(zip(isa.CONSTANT_RECORD.members, map(int, values), strict=True)))
            for values in zip(self.bias, self.multiplier, self.shift, self.residual_shift, strict=True)
        ]
        constants = np.array(records, dtype="<u8").view(np.uint8).reshape(-1, config.lanes)
        writes = {"load": self.memory, "constants": constants, "table": self.tables.reshape(-1, 1)}
        for name, words in writes.items():
            for address, word in enumerate(words):
                getattr(dut, f"{name}__enable").value = 1
                getattr(dut, f"{name}__address").value = address
                getattr(dut, f"{name}__data").value = pack(word)
                await RisingEdge(dut.clk)
            getattr(dut, f"{name}__enable").value = 0

    async def read(self, dut, addresses: np.ndarray) -> np.ndarray:
        """Words of the scratchpad."""
        words = []
        for address in [*addresses.ravel(), *[0] * READ_LATENCY]:
            dut.store__enable.value = 1
            dut.store__address.value = int(address)
            await RisingEdge(dut.clk)
            words.append(unpack(dut.store__data.value.to_unsigned(), self.config.lanes))
        dut.store__enable.value = 0
        return np.array(words[READ_LATENCY:]).reshape(*addresses.shape, -1)


async def run_program(dut, bench: Bench, instructions, idle: float):
    """Offer the instructions one after the other; returns the cycles of offer, start and done of each."""
    offers, starts, dones = [], [], []
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
        cycle += 1
        assert cycle < 100_000, f"{len(dones)} of {len(instructions)} instructions ended"
    return offers, starts, dones


async def prepare(dut) -> Bench:
    config = config_of(int(os.environ["LANES"]), int(os.environ["EPILOGUE_LANES"]))
    bench = Bench(config, np.random.default_rng(int(os.environ["SEED"])), 40)
    for name in ("load__enable", "constants__enable", "table__enable", "store__enable", "instruction__valid"):
        getattr(dut, name).value = 0
    start_clock(dut)
    await reset(dut)
    await bench.load(dut)
    return bench


@cocotb.test(timeout_time=10, timeout_unit="ms")
@cocotb.parametrize(idle=[0.0, 0.9, 0.995])
async def programs_match_golden_and_timing(dut, idle):
    bench = await prepare(dut)
    offers, starts, dones = await run_program(dut, bench, bench.instructions, idle)
    timing = ArrayTiming(bench.config)
    expected = [timing.accept(offer, fields) for offer, fields in zip(offers, bench.instructions, strict=True)]
    np.testing.assert_array_equal(starts, [start for start, _ in expected])
    np.testing.assert_array_equal(dones, [done for _, done in expected])
    for index, fields in enumerate(bench.instructions):
        addresses, words = bench.expected(fields)
        np.testing.assert_array_equal(await bench.read(dut, addresses), words, err_msg=f"instruction {index}: {fields}")
    assert not dut.fault.value


@cocotb.test(timeout_time=10, timeout_unit="ms")
async def bad_instructions_are_refused(dut):
    bench = await prepare(dut)
    good = bench.instructions[0]
    blocks = bench.config.constant_channels // bench.config.lanes
    cases = [
        ({"rows": 0}, isa.Error.FIELD),
        ({"rows": bench.config.accumulator_rows + 1}, isa.Error.FIELD),
        ({"k_tiles": 0}, isa.Error.FIELD),
        ({"n_tiles": 0}, isa.Error.FIELD),
        ({"mode": 2}, isa.Error.FIELD),
        ({"form": 4}, isa.Error.FIELD),
        ({"constant": blocks}, isa.Error.ADDRESS),
        ({"constant": blocks - 1, "constant_n": 1, "n_tiles": 2}, isa.Error.ADDRESS),
    ]
    for change, error in cases:
        fields = {**good, **change}
        body = {name: fields[name] for name in isa.BODIES[isa.Opcode.MATMUL].members}
        dut.instruction__payload.value = isa.pack(isa.BODIES[isa.Opcode.MATMUL], body) << isa.HEADER.size
        dut.instruction__valid.value = 1
        await RisingEdge(dut.clk)
        dut.instruction__valid.value = 0
        assert dut.error.value.to_unsigned() == error.value, f"{change} gives {dut.error.value}"
        for _ in range(100):
            await RisingEdge(dut.clk)
            assert not dut.done.value


@pytest.mark.parametrize(("lanes", "epilogue_lanes"), [(4, 1), (4, 4), (8, 4)])
def test_array_engine(lanes, epilogue_lanes, tmp_path):
    component = EngineWithScratchpad(config_of(lanes, epilogue_lanes))
    env = {"LANES": str(lanes), "EPILOGUE_LANES": str(epilogue_lanes), "SEED": str(lanes + epilogue_lanes)}
    run_component(component, name="engine", test_module=__file__, test_dir=tmp_path, env=env)
