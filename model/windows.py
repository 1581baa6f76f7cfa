"""Where tokens go in a Swin transformer: windows with their cyclic shift, patch merging, relative positions, and masks."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

__all__ = ["merge_rows", "raster_rows", "relative_positions", "window_masks", "window_rows"]


def window_rows(side: int, window: int, shift: int) -> NDArray[np.uint16]:
    """Row in window order of each token of a ``side`` x ``side`` image in raster order, (side**2,) uint16.

    The image is shifted up and left by ``shift`` tokens, cyclically, and cut into windows of ``window`` x ``window``; windows and the
    tokens of a window are in raster order.
    """
    _check(side, window, shift)
    place = (np.arange(side) - shift) % side
    outer, inner = place // window, place % window
    rows = (outer[:, None] * (side // window) + outer) * window**2 + inner[:, None] * window + inner
    return rows.reshape(-1).astype(np.uint16)


def raster_rows(side: int, window: int, shift: int) -> NDArray[np.uint16]:
    """Row in raster order of each token in window order, (side**2,) uint16: the inverse of :func:`window_rows`."""
    return np.argsort(window_rows(side, window, shift)).astype(np.uint16)


def merge_rows(side: int) -> tuple[NDArray[np.uint16], NDArray[np.uint8]]:
    """Row (side**2,) uint16 and group (side**2,) uint8 of each token in the tensor of half the side that patch merging makes.

    The four tokens of a 2 x 2 cell are the groups of a row, in timm's order: (y, x) = (0, 0), (1, 0), (0, 1), (1, 1).
    """
    if side % 2:
        raise ValueError(f"patch merging takes an even side, not {side}")
    y, x = np.divmod(np.arange(side**2), side)
    return (y // 2 * (side // 2) + x // 2).astype(np.uint16), (2 * (x % 2) + y % 2).astype(np.uint8)


def window_masks(side: int, window: int, shift: int) -> tuple[NDArray[np.bool_], NDArray[np.uint8]]:
    """The distinct masks (types, T, T), true where a key was no neighbour before the shift, and the type of each window (windows,) uint8.

    T = ``window**2``. A shift of 0 has one type, in which nothing is masked.
    """
    _check(side, window, shift)
    place = np.arange(side)
    region = (place >= side - window).astype(np.int64) + (place >= side - shift) if shift else np.zeros(side, np.int64)
    regions = (3 * region[:, None] + region).reshape(-1)[raster_rows(side, window, 0)].reshape(-1, window**2)
    distinct, types = np.unique(regions, axis=0, return_inverse=True)
    return distinct[:, :, None] != distinct[:, None, :], types.reshape(-1).astype(np.uint8)


def relative_positions(window: int) -> NDArray[np.int64]:
    """Index (T, T) of query and key into a table of ``(2 * window - 1)**2`` relative positions, T = ``window**2``."""
    y, x = np.divmod(np.arange(window**2), window)
    return (y[:, None] - y + window - 1) * (2 * window - 1) + x[:, None] - x + window - 1


def _check(side: int, window: int, shift: int) -> None:
    if window < 1 or side % window:
        raise ValueError(f"a side of {side} tokens is no multiple of the window {window}")
    if not 0 <= shift < window:
        raise ValueError(f"the shift must be 0..{window - 1}, not {shift}")
