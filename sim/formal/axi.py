"""Rules of the AXI adapters: the handshakes of AMBA AXI4 as a master and as an AXI4-Lite slave, and nothing lost in between."""

from __future__ import annotations

from typing import Any

from amaranth import *
from amaranth.hdl import Assume

from ...hw.bus.axi import PAGE_BYTES, AxiControl, AxiMemory, PageSplit
from .rules import Harness, assume, held, implies, outstanding, rule

__all__ = ["AxiControlRules", "AxiReadRules", "AxiWriteRules", "PageSplitRules"]


def _channel(ports: Any, name: str, *payload: str) -> tuple[Any, Any, Value]:
    """Valid, ready and payload of a channel."""
    valid, ready = (getattr(ports, f"{name}{signal}") for signal in ("valid", "ready"))
    return valid, ready, Cat(getattr(ports, f"{name}{signal}") for signal in payload)


def _burst(m: Module, ports: Any, channel: str, port_bytes: int) -> None:
    """An address channel's bursts are INCR of whole beats, aligned, and within their page."""
    address, length, valid = (getattr(ports, f"{channel}{signal}") for signal in ("addr", "len", "valid"))
    size, kind = getattr(ports, f"{channel}size"), getattr(ports, f"{channel}burst")
    aligned = address % port_bytes == 0
    rule(m, f"{channel}_kind", implies(valid, (1 << size == port_bytes) & (kind == 1) & aligned & (length < 64)))
    end = (address & (PAGE_BYTES - 1)) + (length + 1) * port_bytes
    rule(m, f"{channel}_page", implies(valid, end <= PAGE_BYTES))


class PageSplitRules(Harness):
    """The parts of a request are its beats, in order, without a gap, each within a page; ``last`` is on the last one."""

    def __init__(self, unit: Any = PageSplit, port_bytes: int = 64):
        super().__init__(unit(port_bytes))

    def rules(self, m: Module) -> None:
        i, o = self.i, self.o
        held(m, "i", i.valid, i.ready, i.payload, Assume)
        held(m, "o", o.valid, o.ready, o.payload)
        wanted, address, left = Signal(), Signal.like(i.payload.address, reset_less=True), Signal(7, reset_less=True)
        moved = o.valid & o.ready
        rule(m, "o_when_asked", o.valid == wanted)
        rule(m, "next_beats", implies(o.valid, (o.payload.address == address) & (o.payload.beats < left)))
        rule(m, "last", implies(o.valid, o.payload.last == (o.payload.beats + 1 == left)))
        rule(m, "page", implies(o.valid, o.payload.address % self.unit.page_beats + o.payload.beats < self.unit.page_beats))
        rule(m, "no_request_lost", implies(i.ready & wanted, moved & o.payload.last))
        rule(m, "ready_when_idle", implies(~wanted, i.ready))
        with m.If(moved):
            m.d.sync += [address.eq(address + o.payload.beats + 1), left.eq(left - o.payload.beats - 1), wanted.eq(~o.payload.last)]
        with m.If(i.valid & i.ready):
            m.d.sync += [address.eq(i.payload.address), left.eq(i.payload.beats + 1), wanted.eq(1)]
        self.cover("second_part", moved & o.payload.last & (o.payload.beats + 1 == left) & (address % self.unit.page_beats == 0))
        self.cover("o_waited", o.valid & ~o.ready)


