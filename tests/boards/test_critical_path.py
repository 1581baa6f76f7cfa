from vitloom.boards.critical_path import critical_path, module_of

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
