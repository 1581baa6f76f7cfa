"""The numbers that LayerNorm needs of a whole row: slope and intercept of ``(x - mean) / std``, through a table of reciprocal roots."""

import math
from typing import Any

from amaranth import *
from amaranth.lib import data, wiring
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import In, Out
from amaranth.utils import ceil_log2

from ..arith import delay
from .pipeline import SHIFT_LATENCY, normalize, normalize_latency, register, shift_right

__all__ = ["MAX_CHANNELS", "NORM_SETTINGS", "SCALARS", "SQUARES", "TOTAL", "RowScalars", "rsqrt_table"]

MAX_CHANNELS = 2048
#: What all rows of a layer have in common; fields as in the NORM instruction.
NORM_SETTINGS = data.StructLayout({"channels": 12, "log2_channels": 4, "zero": signed(8), "epsilon": 32, "constant": 12})
#: ``A``, ``B`` and the shift of a row.
SCALARS = data.StructLayout({"slope": 17, "intercept": signed(29), "shift": 6})
#: Sums of :data:`MAX_CHANNELS` values of -2040..2040, of their squares.
TOTAL = signed(23)
SQUARES = unsigned(33)

_DETERMINANT_BITS = 46
_FRACTION_BITS = 17
_SEGMENT_BITS = 7  # of the fraction, to the table


def rsqrt_table() -> list[dict[str, int]]:
    """256 segments of ``2**16 / sqrt(d)``, d in 1..4: ``base`` at the start, ``slope``, what it falls to the end. Correctly rounded."""
    # 2**16 / sqrt(n / 128 * 2**odd) = sqrt(2**(39 - odd) / n), and round(sqrt(q)) = (floor(sqrt(4 q)) + 1) // 2
    values = [(math.isqrt((4 << 39 - odd) // n) + 1) // 2 for odd in (0, 1) for n in range(128, 256)]
    ends = [*values[1:], 1 << 15]
    return [{"base": start, "slope": start - end} for start, end in zip(values, ends, strict=True)]


class RowScalars(wiring.Component):
    """``A``, ``B`` and the shift of a row from the sum of its values and of their squares (``docs/arithmetic.md``, LayerNorm).

    Exact integers; golden model ``model.layer_norm.row_scalars``. The table has a read port only.

    Latency: ``latency`` cycles. Throughput: a row a cycle.

    Members
    -------
    total : ``In(TOTAL)``
    squares : ``In(SQUARES)``
    settings : ``In(NORM_SETTINGS)``
        Constant while rows are in flight.
    o : ``Out(SCALARS)``
    """

    latency = 4 + normalize_latency(_DETERMINANT_BITS) + 4 + 3 + SHIFT_LATENCY

    def __init__(self):
        super().__init__({"total": In(TOTAL), "squares": In(SQUARES), "settings": In(NORM_SETTINGS), "o": Out(SCALARS)})

    def elaborate(self, platform):
        m = Module()
        channels, size = self.settings.channels, self.settings.log2_channels
        mantissa, zeros = normalize(m, self._determinant(m), name="mantissa")
        position = (_DETERMINANT_BITS - 1 - zeros)[: ceil_log2(_DETERMINANT_BITS)]
        root = self._reciprocal_root(m, position, mantissa)
        total = delay(m, self.total, self.latency - 3 - SHIFT_LATENCY, name="total")

        # channels * root and total * root, in parts that fit a multiplier of 18 bits
        slope = register(m, channels * root, "slope_product")
        high = register(m, total[11:].as_signed() * root, "high")
        low = register(m, total[:11] * root, "low")
        intercept = register(m, high.shift_left(11) + low, "intercept_product")
        half = register(m, (1 << size) >> 1, "half")
        slope = register(m, register(m, slope, "slope_late") + half, "slope_rounded")
        intercept = register(m, intercept + half, "intercept_rounded")

        shift = register(m, position[1:] + 15 - size, "shift_early")
        m.d.comb += [
            self.o.slope.eq(shift_right(m, slope, size, name="slope")),
            self.o.intercept.eq(shift_right(m, intercept, size, name="intercept")),
            self.o.shift.eq(delay(m, shift, 3 + 3 + SHIFT_LATENCY, name="shift")),
        ]
        return m

    def _determinant(self, m: Module) -> Value:
        """``channels * squares - total**2 + epsilon``, 4 cycles later."""
        channels, squares, total = self.settings.channels, self.squares, self.total
        low, high = total[:11], total[11:].as_signed()
        low_square, high_square = register(m, low * low, "low_square"), register(m, (high * high).as_unsigned(), "high_square")
        product = register(m, high * low, "product")
        scaled_low, scaled_high = register(m, channels * squares[:17], "scaled_low"), register(m, channels * squares[17:], "scaled_high")

        square = register(m, Cat(low_square, high_square) + product.shift_left(12), "square")
        scaled = register(m, scaled_low + scaled_high.shift_left(17), "scaled")
        difference = register(m, (scaled - square)[:_DETERMINANT_BITS], "difference")
        return register(m, (difference + self.settings.epsilon)[:_DETERMINANT_BITS], "determinant")

    def _reciprocal_root(self, m: Module, position: Value, mantissa: Value) -> Value:
        """``2**16 / sqrt(d)`` of the mantissa, 4 cycles later; doubled when the position of its leading one is odd."""
        entry = data.StructLayout({"base": 17, "slope": 8})
        entries: Any = rsqrt_table()
        attrs: dict[str, Any] = {"rom_style": "block"}
        m.submodules.table = table = Memory(shape=entry, depth=2 << _SEGMENT_BITS, init=entries, attrs=attrs)
        read = table.read_port()
        fraction = mantissa[-1 - _FRACTION_BITS : -1]
        inside = fraction[:-_SEGMENT_BITS]
        m.d.comb += read.addr.eq(Cat(fraction[-_SEGMENT_BITS:], position[0]))
        segment = delay(m, read.data, 1, name="segment")
        product = register(m, segment.slope * delay(m, inside, 2, name="inside"), "slope_inside")
        base = register(m, segment.base, "base")
        # base - round_shift(product, 10) in one subtraction: the rounding's 512 from 1023 is 511
        return register(m, (Cat(Const(511, 10), base) - product)[10:27], "root")
