"""Operands of the array in cores with modes of less than 8 bits, as one multiplier takes them."""

from __future__ import annotations

from collections.abc import Sequence

from amaranth import Array, Cat, Const, Module, Mux, Signal, Value, signed
from amaranth.lib import data

from ..config import NARROW, CoreConfig
from ..isa import Codebook, Mode

__all__ = ["INT2_SPACING", "UNIT_BIT", "WORD_BITS", "fill", "moving_layout", "moving_operand", "multiplies", "stationary_word", "weight"]

#: Where the product of two bytes, and the middle term of two polynomials in mode int4, has its bit 0. int2 has it at 3 * INT2_SPACING.
UNIT_BIT = 12
INT2_SPACING = 5
_MOVING_SHIFT, _STATIONARY_SHIFT = 2, 10
#: Bits of a weight as the multiplier takes it that differ in some mode: (bit of the stationary word for each of 18 bits).
_WORD = (0, 1, 2, 3, 3, 4, 5, 6, 6, 6, *range(7, 15))
WORD_BITS = 15


def multiplies(config: CoreConfig) -> bool:
    """Whether the array has multipliers."""
    return config.modes != ("binary",)


def moving_layout(config: CoreConfig) -> data.StructLayout:
    """A decoded moving byte.

    ``value``: what is multiplied; ``bits`` and ``unit``: of mode binary, as in :func:`..product.product`, in other modes 0 and 1;
    ``narrow``: the mode is int4, int2 or binary; ``low``: int2 or binary; ``int4``, ``int2``.
    """
    multiplier = {"value": signed(18), "narrow": 1, "low": 1, "int4": 1, "int2": 1} if multiplies(config) else {}
    return data.StructLayout(multiplier | ({"bits": 8, "unit": 1} if "binary" in config.modes else {}))


def fill(mode: Value, zero: Value) -> Value:
    """A byte that counts as zero in that mode (in mode binary together with ``unit``)."""
    return Mux(mode == Mode.INT4, Cat(zero, zero), Mux(mode == Mode.LOG2, 15, 0))


def moving_operand(m: Module, config: CoreConfig, name: str, byte: Value, unit: Value, settings: dict[str, Value]) -> data.View:
    """The byte as :func:`moving_layout` has it, for ``mode``, ``codebook`` and ``zero`` of ``settings``.

    ``unit`` is 1 in modes other than binary, with codebook UNIT and for a byte left out.
    """
    operand = Signal(moving_layout(config), name=name)
    mode, zero = settings["mode"], settings["zero"]
    if "binary" in config.modes:
        m.d.comb += operand.unit.eq(unit)
        with m.If(mode == Mode.BINARY):
            m.d.comb += operand.bits.eq(byte)
    if not multiplies(config):
        return operand
    for flag, names in (("narrow", NARROW), ("low", ("int2", "binary")), ("int4", ("int4",)), ("int2", ("int2",))):
        m.d.comb += operand[flag].eq(Cat(mode == Mode[name.upper()] for name in names if name in config.modes).any())
    code = byte[:4]
    roots = Array([Const(round(2 ** (14 - c / 2)), 15) for c in range(15)] + [Const(0, 15)])[code]
    power = Mux(settings["codebook"] == Codebook.UNIT, roots, Cat(code == 14 - bit for bit in range(15)))
    values = {"int8": byte.as_signed().shift_left(_MOVING_SHIFT), "log2": power.shift_left(_MOVING_SHIFT)}
    if "int4" in config.modes:
        digits = [byte[low : low + 4].as_signed() - zero for low in (0, 4)]
        values["int4"] = _polynomial(m, f"{name}_int4", digits, UNIT_BIT)
    if "int2" in config.modes:
        values["int2"] = _polynomial(m, f"{name}_int2", [byte[low : low + 2].as_signed() for low in (0, 2, 4, 6)], INT2_SPACING)
    _select(m, config, mode, values, operand.value)
    return operand


def stationary_word(m: Module, config: CoreConfig, name: str, byte: Value, mode: Value) -> Value:
    """The byte with its parts where :func:`weight` finds them, in mode int4, int2 in the other order than those of a moving byte."""
    if not multiplies(config):
        return byte
    values: dict[str, Value] = dict.fromkeys(("int8", "log2", "binary"), byte.as_signed().shift_left(_STATIONARY_SHIFT))
    if "int4" in config.modes:
        values["int4"] = _polynomial(m, f"{name}_int4", [byte[low : low + 4].as_signed() for low in (4, 0)], UNIT_BIT)
    if "int2" in config.modes:
        values["int2"] = _polynomial(m, f"{name}_int2", [byte[low : low + 2].as_signed() for low in (6, 4, 2, 0)], INT2_SPACING)
    bits = Signal(signed(18), name=f"{name}_bits")
    word = Signal(WORD_BITS, name=name)
    _select(m, config, mode, values, bits)
    m.d.comb += word.eq(Cat(bits[_WORD.index(bit)] for bit in range(WORD_BITS)))
    return word


def weight(word: Value) -> Value:
    """The 18-bit weight of a stationary word."""
    return Cat(word[bit] for bit in _WORD).as_signed()


def _select(m: Module, config: CoreConfig, mode: Value, values: dict[str, Value], target: Value) -> None:
    """Set ``target`` to the value of the mode."""
    with m.Switch(mode):
        for name, value in values.items():
            if name in config.modes:
                with m.Case(Mode[name.upper()]):
                    m.d.comb += target.eq(value)


def _polynomial(m: Module, name: str, digits: Sequence[Value], spacing: int) -> Value:
    """``sum(digit << spacing * i)`` of signed digits: each lowers the next one by 1 if it is negative. In LUTs."""
    parts: list[Value] = []
    borrow: Value = Const(0)
    for index, digit in enumerate(digits):
        width = len(digits[0]) + 1 if index == len(digits) - 1 else spacing
        value = Signal(signed(len(digit) + 1), name=f"{name}_digit_{index}")
        part = Signal(signed(width), name=f"{name}_{index}")
        m.d.comb += value.eq(digit)
        # A borrow passes the bits that are 0.
        borrows = [borrow & ~value[:bit].any() if bit else borrow for bit in range(len(value))]
        m.d.comb += part.eq((value.as_unsigned() ^ Cat(borrows)).as_signed())
        parts.append(part)
        borrow = part[-1]
    return Cat(*parts).as_signed()
