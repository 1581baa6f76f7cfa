import json
import sys

import pytest

from vitloom.cli import main
from vitloom.sim import synth_command
from vitloom.sim.synth_text import print_cells, print_synthesis

RESULT = {
    "unit": "mac_array",
    "preset": "l4",
    "device": "LFE5U-85F speed 6",
    "resources": [{"name": "LUT", "cell": "LUT4", "used": 12, "available": 83640, "percent": 0.0}],
    "does_not_fit": "",
    "macs_per_cycle": {"int8": 16},
    "fmax": 90.0,
    "seeds": {1: 90.0, 2: 95.5},
    "critical_path": {
        "ns": 11.1,
        "logic_ns": 5.1,
        "routing_ns": 6.0,
        "modules": [{"module": "unit.row_3", "ns": 10.0, "cells": 4}, {"module": "", "ns": 1.1, "cells": 1}],
        "steps": [],
    },
    "rates": {"int8": {"gmacs": 1.44, "gmacs_per_multiplier": 0.09, "gmacs_per_klut": None}},
}
CELLS = {
    "unit": "core",
    "preset": "l4",
    "library": "tiny",
    "units": {
        "core": {"kge": 3.0, "area_um2": 12.0, "flip_flops": 7, "path_ps": 1500.0},
        "core.rows": {"kge": 1.0, "area_um2": 4.0, "flip_flops": 2, "path_ps": 1000.0},
        "core.bank": {"kge": 0.0, "area_um2": 0, "flip_flops": 0, "path_ps": 0.0},
    },
    "memories": [{"unit": "core.rows", "words": 16, "bits": 5, "count": 2}, {"unit": "core", "words": 2, "bits": 1, "count": 1}],
    "path_ps": 1500.0,
    "path_unit": "core",
    "path_from": "a[0]",
    "path_to": "b",
    "flip_flop_ps": 500.0,
    "mhz": 500.0,
    "driving_cell": "drives",
    "load_ff": 8.0,
    "kge_per_mac": 0.19,
    "gops": 16.0,
    "gops_per_mm2": 1333.3,
}


def refused(capsys, *arguments):
    """What the command says when it refuses."""
    try:
        code = main(["synth", "--preset", "l4", *arguments])
    except SystemExit as stop:
        code = stop.code
    assert code == 2
    lines = [line for line in capsys.readouterr().err.splitlines() if "synthesising" not in line]
    assert len(lines) == 1
    return lines[0]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--pnr", "--seeds", "0"], "--seeds must be at least 1, not 0"),
        (["--seeds", "2"], "--seeds goes with --pnr"),
        (["--clock", "100"], "--clock goes with --pnr or --liberty"),
        (["--pnr", "--clock", "0"], "--clock must be more than 0 MHz, not 0.0"),
        (["--liberty", "a.lib", "--pnr"], "--liberty is for standard cells; --device, --pnr and --seeds are for FPGAs"),
        (["--unit", "sequencer", "--liberty", "none.lib"], "there is no liberty file none.lib"),
        (["--unit", "sequencer", "--device", "ep4"], "no device 'ep4'; there are LFE5U-25F"),
    ],
)
def test_options_that_make_no_sense_are_refused_in_a_sentence(arguments, message, capsys):
    assert message in refused(capsys, *arguments)


def test_a_unit_that_does_not_fit_is_shown_and_fails_only_with_place_and_route(monkeypatch, capsys, tmp_path):
    does_not = {key: value for key, value in RESULT.items() if key not in ("fmax", "seeds", "critical_path", "rates")}
    does_not["does_not_fit"] = "mac_array does not fit LFE5U-85F speed 6: 3 multiplier too many (159 MULT18X18D of 156)"
    monkeypatch.setattr(synth_command, "synth", lambda *arguments, **options: does_not)
    output = tmp_path / "result.json"
    assert refused(capsys, "--pnr", "--json", str(output)).endswith("3 multiplier too many (159 MULT18X18D of 156)")
    assert json.loads(output.read_text())["resources"] == RESULT["resources"]
    assert main(["synth", "--preset", "l4"]) == 0
    assert "3 multiplier too many" in capsys.readouterr().err


def test_options_reach_the_synthesis(monkeypatch, capsys):
    calls = []
    monkeypatch.setattr(synth_command, "synth", lambda config, **options: calls.append(options) or RESULT)
    arguments = ["--unit", "mac_array", "--device", "GW2A-18C", "--pnr", "--seeds", "3", "--clock", "50", "--json", "-"]
    assert main(["synth", "--preset", "l4", *arguments]) == 0
    expected = {"preset": "l4", "unit": "mac_array", "device": "GW2A-18C", "pnr": True, "seeds": range(1, 4), "clock_mhz": 50.0}
    assert calls == [expected]
    assert json.loads(capsys.readouterr().out)["fmax"] == 90.0
    assert main(["synth", "--preset", "l4", "--unit", "all", "--json", "-"]) == 0
    assert len(json.loads(capsys.readouterr().out)["results"]) == len(calls) - 1 == 8


def test_the_tables_say_clock_path_and_rate(capsys):
    print_synthesis(RESULT, sys.stdout)
    out = capsys.readouterr().out
    assert "Fmax 90.0 MHz, the lowest of 90.0 with seed 1, 95.5 with seed 2" in out
    assert "critical path, 11.10 ns: 5.10 in cells, 6.00 in wires" in out
    assert "mac_array.row_3" in out and "outside" in out and "1.440" in out


def test_the_table_of_cells_counts_memories_with_what_is_inside(capsys):
    print_cells(CELLS, sys.stdout)
    lines = capsys.readouterr().out.splitlines()
    assert lines[2].split() == ["core", "3.0", "12", "7", "162", "1.50"]
    assert lines[3].split() == ["core.rows", "1.0", "4", "2", "160", "1.00"]
    assert not any("bank" in line for line in lines)
    assert lines[-2] == "500.0 MHz before placement: no wires, inputs driven by drives, outputs loaded with 8.0 fF"
    assert lines[-1] == "0.19 kGE a MAC; at that clock 16.0 GOPS, 1333 GOPS/mm² without memories"
