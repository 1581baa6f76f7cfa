"""Cycles, what bounds them and memory traffic of each layer, from the timing model or from what the core counted, as plain data."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np

from ..compiler.program import Layer, Program
from ..hw import isa
from ..hw.config import CoreConfig
from .sequencer_timing import Timing
from .timeline import memory_summary
from .timing import schedule

__all__ = ["REASONS", "attribute", "compare", "kind", "kind_rows", "layer_rows", "model_timings", "report"]

_PRIORITY = {isa.Queue.ARRAY: "array", isa.Queue.ROWS: "rows", isa.Queue.LOAD: "memory", isa.Queue.STORE: "memory"}
_NOBODY = "dependency"
_HIDDEN = "hidden"
#: What a cycle can be lost to.
REASONS = (*dict.fromkeys(_PRIORITY.values()), _NOBODY)
_TRAFFIC = {isa.Opcode.LOAD: "bytes_loaded", isa.Opcode.STORE: "bytes_stored"}


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


def model_timings(program: Program, config: CoreConfig | None = None) -> tuple[list[Timing], int]:
    """:func:`.timing.schedule` of a program, with the memory of ``config`` if it is given."""
    return schedule([instruction.values for instruction in program.instructions], config or program.config)


def layer_rows(program: Program, timings: Sequence[Timing], total: int) -> list[dict[str, Any]]:
    """One entry a layer as in the JSON: ``bound`` is the reason of most of its cycles (:func:`attribute`), ``hidden`` when it has none.

    ``bytes_loaded`` and ``bytes_stored`` are what its instructions move over the memory port. A multiplier does ``macs_per_multiplier``
    products in a cycle of the layer's mode, and ``utilization`` is the share of the multipliers' cycles that did some.
    """
    entries = []
    traffic = _traffic(program)
    for layer, parts, moved in zip(program.layers, attribute(program, timings, total), traffic, strict=True):
        sizes = {name: getattr(layer, name) for name in ("name", "op", "M", "K", "N", "count", "mode", "macs")}
        measures = _measures(layer.macs, layer.multiplier_cycles, parts, moved, program.config.multipliers)
        entries.append({**sizes, **measures, "kind": kind(layer), "macs_per_multiplier": layer.packing})
    return entries


def kind(layer: Layer) -> str:
    """What a layer does in its block: patch, norm or head, else the last part of its name (qkv, qk, softmax, av, proj, fc1, fc2)."""
    if layer.op == "layer_norm":
        return "norm"
    first, last = layer.name.split(".")[0], layer.name.split(".")[-1]
    return {"patch_embed": "patch", "head": "head", "head_dist": "head"}.get(first, last)


def _traffic(program: Program) -> list[dict[str, int]]:
    """Bytes loaded and stored for each layer; what is loaded for no layer (the class token) counts for the one that comes next."""
    number = {layer.name: index for index, layer in enumerate(program.layers)}
    result = [dict.fromkeys(_TRAFFIC.values(), 0) for _ in program.layers]
    owner = len(result) - 1
    for instruction in reversed(program.instructions):
        owner = number.get(instruction.layer, owner)
        if instruction.opcode in _TRAFFIC:
            result[owner][_TRAFFIC[instruction.opcode]] += instruction.fields["words"] * program.config.lanes
    return result


def _measures(macs: int, busy: float, reasons: Mapping[str, int], traffic: Mapping[str, int], multipliers: int) -> dict[str, Any]:
    """What is measured of a layer, or of several. ``busy``: cycles of a multiplier that the products take."""
    cycles, moved = sum(reasons.values()), sum(traffic.values())
    return {
        "cycles": cycles,
        "utilization": _utilization(busy, multipliers, cycles),
        "bound": max(reasons, key=lambda reason: reasons[reason]) if cycles else _HIDDEN,
        "reasons": {reason: reasons.get(reason, 0) for reason in REASONS},
        **traffic,
        "macs_per_byte": round(macs / moved, 3) if moved else None,
        "macs_per_cycle": round(macs / cycles, 3) if cycles else 0.0,
    }


def kind_rows(layers: Sequence[Mapping[str, Any]], multipliers: int) -> list[dict[str, Any]]:
    """The layers of each kind added up, in the order in which the kinds come first."""
    entries = []
    for name in dict.fromkeys(layer["kind"] for layer in layers):
        mine = [layer for layer in layers if layer["kind"] == name]
        macs = sum(layer["macs"] for layer in mine)
        reasons = {reason: sum(layer["reasons"][reason] for layer in mine) for reason in REASONS}
        traffic = {key: sum(layer[key] for layer in mine) for key in _TRAFFIC.values()}
        entries.append({"kind": name, "layers": len(mine), "macs": macs, **_measures(macs, _busy(mine), reasons, traffic, multipliers)})
    return entries


def _busy(layers: Sequence[Mapping[str, Any]]) -> float:
    """Cycles of a multiplier that the products of some layers take."""
    return sum(layer["macs"] / layer["macs_per_multiplier"] for layer in layers)


def _utilization(busy: float, multipliers: int, cycles: int) -> float:
    """Share of the multipliers' cycles that did products of the network."""
    return round(busy / (multipliers * cycles), 6) if cycles else 0.0


def report(program: Program, *, preset: str, clock_mhz: float | None = None) -> dict[str, Any]:
    """Cycles of ``program`` from the timing model, as ``vitloom report --json`` writes them; times only for a given clock."""
    timings, cycles = model_timings(program)
    config = program.config
    layers = layer_rows(program, timings, cycles)
    kinds = kind_rows(layers, config.multipliers)
    macs = sum(layer["macs"] for layer in layers)
    most = config.multipliers * max(layer["macs_per_multiplier"] for layer in layers)
    return {
        "network": program.name,
        "origin": program.origin,
        "preset": preset,
        "lanes": config.lanes,
        **({} if clock_mhz is None else {"clock_mhz": clock_mhz}),
        "layers": layers,
        "kinds": kinds,
        "roofline": {"macs_per_cycle": most, "bytes_per_cycle": config.port_bytes},
        "memory": memory_summary(program, timings),
        "total": {
            "macs": macs,
            "cycles": cycles,
            "lower_bound_cycles": program.lower_bound_cycles,
            "utilization": _utilization(_busy(layers), config.multipliers, cycles),
            **{key: sum(layer[key] for layer in layers) for key in ("bytes_loaded", "bytes_stored")},
            "reasons": {reason: sum(entry["reasons"][reason] for entry in kinds) for reason in REASONS},
            **_times(cycles, clock_mhz),
        },
        "configuration": {**asdict(config), "modes": list(config.modes)},
    }


def _times(cycles: int, clock_mhz: float | None) -> dict[str, float]:
    if clock_mhz is None:
        return {}
    return {"milliseconds": round(cycles / clock_mhz / 1e3, 6), "frames_per_second": round(clock_mhz * 1e6 / cycles, 3)}


def compare(reports: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """One entry a configuration: lanes and totals of reports on one network."""
    names = ("cycles", "lower_bound_cycles", "utilization", "bytes_loaded", "bytes_stored", "reasons", "milliseconds", "frames_per_second")
    entries = []
    for content in reports:
        total = {name: content["total"][name] for name in names if name in content["total"]}
        entries.append({"preset": content["preset"], "lanes": content["lanes"], **total})
    return entries
