"""A reset register for each large unit."""

from __future__ import annotations

from typing import Any

from amaranth import *

__all__ = ["own_reset"]


def own_reset(m: Module, name: str, unit: Any, reset: Value) -> Any:
    """``unit`` in a clock domain of its own, with the clock of ``sync``.

    ``reset`` : a register (:func:`.arith.copies` makes several) that is set a cycle after the reset of ``sync``. One reset for all units
    would have to cross the chip to a thousand flip-flops in a cycle.
    """
    domain = ClockDomain(f"{name}_unit", local=True)
    m.domains += domain
    m.d.comb += [domain.clk.eq(ClockSignal()), domain.rst.eq(reset)]
    return DomainRenamer(domain.name)(unit)
