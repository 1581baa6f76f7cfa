"""The critical path of a placed design in terms of its modules, from nextpnr's report."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

__all__ = ["core_clock", "critical_path", "module_of"]


def module_of(cell: str, modules: Collection[str]) -> str:
    """The innermost of ``modules`` (paths with dots) that a cell is in; "" if it is in none.

    Yosys names a cell by its module's path and a signal that it drives.
    """
    parts = cell.split(".")
    return next((path for end in range(len(parts), 0, -1) if (path := ".".join(parts[:end])) in modules), "")


def _between_clocks(report: Mapping[str, Any]) -> list[tuple[float, Any]]:
    """Each path that begins and ends at clocks, and its delay in parts of the time that it has: a cycle of the faster of both clocks.

    Clocks whose constraint is not known count as equally fast.
    """
    wanted = {name: clock["constraint"] for name, clock in report.get("fmax", {}).items()}
    found = []
    for entry in report["critical_paths"]:
        ends = [entry[end].removeprefix("posedge ") for end in ("from", "to")]
        if all(entry[end].startswith("posedge ") for end in ("from", "to")):
            rate = max(wanted.get(end, 1.0) for end in ends)
            found.append((sum(step["delay"] for step in entry["path"]) * rate, entry))
    return found


def core_clock(report: Mapping[str, Any]) -> float:
    """MHz that the slowest clock can have while the others keep their ratio to it, paths from one to another included."""
    wanted, slowest = [clock["constraint"] for clock in report["fmax"].values()], 0.0
    for clock in report["fmax"].values():
        slowest = max(slowest, clock["constraint"] / clock["achieved"])
    for share, entry in _between_clocks(report):
        if entry["from"] != entry["to"]:
            slowest = max(slowest, share / 1e3)
    return min(wanted) / slowest


def critical_path(report: Mapping[str, Any], modules: Collection[str]) -> dict[str, Any]:
    """The slowest path from clock to clock, in parts of the time that it has.

    Returns
    -------
    dict
        ``ns``, of which ``logic_ns`` in cells and ``routing_ns`` in wires; ``modules``: ``module``, ``ns`` and ``cells`` (on the path) of
        each module, in the order of the path, wires counting for what drives them; ``steps``: ``ns``, ``type``, ``from``, ``to`` of each
        step. Empty when no path goes from clock to clock.
    """
    between = _between_clocks(report)
    if not between:
        return {}
    path = max(between, key=lambda entry: entry[0])[1]["path"]
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
