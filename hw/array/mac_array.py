"""Weight-stationary systolic array that changes its tile without a bubble."""

from typing import Any

from amaranth import *
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out
from amaranth.utils import ceil_log2

from ..arith import delay
from ..config import CoreConfig
from ..isa import LoadDirection, Mode
from .pe import CONTROL, Above, Left, processing_element

__all__ = ["MacArray", "MovingSignature", "StationarySignature", "array_latency"]


def array_latency(lanes: int) -> int:
    """Cycles from a moving word to its first sum, ``MacArray.latency``: a register a row, and those of the operand and the product."""
    return lanes + 2


class MovingSignature(wiring.Signature):
    """One word of L bytes a cycle: ``data``, its operand ``mode``, and ``swap`` with the first word of a new tile."""

    def __init__(self, lanes: int) -> None:
        super().__init__({"data": Out(data.ArrayLayout(signed(8), lanes)), "mode": Out(Mode), "swap": Out(1)})


class StationarySignature(wiring.Signature):
    """Words of L weights: ``valid``, ``first`` (of the L words of a tile), ``direction``, ``data``."""

    def __init__(self, lanes: int) -> None:
        super().__init__(
            {"valid": Out(1), "first": Out(1), "direction": Out(LoadDirection), "data": Out(data.ArrayLayout(signed(8), lanes))}
        )


class MacArray(wiring.Component):
    """Products of moving words with the stationary tile: ``sums[c] = sum(operand[r] * tile[r, c] for r in range(L))``, exact.

    The operand is the moving byte, or for mode log2 ``0 if code == 15 else 1 << (14 - code)``, ``code`` being the low 4 bits of the byte.
    Everything moves as a wavefront: what the processing element (0, 0) does in cycle t, the one in row r and column c does in cycle
    t + r + c. A stationary word enters at the top edge (it is row i of the tile) or at the left edge (it is column i) and passes all
    elements; a capture token at half its speed meets word i in row (column) i, which keeps it in its shadow register.

    Latency: ``latency(L)`` cycles from a moving word to ``sums[0]``, c more to ``sums[c]``. Throughput: a row a cycle and a tile in
    max(M, L) cycles for M rows: the L words of a tile come in consecutive cycles, the swap that uses it L cycles after its first word
    or later, the first word of the next tile in the cycle of this swap or later.

    Parameters
    ----------
    config : :class:`CoreConfig`

    Members
    -------
    moving : ``In(MovingSignature(L))``
    stationary : ``In(StationarySignature(L))``
    sums : ``Out(ArrayLayout(signed(config.sum_bits), L))``
    """

    moving: Any
    stationary: Any
    sums: data.View

    def __init__(self, config: CoreConfig) -> None:
        self.config = config
        self.latency = array_latency(config.lanes)
        super().__init__(
            {
                "moving": In(MovingSignature(config.lanes)),
                "stationary": In(StationarySignature(config.lanes)),
                "sums": Out(data.ArrayLayout(signed(config.sum_bits), config.lanes)),
            }
        )

    def multiply(self, m: Module, operand: Value, weight: Value) -> Value:
        """Product of a moving operand (signed 16 bit, 8 in a core without log2) and a weight (signed 8 bit).

        To be overridden for devices without such multipliers; registers before and after it are outside.
        """
        return operand * weight

    def elaborate(self, platform):
        m = Module()
        lanes, log2 = self.config.lanes, "log2" in self.config.modes
        product_bits = 22 if log2 else 16
        shapes = signed(product_bits), signed(product_bits + ceil_log2(lanes))
        is_log2, from_left = self.moving.mode == Mode.LOG2, self.stationary.direction == LoadDirection.COLUMN
        first = self.stationary.valid & self.stationary.first
        bytes_in = _skew(m, "moving", self.moving.data)
        words_in = _skew(m, "stationary", self.stationary.data)

        above, token = [], first & from_left
        for c in range(lanes):
            above.append(Above(word=words_in[c], capture=token, total=Const(0)))
            token = delay(m, token, 2, name=f"column_token_{c}", reset_less=False)
        token, control = first & ~from_left, Cat(self.moving.swap, from_left)
        for r in range(lanes):
            # A plain module: the elements of a row see the signals of the row above without ports in this source.
            m.submodules[f"row_{r}"] = row = Module()
            operand = _operand(bytes_in[r], is_log2) if log2 else bytes_in[r]
            left = Left(operand=operand, word=words_in[r], control=CONTROL(Cat(control, token)))
            for c in range(lanes):
                left, above[c] = processing_element(row, f"pe_{c}", left, above[c], self.multiply, *shapes)
            is_log2 = delay(m, is_log2, 1, name=f"is_log2_{r}")
            control = delay(m, control, 1, name=f"control_{r}", reset_less=False)
            token = delay(m, token, 2, name=f"row_token_{r}", reset_less=False)
        m.d.comb += [self.sums[c].eq(below.total) for c, below in enumerate(above)]
        return m


def _operand(byte: Value, is_log2: Value) -> Value:
    """Signed 16-bit operand of a moving byte."""
    one_hot = Cat(byte[:4] == 14 - bit for bit in range(15))
    return Mux(is_log2, Cat(one_hot, C(0, 1)).as_signed(), byte)


def _skew(m: Module, name: str, word: data.View) -> list[Value]:
    """The bytes of ``word``, byte i after i registers."""
    skewed, lanes = [word[0]], len(word)
    for cycle in range(1, lanes):
        later = Signal(data.ArrayLayout(signed(8), lanes - cycle), name=f"{name}_{cycle}", reset_less=True)
        m.d.sync += later.eq(word.as_value()[8:])
        word = later
        skewed.append(word[0])
    return skewed
