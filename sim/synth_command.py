"""``vitloom synth``: its options, and what it does with them."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from pathlib import Path

from ..boards.devices import DEFAULT_DEVICE, DEVICES
from ..boards.synth import BOARD, UNITS, synth, synth_cells, units, whole
from ..hw.config import CoreConfig
from .report_text import write_json
from .synth_text import print_cells, print_synthesis

__all__ = ["add_options", "check_clock", "run_synth"]

_ALL = "all"


def add_options(command: argparse.ArgumentParser) -> None:
    """The options that only this command has."""
    units = f"one of {', '.join(UNITS)}; {BOARD}: all of a board around a core for a host; {_ALL}: each unit"
    otherwise = f"(default {BOARD} for a preset of a board with memory for a host, else core)"
    command.add_argument("--unit", metavar="U", choices=(*UNITS, BOARD, _ALL), help=f"{units} {otherwise}")
    devices = f"one of {', '.join(DEVICES)} (default: that of the preset's board, else {DEFAULT_DEVICE})"
    command.add_argument("--device", metavar="D", help=devices)
    command.add_argument("--pnr", action="store_true", help="place and route, too")
    command.add_argument("--seeds", metavar="N", type=int, help="place and route with seeds 1 to N; the lowest clock counts (default 1)")
    command.add_argument("--liberty", metavar="F", type=Path, help="map to the standard cells of this .lib or .lib.gz, not to an FPGA")
    command.add_argument(
        "--clock",
        metavar="MHZ",
        type=float,
        help="clock that place and route, or the choice of cells, aims at, and that a board's PLL makes",
    )


def run_synth(given: argparse.Namespace, config: CoreConfig, progress: Callable[[str], None]) -> int:
    """Synthesise, and print or write the results. Raises ``ValueError`` when place and route was asked for and a unit does not fit."""
    _check(given)
    results, problems = [], []
    wanted = given.unit or (whole(given.preset) if given.liberty is None and given.device is None else "core")
    for unit in units(config) if wanted == _ALL else [wanted]:
        progress(f"synthesising {unit}, minutes for a large one")
        if given.liberty is not None:
            result = synth_cells(config, preset=given.preset, unit=unit, liberty=given.liberty, clock_mhz=given.clock)
        else:
            seeds = range(1, (given.seeds or 1) + 1)
            result = synth(config, preset=given.preset, unit=unit, device=given.device, pnr=given.pnr, seeds=seeds, clock_mhz=given.clock)
            problems += [result["does_not_fit"]] if result["does_not_fit"] else []
        results.append(result)
        if given.json != "-":
            (print_synthesis if given.liberty is None else print_cells)(result, sys.stdout)
    if given.json:
        write_json({"results": results} if given.unit == _ALL else results[0], given.json)
    if problems and given.pnr:
        raise ValueError("; ".join(problems))
    for problem in problems:
        progress(problem)
    return 0


def check_clock(clock_mhz: float | None) -> None:
    """Refuse what ``--clock`` cannot be."""
    if clock_mhz is not None and not 0 < clock_mhz < float("inf"):
        raise ValueError(f"--clock must be more than 0 MHz, not {clock_mhz}")


def _check(given: argparse.Namespace) -> None:
    """Refuse options that say nothing, or contradict each other, before any work is done."""
    if given.liberty is not None and (given.pnr or given.device is not None or given.seeds is not None):
        raise ValueError("--liberty is for standard cells; --device, --pnr and --seeds are for FPGAs")
    if given.seeds is not None and not given.pnr:
        raise ValueError("--seeds goes with --pnr")
    if given.seeds is not None and given.seeds < 1:
        raise ValueError(f"--seeds must be at least 1, not {given.seeds}")
    if given.clock is not None and given.liberty is None and not given.pnr:
        raise ValueError("--clock goes with --pnr or --liberty")
    check_clock(given.clock)
