"""Rules of the memory arbiter."""

from __future__ import annotations

from typing import Any

from amaranth import *
from amaranth.hdl import Assume

from ...boards.arbiter import CLIENTS, MemoryArbiter
from .rules import Harness, assume, held, implies, outstanding, rule

__all__ = ["ArbiterReadRules", "ArbiterWriteRules"]


class _Arbiter(Harness):
    """Requests of one direction: held, from one client at a time, and in turn."""

    def __init__(self, unit: Any = MemoryArbiter, *, beats: int = 64):
        self.beats = beats
        super().__init__(unit(1), follow=1)

    def _requests(self, m: Module, name: str) -> list[Value]:
        """The rules of a request stream; which client's request moves."""
        request, sources = getattr(self.memory, name), [getattr(client, name) for client in self.clients]
        held(m, "request", request.valid, request.ready, request.payload)
        moved = [source.valid & source.ready for source in sources]
        rule(m, "one_at_a_time", (request.valid & request.ready) == (moved[0] ^ moved[1]))
        for index, source in enumerate(sources):
            held(m, f"client_{index}", source.valid, source.ready, source.payload, Assume)
            assume(m, f"short_{index}", implies(source.valid, source.payload.beats < self.beats))
            rule(m, f"same_{index}", implies(moved[index], source.payload.as_value() == request.payload.as_value()))
            passed = Signal(2, name=f"passed_{index}")  # the other one's requests while this one waits
            m.d.sync += passed.eq(Mux(source.valid & ~source.ready, passed + moved[1 - index], 0))
            rule(m, f"no_starvation_{index}", passed <= 1)
        return moved


class ArbiterReadRules(_Arbiter):
    """Each beat goes to the client that asked for it: those of a request that the solver chooses are followed."""

    def rules(self, m: Module) -> None:
        moved = self._requests(m, "read_request")
        request, beat = self.memory.read_request, self.memory.read_data
        asked, came = moved[0] | moved[1], beat.valid & beat.ready
        owed = Signal(range(1024))  # beats
        m.d.sync += owed.eq(owed + Mux(asked, request.payload.beats + 1, 0) - came)
        held(m, "beat", beat.valid, beat.ready, beat.payload, Assume)
        assume(m, "beat_after_request", implies(beat.valid, owed != 0))
        takes = [client.read_data.valid & client.read_data.ready for client in self.clients]
        rule(m, "to_one", came == (takes[0] ^ takes[1]))
        followed, client = Signal(), Signal(reset_less=True)
        before, left = Signal.like(owed, reset_less=True), Signal(8, reset_less=True)
        with m.If(asked & self.follow & ~followed):
            m.d.sync += [followed.eq(1), client.eq(moved[1]), before.eq(owed - came), left.eq(request.payload.beats)]
        with m.Elif(followed & came):
            m.d.sync += [
                before.eq(Mux(before == 0, 0, before - 1)),
                left.eq(left - (before == 0)),
                followed.eq((before != 0) | (left != 0)),
            ]
        mine = followed & (before == 0)
        for index in range(CLIENTS):
            port = self.clients[index].read_data
            rule(m, f"to_asker_{index}", implies(mine & port.valid, client == index))
            rule(m, f"beat_same_{index}", implies(port.valid, port.payload.as_value() == beat.payload.as_value()))
        self.cover("second_client_second_beat", mine & came & client & (left == 0) & takes[1])


class ArbiterWriteRules(_Arbiter):
    """Beats go out in the order of requests, and each answer to the client that asked: those of a request that the solver chooses."""

    def rules(self, m: Module) -> None:
        moved = self._requests(m, "write_request")
        beat, answer = self.memory.write_data, self.memory.write_response
        asked, sent, told = moved[0] | moved[1], beat.valid & beat.ready, answer.valid & answer.ready
        ends = sent & beat.payload.last
        for index, client in enumerate(self.clients):
            held(m, f"client_beat_{index}", client.write_data.valid, client.write_data.ready, client.write_data.payload, Assume)
        held(m, "beat", beat.valid, beat.ready, beat.payload)
        held(m, "answer", answer.valid, answer.ready, answer.payload, Assume)
        unsent, unanswered = outstanding(m, "unsent", asked, ends, 15), outstanding(m, "unanswered", asked, told, 15)
        written = outstanding(m, "written", ends, told, 15)
        assume(m, "answer_after_data", implies(answer.valid, written != 0))
        rule(m, "data_after_request", implies(beat.valid, unsent != 0))
        followed, client = Signal(), Signal(reset_less=True)
        before_data, before_answer, unsent_mine = Signal.like(unsent, reset_less=True), Signal.like(unsent, reset_less=True), Signal()
        with m.If(asked & self.follow & ~followed):
            m.d.sync += [followed.eq(1), client.eq(moved[1]), before_data.eq(unsent - ends), before_answer.eq(unanswered - told)]
            m.d.sync += unsent_mine.eq(1)
        with m.Elif(followed):
            with m.If(ends):
                m.d.sync += [before_data.eq(before_data - 1), unsent_mine.eq(unsent_mine & (before_data != 0))]
            with m.If(told):
                m.d.sync += [before_answer.eq(before_answer - 1), followed.eq(before_answer != 0)]
        for index in range(CLIENTS):
            port = self.clients[index]
            sends, hears = port.write_data.valid & port.write_data.ready, port.write_response.valid
            rule(m, f"data_of_asker_{index}", implies(followed & unsent_mine & (before_data == 0) & sends, client == index))
            rule(m, f"to_asker_{index}", implies(followed & (before_answer == 0) & hears, client == index))
            rule(m, f"beat_same_{index}", implies(sends, sent & (port.write_data.payload.as_value() == beat.payload.as_value())))
        self.cover("answer_to_second", followed & (before_answer == 0) & told & client & answer.payload.error)
