"""How a tensor lies in words of L bytes: as n tiles of L columns that an epilogue writes, and as the bytes of a stream of values."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from ..model.network import AttentionScores, AttentionValues, IntegerNetwork, LayerNorm, LogSoftmax, Tensor
from ..model.packing import pack_rows, pack_values, unpack_values

__all__ = ["HeadBytes", "Layout", "ceil_div", "layouts"]


def ceil_div(a: int, b: int) -> int:
    """``a / b`` rounded up."""
    return -(-a // b)


@dataclass(frozen=True)
class HeadBytes:
    """Where a group lies in a row: ``words`` from ``word`` on, of which the first ``skip`` and the last ``pad`` bytes are not its own."""

    word: int
    words: int
    skip: int
    pad: int


@dataclass(frozen=True, kw_only=True)
class Layout:
    """Word ``row * width + word`` holds columns of one row; int32 columns take four bytes, little-endian.

    A row is runs of groups, each run beginning a word (``docs/low-bit.md``). A tile is L columns of a run: what a MATMUL writes at once. Of
    values of 8 bits a tile is a word, of int32 four, of fewer bits a part of a word.

    Parameters
    ----------
    rows, groups, channels, bits, unit : int
        As in :class:`..model.network.Tensor`.
    lanes : int
        L, the bytes of a word.
    run : int
        Groups of a run.
    dense : bool
        The groups of a run follow each other at once; otherwise each is padded to whole tiles.
    window : int
        0, or the values are packed along rows: a word has the same columns of 8 / bits rows, which begin anew every ``window`` rows.
    """

    rows: int
    groups: int
    channels: int
    lanes: int
    bits: int = 8
    unit: bool = False
    run: int = 1
    dense: bool = False
    window: int = 0

    @property
    def packing(self) -> int:
        """Values in a byte."""
        return max(1, 8 // self.bits)

    @property
    def column_bytes(self) -> int:
        """Bytes of a column, of packed values 1 too."""
        return max(1, self.bits // 8)

    @property
    def parts(self) -> int:
        """Tiles in a word."""
        return 1 if self.window else self.packing

    @property
    def runs(self) -> int:
        return self.groups // self.run

    @property
    def pitch(self) -> int:
        """Columns from a group to the next of its run."""
        return self.channels if self.dense else ceil_div(self.channels, self.lanes) * self.lanes

    @property
    def run_tiles(self) -> int:
        """Tiles of a run."""
        return ceil_div(self.run * self.pitch, self.lanes)

    @property
    def group_tiles(self) -> int:
        """Tiles of L columns to a group, where each is padded to whole ones."""
        return ceil_div(self.channels, self.lanes)

    @property
    def run_words(self) -> int:
        return ceil_div(self.run_tiles, self.parts) * self.column_bytes

    @property
    def tiles(self) -> int:
        """Tiles of a row."""
        return self.runs * self.run_tiles

    @property
    def width(self) -> int:
        """Words of a row."""
        return self.runs * self.run_words

    @property
    def columns(self) -> NDArray[np.intp]:
        """Place of each of the ``groups * channels`` columns in the tiles of a row."""
        return self._places(self.run_tiles * self.lanes)

    @property
    def operand_columns(self) -> NDArray[np.intp]:
        """Place of each column among the values that the words of a row hold, which are the K of a product."""
        return self._places(self.operand_width // self.runs)

    @property
    def operand_width(self) -> int:
        """Values that the words of a row hold."""
        return self.width * self.lanes * self.parts // self.column_bytes

    @property
    def unused_bytes(self) -> int:
        """Bytes behind the last column of a row."""
        used = (self.runs - 1) * self.operand_width // self.runs + (self.run - 1) * self.pitch + self.channels
        return self.width * self.lanes // self.column_bytes - ceil_div(used, self.parts)

    def _places(self, run: int) -> NDArray[np.intp]:
        group, channel = np.divmod(np.arange(self.groups * self.channels), self.channels)
        return group // self.run * run + group % self.run * self.pitch + channel

    def head(self, group: int) -> HeadBytes:
        """The bytes of a group, as an operand; of packed values its channels fill whole bytes, or nobody else's follow."""
        first = group % self.run * self.pitch // self.packing
        end = first + ceil_div(self.channels, self.packing)
        word, words = first // self.lanes, ceil_div(end, self.lanes) - first // self.lanes
        return HeadBytes(group // self.run * self.run_words + word, words, first % self.lanes, (word + words) * self.lanes - end)

    def word(self, tile: int) -> int:
        """The word in which a tile begins."""
        run, tile = divmod(tile, self.run_tiles)
        return run * self.run_words + tile // self.parts * self.column_bytes

    def words(self, tile: int, tiles: int) -> int:
        """Words in which those tiles lie, which are of one run or fill whole words."""
        return self.word(tile + tiles - 1) + self.column_bytes - self.word(tile)

    def line(self, row: int) -> int:
        """Row of words in which a row lies: the row itself, unless values are packed along rows."""
        if not self.window:
            return row
        window, inside = divmod(row, self.window)
        return window * ceil_div(self.window, self.packing) + inside // self.packing

    def lines(self, row: int, rows: int) -> int:
        """Rows of words in which those rows lie."""
        return self.line(row + rows - 1) + 1 - self.line(row)

    def spread(self, values: NDArray, fill: int = 0) -> NDArray:
        """(..., groups * channels) to (..., tiles * L) of the same dtype, padding columns being ``fill``."""
        return _spread(values, self.columns, self.tiles * self.lanes, fill)

    def spread_operand(self, values: NDArray, fill: int = 0) -> NDArray:
        """(..., groups * channels) to (..., values of a row's words) of the same dtype, the others being ``fill``."""
        return _spread(values, self.operand_columns, self.operand_width, fill)

    def pack(self, values: NDArray, fill: int = 0) -> bytes:
        """The words of rows (R, groups * channels), int8 or int32; packed along rows, the first of them begins a word."""
        return self.content(self.spread_operand(values, fill))

    def content(self, values: NDArray) -> bytes:
        """The words of rows (R, values of a row's words)."""
        if self.packing == 1:
            return values.astype("i1" if self.column_bytes == 1 else "<i4").tobytes()
        coded = np.where(values > 0, 1, -1).astype(np.int8) if self.bits == 1 else values
        if not self.window:
            return pack_values(coded, self.bits).tobytes()
        lines = [pack_rows(coded[row : row + self.window], self.bits) for row in range(0, len(coded), self.window)]
        return np.concatenate(lines).tobytes()

    def unpack(self, words: bytes) -> NDArray:
        """Rows (R, groups * channels) of :meth:`pack`'s bytes, int8 or int32; not of values packed along rows."""
        if self.packing > 1:
            packed = np.frombuffer(words, np.uint8).reshape(-1, self.width * self.lanes)
            return np.ascontiguousarray(unpack_values(packed, self.bits, unit=self.unit)[:, self.operand_columns])
        kind = np.dtype("i1" if self.column_bytes == 1 else "<i4")
        rows = np.frombuffer(words, kind).reshape(-1, self.operand_width)[:, self.operand_columns]
        return rows.astype(kind.newbyteorder("="))

    def word_values(self, word: bytes) -> NDArray:
        """The values of one word: (rows, columns) of it, where a word has several rows if values are packed along them."""
        if self.packing == 1:
            return np.frombuffer(word, "i1" if self.column_bytes == 1 else "<i4")[None]
        packed = np.frombuffer(word, np.uint8)
        if self.window:
            return unpack_values(packed[:, None], self.bits, unit=self.unit).T
        return unpack_values(packed, self.bits, unit=self.unit)[None]


def _spread(values: NDArray, columns: NDArray[np.intp], size: int, fill: int) -> NDArray:
    padded = np.full((*values.shape[:-1], size), fill, values.dtype)
    padded[..., columns] = values
    return padded


def layouts(network: IntegerNetwork, lanes: int) -> dict[str, Layout]:
    """How each tensor lies, from what writes and what reads it. Raises ``ValueError`` for values that do not fill whole bytes."""
    result = {tensor.name: _plain(tensor, lanes) for tensor in network.tensors}
    for operator in network.operators:
        target = result[operator.output]
        match operator:
            case LayerNorm(by_group=False):
                # LayerNorm works word by word: the groups of its input stay padded as they are.
                source = result[operator.input]
                narrow = {"bits": target.bits, "unit": target.unit}
                result[operator.output] = replace(source, rows=target.rows, run=source.groups, **narrow)
            case AttentionScores():
                source = result[operator.input]
                normalised = any(isinstance(o, LayerNorm) and o.output == operator.input for o in network.operators)
                if source.bits < 8 and not normalised:
                    result[operator.input] = replace(source, run=operator.heads, dense=True)
            case AttentionValues():
                values = result[operator.values]
                if values.bits < 8:
                    if values.groups != operator.heads:
                        given = f"{values.bits} bit{'s' * (values.bits > 1)}"
                        raise ValueError(f"{operator.values} has v of {given} beside q and k; it needs a tensor of its own")
                    result[operator.values] = replace(values, window=values.rows // operator.windows)
                if target.bits < 8:
                    result[operator.output] = replace(target, run=target.groups)
    maps = {operator.output for operator in network.operators if isinstance(operator, LogSoftmax)}
    for name, layout in result.items():
        if layout.channels % layout.parts and name not in maps:
            given = f"{layout.channels} channels of {layout.bits} bit{'s' * (layout.bits > 1)}"
            raise ValueError(f"{name} has groups of {given}; they must fill whole bytes")
    return result


def _plain(tensor: Tensor, lanes: int) -> Layout:
    """Each group padded to whole words."""
    return Layout(rows=tensor.rows, groups=tensor.groups, channels=tensor.channels, lanes=lanes, bits=tensor.bits, unit=tensor.unit)
