"""Cores in standard cells: area for a MAC, clock, operations for an area, and memories apart; parts of :mod:`.bench`."""

from __future__ import annotations

import os
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

from ..boards.synth import synth_cells
from ..hw.config import MODES, PACKING, preset
from .markdown import markdown

__all__ = ["ASIC_RUNS", "LIBERTY", "asic_text", "asic_units_text"]

#: Environment variable with the path of the liberty file.
LIBERTY = "VITLOOM_LIBERTY"
_LANES = (8, 16)
_MODES = (("int8", "log2"), ("int8", "log2", "binary"), MODES)
_TOP = "core."


def _measure(lanes: int, modes: tuple[str, ...]) -> dict[str, Any]:
    name = f"l{lanes}"
    return synth_cells(preset(name, [f"modes={'+'.join(modes)}"]), preset=name, liberty=Path(os.environ[LIBERTY]))


#: A part for each number of lanes and set of modes.
ASIC_RUNS = {f"asic-l{lanes}-{'+'.join(modes)}": partial(_measure, lanes, modes) for lanes in _LANES for modes in _MODES}


def asic_text(results: Mapping[str, Any]) -> str:
    """A Markdown table of whole cores, a row for each that was measured."""
    head = [
        "L",
        "modes",
        "kGE",
        "kGE a MAC of int8",
        "of that the array",
        "flip-flops",
        "memories (KiB)",
        "logic (mm²)",
        "path (ns)",
        "MHz",
    ]
    head += ["GOPS/mm², int8", "in the densest mode"]
    rows = [head, ["---:", "---"] + ["---:"] * (len(head) - 2)]
    for name in ASIC_RUNS:
        if (entry := results.get(name)) is not None:
            modes, macs = entry["configuration"]["modes"], entry["lanes"] ** 2
            array = entry["units"]["core.array.array"]["kge"] / macs
            densest = max(1 << PACKING[mode] for mode in modes)
            figures = [f"{entry['kge']:.0f}", f"{entry['kge'] / macs:.2f}", f"{array:.2f}", str(entry["flip_flops"])]
            figures += [f"{entry['memory_bits'] / 8192:.0f}", f"{entry['area_um2'] / 1e6:.2f}", f"{entry['path_ps'] / 1e3:.2f}"]
            figures += [f"{entry['mhz']:.0f}", f"{entry['gops_per_mm2']:.1f}", f"{densest * entry['gops_per_mm2']:.1f}"]
            rows.append([str(entry["lanes"]), ", ".join(modes), *figures])
    return markdown(rows)


def asic_units_text(results: Mapping[str, Any]) -> str:
    """A Markdown table of the units of each core that was measured: kGE, and the path in ns."""
    found = [entry for name in ASIC_RUNS if (entry := results.get(name)) is not None]
    names = [f"L = {entry['lanes']}, {', '.join(entry['configuration']['modes'])}" for entry in found]
    rows = [["unit", *names], ["---"] + ["---:"] * len(names)]
    for unit in dict.fromkeys(unit for entry in found for unit in entry["units"]):
        each = [entry["units"].get(unit) for entry in found]
        if any(row and row["kge"] >= 0.5 for row in each):
            rows.append([unit.removeprefix(_TOP), *(f"{row['kge']:.1f}; {row['path_ps'] / 1e3:.2f}" if row else "" for row in each)])
    return markdown(rows)
