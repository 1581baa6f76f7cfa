"""What a processing element multiplies and adds in cores with operands of less than 8 bits."""

from __future__ import annotations

from collections.abc import Callable

from amaranth import Array, Cat, Const, Module, Mux, Signal, Value, signed, unsigned
from amaranth.hdl import ShapeLike
from amaranth.lib import data
from amaranth.utils import ceil_log2

from ..config import CoreConfig
from ..isa import Mode
from .operand import INT2_SPACING, UNIT_BIT, multiplies, weight

__all__ = ["add", "bias", "popcount", "product", "sum_shape"]

#: What a product of int4, int2 has too much, so that it is never negative.
_BIAS = {"int4": 256, "int2": 16}


def popcount(m: Module, name: str, bits: Value) -> Value:
    """Number of ones of 8 bits, in 4 bits: two nibbles by table, and their sum in LUTs and not in a carry chain."""
    low, high = (Signal(3, name=f"{name}_{part}") for part in ("low", "high"))
    for nibble, count in ((bits[:4], low), (bits[4:], high)):
        m.d.comb += count.eq(Array(Const(number.bit_count(), 3) for number in range(16))[nibble])
    carry = Signal(name=f"{name}_carry")
    m.d.comb += carry.eq(low[1] & high[1] | (low[1] | high[1]) & low[0] & high[0])
    # Both are at most 4: two carries never meet.
    return Cat(low[0] ^ high[0], low[1] ^ high[1] ^ (low[0] & high[0]), low[2] ^ high[2] ^ carry, low[2] & high[2])


def bias(config: CoreConfig, mode: Value) -> Value:
    """What a column begins with in that mode, so that the bias of its products does not count."""
    total: Value = Const(0, 1)
    for name, value in _BIAS.items():
        if name in config.modes:
            total = total | Mux(mode == Mode[name.upper()], -value * config.lanes, 0)
    return total


def sum_shape(config: CoreConfig, row: int) -> ShapeLike:
    """Of a partial sum below ``row``."""
    if not config.narrow:
        return signed(config.sum_bits)
    rows = row + 1
    if config.modes == ("binary",):
        return unsigned((16 * rows).bit_length())
    if set(config.modes) & {"int8", "log2"}:
        return signed(config.product_bits + ceil_log2(rows))
    return signed(config.sum_bits)


def product(
    m: Module, config: CoreConfig, name: str, operand: data.View, active: Value, multiply: Callable[[Module, Value, Value], Value]
) -> Value:
    """From registers: the product and its bias, and below them, as bit 0, what makes the product exact when it is added too.

    The middle term of the product of two polynomials, the dot product of their digits, is cut out of the whole product. The terms below
    it are less than 1/2 of its unit, so that it is 1 too small where their sum is negative, and the bit is their sign.
    """
    count: Value = Const(0, 4)
    if "binary" in config.modes:
        weights = weight(active)[10:] if multiplies(config) else active
        matches = Signal(8, name=f"{name}_matches")
        m.d.comb += matches.eq(Cat(Mux(w, bit, ~(bit | operand.unit)) for w, bit in zip(weights, operand.bits, strict=True)))
        count = popcount(m, name, matches)
    if not multiplies(config):
        register = Signal(4, name=f"{name}_count", reset_less=True)
        m.d.sync += register.eq(count)
        return Cat(Const(0, 2), register)

    whole = Signal(signed(36), name=f"{name}_whole")
    low, high, counted = (Signal(width, name=f"{name}_{part}", reset_less=True) for part, width in (("low", 9), ("high", 3), ("count", 4)))
    wide = Signal(max(config.product_bits - 9, 0), name=f"{name}_wide", reset_less=True)
    int4, int2 = (Signal(name=f"{name}_{flag}", reset_less=True) for flag in ("int4", "int2"))
    m.d.comb += whole.eq(multiply(m, operand.value, weight(active)))
    m.d.sync += [counted.eq(count), int4.eq(operand.int4), int2.eq(operand.int2)]
    m.d.sync += Cat(low, wide).eq(Cat(whole[UNIT_BIT - 1 : UNIT_BIT + 8], whole[UNIT_BIT + 9 :]))
    m.d.sync += high.eq(whole[UNIT_BIT + 6 : UNIT_BIT + 9])
    # A reset of the register costs no LUT.
    with m.If(operand.low):
        m.d.sync += high.eq(0)
    with m.If(operand.narrow):
        m.d.sync += wide.eq(0)
    # Of int2 5 bits tell -9 .. 16 apart; with the bias they are 7 .. 32.
    of_int2 = low[3 * INT2_SPACING - UNIT_BIT + 1 :]
    of_int2 = Cat(of_int2[:4], ~of_int2[4], of_int2[4] & ~of_int2[3] & ~of_int2[2])
    borrow = Mux(int2, low[3 * INT2_SPACING - UNIT_BIT], low[0])
    bits = Cat(borrow, Mux(int2, of_int2, low[1:7]) | Cat(Const(0, 1), counted), high[:2], high[2] ^ int4, wide)[: 1 + config.product_bits]
    return bits.as_signed() if len(wide) else bits


def add(above: Value, product: Value) -> Value:
    """The partial sum with a :func:`product`."""
    carried = Cat(Const(1, 1), above)
    return ((carried.as_signed() if above.shape().signed else carried) + product).shift_right(1)