class AxiReadRules(Harness):
    """AR keeps the rules, and R passes to the core as it is."""

    def __init__(self, unit: Any = AxiMemory, port_bytes: int = 4):
        super().__init__(unit(port_bytes))

    def rules(self, m: Module) -> None:
        request, beat = self.memory.read_request, self.memory.read_data
        held(m, "request", request.valid, request.ready, request.payload, Assume)
        held(m, "ar", *_channel(self, "m_axi_ar", "addr", "len", "size", "burst", "id", "cache", "prot"))
        _burst(m, self, "m_axi_ar", self.unit.port_bytes)
        rule(m, "beat_passes", (beat.valid == self.m_axi_rvalid) & (beat.ready == self.m_axi_rready))
        rule(m, "beat_same", (beat.payload.data == self.m_axi_rdata) & (beat.payload.error == self.m_axi_rresp[1]))
        asked, given = request.valid & request.ready, self.m_axi_arvalid & self.m_axi_arready
        # Beats that the core asked for and that were not asked for on AR: those of one request.
        owed = Signal(8)
        m.d.sync += owed.eq(owed + Mux(asked, request.payload.beats + 1, 0) - Mux(given, self.m_axi_arlen + 1, 0))
        rule(m, "beats_owed", (owed <= 64) & (self.m_axi_arvalid == (owed != 0)) & implies(given, self.m_axi_arlen < owed))
        self.cover("cut", given & (self.m_axi_arlen + 1 < owed))
        self.cover("back_to_back", given & asked)


class _AxiWrite(Harness):
    """What is around the write side: a core that keeps the rule of streams, a slave that answers what it has."""

    def __init__(self, unit: Any = AxiMemory, *, port_bytes: int = 64, writes_ahead: int = 8, beats: int = 64):
        self.beats = beats
        adapter = unit(port_bytes)
        adapter.WRITES_AHEAD = writes_ahead
        super().__init__(adapter, follow=1)

    def _around(self, m: Module) -> tuple[Value, Value]:
        """Whether a burst is on AW for the first cycle, and whether a beat moves."""
        request, beat = self.memory.write_request, self.memory.write_data
        held(m, "request", request.valid, request.ready, request.payload, Assume)
        held(m, "beat", beat.valid, beat.ready, beat.payload, Assume)
        held(m, "b", *_channel(self, "m_axi_b", "resp", "id"), Assume)
        assume(m, "beats", implies(request.valid, request.payload.beats < self.beats))
        offered, waited = Signal(), Signal()
        m.d.sync += waited.eq(self.m_axi_awvalid & ~self.m_axi_awready)
        m.d.comb += offered.eq(self.m_axi_awvalid & ~waited)
        moved, answered = self.m_axi_wvalid & self.m_axi_wready, self.m_axi_bvalid & self.m_axi_bready
        addressed = outstanding(m, "addressed", self.m_axi_awvalid & self.m_axi_awready, answered, 2 * self.unit.WRITES_AHEAD)
        written = outstanding(m, "written", moved & self.m_axi_wlast, answered, 2 * self.unit.WRITES_AHEAD)
        assume(m, "b_after_burst", implies(self.m_axi_bvalid, (addressed != 0) & (written != 0)))
        return offered, moved


class AxiWriteRules(_AxiWrite):
    """Handshakes of AW and W, and WLAST: with beat AWLEN + 1 of a burst that the solver chooses."""

    def rules(self, m: Module) -> None:
        beat = self.memory.write_data
        offered, moved = self._around(m)
        held(m, "aw", *_channel(self, "m_axi_aw", "addr", "len", "size", "burst", "id", "cache", "prot"))
        held(m, "w", *_channel(self, "m_axi_w", "data", "strb", "last"))
        _burst(m, self, "m_axi_aw", self.unit.port_bytes)
        rule(m, "beat_passes", moved == (beat.valid & beat.ready))
        rule(m, "beat_same", implies(moved, (self.m_axi_wdata == beat.payload.data) & self.m_axi_wstrb.all()))
        self._last(m, offered, moved)

    def _last(self, m: Module, offered: Value, moved: Value) -> None:
        """WLAST comes with beat AWLEN + 1 of the followed burst."""
        ended = moved & self.m_axi_wlast
        ahead = outstanding(m, "without_data", offered, ended, 2 * self.unit.WRITES_AHEAD)
        rule(m, "data_after_address", implies(self.m_axi_wvalid, offered | (ahead != 0)))
        followed, before, length, seen = Signal(), Signal.like(ahead, reset_less=True), Signal(8, reset_less=True), Signal(8)
        begins = offered & self.follow & ~followed
        now, length_now = Signal(), Signal(8)
        m.d.comb += [
            now.eq((followed & (before == 0)) | (begins & (ahead == 0))),
            length_now.eq(Mux(followed, length, self.m_axi_awlen)),
        ]
        rule(m, "wlast", implies(now & moved, self.m_axi_wlast == (seen == length_now)))
        with m.If(begins):
            m.d.sync += [followed.eq(1), length.eq(self.m_axi_awlen), before.eq(ahead - (ended & (ahead != 0)))]
        with m.Elif(followed & ended & (before != 0)):
            m.d.sync += before.eq(before - 1)
        with m.If(now & moved):
            m.d.sync += seen.eq(seen + 1)
            with m.If(self.m_axi_wlast):
                m.d.sync += [followed.eq(0), seen.eq(0)]
        self.cover("last_of_two", now & ended & (length_now == 1))


