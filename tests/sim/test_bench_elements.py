"""The table of what a processing element costs."""

from vitloom.sim import bench
from vitloom.sim.bench_elements import ELEMENTS, SYSTARS, elements_text

CELLS = {"LUT4": 768, "CCU2C": 704, "FF": 6400, "DPR16X4": 0, "MULT18X18D": 64, "DP16KD": 0}


def test_cells_are_divided_by_the_elements_and_stand_beside_the_other_generators():
    text = elements_text({"elements": {"lanes": 8, "cells": CELLS}})
    lines = text.splitlines()
    assert lines[2].startswith("| Systars | 107.0 | 16.0 | 112.0 | 1.0 | 139.0 | stillwater-sc/systars at commit")
    assert lines[3].startswith("| this array, int8 and log2 | 12.0 | 11.0 | 100.0 | 1.0 | 34.0 | measured, `elements`")
    assert lines[4].endswith("| not measured |") and lines[4].count("not measured") == len(SYSTARS) + 2


def test_both_arrays_are_parts_of_the_bench():
    assert set(ELEMENTS) < set(bench.PARTS)
    rendered = bench.render({"elements": {"lanes": 8, "cells": CELLS}}, "<!-- bench elements -->\n<!-- end -->", ("elements",))
    assert "this array, int8 and log2" in rendered
