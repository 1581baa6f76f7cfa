"""Pipelines that the row units share: reduction of a row, normalisation, variable shift.

Each function adds its registers to the caller's module, under the caller's conditions: a whole unit stops with one ``m.If``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from amaranth import Cat, Module, Mux, Shape, Signal, Value
from amaranth.hdl import ValueLike
from amaranth.utils import ceil_log2

from ..arith import delay

__all__ = ["SHIFT_LATENCY", "normalize", "normalize_latency", "reduce_latency", "reduce_row", "register", "shift_right"]

#: Cycles of :func:`shift_right`.
SHIFT_LATENCY = 2


def register(m: Module, value: ValueLike, name: str) -> Signal:
    """``value`` a cycle later, in its own shape."""
    value = Value.cast(value)
    stored = Signal(value.shape(), name=name, reset_less=True)
    m.d.sync += stored.eq(value)
    return stored


def reduce_latency(lanes: int) -> int:
    """Cycles of :func:`reduce_row` from a row's last word to its result."""
    return ceil_log2(lanes) + 1


def reduce_row(
    m: Module, operation: Callable[[Value, Value], Value], lanes: Sequence[Value], *, shape: Shape, valid: Value, last: Value, name: str
) -> Signal:
    """``operation`` over all lanes of all words of a row, in a tree with a register a level and then over the words.

    The result of a row is there :func:`reduce_latency` cycles after its last word, and only there. Rows may follow without a gap.
    """
    level, depth = list(lanes), 0
    while len(level) > 1:
        pairs = [operation(a, b) for a, b in zip(level[::2], level[1::2], strict=False)]
        level = [register(m, value, f"{name}_{depth}_{index}") for index, value in enumerate([*pairs, *level[2 * len(pairs) :]])]
        depth += 1
    valid = delay(m, valid, depth, name=f"{name}_valid", reset_less=False)
    last = delay(m, last, depth, name=f"{name}_last")
    result = Signal(shape, name=name, reset_less=True)
    first = Signal(name=f"{name}_first", init=1)
    with m.If(valid):
        m.d.sync += [first.eq(last), result.eq(Mux(first, level[0], operation(result, level[0])))]
    return result


def normalize_latency(bits: int) -> int:
    """Cycles of :func:`normalize` for a value of ``bits`` bits."""
    return ceil_log2(bits)


def normalize(m: Module, value: Value, *, name: str) -> tuple[Value, Value]:
    """A positive ``value`` shifted left until its highest bit is set, and by how many bits: a binary search, a register a step."""
    zeros: list[Value] = []
    for step in reversed(range(normalize_latency(len(value)))):
        empty = ~value[-(1 << step) :].any()
        zeros = [register(m, bit, f"{name}_zeros_{step}") for bit in [empty, *zeros]]
        value = register(m, Mux(empty, value.shift_left(1 << step)[: len(value)], value), f"{name}_{step}")
    return value, Cat(zeros)


def shift_right(m: Module, value: Value, amount: Value, *, name: str) -> Signal:
    """``value >> amount`` in :data:`SHIFT_LATENCY` cycles: first by the upper half of the bits of ``amount``, then by the lower."""
    half = len(amount) // 2
    coarse = Signal(value.shape(), name=f"{name}_coarse", reset_less=True)
    with m.Switch(amount[half:]):
        for index in range(1 << len(amount) - half):
            with m.Case(index):
                m.d.sync += coarse.eq(value.shift_right(index << half))
    return register(m, coarse >> register(m, amount[:half], f"{name}_fine"), name)
