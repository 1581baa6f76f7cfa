import os

import cocotb
import numpy as np
import pytest
from cocotb.triggers import RisingEdge

from vitloom.hw import isa
from vitloom.hw.config import CoreConfig
from vitloom.hw.rows.log_softmax import LOG2_TABLE, MAX_COLUMNS, LogSoftmax
from vitloom.model.log_softmax import LOG2_TABLE as MODEL_LOG2_TABLE
from vitloom.model.log_softmax import exp_table, log_softmax, log_table
from vitloom.sim.runner import run_component
from vitloom.sim.streams import check_stream, collect, drive, pack, reset, start_clock, unpack

LANES = int(os.environ.get("LANES", 4))
SCALES = (0.02, 0.3)  # of the two tables
CONFIG = CoreConfig(lanes=LANES)


def words_of(row):
    """Input words of a row of logits: data, keep, last. Lanes that are not kept hold the largest logit."""
    count = -(-len(row) // LANES)
    padded = np.full(count * LANES, 127, dtype=np.int8)
    padded[: len(row)] = row
    for index, word in enumerate(padded.reshape(count, LANES)):
        keep = (1 << min(LANES, len(row) - index * LANES)) - 1
        yield pack(word) | keep << 8 * LANES | (index == count - 1) << 9 * LANES


def expected(row, table, masked):
    """Codes of a row, padded to whole words."""
    padded = np.zeros(-(-len(row) // LANES) * LANES, dtype=np.int8)
    padded[: len(row)] = row
    return log_softmax(padded, exp_table(SCALES[table]), log_table(SCALES[table]), columns=len(row), masked=masked)


def sample_rows(rng):
    """Rows, each with its table and whether -128 is a masked key: corners, then random ones, long before short and short before long."""
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
    return [(row, index % 3 % 2, bool(index % 4 != 3 and (row != -128).any())) for index, row in enumerate(rows)]


async def start(dut):
    start_clock(dut)
    for name in ("i__valid", "i__payload", "o__ready", "table", "masked", "table_write__enable"):
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


async def drive_rows(dut, rows, rng, idle):
    for row, table, masked in rows:
        dut.table.value, dut.masked.value = table, masked
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
    long = [(rng.integers(-128, 128, MAX_COLUMNS).astype(np.int8), 1, True), (np.full(MAX_COLUMNS, 5, dtype=np.int8), 0, False)]
    # behind a longest row, as many shortest ones as arrive until it has left
    rows = [*long, *[(np.array([k % 100], dtype=np.int8), k % 2, False) for k in range(2 * MAX_COLUMNS // LANES)], *long]
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


@pytest.mark.parametrize("lanes", [4, 8])
def test_log_softmax(lanes, tmp_path):
    component = LogSoftmax(CoreConfig(lanes=lanes))
    run_component(component, name=f"log_softmax_{lanes}", test_module=__file__, test_dir=tmp_path, env={"LANES": str(lanes)}, seed=lanes)
