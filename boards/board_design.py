"""Resources and clock of a board's whole design: a core for a host, with its memory, its clock and the board's pins."""

from __future__ import annotations

import re
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..hw.config import CoreConfig
from . import Board
from .out_of_context import EXTRA, SYNTHESIS, cells_in, summary
from .project import board_plan
from .tools import find_tool, run_tool

__all__ = ["route_board", "synthesize_board"]

_STATISTICS = "tee -o stat.json stat -json"


def synthesize_board(config: CoreConfig, board: Board, name: str, directory: Path | str) -> dict[str, Any]:
    """Synthesise the project that ``vitloom elaborate --board B --uart`` writes; returns what :func:`.out_of_context.synthesize` does."""
    tool = find_tool(SYNTHESIS, EXTRA)
    work = Path(directory).resolve() / name
    work.mkdir(parents=True, exist_ok=True)
    board_plan(config, board, None, after_synthesis=_STATISTICS).extract(str(work))
    run_tool([tool, "-q", "-l", "yosys.log", "top.ys"], work, work / "yosys.log")
    uses = board.device.uses(cells_in(work / "stat.json", "top"))
    return {**{use.kind.label: use.used for use in uses}, "uses": uses, "directory": str(work)}


def route_board(work: Path, board: Board, seeds: Sequence[int]) -> dict[str, Any]:
    """Place and route it as its script does, for the clock that its constraints ask for, once for each seed."""
    router = board.device.family.router
    script = (work / "build_top.sh").read_text()
    line = next(line for line in script.splitlines() if line.startswith('"$NEXTPNR'))
    options = [word for word in shlex.split(line)[1:] if word != "--quiet"]
    del options[options.index("--log") : options.index("--log") + 2]
    modules = {name.removeprefix("\\top.").split("$")[0] for name in re.findall(r"^module (\S+)", (work / "top.debug.v").read_text(), re.M)}
    reports = {}
    for seed in seeds:
        report, log = work / f"report-{seed}.json", f"nextpnr-{seed}.log"
        command = [find_tool(router, EXTRA), *options, "--seed", str(seed), "--timing-allow-fail", "--report", report.name, "--log", log]
        run_tool(command, work, work / log)
        reports[seed] = report
    return summary(reports, modules)
