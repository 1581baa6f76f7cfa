"""Log-Int-Softmax of rows: 4-bit codes of ``-log2 softmax``, or whatever codes a table has for it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from operator import add
from typing import Any

from amaranth import *
from amaranth.lib import data, stream, wiring
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import In, Out
from amaranth.utils import ceil_log2

from .. import isa
from ..arith import delay
from ..config import CoreConfig
from ..epilogue.lane import TableWrite
from ..ram import BLOCK_RAM
from .pipeline import normalize, normalize_latency, reduce_latency, reduce_row, register
from .row_buffer import RowBuffer

__all__ = ["LOG2_TABLE", "MAX_COLUMNS", "ZERO_CODE", "LogSoftmax"]

#: Columns of the longest row.
MAX_COLUMNS = 1024
#: log2 of a mantissa in 1..2 by its 6 bits after the leading one, 8 fraction bits.
LOG2_TABLE = tuple(round(256 * math.log2(1 + (f + 0.5) / 64)) for f in range(64))

#: The code that means exactly zero.
ZERO_CODE = 15

_ONE = 15  # the exponential of 0 is 2**15
_TOTAL_BITS = _ONE + 1 + ceil_log2(MAX_COLUMNS)


def _delays(config: CoreConfig) -> tuple[int, int]:
    """Cycles from a row's last word to its maximum, from its last exponentials to the logarithm of their total."""
    reduction = reduce_latency(config.row_lanes)
    return reduction, reduction + normalize_latency(_TOTAL_BITS) + 1


