"""Rules of the Wishbone adapters."""

from __future__ import annotations

from typing import Any

from amaranth import *
from amaranth.hdl import Assume

from ...hw.bus.wishbone import WishboneControl, WishboneMemory
from .rules import Harness, assume, held, implies, outstanding, rule

__all__ = ["WishboneControlRules", "WishboneReadRules", "WishboneWriteRules"]


class WishboneControlRules(Harness):
    """Each access that is taken is answered once, ``latency`` cycles later, and has its effect on the registers once."""

    def __init__(self, unit: Any = WishboneControl):
        super().__init__(unit())

    def rules(self, m: Module) -> None:
        control, whole = self.control, self.s_wb_sel.all()
        taken, before, partial = Signal(), Signal(), Signal(reset_less=True)
        m.d.comb += taken.eq(self.s_wb_cyc & self.s_wb_stb & ~self.s_wb_stall)
        m.d.sync += [before.eq(taken), partial.eq(self.s_wb_we & self.s_wb_sel.any() & ~whole)]
        rule(m, "answer", (self.s_wb_ack | self.s_wb_err) == before)
        rule(m, "err", self.s_wb_err == (before & partial))
        rule(m, "write", control.write == (taken & self.s_wb_we & whole))
        rule(m, "read", control.read == (taken & ~self.s_wb_we))
        accessed = control.write | control.read
        rule(m, "access", implies(accessed, (control.address == self.s_wb_adr) & (control.write_data == self.s_wb_dat_w)))
        rule(m, "held_access_once", implies(self.s_wb_ack | self.s_wb_err, self.s_wb_stall))
        waited = Signal()
        m.d.sync += waited.eq(self.s_wb_stall)
        rule(m, "taken_every_second_cycle", ~(waited & self.s_wb_stall))
        self.cover("refused", self.s_wb_err)


class _WishboneMemory(Harness):
    """A master's access stays until it is taken, CYC until all are answered, and nothing is sent that was not asked for."""

    def __init__(self, unit: Any = WishboneMemory, *, pipelined: bool, beats: int = 64, read_ahead: int = 16):
        self.beats = beats
        adapter = unit(1, pipelined=pipelined)
        adapter.READ_AHEAD = read_ahead
        super().__init__(adapter, follow=1)

    def _bus(self, m: Module, write: int) -> tuple[Value, Value, Value]:
        """The rules of CYC and STB, for requests of one direction; the beats asked for and not taken, those not answered, and an answer."""
        memory, pipelined = self.memory, self.unit.pipelined
        for name in ("read_request", "write_request", "write_data"):
            port = getattr(memory, name)
            held(m, name, port.valid, port.ready, port.payload, Assume)
        request, other = (memory.write_request, memory.read_request) if write else (memory.read_request, memory.write_request)
        assume(m, "one_direction", ~other.valid)
        assume(m, "short", implies(request.valid, request.payload.beats < self.beats))
        stays = self.m_wb_cyc & self.m_wb_stb & (self.m_wb_stall if pipelined else ~(self.m_wb_ack | self.m_wb_err))
        payload = Cat(self.m_wb_cyc, self.m_wb_adr, self.m_wb_we, self.m_wb_sel, Mux(self.m_wb_we, self.m_wb_dat_w, 0))
        held(m, "access", self.m_wb_stb, ~stays, payload)
        answered = self.m_wb_cyc & (self.m_wb_ack | self.m_wb_err)
        taken = self.m_wb_cyc & self.m_wb_stb & (~self.m_wb_stall if pipelined else answered)
        open_ = outstanding(m, "unanswered", taken, answered, 127)
        if pipelined:
            assume(m, "answer_after_access", implies(answered, open_ != 0))
        else:
            assume(m, "answer_with_access", implies(self.m_wb_ack | self.m_wb_err, self.m_wb_stb & self.m_wb_cyc))
        assume(m, "one_answer", ~(self.m_wb_ack & self.m_wb_err))
        rule(m, "cyc_until_answered", implies(open_ != 0, self.m_wb_cyc))
        asked = request.valid & request.ready
        left, address = Signal(range(128)), Signal(32, reset_less=True)
        m.d.sync += left.eq(left - taken + Mux(asked, request.payload.beats + 1, 0))
        m.d.sync += address.eq(Mux(asked, request.payload.address, address + taken))
        rule(m, "one_request", implies(asked, (left == 0) & (open_ == 0)))
        rule(m, "no_more_than_asked", implies(self.m_wb_stb & self.m_wb_cyc, (left != 0) & (self.m_wb_adr == address)))
        rule(m, "direction", implies(self.m_wb_stb & self.m_wb_cyc, self.m_wb_we == write))
        self.cover("second_request", asked & (address != 0))
        return left, open_, answered


class WishboneReadRules(_WishboneMemory):
    """Every beat read reaches the core once, in order, with its error."""

    def rules(self, m: Module) -> None:
        _, _, answered = self._bus(m, write=0)
        beat = self.memory.read_data
        moved = beat.valid & beat.ready
        waiting = outstanding(m, "waiting", answered, moved, 31)
        rule(m, "no_beat_lost", (waiting != 0) == beat.valid)
        rule(m, "room", waiting <= self.unit.READ_AHEAD)
        followed, before, content = Signal(), Signal.like(waiting, reset_less=True), Signal(9, reset_less=True)
        with m.If(answered & self.follow & ~followed):
            m.d.sync += [followed.eq(1), before.eq(waiting - moved), content.eq(Cat(self.m_wb_dat_r, self.m_wb_err))]
        with m.Elif(followed & moved):
            m.d.sync += [before.eq(before - 1), followed.eq(before != 0)]
        same = Cat(beat.payload.data, beat.payload.error) == content
        rule(m, "beat_same", implies(followed & beat.valid & (before == 0), same))
        self.cover("second_beat_fails", followed & moved & (before == 1) & beat.payload.error)


class WishboneWriteRules(_WishboneMemory):
    """The core's beats go out as they are; each request is answered once, after its last beat, with an error if one beat had one."""

    def rules(self, m: Module) -> None:
        left, open_, answered = self._bus(m, write=1)
        beat, answer, request = self.memory.write_data, self.memory.write_response, self.memory.write_request
        held(m, "answer", answer.valid, answer.ready, answer.payload)
        sent = beat.valid & beat.ready
        rule(m, "beat_same", implies(self.m_wb_stb & self.m_wb_cyc, self.m_wb_dat_w == beat.payload.data))
        rule(m, "beat_once", implies(sent, self.m_wb_stb & self.m_wb_cyc & (left != 0)))
        asked, told = request.valid & request.ready, answer.valid & answer.ready
        requests = outstanding(m, "requests", asked, told, 2)
        failed = Signal()
        m.d.sync += failed.eq(Mux(asked, 0, failed | (answered & self.m_wb_err)))
        rule(m, "answer_at_the_end", implies(answer.valid, (requests == 1) & (left == 0) & (open_ == 0)))
        rule(m, "no_answer_lost", implies((requests != 0) & (left == 0) & (open_ == 0), answer.valid))
        rule(m, "error", implies(answer.valid, answer.payload.error == failed))
        self.cover("failed", told & answer.payload.error)
