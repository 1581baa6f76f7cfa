"""Row maps: a scratchpad offset for each row of a result, loaded before it."""

from amaranth import *
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out
from amaranth.utils import ceil_log2

from . import isa
from .arith import delay
from .config import CoreConfig
from .ram import Ram

__all__ = ["MapWrite", "RowMap"]


class MapWrite(wiring.Signature):
    """Writes of one entry a cycle, seen from the writer.

    Parameters
    ----------
    config : CoreConfig
        ``map_rows`` is not 0.

    Members
    -------
    enable : ``Out(1)``
    address : ``Out(range(map_rows))``
    data : ``Out(isa.ADDRESS)``
    """

    def __init__(self, config: CoreConfig):
        super().__init__({"enable": Out(1), "address": Out(ceil_log2(config.map_rows)), "data": Out(isa.ADDRESS)})


class RowMap(wiring.Component):
    """Memory of ``map_rows`` word offsets. An entry read in the cycle of its write is undefined.

    Latency: ``latency`` cycles from ``entry`` to ``offset``. Throughput: an entry a cycle.

    Parameters
    ----------
    config : CoreConfig

    Members
    -------
    write : ``In(MapWrite(config))``
    entry : ``In(isa.MAP_ENTRY)``
        Below ``map_rows`` wherever the offset is used.
    offset : ``Out(isa.ADDRESS)``
    """

    latency = 2

    def __init__(self, config: CoreConfig):
        self.config = config
        super().__init__({"write": In(MapWrite(config)), "entry": In(isa.MAP_ENTRY), "offset": Out(isa.ADDRESS)})

    def elaborate(self, platform):
        m = Module()
        m.submodules.memory = memory = Ram(shape=isa.ADDRESS, depth=self.config.map_rows)
        m.d.comb += [
            memory.read.en.eq(1),
            memory.read.addr.eq(self.entry),
            memory.write.en.eq(self.write.enable),
            memory.write.addr.eq(self.write.address),
            memory.write.data.eq(self.write.data),
            self.offset.eq(delay(m, memory.read.data, 1, name="offset")),
        ]
        return m
