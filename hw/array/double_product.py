"""Two processing elements that share a multiplier of the device, which works at twice the rate of the core's clock."""

from pathlib import Path

from amaranth import *
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

from ..sources import add_source

__all__ = ["DOUBLE_DOMAIN", "DOUBLE_PRODUCT_SOURCE", "DoubleProduct"]

#: Verilog of the modules that :class:`DoubleProduct` instantiates.
DOUBLE_PRODUCT_SOURCE = Path(__file__).parents[1] / "double_product.v"
#: Clock domain of the multipliers: two cycles in one of ``sync``, and a rising edge at each of its edges.
DOUBLE_DOMAIN = "double"


class DoubleProduct(wiring.Component):
    """Products of two pairs of a moving operand and a weight in a cycle, from one multiplier.

    An instance of the Verilog module ``vitloom_double_product``, which on an ECP5 is a multiplier block with its own registers; elsewhere
    it is two multipliers, of the same latency, and the clock of :data:`DOUBLE_DOMAIN` is not used.

    Latency: ``latency`` cycles. Throughput: both products in each cycle.

    Parameters
    ----------
    bits : int
        Of a product: 16 of two bytes, 22 of a power of two and a byte.

    Members
    -------
    operand : ``In(ArrayLayout(signed(16), 2))``
    weight : ``In(ArrayLayout(signed(8), 2))``
    o : ``Out(ArrayLayout(signed(bits), 2))``
    """

    latency = 2

    def __init__(self, bits: int) -> None:
        self.bits = bits
        operands = {"operand": In(data.ArrayLayout(signed(16), 2)), "weight": In(data.ArrayLayout(signed(8), 2))}
        super().__init__(operands | {"o": Out(data.ArrayLayout(signed(bits), 2))})

    def elaborate(self, platform):
        m = Module()
        add_source(platform, DOUBLE_PRODUCT_SOURCE)
        m.submodules.product = Instance(
            "vitloom_double_product",
            p_BITS=self.bits,
            i_clk=ClockSignal(),
            i_clk_double=ClockSignal(DOUBLE_DOMAIN),
            **{f"i_x_{index}": self.operand[index] for index in range(2)},
            **{f"i_w_{index}": self.weight[index] for index in range(2)},
            **{f"o_product_{index}": self.o[index] for index in range(2)},
        )
        return m
