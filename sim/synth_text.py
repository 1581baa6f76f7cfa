"""Results of synthesis as tables on the screen."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TextIO

from .report_text import print_table

__all__ = ["print_cells", "print_synthesis"]


def print_synthesis(result: Mapping[str, Any], file: TextIO) -> None:
    """What a unit takes of an FPGA and, if it was placed, its clock, its critical path by module, and its MACs a second."""
    rows = [
        [row["name"], row["cell"], f"{row['used']:g}", str(row["available"]), f"{row['percent']:.1f} %"]
        for row in result["resources"]
        if row["used"] or row["name"] != "SPRAM"
    ]
    title = f"{result['unit']} of {result['preset']} on {result['device']}"
    print_table(title, ["resource", "cell", "used", "available", "share"], rows, file, text_columns=(0, 1))
    if "macs_per_cycle" in result:
        print("MACs a cycle: " + ", ".join(f"{mode} {macs}" for mode, macs in result["macs_per_cycle"].items()), file=file)
    if "fmax" not in result:
        return
    seeds = ", ".join(f"{mhz:.1f} with seed {seed}" for seed, mhz in result["seeds"].items())
    print(f"Fmax {result['fmax']:.1f} MHz, the lowest of {seeds}", file=file)
    if path := result["critical_path"]:
        print(file=file)
        title = f"critical path, {path['ns']:.2f} ns: {path['logic_ns']:.2f} in cells, {path['routing_ns']:.2f} in wires"
        rows = [[_module(row["module"], result["unit"]), str(row["cells"]), f"{row['ns']:.2f}"] for row in path["modules"]]
        print_table(title, ["module", "cells", "ns"], rows, file)
    if "rates" in result:
        print(file=file)
        rows = [[mode, *("" if rate is None else f"{rate:.3f}" for rate in row.values())] for mode, row in result["rates"].items()]
        print_table(f"at {result['fmax']:.1f} MHz", ["mode", "GMAC/s", "per multiplier", "per kLUT"], rows, file)


def print_cells(result: Mapping[str, Any], file: TextIO) -> None:
    """Area, memories and clock of a unit in standard cells."""
    bits: dict[str, int] = dict.fromkeys(result["units"], 0)
    for memory in result["memories"]:
        for unit in bits:
            if f"{memory['unit']}.".startswith(f"{unit}."):
                bits[unit] += memory["words"] * memory["bits"] * memory["count"]
    rows = [
        [unit, f"{row['kge']:.1f}", f"{row['area_um2']:.0f}", str(row["flip_flops"]), str(bits[unit]), f"{row['path_ps'] / 1e3:.2f}"]
        for unit, row in result["units"].items()
        if row["area_um2"]
    ]
    head = ["unit", "kGE", "µm²", "flip-flops", "memory bits", "path (ns)"]
    print_table(f"{result['unit']} of {result['preset']} in {result['library']}, memories left out", head, rows, file)
    ends = f"in {result['path_unit']} from {result['path_from']} to {result['path_to']}"
    print(f"critical path {result['path_ps'] / 1e3:.2f} ns {ends}, flip-flop {result['flip_flop_ps'] / 1e3:.2f} ns", file=file)
    if result["mhz"]:
        assumed = f"inputs driven by {result['driving_cell']}, outputs loaded with {result['load_ff']:.1f} fF"
        print(f"{result['mhz']:.1f} MHz before placement: no wires, {assumed}", file=file)
    if "gops" in result:
        rate = f"{result['gops']:.1f} GOPS, {result['gops_per_mm2']:.0f} GOPS/mm² without memories"
        print(f"{result['kge_per_mac']:.2f} kGE a MAC; at that clock {rate}", file=file)


def _module(path: str, unit: str) -> str:
    """Path of a module from the unit on; what is outside is what feeds the unit and what takes its outputs."""
    return unit + path.removeprefix("unit") if path else "outside"
