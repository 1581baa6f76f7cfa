import os

import cocotb
import numpy as np
import pytest
from cocotb.triggers import RisingEdge

from vitloom.hw.array.accumulators import Accumulators
from vitloom.hw.config import CoreConfig
from vitloom.sim.runner import build, run
from vitloom.sim.streams import pack, reset, start_clock, unpack

ROWS, PASSES = 16, 6


def program(rng, rows, gaps, ready):
    """Control words of several results of ``rows`` rows and 1 to ``PASSES`` passes: a list of (cycle, row, first, last) and its cycles.

    A result is written 3 cycles after its control word, and not before the one before it is read, ``ready`` cycles after its own.
    """
    controls, cycle, earliest = [], 0, dict.fromkeys(range(ROWS), 0)
    for passes in (1, 2, PASSES, 1, PASSES):
        for index in range(passes):
            for row in rng.permutation(rows):
                cycle = max(cycle, earliest[row]) + gaps * int(rng.integers(0, 3))
                controls.append((cycle, int(row), index == 0, index == passes - 1))
                earliest[row] = cycle + (ready - 3 if index == passes - 1 else Accumulators.ACCUMULATE_LATENCY)
                cycle += 1
    return controls, cycle


def random_sums(rng, shape, bits):
    """Random signed numbers of ``bits`` bits, many of them the largest and the smallest."""
    low, high = -(1 << bits - 1), (1 << bits - 1) - 1
    return np.where(rng.random(shape) < 0.3, rng.choice([low, high], shape), rng.integers(low, high, shape, endpoint=True))


@cocotb.test(timeout_time=10, timeout_unit="ms")
@cocotb.parametrize(rows=[1, 4, ROWS], gaps=[False, True])
async def totals_match_numpy_and_are_read_as_soon_as_allowed(dut, rows, gaps):
    lanes, bits, narrow = int(os.environ["LANES"]), int(os.environ["SUM_BITS"]), hasattr(dut, "row_sum")
    rng = np.random.default_rng(cocotb.RANDOM_SEED)
    ready = Accumulators.RESULT_LATENCY + lanes - 1
    controls, busy = program(rng, rows, gaps, ready)
    cycles = busy + ready + Accumulators.READ_LATENCY + 1
    # A column more for the sums of the rows, in time with column 0.
    columns = np.append(np.arange(lanes), 0)
    sums = random_sums(rng, (cycles, lanes + 1), bits)
    if narrow:
        sums[:, lanes] = random_sums(rng, cycles, len(dut.row_sum))
    by_cycle = {cycle: control for cycle, *control in controls}
    totals, results = np.zeros((ROWS, lanes + 1), np.int64), {}
    for cycle, row, first, last in controls:
        added = sums[cycle + columns, np.arange(lanes + 1)]
        totals[row] = added if first else totals[row] + added
        if last:
            results[cycle + ready] = (row, totals[row].copy())

    start_clock(dut)
    dut.control__valid.value = dut.read__enable.value = 0
    await reset(dut)
    outputs = []
    for cycle in range(cycles):
        valid = cycle in by_cycle
        row, first, last = by_cycle.get(cycle, (int(rng.integers(ROWS)), rng.random() < 0.5, rng.random() < 0.5))
        dut.control__valid.value, dut.control__row.value = int(valid), row
        dut.control__first.value, dut.control__last.value = int(first), int(last)
        dut.sums.value = pack(sums[cycle, :lanes], bits)
        if narrow:
            dut.row_sum.value = int(sums[cycle, lanes])
        dut.read__enable.value = int(cycle in results)
        dut.read__row.value = results[cycle][0] if cycle in results else 0
        await RisingEdge(dut.clk)
        row_sum = dut.read__row_sum.value.to_signed() if narrow else 0
        outputs.append([*unpack(dut.read__data.value.to_unsigned(), lanes, 32), row_sum])
    got = np.array([outputs[cycle + Accumulators.READ_LATENCY] for cycle in results])
    expected = np.array([total for _, total in results.values()])
    np.testing.assert_array_equal(got[:, : lanes + narrow], expected[:, : lanes + narrow])
    assert len(results) == 5 * rows


@pytest.mark.parametrize(("lanes", "modes"), [(4, ("int8", "log2")), (8, ("int4", "binary"))])
def test_accumulators_add_up_passes_and_keep_results(lanes, modes, tmp_path):
    config = CoreConfig(lanes=lanes, modes=modes, accumulator_rows=ROWS)
    model = build(Accumulators(config), name=f"accumulators_{lanes}")
    run(model, __file__, test_dir=tmp_path, seed=1, env={"LANES": str(lanes), "SUM_BITS": str(config.sum_bits)})
