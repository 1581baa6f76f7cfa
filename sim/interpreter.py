"""Runs a compiled program in numpy, instruction by instruction: finds errors of the compiler without any hardware."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
from amaranth import Shape
from amaranth.lib import data
from numpy.typing import NDArray

from ..compiler.compile import pack_input, unpack_output
from ..compiler.program import Program
from ..compiler.schedule import OVERLAPPING
from ..hw import isa
from ..hw.load_targets import table_words, target_words
from ..hw.sequencer import Sequencer
from ..model.layer_norm import layer_norm
from ..model.log_softmax import MASKED, coded_softmax, log_softmax
from ..model.packing import pack_codes, pack_rows, pack_values
from ..model.requantize import apply_table, narrow, requantize, requantize_raw, requantize_residual
from .operands import matmul, stationary_words

__all__ = ["Interpreter"]

#: One write: memory as (pieces, bytes of a piece), number (n,) of each piece, and their content (n, bytes). A piece is a word or a part.
_Write = tuple[NDArray[np.uint8], NDArray[np.int64], NDArray[np.uint8]]


@dataclass
class _Queue:
    """Instructions dispatched, and those started with the writes that their end will do."""

    waiting: deque[int] = field(default_factory=deque)
    flying: deque[tuple[int, list[_Write]]] = field(default_factory=deque)


class Interpreter:
    """The memories of a core, and its instructions as functions on them.

    Instructions are decoded from their 384 bits; the operators are those of the golden model. An instruction reads everything when it
    starts and writes everything when it ends, and what is possible next is chosen at random: a missing token shows as a wrong result.

    Parameters
    ----------
    program : Program
    on_end : callable or None
        Called with the index of each instruction when it has ended.
    """

    def __init__(self, program: Program, on_end: Callable[[int], None] | None = None) -> None:
        self.program, self.config, self.on_end = program, program.config, on_end
        self.headers, self.bodies = [], []
        self.words = program.words()
        self.streamed = len(self.words) > self.config.program_depth
        for word in self.words:
            header = isa.unpack(isa.HEADER, word)
            self.headers.append(header)
            self.bodies.append(isa.unpack(isa.BODIES[isa.Opcode(header["opcode"])], word >> isa.HEADER.size))
        lanes = self.config.lanes
        rng = np.random.default_rng(0)
        # Memories begin with noise: nothing may depend on it.
        self.memories = {t: rng.integers(0, 256, (target_words(self.config, t), lanes), dtype=np.uint8) for t in isa.Target}
        self.scratchpad = self.memories[isa.Target.SCRATCHPAD]
        self.external = np.zeros((program.memory_words, lanes), np.uint8)
        self.external.reshape(-1)[: len(program.memory_image)] = np.frombuffer(program.memory_image, np.uint8)

    def run(self, patches: NDArray[np.int8], seed: int | None = None) -> dict[str, NDArray[np.int32]]:
        """Logits by output tensor for one image of :func:`..model.golden.patches`.

        seed : of the order in which the queues run; None keeps the order of the program.
        """
        address, words = self.program.input_region
        content = np.frombuffer(pack_input(self.program, patches), np.uint8)
        self.external[address : address + words] = content.reshape(words, -1)
        if seed is None:
            for index in range(len(self.headers)):
                self.execute(index)
        else:
            self._run_queues(np.random.default_rng(seed))
        return {
            name: unpack_output(self.program, name, self.external[address : address + words].tobytes())
            for name, (address, words) in self.program.output_regions.items()
        }

    def execute(self, index: int) -> None:
        """Instruction ``index`` from its start to its end."""
        self._fetch(index)
        self._write(self._writes(index))
        self._ended(index)

    def _run_queues(self, rng: np.random.Generator) -> None:
        """Dispatch, start and end in any order that queues and tokens allow."""
        queues = [_Queue() for _ in range(isa.QUEUES)]
        tokens = np.zeros((isa.QUEUES, isa.QUEUES), int)  # [giver, taker]
        dispatched = 0
        while dispatched < len(self.headers) - 1 or any(queue.waiting or queue.flying for queue in queues):
            actions = [(number, "end") for number, queue in enumerate(queues) if queue.flying]
            actions += [(number, "start") for number, queue in enumerate(queues) if queue.waiting and self._able(number, queue, tokens)]
            if dispatched < len(self.headers) - 1:
                target = self.headers[dispatched]["queue"]
                room = len(queues[target].waiting) < self.config.queue_depth
                if room and not self._awaits_block(dispatched, queues[isa.Queue.LOAD.value]):
                    actions.append((target, "dispatch"))
            if not actions:
                raise RuntimeError(f"no instruction can go on after {dispatched} were dispatched")
            number, action = actions[rng.integers(len(actions))]
            queue = queues[number]
            if action == "dispatch":
                self._fetch(dispatched)
                queue.waiting.append(dispatched)
                dispatched += 1
            elif action == "start":
                index = queue.waiting.popleft()
                tokens[:, number] -= self._others(index)
                queue.flying.append((index, self._writes(index)))
            else:
                index, writes = queue.flying.popleft()
                self._write(writes)
                tokens[number] += [other != number and self.headers[index]["give"] >> other & 1 for other in range(isa.QUEUES)]
                self._ended(index)
        if tokens.any():
            raise RuntimeError(f"{tokens.sum()} tokens are left at the end")

    def _others(self, index: int) -> NDArray[np.int64]:
        """1 for each other queue of which the instruction takes a token."""
        header = self.headers[index]
        return np.array([other != header["queue"] and header["wait"] >> other & 1 for other in range(isa.QUEUES)], int)

    def _able(self, number: int, queue: _Queue, tokens: NDArray[np.int64]) -> bool:
        header = self.headers[queue.waiting[0]]
        room = Sequencer.IN_FLIGHT if number in OVERLAPPING and not header["wait"] >> number & 1 else 1
        return len(queue.flying) < room and bool((tokens[:, number] >= self._others(queue.waiting[0])).all())

    def _ended(self, index: int) -> None:
        if self.on_end is not None:
            self.on_end(index)

    def _fetch(self, index: int) -> None:
        """Find an instruction where the dispatcher does. Raises ``RuntimeError`` where a streamed program has something else there."""
        half, size = 2 * self.config.program_block, isa.INSTRUCTION_BITS // 8
        if self.streamed and index >= half:
            start = index % half * size
            content = self.memories[isa.Target.PROGRAM].reshape(-1)[start : start + size]
            if int.from_bytes(content.tobytes(), "little") != self.words[index]:
                raise RuntimeError(f"instruction {index} is not in the program memory when it is dispatched")

    def _awaits_block(self, index: int, queue: _Queue) -> bool:
        """Whether the dispatcher waits for a LOAD of queue LOAD that brings a block."""
        if not self.streamed or index % self.config.program_block:
            return False
        pending = (*queue.waiting, *(flying for flying, _ in queue.flying))
        return any(self.headers[each]["give"] >> isa.Queue.LOAD.value & 1 for each in pending)

    @staticmethod
    def _write(writes: list[_Write]) -> None:
        for memory, addresses, words in writes:
            memory[addresses] = words

    def _writes(self, index: int) -> list[_Write]:
        """What the instruction writes."""
        fields = self.bodies[index]
        match isa.Opcode(self.headers[index]["opcode"]):
            case isa.Opcode.LOAD:
                target = self.memories[isa.Target(fields["target"])]
                words = self.external[fields["memory"] : fields["memory"] + fields["words"]].copy()
                return [(target, fields["destination"] + np.arange(fields["words"]), words)]
            case isa.Opcode.STORE:
                words = self.scratchpad[fields["source"] : fields["source"] + fields["words"]].copy()
                return [(self.external, fields["memory"] + np.arange(fields["words"]), words)]
            case isa.Opcode.MATMUL:
                return self._matmul(fields)
            case isa.Opcode.SOFTMAX:
                return self._softmax(fields)
            case isa.Opcode.NORM:
                return self._norm(fields)
            case _:
                return []

    def _read(self, addresses: NDArray[np.int64]) -> NDArray[np.int8]:
        """Words at addresses (...) as (..., L) int8."""
        return self.scratchpad[addresses].view(np.int8)

    def _matmul(self, f: dict[str, int]) -> list[_Write]:
        lanes, rows, n_tiles = self.config.lanes, f["rows"], f["n_tiles"]
        row, k, n, word = (np.arange(count) for count in (rows, f["k_tiles"], n_tiles, stationary_words(f, lanes)))
        moving = self.scratchpad[f["moving"] + row[:, None] * f["moving_row"] + k * f["moving_k"]]
        steps = n[:, None, None] * f["stationary_n"] + k[:, None] * f["stationary_k"] + word * f["stationary_word"]
        acc, row_sums = matmul(f, moving, self.scratchpad[f["stationary"] + steps])
        result = self._epilogue(f, acc, row_sums).reshape(rows, n_tiles, lanes)
        packing, bits = f["output_packing"], 8 >> f["output_packing"]
        if result.dtype == np.int32:
            offsets = self._offsets(f, rows, mapped=bool(f["map"] & 1))
            addresses = f["output"] + offsets[:, None, None] + n[:, None] * f["output_n"] + np.arange(4)
            return [(self.scratchpad, addresses.ravel(), result.view(np.uint8).reshape(-1, lanes))]
        result = narrow(result, bits)
        if f["pack_rows"]:
            words = pack_rows(result.reshape(rows, -1), bits).reshape(-1, lanes)
            group = np.arange(len(words) // n_tiles)[:, None]
            return [(self.scratchpad, (f["output"] + group * f["output_row"] + n * f["output_n"]).ravel(), words)]
        word, part = np.divmod(f["part"] + n, 1 << packing)
        addresses = f["output"] + self._offsets(f, rows, mapped=bool(f["map"] & 1))[:, None] + word * f["output_n"]
        parts = self.scratchpad.reshape(-1, lanes >> packing)
        return [(parts, ((addresses << packing) + part).ravel(), pack_values(result, bits).reshape(-1, lanes >> packing))]

    def _epilogue(self, f: dict[str, int], acc: NDArray[np.int32], row_sums: NDArray[np.int64]) -> NDArray:
        blocks = f["constant"] + np.arange(f["n_tiles"]) * f["constant_n"]
        words = blocks[:, None] * isa.CONSTANT_BYTES + np.arange(isa.CONSTANT_BYTES)
        records = _unpack_records(isa.CONSTANT_RECORD, self.memories[isa.Target.CONSTANTS][words].reshape(-1, isa.CONSTANT_BYTES))
        acc = (acc + row_sums[:, None] * records["row_sum"]).astype(np.int32)
        scale = records["bias"].astype(np.int32), records["multiplier"].astype(np.uint16), records["shift"].astype(np.uint8)
        match isa.Form(f["form"]):
            case isa.Form.RAW:
                return requantize_raw(acc, *scale)
            case isa.Form.RESIDUAL:
                offsets = self._offsets(f, f["rows"], mapped=f["map"] == 3)
                addresses = f["residual"] + offsets[:, None] + np.arange(f["n_tiles"]) * f["output_n"]
                residual = self._read(addresses).reshape(acc.shape)
                parameters = f["residual_zero"], f["residual_multiplier"], records["residual_shift"].astype(np.uint8)
                result = requantize_residual(acc, *scale, f["zero_out"], residual, *parameters)
                return np.where(residual == MASKED, np.int8(MASKED), np.maximum(result, MASKED + 1)) if f["masked"] else result
            case isa.Form.TABLE:
                return apply_table(
                    requantize(acc, *scale, f["zero_out"]), self._table(isa.Target.FUNCTION_TABLE, f["table"])[:, 0].view(np.int8)
                )
            case _:
                return requantize(acc, *scale, f["zero_out"])

    def _offsets(self, f: dict[str, int], rows: int, *, mapped: bool) -> NDArray[np.int64]:
        """Word offset (rows,) of each row that is written, or of its residual."""
        if not mapped:
            return np.arange(rows) * f["output_row"]
        entries = np.ascontiguousarray(self.memories[isa.Target.ROW_MAP]).view("<u4").ravel()
        return entries[f["map_base"] : f["map_base"] + rows].astype(np.int64) & (1 << isa.ADDRESS.width) - 1

    def _table(self, target: isa.Target, number: int) -> NDArray[np.uint8]:
        """Entries of a table, (256, 4) uint8."""
        size = table_words(self.config.lanes)
        words = self.memories[target][number * size : (number + 1) * size]
        return np.ascontiguousarray(words.reshape(-1)[: isa.TABLE_ENTRIES * isa.ENTRY_BYTES].reshape(-1, isa.ENTRY_BYTES))

    def _rows(self, f: dict[str, int]) -> NDArray[np.int8]:
        """Input rows (rows, words * L) of a row instruction."""
        row, word = np.arange(f["rows"])[:, None], np.arange(f["words"])
        return self._read(f["input"] + row * f["input_row"] + word * f["input_word"]).reshape(f["rows"], -1)

    def _row_write(self, f: dict[str, int], codes: NDArray[np.uint8]) -> list[_Write]:
        """The words of codes (rows, words * L), which are packed; what is missing in a row's last word is 0."""
        lanes, packing = self.config.lanes, f["output_packing"]
        packed = pack_codes(codes, 8 >> packing)
        packed = np.pad(packed, [(0, 0), (0, -packed.shape[1] % lanes)])
        offsets = self._offsets(f, f["rows"], mapped=bool(f.get("map", 0)))[:, None]
        addresses = f["output"] + offsets + np.arange(packed.shape[1] // lanes) * f["output_word"]
        return [(self.scratchpad, addresses.ravel(), packed.reshape(-1, lanes))]

    def _softmax(self, f: dict[str, int]) -> list[_Write]:
        source = self._rows(f)
        entries = _unpack_records(isa.EXP_ENTRY, self._table(isa.Target.EXP_TABLE, f["table"]))
        tables = entries["exp"].astype(np.uint16), entries["log"].astype(np.uint16)
        if not f["coded"]:
            return self._row_write(f, log_softmax(source, *tables, f["columns"], masked=bool(f["masked"])))
        table = (self._table(isa.Target.CODE_TABLE, f["code_table"])[:, 0] & 15).view(np.int8)
        codes = coded_softmax(source, *tables, table, f["columns"], masked=bool(f["masked"]), relative=bool(f["relative"]))
        return self._row_write(f, codes.view(np.uint8))

    def _norm(self, f: dict[str, int]) -> list[_Write]:
        source = self._rows(f)
        lanes, channels = self.config.lanes, f["channels"]
        first = f["constant"] * isa.NORM_BYTES
        planes = self.memories[isa.Target.NORM_CONSTANTS][first : first + f["words"] * isa.NORM_BYTES]
        bytes_of = np.ascontiguousarray(planes.reshape(-1, isa.NORM_BYTES, lanes).swapaxes(1, 2)).reshape(-1, isa.NORM_BYTES)
        records = _unpack_records(isa.NORM_RECORD, bytes_of)
        alpha, gain, offset = records["alpha"].astype(np.uint8), records["gain"].astype(np.int32), records["offset"].astype(np.int32)
        # The statistics run over all lanes: padding lanes hold the zero point, wherever they are, and their output is the offset alone.
        padding = (source == f["zero"]).all(0) & (gain == 0) & (alpha == 0)
        used, unused = np.split(np.argsort(padding, kind="stable"), [channels])
        if not padding[unused].all():
            raise RuntimeError("padding of a LayerNorm input is not its zero point")
        words = np.empty_like(source)
        words[:, unused] = (offset[unused] + 512) >> 10
        parameters = f["zero"], alpha[used], gain[used], offset[used], f["epsilon"]
        words[:, used] = layer_norm(np.ascontiguousarray(source[:, used]), *parameters)
        return self._row_write(f, _codes(words, 8 >> f["output_packing"]))


def _codes(values: NDArray[np.int8], bits: int) -> NDArray[np.uint8]:
    """Results of a row, narrowed, as the codes of their bits; of 1 bit 0 for -1."""
    return np.maximum(narrow(values, bits), 0 if bits == 1 else -128).view(np.uint8)


def _unpack_records(layout: data.StructLayout, records: NDArray[np.uint8]) -> dict[str, NDArray[np.int64]]:
    """Fields (n,) of little-endian records (n, bytes)."""
    padded = np.zeros((len(records), 8), np.uint8)
    padded[:, : records.shape[1]] = records
    words = padded.view("<u8")[:, 0]
    result = {}
    for name, field_ in layout:
        shape = Shape.cast(field_.shape)
        value = ((words >> np.uint64(field_.offset)) & np.uint64((1 << shape.width) - 1)).astype(np.int64)
        result[name] = value - ((value >> (shape.width - 1)) << shape.width) if shape.signed else value
    return result
