"""Rules of the SDRAM controller: the times of the chip's data sheet at the pins."""

from __future__ import annotations

from typing import Any

from amaranth import *

from ...boards.sdram import Command, Sdram, SdramChip, SdramTiming
from .rules import Harness, implies, kept, rule

__all__ = ["SdramRules"]

#: Short, and each its own number: a mistaken one shows.
TIMING = SdramTiming(rcd=3, rp=2, rc=8, ras=5, rfc=6, wr=4, mrd=2, cas=2, refresh=24, startup=2)
_ALL_BANKS = 10


class SdramRules(Harness):
    """Every command to a bank that the solver chooses comes in a state and after the times that the chip asks for; refreshes come in time.

    A refresh comes at most :attr:`refresh_delay` cycles after it is due, or the controller's request for it would be lost.
    """

    def __init__(self, unit: Any = Sdram, timing: SdramTiming = TIMING):
        controller = unit(SdramChip(row_bits=11, column_bits=8), 100e6)
        controller.timing = timing
        self.timing = timing
        super().__init__(controller, bank=2)

    @property
    def refresh_delay(self) -> int:
        """What may be under way when a refresh gets due: an activation, then the precharge."""
        return self.timing.ras + self.timing.wr + self.timing.rp + 4

    def rules(self, m: Module) -> None:
        pins, timing = self.pins, self.timing
        command, bank = Signal(Command), kept(m, "watched", self.bank)
        m.d.comb += command.as_value().eq(Cat(pins.ras, pins.cas, pins.we))
        here, every = pins.ba == bank, pins.a[_ALL_BANKS]
        at = {each: Signal(name=f"at_{each.name.lower()}") for each in Command}
        for each, now in at.items():
            common = each in (Command.REFRESH, Command.MODE)
            m.d.comb += now.eq((command == each) & (1 if common else here | every if each is Command.PRECHARGE else here))
        limits = {
            Command.ACTIVATE: max(timing.rcd, timing.ras, timing.rc),
            Command.PRECHARGE: timing.rp,
            Command.WRITE: timing.wr,
            Command.REFRESH: timing.rfc,
            Command.MODE: timing.mrd,
        }
        self.left = {each: self._since(m, at[each], limit, each.name.lower()) for each, limit in limits.items()}
        opened = Signal()
        m.d.sync += opened.eq((opened | at[Command.ACTIVATE]) & ~at[Command.PRECHARGE])
        busy = self._within(Command.REFRESH, timing.rfc) | self._within(Command.MODE, timing.mrd)
        rule(m, "after_refresh_or_mode", implies(command != Command.NOP, ~busy))
        closed = ~opened & ~self._within(Command.PRECHARGE, timing.rp)
        activates = at[Command.ACTIVATE]
        rule(m, "activate", implies(activates, closed & ~self._within(Command.ACTIVATE, timing.rc)))
        rule(m, "idle", implies(at[Command.REFRESH] | at[Command.MODE], closed))
        column = at[Command.READ] | at[Command.WRITE]
        rule(m, "column", implies(column, opened & ~self._within(Command.ACTIVATE, timing.rcd) & ~pins.a[_ALL_BANKS]))
        young = self._within(Command.ACTIVATE, timing.ras) | self._within(Command.WRITE, timing.wr)
        rule(m, "precharge", implies(at[Command.PRECHARGE] & opened, ~young))
        self._data(m, command)
        self._refresh(m, command)
        self.cover("second_row", self._again(m, activates, column))

    def _since(self, m: Module, event: Value, limit: int, name: str) -> tuple[Signal, int]:
        """Counts down from ``limit`` - 1 after ``event``."""
        left = Signal(range(limit), name=f"since_{name}")
        m.d.sync += left.eq(Mux(event, limit - 1, left - (left != 0)))
        return left, limit

    def _within(self, command: Command, cycles: int) -> Value:
        """The last such command was less than ``cycles`` ago."""
        left, limit = self.left[command]
        return left > limit - cycles

    def _data(self, m: Module, command: Any) -> None:
        """The controller drives the data with a write only, and no write comes while the chip may drive them."""
        read, _ = self._since(m, command == Command.READ, self.timing.cas + 2, "any_read")
        rule(m, "drives_writes_only", self.pins.dq_oe == (command == Command.WRITE))
        rule(m, "bus_turns", implies(command == Command.WRITE, read == 0))

    def _refresh(self, m: Module, command: Any) -> None:
        """From the mode on, a refresh comes within the interval and the delay."""
        limit = self.timing.refresh + self.refresh_delay
        running, waits = Signal(), Signal(range(limit + 2))
        with m.If(command == Command.MODE):
            m.d.sync += running.eq(1)
        m.d.sync += waits.eq(Mux(~running | (command == Command.REFRESH), 0, waits + (waits <= limit)))
        rule(m, "refresh_in_time", waits <= limit)
        self.cover("refresh", running & (command == Command.REFRESH))

    def _again(self, m: Module, activates: Value, column: Value) -> Value:
        seen = Signal()
        with m.If(column):
            m.d.sync += seen.eq(1)
        return seen & activates
