"""Resources and clock of a board's whole design: a core for a host, with its memory, its clock and the board's pins."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..hw.config import CoreConfig
from . import Board
from .out_of_context import run_router, run_synthesis
from .project import board_plan

__all__ = ["route_board", "synthesize_board"]

_TOP = "top"
_STATISTICS = "tee -o stat.json stat -json"


def synthesize_board(config: CoreConfig, board: Board, name: str, directory: Path | str) -> dict[str, Any]:
    """Synthesise the project that ``vitloom elaborate --board B --uart`` writes; returns what :func:`.out_of_context.synthesize` does."""
    work = Path(directory).resolve() / name
    board_plan(config, board, None, after_synthesis=_STATISTICS).extract(str(work))
    return run_synthesis(work, f"{_TOP}.ys", board.device, _TOP)


def route_board(work: Path, board: Board, seeds: Sequence[int]) -> dict[str, Any]:
    """Place and route it with the options of its own script, for the clock that its constraints ask for."""
    line = next(line for line in (work / "build_top.sh").read_text().splitlines() if line.startswith('"$NEXTPNR'))
    options = [word for word in shlex.split(line)[1:] if word != "--quiet"]
    place = options.index("--log")
    return run_router(work, board.device, options[:place] + options[place + 2 :], seeds, verilog=f"{_TOP}.debug.v", top=_TOP)
