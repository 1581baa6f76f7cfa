"""Verifies a program on its encoded instructions: no two that may run together touch the same words or one port of a bank."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from ..hw import isa
from ..hw.config import MODES, PACKING, CoreConfig
from ..hw.load_targets import table_words, target_words
from ..hw.sequencer import Sequencer
from .blocks import PROGRAM, check_blocks
from .layout import ceil_div
from .program import Program, token_sources
from .schedule import OVERLAPPING

__all__ = ["check"]

_MAX_TOKENS = (1 << 6) - 1
_ARRAY, _ROWS = isa.Queue.ARRAY.value, isa.Queue.ROWS.value


@dataclass
class _Words:
    """Addresses of one memory: each of ``bases``, and steps with counts from there."""

    bases: NDArray[np.int64]
    steps: tuple[tuple[int, int], ...]
    port: str = ""

    @cached_property
    def first(self) -> int:
        return int(self.bases.min())

    @cached_property
    def last(self) -> int:
        return int(self.bases.max()) + sum(step * (count - 1) for step, count in self.steps)

    @cached_property
    def dense(self) -> bool:
        """Whether every word from the first to the last is there, as far as that is easily seen."""
        extent = 1
        for step, count in sorted(self.steps):
            if count > 1 and step > extent:
                return False
            extent += step * (count - 1)
        return len(self.bases) == 1

    @cached_property
    def addresses(self) -> NDArray[np.int64]:
        """Ascending."""
        if self.dense:
            return np.arange(self.first, self.last + 1)
        result = self.bases - self.first
        for step, count in self.steps:
            result = (result[:, None] + step * np.arange(count)).ravel()
        used = np.zeros(self.last - self.first + 1, bool)
        used[result] = True
        return self.first + np.flatnonzero(used)

    def overlaps(self, other: _Words) -> bool:
        if self.last < other.first or other.last < self.first:
            return False
        return self.dense and other.dense or np.intersect1d(self.addresses, other.addresses, assume_unique=True).size > 0

    def banks(self, bank_words: int) -> int:
        """The banks, a bit each."""
        first, last = self.first // bank_words, self.last // bank_words
        if first == last or self.dense:
            return (2 << last) - (1 << first)
        return sum(1 << int(bank) for bank in np.flatnonzero(np.bincount(self.addresses // bank_words)))


@dataclass
class _Footprint:
    """What an instruction touches, by memory (a load target; the scratchpad is SCRATCHPAD), and the bank ports it uses, a bit each."""

    reads: dict[isa.Target, list[_Words]] = field(default_factory=dict)
    writes: dict[isa.Target, list[_Words]] = field(default_factory=dict)
    read_banks: int = 0
    write_banks: int = 0
    ports: dict[str, int] = field(default_factory=dict)

    def read(self, memory: isa.Target, base: int | NDArray[np.int64], *steps: tuple[int, int], port: str = "") -> None:
        self.reads.setdefault(memory, []).append(_Words(np.atleast_1d(base), steps, port))

    def write(self, memory: isa.Target, base: int | NDArray[np.int64], *steps: tuple[int, int]) -> None:
        self.writes.setdefault(memory, []).append(_Words(np.atleast_1d(base), steps))

    def close(self, config: CoreConfig) -> None:
        """Compute the banks."""
        for words in self.reads.get(isa.Target.SCRATCHPAD, []):
            self.ports[words.port] = words.banks(config.bank_words)
            self.read_banks |= self.ports[words.port]
        for words in self.writes.get(isa.Target.SCRATCHPAD, []):
            self.write_banks |= words.banks(config.bank_words)

    def touches(self, other: _Footprint, *, ordered: bool) -> bool:
        """Whether one writes what the other reads or, unless their writes are ``ordered``, writes."""
        pairs = ((self.writes, other.reads), (self.reads, other.writes), *([] if ordered else [(self.writes, other.writes)]))
        return any(
            a.overlaps(b) for mine, theirs in pairs for memory in mine.keys() & theirs.keys() for a in mine[memory] for b in theirs[memory]
        )


def _footprint(opcode: isa.Opcode, f: dict[str, int], config: CoreConfig, offsets: NDArray[np.int64]) -> _Footprint:
    """``offsets``: the row maps on chip, by entry."""
    result, pad, table = _Footprint(), isa.Target.SCRATCHPAD, table_words(config.lanes)
    rows = np.arange(f.get("rows", 0))
    mapped = f.get("map", 0)
    if mapped:
        result.read(isa.Target.ROW_MAP, f["map_base"] * isa.ENTRY_BYTES // config.lanes, (1, _map_words(f, config)))
        rows_out = offsets[f["map_base"] : f["map_base"] + len(rows)]
    else:
        rows_out = rows * f.get("output_row", 0)
    match opcode:
        case isa.Opcode.LOAD:
            target = isa.Target(f["target"])
            result.write(target, f["destination"], (1, f["words"]))
        case isa.Opcode.STORE:
            result.read(pad, f["source"], (1, f["words"]), port="store")
        case isa.Opcode.MATMUL:
            k, n = f["k_tiles"], f["n_tiles"]
            result.read(pad, f["moving"], (f["moving_row"], len(rows)), (f["moving_k"], k), port="moving")
            # With weights of fewer bits than the moving operand a word is several rows of the array.
            words = config.lanes >> f["stationary_packing"] - PACKING[MODES[f["mode"]]]
            steps = ((f["stationary_word"], words), (f["stationary_k"], k), (f["stationary_n"], n))
            result.read(pad, f["stationary"], *steps, port="stationary")
            if f["form"] == isa.Form.RESIDUAL.value:
                rows_in = rows_out if mapped == 3 else rows * f["output_row"]
                result.read(pad, f["residual"] + rows_in, (f["output_n"], n), port="residual")
            if f["form"] == isa.Form.TABLE.value:
                result.read(isa.Target.FUNCTION_TABLE, f["table"] * table, (1, table))
            words = 4 if f["form"] == isa.Form.RAW.value else 1
            if f["pack_rows"]:
                rows_out = rows_out[: ceil_div(len(rows), 1 << f["output_packing"])]
            else:
                n = (f["part"] + n - 1 >> f["output_packing"]) + 1
            result.write(pad, f["output"] + rows_out, (f["output_n"], n), (1, words))
            blocks = f["n_tiles"] if f["constant_n"] else 1
            result.read(isa.Target.CONSTANTS, f["constant"] * isa.CONSTANT_BYTES, (1, blocks * isa.CONSTANT_BYTES))
        case isa.Opcode.SOFTMAX | isa.Opcode.NORM:
            result.read(pad, f["input"], (f["input_row"], len(rows)), (f["input_word"], f["words"]), port="rows")
            result.write(pad, f["output"] + rows_out, (f["output_word"], ceil_div(f["words"], 1 << f["output_packing"])))
            if opcode is isa.Opcode.SOFTMAX:
                result.read(isa.Target.EXP_TABLE, f["table"] * table, (1, table))
                if f["coded"]:
                    result.read(isa.Target.CODE_TABLE, f["code_table"] * table, (1, table))
            else:
                result.read(isa.Target.NORM_CONSTANTS, f["constant"] * isa.NORM_BYTES, (1, f["words"] * isa.NORM_BYTES))
        case _:
            pass
    result.close(config)
    return result


def _map_words(f: dict[str, int], config: CoreConfig) -> int:
    """Words in which the entries of an instruction lie."""
    entries = config.lanes // isa.ENTRY_BYTES
    return (f["map_base"] + f["rows"] - 1) // entries - f["map_base"] // entries + 1


def _meet(earlier: _Footprint, later: _Footprint, *, queue: int | None, adjacent: bool) -> str:
    """Why two instructions (of one ``queue`` or of two) that may run together must not, or an empty string."""
    if earlier.touches(later, ordered=queue == _ARRAY):
        return "touch the same words"
    if queue == _ROWS:
        return ""
    if queue is None:
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
    headers, footprints = [], []
    offsets = np.zeros(target_words(config, isa.Target.ROW_MAP) * config.lanes // isa.ENTRY_BYTES, np.int64)
    for index, word in enumerate(program.words()):
        header = isa.unpack(isa.HEADER, word)
        opcode = isa.Opcode(header["opcode"])
        body = isa.unpack(isa.BODIES[opcode], word >> isa.HEADER.size)
        if opcode is isa.Opcode.LOAD and body["target"] == isa.Target.ROW_MAP.value:
            first, size = body["destination"] * config.lanes // isa.ENTRY_BYTES, body["words"] * config.lanes
            entries = np.frombuffer(program.memory_image, "<u4", size // isa.ENTRY_BYTES, body["memory"] * config.lanes)
            offsets[first : first + len(entries)] = entries
        footprint = _footprint(opcode, body, config, offsets)
        for words in (*footprint.reads.get(isa.Target.SCRATCHPAD, []), *footprint.writes.get(isa.Target.SCRATCHPAD, [])):
            if words.last >= config.scratchpad_words:
                raise RuntimeError(f"instruction {index} reaches address {words.last} of {config.scratchpad_words}")
        masks = list(footprint.ports.values())
        if any(a & b for i, a in enumerate(masks) for b in masks[:i]):
            raise RuntimeError(f"operands of instruction {index} share a bank")
        headers.append(header)
        footprints.append(footprint)
    _check_order(program, headers, footprints)
    _check_tokens(program)
    check_blocks(program.words(), config, program.memory_plan[PROGRAM][0])


class _Lane:
    """The instructions of one queue: their bank masks, and the first and last address of all that they read and write."""

    def __init__(self, indices: list[int], footprints: list[_Footprint]) -> None:
        self.indices = indices
        mine = [footprints[index] for index in indices]
        self.banks = np.array([(each.read_banks, each.write_banks) for each in mine], object).reshape(-1, 2)
        extents = [_extents(each) for each in mine]
        self.starts = np.cumsum([0, *map(len, extents)])
        self.extents = np.concatenate([np.zeros((0, 4), np.int64), *extents])
        self.positions = np.repeat(np.arange(len(mine)), np.diff(self.starts))

    def candidates(self, footprint: _Footprint, first: int, last: int) -> set[int]:
        """Of instructions ``first`` .. ``last`` - 1 of the queue, those whose address ranges or banks meet the footprint's."""
        low, high = self.starts[first], self.starts[last]
        memory, write, begin, end = self.extents[low:high].T
        found = np.zeros(high - low, bool)
        for mine, mine_write, mine_begin, mine_end in _extents(footprint).tolist():
            found |= (memory == mine) & (write | mine_write).astype(bool) & (begin <= mine_end) & (end >= mine_begin)
        meet = (self.banks[first:last, 0] & footprint.read_banks) | (self.banks[first:last, 1] & footprint.write_banks)
        return {*self.positions[low:high][found].tolist(), *(first + np.flatnonzero(meet)).tolist()}


