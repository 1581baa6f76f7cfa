"""Processing elements without a multiplier of the device."""

from pathlib import Path
from typing import Any

from amaranth import *
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

from ..arith import delay
from ..sources import add_source

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

    Latency: ``latency`` cycles. Throughput: a product a cycle.

    Parameters
    ----------
    bits : int
        Of the product: 16, or more for operands with ``high``.
    latency : int
        0, or 1 for registers between the carry chains.

    Members
    -------
    operand : ``In(SHORT_OPERAND)``
    weight : ``In(signed(8))``
    o : ``Out(signed(bits))``
    """

    operand: Any
    weight: Value
    o: Value

    def __init__(self, bits: int, latency: int = 0) -> None:
        self.latency = latency
        super().__init__({"operand": In(SHORT_OPERAND), "weight": In(signed(8)), "o": Out(signed(bits))})

    def elaborate(self, platform):
        m = Module()
        add_source(platform, LUT_PRODUCT_SOURCE)
        product = Signal(signed(16))
        m.submodules.product = Instance(
            "vitloom_lut_product",
            p_STAGES=self.latency,
            i_clk=ClockSignal(),
            i_x=Value.cast(self.operand.value),
            i_w=self.weight,
            o_product=product,
        )
        high = delay(m, self.operand.high, self.latency, name="high")
        m.d.comb += self.o.eq(Mux(high, product.shift_left(_SHIFT), product))
        return m
