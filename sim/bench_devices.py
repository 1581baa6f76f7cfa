"""What the core of each board's preset takes of the board's FPGA; parts of :mod:`.bench`."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

from ..boards import BOARDS
from ..boards.synth import synth
from ..hw.config import preset
from .markdown import markdown

__all__ = ["DEVICE_RUNS", "KINDS", "devices_text"]

#: Columns of the tables, by name of a resource.
KINDS = ("LUT", "carry", "FF", "LUT RAM", "multiplier", "block RAM", "SPRAM")


def _measure(name: str) -> dict[str, Any]:
    return synth(preset(name), preset=name)


#: A part for each board.
DEVICE_RUNS = {f"device-{name}": partial(_measure, name) for name in BOARDS}


def devices_text(results: Mapping[str, Any]) -> str:
    """A Markdown table, a row for each board that was measured: used of available."""
    head = ["preset", "device", "MACs a cycle", *KINDS, "fits"]
    rows = [head, ["---"] * 2 + ["---:"] * (len(head) - 3) + ["---"]]
    for name in DEVICE_RUNS:
        if (entry := results.get(name)) is not None:
            found = {row["name"]: f"{row['used']:g} of {row['available']}" for row in entry["resources"]}
            macs, fits = max(entry["macs_per_cycle"].values()), "no" if entry["does_not_fit"] else "yes"
            rows.append([entry["preset"], entry["device"], str(macs), *(found.get(kind, "") for kind in KINDS), fits])
    return markdown(rows)
