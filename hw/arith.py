"""Small functions on Amaranth values: trees, rounding, saturation, register chains; the twins of ``model/arith.py``."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from amaranth import Array, Const, Module, Mux, Signal, Value, signed
from amaranth.hdl import ValueLike
from amaranth.utils import ceil_log2

__all__ = ["copies", "delay", "leading_one", "narrow", "round_shift", "saturate", "tree_max", "tree_sum"]


def _tree(values: Iterable[ValueLike], combine: Callable[[Value, Value], Value]) -> Value:
    level = [Value.cast(value) for value in values]
    if not level:
        raise ValueError("a tree needs at least 1 value, not 0")
    while len(level) > 1:
        pairs = [combine(a, b) for a, b in zip(level[::2], level[1::2], strict=False)]
        level = [*pairs, *level[2 * len(pairs) :]]
    return level[0]


def tree_sum(values: Iterable[ValueLike]) -> Value:
    """Exact sum as a balanced tree: ``ceil_log2(n)`` bits wider than the widest value, where ``sum`` grows by n - 1 bits."""
    return _tree(values, lambda a, b: a + b)


def tree_max(values: Iterable[ValueLike]) -> Value:
    """Largest value, as a balanced tree of comparisons."""
    return _tree(values, lambda a, b: Mux(a > b, a, b))


def saturate(value: ValueLike, bits: int) -> Value:
    """``value`` clipped to the range of a signed integer of ``bits`` bits: signed(bits)."""
    value = Value.cast(value)
    if not value.shape().signed:
        value = value.as_unsigned() + Const(0, signed(1))
    if len(value) <= bits:
        return (value + Const(0, signed(bits)))[:bits].as_signed()
    sign, top = value[-1], value[bits - 1 : -1]
    low, high = Const(-(1 << bits - 1), signed(bits)), Const((1 << bits - 1) - 1, signed(bits))
    return Mux(sign, Mux(top.all(), value[:bits].as_signed(), low), Mux(top.any(), high, value[:bits].as_signed()))


def narrow(value: ValueLike, packing: ValueLike) -> Value:
    """A signed value in the low ``8 >> packing`` bits: for 0 as it is, then clipped to -8..7, to -2..1, and as the bit ``value >= 0``."""
    value = Value.cast(value)
    return Array([value, saturate(value, 4), saturate(value, 2), value >= 0])[Value.cast(packing)]


def round_shift(value: ValueLike, shift: int) -> Value:
    """``value / 2**shift`` rounded to the nearest integer, ties to +infinity, for a constant shift; 0 is the identity. Error at most 1/2.

    One bit wider than ``value.shift_right(shift)``, so it cannot overflow.
    """
    value = Value.cast(value)
    if shift < 0:
        raise ValueError(f"a shift must be at least 0, not {shift}")
    if shift == 0:
        return value
    # floor((v + half) / 2**s) = floor(v / 2**(s-1)) + 1, halved: the bits below cannot make a carry.
    return (value.shift_right(shift - 1) + 1).shift_right(1)


def leading_one(value: ValueLike) -> Value:
    """Position of the most significant one, ``floor(log2 value)``, in ``ceil_log2(len(value))`` bits; 0 for 0. Logarithmic depth."""
    value = Value.cast(value).as_unsigned()
    if len(value) <= 1:
        return Const(0, 1)
    low_bits = 1 << ceil_log2(len(value)) - 1
    low, high = value[:low_bits], value[low_bits:]
    found = high.any()
    position = Mux(found, leading_one(high), leading_one(low))
    return (found.shift_left(low_bits.bit_length() - 1) | position)[: ceil_log2(len(value))]


def copies(m: Module, value: Value, count: int, *, name: str) -> list[Value]:
    """``value`` a cycle later, from ``count`` registers without a reset, at most four, each for a part of what it leads to.

    Synthesis makes one of equal registers, so these differ in sign and in initial value; until the first edge their values mean nothing.
    """
    if count > 4:
        raise ValueError(f"there can be 4 copies, not {count}")
    made = []
    for index in range(count):
        inverted, init = index & 1, -(index >> 1)
        register = Signal(len(value), name=f"{name}_{index}", reset_less=True, init=init & (1 << len(value)) - 1)
        m.d.sync += register.eq(~value if inverted else value)
        made.append(~register if inverted else register)
    return made


def delay(m: Module, value: Any, cycles: int, *, name: str, reset_less: bool = True) -> Any:
    """``value`` after ``cycles`` registers ``name_1``, ``name_2``, …, of the same shape or layout; ``value`` itself for 0.

    Registers on data paths stay ``reset_less``; pass False for a valid bit.
    """
    for cycle in range(1, cycles + 1):
        register = Signal.like(value, name=f"{name}_{cycle}", reset_less=reset_less, init=0 if isinstance(value, Value) else None)
        m.d.sync += register.eq(value)
        value = register
    return value
