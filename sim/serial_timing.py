"""When the instructions of a serial core start and end."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from ..hw.config import CoreConfig
from ..hw.isa import Opcode, Target
from ..hw.load_engine import LoadEngine
from ..hw.serial.engine import SerialArrayEngine
from ..hw.serial.sequencer import SerialSequencer
from ..hw.store_engine import StoreEngine
from .sequencer_timing import Timing

__all__ = ["serial_schedule"]


def serial_schedule(instructions: Sequence[Mapping[str, int]], config: CoreConfig) -> tuple[list[Timing], int]:
    """As :func:`.timing.schedule`: each instruction begins when the one before has ended and it has been read."""
    timings, end = [], 0
    for instruction in instructions:
        start = end + SerialSequencer.FETCH_CYCLES
        if instruction["opcode"] == Opcode.END.value:
            return timings, start
        end = start + _cycles(instruction, config)
        timings.append(Timing(dispatch=start, start=start, done=end))
    raise ValueError(f"a program ends with END, this one of {len(instructions)} instructions has none")


def _cycles(instruction: Mapping[str, int], config: CoreConfig) -> int:
    """Cycles from start to ``done``."""
    match Opcode(instruction["opcode"]):
        case Opcode.LOAD:
            return LoadEngine.cycles(config, instruction["words"], Target(instruction["target"]))
        case Opcode.STORE:
            return StoreEngine.cycles(config, instruction["words"])
        case Opcode.MATMUL:
            shape = (instruction[name] for name in ("rows", "k_tiles", "n_tiles", "form"))
            return SerialArrayEngine.cycles(config, *shape)
        case Opcode.SYNC:
            return 0
        case opcode:
            raise ValueError(f"a serial core has no {opcode.name}")