class LogSoftmax(wiring.Component):
    """``code = min((log2(sum exp(max - x)) + log(max - x) + 128) >> 8, 15)`` for each lane of a row, in three passes joined by buffers.

    A word here has ``config.row_lanes`` elements, which is as many ``lanes``.
    The running maximum; the table's ``exp`` and ``log`` of the distance to it, and the sum; the codes. Lanes without ``keep`` count nowhere
    and get code 15. A row has at most :data:`MAX_COLUMNS` columns and at least one that is kept.
    Arithmetic: exact, form ``log`` of ``docs/arithmetic.md``; golden model ``model.log_softmax.log_softmax``.

    With ``config.narrow`` the codes of a row may be entries of a table instead, by the same logarithm in sixteenths (``docs/low-bit.md``,
    section "Softmax with a code table"; golden model ``model.log_softmax.coded_softmax``).

    Latency: a row's first word is on ``o`` ``latency(config, words)`` cycles after it was on ``i``, if the row before has no more words.
    Throughput: a word a cycle, no gap between rows. Stops as a whole while the output is not ready; ``table_write`` never does.

    Parameters
    ----------
    config : CoreConfig

    Members
    -------
    i : ``In(stream.Signature({"data": [signed(8)], "keep": lanes, "last": 1}))``
        Logits; bit k of ``keep`` says whether lane k is in the row.
    o : ``Out(stream.Signature({"data": [signed(8)], "last": 1}))``
        Codes 0..15, or entries of a code table as 0..15.
    table : ``In(range(config.tables))``
        Table of the word on ``i``, the same for all words of a row.
    masked : ``In(1)``
        A lane of the word on ``i`` with the logit -128 is not kept.
    table_write : ``In(TableWrite(config, isa.EXP_ENTRY))``
        No row may be in flight that uses the table.
    coded, relative : ``In(1)``
        The row's codes are entries of a code table; and by the weight over the row's greatest one. Only with ``config.narrow``, as are:
    code_table : ``In(range(config.tables))``
    code_write : ``In(TableWrite(config, isa.CODE_ENTRY))``
        As ``table`` and ``table_write``.
    """

    def __init__(self, config: CoreConfig):
        self.config = config
        self.lane = data.ArrayLayout(signed(8), config.row_lanes)
        self.max_words = self.longest_row(config)
        self.input = data.StructLayout({"data": self.lane, "keep": config.row_lanes, "last": 1})
        self.output = data.StructLayout({"data": self.lane, "last": 1})
        # what travels with a word besides
        self.coding = {"coded": 1, "relative": 1, "code_table": range(config.tables)} if config.narrow else {}
        super().__init__(
            {
                "i": In(stream.Signature(self.input)),
                "o": Out(stream.Signature(self.output)),
                "table": In(range(config.tables)),
                "masked": In(1),
                "table_write": In(TableWrite(config, isa.EXP_ENTRY)),
                **{name: In(shape) for name, shape in self.coding.items()},
                **({"code_write": In(TableWrite(config, isa.CODE_ENTRY))} if config.narrow else {}),
            }
        )

    @staticmethod
    def longest_row(config: CoreConfig) -> int:
        """Words of the longest row."""
        return -(-MAX_COLUMNS // config.lanes) * config.row_parts

    @staticmethod
    def stages(config: CoreConfig, words: int) -> tuple[int, ...]:
        """Cycles from the first word of a row on ``i`` to the exit of the first row buffer, from there to that of the second."""
        maximum, total = _delays(config)
        return words - 1 + maximum + RowBuffer.latency, 2 + words - 1 + total + RowBuffer.latency

    @staticmethod
    def after_stages(config: CoreConfig) -> int:
        """Cycles from the exit of the last row buffer to ``o``."""
        return 4 if config.narrow else 2

    @classmethod
    def latency(cls, config: CoreConfig, words: int) -> int:
        """Cycles from the first word of a row on ``i`` to its first word on ``o``."""
        return sum(cls.stages(config, words)) + cls.after_stages(config)

    def elaborate(self, platform):
        m = Module()
        lanes = self.config.row_lanes
        advance = Signal()
        m.d.comb += [advance.eq(self.o.ready | ~self.o.valid), self.i.ready.eq(advance)]

        maximum_delay, total_delay = _delays(self.config)
        logit_word = data.StructLayout({"data": self.lane, "keep": lanes, "table": self.table.shape(), **self.coding})
        log_word = data.StructLayout({"data": data.ArrayLayout(12, lanes), "keep": lanes, **self.coding})
        logits = RowBuffer(logit_word, signed(8), words=self.max_words, delay=maximum_delay)
        logs = RowBuffer(log_word, 13, words=self.max_words, delay=total_delay)
        m.submodules.logits, m.submodules.logs = EnableInserter(advance)(logits), EnableInserter(advance)(logs)

        entries = self._entries(m, advance, logits.o)
        with m.If(advance):
            maximum = self._maximum(m)
            keep = delay(m, logits.o.data.keep, 1, name="keep_early")
            exps = [register(m, Mux(keep[k], entry.exp, 0), f"exp_{k}") for k, entry in enumerate(entries)]
            distances = [register(m, entry.log, f"log_{k}") for k, entry in enumerate(entries)]
            keep = delay(m, keep, 1, name="keep")
            valid = delay(m, logits.o.valid, 2, name="valid", reset_less=False)
            last = delay(m, logits.o.last, 2, name="last")
            coding = {name: delay(m, logits.o.data[name], 2, name=name) for name in self.coding}
            log2_total = self._log2_total(m, exps, valid, last, coding)
            codes = self._codes(m, logs.o)
            codes_valid = delay(m, logs.o.valid, self.after_stages(self.config), name="codes_valid", reset_less=False)
            codes_last = delay(m, logs.o.last, self.after_stages(self.config), name="codes_last")
        if self.config.narrow:
            codes = self._coded(m, advance, codes, logs.o.data)

        word, logit, log = self.i.payload, logits.i.data, logs.i.data
        m.d.comb += [logits.i.valid.eq(self.i.valid), logits.i.last.eq(word.last), logits.scalar.eq(maximum)]
        # A masked lane is the least there can be: the maximum need not know.
        kept = Cat(word.keep[k] & ~(self.masked & (word.data[k] == -128)) for k in range(lanes))
        m.d.comb += [logit.data.eq(word.data), logit.keep.eq(kept), logit.table.eq(self.table)]
        m.d.comb += [logs.i.valid.eq(valid), logs.i.last.eq(last), logs.scalar.eq(log2_total)]
        m.d.comb += [log.data.eq(Cat(distances)), log.keep.eq(keep)]
        for name in self.coding:
            m.d.comb += [logit[name].eq(getattr(self, name)), log[name].eq(coding[name])]
        m.d.comb += [self.o.valid.eq(codes_valid), self.o.payload.last.eq(codes_last)]
        m.d.comb += self.o.payload.data.eq(Cat(Cat(code, Const(0, 4)) for code in codes))
        return m

    def _maximum(self, m: Module) -> Signal:
        """Largest kept logit of a row."""
        word, lowest = self.i.payload, Const(-128, signed(8))
        lanes = [Mux(word.keep[k], word.data[k], lowest) for k in range(self.config.row_lanes)]
        return reduce_row(m, lambda a, b: Mux(a > b, a, b), lanes, shape=signed(8), valid=self.i.valid, last=word.last, name="maximum")

    def _entries(self, m: Module, advance: Signal, row: Any) -> list[Any]:
        """Table entry of each lane's distance to the maximum, in the cycle after ``row``."""
        addresses = [Cat((row.scalar - row.data.data[k])[:8], row.data.table) for k in range(self.config.row_lanes)]
        return self._look_up(m, advance, "table", self.table_write, addresses)

    def _look_up(self, m: Module, advance: Signal, name: str, port: Any, addresses: Sequence[Value]) -> list[Any]:
        """Entry of each lane at its address, in the next cycle. A memory a lane, all with the same content."""
        entries = []
        for k, address in enumerate(addresses):
            depth = self.config.tables * isa.TABLE_ENTRIES
            m.submodules[f"{name}_{k}"] = memory = Memory(shape=port.data.shape(), depth=depth, init=[], attrs=BLOCK_RAM)
            read, write = memory.read_port(), memory.write_port()
            m.d.comb += [read.en.eq(advance), read.addr.eq(address)]
            m.d.comb += [write.en.eq(port.enable), write.addr.eq(port.address), write.data.eq(port.data)]
            entries.append(read.data)
        return entries

    def _log2_total(self, m: Module, exps: list[Signal], valid: Signal, last: Signal, coding: dict[str, Signal]) -> Signal:
        """log2 of a row's sum over its largest exponential, 8 fraction bits, plus a half for the rounding to codes or table entries."""
        total = reduce_row(m, add, exps, shape=unsigned(_TOTAL_BITS), valid=valid, last=last, name="total")
        mantissa, zeros = normalize(m, total, name="mantissa")
        fraction = Array(Const(value, 8) for value in LOG2_TABLE)[mantissa[-7:-1]]
        exponent = (_TOTAL_BITS - 1 - _ONE - zeros)[:4]
        if not coding:
            return register(m, (Cat(fraction, exponent) + 128)[:13], "log2_total")
        _, cycles = _delays(self.config)
        coded, relative = (delay(m, coding[name], cycles - 1, name=f"total_{name}") for name in ("coded", "relative"))
        logarithm = Mux(coded & relative, 0, Cat(fraction, exponent))
        return register(m, (logarithm + Mux(coded, 8, 128))[:13], "log2_total")

    def _codes(self, m: Module, row: Any) -> list[Signal]:
        """Codes of a word, or with ``config.narrow`` indices of the code table, two cycles later."""
        bits = 8 if self.config.narrow else 4
        codes, greatest = [], (1 << bits) - 1
        for k in range(self.config.row_lanes):
            rounded = register(m, (row.scalar + row.data.data[k]).shift_right(12 - bits), f"rounded_{k}")
            kept = register(m, row.data.keep[k], f"kept_{k}")
            codes.append(register(m, Mux(kept & (rounded < greatest), rounded[:bits], greatest), f"code_{k}"))
        return codes

    def _coded(self, m: Module, advance: Signal, indices: list[Signal], row: Any) -> list[Signal]:
        """Codes of a word's ``indices``, two cycles later; ``row`` is the word two cycles before them."""
        with m.If(advance):
            coded, table = delay(m, row.coded, 3, name="codes_coded"), delay(m, row.code_table, 2, name="codes_table")
        entries = self._look_up(m, advance, "code_table", self.code_write, [Cat(index, table) for index in indices])
        with m.If(advance):
            # Not coded, an index is the code with 4 fraction bits, and rounded so.
            codes = [register(m, index[4:], f"code_late_{k}") for k, index in enumerate(indices)]
            chosen = [register(m, Mux(coded, entries[k], code), f"chosen_{k}") for k, code in enumerate(codes)]
        return chosen
