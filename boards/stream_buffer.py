"""A register between the two ends of a stream, in both directions."""

from amaranth import *
from amaranth.hdl import ShapeLike
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out

__all__ = ["StreamBuffer"]


class StreamBuffer(wiring.Component):
    """Cuts the paths of a stream: no output depends on an input of the same cycle. Holds two items.

    Latency: 1 cycle. Throughput: an item a cycle.

    Parameters
    ----------
    shape : ShapeLike
        Of the payload.

    Members
    -------
    i : ``In(stream.Signature(shape))``
    o : ``Out(stream.Signature(shape))``
    """

    latency = 1

    def __init__(self, shape: ShapeLike):
        super().__init__({"i": In(stream.Signature(shape)), "o": Out(stream.Signature(shape))})

    def elaborate(self, platform):
        m = Module()
        kept, full = Signal.like(self.i.payload, reset_less=True), Signal()  # what came while the output waited
        m.d.comb += self.i.ready.eq(~full)
        with m.If(self.o.ready | ~self.o.valid):
            m.d.sync += [self.o.valid.eq(self.i.valid | full), self.o.payload.eq(Mux(full, kept, self.i.payload)), full.eq(0)]
        with m.Elif(self.i.valid & ~full):
            m.d.sync += [kept.eq(self.i.payload), full.eq(1)]
        return m
