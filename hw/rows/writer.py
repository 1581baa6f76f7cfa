"""Where the row engine's results go: the words of one instruction after the other, each to its place."""

from typing import Any

from amaranth import *
from amaranth.lib import data, wiring
from amaranth.lib.fifo import SyncFIFO
from amaranth.lib.wiring import In, Out, connect, flipped

from .. import isa
from ..arith import delay
from ..config import CoreConfig
from ..row_map import MapWrite, RowMap
from ..scratchpad import WritePort
from ..sequencer import Sequencer
from .address import RowAddress

__all__ = ["RowWriter", "row_target"]


def row_target(config: CoreConfig) -> data.StructLayout:
    """Fields of an instruction that say where its rows go; SOFTMAX has all but the map, at the same places."""
    body = isa.BODIES[isa.Opcode.NORM]
    names = ["rows", "words", "output", "output_row", "output_word", *(["map", "map_base"] if config.map_rows else [])]
    return data.StructLayout({name: body[name].shape for name in names})


class RowWriter(wiring.Component):
    """Holds the targets of the instructions in flight, in order, and writes the words that come.

    Latency: a word is written ``latency(config)`` cycles after it came. Throughput: a word a cycle, also from one instruction to the next.
    A target must be there 2 cycles before its first word, and ``Sequencer.IN_FLIGHT`` targets at most may be in progress.

    Parameters
    ----------
    config : CoreConfig

    Members
    -------
    push : ``In(1)``
    target : ``In(row_target(config))``
        Of the next instruction.
    valid : ``In(1)``
    word : ``In(ArrayLayout(signed(8), L))``
    write : ``Out(WritePort(20, L))``
    ends : ``Out(1)``
        The last word of an instruction is written in this cycle.
    row_map : ``In(MapWrite(config))``
        Only with ``config.map_rows``.
    """

    @staticmethod
    def latency(config: CoreConfig) -> int:
        return 1 + (RowMap.latency if config.map_rows else 0)

    def __init__(self, config: CoreConfig):
        self.config = config
        super().__init__(
            {
                "push": In(1),
                "target": In(row_target(config)),
                "valid": In(1),
                "word": In(data.ArrayLayout(signed(8), config.lanes)),
                "write": Out(WritePort(isa.ADDRESS.width, config.lanes)),
                "ends": Out(1),
                **({"row_map": In(MapWrite(config))} if config.map_rows else {}),
            }
        )

    def elaborate(self, platform):
        m = Module()
        m.submodules.waiting = waiting = SyncFIFO(width=len(Value.cast(self.target)), depth=Sequencer.IN_FLIGHT)
        m.submodules.address = address = RowAddress()
        target, active = Signal.like(self.target, reset_less=True), Signal()
        following: Any = self.target.shape()(waiting.r_data)
        rows, entry = Signal(13, reset_less=True), Signal(isa.MAP_ENTRY, reset_less=True)
        row_end, last_row, last, take = self.valid & address.last, Signal(), Signal(), Signal()
        m.d.comb += [waiting.w_en.eq(self.push), waiting.w_data.eq(self.target), waiting.r_en.eq(take)]
        m.d.comb += [last.eq(row_end & last_row), take.eq(waiting.r_rdy & (~active | last))]
        with m.If(row_end):
            m.d.sync += [rows.eq(rows - 1), last_row.eq(rows == 2), entry.eq(entry + 1)]
        with m.If(last):
            m.d.sync += active.eq(0)
        with m.If(take):
            m.d.sync += [active.eq(1), target.eq(following), rows.eq(following.rows), last_row.eq(following.rows == 1)]
        m.d.comb += [
            address.load.eq(take),
            address.base.eq(following.output),
            address.words.eq(following.words),
            address.row_stride.eq(target.output_row),
            address.word_stride.eq(target.output_word),
            address.step.eq(self.valid),
        ]
        place = address.address
        if self.config.map_rows:
            m.submodules.row_map = row_map = RowMap(self.config)
            connect(m, writer=flipped(self.row_map), row_map=row_map.write)
            with m.If(target.map):
                m.d.comb += address.row_stride.eq(0)
            with m.If(take):
                m.d.sync += entry.eq(following.map_base)
            m.d.comb += row_map.entry.eq(entry)
            mapped = delay(m, target.map, RowMap.latency, name="mapped")
            place = delay(m, place, RowMap.latency, name="place") + Mux(mapped, row_map.offset, 0)
        m.d.sync += self.write.address.eq(place)
        cycles = self.latency(self.config)
        m.d.comb += [
            self.write.enable.eq(delay(m, self.valid, cycles, name="valid", reset_less=False)),
            self.write.data.eq(delay(m, self.word, cycles, name="word")),
            self.ends.eq(delay(m, last, cycles, name="last", reset_less=False)),
        ]
        return m
