"""Whole designs of boards, placed and routed with open tools, and what a network makes of their clock; parts of :mod:`.bench`."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

from ..boards import board_of
from ..boards.synth import BOARD, synth
from ..compiler.compile import compile_network
from ..hw.config import preset
from ..model.networks import network_structure
from .bench_devices import KINDS
from .markdown import markdown
from .report import report
from .sdram import board_controller, with_sdram

__all__ = ["DESIGN_RUNS", "designs_text", "with_rate"]

#: By preset: MHz that are required, and a network to run.
_DESIGNS = {"ulx3s-85f": (100, "digits_vit"), "ulx3s-85f-l16": (80, "deit_tiny"), "icebreaker": (12, "digits_mlp")}


def with_rate(name: str, entry: dict[str, Any]) -> dict[str, Any]:
    """``entry`` with images a second at the clock that it reached: of the timing model, with the memory that the board has then."""
    if (clock := entry.get("fmax")) is None:
        return entry
    config, target = preset(name), board_of(name)
    if target is not None and target.sdram is not None:
        config = with_sdram(config, board_controller(target.name, name, clock))
    program = compile_network(network_structure(_DESIGNS[name][1]), config)
    return entry | {"images_per_second": report(program, preset=name, clock_mhz=clock)["total"]["frames_per_second"]}


def _measure(name: str) -> dict[str, Any]:
    return with_rate(name, synth(preset(name), preset=name, unit=BOARD, pnr=True))


#: A part for each design.
DESIGN_RUNS = {f"design-{name}": partial(_measure, name) for name in _DESIGNS}


def designs_text(results: Mapping[str, Any]) -> str:
    """A Markdown table, a row for each design that was measured: what it takes, its clock, and images a second at that clock."""
    head = ["preset", "lanes", *KINDS, "MHz required", "MHz reached", "network", "images/s"]
    rows = [head, ["---"] + ["---:"] * (len(head) - 3) + ["---", "---:"]]
    for name, (required, network) in _DESIGNS.items():
        if (entry := results.get(f"design-{name}")) is not None:
            used = {row["name"]: f"{row['used']:g}" for row in entry["resources"]}
            rate = ["", network, ""]
            if "fmax" in entry:
                rate = [f"{entry['fmax']:.1f}", network, f"{entry['images_per_second']:.1f}"]
            rows.append([name, str(entry["lanes"]), *(used.get(kind, "") for kind in KINDS), f">= {required}", *rate])
    return markdown(rows)
