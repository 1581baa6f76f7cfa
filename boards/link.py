"""Frames of a host (:mod:`.frames`) carried out: registers of a core, and its memory."""

from __future__ import annotations

from amaranth import *
from amaranth.lib import data, stream, wiring
from amaranth.lib.crc.catalog import CRC32_ETHERNET
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import In, Out, connect

from ..hw.arith import delay
from ..hw.control import ControlPort
from ..hw.memory_port import MAX_BURST, MemoryPort
from .frames import CRC_BYTES, END, ESCAPE, ESCAPED_END, ESCAPED_ESCAPE, HEADER_BYTES, MAX_DATA, RESPONSE, Command, Status
from .stream_buffer import StreamBuffer

__all__ = ["FrameDecoder", "FrameEncoder", "Link"]

_REGISTER_BYTES = 4
#: A byte of a frame, or with ``end`` its end; ``data`` has no meaning then.
_ITEM = data.StructLayout({"data": 8, "end": 1})
_HEADER = data.StructLayout({"tag": 8, "command": 8, "count": 16, "address": 32})


class FrameDecoder(wiring.Component):
    """Takes the escapes out; combinational but for one bit.

    Members
    -------
    i : ``In(stream.Signature(8))``
    o : ``Out(stream of data and end)``
    """

    def __init__(self):
        super().__init__({"i": In(stream.Signature(8)), "o": Out(stream.Signature(_ITEM))})

    def elaborate(self, platform):
        m = Module()
        escaped, byte, item = Signal(), self.i.payload, self.o.payload
        m.d.comb += [
            self.i.ready.eq(self.o.ready),
            self.o.valid.eq(self.i.valid & (byte != ESCAPE)),
            item.end.eq(byte == END),
            item.data.eq(Mux(escaped, Mux(byte == ESCAPED_END, END, ESCAPE), byte)),
        ]
        with m.If(self.i.valid & self.i.ready):
            m.d.sync += escaped.eq(byte == ESCAPE)
        return m


class FrameEncoder(wiring.Component):
    """Puts the escapes in; combinational but for one bit.

    Members
    -------
    i : ``In(stream of data and end)``
    o : ``Out(stream.Signature(8))``
    """

    def __init__(self):
        super().__init__({"i": In(stream.Signature(_ITEM)), "o": Out(stream.Signature(8))})

    def elaborate(self, platform):
        m = Module()
        escaped, special, item = Signal(), Signal(), self.i.payload
        m.d.comb += [
            special.eq(~item.end & ((item.data == END) | (item.data == ESCAPE))),
            self.o.valid.eq(self.i.valid),
            self.i.ready.eq(self.o.ready & (~special | escaped)),
            self.o.payload.eq(Mux(item.end, END, item.data)),
        ]
        with m.If(special):
            m.d.comb += self.o.payload.eq(Mux(escaped, Mux(item.data == END, ESCAPED_END, ESCAPED_ESCAPE), ESCAPE))
        with m.If(self.o.valid & self.o.ready):
            m.d.sync += escaped.eq(special & ~escaped)
        return m


