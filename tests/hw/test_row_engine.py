import os

import cocotb
import numpy as np
import pytest
from cocotb.triggers import RisingEdge

from vitloom.hw import isa
from vitloom.hw.config import MODES, CoreConfig
from vitloom.hw.isa import Error, Opcode
from vitloom.hw.rows.engine import RowEngine
from vitloom.hw.rows.layer_norm import LayerNorm
from vitloom.hw.rows.log_softmax import LogSoftmax
from vitloom.hw.scratchpad import READ_LATENCY
from vitloom.model.layer_norm import layer_norm
from vitloom.model.log_softmax import coded_softmax, exp_table, log_softmax, log_table
from vitloom.model.packing import pack_codes, pack_values
from vitloom.model.requantize import narrow
from vitloom.sim.row_timing import RowTiming
from vitloom.sim.runner import run_component
from vitloom.sim.streams import pack, reset, start_clock, unpack

LANES = int(os.environ.get("LANES", 4))
MAP_ROWS = int(os.environ.get("MAP_ROWS", 64))
NARROW = int(os.environ.get("NARROW", 0))
ROW_LANES = int(os.environ.get("ROW_LANES", 0))
WORDS = 4096
SCALES = (0.02, 0.3)  # of the two tables
CODES = np.random.default_rng(4).integers(-8, 8, (2, isa.TABLE_ENTRIES)).astype(np.int8)  # the two code tables


def configuration(lanes, map_rows, narrow, row_lanes):
    modes = MODES if narrow else MODES[:2]
    return CoreConfig(
        lanes=lanes, norm_channels=512, map_rows=map_rows, modes=modes, row_lanes=row_lanes, memory_bytes_per_cycle=row_lanes or lanes
    )


CONFIG = configuration(LANES, MAP_ROWS, NARROW, ROW_LANES)


class Bench:
    """A scratchpad around the engine.

    ``events`` are (cycle, signal) of every pulse, ``written`` the (cycle, address) of every write in order, ``words`` what was written.
    """

    def __init__(self, dut, rng):
        self.dut, self.rng = dut, rng
        self.memory = rng.integers(-128, 128, (WORDS, LANES)).astype(np.int8)
        self.cycle, self.events, self.written, self.words, self.read, self.errors = 0, [], [], [], [], []
        self.pipe = [None] * (READ_LATENCY - 1)

    async def begin(self):
        start_clock(self.dut)
        ports = ["exp_write", "norm_write", *(["row_map"] if MAP_ROWS else []), *(["code_write"] if NARROW else [])]
        for name in ("instruction__valid", "instruction__payload", "read__data", *(f"{port}__enable" for port in ports)):
            getattr(self.dut, name).value = 0
        await reset(self.dut)

    async def step(self):
        """One cycle, in which the data of a read come when they must and at no other time."""
        dut = self.dut
        await RisingEdge(dut.clk)
        for name in ("start", "done"):
            if getattr(dut, name).value:
                self.events.append((self.cycle, name))
        if dut.error.value:
            self.errors.append((self.cycle, Error(int(dut.error.value))))
        if dut.write__enable.value:
            self.written.append((self.cycle, int(dut.write__address.value)))
            self.words.append(unpack(dut.write__data.value, LANES))
            self.memory[self.written[-1][1]] = self.words[-1]
        self.pipe.append(int(dut.read__address.value) if dut.read__enable.value else None)
        if self.pipe[-1] is not None:
            self.read.append(self.pipe[-1])
        address = self.pipe.pop(0)
        dut.read__data.value = pack(self.rng.integers(-128, 128, LANES).astype(np.int8) if address is None else self.memory[address])
        self.cycle += 1

    async def write(self, port, address, word):
        for name, value in (("enable", 1), ("address", address), ("data", word)):
            getattr(self.dut, f"{port}__{name}").value = value
        await self.step()
        getattr(self.dut, f"{port}__enable").value = 0

    async def load_tables(self):
        for table, scale in enumerate(SCALES):
            for d, (exp, log) in enumerate(zip(exp_table(scale), log_table(scale), strict=True)):
                await self.write("exp_write", table * isa.TABLE_ENTRIES + d, isa.pack(isa.EXP_ENTRY, {"exp": exp, "log": log}))
            for entry, code in enumerate(CODES[table] if NARROW else []):
                await self.write("code_write", table * isa.TABLE_ENTRIES + entry, int(code) & 15)

    async def issue(self, opcode, **fields):
        """Offer an instruction until it is taken; returns the first cycle of the offer."""
        header = isa.pack(isa.HEADER, {"opcode": opcode, "queue": isa.Queue.ROWS})
        body = {name: value for name, value in fields.items() if name != "offsets"}
        self.dut.instruction__payload.value = header | isa.pack(isa.BODIES[opcode], body) << isa.HEADER.size
        self.dut.instruction__valid.value = 1
        offered, starts = self.cycle, len(self.events)
        while not any(name == "start" for _, name in self.events[starts:]):
            await self.step()
        self.dut.instruction__valid.value = 0
        return offered

    async def idle(self, cycles):
        for _ in range(cycles):
            await self.step()


