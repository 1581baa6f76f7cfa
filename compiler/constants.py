"""The parameters of a network as bytes of external memory, in the order in which the core loads them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from functools import cached_property, partial

import numpy as np
from amaranth import Shape
from amaranth.lib import data
from numpy.typing import NDArray

from ..hw import isa
from ..hw.load_targets import table_words
from ..model.network import (
    AttentionScores,
    AttentionValues,
    AveragePool,
    Codes,
    Form,
    IntegerNetwork,
    LayerNorm,
    Linear,
    LogSoftmax,
    Operator,
)
from ..model.packing import pack_values
from .layout import Layout, ceil_div, layouts
from .operands import moving_operand, padding_value

__all__ = ["MemoryImage", "code_tables", "pack_norm_constants", "pack_records", "pack_weights", "weight_words"]

#: Shift of padding channels: with multiplier 0 any residual vanishes.
PADDING_SHIFT = 32
NORM_FRACTION = 10
#: Words of a piece of memory, and what packs its bytes (padding of the last word left out).
_Part = tuple[int, Callable[[], bytes]]


def pack_records(layout: data.StructLayout, size: int, **fields: NDArray) -> NDArray[np.uint8]:
    """Records (n, size) uint8 of ``layout``, little-endian; each field is an integer array (n,)."""
    words = np.zeros(len(next(iter(fields.values()))), np.uint64)
    for name, values in fields.items():
        field = layout[name]
        width = Shape.cast(field.shape).width
        bits = values.astype(np.int64).view(np.uint64) & np.uint64((1 << width) - 1)
        words |= bits << np.uint64(field.offset)
    return words[:, None].view(np.uint8)[:, :size]


def pack_weights(weight: NDArray[np.int8], source: Layout, target: Layout, bits: int = 8) -> bytes:
    """Stationary tiles of ``weight`` (N, K) int8 of ``bits`` bits: by n tile, words of 8 / bits consecutive k for L outputs."""
    fill = _padding_weight(bits)
    padded = target.spread(source.spread_operand(weight, fill).T, fill).T
    coded = np.where(padded > 0, 1, -1).astype(np.int8) if bits == 1 else np.ascontiguousarray(padded)
    packed = pack_values(coded, bits)
    return np.ascontiguousarray(packed.reshape(target.tiles, target.lanes, -1).swapaxes(1, 2)).tobytes()


def weight_words(source: Layout, bits: int) -> int:
    """Words of the weights of an n tile."""
    return source.operand_width * bits // 8


def code_tables(codes: NDArray[np.int8]) -> tuple[list[int], list[NDArray[np.int8]]]:
    """Of code tables (groups, 256), the number of each group's, and those that differ."""
    contents = [row.tobytes() for row in codes]
    different = list(dict.fromkeys(contents))
    return [different.index(content) for content in contents], [codes[contents.index(content)] for content in different]


def _padding_weight(bits: int) -> int:
    """Weight of padding: one of 1 bit cannot be 0."""
    return int(bits == 1)


def pack_norm_constants(alpha: NDArray, gain: NDArray, offset: NDArray, target: Layout, zero_point: int) -> bytes:
    """Blocks of L channels, five words each: word b holds byte b of every record. Padding channels give ``zero_point``."""
    records = pack_records(
        isa.NORM_RECORD,
        isa.NORM_BYTES,
        alpha=target.spread(alpha),
        gain=target.spread(gain),
        offset=target.spread(offset, zero_point << NORM_FRACTION),
    )
    return np.ascontiguousarray(records.reshape(-1, target.lanes, isa.NORM_BYTES).swapaxes(1, 2)).tobytes()


