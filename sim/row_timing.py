"""When the row engine accepts and ends each SOFTMAX and NORM: the rules of ``hw/rows``, in plain arithmetic."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping

from ..hw.config import CoreConfig
from ..hw.isa import Opcode
from ..hw.rows.engine import INPUT_LATENCY, RowEngine
from ..hw.rows.rsqrt import NORM_SETTINGS
from ..hw.sequencer import Sequencer

__all__ = ["RowTiming"]


class RowTiming:
    """State of the row engine between two instructions. Cycle numbers are absolute.

    Parameters
    ----------
    config : CoreConfig
    """

    def __init__(self, config: CoreConfig) -> None:
        self.config = config
        self.ready = 0  # first cycle in which an instruction that goes with the last one can be accepted
        self.left = [0, 0]  # first cycle after the last word that left each row buffer of the unit
        self.dones: deque[int] = deque([0], maxlen=Sequencer.IN_FLIGHT)
        self.kind: tuple[int, ...] = ()  # what instructions in flight have in common

    def accept(self, cycle: int, instruction: Mapping[str, int]) -> tuple[int, int]:
        """Cycles in which a SOFTMAX or NORM offered from ``cycle`` on is accepted, and in which ``done`` comes."""
        opcode, row = Opcode(instruction["opcode"]), instruction["words"] * self.config.row_parts
        words = instruction["rows"] * row
        shared = ["output_packing", *(NORM_SETTINGS.members if opcode is Opcode.NORM else [])]
        kind = opcode.value, *(instruction[name] for name in shared)
        full = len(self.dones) == self.dones.maxlen
        idle = self.dones[-1]
        start = max(cycle, self.ready, idle if kind != self.kind else self.dones[0] if full else 0)
        start = max(start, cycle + 1) + 1  # it is checked first, and readiness is a register
        unit = RowEngine.unit(opcode)
        place = start + 1 + INPUT_LATENCY  # of the first word
        for stage, cycles in enumerate(unit.stages(self.config, row)):
            place = max(place + cycles, self.left[stage])
            self.left[stage] = place + words
        self.ready, self.kind = start + words + 1, kind
        self.dones.append(place + unit.after_stages(self.config) + RowEngine.output_latency(self.config) + words)
        return start, self.dones[-1]
