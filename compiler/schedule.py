"""Tokens: makes instructions wait for those whose data, memory or bank they need, and estimates when each runs."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from ..hw import isa
from ..hw.config import CoreConfig
from ..hw.sequencer import Sequencer
from .layout import ceil_div
from .program import Access, Buffer, Instruction, Port, Space, token_sources

__all__ = ["OVERLAPPING", "Hazards", "Span", "busiest", "estimate", "load_ahead", "synchronise"]

_ARRAY, _ROWS = isa.Queue.ARRAY.value, isa.Queue.ROWS.value
#: Queues whose instructions may start before the one before has ended.
OVERLAPPING = (_ARRAY, _ROWS)
_RELAY = isa.Queue.STORE


#: One access: memory (or buffer, before addresses are known), first word, end, and what it was made from.
_Part = tuple[str, int, int, Access]


@dataclass(frozen=True)
class _Touch:
    """What an instruction touches, and the banks that it reads (in all and by port) and writes, a bit each."""

    queue: isa.Queue
    reads: list[_Part]
    writes: list[_Part]
    everything: list[_Part]
    read_banks: int
    write_banks: int
    moving: int
    stationary: int
    residual: int


class Hazards:
    """Decides whether an instruction must wait for the end of an earlier one.

    Parameters
    ----------
    buffers : dict of str to Buffer
    config : CoreConfig
    placed : bool
        Whether the buffers have their addresses: before that, different buffers share neither words nor banks.
    """

    def __init__(self, buffers: Mapping[str, Buffer], config: CoreConfig, *, placed: bool) -> None:
        self.buffers, self.config, self.placed = buffers, config, placed

    def touch(self, instruction: Instruction) -> _Touch:
        """What the decision takes of an instruction."""
        reads, writes = ([self._part(a) for a in accesses] for accesses in (instruction.reads, instruction.writes))
        banks = {
            port: self._banks(part for part in reads if part[3].port is port) for port in (Port.MOVING, Port.STATIONARY, Port.RESIDUAL)
        }
        moving, stationary, residual = banks.values()
        both = [*reads, *writes]
        return _Touch(instruction.queue, reads, writes, both, self._banks(reads), self._banks(writes), moving, stationary, residual)

    def _part(self, a: Access) -> _Part:
        buffer = self.buffers[a.buffer]
        first = (buffer.address if self.placed else 0) + a.row * buffer.width + a.word
        return buffer.space.value if self.placed else a.buffer, first, first + (a.rows - 1) * buffer.width + a.words, a

    def _banks(self, parts: Iterable[_Part]) -> int:
        """Banks of those accesses that are to the scratchpad, a bit each."""
        mask = 0
        if self.placed:
            size = self.config.bank_words
            for memory, start, end, _ in parts:
                if memory == Space.SCRATCHPAD.value:
                    mask |= (2 << (end - 1) // size) - (1 << start // size)
        return mask

    def conflict(self, earlier: _Touch, later: _Touch, *, adjacent: bool) -> bool:
        """Whether ``later`` must wait; ``adjacent`` when it directly follows in the same queue."""
        # The array writes in order, and parts of a word that others leave alone.
        ordered = earlier.queue is later.queue is isa.Queue.ARRAY
        if _meet(earlier.writes, later.reads if ordered else later.everything) or _meet(earlier.reads, later.writes):
            return True
        if earlier.queue is not later.queue:
            return bool(earlier.read_banks & later.read_banks | earlier.write_banks & later.write_banks)
        # The array fetches the first tile of an instruction while the one before streams, and streams while earlier ones drain.
        return bool(earlier.residual & (later.moving | later.stationary) or adjacent and earlier.moving & later.stationary)


def _meet(some: list[_Part], others: list[_Part]) -> bool:
    """Whether some words are in both; of one buffer, rows and columns are compared."""
    for memory, start, end, a in some:
        for other, other_start, other_end, b in others:
            if memory != other or start >= other_end or other_start >= end:
                continue
            if a.buffer != b.buffer or (
                a.row < b.row + b.rows and b.row < a.row + a.rows and a.word < b.word + b.words and b.word < a.word + a.words
            ):
                return True
    return False


def load_ahead(instructions: Sequence[Instruction], buffers: Mapping[str, Buffer], config: CoreConfig) -> list[Instruction]:
    """The program with every LOAD moved up: the array then finds its weights there.

    A LOAD stays behind the LOAD before it, behind the last use of what it overwrites, and behind the use of a LOAD that comes so many
    before it as nearly fill the queue, so that the queue never keeps other instructions from being dispatched.
    """
    last_use = {space: np.full(_space_words(space, buffers, config), -1) for space in Space}
    behind: dict[int, list[Instruction]] = {}
    uses: list[int] = []  # by LOAD: the instruction that it was in front of
    place = -1
    for index, instruction in enumerate(instructions):
        parts = []
        for access in (*instruction.reads, *instruction.writes):
            buffer = buffers[access.buffer]
            if buffer.fixed:
                first = buffer.address + access.row * buffer.width
                parts.append(last_use[buffer.space][first : first + access.rows * buffer.width])
        if instruction.opcode is isa.Opcode.LOAD:
            place = max(place, *(int(part.max()) for part in parts), *uses[-config.queue_depth * 3 // 4 :][:1], -1)
            uses.append(index)
            behind.setdefault(place, []).append(instruction)
        for part in parts:
            part[:] = index if instruction.opcode is not isa.Opcode.LOAD else place
    result = list(behind.get(-1, []))
    for index, instruction in enumerate(instructions):
        if instruction.opcode is not isa.Opcode.LOAD:
            result.append(instruction)
        result += behind.get(index, [])
    return result


def _space_words(space: Space, buffers: Mapping[str, Buffer], config: CoreConfig) -> int:
    if space is Space.SCRATCHPAD:
        return config.scratchpad_words
    return max((buffer.address + buffer.words for buffer in buffers.values() if buffer.space is space), default=0)


@dataclass
class _Queue:
    """What is known of a queue: its instructions, and by queue how many are surely at an end when its next one starts."""

    indices: list[int]
    clock: list[int]


def synchronise(instructions: Sequence[Instruction], hazards: Hazards) -> list[Instruction]:
    """The program with ``wait`` and ``give`` set.

    A SYNC comes in wherever an array instruction needs the end of an earlier one that is not the last.

    Each queue runs in order, and has at most ``Sequencer.IN_FLIGHT`` instructions that have not ended. An instruction waits for the latest
    one that it needs in each other queue, unless what it waits for anyway ended after that one.
    """
    result: list[Instruction] = []
    touches: list[_Touch] = []
    positions: list[int] = []  # by instruction: which one of its queue it is
    ends: list[list[int]] = []  # by instruction: how many of each queue have ended when it has ended
    queues = [_Queue([], [0] * isa.QUEUES) for _ in range(isa.QUEUES)]

    def give(source: int, target: int) -> None:
        result[source] = replace(result[source], give=result[source].give | 1 << target)

    def append(instruction: Instruction, clock: list[int]) -> None:
        """Put an instruction at the end; ``clock`` is what has ended when it starts."""
        queue = queues[instruction.queue.value]
        before = ends[queue.indices[-1]] if queue.indices else [0] * isa.QUEUES
        queue.clock = clock
        end = [max(a, b) for a, b in zip(clock, before, strict=True)]
        positions.append(len(queue.indices))
        queue.indices.append(len(result))
        end[instruction.queue.value] = len(queue.indices)
        ends.append(end)
        result.append(instruction)
        touches.append(hazards.touch(instruction))

    def join(clock: list[int], source: int) -> list[int]:
        return [max(a, b) for a, b in zip(clock, ends[source], strict=True)]

    def relay(source: int) -> int:
        """Index of a SYNC that ends after the array instruction ``source``."""
        clock, wait = start_clock(_RELAY.value), 0
        if clock[_ARRAY] <= positions[source]:
            give(source, _RELAY.value)
            wait, clock = 1 << _ARRAY, join(clock, source)
        append(Instruction(opcode=isa.Opcode.SYNC, queue=_RELAY, layer=result[source].layer, wait=wait), clock)
        return len(result) - 1

    def start_clock(queue: int) -> list[int]:
        """What has ended when the next instruction of the queue starts."""
        known = queues[queue]
        ended = len(known.indices) - (Sequencer.IN_FLIGHT if queue in OVERLAPPING else 1)
        return join(known.clock, known.indices[ended]) if ended >= 0 else list(known.clock)

    def needs(instruction: Instruction, clock: list[int]) -> list[int]:
        """The latest instruction of each queue that conflicts, in the order of the program from the last on."""
        found, mine = [], hazards.touch(instruction)
        for number, queue in enumerate(queues):
            own = number == instruction.queue.value
            if own and number not in OVERLAPPING:
                continue
            for position in range(len(queue.indices) - 1, clock[number] - 1, -1):
                adjacent = own and position == len(queue.indices) - 1
                if hazards.conflict(touches[queue.indices[position]], mine, adjacent=adjacent):
                    found.append(queue.indices[position])
                    break
        return sorted(found, reverse=True)

    for instruction in instructions:
        number = instruction.queue.value
        clock, wait = start_clock(number), 0
        for source in needs(instruction, clock):
            origin = result[source].queue.value
            if clock[origin] > positions[source]:
                continue
            if origin != number:
                give(source, number)
                wait |= 1 << origin
            elif number == _ROWS or source == queues[number].indices[-1]:
                # The row engine is soon done with all that it has begun.
                source = queues[number].indices[-1]
                wait |= 1 << number
            else:
                source = relay(source)
                give(source, number)
                wait |= 1 << _RELAY.value
            clock = join(clock, source)
        append(replace(instruction, wait=wait), clock)
    return result


@dataclass(frozen=True)
class Span:
    """Estimated first and last cycle of an instruction; ``free`` is when its engine takes the next."""

    start: int
    free: int
    end: int


def estimate(instructions: Sequence[Instruction], config: CoreConfig) -> list[Span]:
    """Roughly when each instruction runs: for choosing between plans, and for what lies beside what in the scratchpad."""
    sources = token_sources(list(instructions))
    free = [0] * isa.QUEUES
    ended = [0] * isa.QUEUES
    spans: list[Span] = []
    unit = isa.Opcode.NORM
    for instruction, mine in zip(instructions, sources, strict=True):
        number = instruction.queue.value
        start = max([free[number], *(spans[i].end for i in mine)])
        if instruction.wait >> number & 1:
            start = max(start, ended[number])
        busy, tail = _cycles(instruction, config)
        if number == _ROWS and instruction.opcode is not unit:
            start, unit = max(start, ended[number]), instruction.opcode
        if number in OVERLAPPING:
            end = max(start + busy + tail, ended[number])
        else:
            end = start + busy + tail
            busy += tail
        free[number], ended[number] = start + busy, end
        spans.append(Span(start, start + busy, end))
    return spans


def busiest(instructions: Sequence[Instruction], config: CoreConfig) -> int:
    """Cycles for which the engine with the most work is busy."""
    totals = [0] * isa.QUEUES
    for instruction in instructions:
        totals[instruction.queue.value] += _cycles(instruction, config)[0]
    return max(totals)


def _cycles(instruction: Instruction, config: CoreConfig) -> tuple[int, int]:
    """Cycles that an instruction occupies its engine, and cycles from then to its end."""
    fields, lanes = instruction.fields, config.lanes
    match instruction.opcode:
        case isa.Opcode.LOAD | isa.Opcode.STORE:
            return ceil_div(fields["words"] * lanes, min(config.memory_bytes_per_cycle, config.port_bytes)), config.memory_latency
        case isa.Opcode.SOFTMAX | isa.Opcode.NORM:
            return fields["rows"] * fields["words"], 2 * fields["words"] + 40
        case isa.Opcode.MATMUL:
            period = 4 if fields["form"] == isa.Form.RAW.value else config.groups
            tile = max(fields["k_tiles"] * max(fields["rows"], lanes), fields["rows"] * period)
            return fields["n_tiles"] * tile, fields["rows"] * period + 3 * lanes + 30
        case _:
            return 0, 1
