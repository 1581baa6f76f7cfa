"""The core's ports on Wishbone B4: a slave for the control registers, a master for the memory."""

from amaranth import *
from amaranth.lib import data, wiring
from amaranth.lib.fifo import SyncFIFO
from amaranth.lib.wiring import In, Out

from .. import isa
from ..control import ControlPort
from ..memory_port import ADDRESS_BITS, MAX_BURST, MemoryPort, read_beat

__all__ = ["WishboneControl", "WishboneMemory"]


def _members(prefix: str, flow: wiring.Flow, address_bits: int, data_bytes: int) -> dict[str, wiring.Member]:
    """Ports of a master (``Out``) or a slave (``In``); an address counts words of ``data_bytes``."""
    forward = {"cyc": 1, "stb": 1, "we": 1, "adr": address_bits, "sel": data_bytes, "dat_w": 8 * data_bytes}
    backward = {"ack": 1, "err": 1, "stall": 1, "dat_r": 8 * data_bytes}
    members = {f"{prefix}_{name}": flow(shape) for name, shape in forward.items()}
    return members | {f"{prefix}_{name}": flow.flip()(shape) for name, shape in backward.items()}


class WishboneControl(wiring.Component):
    """Wishbone slave for the control registers, for classic and for pipelined masters: 32 bits, the address is the register's.

    ``ack`` (or ``err``) comes ``latency`` cycles after the access is taken, and only without ``stall`` is one taken: a classic master,
    which holds its access until ``ack``, need not look at ``stall``. Throughput: an access every 2 cycles. No output depends on an input
    of the same cycle.

    A write of some bytes of a register ends with ``err`` and changes nothing; what is not a register reads as 0.

    Members
    -------
    s_wb_… : the bus, seen from the slave
    control : ``Out(ControlPort())``
        To the core.
    """

    latency = 1

    def __init__(self):
        super().__init__({"control": Out(ControlPort()), **_members("s_wb", In, isa.CONTROL_ADDRESS_BITS, 4)})

    def elaborate(self, platform):
        m = Module()
        control = self.control
        taken, partial = Signal(), Signal()
        m.d.comb += [
            self.s_wb_stall.eq(self.s_wb_ack | self.s_wb_err),
            taken.eq(self.s_wb_cyc & self.s_wb_stb & ~self.s_wb_stall),
            partial.eq(self.s_wb_we & self.s_wb_sel.any() & ~self.s_wb_sel.all()),
            control.address.eq(self.s_wb_adr),
            control.write.eq(taken & self.s_wb_we & self.s_wb_sel.all()),
            control.write_data.eq(self.s_wb_dat_w),
            control.read.eq(taken & ~self.s_wb_we),
            self.s_wb_dat_r.eq(control.read_data),
        ]
        m.d.sync += [self.s_wb_ack.eq(taken & ~partial), self.s_wb_err.eq(taken & partial)]
        return m


class WishboneMemory(wiring.Component):
    """Wishbone master for the memory port: data as wide as the port, addresses in beats.

    A request is one cycle of the bus (``cyc``). Requests are served one at a time, reads and writes in turn when both wait. ``err`` is the
    port's ``error``: of a beat when reading, of the request when writing. There are no burst tags and no ``rty``.

    Latency: ``cyc`` comes ``latency`` cycles after its request. Throughput: a beat a cycle with a classic slave that answers in the same
    cycle, or with a pipelined one that answers up to :attr:`READ_AHEAD` - 1 cycles later; between requests there are ``gap`` cycles without
    ``cyc``, and one more after a write. No output of the bus depends on its inputs in the same cycle.

    Parameters
    ----------
    port_bytes : int
    pipelined : bool
        Accesses are taken when ``stall`` is low, and several may wait for their ``ack``; otherwise (classic) each is held until ``ack`` or
        ``err``.

    Members
    -------
    memory : ``In(MemoryPort(port_bytes))``
        From the core.
    m_wb_… : the bus, seen from the master
    """

    latency = 1
    gap = 1
    READ_AHEAD = 16

    def __init__(self, port_bytes: int, *, pipelined: bool = False):
        if port_bytes not in (1, 2, 4, 8, 16, 32, 64):
            raise ValueError(
                f"Wishbone takes a memory port of 1, 2, 4, 8, 16, 32 or 64 bytes, not {port_bytes}: set memory_bytes_per_cycle"
            )
        self.port_bytes = port_bytes
        self.pipelined = pipelined
        super().__init__({"memory": In(MemoryPort(port_bytes)), **_members("m_wb", Out, ADDRESS_BITS, port_bytes)})

    def elaborate(self, platform):
        m = Module()
        memory = self.memory
        m.submodules.fifo = fifo = SyncFIFO(width=8 * self.port_bytes + 1, depth=self.READ_AHEAD)
        address, writing = Signal(ADDRESS_BITS, reset_less=True), Signal()  # writing stays: the other kind goes first next time
        left, waiting = Signal(range(MAX_BURST + 1)), Signal(range(MAX_BURST + 1))  # beats to be sent, to be answered
        ahead = Signal(range(self.READ_AHEAD + 1))  # read beats sent that the core has not taken
        taken, answered, failed = Signal(), Signal(), Signal()
        m.d.comb += [
            self.m_wb_cyc.eq(waiting != 0),
            self.m_wb_stb.eq((left != 0) & Mux(writing, memory.write_data.valid, ahead != self.READ_AHEAD)),
            self.m_wb_we.eq(writing),
            self.m_wb_adr.eq(address),
            self.m_wb_sel.eq(~0),
            self.m_wb_dat_w.eq(memory.write_data.payload.data),
            answered.eq((self.m_wb_cyc if self.pipelined else self.m_wb_stb) & (self.m_wb_ack | self.m_wb_err)),
            taken.eq(self.m_wb_stb & ~self.m_wb_stall if self.pipelined else answered),
            memory.write_data.ready.eq(taken & writing),
            fifo.w_en.eq(answered & ~writing),
            fifo.w_data.eq(Cat(self.m_wb_dat_r, self.m_wb_err)),
            memory.read_data.valid.eq(fifo.r_rdy),
            memory.read_data.payload.eq(data.View(read_beat(self.port_bytes), fifo.r_data)),
            fifo.r_en.eq(memory.read_data.ready),
        ]
        with m.If(taken):
            m.d.sync += [address.eq(address + 1), left.eq(left - 1)]
        m.d.sync += ahead.eq(ahead + (taken & ~writing) - (fifo.r_rdy & fifo.r_en))
        with m.If(answered):
            m.d.sync += [waiting.eq(waiting - 1), failed.eq(failed | self.m_wb_err)]
            with m.If(writing & (waiting == 1)):
                m.d.sync += memory.write_response.valid.eq(1)
        m.d.comb += memory.write_response.payload.error.eq(failed)
        with m.If(memory.write_response.valid & memory.write_response.ready):
            m.d.sync += memory.write_response.valid.eq(0)

        idle = (waiting == 0) & ~memory.write_response.valid
        reads = memory.read_request.valid & (writing | ~memory.write_request.valid)
        m.d.comb += [memory.read_request.ready.eq(idle & reads), memory.write_request.ready.eq(idle & ~reads)]
        for request, write in ((memory.read_request, 0), (memory.write_request, 1)):
            with m.If(request.valid & request.ready):
                m.d.sync += [writing.eq(write), failed.eq(0), address.eq(request.payload.address)]
                m.d.sync += [left.eq(request.payload.beats + 1), waiting.eq(request.payload.beats + 1)]
        return m
