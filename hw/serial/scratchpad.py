"""The scratchpad of a serial core: one memory of a single port."""

from pathlib import Path

from amaranth import *
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out
from amaranth.utils import ceil_log2

from ..arith import delay
from ..config import CoreConfig
from ..scratchpad import READ_LATENCY, scratchpad_members
from ..sources import add_source

__all__ = ["SINGLE_PORT_SOURCE", "SerialScratchpad", "SinglePortRam"]

#: Verilog of the module that :class:`SinglePortRam` instantiates.
SINGLE_PORT_SOURCE = Path(__file__).with_name("single_port_ram.v")


class SinglePortRam(wiring.Component):
    """Memory that reads or writes in a cycle, in the single-port RAM of an iCE40UP5K (``synth_ice40 -spram``) or in block RAM.

    Latency: data follow a read by 1 cycle and stay until the next one. Content is undefined at first.

    Parameters
    ----------
    shape : shape-like
        A word.
    depth : int

    Members
    -------
    enable, write : ``In(1)``
    address : ``In(range(depth))``
    write_data : ``In(shape)``
    read_data : ``Out(shape)``
    """

    def __init__(self, *, shape, depth: int):
        self.width = Shape.cast(shape).width
        self.depth = depth
        members = {"enable": In(1), "write": In(1), "address": In(ceil_log2(depth))}
        super().__init__(members | {"write_data": In(shape), "read_data": Out(shape)})

    def elaborate(self, platform):
        m = Module()
        add_source(platform, SINGLE_PORT_SOURCE)
        m.submodules.ram = Instance(
            "vitloom_single_port_ram",
            p_WIDTH=self.width,
            p_DEPTH=self.depth,
            p_ADDRESS_BITS=ceil_log2(self.depth),
            i_clk=ClockSignal(),
            i_enable=self.enable,
            i_write=self.write,
            i_address=self.address,
            i_write_data=Value.cast(self.write_data),
            o_read_data=Value.cast(self.read_data),
        )
        return m


class SerialScratchpad(wiring.Component):
    """What :class:`..scratchpad.Scratchpad` is for clients of which one at a time reads or writes: all get the same data.

    Latency: ``latency`` cycles from ``enable`` to ``data``: request register, memory, output registers, as many as the clients expect.
    Throughput: an access a cycle.

    Parameters
    ----------
    config : CoreConfig

    Members
    -------
    reads, writes, halt : as of :class:`..scratchpad.Scratchpad`
    conflict : ``Out(1)``
        Pulse, in the cycle after two clients asked for something: nothing is written.
    out_of_range : ``Out(1)``
        Pulse, in the cycle after an access outside the scratchpad, which is ignored.
    """

    latency = READ_LATENCY

    def __init__(self, config: CoreConfig):
        self.config = config
        super().__init__(scratchpad_members(config))

    def elaborate(self, platform):
        m = Module()
        config = self.config
        word = data.ArrayLayout(signed(8), config.lanes)
        m.submodules.memory = memory = SinglePortRam(shape=word, depth=config.scratchpad_words)
        ports = [*self.reads, *self.writes]
        wants = Cat(port.enable for port in ports)
        outside = Cat(port.enable & port.address[config.address_bits :].any() for port in ports).any()
        several = (wants & (wants - 1)).any()
        address = Signal(config.address_bits, reset_less=True)
        written, selected = Signal(word, reset_less=True), Signal(word, reset_less=True)
        enable, write = Signal(), Signal()
        for port in ports:
            with m.If(port.enable):
                m.d.sync += address.eq(port.address)
        for port in self.writes:
            with m.If(port.enable):
                m.d.sync += written.eq(port.data)
        m.d.sync += [
            enable.eq(wants.any() & ~several & ~outside),
            write.eq(wants[len(self.reads) :].any()),
            self.conflict.eq(several),
            self.out_of_range.eq(outside),
            selected.eq(memory.read_data),
        ]
        answer = delay(m, selected, READ_LATENCY - 3, name="answer")
        m.d.comb += [
            memory.enable.eq(enable & ~(write & self.halt)),
            memory.write.eq(write),
            memory.address.eq(address),
            memory.write_data.eq(written),
            *(port.data.eq(answer) for port in self.reads),
        ]
        return m