class Layer:
    """A LayerNorm whose constants begin at block ``constant``."""

    def __init__(self, rng, channels, zero, constant):
        self.channels, self.zero, self.constant = channels, zero, constant
        self.alpha = rng.integers(0, 4, channels).astype(np.uint8)
        self.gain = rng.integers(-30 << 10, 30 << 10, channels).astype(np.int32)
        self.offset = rng.integers(-60 << 10, 60 << 10, channels).astype(np.int32)
        self.epsilon = int(rng.integers(1, 1000))

    @property
    def fields(self):
        size = self.channels.bit_length() - 1
        return {"channels": self.channels, "log2_channels": size, "zero": self.zero, "constant": self.constant, "epsilon": self.epsilon}

    async def load(self, bench):
        records = [
            isa.pack(isa.NORM_RECORD, {"alpha": int(a), "gain": int(g), "offset": int(o)})
            for a, g, o in zip(self.alpha, self.gain, self.offset, strict=True)
        ]
        for block in range(self.channels // LANES):
            for byte in range(isa.NORM_BYTES):
                word = pack([record >> 8 * byte & 255 for record in records[block * LANES : (block + 1) * LANES]])
                await bench.write("norm_write", (self.constant + block) * isa.NORM_BYTES + byte, word)
                await bench.idle(CONFIG.row_parts - 1)

    def result(self, rows):
        return layer_norm(rows, self.zero, self.alpha, self.gain, self.offset, self.epsilon)


def addresses(fields, name):
    """Addresses of the words of each row: (rows, words)."""
    words = -(-fields["words"] >> fields["output_packing"]) if name == "output" else fields["words"]
    row, word = np.arange(fields["rows"])[:, None], np.arange(words)[None, :]
    offset = fields["offsets"][fields["map_base"] + row] if name == "output" and fields.get("map") else row * fields[f"{name}_row"]
    return fields[name] + offset + word * fields[f"{name}_word"]


def softmax_result(rows, fields):
    scale = SCALES[fields["table"]]
    tables, kind = (exp_table(scale), log_table(scale)), {"columns": fields["columns"], "masked": bool(fields.get("masked"))}
    if not fields.get("coded"):
        codes = log_softmax(rows, *tables, **kind)
    else:
        codes = coded_softmax(rows, *tables, CODES[fields["code_table"]], **kind, relative=bool(fields["relative"])).view(np.uint8) & 15
    return as_words(pack_codes(codes, 8 >> fields["output_packing"]))


def norm_result(layer):
    """The words of a layer's results, as a function of rows and fields."""

    def result(rows, fields):
        bits = 8 >> fields["output_packing"]
        return as_words(pack_values(narrow(layer.result(rows), bits), bits))

    return result


def as_words(rows):
    """Rows of bytes, padded to whole words: (rows, words, L)."""
    padded = np.pad(rows.view(np.int8), [(0, 0), (0, -rows.shape[1] % LANES)])
    return padded.reshape(len(rows), -1, LANES)


def placed(rows, words, *, transposed=False):
    """Rows one after the other from 0 on; results from 2048 on, word by word or row by row."""
    target = {"output_row": 1, "output_word": rows + 3} if transposed else {"output_row": words + 1, "output_word": 1}
    source = {"rows": rows, "words": words, "input": 5, "input_row": words + 2, "input_word": 1}
    return {**source, "output": 2048, "output_packing": 0, **target}


def narrowed(jobs, rng):
    """The same jobs with every packing, and SOFTMAXes with codes of a table too."""
    for packing in range(4):
        for opcode, fields, golden in jobs:
            coding = {"coded": packing % 4 != 1, "relative": rng.integers(2), "code_table": rng.integers(2)}
            yield opcode, {**fields, "output_packing": packing, **(coding if opcode == Opcode.SOFTMAX else {})}, golden


@cocotb.test(timeout_time=10, timeout_unit="ms")
async def matches_golden_and_takes_the_cycles_it_says(dut):
    rng = np.random.default_rng(cocotb.RANDOM_SEED)
    bench = Bench(dut, rng)
    await bench.begin()
    await bench.load_tables()
    layers = [Layer(rng, 3 * LANES, -128, 2), Layer(rng, 48, 7, 11), Layer(rng, LANES, 3, 30)]
    for layer in layers:
        await layer.load(bench)

    jobs = [
        (Opcode.SOFTMAX, {**placed(9, 3), "columns": 3 * LANES - 3, "table": 0}, softmax_result),
        (Opcode.SOFTMAX, {**placed(6, 4, transposed=True), "columns": 2 * LANES + 1, "table": 1}, softmax_result),  # a word beyond the row
        (Opcode.NORM, {**placed(7, 3), **layers[0].fields}, norm_result(layers[0])),
        (Opcode.SOFTMAX, {**placed(20, 1), "columns": 1, "table": 1}, softmax_result),
        (Opcode.NORM, {**placed(5, 48 // LANES, transposed=True), **layers[1].fields}, norm_result(layers[1])),
        (Opcode.NORM, {**placed(1, 3), **layers[0].fields}, norm_result(layers[0])),
        (Opcode.SOFTMAX, {**placed(1, 5), "columns": 5 * LANES, "table": 0}, softmax_result),
        (Opcode.NORM, {**placed(6, 1), **layers[2].fields}, norm_result(layers[2])),
    ]
    if NARROW:
        jobs += list(narrowed(jobs, rng))
    for opcode, fields, golden in jobs:
        wanted = bench.memory.copy()
        rows = wanted[addresses(fields, "input")].reshape(fields["rows"], -1)
        wanted[addresses(fields, "output")] = golden(rows, fields)
        bench.events.clear(), bench.read.clear(), bench.written.clear()
        await bench.issue(opcode, **fields)
        while not bench.events[1:]:
            await bench.step()
        np.testing.assert_array_equal(bench.memory, wanted, err_msg=str(fields))
        assert bench.read == addresses(fields, "input").ravel().repeat(CONFIG.row_parts).tolist()
        assert [address for _, address in bench.written] == addresses(fields, "output").ravel().tolist()
        (start, _), (done, name) = bench.events
        assert name == "done" and done == bench.written[-1][0] + 1
        assert done - start == RowEngine.cycles(CONFIG, opcode, fields["rows"], fields["words"])
    assert not bench.errors


def random_job(rng, layers, offsets):
    """A SOFTMAX or NORM with a place of its own for every row, and its golden result; kinds come in runs."""
    rows = int(rng.choice([1, 2, 3, 9]))
    if rng.random() < 0.7:
        words = int(rng.choice([1, 2, 3, 40]))
        columns = int(rng.integers((words - 1) * LANES + 1, words * LANES + 1))
        names = ["table", "masked", *(["coded", "relative", "code_table"] if NARROW else [])]
        fields = {**placed(rows, words), "columns": columns, **{name: int(rng.integers(2)) for name in names}}
        return Opcode.SOFTMAX, fields, softmax_result
    layer = layers[int(rng.integers(len(layers)))]
    fields = {**placed(rows, layer.channels // LANES), **layer.fields}
    if MAP_ROWS and rng.random() < 0.5:
        fields.update(map=1, map_base=int(rng.integers(MAP_ROWS - rows + 1)), offsets=offsets, output_row=5)
    return Opcode.NORM, fields, norm_result(layer)


@cocotb.test(timeout_time=10, timeout_unit="ms")
@cocotb.parametrize(idle=[0.0, 0.02])
async def instructions_of_a_unit_overlap(dut, idle):
    """Values, addresses and cycles of random sequences, offered one right after the other or at times with a pause."""
    rng = np.random.default_rng(cocotb.RANDOM_SEED)
    bench = Bench(dut, rng)
    await bench.begin()
    await bench.load_tables()
    layers = [Layer(rng, 3 * LANES, -128, 2), Layer(rng, 48, 7, 11), Layer(rng, LANES, 3, 30)]
    for layer in layers:
        await layer.load(bench)
    offsets = rng.permutation(max(MAP_ROWS, 1)) * 12
    for entry in range(MAP_ROWS):
        await bench.write("row_map", entry, int(offsets[entry]))
    bench.memory[:2048] = np.where(rng.random((2048, LANES)) < 0.2, -128, bench.memory[:2048])
    bench.memory[:2048, 0] = 5  # a key that is not masked in every row

    jobs = [job for _ in range(25) for job in [random_job(rng, layers, offsets)] * int(rng.choice([1, 2, 12]))]
    if NARROW:
        for _, fields, _ in jobs:
            fields["output_packing"] = int(rng.choice([0, 3, 3, 3]) if fields["words"] > 1 else rng.integers(4))
    bench.events.clear()
    timing, offers, expected = RowTiming(CONFIG), [], []
    for opcode, fields, golden in jobs:
        rows = bench.memory[addresses(fields, "input")].reshape(fields["rows"], -1)
        expected += zip(addresses(fields, "output").ravel(), golden(rows, fields).reshape(-1, LANES), strict=True)
        offers.append(await bench.issue(opcode, **fields))
        if rng.random() < idle:
            await bench.idle(int(rng.integers(200)))
    await bench.idle(400)
    wanted = [timing.accept(offer, {"opcode": opcode.value, **fields}) for offer, (opcode, fields, _) in zip(offers, jobs, strict=True)]
    starts, dones = ([cycle for cycle, name in bench.events if name == event] for event in ("start", "done"))
    np.testing.assert_array_equal(starts, [start for start, _ in wanted])
    np.testing.assert_array_equal(dones, [done for _, done in wanted])
    np.testing.assert_array_equal([address for _, address in bench.written], [address for address, _ in expected])
    np.testing.assert_array_equal(bench.words, [word for _, word in expected])
    assert any(start < done for start, done in zip(starts[1:], dones, strict=False)) and not bench.errors


@cocotb.test(timeout_time=10, timeout_unit="ms")
async def short_instructions_follow_two_cycles_later(dut):
    bench = Bench(dut, np.random.default_rng(cocotb.RANDOM_SEED))
    await bench.begin()
    norm = {**placed(10, 3), "channels": 3 * LANES, "log2_channels": 3, "epsilon": 1}
    for opcode, fields in ((Opcode.SOFTMAX, {**placed(30, 2), "columns": 2 * LANES}), (Opcode.NORM, norm)):
        words, cycles = (
            fields["rows"] * fields["words"] * CONFIG.row_parts,
            RowEngine.cycles(CONFIG, opcode, fields["rows"], fields["words"]),
        )
        bench.events.clear()
        for _ in range(5):
            await bench.issue(opcode, **fields)
        await bench.idle(cycles)
        starts, dones = ([cycle for cycle, name in bench.events if name == event] for event in ("start", "done"))
        assert np.diff(starts).tolist() == np.diff(dones).tolist() == [words + 2] * 4
        assert dones[0] - starts[0] == cycles
    assert not bench.errors


@cocotb.test(timeout_time=10, timeout_unit="ms")
async def another_unit_or_packing_waits_for_done(dut):
    bench = Bench(dut, np.random.default_rng(cocotb.RANDOM_SEED))
    await bench.begin()
    norm = {**placed(2, 2), "channels": 2 * LANES, "log2_channels": 3, "epsilon": 1}
    jobs = [(Opcode.SOFTMAX, {**placed(2, 2), "columns": 5}), (Opcode.NORM, norm), (Opcode.NORM, {**norm, "zero": 3})]
    if NARROW:
        jobs += [
            (Opcode.NORM, {**norm, "zero": 3, "output_packing": 3}),
            *((Opcode.SOFTMAX, {**jobs[0][1], "output_packing": p}) for p in (3, 1)),
        ]
    for opcode, fields in jobs:
        await bench.issue(opcode, **fields)
    await bench.idle(200)
    starts, dones = ([cycle for cycle, name in bench.events if name == event] for event in ("start", "done"))
    assert starts[1:] == [done + 1 for done in dones[:-1]] and len(dones) == len(jobs)


@cocotb.test(timeout_time=10, timeout_unit="ms")
async def refuses_what_it_cannot_do_without_any_access(dut):
    bench = Bench(dut, np.random.default_rng(cocotb.RANDOM_SEED))
    await bench.begin()
    softmax = {**placed(2, 2), "columns": 5}
    norm = {**placed(2, 2), "channels": 2 * LANES, "log2_channels": 3, "epsilon": 1}
    blocks = CONFIG.norm_channels // LANES
    bad = [
        (Opcode.SOFTMAX, {**softmax, "rows": 0}, Error.FIELD),
        (Opcode.SOFTMAX, {**softmax, "words": 0}, Error.FIELD),
        (Opcode.SOFTMAX, {**softmax, "columns": 0}, Error.FIELD),
        (Opcode.SOFTMAX, {**softmax, "words": LogSoftmax.longest_row(CONFIG) // CONFIG.row_parts + 1}, Error.FIELD),
        (Opcode.NORM, {**norm, "rows": 0}, Error.FIELD),
        (Opcode.NORM, {**norm, "words": 0}, Error.FIELD),
        (Opcode.NORM, {**norm, "channels": 0}, Error.FIELD),
        (Opcode.NORM, {**norm, "channels": 2049}, Error.FIELD),
        (Opcode.NORM, {**norm, "words": LayerNorm.longest_row(CONFIG) // CONFIG.row_parts + 1}, Error.FIELD),
        (Opcode.NORM, {**norm, "constant": blocks - 1}, Error.ADDRESS),
        (Opcode.NORM, {**norm, "map": 1, "map_base": max(MAP_ROWS - 1, 0)}, Error.ADDRESS if MAP_ROWS else Error.FIELD),
        (Opcode.LOAD, {}, Error.OPCODE),
    ]
    if not NARROW:
        bad += [(Opcode.SOFTMAX, {**softmax, "coded": 1}, Error.FIELD), (Opcode.SOFTMAX, {**softmax, "output_packing": 1}, Error.FIELD)]
        bad += [(Opcode.NORM, {**norm, "output_packing": 2}, Error.FIELD)]
    for opcode, fields, error in bad:
        await bench.issue(opcode, **fields)
        assert bench.errors == [(bench.events[-1][0], error)], f"{opcode} {fields}"
        bench.errors.clear()
        await bench.idle(3)
    assert not bench.read and not bench.written and all(name == "start" for _, name in bench.events)

    # the limits themselves are good
    good = [
        (Opcode.SOFTMAX, {**softmax, "rows": 1, "words": LogSoftmax.longest_row(CONFIG) // CONFIG.row_parts}),
        (Opcode.NORM, {**norm, "constant": blocks - 2}),
        (Opcode.NORM, {**norm, "rows": 1, "words": LayerNorm.longest_row(CONFIG) // CONFIG.row_parts}),
    ]
    for opcode, fields in good:
        bench.events.clear()
        await bench.issue(opcode, **fields)
        await bench.idle(RowEngine.cycles(CONFIG, opcode, fields["rows"], fields["words"]))
        assert [name for _, name in bench.events] == ["start", "done"] and not bench.errors


@cocotb.test(timeout_time=10, timeout_unit="ms")
@cocotb.parametrize(opcode=[Opcode.SOFTMAX, Opcode.NORM], cycles=[1, 6, 20, 40, 60])
async def reset_leaves_nothing_of_an_instruction(dut, opcode, cycles):
    rng = np.random.default_rng(cocotb.RANDOM_SEED)
    bench = Bench(dut, rng)
    await bench.begin()
    layer = Layer(rng, 3 * LANES, 5, 0)
    await layer.load(bench)
    await bench.load_tables()
    special = {"columns": 3 * LANES, "table": 0} if opcode == Opcode.SOFTMAX else layer.fields
    special["output_packing"] = 2 if NARROW else 0
    await bench.issue(opcode, **{**placed(12, 3), **special})
    await bench.idle(cycles)
    dut.rst.value = 1
    await bench.step()
    dut.rst.value = 0
    bench.events.clear(), bench.written.clear()
    fields = {**placed(2, 3), **special}
    rows = bench.memory[addresses(fields, "input")].reshape(2, -1)
    await bench.issue(opcode, **fields)
    await bench.idle(RowEngine.cycles(CONFIG, opcode, 2, 3))
    assert [name for _, name in bench.events] == ["start", "done"]
    wanted = (softmax_result if opcode == Opcode.SOFTMAX else norm_result(layer))(rows, fields)
    np.testing.assert_array_equal(bench.memory[addresses(fields, "output")], wanted)
    assert len(bench.written) == wanted.shape[0] * wanted.shape[1]


@pytest.mark.parametrize(("lanes", "map_rows", "narrow", "row_lanes"), [(4, 64, 0, 0), (8, 0, 0, 2), (8, 64, 0, 0), (8, 64, 1, 0)])
def test_row_engine(lanes, map_rows, narrow, row_lanes, tmp_path):
    component = RowEngine(configuration(lanes, map_rows, narrow, row_lanes))
    env = {"LANES": str(lanes), "MAP_ROWS": str(map_rows), "NARROW": str(narrow), "ROW_LANES": str(row_lanes)}
    name = f"row_engine_{lanes}_{map_rows}_{narrow}_{row_lanes}"
    run_component(component, name=name, test_module=__file__, test_dir=tmp_path, env=env, seed=lanes)
