"""Tokens: makes instructions wait for those whose data, memory or bank they need, and estimates when each runs."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from ..hw import isa
from ..hw.config import CoreConfig
from .layout import ceil_div
from .program import Access, Buffer, Instruction, Port, Space, token_sources

__all__ = ["Footprint", "Hazards", "Span", "estimate", "synchronise"]

_ARRAY = isa.Queue.ARRAY.value
_RELAY = isa.Queue.STORE


@dataclass(frozen=True, slots=True)
class _Words:
    """An access, the memory that it goes to (before the memory plan, a buffer is a memory of its own) and its first and last + 1 word."""

    access: Access
    memory: str
    start: int
    end: int

    def overlaps(self, other: _Words) -> bool:
        if self.memory != other.memory or self.start >= other.end or other.start >= self.end:
            return False
        a, b = self.access, other.access
        if a.buffer != b.buffer:
            return True
        return a.row < b.row + b.rows and b.row < a.row + a.rows and a.word < b.word + b.words and b.word < a.word + a.words


@dataclass(frozen=True, slots=True, kw_only=True)
class Footprint:
    """Words and banks of an instruction: of all reads and writes, and of the reads through three of the ports; a bit for each bank."""

    queue: isa.Queue
    reads: list[_Words]
    writes: list[_Words]
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

    def footprint(self, instruction: Instruction) -> Footprint:
        """What :meth:`conflict` asks of an instruction, worked out once."""
        reads, writes = ([self._words(a) for a in accesses] for accesses in (instruction.reads, instruction.writes))
        return Footprint(
            queue=instruction.queue,
            reads=reads,
            writes=writes,
            read_banks=self._banks(reads),
            write_banks=self._banks(writes),
            moving=self._banks(reads, Port.MOVING),
            stationary=self._banks(reads, Port.STATIONARY),
            residual=self._banks(reads, Port.RESIDUAL),
        )

    def _words(self, a: Access) -> _Words:
        buffer = self.buffers[a.buffer]
        if not self.placed:
            return _Words(a, buffer.name, 0, 1)
        first = buffer.address + a.row * buffer.width + a.word
        return _Words(a, buffer.space, first, first + (a.rows - 1) * buffer.width + a.words)

    def _banks(self, accesses: Iterable[_Words], *ports: Port) -> int:
        """Banks of those accesses to the scratchpad (through ``ports``, if any are given), a bit each."""
        mask = 0
        for words in accesses:
            if words.memory is Space.SCRATCHPAD and (not ports or words.access.port in ports):
                first, last = words.start // self.config.bank_words, (words.end - 1) // self.config.bank_words
                mask |= (2 << last) - (1 << first)
        return mask

    @staticmethod
    def conflict(earlier: Footprint, later: Footprint, *, adjacent: bool) -> bool:
        """Whether ``later`` must wait; ``adjacent`` when it directly follows in the same queue."""
        if earlier.queue is not later.queue:
            if earlier.read_banks & later.read_banks or earlier.write_banks & later.write_banks:
                return True
        # The array fetches the first tile of an instruction while the one before streams, and streams while earlier ones drain.
        elif earlier.residual & (later.moving | later.stationary) or (adjacent and earlier.moving & later.stationary):
            return True
        pairs = ((earlier.writes, later.reads), (earlier.writes, later.writes), (earlier.reads, later.writes))
        return any(a.overlaps(b) for mine, theirs in pairs for a in mine for b in theirs)


@dataclass
class _Queue:
    """What is known of a queue: its instructions, and by queue how many are surely at an end when its next one starts."""

    indices: list[int]
    clock: list[int]


def synchronise(instructions: Sequence[Instruction], hazards: Hazards) -> list[Instruction]:
    """The program with ``wait`` and ``give`` set.

    A SYNC comes in wherever an array instruction needs the end of an earlier one that is not the last.

    Each queue runs in order. An instruction waits for the latest one that it needs in each other queue, unless what it waits for anyway
    ended after that one.
    """
    result: list[Instruction] = []
    footprints: list[Footprint] = []
    positions: list[int] = []  # by instruction: which one of its queue it is
    ends: list[list[int]] = []  # by instruction: how many of each queue have ended when it has ended
    queues = [_Queue([], [0] * isa.QUEUES) for _ in range(isa.QUEUES)]

    def give(source: int, target: int) -> None:
        result[source] = replace(result[source], give=result[source].give | 1 << target)

    def append(instruction: Instruction, footprint: Footprint, clock: list[int]) -> None:
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
        footprints.append(footprint)

    def join(clock: list[int], source: int) -> list[int]:
        return [max(a, b) for a, b in zip(clock, ends[source], strict=True)]

    def relay(source: int) -> int:
        """Index of a SYNC that ends after the array instruction ``source``."""
        clock, wait = start_clock(_RELAY.value), 0
        if clock[_ARRAY] <= positions[source]:
            give(source, _RELAY.value)
            wait, clock = 1 << _ARRAY, join(clock, source)
        sync = Instruction(opcode=isa.Opcode.SYNC, queue=_RELAY, layer=result[source].layer, wait=wait)
        append(sync, hazards.footprint(sync), clock)
        return len(result) - 1

    def start_clock(queue: int) -> list[int]:
        """What has ended when the next instruction of the queue starts: all of the queue, where one runs at a time."""
        known = queues[queue]
        return list(ends[known.indices[-1]]) if queue != _ARRAY and known.indices else list(known.clock)

    def needs(mine: Footprint, clock: list[int]) -> list[int]:
        """The latest instruction of each queue that conflicts, in the order of the program from the last on."""
        found = []
        for number, queue in enumerate(queues):
            own = number == mine.queue.value
            if own and number != _ARRAY:
                continue
            for position in range(len(queue.indices) - 1, clock[number] - 1, -1):
                adjacent = own and position == len(queue.indices) - 1
                if hazards.conflict(footprints[queue.indices[position]], mine, adjacent=adjacent):
                    found.append(queue.indices[position])
                    break
        return sorted(found, reverse=True)

    for instruction in instructions:
        number, footprint = instruction.queue.value, hazards.footprint(instruction)
        clock, wait = start_clock(number), 0
        for source in needs(footprint, clock):
            origin = result[source].queue.value
            if clock[origin] > positions[source]:
                continue
            if origin != number:
                give(source, number)
                wait |= 1 << origin
            elif source == queues[number].indices[-1]:
                wait |= 1 << number
            else:
                source = relay(source)
                give(source, number)
                wait |= 1 << _RELAY.value
            clock = join(clock, source)
        append(replace(instruction, wait=wait) if wait else instruction, footprint, clock)
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
    for instruction, mine in zip(instructions, sources, strict=True):
        number = instruction.queue.value
        start = max([free[number], *(spans[i].end for i in mine)])
        if instruction.wait >> number & 1:
            start = max(start, ended[number])
        busy, tail = _cycles(instruction, config)
        if instruction.opcode is isa.Opcode.MATMUL:
            end = max(start + busy + tail, ended[number])
        else:
            end = start + busy + tail
            busy += tail
        free[number], ended[number] = start + busy, end
        spans.append(Span(start, start + busy, end))
    return spans


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