class AxiAnswerRules(_AxiWrite):
    """Each request is answered once, in order, with an error if one of its bursts failed; bursts without a response are few."""

    def rules(self, m: Module) -> None:
        request, answer = self.memory.write_request, self.memory.write_response
        offered, moved = self._around(m)
        held(m, "answer", answer.valid, answer.ready, answer.payload)
        answered = self.m_axi_bvalid & self.m_axi_bready
        bursts = outstanding(m, "bursts", offered, answered, 2 * self.unit.WRITES_AHEAD)
        rule(m, "bursts_ahead", bursts <= self.unit.WRITES_AHEAD)

        asked, told = request.valid & request.ready, answer.valid & answer.ready
        requests = outstanding(m, "requests", asked, told, 2 * self.unit.WRITES_AHEAD)
        rule(m, "answer_with_b", implies(told, answered & (requests != 0)))
        parts, failed = Signal(2), Signal()  # responses since the last answer
        rule(m, "parts", implies(told, parts <= 1) & (parts <= 1))
        rule(m, "error", implies(told, answer.payload.error == (failed | self.m_axi_bresp[1])))
        with m.If(told):
            m.d.sync += [parts.eq(0), failed.eq(0)]
        with m.Elif(answered):
            m.d.sync += [parts.eq(parts + 1), failed.eq(failed | self.m_axi_bresp[1])]

        quiet = Signal(3)  # cycles without a burst or request under way
        m.d.sync += quiet.eq(Mux((bursts != 0) | offered | asked, 0, quiet + (quiet != 7)))
        rule(m, "no_answer_lost", implies(quiet == 7, (requests == 0) & (parts == 0)))

        page = request.payload.address % (PAGE_BYTES // self.unit.port_bytes) + request.payload.beats
        crosses = page >= PAGE_BYTES // self.unit.port_bytes
        followed, before, cut = Signal(), Signal.like(requests, reset_less=True), Signal(reset_less=True)
        with m.If(asked & self.follow & ~followed):
            m.d.sync += [followed.eq(1), before.eq(requests - told), cut.eq(crosses)]
        with m.Elif(followed & told):
            m.d.sync += [before.eq(before - 1), followed.eq(before != 0)]
        rule(m, "responses_of_request", implies(followed & told & (before == 0), parts == cut))
        self.cover("answered_in_two", followed & told & (before == 0) & cut & answer.payload.error)


class AxiControlRules(Harness):
    """Each write and each read that was accepted has its effect on the registers once, and its answer once, within the cycles promised."""

    def __init__(self, unit: Any = AxiControl):
        super().__init__(unit())

    def rules(self, m: Module) -> None:
        control = self.control
        held(m, "aw", *_channel(self, "s_axi_ctrl_aw", "addr"), Assume)
        held(m, "w", *_channel(self, "s_axi_ctrl_w", "data", "strb"), Assume)
        held(m, "ar", *_channel(self, "s_axi_ctrl_ar", "addr"), Assume)
        read_before, data_before = Signal(), Signal(32, reset_less=True)
        m.d.sync += [read_before.eq(control.read), data_before.eq(control.read_data)]
        assume(m, "read_data_stays", read_before | (control.read_data == data_before))
        held(m, "b", *_channel(self, "s_axi_ctrl_b", "resp"))
        held(m, "r", *_channel(self, "s_axi_ctrl_r", "data", "resp"))
        rule(m, "one_access", ~(control.read & control.write))
        self._writes(m)
        self._reads(m, read_before)

    def _writes(self, m: Module) -> None:
        control, begins = self.control, self._begins(m, "b")
        addresses = outstanding(m, "addresses", self._moved("aw"), begins, 2)
        words = outstanding(m, "words", self._moved("w"), begins, 2)
        address, word, strobes = (
            Signal(self.s_axi_ctrl_awaddr.shape(), reset_less=True),
            Signal(32, reset_less=True),
            Signal(4, reset_less=True),
        )
        with m.If(self._moved("aw")):
            m.d.sync += address.eq(self.s_axi_ctrl_awaddr)
        with m.If(self._moved("w")):
            m.d.sync += [word.eq(self.s_axi_ctrl_wdata), strobes.eq(self.s_axi_ctrl_wstrb)]
        complete, whole, wrote, due = (addresses != 0) & (words != 0), strobes.all(), Signal(), Signal()
        m.d.sync += [wrote.eq(control.write), due.eq(complete & ~self.s_axi_ctrl_bvalid)]
        rule(m, "one_write_waits", (addresses <= 1) & (words <= 1))
        rule(m, "b_after_both", implies(begins, complete))
        rule(m, "b_in_time", implies(due, begins))
        rule(m, "write", implies(control.write, (control.address == address[2:]) & (control.write_data == word) & whole))
        rule(m, "effect_and_answer", (begins & whole) == wrote)
        rule(m, "partial", implies(begins, self.s_axi_ctrl_bresp.as_value() == Mux(strobes.any() & ~whole, 2, 0)))
        self.cover("partial_write", begins & (self.s_axi_ctrl_bresp.as_value() == 2))
        self.cover("write_in_a_row", begins & wrote & self._moved("aw"))

    def _reads(self, m: Module, read_before: Value) -> None:
        control, begins = self.control, self._begins(m, "r")
        asked = outstanding(m, "asked", self._moved("ar"), begins, 2)
        address, late = Signal(self.s_axi_ctrl_araddr.shape(), reset_less=True), Signal()
        with m.If(self._moved("ar")):
            m.d.sync += address.eq(self.s_axi_ctrl_araddr)
        m.d.sync += late.eq((asked != 0) & ~self.s_axi_ctrl_rvalid & ~control.read)
        rule(m, "one_read_waits", asked <= 1)
        rule(m, "read", implies(control.read, (asked != 0) & (control.address == address[2:])))
        rule(m, "r_after_read", begins == read_before)
        rule(m, "r_data", implies(begins, self.s_axi_ctrl_rdata == control.read_data))
        rule(m, "read_in_time", implies(late, control.read))
        self.cover("read_after_write", late & control.read)

    def _moved(self, channel: str) -> Value:
        valid, ready, _ = _channel(self, f"s_axi_ctrl_{channel}")
        return valid & ready

    def _begins(self, m: Module, channel: str) -> Signal:
        """First cycle of an answer."""
        begins, waited = Signal(name=f"{channel}_begins"), Signal(name=f"{channel}_waited")
        valid, ready, _ = _channel(self, f"s_axi_ctrl_{channel}")
        m.d.sync += waited.eq(valid & ~ready)
        m.d.comb += begins.eq(valid & ~waited)
        return begins
