"""When the array engine accepts, swaps, drains and ends each MATMUL: the rules of ``hw/array``, in plain arithmetic."""

from __future__ import annotations

from collections.abc import Mapping

from ..hw import isa
from ..hw.array.drain import Drain
from ..hw.array.fetch import StationaryFetch
from ..hw.config import CoreConfig

__all__ = ["ArrayTiming"]


class ArrayTiming:
    """State of the array engine between two instructions. Cycle numbers are absolute.

    Parameters
    ----------
    config : CoreConfig
    """

    def __init__(self, config: CoreConfig) -> None:
        self.config = config
        self.drain_delay, self.drain_tail = Drain.delay(config), Drain.tail(config)
        self.ready = 0  # first cycle in which the next instruction can be accepted
        self.fetched = 0  # first cycle after the last fetched tile
        self.swapped = 0  # cycle in which the last tile was swapped in
        self.streamed = 0  # first cycle after the last pass
        self.drained = 0  # first cycle after the drain of the last tile
        self.drain_slack = 0  # that much before it the next last pass may begin

    def accept(self, cycle: int, instruction: Mapping[str, int]) -> tuple[int, int]:
        """Cycles in which a MATMUL offered from ``cycle`` on is accepted, and in which ``done`` comes."""
        lanes, rows = self.config.lanes, instruction["rows"]
        raw = instruction["form"] == isa.Form.RAW.value
        period = 4 if raw else self.config.groups
        start = max(cycle, self.ready)
        handed = max(start + 1 + StationaryFetch.CHECK_CYCLES, self.streamed - 1)
        earliest_fetch, earliest_swap = start + 1, handed + 1
        for _ in range(instruction["n_tiles"]):
            for k in range(instruction["k_tiles"]):
                fetch = max(earliest_fetch, self.fetched, self.swapped)
                self.fetched = fetch + lanes
                swap = max(earliest_swap, self.fetched, self.streamed)
                if k == instruction["k_tiles"] - 1:
                    swap = max(swap, self.drained - self.drain_slack)
                    self.drained = max(swap + self.drain_delay, self.drained) + rows * period
                    self.drain_slack = Drain.slack(self.config, rows, period)
                self.swapped, self.streamed = swap, swap + max(rows, lanes)
        self.ready = max(self.fetched, handed + 1)
        return start, self.drained + self.drain_tail
