"""Weight-stationary systolic array that changes its tile without a bubble."""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

from amaranth import *
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

from ..arith import delay
from ..config import CoreConfig
from ..isa import Codebook, LoadDirection, Mode
from .double_product import DoubleProduct
from .lut_product import LutProduct, short_operand
from .operand import fill, moving_operand, stationary_word
from .pe import CONTROL, Above, Left, processing_element
from .product import add, bias, product, sum_shape
from .row_sum import RowSum, row_sum_width

__all__ = ["MacArray", "MovingSignature", "StationarySignature", "array_latency"]


def array_latency(config: CoreConfig) -> int:
    """Cycles from a moving word to its first sum, ``MacArray.latency``: a register a row, and those of the operand and the product."""
    return config.lanes + 1 + _product_latency(config)


def _product_latency(config: CoreConfig) -> int:
    return DoubleProduct.latency if config.double_rate else 1


class MovingSignature(wiring.Signature):
    """One word of L bytes a cycle: ``data``, its operand ``mode``, and ``swap`` with the first word of a new tile.

    With ``config.narrow`` also ``codebook``, ``zero`` (signed(4), subtracted in mode int4), ``keep`` (a bit a byte: it counts).
    """

    def __init__(self, config: CoreConfig) -> None:
        members = {"data": Out(data.ArrayLayout(signed(8), config.lanes)), "mode": Out(Mode), "swap": Out(1)}
        if config.narrow:
            members |= {"codebook": Out(Codebook), "zero": Out(signed(4)), "keep": Out(config.lanes)}
        super().__init__(members)


class StationarySignature(wiring.Signature):
    """Words of L bytes of weights: ``valid``, ``first`` (of the L words of a tile), ``direction``, ``data``.

    With ``config.narrow`` also ``mode``, that of the rows to come.
    """

    def __init__(self, config: CoreConfig) -> None:
        members = {"valid": Out(1), "first": Out(1), "direction": Out(LoadDirection)}
        members["data"] = Out(data.ArrayLayout(signed(8), config.lanes))
        if config.narrow:
            members["mode"] = Out(Mode)
        super().__init__(members)


