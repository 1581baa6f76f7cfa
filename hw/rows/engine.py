"""The row engine: runs SOFTMAX and NORM instructions from scratchpad to scratchpad."""

from __future__ import annotations

from typing import Any

from amaranth import *
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out, connect, flipped

from .. import isa
from ..arith import delay
from ..config import CoreConfig
from ..epilogue.lane import TableWrite
from ..isa import Error, Opcode
from ..scratchpad import READ_LATENCY, ReadPort, WritePort
from .address import RowAddress
from .layer_norm import LayerNorm
from .log_softmax import LogSoftmax
from .norm_constants import NormConstants
from .rsqrt import MAX_CHANNELS

__all__ = ["RowEngine"]

_UNITS = {Opcode.SOFTMAX: LogSoftmax, Opcode.NORM: LayerNorm}


class RowEngine(wiring.Component):
    """Reads the rows of an instruction from the scratchpad, a word a cycle, and writes log-softmax codes or normalised rows back.

    One instruction is in progress at a time. Of a SOFTMAX, lanes from ``columns`` on count nowhere and get code 15.
    Refused, without any access: an opcode of another queue; no rows, words, columns or channels; more words than a row may have, more
    channels than :data:`.rsqrt.MAX_CHANNELS` (``Error.FIELD``); constants outside their memory (``Error.ADDRESS``).

    Timing: with ``start`` in cycle a, words are read from cycle a + 1 on, and ``done`` is in cycle a + :meth:`cycles`.

    Parameters
    ----------
    config : CoreConfig

    Members
    -------
    instruction : ``In(stream.Signature(INSTRUCTION_BITS))``
    start, done : ``Out(1)``
        An instruction is accepted in this cycle; it has ended, its last word was written in the cycle before.
    error : ``Out(isa.Error)``
        Other than NONE in the cycle in which an instruction is refused.
    read : ``Out(ReadPort)``
    write : ``Out(WritePort)``
    exp_write : ``In(TableWrite(config, isa.EXP_ENTRY))``
    norm_write : ``In(NormConstants.write_port(config))``
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
                "norm_write": In(NormConstants.write_port(config)),
            }
        )

    @staticmethod
    def cycles(config: CoreConfig, opcode: Opcode, rows: int, words: int) -> int:
        """Cycles from ``start`` to ``done`` of a SOFTMAX or NORM of ``rows`` rows of ``words`` words."""
        # 1 to the first read, 1 to register the write, 1 from the last write (rows * words - 1 after the first) to `done`
        return 1 + READ_LATENCY + _UNITS[opcode].latency(config, words) + 1 + rows * words - 1 + 1

    def elaborate(self, platform):
        m = Module()
        m.submodules.softmax = softmax = LogSoftmax(self.config)
        m.submodules.norm = norm = LayerNorm(self.config)
        m.submodules.source = source = RowAddress()
        m.submodules.destination = destination = RowAddress()
        connect(m, engine=flipped(self.exp_write), softmax=softmax.table_write)
        connect(m, engine=flipped(self.norm_write), norm=norm.constants_write)

        instruction = Signal(isa.INSTRUCTION_BITS, reset_less=True)
        busy, reading, is_norm = Signal(), Signal(), Signal()
        m.d.comb += [self.instruction.ready.eq(~busy), self.start.eq(self.instruction.valid & ~busy)]
        # Both bodies begin alike, with rows, words and addresses.
        body, norm_body = isa.body(Opcode.SOFTMAX, instruction), isa.body(Opcode.NORM, instruction)
        incoming = isa.body(Opcode.SOFTMAX, self.instruction.payload)
        for address, name in ((source, "input"), (destination, "output")):
            m.d.comb += [address.load.eq(self.start), address.base.eq(incoming[name]), address.words.eq(body.words)]
            m.d.comb += [address.row_stride.eq(body[f"{name}_row"]), address.word_stride.eq(body[f"{name}_word"])]

        rows_left, columns_left = Signal(13, reset_less=True), Signal(16, reset_less=True)
        keep = Cat(columns_left > lane for lane in range(self.config.lanes))
        m.d.comb += [self.read.enable.eq(reading), self.read.address.eq(source.address), source.step.eq(reading)]
        with m.If(reading):
            m.d.sync += columns_left.eq(Mux(keep[-1], columns_left - self.config.lanes, 0))
            with m.If(source.last):
                m.d.sync += [columns_left.eq(body.columns), rows_left.eq(rows_left - 1), reading.eq(rows_left != 1)]

        valid = delay(m, reading, READ_LATENCY, name="valid", reset_less=False)
        last = delay(m, source.last, READ_LATENCY, name="last")
        for unit, used in ((softmax, ~is_norm), (norm, is_norm)):
            m.d.comb += [unit.i.valid.eq(valid & used), unit.i.payload.last.eq(last), unit.i.payload.data.eq(self.read.data)]
            m.d.comb += unit.o.ready.eq(1)
        m.d.comb += [softmax.i.payload.keep.eq(delay(m, keep, READ_LATENCY, name="keep")), softmax.table.eq(body.table)]
        m.d.comb += [norm.settings[name].eq(norm_body[name]) for name, _ in norm.settings.shape()]

        with m.If(self.start):
            m.d.sync += [instruction.eq(self.instruction.payload), rows_left.eq(incoming.rows), columns_left.eq(incoming.columns)]
            m.d.sync += [is_norm.eq(self._opcode() == Opcode.NORM), busy.eq(1), reading.eq(1)]
            for condition, error in reversed(self._refusals()):
                with m.If(condition):
                    m.d.comb += self.error.eq(error)
                    m.d.sync += [busy.eq(0), reading.eq(0)]
        ends = self._write(
            m, destination, Mux(is_norm, norm.o.valid, softmax.o.valid), Mux(is_norm, norm.o.payload.data, softmax.o.payload.data)
        )
        with m.If(ends):
            m.d.sync += busy.eq(0)
        return m

    def _opcode(self) -> Any:
        return isa.HEADER(self.instruction.payload[: isa.HEADER.size]).opcode

    def _refusals(self) -> list[tuple[Value, Error]]:
        """Conditions under which the instruction offered is refused, in order of precedence."""
        softmax, norm = (isa.body(opcode, self.instruction.payload) for opcode in _UNITS)
        is_softmax, is_norm = (self._opcode() == opcode for opcode in _UNITS)
        longest = Mux(is_norm, LayerNorm.longest_row(self.config), LogSoftmax.longest_row(self.config))
        return [
            (~is_softmax & ~is_norm, Error.OPCODE),
            ((softmax.rows == 0) | (softmax.words == 0) | (softmax.words > longest), Error.FIELD),
            (is_softmax & (softmax.columns == 0), Error.FIELD),
            (is_norm & ((norm.channels == 0) | (norm.channels > MAX_CHANNELS)), Error.FIELD),
            (is_norm & (norm.constant + norm.words > NormConstants.count(self.config)), Error.ADDRESS),
        ]

    def _write(self, m: Module, destination: RowAddress, valid: Value, word: Value) -> Value:
        """Write the unit's words; returns whether the instruction's last one is written in this cycle."""
        rows, last = Signal(13, name="rows_to_write", reset_less=True), Signal(name="write_last", reset_less=True)
        ends = self.write.enable & last
        m.d.comb += destination.step.eq(valid)
        m.d.sync += [self.write.enable.eq(valid), self.write.address.eq(destination.address), self.write.data.eq(word)]
        m.d.sync += [last.eq(destination.last & (rows == 1)), self.done.eq(ends)]
        with m.If(valid & destination.last):
            m.d.sync += rows.eq(rows - 1)
        with m.If(self.start):
            m.d.sync += rows.eq(isa.body(Opcode.SOFTMAX, self.instruction.payload).rows)
        return ends