class Link(wiring.Component):
    """Carries out one request after the other, and answers each; what comes while it does is lost.

    Nothing of a request is carried out before all of it has arrived with a right CRC.

    Parameters
    ----------
    port_bytes : int
        Bytes of a beat, a power of two.

    Members
    -------
    rx : ``In(stream.Signature(8))``
        Always taken.
    tx : ``Out(stream.Signature(8))``
    control : ``Out(ControlPort())``
    memory : ``Out(MemoryPort(port_bytes))``
    """

    def __init__(self, port_bytes: int):
        if port_bytes not in (1, 2, 4, 8, 16, 32, 64):
            raise ValueError(f"port_bytes must be a power of two of at most 64, not {port_bytes}")
        self.port_bytes = port_bytes
        super().__init__(
            {
                "rx": In(stream.Signature(8)),
                "tx": Out(stream.Signature(8)),
                "control": Out(ControlPort()),
                "memory": Out(MemoryPort(port_bytes)),
            }
        )

    def elaborate(self, platform):
        m = Module()
        m.submodules.decoder = decoder = FrameDecoder()
        m.submodules.encoder = encoder = FrameEncoder()
        m.submodules.crc = crc = CRC32_ETHERNET(8).create()
        m.submodules.buffer = buffer = Memory(shape=8, depth=MAX_DATA, init=[])
        connect(m, rx=wiring.flipped(self.rx), decoder=decoder.i)
        m.submodules.answer = answer = StreamBuffer(encoder.i.payload.shape())
        connect(m, answer=answer.o, encoder=encoder.i)
        connect(m, encoder=encoder.o, tx=wiring.flipped(self.tx))
        header, status = Signal(_HEADER), Signal(Status)
        left, position = Signal.like(header.count), Signal(range(MAX_DATA + HEADER_BYTES + CRC_BYTES + 2))
        read, write = buffer.read_port(), buffer.write_port()
        m.d.comb += [decoder.o.ready.eq(1), read.en.eq(1)]
        found = delay(m, read.data, 1, name="found")
        with m.FSM():
            self._receive(m, decoder.o, crc, header, position, write)
            self._check(m, header, status, left, position, crc)
            self._execute(m, crc, header, status, left, position, read.addr, found, write)
            self._respond(m, answer.i, crc, header, status, left, position, found)
        return m

    def _receive(self, m, item, crc, header, position, write):
        """Collect a frame: the header, and all that follows in the buffer, be it data or CRC."""
        m.d.comb += [write.addr.eq(position - HEADER_BYTES), write.data.eq(item.payload.data)]
        with m.State("RECEIVE"), m.If(item.valid):
            with m.If(item.payload.end):
                m.d.comb += crc.start.eq(1)
                m.d.sync += position.eq(0)
                with m.If(crc.match_detected & (position >= HEADER_BYTES + CRC_BYTES) & (position <= HEADER_BYTES + MAX_DATA + CRC_BYTES)):
                    m.d.sync += position.eq(position - (HEADER_BYTES + CRC_BYTES))
                    m.next = "CHECK"
            with m.Else():
                m.d.comb += [crc.valid.eq(1), crc.data.eq(item.payload.data)]
                with m.If(~position.all()):
                    m.d.sync += position.eq(position + 1)
                with m.If(position < HEADER_BYTES):
                    m.d.sync += header.as_value().word_select(position[:3], 8).eq(item.payload.data)
                m.d.comb += write.en.eq((position >= HEADER_BYTES) & (position < HEADER_BYTES + MAX_DATA))

    def _check(self, m, header, status, left, position, crc):
        """Compare the number of units with the data, whose bytes ``position`` has, and with the buffer."""
        units = {"register": _REGISTER_BYTES, "memory": self.port_bytes}
        with m.State("CHECK"):
            size = Mux(header.command[1], *(header.count.shift_left(units[name].bit_length() - 1) for name in ("memory", "register")))
            known = header.command.matches(*Command) & (header.command[1] | (header.address[len(self.control.address) :] == 0))
            moved = (size <= MAX_DATA) | (header.command == Command.DIGEST_MEMORY)
            fits = known & (header.count != 0) & moved & (position == Mux(header.command[0], size, 0))
            m.d.comb += crc.start.eq(1)
            m.d.sync += [position.eq(0), left.eq(header.count), status.eq(Status.OK)]
            with m.If(~fits):
                m.d.sync += [status.eq(Status.REFUSED), left.eq(0)]
                m.next = "RESPOND"
            with m.Elif(header.command[1]):
                m.next = "REQUEST"
            with m.Elif(header.command[0]):
                m.next = "FETCH"
            with m.Else():
                m.next = "READ"

    def _execute(self, m, crc, header, status, left, position, address, found, write):
        """Move ``left`` units between the buffer, from ``position`` on, and registers or memory; ``left`` is then the bytes to answer.

        For a digest memory goes into ``crc``, and what that comes to into the buffer.
        """
        memory, control = self.memory, self.control
        word, beats = Signal(8 * max(_REGISTER_BYTES, self.port_bytes)), Signal(range(MAX_BURST + 1))
        part, last_part = Signal(range(len(word) // 8)), Signal(range(len(word) // 8))
        is_memory, is_write, is_digest = header.command[1], header.command[0], header.command[2]
        burst, failed = Mux(left > MAX_BURST, MAX_BURST, left), Signal()
        m.d.comb += [last_part.eq(Mux(is_memory, self.port_bytes, _REGISTER_BYTES) - 1), address.eq(position)]
        m.d.comb += [control.address.eq(header.address), control.write_data.eq(word)]
        for request in (memory.read_request, memory.write_request):
            m.d.comb += [request.payload.address.eq(header.address), request.payload.beats.eq(burst - 1)]
        m.d.comb += [memory.write_data.payload.data.eq(word), memory.write_data.payload.last.eq(beats == 1)]

        def next_unit():
            m.d.sync += [left.eq(left - 1), beats.eq(beats - 1), header.address.eq(header.address + 1), part.eq(0)]

        def finish():
            m.d.comb += crc.start.eq(1)
            m.d.sync += [left.eq(Mux(is_write | failed, 0, position)), position.eq(0), failed.eq(0)]
            with m.If(failed):
                m.d.sync += status.eq(Status.MEMORY)
            m.next = "RESPOND"

        with m.State("REQUEST"):
            chosen = [memory.read_request, memory.write_request]
            m.d.comb += [request.valid.eq(is_write == index) for index, request in enumerate(chosen)]
            m.d.sync += beats.eq(burst)
            with m.If(Mux(is_write, memory.write_request.ready, memory.read_request.ready)):
                m.next = "READ"
                with m.If(is_write):
                    m.next = "FETCH"
        with m.State("FETCH"):  # the buffer's byte comes two cycles later
            m.next = "FOUND"
        with m.State("FOUND"):
            m.next = "GATHER"
        with m.State("GATHER"):
            m.d.sync += [word.word_select(part, 8).eq(found), part.eq(part + 1), position.eq(position + 1)]
            m.next = "FETCH"
            with m.If(part == last_part):
                m.next = "PUT"
        with m.State("PUT"):
            m.d.comb += [control.write.eq(~is_memory), memory.write_data.valid.eq(is_memory)]
            with m.If(~is_memory | memory.write_data.ready):
                next_unit()
                m.next = "FETCH"
                with m.If(is_memory & (beats == 1)):
                    m.next = "ANSWERED"
                with m.Elif(~is_memory & (left == 1)):
                    finish()
        with m.State("ANSWERED"):
            m.d.comb += memory.write_response.ready.eq(1)
            with m.If(memory.write_response.valid):
                m.d.sync += failed.eq(failed | memory.write_response.payload.error)
                m.next = "NEXT"
        with m.State("READ"):
            m.d.comb += [control.read.eq(~is_memory), memory.read_data.ready.eq(is_memory)]
            with m.If(~is_memory):
                m.next = "ASKED"
            with m.Elif(memory.read_data.valid):
                m.d.sync += [word.eq(memory.read_data.payload.data), failed.eq(failed | memory.read_data.payload.error)]
                m.next = "SPILL"
        with m.State("ASKED"):  # a register may be a cycle away
            m.next = "REGISTER"
        with m.State("REGISTER"):
            m.d.sync += word.eq(control.read_data)
            m.next = "SPILL"
        with m.State("SPILL"):
            m.d.comb += [write.en.eq(~is_digest), write.addr.eq(position), write.data.eq(word.word_select(part, 8))]
            m.d.comb += [crc.valid.eq(is_digest), crc.data.eq(write.data)]
            m.d.sync += [part.eq(part + 1), position.eq(Mux(is_digest, 0, position + 1))]
            with m.If(part == last_part):
                next_unit()
                m.next = "READ"
                with m.If((left == 1) | (is_memory & (beats == 1))):
                    m.next = "NEXT"
        with m.State("NEXT"):
            m.next = "REQUEST"
            with m.If((left == 0) & is_digest & ~failed):
                m.d.sync += word.eq(crc.crc)
                m.next = "DIGEST"
            with m.Elif(left == 0):
                finish()
        with m.State("DIGEST"):
            m.d.comb += [write.en.eq(1), write.addr.eq(position), write.data.eq(word.word_select(part, 8))]
            m.d.sync += [part.eq(part + 1), position.eq(position + 1)]
            with m.If(part == CRC_BYTES - 1):
                m.d.sync += header.command[2].eq(0)
                m.next = "NEXT"

    def _respond(self, m, item, crc, header, status, left, position, found):
        """Send tag, status and ``left`` bytes of the buffer, then their CRC; END before and after."""
        part, byte = Signal(range(CRC_BYTES)), Signal(8)

        def send(value, then, *, end=False):
            m.d.comb += [item.valid.eq(1), item.payload.data.eq(value), item.payload.end.eq(end)]
            with m.If(item.ready):
                m.next = then

        def cover(value):
            m.d.comb += [crc.valid.eq(item.ready), crc.data.eq(value)]

        with m.State("RESPOND"):
            send(0, "TAG", end=True)
        with m.State("TAG"):
            cover(header.tag)
            send(header.tag, "STATUS")
        with m.State("STATUS"):
            cover(RESPONSE | status)
            send(RESPONSE | status, "FETCH_DATA")
        with m.State("FETCH_DATA"):
            m.next = "FOUND_DATA"
            with m.If(position == left):
                m.next = "CRC"
        with m.State("FOUND_DATA"):
            m.next = "HOLD_DATA"
        with m.State("HOLD_DATA"):
            m.d.sync += byte.eq(found)
            m.next = "DATA"
        with m.State("DATA"):
            cover(byte)
            send(byte, "FETCH_DATA")
            with m.If(item.ready):
                m.d.sync += position.eq(position + 1)
        with m.State("CRC"):
            send(crc.crc.word_select(part, 8), "CRC")
            with m.If(item.ready):
                m.d.sync += part.eq(part + 1)
                with m.If(part == CRC_BYTES - 1):
                    m.next = "LAST"
        with m.State("LAST"):
            send(0, "RECEIVE", end=True)
            with m.If(item.ready):
                m.d.comb += crc.start.eq(1)
                m.d.sync += position.eq(0)
