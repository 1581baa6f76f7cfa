"""Widens stationary values that are stored in fewer bits than the array takes."""

from typing import Any

from amaranth import *
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

from ..config import PACKING, CoreConfig

__all__ = ["StationaryUnpack"]


class StationaryUnpack(wiring.Component):
    """Makes words of the array from a stored word that holds the values of several of its rows, in order from bit 0 of each byte on.

    A byte has ``1 << stored`` values; a word of the array takes ``1 << packing`` of them, widens each to ``8 >> packing`` bits (two's
    complement; of 1 bit, 0 is -1 and 1 is +1) and leaves the others for the following words.

    Latency: 0 cycles. Throughput: a word a cycle.

    Parameters
    ----------
    config : CoreConfig

    Members
    -------
    stored, packing : ``In(2)``
        log2 of the values in a byte, as they are stored and as the mode has them, at most as many.
    fresh : ``In(1)``
        ``i`` is a stored word; else the next part of the word before is taken.
    i, o : ``In``, ``Out(ArrayLayout(signed(8), L))``
    """

    stored: Value
    packing: Value
    fresh: Value
    i: data.View
    o: data.View

    def __init__(self, config: CoreConfig) -> None:
        self.config = config
        word = data.ArrayLayout(signed(8), config.lanes)
        super().__init__({"stored": In(2), "packing": In(2), "fresh": In(1), "i": In(word), "o": Out(word)})

    def elaborate(self, platform):
        m = Module()
        # Only what the modes need: values as wide as they take, or of fewer bits.
        taken = {0} | {PACKING[mode] for mode in self.config.modes}
        for lane in range(self.config.lanes):
            part, rest = (Signal(8, name=f"{name}_{lane}") for name in ("part", "rest"))
            m.d.comb += [part.eq(Mux(self.fresh, self.i[lane], rest)), self.o[lane].eq(part)]
            with m.Switch(Cat(self.packing, self.stored)):
                for packing in sorted(taken):
                    for stored in range(packing + 1, 4):
                        with m.Case(packing | stored << 2):
                            m.d.comb += self.o[lane].eq(_widen(part, stored, packing))
                            m.d.sync += rest.eq(part >> (8 >> stored - packing))
        return m


def _widen(part: Value, stored: int, packing: int) -> Value:
    """The lowest ``1 << packing`` values of ``8 >> stored`` bits, in ``8 >> packing`` bits."""
    width, wide = 8 >> stored, 8 >> packing
    fields: list[Any] = []
    for index in range(1 << packing):
        value = part[index * width :][:width]
        fields.append(Cat(Const(1, 1), (~value).replicate(wide - 1)) if width == 1 else Cat(value, value[-1].replicate(wide - width)))
    return Cat(*fields)
