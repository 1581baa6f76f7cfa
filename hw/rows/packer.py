"""Words of narrow values packed into fewer words, between a row unit and the writer."""

from __future__ import annotations

from amaranth import *
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

from ..arith import narrow
from ..config import CoreConfig

__all__ = ["MAX_PACKING", "RowPacker"]

#: log2 of the greatest number of values in a byte.
MAX_PACKING = 3


class RowPacker(wiring.Component):
    """Joins 2**packing words of a row, their bytes narrowed to ``8 >> packing`` bits, into one word.

    Part i of it is word i (``docs/low-bit.md``, section "Words"). A row's last word leaves with the parts that it has, the others being 0.
    Narrowing takes the lowest bits; with ``clip`` it is :func:`..arith.narrow` of the byte. Packing 0 passes words on.

    Latency: ``latency`` cycles from the last part of a word. Throughput: a word in a cycle, no gap between rows.

    Parameters
    ----------
    config : CoreConfig

    Members
    -------
    packing : ``In(2)``
    clip : ``In(1)``
        Both are constant while words of a row come.
    i, o : ``Signature({"valid": Out(1), "last": Out(1), "data": Out(ArrayLayout(signed(8), L))})``
        In and out; ``last`` is the last word of a row.
    """

    latency = 1

    def __init__(self, config: CoreConfig):
        self.lanes = config.lanes
        word = {"valid": Out(1), "last": Out(1), "data": Out(data.ArrayLayout(signed(8), config.lanes))}
        super().__init__({"packing": In(2), "clip": In(1), "i": In(wiring.Signature(word)), "o": Out(wiring.Signature(word))})

    def elaborate(self, platform):
        m = Module()
        part = Signal(MAX_PACKING)
        # The word is complete: all parts but this one are there.
        full = self.i.last | (part == ((1 << self.packing) - 1)[:MAX_PACKING])
        m.d.sync += self.o.valid.eq(self.i.valid & full)
        with m.If(self.i.valid):
            m.d.sync += [self.o.last.eq(self.i.last), part.eq(Mux(full, 0, part + 1))]

        # Each packing's bits are half as many as those of the one before; they stand in all parts, of which one is taken.
        chosen = self._narrowed(MAX_PACKING)
        for packing in reversed(range(MAX_PACKING)):
            chosen = Mux(self.packing == packing, self._narrowed(packing), Cat(chosen, chosen))
        for byte in range(self.lanes):
            here = Signal(name=f"here_{byte}")
            parts = [(byte << packing) // self.lanes for packing in range(MAX_PACKING + 1)]
            m.d.comb += here.eq(Array(part == where for where in parts)[self.packing])
            with m.If(self.i.valid & (here | (part == 0))):
                m.d.sync += self.o.data[byte].eq(Mux(here, chosen[8 * byte : 8 * byte + 8], 0))
        return m

    def _narrowed(self, packing: int) -> Value:
        """The bits of all lanes in that packing."""
        lanes = [self.i.data[lane] for lane in range(self.lanes)]
        return Cat(Mux(self.clip, narrow(value, packing), value)[: 8 >> packing] for value in lanes)
