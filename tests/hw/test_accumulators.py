import os

import cocotb
import numpy as np
from cocotb.triggers import RisingEdge

from vitloom.hw.array.accumulators import Accumulators
from vitloom.hw.config import CoreConfig
from vitloom.sim.runner import build, run
from vitloom.sim.streams import pack, reset, start_clock, unpack

ROWS, PASSES = 16, 6


def program(rng, rows, gaps):
    """Control words of several results of ``rows`` rows and 1 to ``PASSES`` passes: a list of (cycle, row, first, last) and its cycles."""
    controls, cycle, earliest = [], 0, dict.fromkeys(range(ROWS), 0)
    for passes in (1, 2, PASSES, 1, PASSES):
        for index in range(passes):
            for row in rng.permutation(rows):
                cycle = max(cycle, earliest[row]) + gaps * int(rng.integers(0, 3))
                controls.append((cycle, int(row), index == 0, index == passes - 1))
                earliest[row] = cycle + Accumulators.ACCUMULATE_LATENCY
                cycle += 1
    return controls, cycle


def random_sums(rng, shape, bits):
    """Random signed numbers of ``bits`` bits, many of them the largest and the smallest."""
    low, high = -(1 << bits - 1), (1 << bits - 1) - 1
    return np.where(rng.random(shape) < 0.3, rng.choice([low, high], shape), rng.integers(low, high, shape, endpoint=True))


@cocotb.test(timeout_time=10, timeout_unit="ms")
@cocotb.parametrize(rows=[1, 4, ROWS], gaps=[False, True])
async def totals_match_numpy_and_are_read_as_soon_as_allowed(dut, rows, gaps):
    lanes, bits = int(os.environ["LANES"]), int(os.environ["SUM_BITS"])
    rng = np.random.default_rng(cocotb.RANDOM_SEED)
    controls, busy = program(rng, rows, gaps)
    ready = Accumulators.RESULT_LATENCY + lanes - 1
    cycles = busy + ready + Accumulators.READ_LATENCY + 1
    sums = random_sums(rng, (cycles, lanes), bits)
    by_cycle = {cycle: control for cycle, *control in controls}
    totals, results = np.zeros((ROWS, lanes), np.int64), {}
    for cycle, row, first, last in controls:
        added = sums[cycle + np.arange(lanes), np.arange(lanes)]
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
        dut.sums.value = pack(sums[cycle], bits)
        dut.read__enable.value = int(cycle in results)
        dut.read__row.value = results[cycle][0] if cycle in results else 0
        await RisingEdge(dut.clk)
        outputs.append(unpack(dut.read__data.value.to_unsigned(), lanes, 32))
    got = [outputs[cycle + Accumulators.READ_LATENCY] for cycle in results]
    np.testing.assert_array_equal(got, [total for _, total in results.values()])
    assert len(results) == 5 * rows


def test_accumulators_add_up_passes_and_keep_results(tmp_path):
    config = CoreConfig(lanes=4, accumulator_rows=ROWS)
    model = build(Accumulators(config), name="accumulators")
    run(model, __file__, test_dir=tmp_path, seed=1, env={"LANES": "4", "SUM_BITS": str(config.sum_bits)})
