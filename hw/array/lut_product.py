"""Processing elements without a multiplier of the device."""

from pathlib import Path
from typing import Any

from amaranth import *
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

__all__ = ["LUT_PRODUCT_SOURCE", "SHORT_OPERAND", "LutProduct", "short_operand"]

#: Verilog of the module that :class:`LutProduct` instantiates.
LUT_PRODUCT_SOURCE = Path(__file__).parents[1] / "lut_product.v"
#: A moving operand as these elements take it: ``value << 8 * high``. A value is -128..128.
SHORT_OPERAND = data.StructLayout({"value": signed(9), "high": 1})
_SHIFT = 8


def short_operand(operand: Value) -> data.View:
    """A moving operand, int8 in 16 bits or 8, or a power of two up to ``2**14``, as :data:`SHORT_OPERAND`."""
    low, negative = operand[:_SHIFT], operand[-1]
    if len(operand) == _SHIFT:
        return SHORT_OPERAND(Cat(low, negative, Const(0, 1)))
    high = operand[_SHIFT:-1]
    return SHORT_OPERAND(Cat(Mux(negative, low, low | high), negative, ~negative & high.any()))


class LutProduct(wiring.Component):
    """Product of a moving operand and a weight, in carry chains and LUTs.

    An instance of the Verilog module ``vitloom_lut_product``, because as Verilog it can have cells of a device in it.

    Latency: 0 cycles.

    Parameters
    ----------
    bits : int
        Of the product: 16, or more for operands with ``high``.

    Members
    -------
    operand : ``In(SHORT_OPERAND)``
    weight : ``In(signed(8))``
    o : ``Out(signed(bits))``
    """

    operand: Any
    weight: Value
    o: Value

    def __init__(self, bits: int) -> None:
        super().__init__({"operand": In(SHORT_OPERAND), "weight": In(signed(8)), "o": Out(signed(bits))})

    def elaborate(self, platform):
        m = Module()
        if platform is not None and LUT_PRODUCT_SOURCE.name not in platform.extra_files:
            is_ecp5 = getattr(platform, "family", "") == "ecp5"
            platform.add_file(LUT_PRODUCT_SOURCE.name, "`define VITLOOM_ECP5\n" * is_ecp5 + LUT_PRODUCT_SOURCE.read_text())
        product = Signal(signed(16))
        m.submodules.product = Instance("vitloom_lut_product", i_x=Value.cast(self.operand.value), i_w=self.weight, o_product=product)
        m.d.comb += self.o.eq(Mux(self.operand.high, product.shift_left(_SHIFT), product))
        return m
