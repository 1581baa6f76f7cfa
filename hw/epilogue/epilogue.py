"""The epilogue: groups of accumulators to scratchpad words."""

from amaranth import *
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out, connect, flipped
from amaranth.utils import ceil_log2

from .. import isa
from ..arith import delay
from ..config import CoreConfig
from ..ram import Ram
from ..scratchpad import WritePort
from .lane import Lane, TableWrite, settings_layout

__all__ = ["Epilogue", "GroupPort", "Packer"]


class Packer(wiring.Component):
    """Groups of lanes to words.

    A group of int8 fills E bytes of a word, the first group the lowest. A raw group is 4 E / L words, which leave in consecutive cycles:
    no group of any form may come in the 4 E / L - 1 cycles after it.

    Latency: ``latency`` cycles from the last group of a word, or from a raw group to its first word. Throughput: one group a cycle.

    Parameters
    ----------
    config : CoreConfig

    Members
    -------
    valid : ``In(1)``
    raw : ``In(1)``
        All 32 bits of each lane are wanted, not the low 8.
    lanes : ``In(ArrayLayout(signed(32), E))``
    o_valid : ``Out(1)``
    o : ``Out(ArrayLayout(signed(8), L))``
    """

    latency = 1

    def __init__(self, config: CoreConfig):
        self.config = config
        super().__init__(
            {
                "valid": In(1),
                "raw": In(1),
                "lanes": In(data.ArrayLayout(signed(32), config.epilogue_lanes)),
                "o_valid": Out(1),
                "o": Out(data.ArrayLayout(signed(8), config.lanes)),
            }
        )

    def elaborate(self, platform):
        m = Module()
        config = self.config
        word_bits = 8 * config.lanes
        raw_words = 4 * config.epilogue_lanes // config.lanes
        store = Signal(word_bits * raw_words, reset_less=True)
        group = Signal(range(config.groups))
        left = Signal(range(raw_words))  # words of a raw group after the one on the output

        m.d.sync += self.o_valid.eq(left != 0)
        with m.If(self.valid & self.raw):
            m.d.sync += [store.eq(self.lanes), self.o_valid.eq(1), left.eq(raw_words - 1)]
        with m.Elif(self.valid):
            last = group == config.groups - 1
            low = Cat(lane[:8] for lane in self.lanes)
            m.d.sync += [store.eq(Cat(store[:word_bits], low)[len(low) :]), self.o_valid.eq(last), group.eq(Mux(last, 0, group + 1))]
        with m.Elif(left != 0):
            m.d.sync += [store.eq(store[word_bits:]), left.eq(left - 1)]
        m.d.comb += self.o.eq(store[:word_bits])
        return m


class GroupPort(wiring.Signature):
    """A group of E accumulators on its way into the epilogue, seen from there.

    Members
    -------
    valid : ``In(1)``
    acc : ``In(ArrayLayout(signed(32), E))``
    residual : ``In(ArrayLayout(signed(8), E))``
    constant : ``In(n)``
        Number of the group: block of L channels times L / E, plus the group in it.
    settings : ``In(settings_layout(config))``
    """

    def __init__(self, config: CoreConfig):
        lanes = config.epilogue_lanes
        super().__init__(
            {
                "valid": In(1),
                "acc": In(data.ArrayLayout(signed(32), lanes)),
                "residual": In(data.ArrayLayout(signed(8), lanes)),
                "constant": In(range(config.constant_channels // config.lanes * config.groups)),
                "settings": In(settings_layout(config)),
            }
        )


class Epilogue(wiring.Component):
    """E lanes (:class:`.lane.Lane`) with the constants of their channels, and a :class:`Packer`. Always ready.

    Latency: ``latency`` cycles from the last group of a word to the word, from a raw group to its first word, the same for all forms.
    Throughput: one group of E accumulators a cycle; after a raw group none for 4 E / L - 1 cycles.

    Parameters
    ----------
    config : CoreConfig

    Members
    -------
    i : ``In``
        ``valid``, ``acc`` (E signed(32)), ``residual`` (E signed(8)), ``constant`` (number of the group: block of L channels times L / E,
        plus the group in it), ``settings`` (:func:`.lane.settings_layout`). The groups of a word come in order, no others between.
    o : ``Out``
        ``valid``, ``data`` (L signed(8)): lane 0 first; raw lanes have 4 bytes each, little-endian.
    constants : ``In(WritePort)``
        Constants in words of L bytes: group g is words 8 E / L * g and following, little-endian :data:`.isa.CONSTANT_RECORD` in a row.
        A group presented in the cycle of a write of its constants has undefined ones, in the next cycle the new ones.
    table : ``In(TableWrite(config, signed(8)))``
    """

    latency = 2 + Lane.latency + Packer.latency

    def __init__(self, config: CoreConfig):
        self.config = config
        lanes = config.epilogue_lanes
        self.rows = config.constant_channels // config.lanes * config.groups
        self.words = isa.CONSTANT_BYTES * lanes // config.lanes
        super().__init__(
            {
                "i": Out(GroupPort(config)),
                "o": Out(wiring.Signature({"valid": Out(1), "data": Out(data.ArrayLayout(signed(8), config.lanes))})),
                "constants": In(WritePort(ceil_log2(self.rows * self.words), config.lanes)),
                "table": In(TableWrite(config, signed(8))),
            }
        )

    def elaborate(self, platform):
        m = Module()
        config = self.config
        records = self._constants(m)
        acc, residual, settings = (delay(m, getattr(self.i, name), 2, name=name) for name in ("acc", "residual", "settings"))
        m.submodules.packer = packer = Packer(config)
        for index in range(config.epilogue_lanes):
            m.submodules[f"lane_{index}"] = lane = Lane(config)
            m.d.comb += [lane.acc.eq(acc[index]), lane.residual.eq(residual[index]), lane.record.eq(records[index])]
            m.d.comb += [lane.settings.eq(settings), packer.lanes[index].eq(lane.o)]
            connect(m, table=flipped(self.table), lane=lane.table)
        m.d.comb += [
            packer.valid.eq(delay(m, self.i.valid, self.latency - Packer.latency, name="valid", reset_less=False)),
            packer.raw.eq(delay(m, settings.form == isa.Form.RAW, Lane.latency, name="raw")),
            self.o.valid.eq(packer.o_valid),
            self.o.data.eq(packer.o),
        ]
        return m

    def _constants(self, m: Module) -> data.View:
        """Records of the group ``i.constant``, two cycles later: memory and a register."""
        word = data.ArrayLayout(signed(8), self.config.lanes)
        m.submodules.memory = memory = Ram(shape=data.ArrayLayout(word, self.words), depth=self.rows, granularity=word.size)
        read, write = memory.read, memory.write
        word_bits = ceil_log2(self.words)
        m.d.comb += [
            read.en.eq(1),
            read.addr.eq(self.i.constant),
            write.addr.eq(self.constants.address[word_bits:]),
            write.en.eq(self.constants.enable << self.constants.address[:word_bits]),
            *(write.data[index].eq(self.constants.data) for index in range(self.words)),
        ]
        records = Signal(data.ArrayLayout(isa.CONSTANT_RECORD, self.config.epilogue_lanes), reset_less=True)
        m.d.sync += records.eq(read.data)
        return records
