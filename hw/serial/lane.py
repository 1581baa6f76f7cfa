"""The epilogue of a serial core: a bit a cycle."""

from amaranth import *
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out
from amaranth.utils import ceil_log2

from .. import isa
from ..config import CoreConfig
from ..epilogue.lane import TableWrite
from ..ram import Ram

__all__ = ["SerialLane"]


class SerialLane(wiring.Component):
    """Accumulators, with their bias, to int8 or int32; results are shifted into a word from its top, so that four int8 fill it in order.

    The arithmetic of :class:`..epilogue.lane.Lane` for the forms REQUANTIZE, TABLE and RAW, bit by bit, the lowest first: the accumulator's
    bits, its sign repeated, meet the multiplier in a 16-bit adder, which gives a bit of the product; the bit of weight ``2**(shift - 1)``
    is the first carry into a second adder, of the bits above and the zero point. Bits of the result that are not like the sign say that
    it saturates. No multiplier.

    Latency: ``latency`` cycles from ``begin`` to ``done``.

    Parameters
    ----------
    config : CoreConfig

    Members
    -------
    begin : ``In(1)``
        With the other inputs constant from the next cycle on up to ``done``.
    acc : ``In(signed(32))``
        Bias included.
    multiplier : ``In(16)``
    shift : ``In(6)``
        1 to 32.
    zero_out : ``In(signed(8))``
    form : ``In(isa.Form)``
    table : ``In(range(tables))``
    done : ``Out(1)``
        ``word`` has the result from the next cycle on, up to the next ``begin``.
    word : ``Out(32)``
    table_write : ``In(TableWrite(config, signed(8)))``
    """

    BITS = 64
    latency = BITS + 4

    def __init__(self, config: CoreConfig):
        self.config = config
        super().__init__(
            {
                "begin": In(1),
                "acc": In(signed(32)),
                "multiplier": In(16),
                "shift": In(6),
                "zero_out": In(signed(8)),
                "form": In(isa.Form),
                "table": In(range(config.tables)),
                "done": Out(1),
                "word": Out(32),
                "table_write": In(TableWrite(config, signed(8))),
            }
        )

    def elaborate(self, platform):
        m = Module()
        raw = self.form == isa.Form.RAW
        bit, high = Signal(ceil_log2(self.BITS)), Signal(16)
        # Number of the result's bit that comes out, less than 0 for those that are shifted out.
        place = Signal(signed(8))
        carry, last, mixed = Signal(), Signal(), Signal()
        product, total = Signal(17), Signal(2)
        m.d.comb += [
            product.eq(high + Mux(self.acc.bit_select(Mux(bit[5], 31, bit[:5]), 1), self.multiplier, 0)),
            total.eq(product[0] + (~raw & self.zero_out.bit_select(Mux(place[:7] > 7, 7, place[:3]), 1)) + carry),
        ]
        top = Mux(raw, 31, 7)
        m.submodules.tables = tables = Ram(shape=signed(8), depth=self.config.tables * isa.TABLE_ENTRIES)
        m.d.comb += [
            tables.read.en.eq(1),
            tables.read.addr.eq(Cat(self.word[24:] ^ 0x80, self.table)),
            tables.write.addr.eq(self.table_write.address),
            tables.write.data.eq(self.table_write.data),
            tables.write.en.eq(self.table_write.enable),
        ]
        with m.FSM():
            with m.State("IDLE"):
                m.d.sync += [bit.eq(0), high.eq(0), carry.eq(0), mixed.eq(0)]
                with m.If(self.begin):
                    m.next = "LOAD"
            with m.State("LOAD"):
                m.d.sync += place.eq(-self.shift)
                m.next = "BITS"
            with m.State("BITS"):
                m.d.sync += [bit.eq(bit + 1), high.eq(product[1:]), place.eq(place + 1)]
                with m.If(place == -1):
                    m.d.sync += carry.eq(product[0])
                with m.Elif(~place[-1]):
                    m.d.sync += [carry.eq(total[1]), last.eq(total[0])]
                    with m.If(place <= top):
                        m.d.sync += self.word.eq(Cat(self.word[1:], total[0]))
                    with m.Elif(total[0] != last):
                        m.d.sync += mixed.eq(1)
                with m.If(bit == self.BITS - 1):
                    m.next = "SATURATE"
            with m.State("SATURATE"):
                # `last` is the sign.
                with m.If(mixed):
                    m.d.sync += self.word[24:].eq(Cat((~last).replicate(7), last))
                    with m.If(raw):
                        m.d.sync += self.word[:24].eq((~last).replicate(24))
                m.next = "TABLE"
            with m.State("TABLE"):  # its entry is there in the next cycle
                m.next = "SELECT"
            with m.State("SELECT"):
                m.d.comb += self.done.eq(1)
                with m.If(self.form == isa.Form.TABLE):
                    m.d.sync += self.word[24:].eq(tables.read.data)
                m.next = "IDLE"
        return m
