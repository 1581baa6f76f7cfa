"""Memory on the FPGA that answers a core's memory port."""

from collections.abc import Sequence

from amaranth import *
from amaranth.lib import wiring
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import In

from ..hw.memory_port import MemoryPort
from ..hw.ram import BLOCK_RAM

__all__ = ["BlockMemory"]


class BlockMemory(wiring.Component):
    """Block RAM behind a memory port: one read burst and one write burst at a time, side by side.

    A beat at or past ``depth`` is answered with ``error`` and written nowhere. Reading a beat in the cycle in which it is written gives
    either value, so the memory has no logic for that (``no_rw_check``): a program reads what it wrote after the write's response.

    Latency: ``latency`` cycles from an accepted read request to its first beat; the response follows a burst's last write beat by one.
    Throughput: one beat a cycle each way; a read request is accepted in the cycle of the last beat's access: bursts have no gap between.

    Parameters
    ----------
    port_bytes : int
        Bytes of a beat.
    depth : int
        Beats.
    init : sequence of int
        First beats, at most ``depth``; the rest is 0.

    Members
    -------
    port : ``In(MemoryPort(port_bytes))``
    """

    latency = 2

    def __init__(self, port_bytes: int, depth: int, init: Sequence[int] = ()):
        if not max(2, len(init)) <= depth:
            raise ValueError(f"depth must be at least {max(2, len(init))} for contents of {len(init)} beats, not {depth}")
        self.depth = depth
        self.memory = Memory(shape=8 * port_bytes, depth=depth, init=init, attrs=BLOCK_RAM)
        super().__init__({"port": In(MemoryPort(port_bytes))})

    def elaborate(self, platform):
        m = Module()
        m.submodules.memory = self.memory
        self._read(m, self.port.read_request, self.port.read_data, self.memory.read_port())
        self._write(m, self.port.write_request, self.port.write_data, self.port.write_response, self.memory.write_port())
        return m

    def _read(self, m, request, beat, memory):
        """Walk through a burst; the memory's output register is the output of the stream."""
        active, outside = Signal(name="reading"), Signal(name="read_outside", reset_less=True)
        address = Signal.like(request.payload.address, name="read_address", reset_less=True)
        left = Signal.like(request.payload.beats, name="read_left", reset_less=True)
        advance, last = Signal(name="advance"), Signal(name="read_last")
        m.d.comb += [
            advance.eq(beat.ready | ~beat.valid),
            last.eq(left == 0),
            request.ready.eq(~active | (advance & last)),
            memory.addr.eq(address),
            memory.en.eq(advance),
            beat.payload.data.eq(memory.data),
            beat.payload.error.eq(outside),
        ]
        with m.If(advance):
            m.d.sync += [beat.valid.eq(active), outside.eq(address >= self.depth), address.eq(address + 1), left.eq(left - 1)]
            with m.If(last):
                m.d.sync += active.eq(0)
        with m.If(request.valid & request.ready):
            m.d.sync += [active.eq(1), address.eq(request.payload.address), left.eq(request.payload.beats)]

    def _write(self, m, request, beat, response, memory):
        """Write a burst up to the beat that says that it is the last, then answer."""
        active, outside = Signal(name="writing"), Signal(name="write_outside")
        address = Signal.like(request.payload.address, name="write_address", reset_less=True)
        inside = Signal(name="write_inside")
        m.d.comb += [
            request.ready.eq(~active & ~response.valid),
            beat.ready.eq(active),
            inside.eq(address < self.depth),
            memory.addr.eq(address),
            memory.data.eq(beat.payload.data),
            memory.en.eq(active & beat.valid & inside),
            response.payload.error.eq(outside),
        ]
        with m.If(request.valid & request.ready):
            m.d.sync += [active.eq(1), outside.eq(0), address.eq(request.payload.address)]
        with m.If(active & beat.valid):
            m.d.sync += [address.eq(address + 1), outside.eq(outside | ~inside), active.eq(~beat.payload.last)]
            m.d.sync += response.valid.eq(beat.payload.last)
        with m.Elif(response.ready):
            m.d.sync += response.valid.eq(0)
