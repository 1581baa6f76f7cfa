"""What a run of the core left behind, held against the golden tensors and the timing model."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ..compiler.program import Instruction, Program, TensorSlice, expected_words
from ..hw import isa
from .sequencer_timing import Timing

__all__ = ["Mismatch", "Trace", "check_coverage", "compare_outputs", "compare_timing", "compare_values", "read_outputs"]

#: Queues whose engines compute; LOAD and STORE only copy.
_WRITERS = {isa.Queue.ARRAY: "array", isa.Queue.ROWS: "rows"}


@dataclass(frozen=True, kw_only=True)
class Mismatch:
    """One value that differs, by its place in the golden tensor. No column: padding of a known value; nothing got: not written."""

    run: int
    tensor: str
    row: int
    column: int | None
    expected: int
    got: int | None


@dataclass(frozen=True, kw_only=True)
class Trace:
    """The trace files of one run (``testbench.v``).

    Parameters
    ----------
    starts, dones : dict of Queue to (n,) int64
        Cycles of the events of each queue.
    writes : dict of Queue to (n,) records
        ``address``, ``parts`` (bit i: eighth i of the word is written) and ``data`` (L uint8) of each write to the scratchpad.
    """

    starts: Mapping[isa.Queue, NDArray[np.int64]]
    dones: Mapping[isa.Queue, NDArray[np.int64]]
    writes: Mapping[isa.Queue, NDArray]

    @classmethod
    def read(cls, folder: Path, run: int, lanes: int) -> Trace:
        """The trace of run number ``run``."""
        events = np.fromfile(folder / f"events_{run}.bin", "<u4").reshape(-1, 2).astype(np.int64)
        record = np.dtype([("address", "<u4"), ("parts", "<u4"), ("data", "u1", (lanes,))])

        def cycles(bit: int) -> NDArray[np.int64]:
            return events[events[:, 1] >> bit & 1 == 1, 0]

        return cls(
            starts={queue: cycles(isa.QUEUES + queue.value) for queue in isa.Queue},
            dones={queue: cycles(queue.value) for queue in isa.Queue},
            writes={queue: np.fromfile(folder / f"{name}_{run}.bin", record) for queue, name in _WRITERS.items()},
        )

    def timings(self, program: Program) -> list[Timing]:
        """Start and end of each instruction as the core had them; -1 where there was no event. SYNC, without an engine, has none."""
        seen = {queue: list(zip(self.starts[queue].tolist(), self.dones[queue].tolist(), strict=False)) for queue in isa.Queue}
        order = {queue: iter(events) for queue, events in seen.items()}
        nothing = (-1, -1)
        pairs = [next(order[i.queue], nothing) if i.opcode in isa.OPCODE_QUEUE else nothing for i in program.instructions]
        return [Timing(dispatch=-1, start=start, done=done) for start, done in pairs]


def compare_timing(program: Program, trace: Trace, model: Sequence[Timing], *, stalled: bool = False) -> list[str]:
    """Every instruction whose start or end is not in the cycle that the model says, and every count that is wrong, as sentences.

    stalled : whether the memory stalls; an instruction may then be later than the model says, not earlier.
    """
    differences = []
    for queue, writes in trace.writes.items():
        if (words := sum(_writes(program, i) for i in program.instructions if i.queue is queue and i.slice is not None)) != len(writes):
            differences.append(f"queue {queue.name} wrote {len(writes)} words, its instructions have {words}")
    for queue in isa.Queue:
        count = sum(instruction.queue is queue and instruction.opcode in isa.OPCODE_QUEUE for instruction in program.instructions)
        for events, word in ((trace.starts[queue], "started"), (trace.dones[queue], "ended")):
            if len(events) != count:
                differences.append(f"{len(events)} instructions of queue {queue.name} {word}, the program has {count}")
    for index, (instruction, seen) in enumerate(zip(program.instructions, trace.timings(program), strict=True)):
        if instruction.opcode not in isa.OPCODE_QUEUE:
            continue
        late = seen.start - model[index].start, seen.done - model[index].done
        if min(late) < 0 or not stalled and max(late) > 0:
            name = f"instruction {index} ({instruction.opcode.name} of {instruction.layer})"
            expected = f"{model[index].start} to {model[index].done}"
            differences.append(f"{name} ran from cycle {seen.start} to {seen.done}, the model says {expected}")
    return differences


def compare_values(program: Program, trace: Trace, tensors: Mapping[str, NDArray], run: int) -> tuple[int, list[Mismatch]]:
    """Number of values of tensors that the engines had to write, and all that are not as in the golden tensors.

    tensors : by name (rows, groups * channels), of one image. The words of a queue's writes belong to its instructions in order.
    """
    compared, mismatches = 0, []
    for queue in _WRITERS:
        position = 0
        for instruction in program.instructions:
            part = instruction.slice
            if instruction.queue is not queue or part is None:
                continue
            expected = expected_words(program, instruction, tensors)
            count = _writes(program, instruction)
            mine = trace.writes[queue][position : position + count]
            position += count
            compared += part.rows * int(np.count_nonzero(_columns(program, part, part.targets[0, 1])))
            mismatches += _locate(program, part, expected, _wrong_words(expected, mine), run)
    return compared, mismatches


def _writes(program: Program, instruction: Instruction) -> int:
    """How often an instruction writes to the scratchpad: the array a part of a word at a time, the row engine whole words."""
    part = instruction.slice
    if part is None:
        return 0
    layout = program.layouts[part.tensor]
    if instruction.queue is isa.Queue.ROWS:
        return part.rows * layout.words(part.tile, part.tiles)
    return layout.lines(part.row, part.rows) * part.tiles * layout.column_bytes


def _columns(program: Program, part: TensorSlice, first: int) -> NDArray[np.bool_]:
    """Which columns of the tensor lie in the tiles of a slice, those of a row beginning with ``first``."""
    layout = program.layouts[part.tensor]
    tile = layout.columns // layout.lanes
    return (tile >= first) & (tile < first + part.tiles)


def _wrong_words(expected: Mapping[int, tuple[bytes, bytes]], writes: NDArray) -> dict[int, bytes | None]:
    """Address and content of the words that differ where it matters; None for a word of which something was not written."""
    addresses = np.array(list(expected))
    if not len(writes):
        return dict.fromkeys(addresses.tolist())
    want, mask = (np.frombuffer(b"".join(each), np.uint8).reshape(len(addresses), -1) for each in zip(*expected.values(), strict=True))
    places, content, written = _merge(writes)
    found = np.minimum(np.searchsorted(places, addresses), len(places) - 1)
    have = content[found]
    missing = (places[found] != addresses) | ((mask != 0) & ~written[found]).any(axis=-1)
    bad = missing | (((have ^ want) & mask) != 0).any(axis=-1)
    return {int(addresses[index]): None if missing[index] else have[index].tobytes() for index in np.flatnonzero(bad)}


def _merge(writes: NDArray) -> tuple[NDArray, NDArray[np.uint8], NDArray[np.bool_]]:
    """Addresses (n,), ascending, content (n, L) and written bytes (n, L) of the words that some writes leave."""
    addresses, place = np.unique(writes["address"], return_inverse=True)
    lanes = writes["data"].shape[1]
    byte = writes["parts"][:, None] >> np.arange(lanes, dtype=np.uint32) * 8 // lanes & 1 == 1
    content, written = np.zeros((len(addresses), lanes), np.uint8), np.zeros((len(addresses), lanes), bool)
    write, column = np.nonzero(byte)
    content[place[write], column] = writes["data"][byte]
    written[place[write], column] = True
    return addresses, content, written


def _locate(
    program: Program, part: TensorSlice, expected: Mapping[int, tuple[bytes, bytes]], wrong: Mapping[int, bytes | None], run: int
) -> Iterator[Mismatch]:
    """The values in wrong words that differ."""
    layout = program.layouts[part.tensor]
    bits = replace(layout, unit=layout.bits == 1)  # so that a mask has zeros
    column_of = {int(place): column for column, place in enumerate(layout.operand_columns)}
    place = {}
    for row, tile, start in part.lines(layout).tolist() if wrong else ():
        first = layout.word(tile)
        place |= {start + step: (row, first + step) for step in range(layout.words(tile, part.tiles))}
    for address, content in wrong.items():
        row, word = place[address]
        wanted, mask = layout.word_values(expected[address][0]), bits.word_values(expected[address][1])
        got = None if content is None else layout.word_values(content)
        differs = (mask != 0) & (True if got is None else got != wanted)
        for index, lane in np.argwhere(differs).tolist():
            found = None if got is None else int(got[index, lane])
            column = column_of.get(word * wanted.shape[1] + lane)
            yield Mismatch(run=run, tensor=part.tensor, row=row + index, column=column, expected=int(wanted[index, lane]), got=found)


def read_outputs(folder: Path, program: Program, run: int) -> dict[str, NDArray[np.int32]]:
    """Output tensors that the core stored to external memory in run number ``run``."""
    lines = (folder / f"output_{run}.hex").read_text().split()
    words = b"".join(bytes.fromhex(line)[::-1] for line in lines if not line.startswith("//"))
    first, lanes = min(address for address, _ in program.output_regions.values()), program.config.lanes
    return {
        name: program.layouts[name].unpack(words[(address - first) * lanes : (address - first + count) * lanes])
        for name, (address, count) in program.output_regions.items()
    }


def compare_outputs(outputs: Mapping[str, NDArray], tensors: Mapping[str, NDArray], run: int) -> tuple[int, list[Mismatch]]:
    """The outputs that the core stored, against the golden tensors; as :func:`compare_values`."""
    mismatches = [
        Mismatch(run=run, tensor=name, row=row, column=column, expected=int(tensors[name][row, column]), got=int(got[row, column]))
        for name, got in outputs.items()
        for row, column in np.argwhere(got != tensors[name]).tolist()
    ]
    return sum(got.size for got in outputs.values()), mismatches


def check_coverage(program: Program) -> None:
    """Raise ``RuntimeError`` unless every value of every tensor is written by an instruction that says so.

    Of the input, rows that nobody reads (behind the token that a head takes, for instance) need not be loaded.
    """
    for name, layout in program.layouts.items():
        if name == program.input:
            continue
        written = np.zeros((layout.rows, layout.groups * layout.channels), bool)
        for part in (i.slice for i in program.instructions if i.slice is not None and i.slice.tensor == name):
            rows, tiles, _ = part.targets.T
            for tile in np.unique(tiles):
                written[np.ix_(rows[tiles == tile], _columns(program, part, tile))] = True
        if not written.all():
            raise RuntimeError(f"no instruction of the program writes {np.count_nonzero(~written)} of {written.size} values of {name}")
