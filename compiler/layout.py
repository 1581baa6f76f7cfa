"""How a tensor lies in words of L bytes: rows one after the other, each group of channels padded to whole words."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ..model.network import Tensor

__all__ = ["Layout", "ceil_div"]


def ceil_div(a: int, b: int) -> int:
    """``a / b`` rounded up."""
    return -(-a // b)


@dataclass(frozen=True, kw_only=True)
class Layout:
    """Word ``row * width + word`` holds L columns of one row; int32 columns take four bytes, little-endian.

    Parameters
    ----------
    rows, groups, channels : int
        As in :class:`..model.network.Tensor`.
    lanes : int
        L, the bytes of a word.
    column_bytes : int
        1 (int8) or 4 (int32).
    """

    rows: int
    groups: int
    channels: int
    lanes: int
    column_bytes: int = 1

    @classmethod
    def of(cls, tensor: Tensor, lanes: int) -> Layout:
        """Layout of an activation."""
        return cls(rows=tensor.rows, groups=tensor.groups, channels=tensor.channels, lanes=lanes, column_bytes=tensor.bits // 8)

    @property
    def group_tiles(self) -> int:
        """Tiles of L columns to a group."""
        return ceil_div(self.channels, self.lanes)

    @property
    def tiles(self) -> int:
        """Tiles of L columns to a row."""
        return self.groups * self.group_tiles

    @property
    def width(self) -> int:
        """Words of a row."""
        return self.tiles * self.column_bytes

    @property
    def columns(self) -> NDArray[np.intp]:
        """Padded position of each of the ``groups * channels`` columns."""
        group, channel = np.divmod(np.arange(self.groups * self.channels), self.channels)
        return group * self.group_tiles * self.lanes + channel

    def spread(self, values: NDArray, fill: int = 0) -> NDArray:
        """(..., groups * channels) to (..., tiles * L) of the same dtype, padding columns being ``fill``."""
        padded = np.full((*values.shape[:-1], self.tiles * self.lanes), fill, values.dtype)
        padded[..., self.columns] = values
        return padded

    def pack(self, values: NDArray, fill: int = 0) -> bytes:
        """The words of rows (R, groups * channels), int8 or int32."""
        kind = np.dtype("i1" if self.column_bytes == 1 else "<i4")
        return self.spread(values, fill).astype(kind).tobytes()

    def unpack(self, words: bytes) -> NDArray:
        """Rows (R, groups * channels) of :meth:`pack`'s bytes, int8 or int32."""
        kind = np.dtype("i1" if self.column_bytes == 1 else "<i4")
        rows = np.frombuffer(words, kind).reshape(-1, self.tiles * self.lanes)[:, self.columns]
        return rows.astype(kind.newbyteorder("="))
