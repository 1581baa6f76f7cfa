"""Sums of the moving rows, for zero points of the stationary operand."""

from typing import Any

from amaranth import *
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out
from amaranth.utils import ceil_log2

from ..arith import delay, tree_sum
from ..config import CoreConfig
from ..isa import Codebook, Mode
from .product import popcount

__all__ = ["RowSum", "row_sum_width"]


def row_sum_width(config: CoreConfig) -> int:
    """Signed bits of the sum of a moving word: L pairs of -15..15."""
    return ceil_log2(config.lanes) + 6


class RowSum(wiring.Component):
    """Adds the values of a moving word: those of its bytes that are kept, in the modes int4, int2 and binary; 0 in the others.

    Each bit of the bytes is counted over the word, and the counts are added with the weights that the mode gives them. A sign bit counts
    where it is 0 (``-8 b = 8 (1 - b) - 8``), so that all weights are positive.

    Latency: ``latency`` cycles. Throughput: a word a cycle.

    Parameters
    ----------
    config : CoreConfig

    Members
    -------
    bytes : ``In(8 * L)``
        Of the bytes left out, int4 has ``zero`` twice and the other modes have 0.
    mode : ``In(Mode)``
    codebook : ``In(Codebook)``
    zero : ``In(signed(4))``
    keep : ``In(L)``
    o : ``Out(signed(row_sum_width(config)))``
    """

    bytes: Value
    mode: Any
    codebook: Any
    zero: Value
    keep: Value
    o: Value

    latency = 4

    def __init__(self, config: CoreConfig) -> None:
        self.config = config
        super().__init__(
            {
                "bytes": In(8 * config.lanes),
                "mode": In(Mode),
                "codebook": In(Codebook),
                "zero": In(signed(4)),
                "keep": In(config.lanes),
                "o": Out(signed(row_sum_width(config))),
            }
        )

    def elaborate(self, platform):
        m = Module()
        lanes, modes = self.config.lanes, self.config.modes
        int4, int2, binary = (self.mode == Mode[name] if name.lower() in modes else Const(0) for name in ("INT4", "INT2", "BINARY"))
        signs = Cat(Const(0), int2, Const(0), int4 | int2).replicate(2)

        def stage(name: str, value: Value) -> Value:
            register = Signal(value.shape(), name=name, reset_less=True)
            m.d.sync += register.eq(value)
            return register

        counts = []
        for bit in range(4):
            planes = Signal(2 * lanes, name=f"planes_{bit}")
            m.d.comb += planes.eq(Cat(self.bytes[8 * byte + bit + high] ^ signs[bit] for high in (0, 4) for byte in range(lanes)))
            parts = [stage(f"count_{bit}_{low}", popcount(m, f"ones_{bit}_{low}", planes[low : low + 8])) for low in range(0, 2 * lanes, 8)]
            counts.append(stage(f"count_{bit}", tree_sum(parts)))
        kept = [stage(f"kept_{low}", popcount(m, f"keep_{low}", self.keep[low : low + 8])) for low in range(0, lanes, 8)]
        kept = stage("kept", tree_sum(kept))
        int4_q, int2_q, binary_q = (delay(m, flag, 2, name=name) for flag, name in ((int4, "int4"), (int2, "int2"), (binary, "binary")))
        signed_q = delay(m, binary & (self.codebook == Codebook.SIGNED), 2, name="signed")
        zero_q = delay(m, self.zero, 2, name="zero")

        # Bits 0 and 2, bits 1 and 3; what all bytes together have too much.
        highs = [Mux(int4_q, count << 2, count) for count in counts[2:]]
        even, odd = (stage(name, low + high) for name, low, high in zip(("even", "odd"), counts[:2], highs, strict=True))
        offset = Mux(int4_q, (zero_q + 8) << 1 + ceil_log2(lanes), Mux(int2_q, 8 * lanes, Mux(signed_q, kept << 3, 0)))
        offset = stage("offset", offset)
        double_odd, double = (delay(m, flag, 1, name=name) for flag, name in ((~binary_q, "double_odd"), (signed_q, "double")))
        active = delay(m, int4_q | int2_q | binary_q, 1, name="active")
        total = even + Mux(double_odd, odd << 1, odd)
        m.d.sync += self.o.eq(Mux(active, Mux(double, total << 1, total) - offset, 0))
        return m