def _extents(footprint: _Footprint) -> NDArray[np.int64]:
    """(n, 4): memory, whether it is written, first and last address."""
    kinds = ((footprint.reads, 0), (footprint.writes, 1))
    rows = [(memory.value, write, w.first, w.last) for kind, write in kinds for memory, words in kind.items() for w in words]
    return np.array(rows, np.int64).reshape(-1, 4)


def _check_order(program: Program, headers: list[dict[str, int]], footprints: list[_Footprint]) -> None:
    """Every pair that is not ordered must be harmless."""
    sources = token_sources(program.instructions)
    started: list[NDArray[np.int64]] = []  # by instruction: how many of each queue have ended when it starts
    ended: list[NDArray[np.int64]] = []  # and when it ends
    queues = [_Lane([i for i, header in enumerate(headers) if header["queue"] == queue], footprints) for queue in range(isa.QUEUES)]
    counts = [0] * isa.QUEUES  # instructions of each queue so far
    for index, header in enumerate(headers):
        queue = header["queue"]
        clock = np.zeros(isa.QUEUES, np.int64)
        before = queues[queue].indices[counts[queue] - 1] if counts[queue] else None
        if before is not None:
            alone = queue not in OVERLAPPING or header["wait"] >> queue & 1
            clock = np.maximum(clock, ended[before] if alone else started[before])
        if counts[queue] >= Sequencer.IN_FLIGHT:
            clock = np.maximum(clock, ended[queues[queue].indices[counts[queue] - Sequencer.IN_FLIGHT]])
        for source in sources[index]:
            clock = np.maximum(clock, ended[source])
        for other, lane in enumerate(queues):
            for position in sorted(lane.candidates(footprints[index], int(clock[other]), counts[other])):
                earlier = lane.indices[position]
                adjacent = earlier == before
                if reason := _meet(footprints[earlier], footprints[index], queue=queue if other == queue else None, adjacent=adjacent):
                    raise RuntimeError(f"instructions {earlier} and {index} may run together and {reason}")
        started.append(clock)
        counts[queue] += 1
        end = clock if before is None else np.maximum(clock, ended[before])
        end = end.copy()
        end[queue] = counts[queue]
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
