import os

import cocotb
import numpy as np
import pytest
from cocotb.triggers import ClockCycles, RisingEdge

from vitloom.hw import isa
from vitloom.hw.array.fetch import StationaryFetch
from vitloom.hw.config import CoreConfig
from vitloom.hw.isa import Codebook, Error, LoadDirection, Mode
from vitloom.hw.scratchpad import READ_LATENCY
from vitloom.model.packing import pack_values, unpack_values
from vitloom.sim.runner import build, run
from vitloom.sim.streams import pack, reset, start_clock, unpack

LANES = 8
BODY = isa.BODIES[isa.Opcode.MATMUL]
#: log2 of the values that the array takes of a byte.
PACKING = {Mode.INT8: 0, Mode.LOG2: 0, Mode.INT4: 1, Mode.INT2: 2, Mode.BINARY: 3}
CONFIGS = {
    "all": CoreConfig(lanes=LANES, modes=("int8", "log2", "int4", "int2", "binary")),
    "int8_packed": CoreConfig(lanes=LANES, modes=("int8", "log2"), packed_weights=True),
    "int2": CoreConfig(lanes=LANES, modes=("int2",)),
    "int8": CoreConfig(lanes=LANES),
}


def config():
    return CONFIGS[os.environ["CONFIG"]]


def random_matmul(rng, memory_words):
    """A MATMUL of a few tiles with any weights that its mode and direction take."""
    mode = Mode[str(rng.choice(config().modes)).upper()]
    direction, packing = int(rng.integers(2)), PACKING[mode]
    wider = config().packed_weights and direction == LoadDirection.ROW.value
    fields = {
        "mode": mode.value,
        "direction": direction,
        "rows": 1,
        "k_tiles": int(rng.integers(1, 4)),
        "n_tiles": int(rng.integers(1, 4)),
        "stationary": int(rng.integers(memory_words)),
        "stationary_packing": int(rng.integers(packing, 4)) if wider else packing if config().packed_weights else 0,
    }
    return fields | {f"stationary_{name}": int(rng.integers(1, memory_words)) for name in ("word", "k", "n")}


def tiles(memory, fields):
    """Addresses (reads of a tile) and the L words that the array gets, of each tile in the order of the reads."""
    packing, stored = PACKING[Mode(fields["mode"])], fields["stationary_packing"]
    ratio = 1 << stored - packing
    for n in range(fields["n_tiles"]):
        for k in range(fields["k_tiles"]):
            word = np.arange(LANES // ratio)
            first = fields["stationary"] + k * fields["stationary_k"] + n * fields["stationary_n"]
            addresses = first + word * fields["stationary_word"]
            words = memory[addresses % len(memory)]
            if ratio > 1:
                values = unpack_values(words.view(np.uint8)[..., None], 8 >> stored)  # word, column, value
                rows = values.reshape(len(words), LANES, ratio, 1 << packing).swapaxes(1, 2)
                words = pack_values(np.ascontiguousarray(rows), 8 >> packing)[..., 0].reshape(LANES, LANES).view(np.int8)
            yield addresses, words


async def start(dut):
    for name in ("instruction__valid", "swap", "body__ready"):
        getattr(dut, name).value = 0
    start_clock(dut)
    await reset(dut)


@cocotb.test(timeout_time=10, timeout_unit="ms")
async def tiles_come_unpacked_in_l_cycles(dut):
    rng = np.random.default_rng(cocotb.RANDOM_SEED)
    memory = rng.integers(-128, 128, (256, LANES)).astype(np.int8)
    await start(dut)
    dut.body__ready.value = 1
    narrow = hasattr(dut, "stationary__mode")
    cycle, pending = 0, {}
    for _ in range(40):
        fields = random_matmul(rng, len(memory))
        dut.instruction__payload.value = isa.pack(BODY, fields) << isa.HEADER.size
        dut.instruction__valid.value = 1
        expected = list(tiles(memory, fields))
        reads, got, firsts, began, swaps = [], [], [], [], 0
        while swaps < len(expected) or len(got) < LANES * len(expected):
            dut.swap.value = int(dut.full.value and rng.random() < 0.5 and not dut.swap.value)
            dut.read__data.value = pack(pending.pop(cycle, rng.integers(-128, 128, LANES).astype(np.int8)))
            await RisingEdge(dut.clk)
            if dut.instruction__valid.value and dut.instruction__ready.value:
                assert dut.error.value.to_unsigned() == Error.NONE.value
                dut.instruction__valid.value = 0
            swaps += int(dut.swap.value)
            if dut.read__enable.value:
                address = dut.read__address.value.to_unsigned()
                reads.append(address)
                pending[cycle + READ_LATENCY] = memory[address % len(memory)]
            if dut.stationary__valid.value:
                got.append(unpack(dut.stationary__data.value, LANES))
                firsts.append(bool(dut.stationary__first.value))
                began.append(cycle)
                assert int(dut.stationary__direction.value) == fields["direction"]
                assert not narrow or int(dut.stationary__mode.value) == fields["mode"]
            cycle += 1
        dut.swap.value = 0
        np.testing.assert_array_equal(reads, np.concatenate([addresses for addresses, _ in expected]), err_msg=str(fields))
        np.testing.assert_array_equal(got, np.concatenate([words for _, words in expected]), err_msg=str(fields))
        np.testing.assert_array_equal(firsts, np.arange(len(got)) % LANES == 0)
        by_tile = np.array(began).reshape(-1, LANES)
        np.testing.assert_array_equal(by_tile - by_tile[:, :1], np.tile(np.arange(LANES), (len(expected), 1)))


def refused():
    """Fields that a core does not have, beside good ones."""
    narrow, packed = config().narrow, config().packed_weights
    for name in config().modes:
        mode, packing = Mode[name.upper()], PACKING[Mode[name.upper()]]
        good = {"mode": mode.value, "rows": 1, "k_tiles": 1, "n_tiles": 1, "stationary_packing": packing}
        yield good, False
        for stored in range(4):
            yield good | {"stationary_packing": stored}, stored < packing or (stored > packing and not packed)
            yield good | {"stationary_packing": stored, "direction": LoadDirection.COLUMN.value}, stored != packing
        yield good | {"codebook": Codebook.UNIT.value}, not narrow or mode not in (Mode.LOG2, Mode.BINARY)
        yield good | {"moving_zero": -8}, mode != Mode.INT4
        yield good | {"moving_zero": 1}, mode != Mode.INT4
        for name in ("k_skip", "k_pad"):
            yield good | {name: LANES - 1}, not narrow
            yield good | {name: LANES}, True


@cocotb.test(timeout_time=1, timeout_unit="ms")
async def operands_that_a_core_lacks_are_refused(dut):
    await start(dut)
    for fields, bad in refused():
        dut.rst.value = 1
        await RisingEdge(dut.clk)
        dut.rst.value = 0
        dut.instruction__payload.value = isa.pack(BODY, fields) << isa.HEADER.size
        dut.instruction__valid.value = 1
        await RisingEdge(dut.clk)
        dut.instruction__valid.value = 0
        assert dut.start.value
        await ClockCycles(dut.clk, StationaryFetch.CHECK_CYCLES)
        error = Error.FIELD if bad else Error.NONE
        assert dut.error.value.to_unsigned() == error.value, f"{fields} gives {dut.error.value}"


@pytest.mark.parametrize("name", CONFIGS)
def test_stationary_fetch(name, tmp_path):
    model = build(StationaryFetch(CONFIGS[name]), name=f"fetch_{name}")
    run(model, __file__, test_dir=tmp_path, seed=3, env={"CONFIG": name})
