"""Resources and clock of the core or of one of its units: on an FPGA, or in standard cells."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

from amaranth.lib import wiring

from ..hw.array.accumulators import Accumulators
from ..hw.array.mac_array import MacArray
from ..hw.config import PACKING, CoreConfig
from ..hw.core import Core
from ..hw.epilogue.epilogue import Epilogue
from ..hw.rows.layer_norm import LayerNorm
from ..hw.rows.log_softmax import LogSoftmax
from ..hw.scratchpad import Scratchpad
from ..hw.sequencer import Sequencer
from . import BOARDS, Board, board_of
from .asic import check_installed, map_to_cells
from .board_design import route_board, synthesize_board
from .devices import DEFAULT_DEVICE, DEVICES, Device, Use
from .devices import device as find_device
from .liberty import read_library
from .out_of_context import EXTRA, SYNTHESIS, TARGET_MHZ, route, synthesize
from .sdram import BUS_BYTES
from .tools import find_tool
from .top import HostTop

__all__ = ["BOARD", "UNITS", "synth", "synth_cells", "units", "whole"]

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
#: The whole design of the preset's board around a core for a host.
BOARD = "board"
#: Units that do all MACs of a core.
_MULTIPLYING = ("mac_array", "core", BOARD)
#: Levels of modules of the core that are mapped to standard cells apart: its engines, and what they consist of.
_CORE_DEPTH = 2


def units(config: CoreConfig) -> list[str]:
    """What can be synthesised of a core."""
    return ["core"] if config.serial else list(UNITS)


def whole(preset: str) -> str:
    """What stands for all of a preset: its board's design where a host can use one, else the core."""
    board = board_of(preset)
    return BOARD if board is not None and (board.sdram or board.spram) else "core"


def synth(
    config: CoreConfig,
    *,
    preset: str,
    unit: str = "core",
    device: str | None = None,
    pnr: bool = False,
    seeds: Sequence[int] = (1,),
    clock_mhz: float | None = None,
    directory: Path | str = "build/synth",
) -> dict[str, Any]:
    """Synthesise ``unit`` for an FPGA, and with ``pnr`` place and route it once for each of ``seeds`` if it fits.

    ``clock_mhz`` is what they aim at, and for unit :data:`BOARD` what its PLL makes; by default :data:`.out_of_context.TARGET_MHZ`, and the
    clock of the preset on the board. ``device`` is a name in :data:`.devices.DEVICES`; by default that of the preset's board, or
    :data:`.devices.DEFAULT_DEVICE`.

    Returns
    -------
    dict
        ``unit``, ``preset``, ``configuration``, ``lanes``, ``device``; ``cells`` (a number by the family's name of a cell); ``resources``
        (``name``, ``cell``, ``used``, ``available``, ``percent``); ``does_not_fit`` (a sentence, or ""). Units with all MACs also have
        ``macs_per_cycle`` by mode. Placed and routed: ``fmax`` in MHz (the lowest of all seeds), ``seeds`` (MHz by seed),
        ``critical_path`` (of the slowest seed, :func:`.critical_path.critical_path`), and ``rates`` at that clock: by mode ``gmacs`` a
        second, ``gmacs_per_multiplier`` (None without multipliers) and ``gmacs_per_klut``, carry cells and LUT RAM counted as LUTs.
    """
    board = board_of(preset)
    target = find_device(device) if device is not None else DEVICES[DEFAULT_DEVICE] if board is None else board.device
    if unit == BOARD:
        board = _check_board(preset, board, device).at(clock_mhz, preset)
        config = _for_host(config, board)
        make = partial(synthesize_board, config, board, directory=directory)
        place = partial(route_board, board=board, seeds=seeds)
    else:
        _check(config, unit)

        def make(name: str) -> dict[str, Any]:
            return synthesize(UNITS[unit](config), name, device=target, directory=directory)

        place = partial(route, device=target, seeds=seeds, target_mhz=clock_mhz or TARGET_MHZ)
    if pnr and not seeds:
        raise ValueError("place and route takes at least one seed")
    if pnr and not target.family.router:
        raise ValueError(f"there is no free place and route for {target.name}; 'vitloom elaborate --board B' writes its vendor's project")
    for tool in (SYNTHESIS, *([target.family.router] if pnr else [])):
        find_tool(tool, EXTRA)
    found = make(f"{_name(config, preset, unit, clock_mhz)}-{target.name}")
    uses: list[Use] = found["uses"]
    result: dict[str, Any] = {
        "unit": unit,
        "preset": preset,
        "configuration": asdict(config),
        "lanes": config.lanes,
        "device": target.title,
        "cells": {use.kind.label: use.used for use in uses},
        "resources": [
            {"name": use.kind.name, "cell": use.kind.label, "used": use.used}
            | {"available": use.available, "percent": round(use.percent, 1)}
            for use in uses
        ],
        "does_not_fit": _excess(unit, target, uses),
    }
    if unit in _MULTIPLYING:
        result["macs_per_cycle"] = _macs(config)
    if pnr and not result["does_not_fit"]:
        result |= place(Path(found["directory"]))
        result |= {"rates": _rates(config, uses, result["fmax"])} if unit in _MULTIPLYING else {}
    return result


