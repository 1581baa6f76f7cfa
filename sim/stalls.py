"""What a memory that stalls at random does to the cycles of a run: between which bounds they are."""

from __future__ import annotations

import math

from ..compiler.layout import ceil_div
from ..compiler.program import Program
from ..hw.isa import Opcode
from ..hw.memory_port import MAX_BURST

__all__ = ["check_seed", "cycle_bounds", "handshakes"]

#: Of `testbench.v`: probability that a handshake waits for a cycle, in each cycle.
_PROBABILITY = 1 / 4
_DEVIATIONS = 6
_LAST_SEED = (1 << 32) - 1


def check_seed(seed: int) -> None:
    """Raise ``ValueError`` unless a seed makes ``testbench.v`` stall."""
    if not 1 <= seed <= _LAST_SEED:
        raise ValueError(f"the seed of stalls must be 1 to {_LAST_SEED}, not {seed}")


def handshakes(program: Program) -> int:
    """Transfers on the five streams of the memory port in a run: a request a burst, the beats, and a response a burst written."""
    count = 0
    for instruction in program.instructions:
        beats = instruction.fields.get("words", 0) * program.config.beats
        bursts = ceil_div(beats, MAX_BURST)
        if instruction.opcode is Opcode.LOAD:
            count += bursts + beats
        elif instruction.opcode is Opcode.STORE:
            count += bursts + beats + bursts
    return count


def cycle_bounds(program: Program, cycles: int) -> tuple[int, int]:
    """Least and most cycles of a run with stalls, ``cycles`` being those of the timing model, without.

    Every cycle of the core's events is a maximum of earlier ones plus constants. So a handshake that waits never makes anything earlier
    (the least is the model's), and at most makes everything after it later by the cycles that it waits: the most is the model's plus all
    waits together. The waits of n handshakes, geometric with p = 1/4 a cycle, are n p / (1 - p) on average with a deviation of
    sqrt(n p) / (1 - p). The bound is six deviations above, which no seed is expected to reach; most waits hide behind the array.
    """
    count = handshakes(program)
    average = count * _PROBABILITY / (1 - _PROBABILITY)
    deviation = math.sqrt(count * _PROBABILITY) / (1 - _PROBABILITY)
    return cycles, cycles + math.ceil(average + _DEVIATIONS * deviation)
