"""Read and write requests of the load and the store engine."""

from amaranth import *
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out
from amaranth.utils import ceil_log2

from .arith import tree_sum
from .config import CoreConfig
from .memory_port import ADDRESS_BITS, MAX_BURST, REQUEST

__all__ = ["Bursts", "times"]


def times(value: Value, factor: int) -> Value:
    """``value * factor`` by shifts and adders: no multiplier is spent on it."""
    return tree_sum(value.shift_left(bit) for bit in range(factor.bit_length()) if factor >> bit & 1)


class Bursts(wiring.Component):
    """Requests for consecutive words: bursts of :data:`MAX_BURST` beats and the rest, the first one cycle after ``begin``, one a cycle.

    Members
    -------
    begin : ``In(1)``
        With at least one word.
    base : ``In(32)``
        In beats.
    memory : ``In(28)``
    words : ``In(20)``
        First word and number of words.
    request : ``Out(stream.Signature(REQUEST))``
    """

    def __init__(self, config: CoreConfig):
        self.config = config
        super().__init__(
            {"begin": In(1), "base": In(ADDRESS_BITS), "memory": In(28), "words": In(20), "request": Out(stream.Signature(REQUEST))}
        )

    def elaborate(self, platform):
        m = Module()
        beats = self.config.beats
        address = Signal(self.config.memory_bits, reset_less=True)
        left = Signal(self.config.word_count_bits + ceil_log2(beats))
        final = left <= MAX_BURST
        m.d.comb += [
            self.request.payload.address.eq(address),
            self.request.payload.beats.eq(Mux(final, left - 1, MAX_BURST - 1)),
        ]
        with m.If(self.begin):
            m.d.sync += [address.eq(self.base + times(self.memory, beats)), left.eq(times(self.words, beats)), self.request.valid.eq(1)]
        with m.Elif(self.request.valid & self.request.ready):
            m.d.sync += [address.eq(address + MAX_BURST), left.eq(left - MAX_BURST), self.request.valid.eq(~final)]
        return m
