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
        Words of a row, at least 1, in the cycle of ``load``.
    row_stride, word_stride : ``In(isa.STRIDE)``
        Constant while ``step`` is used.
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
        row, following, words, single = Signal(isa.ADDRESS), Signal(10), Signal(10), Signal()  # following: word, counted from 1
        with m.If(self.step):
            m.d.sync += [following.eq(following + 1), self.address.eq(self.address + self.word_stride), self.last.eq(following == words)]
            with m.If(self.last):
                m.d.sync += [following.eq(2), row.eq(row + self.row_stride), self.address.eq(row + self.row_stride), self.last.eq(single)]
        with m.If(self.load):
            m.d.sync += [following.eq(2), row.eq(self.base), self.address.eq(self.base)]
            m.d.sync += [words.eq(self.words), single.eq(self.words == 1), self.last.eq(self.words == 1)]
        return m
