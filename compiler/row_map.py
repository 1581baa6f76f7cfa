"""Where the rows of an instruction go that do not follow each other: offsets for the core, accesses for the dependencies."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from .program import Access, Port

__all__ = ["RowMap", "runs"]


def runs(rows: NDArray[np.int64]) -> list[tuple[int, int]]:
    """Cut ascending numbers where they are not consecutive: (first, count) of each part."""
    cuts = np.flatnonzero(np.diff(rows) != 1) + 1
    return [(int(part[0]), len(part)) for part in np.split(rows, cuts)]


@dataclass(frozen=True)
class RowMap:
    """Rows of a buffer, in the order in which an instruction writes them.

    Parameters
    ----------
    rows : (n,) int64
        Row of the buffer.
    words : (n,) int64
        First word in that row of the part that the row goes to: of a group, where the output has groups.
    width : int
        Words of a row.
    tiles : (n,) int64
        First tile of that part, counted in the row.
    """

    rows: NDArray[np.int64]
    words: NDArray[np.int64]
    width: int
    tiles: NDArray[np.int64]

    @property
    def base(self) -> int:
        """Lowest word."""
        return int((self.rows * self.width + self.words).min())

    @property
    def offsets(self) -> NDArray[np.int64]:
        """Entries of the map: words from :attr:`base`."""
        return self.rows * self.width + self.words - self.base

    def accesses(self, buffer: str, port: Port, word: int, words: int) -> tuple[Access, ...]:
        """The words ``word`` .. of each part, as few rectangles."""
        return tuple(
            Access(port=port, buffer=buffer, row=row, rows=count, word=int(first) + word, words=words)
            for first in np.unique(self.words)
            for row, count in runs(np.sort(self.rows[self.words == first]))
        )
