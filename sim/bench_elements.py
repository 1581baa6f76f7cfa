"""What a processing element costs on an ECP5, beside that of another generator in Amaranth; a part of :mod:`.bench`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..boards.synth import synth
from ..hw.config import preset
from .markdown import markdown

__all__ = ["ELEMENTS", "SYSTARS", "elements_text", "resources_of_elements"]

_PRESET, _UNIT = "l8", "mac_array"
_CELLS = ("LUT4", "CCU2C", "FF", "MULT18X18D")
#: Overrides of the preset by name of the part.
ELEMENTS = {"elements": (), "elements-luts": ("array_multipliers=1",)}
_WHAT = {"elements": "this array, int8 and log2", "elements-luts": "this array, products in carry chains but for one"}
#: Cells of an element of stillwater-sc/systars, an int8 array.
SYSTARS = {"LUT4": 107, "CCU2C": 16, "FF": 112, "MULT18X18D": 1}
_SYSTARS_FROM = "stillwater-sc/systars at commit 2c9c254, an array of 4 x 4 in Yosys' `synth_ecp5`, over 16"


def resources_of_elements(part: str) -> dict[str, Any]:
    """Cells of the array unit of 8 lanes, out of context, not placed."""
    return synth(preset(_PRESET, list(ELEMENTS[part])), preset=_PRESET, unit=_UNIT)


def elements_text(results: Mapping[str, Any]) -> str:
    """A Markdown table: each unit's cells over its processing elements. What was not measured is said to be so."""
    head = ["an element of", *_CELLS, "LUT4 with CCU2C as two", "from"]
    rows = [head, ["---", *["---:"] * (len(head) - 2), "---"], _row("Systars", SYSTARS, 1, _SYSTARS_FROM)]
    for part, what in _WHAT.items():
        if entry := results.get(part):
            elements = entry["lanes"] ** 2
            rows.append(_row(what, entry["cells"], elements, f"measured, `{part}`: the whole unit over {elements}"))
        else:
            rows.append([what, *["not measured"] * (len(head) - 1)])
    return markdown(rows)


def _row(what: str, cells: Mapping[str, int], elements: int, source: str) -> list[str]:
    each = [cells[cell] / elements for cell in _CELLS]
    return [what, *(f"{value:.1f}" for value in (*each, each[0] + 2 * each[1])), source]
