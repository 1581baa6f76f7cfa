"""The core's ports on AXI4: AXI4-Lite for the control registers, an AXI4 master for the memory."""

from amaranth import *
from amaranth.lib import data, enum, stream, wiring
from amaranth.lib.fifo import SyncFIFO
from amaranth.lib.wiring import In, Out, connect, flipped
from amaranth.utils import ceil_log2

from .. import isa
from ..control import ControlPort
from ..memory_port import ADDRESS_BITS, MAX_BURST, REQUEST, MemoryPort

__all__ = ["PAGE_BYTES", "AxiControl", "AxiMemory", "PageSplit", "Response"]

#: No burst crosses a multiple of this address.
PAGE_BYTES = 4096


class Response(enum.Enum, shape=2):
    """RRESP and BRESP. Bit 1 makes an error."""

    OKAY = 0
    EXOKAY = 1
    SLVERR = 2
    DECERR = 3


class AxiControl(wiring.Component):
    """AXI4-Lite slave for the control registers: 32 bits, register r at byte address 4 r.

    A write takes effect ``latency`` - 1 cycles after its address and its data have come, in either order, and its response is valid
    ``latency`` cycles after; a read's data too, one cycle later when a write goes before. Throughput: a read and a write every 2 cycles.
    All outputs are registers or constants, and no answer waits for another one.

    A write of some bytes of a register is answered with SLVERR and changes nothing. The two lowest address bits do not count; what is not
    a register reads as 0.

    Members
    -------
    s_axi_ctrl_aw…, s_axi_ctrl_w…, s_axi_ctrl_b…, s_axi_ctrl_ar…, s_axi_ctrl_r… : the five channels, seen from the slave
    control : ``Out(ControlPort())``
        To the core.
    """

    latency = 2

    def __init__(self):
        address = {"addr": isa.CONTROL_ADDRESS_BITS + 2, "prot": 3}
        channels = {
            "aw": (In, address),
            "w": (In, {"data": 32, "strb": 4}),
            "b": (Out, {"resp": Response}),
            "ar": (In, address),
            "r": (Out, {"data": 32, "resp": Response}),
        }
        super().__init__({"control": Out(ControlPort()), **_members("s_axi_ctrl", channels)})

    def elaborate(self, platform):
        m = Module()
        control = self.control
        write_address, read_address = Signal.like(control.address, reset_less=True), Signal.like(control.address, reset_less=True)
        write_data, strobes = Signal(32, reset_less=True), Signal(4, reset_less=True)
        addressed, given, asked = Signal(), Signal(), Signal()  # a write's address, its data, a read's address are held
        m.d.comb += [self.s_axi_ctrl_awready.eq(~addressed), self.s_axi_ctrl_wready.eq(~given), self.s_axi_ctrl_arready.eq(~asked)]
        with m.If(self.s_axi_ctrl_awvalid & self.s_axi_ctrl_awready):
            m.d.sync += [addressed.eq(1), write_address.eq(self.s_axi_ctrl_awaddr[2:])]
        with m.If(self.s_axi_ctrl_wvalid & self.s_axi_ctrl_wready):
            m.d.sync += [given.eq(1), write_data.eq(self.s_axi_ctrl_wdata), strobes.eq(self.s_axi_ctrl_wstrb)]
        with m.If(self.s_axi_ctrl_arvalid & self.s_axi_ctrl_arready):
            m.d.sync += [asked.eq(1), read_address.eq(self.s_axi_ctrl_araddr[2:])]

        with m.If(self.s_axi_ctrl_bready):
            m.d.sync += self.s_axi_ctrl_bvalid.eq(0)
        with m.If(self.s_axi_ctrl_rready):
            m.d.sync += self.s_axi_ctrl_rvalid.eq(0)
        writes = Signal()
        m.d.comb += [
            writes.eq(addressed & given & ~self.s_axi_ctrl_bvalid),
            control.write.eq(writes & strobes.all()),
            control.write_data.eq(write_data),
            control.read.eq(asked & ~self.s_axi_ctrl_rvalid & ~writes),
            control.address.eq(Mux(writes, write_address, read_address)),
            self.s_axi_ctrl_rdata.eq(control.read_data),  # stays until the next read, which waits for this answer
        ]
        with m.If(writes):
            partial = strobes.any() & ~strobes.all()
            m.d.sync += [addressed.eq(0), given.eq(0), self.s_axi_ctrl_bvalid.eq(1)]
            m.d.sync += self.s_axi_ctrl_bresp.eq(Mux(partial, Response.SLVERR, Response.OKAY))
        with m.If(control.read):
            m.d.sync += [asked.eq(0), self.s_axi_ctrl_rvalid.eq(1)]
        return m


