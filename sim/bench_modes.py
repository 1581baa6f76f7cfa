"""What each operand mode costs in the array: LUTs for a product of each mode, beside published ones; a part of :mod:`.bench`."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from ..boards.synth import synth
from ..hw.config import MODES, NARROW, PACKING, preset
from .markdown import markdown

__all__ = ["MODE_SETS", "OTHERS", "Limit", "finn_luts", "macs_per_element", "modes_text", "resources_of_modes"]

_PRESET, _UNIT = "l8", "mac_array"
_CELLS = ("LUT4", "CCU2C", "FF", "MULT18X18D")
_UNMEASURED = "not measured"


@dataclass(frozen=True)
class Limit:
    """What is asked of a processing element: at most so many LUT4, and multipliers."""

    luts: int
    multipliers: int


#: Sets of modes by name of the part, each with what is asked of it.
MODE_SETS: dict[str, tuple[str, ...]] = {
    f"modes-{'+'.join(modes)}": modes for modes in (("int8", "log2"), ("int8", "log2", "binary"), ("binary",), MODES)
}
_LIMITS = {("int8", "log2"): Limit(40, 1), ("binary",): Limit(35, 0), MODES: Limit(100, 1)}


def macs_per_element(mode: str) -> int:
    """Products that a processing element does in a cycle of the mode."""
    return 1 << PACKING[mode]


def finn_luts(bits: int) -> float:
    """LUT6 of FINN's estimate for a product of two values of so many bits, without DSPs: its formula for HLS matrix-vector units."""
    both = 2 * bits
    return 1.1 * ((2 * math.ceil(both / 6) - 1) * both + 2 * both)


@dataclass(frozen=True, kw_only=True)
class _Other:
    """Figures by mode from elsewhere. origin : published or modelled."""

    what: str
    figures: Mapping[str, str]
    origin: str
    source: str


_BITS = {"int8": 8} | NARROW
OTHERS = (
    _Other(
        what="LUT6 for a product, without DSPs",
        figures={mode: f"{finn_luts(bits):.1f}" for mode, bits in _BITS.items()},
        origin="published",
        source="FINN's estimator (formula), `lut_estimation` of its HLS matrix-vector unit; no weights stored",
    ),
    _Other(
        what="LUT4 for a MAC, without multipliers",
        figures={"int8": "257", "int4": "79", "int2": "23", "binary": "6.0 of 8, 2.9 of 128"},
        origin="modelled",
        source="Yosys 0.23, `synth_ecp5`, a bare dot product of 16, 32, 64, or 8 and 128 pairs with a registered sum; no weights stored",
    ),
    _Other(
        what="MACs a cycle, int8 = 1",
        figures={"int8": "1", "int2": "4 (ternary)", "binary": "8"},
        origin="published",
        source="BrainTTA (arXiv 2211.11331): 77, 307, 614 GOPS on one datapath",
    ),
    _Other(
        what="energy for an operation, int8 = 1",
        figures={"int8": "1", "int2": "1/6.0 (ternary)", "binary": "1/11.6"},
        origin="published",
        source="BrainTTA: 405, 67, 35 fJ",
    ),
)


def resources_of_modes(modes: Iterable[str]) -> dict[str, Any]:
    """Cells of the array unit of 8 lanes with these modes, out of context, not placed."""
    return synth(preset(_PRESET, [f"modes={'+'.join(modes)}"]), preset=_PRESET, unit=_UNIT)


def modes_text(results: Mapping[str, Any]) -> str:
    """Two Markdown tables: the array by its modes, and figures of others. What was not measured is said to be so."""
    costs = ["with CCU2C as two LUT4", *(f"for a MAC, {mode}" for mode in MODES)]
    head = ["modes", *_CELLS, "required of an element", "LUT4 an element", *costs]
    rows = [head, ["---"] + ["---:"] * (len(head) - 1), *(_row(name, results) for name in MODE_SETS)]
    modes = list(_BITS)
    others = [["what", *modes, "", "from"], ["---"] + ["---:"] * len(modes) + ["---"] * 2]
    own = {mode: str(macs_per_element(mode)) for mode in modes}
    here = _Other(what="MACs a cycle, int8 = 1", figures=own, origin="measured", source="this array, `tests/sim/test_bench_modes.py`")
    for other in (here, *OTHERS):
        others.append([other.what, *(other.figures.get(mode, "") for mode in modes), other.origin, other.source])
    return "\n".join(markdown(table) for table in (rows, others))


def _row(name: str, results: Mapping[str, Any]) -> list[str]:
    modes, entry = MODE_SETS[name], results.get(name)
    limit = _LIMITS.get(modes)
    required = f"<= {limit.luts} LUT4, {limit.multipliers} MULT18X18D" if limit else ""
    if entry is None:
        return [", ".join(modes), *[_UNMEASURED] * len(_CELLS), required, *[_UNMEASURED] * (2 + len(MODES))]
    cells, elements = entry["cells"], entry["lanes"] ** 2
    alone, both = cells["LUT4"] / elements, (cells["LUT4"] + 2 * cells["CCU2C"]) / elements
    each = [f"{both / macs_per_element(mode):.1f}" if mode in modes else "" for mode in MODES]
    return [", ".join(modes), *(str(cells[cell]) for cell in _CELLS), required, f"{alone:.1f}", f"{both:.1f}", *each]
