import os

import cocotb
import numpy as np
import pytest
from cocotb.triggers import RisingEdge

from vitloom.hw import isa
from vitloom.hw.config import MODES, CoreConfig
from vitloom.hw.rows.log_softmax import LOG2_TABLE, MAX_COLUMNS, LogSoftmax
from vitloom.model.log_softmax import LOG2_TABLE as MODEL_LOG2_TABLE
from vitloom.model.log_softmax import coded_softmax, exp_table, log_softmax, log_table
from vitloom.sim.runner import run_component
from vitloom.sim.streams import check_stream, collect, drive, pack, reset, start_clock, unpack

LANES = int(os.environ.get("LANES", 4))
NARROW = int(os.environ.get("NARROW", 0))
SCALES = (0.02, 0.3)  # of the two tables
CODES = np.random.default_rng(4).integers(-8, 8, (2, isa.TABLE_ENTRIES)).astype(np.int8)  # the two code tables


def configuration(lanes, narrow):
    return CoreConfig(lanes=lanes, modes=MODES if narrow else MODES[:2])


CONFIG = configuration(LANES, NARROW)


def words_of(row):
    """Input words of a row of logits: data, keep, last. Lanes that are not kept hold the largest logit."""
    count = -(-len(row) // LANES)
    padded = np.full(count * LANES, 127, dtype=np.int8)
    padded[: len(row)] = row
    for index, word in enumerate(padded.reshape(count, LANES)):
        keep = (1 << min(LANES, len(row) - index * LANES)) - 1
        yield pack(word) | keep << 8 * LANES | (index == count - 1) << 9 * LANES


def expected(row, table, masked, coding):
    """Codes of a row, padded to whole words; ``coding`` is None or which code table, and whether the weights are relative."""
    padded = np.zeros(-(-len(row) // LANES) * LANES, dtype=np.int8)
    padded[: len(row)] = row
    tables = exp_table(SCALES[table]), log_table(SCALES[table])
    if coding is None:
        return log_softmax(padded, *tables, columns=len(row), masked=masked)
    code_table, relative = coding
    return coded_softmax(padded, *tables, CODES[code_table], len(row), masked=masked, relative=relative).view(np.uint8) & 15


def sample_rows(rng):
    """Rows, each with its table, whether -128 is a masked key, and its coding.

    Corners, then random ones, long before short and short before long.
    """
    one_hot = np.full(2 * LANES + 1, -128, dtype=np.int8)
    one_hot[LANES + 1] = 127
    corners = [
        np.zeros(3 * LANES, dtype=np.int8),
        np.full(LANES, -128, dtype=np.int8),
        np.full(1, -128, dtype=np.int8),
        np.full(1, 127, dtype=np.int8),
        np.full(5 * LANES - 1, 127, dtype=np.int8),
        one_hot,
        np.full(2, 40, dtype=np.int8),
        np.arange(-128, 128).astype(np.int8),
    ]
    lengths = [1, 197, 1, 2, LANES, 1, LANES + 1, 33, *[1] * 8, 64, *rng.integers(1, 80, 12)]
    # narrow and wide distributions, so that both small and saturated codes are frequent
    random = [np.clip(rng.normal(-20, rng.choice([2, 20, 70]), n), -128, 127).astype(np.int8) for n in lengths]
    for row in random[::2]:
        row[rng.random(len(row)) < 0.4] = -128
    rows = [*corners, *random, *corners]
    if NARROW:
        rows = rows * 4
    codings = [None, (0, False), (1, False), (0, True), (1, True)] if NARROW else [None]
    choices = rng.integers(len(codings), size=len(rows))
    return [(row, index % 3 % 2, bool(index % 4 != 3 and (row != -128).any()), codings[choices[index]]) for index, row in enumerate(rows)]


async def start(dut):
    start_clock(dut)
    narrow = ("coded", "relative", "code_table", "code_write__enable") if NARROW else ()
    for name in ("i__valid", "i__payload", "o__ready", "table", "masked", "table_write__enable", *narrow):
        getattr(dut, name).value = 0
    await reset(dut)
    cocotb.start_soon(check_stream(dut, "o"))
    for table, scale in enumerate(SCALES):
        for d, (exp, log) in enumerate(zip(exp_table(scale), log_table(scale), strict=True)):
            dut.table_write__enable.value = 1
            dut.table_write__address.value = table * isa.TABLE_ENTRIES + d
            dut.table_write__data.value = isa.pack(isa.EXP_ENTRY, {"exp": exp, "log": log})
            await RisingEdge(dut.clk)
    dut.table_write__enable.value = 0
    for address, code in enumerate(CODES.ravel() if NARROW else []):
        dut.code_write__enable.value, dut.code_write__address.value, dut.code_write__data.value = 1, address, int(code) & 15
        await RisingEdge(dut.clk)
    if NARROW:
        dut.code_write__enable.value = 0


async def drive_rows(dut, rows, rng, idle):
    for row, table, masked, coding in rows:
        dut.table.value, dut.masked.value = table, masked
        if NARROW:
            dut.code_table.value, dut.relative.value = coding or (1, rng is not None)  # of no effect when it is not coded
            dut.coded.value = coding is not None
        await drive(dut, "i", words_of(row), rng, idle)


async def check_rows(dut, rows, rng, stall):
    codes = [expected(*row) for row in rows]
    for index, want in enumerate(codes):
        words = await collect(dut, "o", len(want) // LANES, rng, stall)
        got = np.concatenate([unpack(word & (1 << 8 * LANES) - 1, LANES, signed=False) for word in words])
        np.testing.assert_array_equal(got, want, err_msg=f"row {index} of {len(rows[index][0])} columns")
        assert [word >> 8 * LANES for word in words] == [0] * (len(words) - 1) + [1]
    return codes


@cocotb.test(timeout_time=10, timeout_unit="ms")
@cocotb.parametrize(idle=[0.0, 0.5], stall=[0.0, 0.5])
async def matches_golden(dut, idle, stall):
    rng = np.random.default_rng(cocotb.RANDOM_SEED)
    await start(dut)
    rows = sample_rows(rng)
    cocotb.start_soon(drive_rows(dut, rows, np.random.default_rng(1), idle))
    codes = await check_rows(dut, rows, rng, stall)
    assert set(np.concatenate(codes)) == set(range(16)), "every code must be among the expected ones"


@cocotb.test(timeout_time=10, timeout_unit="ms")
async def takes_rows_of_the_greatest_length(dut):
    rng = np.random.default_rng(cocotb.RANDOM_SEED)
    await start(dut)
    coding = (1, False) if NARROW else None
    long = [
        (rng.integers(-128, 128, MAX_COLUMNS).astype(np.int8), 1, True, None),
        (np.full(MAX_COLUMNS, 5, dtype=np.int8), 0, False, coding),
    ]
    # behind a longest row, as many shortest ones as arrive until it has left
    rows = [*long, *[(np.array([k % 100], dtype=np.int8), k % 2, False, None) for k in range(2 * MAX_COLUMNS // LANES)], *long]
    cocotb.start_soon(drive_rows(dut, rows, None, 0.0))
    await check_rows(dut, rows, None, 0.0)


@cocotb.test(timeout_time=10, timeout_unit="ms")
@cocotb.parametrize(words=[1, 2, 13])
async def latency_and_throughput(dut, words):
    await start(dut)
    rows, latency = 6, LogSoftmax.latency(CONFIG, words)
    sent = [word for _ in range(rows) for word in words_of(np.ones(words * LANES, dtype=np.int8))]
    dut.o__ready.value = 1
    outputs = []
    for cycle in range(len(sent) + latency + 20):
        dut.i__valid.value = cycle < len(sent)
        dut.i__payload.value = sent[min(cycle, len(sent) - 1)]
        await RisingEdge(dut.clk)
        if dut.o__valid.value:
            outputs.append(cycle)
    assert outputs == list(range(latency, latency + len(sent)))


def test_table_of_logarithms_is_the_models():
    np.testing.assert_array_equal(LOG2_TABLE, MODEL_LOG2_TABLE)


@pytest.mark.parametrize(("lanes", "narrow"), [(4, 0), (8, 0), (8, 1)])
def test_log_softmax(lanes, narrow, tmp_path):
    component, env = LogSoftmax(configuration(lanes, narrow)), {"LANES": str(lanes), "NARROW": str(narrow)}
    run_component(component, name=f"log_softmax_{lanes}_{narrow}", test_module=__file__, test_dir=tmp_path, env=env, seed=lanes)