class PageSplit(wiring.Component):
    """Cuts a request where it crosses a multiple of :data:`PAGE_BYTES`: as a burst has that size at most, into two parts at most.

    The first part comes ``latency`` cycles after the request. Throughput: a part a cycle.

    Parameters
    ----------
    port_bytes : int
        Bytes of a beat.

    Members
    -------
    i : ``In(stream of REQUEST)``
    o : ``Out(stream)``
        ``address`` in beats, ``beats`` - 1, and ``last``: no other part of the request follows.
    """

    latency = 1

    def __init__(self, port_bytes: int):
        assert MAX_BURST * port_bytes <= PAGE_BYTES
        self.page_beats = PAGE_BYTES // port_bytes
        layout = data.StructLayout({**REQUEST.members, "last": 1})
        super().__init__({"i": In(stream.Signature(REQUEST)), "o": Out(stream.Signature(layout))})

    def elaborate(self, platform):
        m = Module()
        address = Signal(ADDRESS_BITS, reset_less=True)
        beats = Signal.like(self.i.payload.beats, reset_less=True)  # - 1, as everywhere
        to_page_end = ~address[: ceil_log2(self.page_beats)]  # beats - 1 that fit into the page
        part = Mux(beats > to_page_end, to_page_end, beats)
        m.d.comb += [
            self.i.ready.eq(~self.o.valid | (self.o.ready & self.o.payload.last)),
            self.o.payload.address.eq(address),
            self.o.payload.beats.eq(part),
            self.o.payload.last.eq(beats <= to_page_end),
        ]
        with m.If(self.o.valid & self.o.ready):
            m.d.sync += [address.eq(address + part + 1), beats.eq(beats - part - 1)]
        with m.If(self.i.ready):
            m.d.sync += [self.o.valid.eq(self.i.valid), address.eq(self.i.payload.address), beats.eq(self.i.payload.beats)]
        return m


