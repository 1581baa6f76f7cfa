"""Rules that many units share, as assertions about what they do or as assumptions about what is around them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from amaranth import *
from amaranth.hdl import Assert, Assume
from amaranth.lib import wiring

from ...hw.ram import RAM_SOURCE

__all__ = ["Harness", "assume", "held", "implies", "kept", "outstanding", "rule", "stays"]


def rule(m: Module, name: str, condition: Any, kind: Callable = Assert) -> None:
    """``condition`` holds in every cycle; a failure is reported under ``name``."""
    scope = Module()
    scope.d.comb += kind(condition)
    m.submodules[name] = scope


def assume(m: Module, name: str, condition: Any) -> None:
    """Only what fulfils ``condition`` in every cycle is looked at."""
    rule(m, name, condition, Assume)


def implies(condition: Any, conclusion: Any) -> Value:
    return ~Value.cast(condition).any() | Value.cast(conclusion).any()


def stays(m: Module, name: str, valid: Any, ready: Any, payload: Any) -> Value:
    """Whether what was offered in the cycle before, and not taken, is still offered."""
    waits, before = Signal(name=f"{name}_waits"), Signal(len(Value.cast(payload)), name=f"{name}_before", reset_less=True)
    m.d.sync += [waits.eq(valid & ~ready), before.eq(payload)]
    return implies(waits, valid & (before == Value.cast(payload)))


def held(m: Module, name: str, valid: Any, ready: Any, payload: Any, kind: Callable = Assert) -> None:
    """The rule of streams and of AXI: what is offered stays offered, and the same, until it is taken."""
    rule(m, f"{name}_held", stays(m, name, valid, ready, payload), kind)


def outstanding(m: Module, name: str, more: Any, fewer: Any, limit: int) -> Signal:
    """Number of ``more`` so far, less ``fewer`` so far; before this cycle's. ``limit`` has to be proved or assumed."""
    count = Signal(range(limit + 2), name=name)
    m.d.sync += count.eq(count + more - fewer)
    return count


def kept(m: Module, name: str, value: Any) -> Signal:
    """The value of a free input in the first cycle, for ever."""
    now, before = Signal(len(value), name=name), Signal(len(value), name=f"{name}_kept", reset_less=True)
    first = Signal(init=1, name=f"{name}_first", reset_less=True)
    m.d.sync += [before.eq(now), first.eq(0)]
    m.d.comb += now.eq(Mux(first, value, before))
    return now


class Harness(wiring.Component):
    """A unit, and rules about its ports. What goes into it is free, the reset too; ``ram_source`` is the Verilog of its block memories.

    Parameters
    ----------
    unit : wiring.Component
    free : dict
        More inputs, for the rules, by name and shape.
    """

    ram_source = RAM_SOURCE

    def __init__(self, unit: Any, **free: Any):
        self.unit = unit
        self.reach = False
        self._covers: dict[str, Any] = {}
        super().__init__({**unit.signature.members, **{name: wiring.In(shape) for name, shape in free.items()}})

    def elaborate(self, platform):
        m = Module()
        m.submodules.unit = self.unit
        signature = self.unit.signature
        for (_, member, inside), (_, _, outside) in zip(signature.flatten(self.unit), signature.flatten(self), strict=True):
            m.d.comb += inside.eq(outside) if member.flow is wiring.In else outside.eq(inside)
        self.rules(m)
        seen = Signal(len(self._covers), reset_less=True)
        m.d.sync += seen.eq(seen | Cat(self._covers.values()))
        if self.reach:
            rule(m, "unseen", ~seen.all())
        return m

    def cover(self, name: str, condition: Any) -> None:
        """``condition`` can come true. With ``reach`` there is one rule, ``unseen``, which fails when all of these have, in one run."""
        self._covers[name] = condition

    def rules(self, m: Module) -> None:
        raise NotImplementedError
