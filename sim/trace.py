"""What a run of the core left behind, held against the golden tensors and the timing model."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ..compiler.program import Program, TensorSlice, expected_words
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
        ``address`` and ``data`` (L uint8) of each word written to the scratchpad.
    """

    starts: Mapping[isa.Queue, NDArray[np.int64]]
    dones: Mapping[isa.Queue, NDArray[np.int64]]
    writes: Mapping[isa.Queue, NDArray]

    @classmethod
    def read(cls, folder: Path, run: int, lanes: int) -> Trace:
        """The trace of run number ``run``."""
        events = np.fromfile(folder / f"events_{run}.bin", "<u4").reshape(-1, 2).astype(np.int64)
        record = np.dtype([("address", "<u4"), ("data", "u1", (lanes,))])

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
        parts = (i.slice for i in program.instructions if i.queue is queue and i.slice is not None)
        if (words := sum(part.rows * part.words for part in parts)) != len(writes):
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
            mine = trace.writes[queue][position : position + len(expected)]
            position += len(expected)
            compared += part.rows * int(np.count_nonzero(_columns(program, part, part.targets[0, 1])))
            mismatches += _locate(program, part, expected, _wrong_words(expected, mine), run)
    return compared, mismatches


def _columns(program: Program, part: TensorSlice, first: int) -> NDArray[np.bool_]:
    """Which columns of the tensor lie in the words of a slice, those of a row beginning with ``first``."""
    layout = program.layouts[part.tensor]
    word = layout.columns * layout.column_bytes // layout.lanes
    return (word >= first) & (word < first + part.words)


def _wrong_words(expected: Mapping[int, tuple[bytes, bytes]], writes: NDArray) -> dict[int, bytes | None]:
    """Address and content of the words that differ where it matters; None for a word that was not written."""
    addresses = np.array(list(expected))
    if not len(writes):
        return dict.fromkeys(addresses.tolist())
    parts = (b"".join(part) for part in zip(*expected.values(), strict=True))
    want, mask = (np.frombuffer(part, np.uint8).reshape(len(addresses), -1) for part in parts)
    order = np.argsort(writes["address"], kind="stable")
    found = order[np.minimum(np.searchsorted(writes["address"], addresses, sorter=order), len(order) - 1)]
    missing = writes["address"][found] != addresses
    have = writes["data"][found]
    bad = missing | (((have ^ want) & mask) != 0).any(axis=-1)
    return {int(addresses[index]): None if missing[index] else have[index].tobytes() for index in np.flatnonzero(bad)}


def _locate(
    program: Program, part: TensorSlice, expected: Mapping[int, tuple[bytes, bytes]], wrong: Mapping[int, bytes | None], run: int
) -> Iterator[Mismatch]:
    """The values in wrong words that differ."""
    layout = program.layouts[part.tensor]
    kind = np.dtype("i1" if layout.column_bytes == 1 else "<i4")
    column_of = {int(padded): column for column, padded in enumerate(layout.columns)}
    place = {start + step: (row, word + step) for row, word, start in part.targets.tolist() for step in range(part.words)} if wrong else {}
    for address, content in wrong.items():
        row, word = place[address]
        wanted, mask = (np.frombuffer(each, kind).tolist() for each in expected[address])
        got = [None] * len(wanted) if content is None else np.frombuffer(content, kind).tolist()
        for lane in (lane for lane, value in enumerate(got) if mask[lane] and value != wanted[lane]):
            column = column_of.get(word * len(wanted) + lane)
            yield Mismatch(run=run, tensor=part.tensor, row=row, column=column, expected=wanted[lane], got=got[lane])


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
            rows, words, _ = part.targets.T
            for word in np.unique(words):
                written[np.ix_(rows[words == word], _columns(program, part, word))] = True
        if not written.all():
            raise RuntimeError(f"no instruction of the program writes {np.count_nonzero(~written)} of {written.size} values of {name}")
