"""A reset register for each large unit."""

from __future__ import annotations

from typing import Any

from amaranth import *
from amaranth.hdl import ValueLike

__all__ = ["own_reset"]


def own_reset(m: Module, name: str, unit: Any, *, clearing: ValueLike = 0) -> Any:
    """``unit`` in a clock domain whose reset is a register: it follows the reset of ``sync``, or ``clearing``, a cycle later.

    One reset for all units would have to cross the chip to a thousand flip-flops in a cycle.
    """
    domain, reset = ClockDomain(f"{name}_unit", local=True), Signal(init=1, name=f"reset_{name}")
    m.domains += domain
    m.d.sync += reset.eq(clearing)
    m.d.comb += [domain.clk.eq(ClockSignal()), domain.rst.eq(reset)]
    return DomainRenamer(domain.name)(unit)