class MemoryImage:
    """External memory from address 0 on: parameters, row maps, blocks of the program, the input, the outputs.

    Addresses and sizes are in words of L bytes.

    Names: ``<constant>.value``, and by operator ``.weight``, ``.constants``, ``.table``, ``.codes``, ``.residual``, ``.bias``, ``.ones``;
    those of ``more``; ``input`` and each output tensor's.

    Parameters
    ----------
    network : IntegerNetwork
    lanes : int
    more : mapping of str to bytes
        What a program adds: row maps, and itself if it is streamed.
    """

    def __init__(self, network: IntegerNetwork, lanes: int, more: Mapping[str, bytes] | None = None) -> None:
        self.network, self.lanes = network, lanes
        self.layouts = layouts(network, lanes)
        self._packers: dict[str, _Part] = dict(self._parts())
        for name, content in (more or {}).items():
            self._packers[name] = ceil_div(len(content), lanes), partial(bytes, content)
        sizes = {name: words for name, (words, _) in self._packers.items()}
        for name, tensor in (("input", network.input), *((output, output) for output in network.outputs)):
            sizes[name] = self.layouts[tensor].rows * self.layouts[tensor].width
        starts = np.cumsum([0, *sizes.values()]).tolist()
        #: Word address and words of everything, by name.
        self.regions = {name: (start, size) for start, (name, size) in zip(starts, sizes.items(), strict=False)}

    @cached_property
    def data(self) -> bytes:
        """All but input and outputs, packed when they are asked for first: a report needs their places only."""
        return b"".join(pack().ljust(words * self.lanes, b"\0") for words, pack in self._packers.values())

    def words(self, name: str) -> int:
        """Size of a part."""
        return self.regions[name][1]

    def _parts(self) -> Iterator[tuple[str, _Part]]:
        for constant in self.network.constants:
            zero, layout = self.network.tensor(constant.output).zero_point, self.layouts[constant.output]
            value = self.network.arrays[f"{constant.name}.value"]
            yield f"{constant.name}.value", (len(value) * layout.width, partial(layout.pack, value, zero))
        for operator in self.network.operators:
            yield from self._operator(operator)

    def _operator(self, operator: Operator) -> Iterator[tuple[str, _Part]]:
        name, arrays = operator.name, self.network.arrays
        target = self.layouts[operator.output]
        match operator:
            case Linear():
                if f"{name}.output_groups" in arrays:
                    target = replace(target, groups=1)
                source, bits = self.layouts[operator.input], operator.weight_bits
                weight = partial(pack_weights, arrays[f"{name}.weight"], source, target, bits)
                yield f"{name}.weight", (weight_words(source, bits) * target.tiles, weight)
                yield f"{name}.constants", self._linear_constants(operator, target)
                if operator.form is Form.TABLE:
                    yield f"{name}.table", (table_words(self.lanes), arrays[f"{name}.table"].astype("<i4").tobytes)
                if operator.form is Form.RESIDUAL and not operator.residual:
                    residual = arrays[f"{name}.residual"]
                    yield f"{name}.residual", (len(residual) * target.width, partial(target.pack, residual, operator.residual_zero))
            case AttentionScores():
                heads = Layout(rows=1, groups=operator.heads, channels=self.lanes, lanes=self.lanes)
                scale = [np.repeat(arrays[f"{name}.{part}"], self.lanes) for part in ("multiplier", "shift")]
                residual_shift = np.repeat(arrays[f"{name}.residual_shift"], self.lanes) if operator.bias else None
                moving, size = moving_operand(self.network.tensor(operator.input)), operator.heads * self.lanes
                bias = np.full(size, -moving.offset * self.layouts[operator.input].channels)
                row_sum = np.full(size, -operator.key_zero - moving.row_sum)
                yield f"{name}.constants", self._records(heads, bias, row_sum, residual_shift, *scale)
                if operator.bias:
                    # Head by head, so that a head's can be loaded alone: (heads, types, T, T).
                    rows = arrays[f"{name}.bias"].swapaxes(0, 1).reshape(-1, target.channels)
                    layout = replace(target, rows=len(rows), groups=1)
                    yield f"{name}.bias", (len(rows) * layout.width, partial(layout.pack, rows))
            case AttentionValues():
                moving = moving_operand(self.network.tensor(operator.input), operator.codes)
                size = target.groups * target.channels
                bias = arrays[f"{name}.bias"] if operator.codes is Codes.LINEAR else np.zeros(size, np.int32)
                row_sum = np.full(size, -operator.value_zero - moving.row_sum)
                yield f"{name}.constants", self._constants(target, name, bias, row_sum, None)
            case AveragePool():
                block = Layout(rows=1, groups=1, channels=self.lanes, lanes=self.lanes)
                scale = [np.repeat(arrays[f"{name}.{part}"], self.lanes) for part in ("bias", "multiplier", "shift")]
                yield f"{name}.constants", self._records(block, scale[0], np.zeros_like(scale[0]), None, *scale[1:])
                rows = self.layouts[operator.input].rows
                ones = np.arange(ceil_div(rows, self.lanes) * self.lanes) < rows
                yield f"{name}.ones", (ceil_div(rows, self.lanes), ones.astype(np.int8).tobytes)
            case LogSoftmax():
                entries = {"exp": arrays[f"{name}.exp_table"], "log": arrays[f"{name}.log_table"]}
                yield f"{name}.table", (table_words(self.lanes), pack_records(isa.EXP_ENTRY, isa.ENTRY_BYTES, **entries).tobytes)
                if operator.coded:
                    tables = code_tables(arrays[f"{name}.code_table"])[1]
                    yield f"{name}.codes", (len(tables) * table_words(self.lanes), partial(self._code_tables, tables))
            case LayerNorm():
                zero = self.network.tensor(operator.output).zero_point
                alpha, gain, offset = (arrays[f"{name}.{part}"] for part in ("alpha", "gain", "offset"))
                pack = partial(pack_norm_constants, alpha, gain, offset, target, zero)
                yield f"{name}.constants", (target.tiles * isa.NORM_BYTES, pack)

    def _linear_constants(self, operator: Linear, target: Layout) -> _Part:
        """Constants of a linear layer, with what padding and packed values add to its sums taken off the bias."""
        name, arrays = operator.name, self.network.arrays
        source, tensor = self.layouts[operator.input], self.network.tensor(operator.input)
        moving, bits = moving_operand(tensor), operator.weight_bits
        bias, residual_shift = arrays[f"{name}.bias"], arrays.get(f"{name}.residual_shift")
        zero = arrays.get(f"{name}.weight_zero", np.zeros_like(bias)).astype(np.int64)
        if bits < 8:
            # Bytes behind a packed row are taken out.
            used = source.operand_width - (source.unused_bytes * source.parts if source.bits < 8 else 0)
            padding = used - source.groups * source.channels
            fill = padding_value(self.network, operator.input)
            bias = bias - moving.offset * used - padding * fill * (_padding_weight(bits) - zero)
        return self._constants(target, name, bias, -zero - moving.row_sum, residual_shift)

    def _constants(self, target: Layout, name: str, bias: NDArray, row_sum: NDArray, residual_shift: NDArray | None) -> _Part:
        arrays = self.network.arrays
        return self._records(target, bias, row_sum, residual_shift, arrays[f"{name}.multiplier"], arrays[f"{name}.shift"])

    def _code_tables(self, tables: list[NDArray[np.int8]]) -> bytes:
        size = table_words(self.lanes) * self.lanes
        return b"".join((table.astype("<i4") & 15).tobytes().ljust(size, b"\0") for table in tables)

    @staticmethod
    def _records(
        target: Layout, bias: NDArray, row_sum: NDArray, residual_shift: NDArray | None, multiplier: NDArray, shift: NDArray
    ) -> _Part:
        """Records of the padded channels; a padding channel gives the zero point."""

        def packed() -> bytes:
            records = pack_records(
                isa.CONSTANT_RECORD,
                isa.CONSTANT_BYTES,
                bias=target.spread(bias),
                multiplier=target.spread(multiplier),
                shift=target.spread(shift, PADDING_SHIFT),
                row_sum=target.spread(row_sum),
                residual_shift=target.spread(np.zeros_like(shift) if residual_shift is None else residual_shift),
            )
            return records.tobytes()

        return target.tiles * isa.CONSTANT_BYTES, packed
