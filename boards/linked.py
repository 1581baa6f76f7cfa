"""A core that a host reaches over a UART, and its memory."""

from typing import Any

from amaranth import *
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out, connect, flipped

from ..hw.arith import copies, delay
from ..hw.config import CoreConfig
from ..hw.core import Core
from ..hw.memory_port import REQUEST, MemoryPort
from ..hw.own_reset import own_reset
from .arbiter import MemoryArbiter
from .link import Link
from .sdram import Sdram, SdramChip, SdramPins
from .shared_memory import SharedMemory
from .stream_buffer import StreamBuffer
from .uart import UartReceiver, UartTransmitter

__all__ = ["LinkedCore", "SdramCore", "SpramCore"]


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
        resets, arbiter = _resets(m), MemoryArbiter(self.config.port_bytes)
        m.submodules.arbiter = own_reset(m, "arbiter", arbiter, resets[2])
        for index, port in enumerate(_link_core(m, self, resets)):
            self._connect_client(m, index, port, arbiter.clients[index])
        connect(m, arbiter=arbiter.memory, memory=flipped(self.memory))
        return m

    @staticmethod
    def _connect_client(m: Module, index: int, port, client) -> None:
        """The arbiter may be far from both of its clients: requests and data cross in a register."""
        connect(m, client=port.write_response, arbiter=client.write_response)
        m.submodules[f"write_data_{index}"] = buffer = StreamBuffer(port.write_data.payload.shape())
        connect(m, client=port.write_data, buffer=buffer.i)
        connect(m, buffer=buffer.o, arbiter=client.write_data)
        m.submodules[f"read_data_{index}"] = buffer = StreamBuffer(port.read_data.payload.shape())
        connect(m, arbiter=client.read_data, buffer=buffer.i)
        connect(m, buffer=buffer.o, client=port.read_data)
        for name in ("read_request", "write_request"):
            m.submodules[f"{name}_{index}"] = buffer = StreamBuffer(REQUEST)
            connect(m, client=getattr(port, name), buffer=buffer.i)
            connect(m, buffer=buffer.o, arbiter=getattr(client, name))


class SpramCore(wiring.Component):
    """A core, the link of its host, and single-port RAM on the FPGA that they share: all of a board but its clock and pins.

    Parameters
    ----------
    config : CoreConfig
    memory_bytes : int
        A power of two.
    divisor : int
        Cycles of a bit on the UART.

    Members
    -------
    rx, tx, interrupt : as in :class:`LinkedCore`
    """

    def __init__(self, config: CoreConfig, memory_bytes: int, divisor: int):
        self.config = config
        self.memory_bytes = memory_bytes
        self.divisor = divisor
        super().__init__({"rx": In(1), "tx": Out(1), "interrupt": Out(1)})

    def elaborate(self, platform):
        m = Module()
        port_bytes = self.config.port_bytes
        m.submodules.memory = memory = SharedMemory(port_bytes, self.memory_bytes // port_bytes)
        for index, port in enumerate(_link_core(m, self, _resets(m))):
            connect(m, client=port, memory=memory.clients[index])
        return m


def _resets(m: Module) -> list[Value]:
    """For core, link, arbiter and memory, each of which is large or far away."""
    return copies(m, ResetSignal(allow_reset_less=True), 4, name="reset")


def _link_core(m: Module, linked: LinkedCore | SpramCore, resets: list[Value]) -> tuple[Any, Any]:
    """A core and the link of its host at the pins of ``linked``; returns the memory ports of both."""
    core, link = Core(linked.config), Link(linked.config.port_bytes)
    m.submodules.core, m.submodules.link = own_reset(m, "core", core, resets[0]), own_reset(m, "link", link, resets[1])
    m.submodules.receiver = receiver = UartReceiver(linked.divisor)
    m.submodules.transmitter = transmitter = UartTransmitter(linked.divisor)
    m.submodules.sent = sent = StreamBuffer(8)
    connect(m, receiver=receiver.o, link=link.rx)
    connect(m, link=link.tx, buffer=sent.i)
    connect(m, buffer=sent.o, transmitter=transmitter.i)
    for name in ("address", "write", "write_data", "read"):
        m.d.comb += getattr(core.control, name).eq(delay(m, getattr(link.control, name), 1, name=name, reset_less=False))
    m.d.comb += link.control.read_data.eq(core.control.read_data)
    m.d.comb += [receiver.pin.eq(linked.rx), linked.tx.eq(transmitter.pin), linked.interrupt.eq(core.interrupt)]
    return core.memory, link.memory


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
        self.config = config
        self.linked = LinkedCore(config, divisor)
        self.memory = Sdram(chip, clock_hz)
        super().__init__({"rx": In(1), "tx": Out(1), "interrupt": Out(1), "sdram": Out(SdramPins(chip))})

    def elaborate(self, platform):
        m = Module()
        linked, memory = self.linked, self.memory
        m.submodules.linked, m.submodules.memory = linked, own_reset(m, "memory", memory, _resets(m)[3])
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
