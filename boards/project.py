"""A board's project: its top as RTLIL, constraints, and scripts that call the tools."""

from __future__ import annotations

from amaranth.build.run import BuildPlan

from ..hw.config import CoreConfig
from . import Board
from .demo import Demo
from .floorplan import floorplan
from .jobs import Job
from .out_of_context import HIDE_ELEMENTS
from .top import BoardTop, HostTop

__all__ = ["board_plan"]

#: For designs whose multipliers have places: the placer that keeps the wires between them short. The router stays nextpnr's own choice,
#: ``router1``: it takes longer than ``router2``, and its clock is half again as high.
_PLACER = "--placer static"


def board_plan(config: CoreConfig, board: Board, job: Job | None, *, after_synthesis: str = "") -> BuildPlan:
    """The project of amaranth-boards: a core for a host at the UART, or what runs ``job``.

    ``after_synthesis`` : commands of Yosys, in front of the netlist's output.
    """
    top = HostTop(board, config) if job is None else BoardTop(board, Demo(config, job))
    options = {"synth_opts": board.device.family.options}
    if "yosys" in board.tools:
        places = floorplan(config, board.device)
        commands = "\n".join(part for part in (places, after_synthesis) if part)
        options |= {"script_after_read": HIDE_ELEMENTS, "script_after_synth": commands}
        if places:
            options["nextpnr_opts"] = _PLACER
    return board.platform().prepare(top, "top", debug_verilog=True, emit_src=False, **options)
