"""The timing model: start and end of every instruction, and the cycles of a run, from the program and the configuration alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from ..hw.config import CoreConfig
from ..hw.isa import Queue, Target
from ..hw.load_engine import LoadEngine
from ..hw.store_engine import StoreEngine
from .array_timing import ArrayTiming
from .row_timing import RowTiming
from .sequencer_timing import Engine, Timing, simulate_queues
from .serial_timing import serial_schedule

__all__ = ["Timing", "schedule"]


class _OneAtATime:
    """An engine that is busy from the start of an instruction to its end."""

    #: Cycles from the end of an instruction to the earliest start of the next one.
    restart = 0

    def __init__(self, config: CoreConfig) -> None:
        self.config = config
        self.ready = 0

    def cycles(self, instruction: Mapping[str, int]) -> int:
        raise NotImplementedError

    def accept(self, cycle: int, instruction: Mapping[str, int]) -> tuple[int, int]:
        start = max(cycle, self.ready)
        done = start + self.cycles(instruction)
        self.ready = done + self.restart
        return start, done


def _waits(config: CoreConfig, instruction: Mapping[str, int]) -> int:
    """Cycles in which a memory moves no beat of an instruction that it has begun (``memory_efficiency``), rounded up."""
    return -(-instruction["words"] * config.beats * (1000 - config.memory_efficiency) // config.memory_efficiency)


class _Load(_OneAtATime):
    def cycles(self, instruction: Mapping[str, int]) -> int:
        return LoadEngine.cycles(self.config, instruction["words"], Target(instruction["target"])) + _waits(self.config, instruction)


class _Store(_OneAtATime):
    def cycles(self, instruction: Mapping[str, int]) -> int:
        return StoreEngine.cycles(self.config, instruction["words"]) + _waits(self.config, instruction)


def schedule(instructions: Sequence[Mapping[str, int]], config: CoreConfig) -> tuple[list[Timing], int]:
    """Timing of each instruction before END and the cycles of the run, counted from the cycle in which it starts.

    Exact for a memory that accepts every request and beat at once and answers ``memory_latency`` cycles later without pause; the core's
    cycle register then shows the second value. With a ``memory_efficiency`` of less than 1000 it is an estimate.
    ``instructions``: header and body fields of each instruction by name, END included.
    """
    if config.serial:
        return serial_schedule(instructions, config)
    engines: dict[Queue, Engine] = {
        Queue.LOAD: _Load(config),
        Queue.ARRAY: ArrayTiming(config),
        Queue.ROWS: RowTiming(config),
        Queue.STORE: _Store(config),
    }
    block = config.program_block if config.program_stream else 0
    return simulate_queues(instructions, [engines[queue] for queue in Queue], queue_depth=config.queue_depth, block=block)
