"""The epilogue: groups of accumulators to scratchpad words."""

from amaranth import *
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out, connect, flipped
from amaranth.utils import ceil_log2

from .. import isa
from ..arith import delay
from ..config import CoreConfig
from ..ram import Ram
from ..scratchpad import PARTS, WritePort
from .lane import Lane, TableWrite, settings_layout

__all__ = ["PLACING", "Epilogue", "GroupPort", "Packer"]

#: Where in its word a row of packed results lies: ``part`` is the number of its part or, with ``pack_rows``, of its bits in each byte;
#: the word is written with it if it ``ends`` there. Rows of int8 have part 0 and end.
PLACING = data.StructLayout({"pack_rows": 1, "part": 3, "ends": 1})


class Packer(wiring.Component):
    """Groups of lanes to words.

    A group of int8 fills E bytes of a word, the first group the lowest. A raw group is 4 E / L words, which leave in consecutive cycles:
    no group of any form may come in the 4 E / L - 1 cycles after it.

    With ``config.narrow`` the lanes have results of ``8 >> output_packing`` bits: those of a row fill one part of a word (``o_parts`` says
    which), or with ``pack_rows`` one result of each byte, the rows of a word coming in order from part 0 on; results not given are 0.

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
    output_packing : ``In(2)``
        0 with ``raw``. This, ``placing`` and ``o_parts`` only with ``config.narrow``.
    placing : ``In(PLACING)``
    o_valid : ``Out(1)``
    o : ``Out(ArrayLayout(signed(8), L))``
    o_parts : ``Out(PARTS)``
        With ``o_valid``: eighths of the word that it has.
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
                **({"output_packing": In(2), "placing": In(PLACING), "o_parts": Out(PARTS)} if config.narrow else {}),
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
        if config.narrow:
            m.d.sync += self.o_parts.eq(-1)
        with m.If(self.valid & self.raw):
            m.d.sync += [store.eq(self.lanes), self.o_valid.eq(1), left.eq(raw_words - 1)]
        with m.Elif(self.valid):
            last = group == config.groups - 1
            ends = self.placing.ends if config.narrow else 1
            m.d.sync += [store.eq(self._fill(m, store[:word_bits])), self.o_valid.eq(last & ends), group.eq(Mux(last, 0, group + 1))]
        with m.Elif(left != 0):
            m.d.sync += [store.eq(store[word_bits:]), left.eq(left - 1)]
        m.d.comb += self.o.eq(store[:word_bits])
        return m

    def _fill(self, m: Module, word: Value) -> Value:
        """``word`` with the group shifted in at its end or, packed, at the end of all its parts."""
        lanes = list(self.lanes)
        low = Cat(lane[:8] for lane in lanes)
        if not self.config.narrow:
            return Cat(word, low)[len(low) :]
        # Bit i of a byte, as eighth i of a word, is in part i >> (3 - packing) of it.
        packing, part = self.output_packing, self.placing.part
        here = Signal(PARTS)
        m.d.comb += here.eq(Array(Cat(part == bit >> 3 - log2 for bit in range(PARTS)) for log2 in range(4))[packing])
        m.d.sync += self.o_parts.eq(here | self.placing.pack_rows.replicate(PARTS))
        by_row, by_column = [], []
        for log2 in range(4):
            fields = [lane[: 8 >> log2] for lane in lanes]
            parts = [word.word_select(index, len(word) >> log2) for index in range(1 << log2)]
            by_row.append(Cat(Cat(end, *fields)[(8 >> log2) * len(lanes) :] for end in parts))
            by_column.append(Cat(field.replicate(1 << log2) for field in fields))
        earlier = Mux(part == 0, 0, word[: len(low)])  # results of the rows before, in the group's bytes
        rows = Cat(word, here.replicate(len(lanes)) & Array(by_column)[packing] | earlier)[len(low) :]
        return Mux(self.placing.pack_rows, rows, Array(by_row)[packing])


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
    row_sum : ``In(signed(config.row_sum_bits))``
        Sum of the moving operand's row. This and ``placing`` only with ``config.narrow``.
    placing : ``In(PLACING)``
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
                **({"row_sum": In(signed(config.row_sum_bits)), "placing": In(PLACING)} if config.narrow else {}),
            }
        )


class Epilogue(wiring.Component):
    """E lanes (:class:`.lane.Lane`) with the constants of their channels, and a :class:`Packer`. Always ready.

    Latency: ``latency(config)`` cycles from the last group of a word to the word, from a raw group to its first word, the same for all
    forms.
    Throughput: one group of E accumulators a cycle; after a raw group none for 4 E / L - 1 cycles.

    Parameters
    ----------
    config : CoreConfig

    Members
    -------
    i : ``In(GroupPort)``
        The groups of a word come in order, no others between.
    o : ``Out``
        ``valid``, ``data`` (L signed(8)): lane 0 first; raw lanes have 4 bytes each, little-endian. With ``config.narrow`` also ``parts``
        (PARTS): the eighths of the word that there are.
    constants : ``In(WritePort)``
        Constants in words of L bytes: group g is words 8 E / L * g and following, little-endian :data:`.isa.CONSTANT_RECORD` in a row.
        A group presented in the cycle of a write of its constants has undefined ones, in the next cycle the new ones.
    table : ``In(TableWrite(config, signed(8)))``
    """

    @staticmethod
    def latency(config: CoreConfig) -> int:
        return 2 + Lane.latency(config) + Packer.latency

    def __init__(self, config: CoreConfig):
        self.config = config
        lanes = config.epilogue_lanes
        self.rows = config.constant_channels // config.lanes * config.groups
        self.words = isa.CONSTANT_BYTES * lanes // config.lanes
        word = {"valid": Out(1), "data": Out(data.ArrayLayout(signed(8), config.lanes)), **({"parts": Out(PARTS)} if config.narrow else {})}
        super().__init__(
            {
                "i": Out(GroupPort(config)),
                "o": Out(wiring.Signature(word)),
                "constants": In(WritePort(ceil_log2(self.rows * self.words), config.lanes)),
                "table": In(TableWrite(config, signed(8))),
            }
        )

    def elaborate(self, platform):
        m = Module()
        config = self.config
        records = self._constants(m)
        acc, residual, settings = (delay(m, getattr(self.i, name), 2, name=name) for name in ("acc", "residual", "settings"))
        row_sum = delay(m, self.i.row_sum, 2, name="row_sum") if config.narrow else None
        m.submodules.packer = packer = Packer(config)
        for index in range(config.epilogue_lanes):
            m.submodules[f"lane_{index}"] = lane = Lane(config)
            m.d.comb += [lane.acc.eq(acc[index]), lane.residual.eq(residual[index]), lane.record.eq(records[index])]
            m.d.comb += [lane.settings.eq(settings), packer.lanes[index].eq(lane.o)]
            if config.narrow:
                m.d.comb += lane.row_sum.eq(row_sum)
            connect(m, table=flipped(self.table), lane=lane.table)
        m.d.comb += [
            packer.valid.eq(delay(m, self.i.valid, 2 + Lane.latency(config), name="valid", reset_less=False)),
            packer.raw.eq(delay(m, settings.form == isa.Form.RAW, Lane.latency(config), name="raw")),
            self.o.valid.eq(packer.o_valid),
            self.o.data.eq(packer.o),
        ]
        if config.narrow:
            m.d.comb += [
                packer.output_packing.eq(delay(m, settings.output_packing, Lane.latency(config), name="output_packing")),
                packer.placing.eq(delay(m, self.i.placing, 2 + Lane.latency(config), name="placing")),
                self.o.parts.eq(packer.o_parts),
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
