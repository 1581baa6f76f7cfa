"""The row engine: runs SOFTMAX and NORM instructions from scratchpad to scratchpad."""

from __future__ import annotations

from typing import Any

from amaranth import *
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out, connect, flipped
from amaranth.utils import exact_log2

from .. import isa
from ..arith import delay
from ..config import CoreConfig
from ..epilogue.lane import TableWrite
from ..isa import Error, Opcode
from ..row_map import MapWrite
from ..scratchpad import READ_LATENCY, ReadPort, WritePort
from ..sequencer import Sequencer
from .address import RowAddress
from .layer_norm import LayerNorm
from .log_softmax import LogSoftmax
from .norm_constants import NormConstants
from .packer import RowPacker
from .rsqrt import MAX_CHANNELS, NORM_SETTINGS
from .writer import RowWriter

__all__ = ["INPUT_LATENCY", "RowEngine"]

#: Cycles from a read to its part of the word at the input of a unit.
INPUT_LATENCY = READ_LATENCY + 1


class RowEngine(wiring.Component):
    """Reads the rows of an instruction from the scratchpad and writes log-softmax codes or normalised rows back.

    A word is read in ``config.row_parts`` parts, one a cycle, lowest lanes first; its result is written with its last part.
    An instruction is checked in the first cycle in which it is offered, and accepted in the third one or later: two cycles after the last
    read of the one before it, if it uses the same unit, packs its output alike and, for NORM, has the same settings
    (:data:`.rsqrt.NORM_SETTINGS`), and if fewer than ``Sequencer.IN_FLIGHT`` are in progress; otherwise in the cycle after the ``done``
    that this waits for. So two cycles are lost between instructions of a kind, not the unit's latency, and all end in order.
    Of a SOFTMAX, lanes from ``columns`` on count nowhere and get code 15, or the last entry of the code table.
    With ``config.narrow`` output may be packed (:class:`.packer.RowPacker`): a row is then ``ceil(words / 2**output_packing)`` words.
    Refused, without any access: an opcode of another queue; no rows, words, columns or channels; more words than a row may have, more
    channels than :data:`.rsqrt.MAX_CHANNELS`; a map, a code table or packed output in a core without (``Error.FIELD``); constants or map
    entries outside their memory (``Error.ADDRESS``).

    Timing: with ``start`` in cycle a, words are read from cycle a + 1 on. Alone, an instruction is ``done`` in cycle a + :meth:`cycles`;
    after others it may wait for them in the row buffers of its unit, as ``sim/row_timing.py`` says.

    Parameters
    ----------
    config : CoreConfig

    Members
    -------
    instruction : ``In(stream.Signature(INSTRUCTION_BITS))``
    start, done : ``Out(1)``
        An instruction is accepted in this cycle; the oldest one has ended, its last word was written in the cycle before.
    error : ``Out(isa.Error)``
        Other than NONE in the cycle in which an instruction is refused.
    read : ``Out(ReadPort)``
    write : ``Out(WritePort)``
    exp_write : ``In(TableWrite(config, isa.EXP_ENTRY))``
    code_write : ``In(TableWrite(config, isa.CODE_ENTRY))``
        Only with ``config.narrow``.
    norm_write : ``In(NormConstants.write_port(config))``
    row_map : ``In(MapWrite(config))``
        Only with ``config.map_rows``.
    """

    def __init__(self, config: CoreConfig):
        self.config = config
        super().__init__(
            {
                "instruction": In(stream.Signature(isa.INSTRUCTION_BITS)),
                "start": Out(1),
                "done": Out(1),
                "error": Out(Error),
                "read": Out(ReadPort(isa.ADDRESS.width, config.lanes)),
                "write": Out(WritePort(isa.ADDRESS.width, config.lanes)),
                "exp_write": In(TableWrite(config, isa.EXP_ENTRY)),
                **({"code_write": In(TableWrite(config, isa.CODE_ENTRY))} if config.narrow else {}),
                "norm_write": In(NormConstants.write_port(config)),
                **({"row_map": In(MapWrite(config))} if config.map_rows else {}),
            }
        )

    @staticmethod
    def unit(opcode: Opcode) -> type[LogSoftmax | LayerNorm]:
        return {Opcode.SOFTMAX: LogSoftmax, Opcode.NORM: LayerNorm}[opcode]

    @staticmethod
    def output_latency(config: CoreConfig) -> int:
        """Cycles from the unit's output to the scratchpad's write port."""
        return (RowPacker.latency if config.narrow else 0) + 1 + RowWriter.latency(config)

    @classmethod
    def cycles(cls, config: CoreConfig, opcode: Opcode, rows: int, words: int) -> int:
        """Cycles from ``start`` to ``done`` of a SOFTMAX or NORM of ``rows`` rows of ``words`` words that comes alone."""
        # 1 to the first read, and 1 from the last write (rows * words - 1 after the first part) to `done`
        words *= config.row_parts
        return 1 + INPUT_LATENCY + cls.unit(opcode).latency(config, words) + cls.output_latency(config) + rows * words - 1 + 1

    def elaborate(self, platform):
        m = Module()
        m.submodules.softmax = softmax = LogSoftmax(self.config)
        m.submodules.norm = norm = LayerNorm(self.config)
        m.submodules.source = source = RowAddress()
        m.submodules.writer = writer = RowWriter(self.config)
        connect(m, engine=flipped(self.exp_write), softmax=softmax.table_write)
        connect(m, engine=flipped(self.norm_write), norm=norm.constants_write)
        if self.config.narrow:
            connect(m, engine=flipped(self.code_write), softmax=softmax.code_write)
        connect(m, writer=writer.write, engine=flipped(self.write))
        if self.config.map_rows:
            connect(m, engine=flipped(self.row_map), writer=writer.row_map)

        instruction = Signal(isa.INSTRUCTION_BITS, reset_less=True)
        reading, is_norm = Signal(), Signal()
        # Both bodies begin alike, with rows, words and addresses.
        body, norm_body = isa.body(Opcode.SOFTMAX, instruction), isa.body(Opcode.NORM, instruction)
        incoming = isa.body(Opcode.SOFTMAX, self.instruction.payload)
        m.d.comb += [source.load.eq(self.instruction.ready), source.base.eq(incoming.input), source.words.eq(incoming.words)]
        m.d.comb += [source.row_stride.eq(body.input_row), source.word_stride.eq(body.input_word)]

        rows_left, columns_left = Signal(13, reset_less=True), Signal(16, reset_less=True)
        lanes, parts = self.config.row_lanes, self.config.row_parts
        part = Signal(range(parts))  # of the word that is read
        keep = Cat(columns_left > lane for lane in range(lanes))
        row_end = source.last & (part == parts - 1)
        m.d.comb += [self.read.enable.eq(reading), self.read.address.eq(source.address), source.step.eq(reading & (part == parts - 1))]
        with m.If(reading):
            m.d.sync += [part.eq(part + 1), columns_left.eq(Mux(keep[-1], columns_left - lanes, 0))]
            with m.If(row_end):
                m.d.sync += [columns_left.eq(body.columns), rows_left.eq(rows_left - 1), reading.eq(rows_left != 1)]

        valid = delay(m, reading, INPUT_LATENCY, name="valid", reset_less=False)
        last = delay(m, row_end, INPUT_LATENCY, name="last")
        word = Value.cast(self.read.data).word_select(delay(m, part, READ_LATENCY, name="part"), 8 * lanes)
        word = delay(m, word, INPUT_LATENCY - READ_LATENCY, name="word")
        for unit, used in ((softmax, ~is_norm), (norm, is_norm)):
            m.d.comb += [unit.i.valid.eq(valid & used), unit.i.payload.last.eq(last), unit.i.payload.data.eq(word)]
            m.d.comb += unit.o.ready.eq(1)
        m.d.comb += softmax.i.payload.keep.eq(delay(m, keep, INPUT_LATENCY, name="keep"))
        travelling = ("table", "masked", *softmax.coding)
        m.d.comb += [getattr(softmax, name).eq(delay(m, body[name], INPUT_LATENCY, name=name)) for name in travelling]
        m.d.comb += [norm.settings[name].eq(norm_body[name]) for name, _ in norm.settings.shape()]
        accepted = self._accept(m, writer.ends, ~reading, is_norm, instruction)
        # The target goes to the writer a cycle later, long before the first word.
        m.d.sync += writer.push.eq(accepted)
        m.d.comb += [writer.target[name].eq(norm_body[name]) for name, _ in writer.target.shape()]
        if self.config.map_rows:
            m.d.comb += writer.target.map.eq(norm_body.map & is_norm)
        valid, word = (Mux(is_norm, *each) for each in ((norm.o.valid, softmax.o.valid), (norm.o.payload.data, softmax.o.payload.data)))
        result = self._joined(m, valid, word)
        if self.config.narrow:
            m.submodules.packer = packer = RowPacker(self.config)
            last = Mux(is_norm, norm.o.payload.last, softmax.o.payload.last)
            m.d.comb += [packer.i.valid.eq(result["valid"]), packer.i.last.eq(last), packer.i.data.eq(result["data"])]
            m.d.comb += [packer.packing.eq(self._packing(instruction, is_norm)), packer.clip.eq(is_norm)]
            m.d.comb += writer.target.words.eq((body.words + (1 << packer.packing) - 1) >> packer.packing)
            result = {"valid": packer.o.valid, "data": packer.o.data}
        m.d.sync += [writer.valid.eq(result["valid"]), writer.word.eq(result["data"])]
        with m.If(self.instruction.ready):
            m.d.sync += [instruction.eq(self.instruction.payload), is_norm.eq(self._opcode() == Opcode.NORM)]
            m.d.sync += [rows_left.eq(incoming.rows), columns_left.eq(incoming.columns), reading.eq(accepted)]
        return m

    def _joined(self, m: Module, valid: Value, part: Value) -> dict[str, Value]:
        """``valid`` and ``data`` of words whose parts come one after the other, with the last one."""
        parts = self.config.row_parts
        index = Signal(range(parts), name="joined")
        earlier = Signal((parts - 1) * len(part), name="earlier", reset_less=True)
        with m.If(valid):
            m.d.sync += [index.eq(index + 1), earlier.eq(Cat(earlier, part)[len(part) :])]
        return {"valid": valid & (index == parts - 1), "data": Cat(earlier, part)}

    def _accept(self, m: Module, ends: Value, free: Value, is_norm: Value, instruction: Value) -> Value:
        """Start an instruction when reading is ``free`` and those in flight do not mind; returns whether it is not refused."""
        flying, accepted = Signal(range(Sequencer.IN_FLIGHT + 1)), Signal()
        incoming, current = isa.body(Opcode.NORM, self.instruction.payload), isa.body(Opcode.NORM, instruction)
        is_same = (self._opcode() == Opcode.NORM) == is_norm
        for name in NORM_SETTINGS.members:
            is_same &= ~is_norm | (incoming[name] == current[name])
        if self.config.narrow:
            is_same &= self._packing(self.instruction.payload, is_norm) == self._packing(instruction, is_norm)
        # What is known of the instruction since the cycle before: that it is there, goes with those in flight, is refused.
        waits, fits, refused = Signal(), Signal(), Signal(Error)
        m.d.sync += [waits.eq(self.instruction.valid & ~self.start), fits.eq(is_same), refused.eq(Error.NONE)]
        for condition, error in reversed(self._refusals()):
            with m.If(condition):
                m.d.sync += refused.eq(error)
        able = free & waits & ((flying == 0) | (fits & (flying != Sequencer.IN_FLIGHT)))
        m.d.sync += self.instruction.ready.eq(able & ~self.start)
        m.d.comb += [
            self.start.eq(self.instruction.valid & self.instruction.ready),
            self.error.eq(Mux(self.start, refused, Error.NONE)),
            accepted.eq(self.start & (refused == Error.NONE)),
        ]
        m.d.sync += [flying.eq(flying + accepted - ends), self.done.eq(ends)]
        return accepted

    def _opcode(self) -> Any:
        return isa.HEADER(self.instruction.payload[: isa.HEADER.size]).opcode

    @staticmethod
    def _packing(instruction: Value, is_norm: Value) -> Value:
        """Packing of an instruction's output."""
        return Mux(is_norm, *(isa.body(opcode, instruction).output_packing for opcode in (Opcode.NORM, Opcode.SOFTMAX)))

    def _refusals(self) -> list[tuple[Value, Error]]:
        """Conditions under which the instruction offered is refused, in order of precedence."""
        softmax, norm = (isa.body(opcode, self.instruction.payload) for opcode in (Opcode.SOFTMAX, Opcode.NORM))
        is_softmax, is_norm = (self._opcode() == opcode for opcode in (Opcode.SOFTMAX, Opcode.NORM))
        longest = Mux(is_norm, LayerNorm.longest_row(self.config), LogSoftmax.longest_row(self.config)) >> exact_log2(self.config.row_parts)
        mapped = is_norm & norm.map
        if self.config.map_rows:
            map_error = (mapped & (norm.map_base + norm.rows > self.config.map_rows), Error.ADDRESS)
        else:
            map_error = (mapped, Error.FIELD)
        packed = Mux(is_norm, norm.output_packing, softmax.output_packing) != 0
        narrow = packed | (is_softmax & softmax.coded)
        return [
            (~is_softmax & ~is_norm, Error.OPCODE),
            ((softmax.rows == 0) | (softmax.words == 0) | (softmax.words > longest), Error.FIELD),
            (is_softmax & (softmax.columns == 0), Error.FIELD),
            (is_norm & ((norm.channels == 0) | (norm.channels > MAX_CHANNELS)), Error.FIELD),
            *([] if self.config.narrow else [(narrow, Error.FIELD)]),
            (is_norm & (norm.constant + norm.words > NormConstants.count(self.config)), Error.ADDRESS),
            map_error,
        ]
