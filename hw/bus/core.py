"""The core with its two ports on a bus."""

from functools import partial

from amaranth import *
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out, connect

from ..config import CoreConfig
from ..core import Core
from .axi import AxiControl, AxiMemory
from .wishbone import WishboneControl, WishboneMemory

__all__ = ["BUSES", "BusCore"]

#: Adapters of the control and of the memory port, and the names of clock and reset; a name that ends with n is active low.
BUSES = {
    "axi": (AxiControl, AxiMemory, "aclk", "aresetn"),
    "wishbone": (WishboneControl, WishboneMemory, "clk", "rst"),
    "wishbone-pipelined": (WishboneControl, partial(WishboneMemory, pipelined=True), "clk", "rst"),
}


class BusCore(wiring.Component):
    """A core whose control registers and memory are on a bus.

    Parameters
    ----------
    config : CoreConfig
    bus : str
        A name in :data:`BUSES`.

    Members
    -------
    aclk, aresetn : ``In(1)``
        For AXI.
    clk, rst : ``In(1)``
        For Wishbone.
    irq : ``Out(1)``
        Level: the run is done, or has an error, and ``Register.INTERRUPT`` lets it through.
    s_axi_ctrl_…, s_wb_… : the ports of the adapter of the control port
    m_axi_…, m_wb_… : the ports of the adapter of the memory port
    """

    def __init__(self, config: CoreConfig, *, bus: str):
        if bus not in BUSES:
            raise ValueError(f"no bus {bus!r}; there are {', '.join(BUSES)}")
        control, memory, self._clock, self._reset = BUSES[bus]
        self.config = config
        self.memory, self.control = memory(config.port_bytes), control()
        adapters = {**self.control.signature.members, **self.memory.signature.members}
        self._ports = {name: member for name, member in adapters.items() if member.is_port}
        super().__init__({self._clock: In(1), self._reset: In(1), "irq": Out(1), **self._ports})

    def elaborate(self, platform):
        m = Module()
        m.domains.sync = sync = ClockDomain()
        sync.clk = getattr(self, self._clock)
        reset = getattr(self, self._reset)
        m.d.comb += sync.rst.eq(~reset if self._reset.endswith("n") else reset)
        m.submodules.core = core = Core(self.config)
        m.submodules.control = self.control
        m.submodules.memory = self.memory
        connect(m, control=self.control.control, core=core.control)
        connect(m, core=core.memory, memory=self.memory.memory)
        m.d.comb += self.irq.eq(core.interrupt)
        for name, member in self._ports.items():
            inside = getattr(self.control if hasattr(self.control, name) else self.memory, name)
            outside = getattr(self, name)
            m.d.comb += inside.eq(outside) if member.flow is In else outside.eq(inside)
        return m
