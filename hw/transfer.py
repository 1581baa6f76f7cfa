"""What load and store do alike with an instruction."""

from typing import Any

from amaranth import *
from amaranth.lib import data

from . import isa
from .config import CoreConfig
from .isa import Opcode

__all__ = ["beyond_memory", "held"]


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
