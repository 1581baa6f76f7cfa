"""A core that a host reaches over a UART, and its memory."""

from amaranth import *
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out, connect, flipped

from ..hw.arith import delay
from ..hw.config import CoreConfig
from ..hw.core import Core
from ..hw.memory_port import REQUEST, MemoryPort
from .arbiter import MemoryArbiter
from .link import Link
from .sdram import Sdram, SdramChip, SdramPins
from .stream_buffer import StreamBuffer
from .uart import UartReceiver, UartTransmitter

__all__ = ["LinkedCore", "SdramCore"]


class LinkedCore(wiring.Component):
    """A core, the link of its host, and the port to the memory that they share.

    Parameters
    ----------
    config : CoreConfig
    divisor : int
        Cycles of a bit on the UART.

    Members
    -------
    rx : ``In(1)``
    tx : ``Out(1)``
    interrupt : ``Out(1)``
    memory : ``Out(MemoryPort(config.port_bytes))``
    """

    def __init__(self, config: CoreConfig, divisor: int):
        self.config = config
        self.divisor = divisor
        super().__init__({"rx": In(1), "tx": Out(1), "interrupt": Out(1), "memory": Out(MemoryPort(config.port_bytes))})

    def elaborate(self, platform):
        m = Module()
        port_bytes = self.config.port_bytes
        m.submodules.core = core = Core(self.config)
        m.submodules.link = link = Link(port_bytes)
        m.submodules.arbiter = arbiter = MemoryArbiter(port_bytes)
        m.submodules.receiver = receiver = UartReceiver(self.divisor)
        m.submodules.transmitter = transmitter = UartTransmitter(self.divisor)
        connect(m, receiver=receiver.o, link=link.rx)
        m.submodules.sent = sent = StreamBuffer(8)
        connect(m, link=link.tx, buffer=sent.i)
        connect(m, buffer=sent.o, transmitter=transmitter.i)
        for name in ("address", "write", "write_data", "read"):
            m.d.comb += getattr(core.control, name).eq(delay(m, getattr(link.control, name), 1, name=name, reset_less=False))
        m.d.comb += link.control.read_data.eq(core.control.read_data)
        for client, port in enumerate((core.memory, link.memory)):
            for name in ("write_data", "write_response"):
                connect(m, client=getattr(port, name), arbiter=getattr(arbiter.clients[client], name))
            m.submodules[f"read_data_{client}"] = buffer = StreamBuffer(port.read_data.payload.shape())
            connect(m, arbiter=arbiter.clients[client].read_data, buffer=buffer.i)
            connect(m, buffer=buffer.o, client=port.read_data)
            for name in ("read_request", "write_request"):
                m.submodules[f"{name}_{client}"] = buffer = StreamBuffer(REQUEST)
                connect(m, client=getattr(port, name), buffer=buffer.i)
                connect(m, buffer=buffer.o, arbiter=getattr(arbiter.clients[client], name))
        connect(m, arbiter=arbiter.memory, memory=flipped(self.memory))
        m.d.comb += [receiver.pin.eq(self.rx), self.tx.eq(transmitter.pin), self.interrupt.eq(core.interrupt)]
        return m


class SdramCore(wiring.Component):
    """A :class:`LinkedCore` whose memory is an SDRAM chip: all of a board but its clock and pins.

    Parameters
    ----------
    config : CoreConfig
        With a memory port as wide as the chip's bus.
    chip : SdramChip
    clock_hz : float
    divisor : int

    Members
    -------
    rx, tx, interrupt : as in :class:`LinkedCore`
    sdram : ``Out(SdramPins(chip))``
    """

    def __init__(self, config: CoreConfig, chip: SdramChip, clock_hz: float, divisor: int):
        self.linked = LinkedCore(config, divisor)
        self.memory = Sdram(chip, clock_hz)
        super().__init__({"rx": In(1), "tx": Out(1), "interrupt": Out(1), "sdram": Out(SdramPins(chip))})

    def elaborate(self, platform):
        m = Module()
        m.submodules.linked = linked = self.linked
        m.submodules.memory = memory = self.memory
        connect(m, memory=memory.pins, sdram=flipped(self.sdram))
        for name in ("read_request", "write_request", "write_response"):
            connect(m, linked=getattr(linked.memory, name), memory=getattr(memory.port, name))
        for name in ("write_data", "read_data"):
            ends = [getattr(linked.memory, name), getattr(memory.port, name)]
            source, sink = reversed(ends) if name == "read_data" else ends
            m.submodules[name] = buffer = StreamBuffer(source.payload.shape())
            connect(m, source=source, buffer=buffer.i)
            connect(m, buffer=buffer.o, sink=sink)
        m.d.comb += [linked.rx.eq(self.rx), self.tx.eq(linked.tx), self.interrupt.eq(linked.interrupt)]
        return m
