"""On-chip LayerNorm constants, written a byte of every channel at a time."""

from __future__ import annotations

from amaranth import *
from amaranth.lib import data, wiring
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import In, Out
from amaranth.utils import ceil_log2

from .. import isa
from ..arith import delay
from ..config import CoreConfig
from ..ram import BLOCK_RAM
from ..scratchpad import WritePort

__all__ = ["NormConstants"]


def _fifth(m: Module, address: Value) -> Value:
    """``address // 5`` of an address below 2**14, a cycle later and without a multiplier: ``address * 3277 >> 14``."""
    one = delay(m, address, 1, name="one")
    three = address + address.shift_left(1)
    fifty_one = delay(m, three + three.shift_left(4), 1, name="fifty_one")
    return (one + (fifty_one.shift_left(4) + delay(m, three, 1, name="three")).shift_left(2)).shift_right(14)


class NormConstants(wiring.Component):
    """Memory of ``isa.NORM_RECORD``, read in blocks of ``config.row_lanes`` channels and written in blocks of L.

    A memory for each byte of the record, and one more for ``alpha`` alone, because it is read at another time than the rest.
    A read in the cycle in which the block is written has an undefined result.

    Latency: ``latency`` cycles from a block's address to its constants; a write may be read ``3 + config.row_parts`` cycles later.
    Throughput: a block a cycle; a write every ``config.row_parts`` cycles.

    Parameters
    ----------
    config : CoreConfig

    Members
    -------
    write : ``In(WritePort(bits, lanes))``
        ``address`` is block of L channels * 5 + byte.
    enable : ``In(1)``
        The read sides hold their output while it is low; writes do not stop.
    alpha_block : ``In(range(blocks))``
    alpha : ``Out([2])``
    block : ``In(range(blocks))``
    records : ``Out([isa.NORM_RECORD])``
    """

    latency = 1

    def __init__(self, config: CoreConfig):
        self.lanes, self.parts = config.row_lanes, config.row_parts
        self.blocks = self.count(config) * self.parts
        super().__init__(
            {
                "write": In(self.write_port(config)),
                "enable": In(1),
                "alpha_block": In(range(self.blocks)),
                "alpha": Out(data.ArrayLayout(2, config.row_lanes)),
                "block": In(range(self.blocks)),
                "records": Out(data.ArrayLayout(isa.NORM_RECORD, config.row_lanes)),
            }
        )

    @staticmethod
    def count(config: CoreConfig) -> int:
        """Blocks of L channels in the memory."""
        return config.norm_channels // config.lanes

    @classmethod
    def write_port(cls, config: CoreConfig) -> WritePort:
        return WritePort(ceil_log2(cls.count(config) * isa.NORM_BYTES), config.lanes)

    def elaborate(self, platform):
        m = Module()
        active = Signal()
        part = Signal(range(self.parts), reset_less=True)
        word, address = (
            Signal.like(Value.cast(each), name=name, reset_less=True)
            for name, each in (("word", self.write.data), ("address", self.write.address))
        )
        block = Signal(range(self.blocks // self.parts), reset_less=True)
        m.d.sync += [active.eq(active & (part != self.parts - 1)), part.eq(part + 1), word.eq(word >> 8 * self.lanes)]
        written, found = (delay(m, value, 1, name=name) for name, value in (("written", self.write.data), ("found", self.write.address)))
        fifth = _fifth(m, self.write.address)
        with m.If(delay(m, self.write.enable, 1, name="write", reset_less=False)):
            m.d.sync += [active.eq(1), part.eq(0), word.eq(written), address.eq(found), block.eq(fifth)]
        byte = Signal(3)
        m.d.comb += byte.eq(address - block - block.shift_left(2))  # address - 5 * block

        def plane(name: str, bits: int, index: int, read_block: Value) -> data.View:
            """The lowest bits of one byte of every channel."""
            shape = data.ArrayLayout(bits, self.lanes)
            m.submodules[name] = memory = Memory(shape=shape, depth=self.blocks, init=[], attrs=BLOCK_RAM)
            write, read = memory.write_port(), memory.read_port()
            m.d.comb += [
                write.en.eq(active & (byte == index)),
                write.addr.eq(Cat(part, block)),
                read.en.eq(self.enable),
                read.addr.eq(read_block),
            ]
            m.d.comb += [write.data[k].eq(word.word_select(k, 8)[:bits]) for k in range(self.lanes)]
            return read.data

        m.d.comb += self.alpha.eq(plane("alpha", 2, 0, self.alpha_block))
        planes = [plane(f"byte_{index}", 8, index, self.block) for index in range(isa.NORM_BYTES)]
        for k in range(self.lanes):
            m.d.comb += self.records[k].eq(Cat(byte_plane[k] for byte_plane in planes))
        return m
