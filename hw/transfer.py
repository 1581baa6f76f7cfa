"""What load and store do alike with an instruction."""

from typing import Any

from amaranth import *
from amaranth.lib import data

from . import isa
from .config import CoreConfig
from .isa import Opcode

__all__ = ["accept_and_check", "beyond_memory", "held"]


def held(config: CoreConfig, opcode: Opcode, payload: Value, names: tuple[str, ...]) -> tuple[data.View, list[Signal], list[Any]]:
    """The body of an instruction, the fields in it that count, and what takes them over when it is accepted.

    In a serial core the payload stays, and only what counts has registers, as narrow as addresses are.
    """
    incoming = isa.body(opcode, payload)
    if not config.serial:
        body = Signal(isa.BODIES[opcode], reset_less=True)
        return body, [body[name] for name in names], [body.eq(incoming)]
    counters = [Signal(config.word_count_bits, name=name, reset_less=True) for name in names]
    return incoming, counters, [counter.eq(incoming[name]) for name, counter in zip(names, counters, strict=True)]


def beyond_memory(config: CoreConfig, body: data.View) -> Value:
    """Whether the words in external memory are more than the core can address; others are the memory's affair."""
    return body.memory + body.words > config.memory_words if config.serial else Const(0)


def accept_and_check(m: Module, engine: Any, accept: list[Any], failed: Signal) -> None:
    """First states of an engine's state machine: an instruction is accepted in IDLE, and its checks have two cycles; CHECK comes next.

    ``accept`` : statements that take the instruction over. ``failed`` : whether it has been cancelled.
    """
    with m.State("IDLE"):
        m.d.comb += [engine.instruction.ready.eq(1), engine.start.eq(engine.instruction.valid)]
        m.d.sync += [*accept, failed.eq(engine.cancel)]
        with m.If(engine.start):
            m.next = "ADD"
    for state, following in (("ADD", "COMPARE"), ("COMPARE", "CHECK")):
        with m.State(state):
            m.d.sync += failed.eq(failed | engine.cancel)
            m.next = following
