"""LayerNorm of int8 rows with power-of-two factors per channel."""

from __future__ import annotations

from operator import add
from typing import Any

from amaranth import *
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out
from amaranth.utils import exact_log2

from ..arith import delay, saturate
from ..config import CoreConfig
from .norm_constants import NormConstants
from .pipeline import SHIFT_LATENCY, reduce_latency, reduce_row, register, shift_right
from .row_buffer import RowBuffer
from .rsqrt import MAX_CHANNELS, NORM_SETTINGS, SCALARS, SQUARES, TOTAL, RowScalars

__all__ = ["LayerNorm"]

_VALUE = signed(12)
_NORMAL_BITS = 18
#: Cycles from a word on the input to its values; from its values and scalars to the normalised ones; from those to the output.
_SHIFTED, _NORMALIZED, _FINISHED = 3, 4 + SHIFT_LATENCY, 3


def _scalar_delay(config: CoreConfig) -> int:
    """Cycles from the values of a row's last word to the row's scalars."""
    return 1 + reduce_latency(config.row_lanes) + RowScalars.latency


class LayerNorm(wiring.Component):
    """``y = gain * (x - mean) / std + offset`` over each row, ``x = (q - zero) << alpha``, in two passes joined by a buffer.

    A word here has ``config.row_lanes`` elements.

    Sums of values and squares, and from these the row's scalars; then normalisation. In a last word's lanes past the row, q must be the
    zero point. A row has at most ``min(MAX_CHANNELS, config.norm_channels)`` channels.
    Arithmetic: exact integers of ``docs/arithmetic.md``; golden model ``model.layer_norm.layer_norm``.

    Latency: a row's first word is on ``o`` ``latency(config, words)`` cycles after it was on ``i``, if the row before has no more words.
    Throughput: a word a cycle, no gap between rows. Stops as a whole while the output is not ready; ``constants_write`` never does.

    Parameters
    ----------
    config : CoreConfig

    Members
    -------
    i : ``In(stream.Signature({"data": [signed(8)], "last": 1}))``
    o : ``Out(stream.Signature({"data": [signed(8)], "last": 1}))``
    settings : ``In(NORM_SETTINGS)``
        Of the layer; its ``constant`` counts blocks of L channels. Constant while rows are in flight.
    constants_write : ``In(WritePort(bits, lanes))``
        ``address`` is block of L channels * 5 + byte. A write every ``config.row_parts`` cycles.
    """

    def __init__(self, config: CoreConfig):
        self.config = config
        self.word = data.StructLayout({"data": data.ArrayLayout(signed(8), config.row_lanes), "last": 1})
        self.max_words = self.longest_row(config)
        super().__init__(
            {
                "i": In(stream.Signature(self.word)),
                "o": Out(stream.Signature(self.word)),
                "settings": In(NORM_SETTINGS),
                "constants_write": In(NormConstants.write_port(config)),
            }
        )

    @staticmethod
    def longest_row(config: CoreConfig) -> int:
        """Words of the longest row."""
        return min(MAX_CHANNELS, config.norm_channels) // config.lanes * config.row_parts

    @staticmethod
    def stages(config: CoreConfig, words: int) -> tuple[int, ...]:
        """Cycles from the first word of a row on ``i`` to the exit of the row buffer."""
        return (_SHIFTED + words - 1 + _scalar_delay(config) + RowBuffer.latency,)

    @staticmethod
    def after_stages(config: CoreConfig) -> int:
        """Cycles from the exit of the row buffer to ``o``."""
        return _NORMALIZED + _FINISHED

    @classmethod
    def latency(cls, config: CoreConfig, words: int) -> int:
        """Cycles from the first word of a row on ``i`` to its first word on ``o``."""
        return sum(cls.stages(config, words)) + cls.after_stages(config)

    def elaborate(self, platform):
        m = Module()
        lanes = self.config.row_lanes
        advance = Signal()
        m.d.comb += [advance.eq(self.o.ready | ~self.o.valid), self.i.ready.eq(advance)]

        rows = RowBuffer(data.ArrayLayout(_VALUE, lanes), SCALARS, words=self.max_words, delay=_scalar_delay(self.config))
        scalars = RowScalars()
        m.submodules.constants = constants = NormConstants(self.config)
        m.submodules.rows, m.submodules.scalars = EnableInserter(advance)(rows), EnableInserter(advance)(scalars)

        with m.If(advance):
            alpha_block = self._block(m, constants.alpha_block, self.i.valid, self.i.payload.last)
            values = self._values(m, constants.alpha)
            valid = delay(m, self.i.valid, _SHIFTED, name="valid", reset_less=False)
            last = delay(m, self.i.payload.last, _SHIFTED, name="last")
            total, squares = self._sums(m, values, valid, last)

            # The constants are read so that they come with the normalised values.
            late_valid = delay(m, rows.o.valid, _NORMALIZED - 2, name="late_valid", reset_less=False)
            late_last = delay(m, rows.o.last, _NORMALIZED - 2, name="late_last")
            block = self._block(m, constants.block, late_valid, late_last)
            normal = [self._normalized(m, rows.o, k) for k in range(lanes)]
            results = [self._finished(m, value, constants.records[k], k) for k, value in enumerate(normal)]
            out_valid = delay(m, late_valid, 2 + _FINISHED, name="out_valid", reset_less=False)
            out_last = delay(m, late_last, 2 + _FINISHED, name="out_last")

        wiring.connect(m, parent=wiring.flipped(self.constants_write), constants=constants.write)
        m.d.comb += [constants.enable.eq(advance), constants.alpha_block.eq(alpha_block), constants.block.eq(block)]
        m.d.comb += [rows.i.valid.eq(valid), rows.i.last.eq(last), rows.i.data.eq(Cat(values)), rows.scalar.eq(scalars.o)]
        m.d.comb += [scalars.total.eq(total), scalars.squares.eq(squares), scalars.settings.eq(self.settings)]
        m.d.comb += [self.o.valid.eq(out_valid), self.o.payload.last.eq(out_last), self.o.payload.data.eq(Cat(results))]
        return m

    def _block(self, m: Module, address: Signal, valid: Value, last: Value) -> Value:
        """What ``address``, of the constants of a word, must be: counts from the layer's first block in every row."""
        first = Signal(name=f"{address.name}_first", init=1)
        following = Signal.like(address, name=f"{address.name}_following", reset_less=True)
        block = Mux(first, self.settings.constant.shift_left(exact_log2(self.config.row_parts)), following)
        with m.If(valid):
            m.d.sync += [first.eq(last), following.eq(block + 1)]
        return block

    def _values(self, m: Module, alpha: Any) -> list[Signal]:
        """``x`` of a word, :data:`_SHIFTED` cycles later."""
        values = []
        for k in range(self.config.row_lanes):
            difference = register(m, self.i.payload.data[k] - self.settings.zero, f"difference_{k}")
            # A block RAM's data come late in their cycle.
            factor = register(m, alpha[k], f"factor_{k}")
            values.append(register(m, register(m, difference, f"difference_late_{k}") << factor, f"value_{k}"))
        return values

    def _sums(self, m: Module, values: list[Signal], valid: Signal, last: Signal) -> tuple[Signal, Signal]:
        """Sum of a row's values and of their squares."""
        total = reduce_row(m, add, values, shape=TOTAL, valid=valid, last=last, name="total")
        squares = [register(m, (value * value).as_unsigned(), f"square_{k}") for k, value in enumerate(values)]
        valid, last = delay(m, valid, 1, name="square_valid", reset_less=False), delay(m, last, 1, name="square_last")
        return register(m, total, "total_late"), reduce_row(m, add, squares, shape=SQUARES, valid=valid, last=last, name="squares")

    def _normalized(self, m: Module, row: Any, k: int) -> Signal:
        """``(x - mean) / std`` with 12 fraction bits, clipped to 18 bits, :data:`_NORMALIZED` cycles later."""
        product = register(m, row.data[k] * row.scalar.slope, f"product_{k}")
        centred = register(m, product - register(m, row.scalar.intercept, f"intercept_{k}"), f"centred_{k}")
        # (centred << 11) >> shift - 1: the bit below the result rounds it. 4 <= shift, so this is (centred << 8) >> shift - 4.
        shift = register(m, register(m, row.scalar.shift - 4, f"shift_early_{k}")[:6], f"shift_{k}")
        doubled = shift_right(m, centred[:30].as_signed().shift_left(8), shift, name=f"scaled_{k}")
        doubled = register(m, saturate(doubled, _NORMAL_BITS + 1), f"doubled_{k}")
        rounded, limit = (doubled + 1).shift_right(1), (1 << _NORMAL_BITS - 1) - 1
        return register(m, Mux(rounded > limit, limit, Mux(rounded < -limit, -limit, rounded))[:_NORMAL_BITS].as_signed(), f"normal_{k}")

    def _finished(self, m: Module, normal: Signal, record: Any, k: int) -> Signal:
        """``gain * normal + offset``, rounded and saturated, :data:`_FINISHED` cycles later; the record comes a cycle before ``normal``."""
        gain, offset = register(m, record.gain, f"gain_{k}"), register(m, record.offset, f"offset_{k}")
        offset = register(m, offset + 512, f"offset_rounded_{k}")
        weighted = register(m, gain * normal, f"weighted_{k}")
        # (weighted + (offset << 12) + 2**21) >> 22: the lowest 12 bits make no carry.
        result = register(m, (weighted.shift_right(12) + offset).shift_right(10), f"result_{k}")
        return register(m, saturate(result, 8), f"output_{k}")
