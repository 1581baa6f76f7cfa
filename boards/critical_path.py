"""The critical path of a placed design in terms of its modules, from nextpnr's report."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

__all__ = ["critical_path", "module_of"]


def module_of(cell: str, modules: Collection[str]) -> str:
    """The innermost of ``modules`` (paths with dots) that a cell is in; "" if it is in none.

    Yosys names a cell by its module's path and a signal that it drives.
    """
    parts = cell.split(".")
    return next((path for end in range(len(parts), 0, -1) if (path := ".".join(parts[:end])) in modules), "")


def critical_path(report: Mapping[str, Any], modules: Collection[str]) -> dict[str, Any]:
    """The slowest path from clock to clock.

    Returns
    -------
    dict
        ``ns``, of which ``logic_ns`` in cells and ``routing_ns`` in wires; ``modules``: ``module``, ``ns`` and ``cells`` (on the path) of
        each module, in the order of the path, wires counting for what drives them; ``steps``: ``ns``, ``type``, ``from``, ``to`` of each
        step. Empty when no path goes from clock to clock.
    """
    found = [entry for entry in report["critical_paths"] if entry["from"] == entry["to"] and entry["from"].startswith("posedge")]
    if not found:
        return {}
    path = max(found, key=lambda entry: sum(step["delay"] for step in entry["path"]))["path"]
    totals: dict[str, float] = {}
    cells: dict[str, set[str]] = {}
    for step in path:
        module = module_of(step["from"]["cell"], modules)
        totals[module] = totals.get(module, 0) + step["delay"]
        cells.setdefault(module, set()).add(step["from"]["cell"])
    routing = sum(step["delay"] for step in path if step["type"] == "routing")
    total = sum(step["delay"] for step in path)
    ends = ({end: f"{step[end]['cell']}.{step[end]['port']}" for end in ("from", "to")} for step in path)
    return {
        "ns": round(total, 2),
        "logic_ns": round(total - routing, 2),
        "routing_ns": round(routing, 2),
        "modules": [{"module": module, "ns": round(ns, 2), "cells": len(cells[module])} for module, ns in totals.items()],
        "steps": [{"ns": step["delay"], "type": step["type"], **end} for step, end in zip(path, ends, strict=True)],
    }
