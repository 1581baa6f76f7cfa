"""Addresses of the words of many rows, row by row."""

from amaranth import *
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from .. import isa

__all__ = ["RowAddress"]


class RowAddress(wiring.Component):
    """Address of word w of row r, ``base + r * row_stride + w * word_stride``, words first.

    After ``load``, ``address`` is the first word's from the next cycle on; with ``step`` it is the next word's in the cycle after.

    Members
    -------
    load : ``In(1)``
    base : ``In(isa.ADDRESS)``
    words : ``In(10)``
        Words of a row, at least 1. It and the strides are constant while ``step`` is used.
    row_stride, word_stride : ``In(isa.STRIDE)``
    step : ``In(1)``
    address : ``Out(isa.ADDRESS)``
    last : ``Out(1)``
        The word is the last one of its row.
    """

    def __init__(self):
        super().__init__(
            {
                "load": In(1),
                "base": In(isa.ADDRESS),
                "words": In(10),
                "row_stride": In(isa.STRIDE),
                "word_stride": In(isa.STRIDE),
                "step": In(1),
                "address": Out(isa.ADDRESS),
                "last": Out(1),
            }
        )

    def elaborate(self, platform):
        m = Module()
        row, word = Signal(isa.ADDRESS), Signal(10)  # word counts from 1
        m.d.comb += self.last.eq(word == self.words)
        with m.If(self.step):
            m.d.sync += [word.eq(word + 1), self.address.eq(self.address + self.word_stride)]
            with m.If(self.last):
                m.d.sync += [word.eq(1), row.eq(row + self.row_stride), self.address.eq(row + self.row_stride)]
        with m.If(self.load):
            m.d.sync += [word.eq(1), row.eq(self.base), self.address.eq(self.base)]
        return m
