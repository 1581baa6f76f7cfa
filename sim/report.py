"""Cycles of each layer, from the timing model or from what the core counted, as a table and as JSON."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TextIO

import numpy as np
from rich.console import Console
from rich.table import Table

from ..compiler.program import Program
from ..hw import isa
from .sequencer_timing import Timing
from .timing import schedule

__all__ = ["attribute", "layer_rows", "model_timings", "print_report", "print_table", "report", "write_json"]

_PRIORITY = {isa.Queue.ARRAY: "array", isa.Queue.ROWS: "rows", isa.Queue.LOAD: "memory", isa.Queue.STORE: "memory"}
_NOBODY = "dependency"
_HIDDEN = "hidden"


def attribute(program: Program, timings: Sequence[Timing], total: int) -> list[dict[str, int]]:
    """Every cycle of a run given to one layer, for one reason: by layer, cycles by reason; all of them add up to ``total``.

    A cycle belongs to the oldest instruction that the array engine has in flight, and its reason is ``array``. When the array has none,
    it belongs to the oldest instruction of the row engine (``rows``), of the load or of the store engine (``memory``). When all are idle it
    belongs to the next instruction that starts, the last one at the end (``dependency``: tokens, dispatch, the end of the run).
    So a layer whose work is done beside the array's has few cycles, or none.
    """
    layers = {index: number for number, layer in enumerate(program.layers) for index in layer.instructions}
    owned = sorted(index for index in layers if program.instructions[index].opcode in isa.OPCODE_QUEUE)
    marks = [cycle for index in owned for cycle in (timings[index].start, timings[index].done)]
    edges = np.unique(np.clip([0, total, *marks], 0, total))
    begins, lengths = edges[:-1], np.diff(edges)
    upcoming = sorted(owned, key=lambda index: timings[index].start)
    position = np.searchsorted([timings[index].start for index in upcoming], begins, side="left")
    owner = np.array(upcoming)[np.minimum(position, len(upcoming) - 1)]
    reason = np.full(len(begins), len(_PRIORITY))
    for level, queue in reversed(list(enumerate(_PRIORITY))):
        mine = np.array([index for index in owned if program.instructions[index].queue is queue], int)
        if len(mine):
            oldest = np.searchsorted([timings[index].done for index in mine], begins, side="right")
            candidate = mine[np.minimum(oldest, len(mine) - 1)]
            flying = (oldest < len(mine)) & (np.array([timings[index].start for index in candidate]) <= begins)
            owner, reason = np.where(flying, candidate, owner), np.where(flying, level, reason)
    names = [*_PRIORITY.values(), _NOBODY]
    cycles: list[dict[str, int]] = [{} for _ in program.layers]
    for index, level, length in zip(owner.tolist(), reason.tolist(), lengths.tolist(), strict=True):
        part = cycles[layers[index]]
        part[names[level]] = part.get(names[level], 0) + length
    return cycles


def model_timings(program: Program) -> tuple[list[Timing], int]:
    """:func:`.timing.schedule` of a program."""
    return schedule([instruction.values for instruction in program.instructions], program.config)


def layer_rows(program: Program, timings: Sequence[Timing], total: int) -> list[dict[str, Any]]:
    """One entry a layer as in the JSON: ``bound`` is the reason of most of its cycles (:func:`attribute`), ``hidden`` when it has none."""
    rows = []
    for layer, parts in zip(program.layers, attribute(program, timings, total), strict=True):
        cycles = sum(parts.values())
        rows.append(
            {
                "name": layer.name,
                "op": layer.op,
                "M": layer.M,
                "K": layer.K,
                "N": layer.N,
                "count": layer.count,
                "mode": layer.mode,
                "macs": layer.macs,
                "cycles": cycles,
                "utilization": _utilization(layer.macs, program.config.lanes, cycles),
                "bound": max(parts, key=lambda reason: parts[reason]) if cycles else _HIDDEN,
            }
        )
    return rows


def _utilization(macs: int, lanes: int, cycles: int) -> float:
    """Share of the multipliers' cycles that did a product of the network."""
    return round(macs / (lanes**2 * cycles), 6) if cycles else 0.0


def report(program: Program, *, preset: str) -> dict[str, Any]:
    """Cycles of ``program`` from the timing model, as ``vitloom report --json`` writes them."""
    timings, total = model_timings(program)
    layers = layer_rows(program, timings, total)
    macs = sum(layer["macs"] for layer in layers)
    return {
        "network": program.name,
        "preset": preset,
        "lanes": program.config.lanes,
        "layers": layers,
        "total": {
            "macs": macs,
            "cycles": total,
            "lower_bound_cycles": program.lower_bound_cycles,
            "utilization": _utilization(macs, program.config.lanes, total),
        },
    }


def print_report(content: Mapping[str, Any], file: TextIO) -> None:
    """The table of a report, with a column of measured cycles when it has them."""
    measured = "cycles_rtl" in content["total"]
    head = ["layer", "op", "M", "K", "N", "count", "MACs", "cycles", *(["RTL cycles"] if measured else []), "utilization", "bound"]
    rows = [_row(layer, measured) for layer in content["layers"]]
    total = {"name": "total", "op": "", "M": "", "K": "", "N": "", "count": "", "bound": "", **content["total"]}
    print_table(f"{content['network']} on {content['preset']}", head, [*rows, _row(total, measured)], file)
    bound = content["total"]["lower_bound_cycles"]
    print(f"the array alone needs {bound} cycles ({100 * bound / content['total']['cycles']:.1f} % of the total)", file=file)


def _row(entry: Mapping[str, Any], measured: bool) -> list[str]:
    numbers = [str(entry[key]) for key in ("name", "op", "M", "K", "N", "count", "macs", "cycles")]
    share = f"{100 * entry['utilization']:.1f} %" if entry["macs"] else ""
    counted = ["-" if entry["cycles_rtl"] is None else str(entry["cycles_rtl"])] if measured else []
    return [*numbers, *counted, share, entry["bound"]]


def print_table(title: str, head: Sequence[str], rows: Sequence[Sequence[str]], file: TextIO) -> None:
    """A drawn table on a terminal that is wide enough, else plain text in columns. The first two columns and the last are text."""
    left = [column < 2 or column == len(head) - 1 for column in range(len(head))]
    widths = [max(len(row[column]) for row in (head, *rows)) for column in range(len(head))]
    console = Console(file=file)
    if console.is_terminal and console.width >= sum(widths) + 3 * len(widths) + 1:
        table = Table(title=title)
        for name, is_left in zip(head, left, strict=True):
            table.add_column(name, justify="left" if is_left else "right")
        for row in rows:
            table.add_row(*row)
        console.print(table)
        return
    print(title, file=file)
    for row in (head, *rows):
        cells = [cell.ljust(w) if is_left else cell.rjust(w) for cell, w, is_left in zip(row, widths, left, strict=True)]
        print("  ".join(cells).rstrip(), file=file)


def write_json(content: Mapping[str, Any], path: str) -> None:
    """Write JSON to a file, all of it or nothing; ``-`` is stdout."""
    text = json.dumps(content, indent=2) + "\n"
    if path == "-":
        sys.stdout.write(text)
        return
    target = Path(path)
    part = target.with_name(f".{target.name}.{os.getpid()}.part")
    try:
        part.write_text(text)
        part.replace(target)
    finally:
        part.unlink(missing_ok=True)
