"""Rules of the sequencer, for any program and any engines."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from amaranth import *
from amaranth.utils import ceil_log2

from ...hw import isa
from ...hw.config import CoreConfig
from ...hw.isa import Error
from ...hw.sequencer import Sequencer
from .rules import Harness, assume, implies, kept, outstanding, rule, stays
from .run import changed

__all__ = ["OrderRules", "TokenRules"]


class _Sequencer(Harness):
    """Engines that end what they were given, one run at a time, and a halt after an error that lasts until the reset."""

    ram_source = Path(__file__).with_name("program.v")

    def __init__(self, unit: Any = Sequencer, *, program_depth: int = 8, queue_depth: int = 2, in_flight: int = 2, token_bits: int = 2):
        small = changed(changed(unit, "IN_FLIGHT = 8", f"IN_FLIGHT = {in_flight}"), "TOKEN_BITS = 6", f"TOKEN_BITS = {token_bits}")
        config = CoreConfig(lanes=4, program_depth=program_depth, queue_depth=queue_depth)
        self.in_flight, self.token_bits = in_flight, token_bits
        super().__init__(small(config), source=2, target=2)

    def _around(self, m: Module) -> None:
        stopped = Signal()
        m.d.sync += stopped.eq(self.halt | (self.error != Error.NONE))
        assume(m, "halt_stays", implies(stopped, self.halt))
        assume(m, "start_when_idle", implies(self.start, ~self.running & ~self.halt & (self.error == Error.NONE)))
        assume(m, "no_program_write", ~self.program_write.enable)
        self.flying = []
        for port, queue in zip(self.queues, isa.Queue, strict=True):
            name = queue.name.lower()
            self.flying.append(outstanding(m, f"{name}_flying", self._starts(port), port.done, 2 * self.in_flight))
            assume(m, f"{name}_done", implies(port.done, self.flying[-1] != 0))

    @staticmethod
    def _starts(port: Any) -> Value:
        return port.instruction.valid & port.instruction.ready

    @staticmethod
    def _header(port: Any) -> Any:
        return isa.HEADER(port.instruction.payload[: isa.HEADER.size])


class OrderRules(_Sequencer):
    """Each engine gets the instructions of its queue in the order of the program, and once; END waits for all of them."""

    def rules(self, m: Module) -> None:
        self._around(m)
        conditions = [self._queue(m, *each) for each in zip(self.queues, isa.Queue, self.flying, strict=True)]
        for name in conditions[0]:
            rule(m, name, Cat(each[name] for each in conditions).all())
        starts = Cat(self._starts(port) for port in self.queues)
        total = Signal(range(self.unit.config.program_depth + 2))
        m.d.sync += total.eq(Mux(self.start, 0, total + sum(starts)))
        rule(m, "all_started", implies(self.finished, (total == self.dispatched) & (starts == 0)))
        rule(m, "all_ended", implies(self.finished, Cat(self.flying) == 0))
        rule(m, "no_more_than_dispatched", implies(self.running, total <= self.dispatched + 1))
        self.cover("three_done", self.finished & (total == 3))

    def _queue(self, m: Module, port: Any, queue: isa.Queue, flying: Signal) -> dict[str, Value]:
        """What holds for each queue, by the rule's name."""
        name, header, valid = queue.name.lower(), self._header(port), port.instruction.valid
        index_bits = ceil_log2(self.unit.config.program_depth)
        index = port.instruction.payload[isa.HEADER.size :][:index_bits]
        offered = stays(m, name, valid, port.instruction.ready, Cat(header, index))
        following = Signal(index_bits + 1, name=f"{name}_following")  # the lowest index that may come
        m.d.sync += following.eq(Mux(self.start, 0, Mux(self._starts(port), index + 1, following)))
        halted = Signal(name=f"{name}_halted")  # a halt withdraws offers from the cycle after on
        m.d.sync += halted.eq(self.halt)
        return {
            "held": self.halt | offered,
            "halts": ~(halted & valid),
            "own_queue": implies(valid, header.queue == queue),
            "in_flight": flying <= self.in_flight,
            "alone": implies(valid & header.wait[queue.value], flying == 0),
            "order": implies(valid, index >= following),
        }


class TokenRules(_Sequencer):
    """Of two queues that the solver chooses: an instruction starts only with its token, and one token too many is an error."""

    def rules(self, m: Module) -> None:
        self._around(m)
        source, target = kept(m, "from_queue", self.source), kept(m, "to_queue", self.target)
        assume(m, "two_queues", source != target)
        starts, dones = Array(self._starts(port) for port in self.queues), Array(port.done for port in self.queues)
        waits, gives = Array(self._header(port).wait for port in self.queues), Array(self._header(port).give for port in self.queues)
        flying = Array(self.flying)[source]
        given, take = Signal(), Signal()
        pending = Signal(self.in_flight + 1)  # whether those in flight give a token, the oldest first
        m.d.comb += [given.eq(dones[source] & pending[0]), take.eq(starts[target] & waits[target].bit_select(source, 1))]
        give = starts[source] & gives[source].bit_select(target, 1)
        m.d.sync += pending.eq((pending | (give << flying)) >> dones[source])
        # From the token too many on, which ends the run, nothing is counted.
        most = (1 << self.token_bits) - 1
        count, full, over = Signal(range(most + 1)), Signal(), Signal()
        m.d.comb += full.eq(~self.start & ~over & given & ~take & (count == most))
        with m.If(self.start):
            m.d.sync += [count.eq(0), over.eq(0)]
        with m.Elif(~over & ~full):
            m.d.sync += count.eq(count + given - take)
        before = Signal()
        m.d.sync += before.eq(full)
        with m.If(full):
            m.d.sync += over.eq(1)
        rule(m, "starts_with_token", implies(take & ~over, count != 0))
        rule(m, "overflow_is_error", implies(before, self.error == Error.TOKEN))
        self.cover("taken", take)
        self.cover("overflow", full)
