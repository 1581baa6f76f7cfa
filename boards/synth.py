"""Resources and clock of the core or of one of its units, on the ECP5 of the reference board."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from amaranth.lib import wiring

from ..hw.array.accumulators import Accumulators
from ..hw.array.mac_array import MacArray
from ..hw.config import CoreConfig
from ..hw.core import Core
from ..hw.epilogue.epilogue import Epilogue
from ..hw.rows.layer_norm import LayerNorm
from ..hw.rows.log_softmax import LogSoftmax
from ..hw.scratchpad import Scratchpad
from ..hw.sequencer import Sequencer
from .out_of_context import CELLS, place_and_route, synthesize

__all__ = ["DEVICE", "SPEED", "UNITS", "synth", "table"]

DEVICE = "LFE5U-85F"
SPEED = 6

#: What can be synthesised alone.
UNITS: dict[str, Callable[[CoreConfig], wiring.Component]] = {
    "mac_array": MacArray,
    "accumulators": Accumulators,
    "epilogue": Epilogue,
    "log_softmax": LogSoftmax,
    "layer_norm": LayerNorm,
    "scratchpad": Scratchpad,
    "sequencer": Sequencer,
    "core": Core,
}


def synth(
    config: CoreConfig,
    *,
    preset: str,
    unit: str = "core",
    pnr: bool = False,
    seeds: Sequence[int] = (1,),
    directory: Path | str = "build/synth",
) -> dict[str, Any]:
    """Synthesise ``unit`` for :data:`DEVICE`, and with ``pnr`` place and route it.

    Returns
    -------
    dict
        ``unit``, ``preset``, ``lanes``, ``device``, ``cells`` (a number by cell type) and with ``pnr`` ``fmax`` in MHz (the lowest of all
        ``seeds``), ``seeds`` (MHz by seed) and ``critical_path``.
    """
    if unit not in UNITS:
        raise ValueError(f"no unit {unit!r}; there are {', '.join(UNITS)}")
    component, name = UNITS[unit](config), f"{unit}-{preset}-{config.fingerprint:08x}"
    if pnr:
        result = place_and_route(component, name, speed=SPEED, seeds=seeds, directory=directory)
    else:
        result = synthesize(component, name, directory=directory)
    measured = {key: result[key] for key in ("fmax", "seeds", "critical_path") if key in result}
    cells = {cell: result[cell] for cell in CELLS}
    return {"unit": unit, "preset": preset, "lanes": config.lanes, "device": f"{DEVICE} speed {SPEED}", "cells": cells, **measured}


def table(results: Iterable[dict[str, Any]]) -> str:
    """A Markdown table of results of :func:`synth`, a row each."""
    rows = [["unit", "L", *CELLS, "Fmax (MHz)"], ["---"] + ["---:"] * (len(CELLS) + 2)]
    for entry in results:
        clock = f"{entry['fmax']:.0f}" if "fmax" in entry else ""
        rows.append([entry["unit"], str(entry["lanes"]), *(str(entry["cells"][cell]) for cell in CELLS), clock])
    return "\n".join("| " + " | ".join(row) + " |" for row in rows) + "\n"
