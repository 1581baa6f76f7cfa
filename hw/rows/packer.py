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

        narrowed = [narrow(self.i.data[lane], Mux(self.clip, self.packing, 0)) for lane in range(self.lanes)]
        packed = [Cat(value[: 8 >> packing] for value in narrowed) for packing in range(MAX_PACKING + 1)]
        for byte in range(self.lanes):
            # of the lanes' narrowed bits, those for this byte, and the part that it is in
            pieces, parts = [], []
            for bits in packed:
                where, first = divmod(8 * byte, len(bits))
                pieces.append(bits[first : first + 8])
                parts.append(where)
            here = Signal(name=f"here_{byte}")
            m.d.comb += here.eq(Array(part == where for where in parts)[self.packing])
            with m.If(self.i.valid & (here | (part == 0))):
                m.d.sync += self.o.data[byte].eq(Mux(here, Array(pieces)[self.packing], 0))
        return m
