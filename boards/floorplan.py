"""Where on an FPGA the multiplier blocks of a core go, so that its array lies there as it is drawn.

A systolic array has no pins that would pull it apart: a placer folds it up, and stretches what it folded. With its multipliers in rows and
columns the wires of 16 lanes on an LFE5U-85F are half as long (``docs/decisions.md``).
"""

from __future__ import annotations

from collections.abc import Iterator

from ..hw.config import CoreConfig
from .devices import Device

__all__ = ["floorplan", "multiplier_places"]

#: Multipliers of a row's scalars and of a lane in LayerNorm, and of a lane in the epilogue, by the register behind each.
_SCALARS = ("high", "high_square", "low", "low_square", "product", "scaled_high", "scaled_low", "slope_inside", "slope_product")
_NORM_LANE = ("square", "product", "weighted")
_EPILOGUE_LANE = ("high", "low", "term")


def floorplan(config: CoreConfig, device: Device) -> str:
    """Yosys commands that give each multiplier its place, after synthesis; "" where the device's places are not known, or are too few."""
    places = dict(multiplier_places(config, device))
    return "\n".join(f'setattr -set BEL "{place}" c:*.{cell} t:MULT18X18D %i' for cell, place in places.items())


def multiplier_places(config: CoreConfig, device: Device) -> Iterator[tuple[str, str]]:
    """Pattern of the end of a cell's name, and its place.

    The array's rows go to the device's rows of multipliers from top to bottom, its columns from left to right; in what each row has left
    to the right of them are those of LayerNorm and the epilogue.
    """
    sites = device.multiplier_sites
    others = _others(config)
    if not sites or config.serial or config.narrow:
        return
    room = [len(row) - len(names) for row, names in zip(sites, others, strict=True)]
    rows = _deal(config, room)
    if rows is None:
        return
    for site_row, array_rows, names in zip(sites, rows, others, strict=True):
        elements = sorted((column, row) for row in array_rows for column in range(_per_row(config, row)))
        cells = [*(_element(config, row, column) for column, row in elements), *names]
        yield from zip(cells, site_row, strict=False)


def _per_row(config: CoreConfig, row: int) -> int:
    return config.row_multipliers(row) // config.elements_per_multiplier


def _element(config: CoreConfig, row: int, column: int) -> str:
    return f"row_{row}.double_{column}.product.*" if config.double_rate else f"row_{row}.pe_{column}_product_*"


def _others(config: CoreConfig) -> list[list[str]]:
    """Patterns of the multipliers beside the array, for three rows of the device."""
    lanes, groups = range(config.row_lanes), range(config.epilogue_lanes)
    return [
        [f"norm.scalars.{name}_TRELLIS_FF*" for name in _SCALARS],
        [f"norm.{name}_{lane}_TRELLIS_FF*" for lane in lanes for name in _NORM_LANE],
        [f"epilogue.lane_{lane}.{name}_TRELLIS_FF*" for lane in groups for name in _EPILOGUE_LANE],
    ]


def _deal(config: CoreConfig, room: list[int]) -> list[list[int]] | None:
    """Rows of the array for each row of the device, about equally full; None if they do not fit."""
    total = config.array_multipliers
    rows: list[list[int]] = [[] for _ in room]
    place, used = 0, [0 for _ in room]
    for row in range(config.lanes):
        count = _per_row(config, row)
        while place < len(room) - 1 and used[place] + count / 2 > min(room[place] - count / 2, total * room[place] / sum(room)):
            place += 1
        rows[place].append(row)
        used[place] += count
    return rows if all(n <= limit for n, limit in zip(used, room, strict=True)) else None