class MacArray(wiring.Component):
    """Products of moving words with the stationary tile: ``sums[c] = sum(operand[r] * tile[r, c] for r in range(L))``, exact.

    The operand is the moving byte, or for mode log2 ``0 if code == 15 else 1 << (14 - code)``, ``code`` being the low 4 bits of the byte.
    With ``config.double_rate`` two elements of a row share a multiplier (:class:`.double_product.DoubleProduct`).
    In the modes int4, int2 and binary a product is the dot product of 2, 4 or 8 values of two bytes (``docs/low-bit.md``).
    Everything moves as a wavefront: what the processing element (0, 0) does in cycle t, the one in row r and column c does in cycle
    t + r + c. A stationary word enters at the top edge (it is row i of the tile) or at the left edge (it is column i) and passes all
    elements; a capture token at half its speed meets word i in row (column) i, which keeps it in its shadow register.
    Nothing in the array is reset: a token that a reset left behind stays in front of all that come later, and what it captures or swaps in
    is replaced before it is used.

    Latency: ``latency`` cycles from a moving word to ``sums[0]`` and ``row_sum``, c more to ``sums[c]``. Throughput: a row a cycle and a
    tile in max(M, L) cycles for M rows: the L words of a tile come in consecutive cycles, the swap that uses it L cycles after its
    first word or later, the first word of the next tile in the cycle of this swap or later.

    Parameters
    ----------
    config : :class:`CoreConfig`

    Members
    -------
    moving : ``In(MovingSignature(L))``
    stationary : ``In(StationarySignature(L))``
    sums : ``Out(ArrayLayout(signed(config.sum_bits), L))``
    row_sum : ``Out(signed(row_sum_width(config)))``
        Sum of the values of the moving word. Only with ``config.narrow``.
    """

    moving: Any
    stationary: Any
    sums: data.View
    row_sum: Value

    def __init__(self, config: CoreConfig) -> None:
        self.config = config
        self.latency = array_latency(config)
        super().__init__(
            {
                "moving": In(MovingSignature(config)),
                "stationary": In(StationarySignature(config)),
                "sums": Out(data.ArrayLayout(signed(config.sum_bits), config.lanes)),
                **({"row_sum": Out(signed(row_sum_width(config)))} if config.narrow else {}),
            }
        )

    def multiply(self, m: Module, operand: Value, weight: Value) -> Value:
        """Product of a moving operand (signed 16 bit, 8 in a core without log2) and a weight (signed 8 bit).

        With ``config.narrow`` both have 18 bits. To be overridden for devices without such multipliers; registers before and after it
        are outside. Elements that :meth:`CoreConfig.row_multipliers` leaves out have a :class:`.lut_product.LutProduct` in its place.
        """
        return operand * weight

    def elaborate(self, platform):
        m = Module()
        lanes = self.config.lanes
        from_left = self.stationary.direction == LoadDirection.COLUMN
        first = self.stationary.valid & self.stationary.first
        operands, words_in, totals = self._moving_edge(m), self._stationary_edge(m), self._totals(m)

        above, token = [], first & from_left
        for c in range(lanes):
            above.append(Above(word=words_in[c], capture=token, total=totals[c]))
            token = delay(m, token, 2, name=f"column_token_{c}")
        token, control = first & ~from_left, Cat(self.moving.swap, from_left)
        for r in range(lanes):
            # A plain module: the elements of a row see the signals of the row above without ports in this source.
            m.submodules[f"row_{r}"] = row = Module()
            left = Left(operand=operands[r], word=words_in[r], control=CONTROL(Cat(control, token)))
            shape, multipliers = sum_shape(self.config, r), self.config.row_multipliers(r)
            products = self._products(row, multipliers)
            for c in range(lanes):
                if c == multipliers:
                    left = replace(left, operand=short_operand(left.operand))
                left, above[c] = processing_element(row, f"pe_{c}", left, above[c], products[c], self._add, shape)
            control = delay(m, control, 1, name=f"control_{r}")
            token = delay(m, token, 2, name=f"row_token_{r}")
        m.d.comb += [self.sums[c].eq(below.total) for c, below in enumerate(above)]
        return m

    def _moving_edge(self, m: Module) -> list[Any]:
        """The operands of the rows, that of row r after r registers."""
        config, moving, operands = self.config, self.moving, []
        if not config.narrow:
            is_log2 = moving.mode == Mode.LOG2
            for r, byte in enumerate(_skew(m, "moving", moving.data)):
                operands.append(_operand(byte, is_log2) if "log2" in config.modes else byte)
                is_log2 = delay(m, is_log2, 1, name=f"is_log2_{r}")
            return operands
        filled: Any = Signal(data.ArrayLayout(data.StructLayout({"byte": 8, "unit": 1}), config.lanes))
        is_unit = (moving.mode != Mode.BINARY) | (moving.codebook == Codebook.UNIT)
        for index, entry in enumerate(filled):
            keep = moving.keep[index]
            m.d.comb += [entry.byte.eq(Mux(keep, moving.data[index], fill(moving.mode, moving.zero))), entry.unit.eq(is_unit | ~keep)]
        m.submodules.row_sum = row_sum = RowSum(config)
        m.d.comb += row_sum.bytes.eq(Cat(entry.byte for entry in filled))
        for name in ("mode", "codebook", "zero", "keep"):
            m.d.comb += getattr(row_sum, name).eq(getattr(moving, name))
        m.d.comb += self.row_sum.eq(delay(m, row_sum.o, self.latency - row_sum.latency, name="row_sum"))
        settings = {name: getattr(moving, name) for name in ("mode", "codebook", "zero")}
        for r, entry in enumerate(_skew(m, "moving", filled)):
            operands.append(moving_operand(m, config, f"operand_{r}", entry.byte, entry.unit, settings))
            settings = {name: delay(m, value, 1, name=f"{name}_{r}") for name, value in settings.items()}
        return operands

    def _stationary_edge(self, m: Module) -> list[Value]:
        """The stationary words of rows and columns, that of row and column i after i registers."""
        bytes_in = _skew(m, "stationary", self.stationary.data)
        if not self.config.narrow:
            return bytes_in
        words, mode = [], self.stationary.mode
        for index, byte in enumerate(bytes_in):
            words.append(stationary_word(m, self.config, f"word_{index}", byte, mode))
            mode = delay(m, mode, 1, name=f"stationary_mode_{index}")
        return words

    def _totals(self, m: Module) -> list[Value]:
        """What the columns begin with, that of column c c cycles later."""
        if not self.config.narrow:
            return [Const(0)] * self.config.lanes
        totals = [delay(m, bias(self.config, self.moving.mode), 2, name="total")]
        for c in range(1, self.config.lanes):
            totals.append(delay(m, totals[-1], 1, name=f"total_{c}"))
        return totals

    def _products(self, m: Module, multipliers: int) -> list[Callable[[Module, str, Any, Value], Value]]:
        """How each element of a row multiplies."""
        of_multipliers = [self._product] * multipliers
        if self.config.double_rate:
            of_multipliers = []
            for index in range(multipliers // 2):
                m.submodules[f"double_{index}"] = unit = DoubleProduct(self.config.product_bits)
                of_multipliers += [partial(_double_product, unit, 0), partial(_double_product, unit, 1)]
        return of_multipliers + [self._lut_product] * (self.config.lanes - multipliers)

    def _product(self, m: Module, name: str, operand: Any, word: Value) -> Value:
        if self.config.narrow:
            return product(m, self.config, name, operand, word, self.multiply)
        register = Signal(signed(self.config.product_bits), name=f"{name}_product", reset_less=True)
        m.d.sync += register.eq(self.multiply(m, operand, word))
        return register

    def _lut_product(self, m: Module, name: str, operand: Any, word: Value) -> Value:
        m.submodules[f"{name}_lut_product"] = unit = LutProduct(self.config.product_bits, _product_latency(self.config) - 1)
        m.d.comb += [unit.operand.eq(operand), unit.weight.eq(word)]
        register = Signal.like(unit.o, name=f"{name}_product", reset_less=True)
        m.d.sync += register.eq(unit.o)
        return register

    def _add(self, above: Value, product: Value) -> Value:
        return add(above, product) if self.config.narrow else above + product


def _double_product(unit: DoubleProduct, index: int, m: Module, name: str, operand: Value, word: Value) -> Value:
    m.d.comb += [unit.operand[index].eq(operand), unit.weight[index].eq(word)]
    return unit.o[index]


def _operand(byte: Value, is_log2: Value) -> Value:
    """Signed 16-bit operand of a moving byte."""
    one_hot = Cat(byte[:4] == 14 - bit for bit in range(15))
    return Mux(is_log2, Cat(one_hot, C(0, 1)).as_signed(), byte)


def _skew(m: Module, name: str, word: data.View) -> list[Any]:
    """The elements of ``word``, element i after i registers."""
    element, lanes, skewed = word.shape().elem_shape, len(word), [word[0]]
    for cycle in range(1, lanes):
        later = Signal(data.ArrayLayout(element, lanes - cycle), name=f"{name}_{cycle}", reset_less=True)
        m.d.sync += later.eq(word.as_value()[Shape.cast(element).width :])
        word = later
        skewed.append(word[0])
    return skewed
