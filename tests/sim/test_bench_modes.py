"""What a mode costs and what it saves: cycles of a product that fills the tiles, and the tables of the array's resources."""

import pytest

from vitloom.hw import isa
from vitloom.hw.config import MODES, NARROW, preset
from vitloom.sim import bench
from vitloom.sim.array_timing import ArrayTiming
from vitloom.sim.bench_modes import MODE_SETS, OTHERS, finn_luts, macs_per_element, modes_text

CELLS = {"LUT4": 4072, "CCU2C": 892, "FF": 9048, "DPR16X4": 0, "MULT18X18D": 64, "DP16KD": 0}


def passes(mode: str, *, lanes: int, rows: int, depth: int, columns: int) -> tuple[int, int]:
    """Cycles in which the array has rows of a product (rows, depth) x (depth, columns), and those that filling and draining add."""
    timing = ArrayTiming(preset(f"l{lanes}-all"))
    k_tiles = depth // (lanes * macs_per_element(mode))
    fields = {"rows": rows, "form": isa.Form.REQUANTIZE.value}
    start, _ = timing.accept(0, {**fields, "k_tiles": 1, "n_tiles": 1})  # the array is busy before
    begin = timing.streamed
    for _ in range(columns // lanes):
        start, done = timing.accept(start + 1, {**fields, "k_tiles": k_tiles, "n_tiles": 1})
    return timing.streamed - begin, done - timing.streamed


@pytest.mark.parametrize("lanes", [8, 16, 32, 64])
def test_a_product_that_fills_the_tiles_takes_exactly_its_share_of_the_cycles_of_int8(lanes):
    """K a multiple of the deepest tile, and at least L rows: tiles times rows, without a bubble, and the same to fill and to drain."""
    shape = {"lanes": lanes, "rows": 197, "depth": 4 * 8 * lanes, "columns": 4 * lanes}
    cycles = {mode: passes(mode, **shape) for mode in MODES}
    whole, ends = cycles["int8"]
    assert whole == 197 * shape["depth"] * shape["columns"] // lanes**2
    assert cycles == {
        "int8": (whole, ends),
        "log2": (whole, ends),
        "int4": (whole // 2, ends),
        "int2": (whole // 4, ends),
        "binary": (whole // 8, ends),
    }


def test_finns_estimate_is_the_published_one():
    assert (round(finn_luts(8)), round(finn_luts(1), 1)) == (123, 6.6)


def test_a_lut_count_is_divided_by_the_products_of_each_mode():
    name = next(name for name, modes in MODE_SETS.items() if modes == MODES)
    text = modes_text({name: {"lanes": 8, "cells": CELLS}})
    (line,) = [line for line in text.splitlines() if line.startswith("| int8, log2, int4, int2, binary |")]
    assert line.endswith("| 4072 | 892 | 9048 | 64 | <= 100 LUT4, 1 MULT18X18D | 63.6 | 91.5 | 91.5 | 91.5 | 45.8 | 22.9 | 11.4 |")
    assert text.count("not measured") == (len(MODE_SETS) - 1) * 11
    assert [macs_per_element(mode) for mode in MODES] == [1, 1, 2, 4, 8]


def test_figures_of_others_say_where_they_come_from():
    for other in OTHERS:
        assert other.origin in ("published", "modelled") and other.source
        assert other.figures.keys() <= {"int8", *NARROW}


def test_every_set_of_modes_is_a_part_of_the_bench():
    assert set(MODE_SETS) < set(bench.PARTS)
    assert {"modes-int8+log2", "modes-binary"} < set(MODE_SETS)
