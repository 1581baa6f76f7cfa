import pytest

from vitloom.boards.critical_path import core_clock, critical_path, module_of

MODULES = {"unit", "unit.array", "unit.array.drain", "unit.rows"}


def test_a_cell_is_in_the_innermost_module_of_its_name():
    assert module_of("unit.array.drain.state_LUT4_Z_1", MODULES) == "unit.array.drain"
    assert module_of("unit.array.drained_TRELLIS_FF_Q", MODULES) == "unit.array"
    assert module_of("unit.array.ram.memory.0.0", MODULES) == "unit.array"
    assert module_of("xor_0_TRELLIS_FF_Q", MODULES) == ""


def step(kind, delay, source, sink):
    return {"type": kind, "delay": delay, "from": {"cell": source, "port": "Q"}, "to": {"cell": sink, "port": "D"}}


def test_the_slowest_path_is_summed_by_module_with_wires_at_their_drivers():
    path = [
        step("clk-to-q", 0.5, "unit.array.a_FF", "unit.array.a_FF"),
        step("routing", 1.25, "unit.array.a_FF", "unit.rows.b_LUT4"),
        step("logic", 0.25, "unit.rows.b_LUT4", "unit.rows.b_LUT4"),
        step("routing", 1.0, "unit.rows.b_LUT4", "unit.array.c_FF"),
        step("setup", 0.125, "unit.array.c_FF", "unit.array.c_FF"),
    ]
    between = {"from": "posedge clk", "to": "posedge clk"}
    short = {**between, "path": [step("clk-to-q", 0.5, "unit.x", "unit.x")]}
    pins = {"from": "<async>", "to": "posedge clk", "path": [step("routing", 99.0, "i", "unit.x")]}
    found = critical_path({"critical_paths": [pins, short, {**between, "path": path}]}, MODULES)
    assert (found["ns"], found["logic_ns"], found["routing_ns"]) == (3.12, 0.88, 2.25)
    array, rows = {"module": "unit.array", "ns": 1.88, "cells": 2}, {"module": "unit.rows", "ns": 1.25, "cells": 1}
    assert found["modules"] == [array, rows]
    assert found["steps"][1] == {"ns": 1.25, "type": "routing", "from": "unit.array.a_FF.Q", "to": "unit.rows.b_LUT4.D"}


def test_a_design_without_registers_has_none():
    assert critical_path({"critical_paths": []}, MODULES) == {}


def report(between):
    """Of a clock of 80 MHz that reaches 100 and its double that reaches 180, with paths of ``between`` (ns) from one to the other."""
    clocks = {"clk": {"achieved": 100.0, "constraint": 80.0}, "double": {"achieved": 180.0, "constraint": 160.0}}
    own = [(name, name, 1e3 / clock["achieved"]) for name, clock in clocks.items()]
    paths = [(source, sink, ns) for (source, sink), ns in between.items()] + own
    entries = [
        {"from": f"posedge {source}", "to": f"posedge {sink}", "path": [step("routing", ns, f"unit.array.{source}", f"unit.rows.{sink}")]}
        for source, sink, ns in paths
    ]
    return {"fmax": clocks, "critical_paths": entries}


def test_related_clocks_keep_their_ratio_and_a_path_between_them_has_a_cycle_of_the_faster_one():
    assert core_clock(report({})) == pytest.approx(90.0)  # half of the double clock
    assert core_clock(report({("clk", "double"): 5.0})) == pytest.approx(90.0)
    slow = report({("clk", "double"): 6.0, ("double", "clk"): 6.25})
    assert core_clock(slow) == pytest.approx(80.0)
    assert critical_path(slow, MODULES)["steps"][0]["from"] == "unit.array.double.Q"
    # Of paths within a clock it is the one that leaves least of its time, not the longest.
    assert critical_path(report({}), MODULES)["ns"] == pytest.approx(1e3 / 180, abs=0.01)
