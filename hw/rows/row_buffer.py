"""A ring of words that holds rows back until a number that depends on the whole row is known."""

from __future__ import annotations

from amaranth import *
from amaranth.hdl import ShapeLike
from amaranth.lib import data, wiring
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import In, Out
from amaranth.utils import ceil_log2

from ..arith import delay
from ..ram import BLOCK_RAM

__all__ = ["RowBuffer"]


class RowBuffer(wiring.Component):
    """Joins the words of each row with the row's scalar, which comes after the row's last word.

    Only complete rows leave, one after the other, so at most one longest row (and what the delay adds) waits: the ring cannot overflow.
    No word is read in the cycle in which it is written.

    Latency: a row's first word is on ``o`` ``latency`` cycles after its scalar, or behind the row before it.
    Throughput: a word a cycle, no gap between rows.

    Parameters
    ----------
    word : ShapeLike
        What is kept of each word.
    scalar : ShapeLike
    words : int
        Words of the longest row.
    delay : int
        Cycles from the last word of a row on ``i`` to its scalar on ``scalar``.

    Members
    -------
    i : ``In(Signature({"valid": Out(1), "last": Out(1), "data": Out(word)}))``
    scalar : ``In(scalar)``
    o : ``Out(Signature({"valid": Out(1), "last": Out(1), "data": Out(word), "scalar": Out(scalar)}))``
    """

    latency = 5

    def __init__(self, word: ShapeLike, scalar: ShapeLike, *, words: int, delay: int):
        self.depth = 1 << ceil_log2(words + delay + 2)
        self.delay = delay
        self.layout = data.StructLayout({"data": word, "last": 1})
        members = {"valid": Out(1), "last": Out(1), "data": Out(word)}
        super().__init__(
            {"i": In(wiring.Signature(members)), "scalar": In(scalar), "o": Out(wiring.Signature({**members, "scalar": Out(scalar)}))}
        )

    def elaborate(self, platform):
        m = Module()
        m.submodules.words = words = Memory(shape=self.layout, depth=self.depth, init=[], attrs=BLOCK_RAM)
        m.submodules.scalars = scalars = Memory(shape=self.scalar.shape(), depth=self.depth, init=[], attrs=BLOCK_RAM)
        word_write, word_read = words.write_port(), words.read_port()
        scalar_write, scalar_read = scalars.write_port(), scalars.read_port()

        m.d.comb += [word_write.en.eq(self.i.valid), word_write.data.data.eq(self.i.data), word_write.data.last.eq(self.i.last)]
        with m.If(self.i.valid):
            m.d.sync += word_write.addr.eq(word_write.addr + 1)

        # A row may leave when its scalar is there: `ended` follows the words that the scalars have reached.
        reached, ended = Signal.like(word_write.addr), Signal.like(word_write.addr)
        valid = delay(m, self.i.valid, self.delay, name="valid", reset_less=False)
        last = delay(m, self.i.last, self.delay, name="last")
        m.d.comb += [scalar_write.en.eq(valid & last), scalar_write.data.eq(self.scalar)]
        with m.If(valid):
            m.d.sync += reached.eq(reached + 1)
        with m.If(scalar_write.en):
            m.d.sync += [scalar_write.addr.eq(scalar_write.addr + 1), ended.eq(reached + 1)]

        leaves = Signal()
        m.d.comb += leaves.eq(word_read.addr != ended)
        m.d.sync += word_read.addr.eq(word_read.addr + leaves)
        found = delay(m, leaves, 2, name="found", reset_less=False)
        early = delay(m, word_read.data, 1, name="early")
        with m.If(found & early.last):
            m.d.sync += scalar_read.addr.eq(scalar_read.addr + 1)
        word = delay(m, early, 2, name="word")
        m.d.comb += [
            self.o.valid.eq(delay(m, found, 2, name="found_late", reset_less=False)),
            self.o.last.eq(word.last),
            self.o.data.eq(word.data),
            self.o.scalar.eq(delay(m, scalar_read.data, 1, name="scalar")),
        ]
        return m
