"""A core that a host reaches over a UART, and its memory."""

from amaranth import *
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out, connect, flipped

from ..hw.config import CoreConfig
from ..hw.core import Core
from ..hw.memory_port import MemoryPort
from .arbiter import MemoryArbiter
from .link import Link
from .sdram import Sdram, SdramChip, SdramPins
from .shared_memory import SharedMemory
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
        m.submodules.arbiter = arbiter = MemoryArbiter(self.config.port_bytes)
        _link_core(m, self, arbiter.clients)
        connect(m, arbiter=arbiter.memory, memory=flipped(self.memory))
        return m


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
        _link_core(m, self, memory.clients)
        return m


def _link_core(m: Module, linked: LinkedCore | SpramCore, clients) -> None:
    """A core and the link of its host between the pins of ``linked`` and the two ``clients`` of a memory."""
    m.submodules.core = core = Core(linked.config)
    m.submodules.link = link = Link(linked.config.port_bytes)
    m.submodules.receiver = receiver = UartReceiver(linked.divisor)
    m.submodules.transmitter = transmitter = UartTransmitter(linked.divisor)
    connect(m, receiver=receiver.o, link=link.rx)
    connect(m, link=link.tx, transmitter=transmitter.i)
    connect(m, link=link.control, core=core.control)
    connect(m, core=core.memory, memory=clients[0])
    connect(m, link=link.memory, memory=clients[1])
    m.d.comb += [receiver.pin.eq(linked.rx), linked.tx.eq(transmitter.pin), linked.interrupt.eq(core.interrupt)]


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
        connect(m, linked=linked.memory, memory=memory.port)
        connect(m, memory=memory.pins, sdram=flipped(self.sdram))
        m.d.comb += [linked.rx.eq(self.rx), self.tx.eq(linked.tx), self.interrupt.eq(linked.interrupt)]
        return m