def synth_cells(
    config: CoreConfig,
    *,
    preset: str,
    liberty: Path,
    unit: str = "core",
    clock_mhz: float | None = None,
    directory: Path | str = "build/synth",
) -> dict[str, Any]:
    """Map ``unit`` to the standard cells of a liberty file, the core's units apart from each other.

    Returns
    -------
    dict
        ``unit``, ``preset``, ``configuration``, ``lanes``, and what :func:`.asic.map_to_cells` returns. Units with all MACs also have
        ``macs_per_cycle`` by mode, ``kge_per_mac``, ``gops`` (two operations a MAC) and ``gops_per_mm2`` (memories left out) of the first
        mode at ``mhz``.
    """
    _check(config, unit)
    check_installed()
    library = read_library(liberty)
    name, depth = f"{_name(config, preset, unit, clock_mhz)}-cells", _CORE_DEPTH if unit == "core" else 0
    mapped = map_to_cells(UNITS[unit](config), name, library, top=unit, depth=depth, clock_mhz=clock_mhz, directory=directory)
    result = {"unit": unit, "preset": preset, "configuration": asdict(config), "lanes": config.lanes, **mapped}
    if unit in _MULTIPLYING and result["mhz"]:
        macs = _macs(config)[config.modes[0]]
        gops = 2e-3 * macs * result["mhz"]
        result |= {"macs_per_cycle": _macs(config), "kge_per_mac": round(result["kge"] / macs, 3), "gops": round(gops, 2)}
        result["gops_per_mm2"] = round(gops / (result["area_um2"] / 1e6), 1)
    return result


def _check_board(preset: str, board: Board | None, device: str | None) -> Board:
    if board is None:
        raise ValueError(f"{preset} is no board's preset; there are {', '.join(BOARDS)}")
    if device is not None:
        raise ValueError(f"{board.name} has its own device, {board.device.name}")
    return board


def _for_host(config: CoreConfig, board: Board) -> CoreConfig:
    """The core that the board's design has, with a memory port as wide as the SDRAM's bus."""
    if board.sdram is not None and config.port_bytes != BUS_BYTES:
        config = replace(config, memory_bytes_per_cycle=BUS_BYTES)
    HostTop.check(board, config)
    return config


def _check(config: CoreConfig, unit: str) -> None:
    if unit not in UNITS:
        raise ValueError(f"no unit {unit!r}; there are {', '.join(UNITS)}")
    if unit not in units(config):
        raise ValueError(f"a serial core has no {unit}; it is synthesised whole, as core")


def _name(config: CoreConfig, preset: str, unit: str, clock_mhz: float | None) -> str:
    """Of a folder that no other configuration or clock has."""
    return f"{unit}-{preset}-{zlib.crc32(repr((config, clock_mhz)).encode()):08x}"


def _excess(unit: str, target: Device, uses: Iterable[Use]) -> str:
    """Which resources the device has too few of, by how many; "" when it has enough."""
    parts = [f"{use.excess:g} {use.kind.name} too many ({use.used:g} {use.kind.label} of {use.available})" for use in uses if use.excess]
    return f"{unit} does not fit {target.title}: {', '.join(parts)}" if parts else ""


def _macs(config: CoreConfig) -> dict[str, int]:
    """MACs of a cycle by mode."""
    return {mode: config.multipliers << PACKING[mode] for mode in config.modes}


def _rates(config: CoreConfig, uses: Iterable[Use], fmax: float) -> dict[str, dict[str, float | None]]:
    used = {use.kind.name: use.used for use in uses}
    multipliers, luts = used["multiplier"], used.get("LUT sites", used["LUT"])
    rates = {}
    for mode, macs in _macs(config).items():
        gmacs = macs * fmax / 1e3
        each = round(gmacs / multipliers, 4) if multipliers else None
        rates[mode] = {"gmacs": round(gmacs, 3), "gmacs_per_multiplier": each, "gmacs_per_klut": round(1e3 * gmacs / luts, 4)}
    return rates