class AxiMemory(wiring.Component):
    """AXI4 master for the memory port: data as wide as the port, INCR bursts of whole beats, none across 4 KiB, one ID.

    Byte addresses have 32 + log2(port_bytes) bits. SLVERR and DECERR are the port's ``error``: of a beat when reading; of a whole request
    when writing, also when only one of its two bursts failed.

    Latency: a request is on AR after ``PageSplit.latency`` cycles and on AW after ``write_latency``; data and responses pass in the same
    cycle. Throughput: a beat a cycle each way, also from burst to burst. Up to ``WRITES_AHEAD`` write bursts are without a response.
    Write data wait for their request, never for AWREADY; no output depends on an input of the same channel, as long as the core's streams
    do not.

    Parameters
    ----------
    port_bytes : int
        A power of two, 64 at most.

    Members
    -------
    memory : ``In(MemoryPort(port_bytes))``
        From the core.
    m_axi_aw…, m_axi_w…, m_axi_b…, m_axi_ar…, m_axi_r… : the five channels, seen from the master
    """

    write_latency = PageSplit.latency + 1
    WRITES_AHEAD = 8

    def __init__(self, port_bytes: int):
        if port_bytes not in (1, 2, 4, 8, 16, 32, 64):
            raise ValueError(f"AXI takes a memory port of 1, 2, 4, 8, 16, 32 or 64 bytes, not {port_bytes}: set memory_bytes_per_cycle")
        self.port_bytes = port_bytes
        address = {
            **{"id": 1, "addr": ADDRESS_BITS + ceil_log2(port_bytes), "len": 8},
            **{"size": 3, "burst": 2, "cache": 4, "prot": 3},
        }
        channels = {
            "aw": (Out, address),
            "w": (Out, {"data": 8 * port_bytes, "strb": port_bytes, "last": 1}),
            "b": (In, {"id": 1, "resp": 2}),
            "ar": (Out, address),
            "r": (In, {"id": 1, "data": 8 * port_bytes, "resp": 2, "last": 1}),
        }
        super().__init__({"memory": In(MemoryPort(port_bytes)), **_members("m_axi", channels)})

    def elaborate(self, platform):
        m = Module()
        for channel in ("ar", "aw"):
            constants = {"size": ceil_log2(self.port_bytes), "burst": 1, "cache": 0b0011}  # INCR, normal memory, bufferable
            m.d.comb += [getattr(self, f"m_axi_{channel}{name}").eq(value) for name, value in constants.items()]
        self._read(m)
        self._write(m)
        return m

    def _read(self, m: Module) -> None:
        """Requests to AR, R to the core."""
        m.submodules.read_split = split = PageSplit(self.port_bytes)
        connect(m, core=flipped(self.memory.read_request), split=split.i)
        m.d.comb += [
            self.m_axi_arvalid.eq(split.o.valid),
            split.o.ready.eq(self.m_axi_arready),
            self.m_axi_araddr[ceil_log2(self.port_bytes) :].eq(split.o.payload.address),
            self.m_axi_arlen.eq(split.o.payload.beats),
            self.memory.read_data.valid.eq(self.m_axi_rvalid),
            self.memory.read_data.payload.data.eq(self.m_axi_rdata),
            self.memory.read_data.payload.error.eq(self.m_axi_rresp[1]),
            self.m_axi_rready.eq(self.memory.read_data.ready),
        ]

    def _write(self, m: Module) -> None:
        """Requests to AW, and into the queues that W and B work off: beats of each burst, and whether it is its request's last."""
        m.submodules.write_split = split = PageSplit(self.port_bytes)
        m.submodules.lengths = lengths = SyncFIFO(width=len(split.o.payload.beats), depth=self.WRITES_AHEAD)
        m.submodules.lasts = lasts = SyncFIFO(width=1, depth=self.WRITES_AHEAD)
        connect(m, core=flipped(self.memory.write_request), split=split.i)
        taken = Signal()
        m.d.comb += [
            # A burst that has its response had its beats, so `lengths` has room when `lasts` does.
            split.o.ready.eq((~self.m_axi_awvalid | self.m_axi_awready) & lasts.w_rdy),
            taken.eq(split.o.valid & split.o.ready),
            lengths.w_en.eq(taken),
            lengths.w_data.eq(split.o.payload.beats),
            lasts.w_en.eq(taken),
            lasts.w_data.eq(split.o.payload.last),
        ]
        with m.If(self.m_axi_awready):
            m.d.sync += self.m_axi_awvalid.eq(0)
        with m.If(taken):
            m.d.sync += [self.m_axi_awvalid.eq(1), self.m_axi_awlen.eq(split.o.payload.beats)]
            m.d.sync += self.m_axi_awaddr[ceil_log2(self.port_bytes) :].eq(split.o.payload.address)

        write_data, response = self.memory.write_data, self.memory.write_response
        beat, failed = Signal.like(split.o.payload.beats), Signal()
        m.d.comb += [
            self.m_axi_wvalid.eq(write_data.valid & lengths.r_rdy),
            self.m_axi_wdata.eq(write_data.payload.data),
            self.m_axi_wstrb.eq(~0),
            self.m_axi_wlast.eq(beat == lengths.r_data),
            write_data.ready.eq(self.m_axi_wready & lengths.r_rdy),
            lengths.r_en.eq(self.m_axi_wvalid & self.m_axi_wready & self.m_axi_wlast),
            response.valid.eq(self.m_axi_bvalid & lasts.r_data),
            response.payload.error.eq(failed | self.m_axi_bresp[1]),
            self.m_axi_bready.eq(lasts.r_rdy & (response.ready | ~lasts.r_data)),
            lasts.r_en.eq(self.m_axi_bvalid & self.m_axi_bready),
        ]
        with m.If(self.m_axi_wvalid & self.m_axi_wready):
            m.d.sync += beat.eq(Mux(self.m_axi_wlast, 0, beat + 1))
        with m.If(lasts.r_en):
            m.d.sync += failed.eq(~lasts.r_data & response.payload.error)


def _members(prefix: str, channels: dict) -> dict[str, wiring.Member]:
    """Ports of these channels, each with its direction and its payload, and its handshake."""
    members = {}
    for channel, (flow, payload) in channels.items():
        members |= {f"{prefix}_{channel}{name}": flow(shape) for name, shape in payload.items()}
        members |= {f"{prefix}_{channel}valid": flow(1), f"{prefix}_{channel}ready": flow.flip()(1)}
    return members
