"""Rules of the load and the store engine at the memory port."""

from __future__ import annotations

from typing import Any

from amaranth import *
from amaranth.hdl import Assume

from ...hw import isa
from ...hw.config import CoreConfig
from ...hw.isa import Error, Opcode
from ...hw.load_engine import LoadEngine
from ...hw.memory_port import MAX_BURST
from ...hw.scratchpad import READ_LATENCY
from ...hw.store_engine import StoreEngine
from .rules import Harness, assume, held, implies, outstanding, rule

__all__ = ["LoadRules", "StoreRules"]

#: Two beats to a word.
CONFIG = CoreConfig(
    lanes=4,
    memory_bytes_per_cycle=2,
    scratchpad_bytes=512,
    banks=2,
    map_rows=0,
    constant_channels=16,
    norm_channels=16,
    program_depth=16,
)


class _Engine(Harness):
    """An instruction ends once: with ``done``, with ``error`` or, when it was cancelled, with neither; the engine is ready only then."""

    def __init__(self, unit: Any, words: int):
        self.words = words
        super().__init__(unit(CONFIG), follow=1)

    def _ends(self, m: Module, opcode: Opcode) -> Any:
        """The rules of ``start``, ``done`` and ``error``; the fields of the instruction that starts."""
        payload = self.instruction.payload
        body = isa.body(opcode, payload)
        held(m, "instruction", self.instruction.valid, self.instruction.ready, payload, Assume)
        assume(m, "short", implies(self.instruction.valid, body.words <= self.words))
        ended, failed = self.done, self.error != Error.NONE
        active = Signal()  # started, and neither done nor failed nor cancelled
        m.d.sync += active.eq((active | self.start) & ~ended & ~failed & ~self.cancel)
        with m.If(self.start & ~self.cancel):
            m.d.sync += active.eq(1)
        rule(m, "start", self.start == (self.instruction.valid & self.instruction.ready))
        rule(m, "done_once", implies(ended, active & ~failed))
        rule(m, "error_once", implies(failed, active))
        rule(m, "ready_at_the_end", implies(active & ~ended, ~self.instruction.ready))
        self.cover("second_done", self._twice(m, ended))
        self.cover("refused", failed)
        return body

    def _twice(self, m: Module, event: Value) -> Value:
        seen = Signal()
        m.d.sync += seen.eq(seen | event)
        return seen & event


class LoadRules(_Engine):
    """Requests are held; every beat that was requested is taken, and no other, before the engine is ready again."""

    def __init__(self, unit: Any = LoadEngine, *, words: int = 3):
        super().__init__(unit, words)

    def rules(self, m: Module) -> None:
        self._ends(m, Opcode.LOAD)
        request, beat = self.read_request, self.read_data
        held(m, "request", request.valid, request.ready, request.payload)
        held(m, "beat", beat.valid, beat.ready, beat.payload, Assume)
        asked, taken = request.valid & request.ready, beat.valid & beat.ready
        limit = self.words * CONFIG.beats
        owed, total = Signal(range(2 * limit + 2)), Signal(range(2 * limit + 2))
        m.d.sync += owed.eq(owed + Mux(asked, request.payload.beats + 1, 0) - taken)
        m.d.sync += total.eq(Mux(self.start, 0, total + taken))
        assume(m, "beat_after_request", implies(beat.valid, owed != 0))
        rule(m, "beats_asked", implies(request.valid, request.payload.beats < limit))
        rule(m, "nothing_left_behind", implies(self.instruction.ready, (owed == 0) & ~request.valid))
        rule(m, "size", total + owed <= limit)
        rule(m, "inside", implies(self.write.enable, self.write.address < CONFIG.scratchpad_words))


class StoreRules(_Engine):
    """Requests and beats are held; the words read from the scratchpad go out once, in order, with ``last`` on each burst's last beat."""

    def __init__(self, unit: Any = StoreEngine, *, words: int = 3, words_ahead: int = 8):
        super().__init__(unit, words)
        self.unit.WORDS_AHEAD = words_ahead

    def rules(self, m: Module) -> None:
        self._ends(m, Opcode.STORE)
        request, beat, answer = self.write_request, self.write_data, self.write_response
        held(m, "request", request.valid, request.ready, request.payload)
        held(m, "beat", beat.valid, beat.ready, beat.payload)
        held(m, "answer", answer.valid, answer.ready, answer.payload, Assume)
        asked, sent, told = request.valid & request.ready, beat.valid & beat.ready, answer.valid & answer.ready
        limit = self.words * CONFIG.beats
        assert limit <= MAX_BURST, "one burst an instruction"
        bursts = outstanding(m, "bursts", asked, told, 3)
        data = outstanding(m, "data", sent & beat.payload.last, told, 3)
        assume(m, "answer_after_burst", implies(answer.valid, (bursts != 0) & (data != 0)))
        rule(m, "nothing_left_behind", implies(self.instruction.ready, (bursts == 0) & (data == 0) & ~request.valid & ~beat.valid))
        count, size = Signal(range(limit + 2)), Signal(range(limit + 2), reset_less=True)
        with m.If(self.start):
            m.d.sync += size.eq(isa.body(Opcode.STORE, self.instruction.payload).words * CONFIG.beats)
        m.d.sync += count.eq(Mux(self.start, 0, count + sent))
        rule(m, "last", implies(beat.valid, beat.payload.last == (count + 1 == size)))
        rule(m, "beats_asked", implies(request.valid, request.payload.beats + 1 == size))
        self._words(m, sent)

    def _words(self, m: Module, sent: Value) -> None:
        """The word of the followed read is what its beats carry."""
        beat = self.write_data
        part = Signal(range(CONFIG.beats))
        m.d.sync += part.eq(Mux(sent, Mux(part == CONFIG.beats - 1, 0, part + 1), part))
        ends = sent & (part == CONFIG.beats - 1)
        ahead = outstanding(m, "ahead", self.read.enable, ends, 15)
        rule(m, "room", ahead <= self.unit.WORDS_AHEAD)
        followed, before, word = Signal(), Signal.like(ahead, reset_less=True), Signal(8 * CONFIG.lanes, reset_less=True)
        age = Signal(range(READ_LATENCY + 2))  # cycles since the read
        with m.If(self.read.enable & self.follow & ~followed):
            m.d.sync += [followed.eq(1), before.eq(ahead - ends), age.eq(1)]
        with m.Elif(followed):
            m.d.sync += age.eq(age + (age <= READ_LATENCY))
            with m.If(age == READ_LATENCY):
                m.d.sync += word.eq(self.read.data)
            with m.If(ends):
                m.d.sync += [before.eq(before - 1), followed.eq(before != 0)]
        rule(m, "after_read", implies(followed & (before == 0) & beat.valid, age > READ_LATENCY))
        rule(m, "word", implies(followed & (before == 0) & sent, beat.payload.data == word.word_select(part, 8 * CONFIG.port_bytes)))
        self.cover("second_word", followed & (before == 0) & ends & (ahead == 2))
