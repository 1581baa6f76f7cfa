"""Block memory that programs fill: no initial content, one read and one write a cycle."""

from pathlib import Path
from typing import Any

from amaranth import *
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out
from amaranth.utils import ceil_log2

from .sources import add_source

__all__ = ["BLOCK_RAM", "RAM_SOURCE", "Ram"]

#: Verilog of the module that :class:`Ram` instantiates; every flow reads it beside the generated text.
RAM_SOURCE = Path(__file__).with_name("ram.v")
#: Attributes of an Amaranth ``Memory`` to the same effect, for small memories inside an ``EnableInserter``, which does not reach instances.
BLOCK_RAM: dict[str, Any] = {"ram_style": "block", "no_rw_check": 1}


class Ram(wiring.Component):
    """One write port and one synchronous read port, in block RAM.

    An instance of the Verilog module ``vitloom_ram`` and not an Amaranth ``Memory``, for two reasons: a ``Memory`` always has initial
    content, which takes minutes and megabytes to write out for a scratchpad; and as Verilog its attribute ``no_rw_check`` reaches
    synthesis.

    Latency: data follow ``read.en`` by 1 cycle and stay until the next read. A word written in cycle t is read by reads enabled in cycle
    t + 1 and later; reading the address in the cycle of its write gives an undefined word.

    Parameters
    ----------
    shape : shape-like
        A word.
    depth : int
    granularity : int
        Bits that one bit of ``write.en`` writes; 0 stands for the whole word.

    Members
    -------
    read : ``en``, ``addr`` in, ``data`` out
    write : ``en``, ``addr``, ``data`` in
    """

    def __init__(self, *, shape, depth: int, granularity: int = 0):
        self.width = Shape.cast(shape).width
        self.depth = depth
        self.granularity = granularity or self.width
        if self.width % self.granularity:
            raise ValueError(f"granularity must divide the {self.width} bits of a word, not be {granularity}")
        address = ceil_log2(depth)
        super().__init__(
            {
                "read": Out(wiring.Signature({"en": In(1), "addr": In(address), "data": Out(shape)})),
                "write": In(wiring.Signature({"en": Out(self.width // self.granularity), "addr": Out(address), "data": Out(shape)})),
            }
        )

    def elaborate(self, platform):
        m = Module()
        add_source(platform, RAM_SOURCE)
        m.submodules.ram = Instance(
            "vitloom_ram",
            p_WIDTH=self.width,
            p_LANE=self.granularity,
            p_DEPTH=self.depth,
            p_ADDRESS_BITS=ceil_log2(self.depth),
            i_clk=ClockSignal(),
            i_read_enable=self.read.en,
            i_read_address=self.read.addr,
            o_read_data=Value.cast(self.read.data),
            i_write_enable=self.write.en,
            i_write_address=self.write.addr,
            i_write_data=Value.cast(self.write.data),
        )
        return m
