"""Verifies a program on its encoded instructions: no two that may run together touch the same words or one port of a bank."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from ..hw import isa
from ..hw.config import CoreConfig
from ..hw.memory_engines import table_words
from .program import Program, token_sources

__all__ = ["check"]

_MAX_TOKENS = (1 << 6) - 1
_ARRAY = isa.Queue.ARRAY.value


@dataclass
class _Words:
    """Addresses of one memory, as a base and steps with counts."""

    base: int
    steps: tuple[tuple[int, int], ...]
    port: str = ""

    @property
    def last(self) -> int:
        return self.base + sum(step * (count - 1) for step, count in self.steps)

    @cached_property
    def touched(self) -> NDArray[np.bool_]:
        """Which of the words from ``base`` to ``last`` they are."""
        offsets = np.zeros(1, np.int64)
        for step, count in self.steps:
            offsets = (offsets[:, None] + step * np.arange(count)).ravel()
        result = np.zeros(self.last - self.base + 1, bool)
        result[offsets] = True
        return result

    def within(self, first: int, end: int) -> NDArray[np.bool_]:
        """:attr:`touched` of the words from ``first`` to ``end - 1``."""
        return self.touched[max(0, first - self.base) : max(0, end - self.base)]

    def overlaps(self, other: _Words) -> bool:
        first, end = max(self.base, other.base), min(self.last, other.last) + 1
        return first < end and bool((self.within(first, end) & other.within(first, end)).any())


@dataclass
class _Footprint:
    """What an instruction touches, by memory (a load target; the scratchpad is SCRATCHPAD), and the bank ports it uses, a bit each."""

    reads: dict[isa.Target, list[_Words]] = field(default_factory=dict)
    writes: dict[isa.Target, list[_Words]] = field(default_factory=dict)
    read_banks: int = 0
    write_banks: int = 0
    ports: dict[str, int] = field(default_factory=dict)

    def read(self, memory: isa.Target, base: int, *steps: tuple[int, int], port: str = "") -> None:
        self.reads.setdefault(memory, []).append(_Words(base, steps, port))

    def write(self, memory: isa.Target, base: int, *steps: tuple[int, int]) -> None:
        self.writes.setdefault(memory, []).append(_Words(base, steps))

    def close(self, config: CoreConfig) -> None:
        """Compute the banks."""

        def banks(words: _Words) -> int:
            size = config.bank_words
            possible = range(words.base // size, words.last // size + 1)
            return sum(1 << bank for bank in possible if words.within(bank * size, (bank + 1) * size).any())

        for words in self.reads.get(isa.Target.SCRATCHPAD, []):
            self.ports[words.port] = banks(words)
            self.read_banks |= banks(words)
        for words in self.writes.get(isa.Target.SCRATCHPAD, []):
            self.write_banks |= banks(words)

    def touches(self, other: _Footprint) -> bool:
        """Whether one writes what the other reads or writes."""
        pairs = ((self.writes, other.writes), (self.writes, other.reads), (self.reads, other.writes))
        return any(
            a.overlaps(b) for mine, theirs in pairs for memory in mine.keys() & theirs.keys() for a in mine[memory] for b in theirs[memory]
        )


def _footprint(opcode: isa.Opcode, f: dict[str, int], config: CoreConfig) -> _Footprint:
    result, pad, table = _Footprint(), isa.Target.SCRATCHPAD, table_words(config.lanes)
    match opcode:
        case isa.Opcode.LOAD:
            target = isa.Target(f["target"])
            result.write(target, f["destination"], (1, f["words"]))
        case isa.Opcode.STORE:
            result.read(pad, f["source"], (1, f["words"]), port="store")
        case isa.Opcode.MATMUL:
            rows, k, n = f["rows"], f["k_tiles"], f["n_tiles"]
            result.read(pad, f["moving"], (f["moving_row"], rows), (f["moving_k"], k), port="moving")
            steps = ((f["stationary_word"], config.lanes), (f["stationary_k"], k), (f["stationary_n"], n))
            result.read(pad, f["stationary"], *steps, port="stationary")
            if f["form"] == isa.Form.RESIDUAL.value:
                result.read(pad, f["residual"], (f["output_row"], rows), (f["output_n"], n), port="residual")
            if f["form"] == isa.Form.TABLE.value:
                result.read(isa.Target.FUNCTION_TABLE, f["table"] * table, (1, table))
            words = 4 if f["form"] == isa.Form.RAW.value else 1
            result.write(pad, f["output"], (f["output_row"], rows), (f["output_n"], n), (1, words))
            blocks = n if f["constant_n"] else 1
            result.read(isa.Target.CONSTANTS, f["constant"] * isa.CONSTANT_BYTES, (1, blocks * isa.CONSTANT_BYTES))
        case isa.Opcode.SOFTMAX | isa.Opcode.NORM:
            result.read(pad, f["input"], (f["input_row"], f["rows"]), (f["input_word"], f["words"]), port="rows")
            result.write(pad, f["output"], (f["output_row"], f["rows"]), (f["output_word"], f["words"]))
            if opcode is isa.Opcode.SOFTMAX:
                result.read(isa.Target.EXP_TABLE, f["table"] * table, (1, table))
            else:
                result.read(isa.Target.NORM_CONSTANTS, f["constant"] * isa.NORM_BYTES, (1, f["words"] * isa.NORM_BYTES))
        case _:
            pass
    result.close(config)
    return result


def _meet(earlier: _Footprint, later: _Footprint, *, same_queue: bool, adjacent: bool) -> str:
    """Why two instructions that may run together must not, or an empty string."""
    if earlier.touches(later):
        return "touch the same words"
    if not same_queue:
        if earlier.read_banks & later.read_banks:
            return "read from one bank"
        return "write to one bank" if earlier.write_banks & later.write_banks else ""
    stationary = later.ports.get("stationary", 0)
    if earlier.ports.get("residual", 0) & (later.ports.get("moving", 0) | stationary):
        return "read from one bank while one drains"
    return "read from one bank while the array fetches ahead" if adjacent and earlier.ports.get("moving", 0) & stationary else ""


def check(program: Program) -> None:
    """Raise ``RuntimeError`` where instructions that no tokens order could collide, an address is outside, or tokens could overflow.

    Recomputes everything from the encoded words: which words each instruction touches, and from queues and tokens which instructions have
    surely ended when another starts.
    """
    config = program.config
    words = program.words()
    headers = [isa.unpack(isa.HEADER, word) for word in words]
    footprints = []
    for index, (word, header) in enumerate(zip(words, headers, strict=True)):
        opcode = isa.Opcode(header["opcode"])
        footprint = _footprint(opcode, isa.unpack(isa.BODIES[opcode], word >> isa.HEADER.size), config)
        for part in (*footprint.reads.get(isa.Target.SCRATCHPAD, []), *footprint.writes.get(isa.Target.SCRATCHPAD, [])):
            if part.last >= config.scratchpad_words:
                raise RuntimeError(f"instruction {index} reaches address {part.last} of {config.scratchpad_words}")
        masks = list(footprint.ports.values())
        if any(a & b for i, a in enumerate(masks) for b in masks[:i]):
            raise RuntimeError(f"operands of instruction {index} share a bank")
        footprints.append(footprint)
    _check_order(program, headers, footprints)
    _check_tokens(program)


def _check_order(program: Program, headers: list[dict[str, int]], footprints: list[_Footprint]) -> None:
    """Every pair that is not ordered must be harmless."""
    sources = token_sources(program.instructions)
    started: list[NDArray[np.int64]] = []  # by instruction: how many of each queue have ended when it starts
    ended: list[NDArray[np.int64]] = []  # and when it ends
    members: list[list[int]] = [[] for _ in range(isa.QUEUES)]
    for index, header in enumerate(headers):
        queue = header["queue"]
        clock = np.zeros(isa.QUEUES, np.int64)
        before = members[queue][-1] if members[queue] else None
        if before is not None:
            alone = queue != _ARRAY or header["wait"] >> queue & 1
            clock = np.maximum(clock, ended[before] if alone else started[before])
        for source in sources[index]:
            clock = np.maximum(clock, ended[source])
        for other, indices in enumerate(members):
            for position in range(clock[other], len(indices)):
                earlier = indices[position]
                adjacent = earlier == before
                if reason := _meet(footprints[earlier], footprints[index], same_queue=other == queue, adjacent=adjacent):
                    raise RuntimeError(f"instructions {earlier} and {index} may run together and {reason}")
        started.append(clock)
        members[queue].append(index)
        end = clock if before is None else np.maximum(clock, ended[before])
        end = end.copy()
        end[queue] = len(members[queue])
        ended.append(end)


def _check_tokens(program: Program) -> None:
    """A counter holds at most the tokens given before any point of the program and taken after it, and those of a full queue."""
    spans: dict[tuple[int, int], list[tuple[int, int]]] = {}
    instructions = program.instructions
    for index, sources in enumerate(token_sources(instructions)):
        for source in sources:
            if source >= index:
                raise RuntimeError(f"instruction {index} waits for instruction {source}, which comes later")
            pair = (instructions[source].queue.value, instructions[index].queue.value)
            spans.setdefault(pair, []).append((source, index))
    for pair, intervals in spans.items():
        change = np.zeros(len(instructions) + 1, np.int64)
        for source, index in intervals:
            change[source] += 1
            change[index] -= 1
        most = int(np.cumsum(change).max()) + program.config.queue_depth + 1
        if most > _MAX_TOKENS:
            names = " to ".join(isa.Queue(queue).name for queue in pair)
            raise RuntimeError(f"up to {most} tokens could wait from {names}; a counter holds {_MAX_TOKENS}")
