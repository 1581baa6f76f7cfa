"""A single-data-rate SDRAM chip of four banks as its data sheet describes it: a cocotb coroutine that refuses every broken rule."""

import random
from collections import deque
from typing import Any

from cocotb.triggers import RisingEdge

from ..boards.sdram import Command, SdramChip

__all__ = ["SdramModel", "TimingViolation"]


class TimingViolation(AssertionError):
    """A command that the chip does not allow here."""


class SdramModel:
    """Chip behind the pins ``prefix`` of ``dut``, which drives it from the clock edge that ends a cycle.

    Parameters
    ----------
    dut : cocotb handle
    chip : SdramChip
        Its times are checked in ns.
    period : float
        Of ``dut.clk``, ns.
    """

    def __init__(self, dut: Any, chip: SdramChip, period: float, prefix: str = "pins__") -> None:
        self.dut, self.chip, self.period, self.prefix = dut, chip, period, prefix
        self.memory: dict[int, int] = {}
        #: Open row of each bank, and the cycle of the last command of a kind, by (kind, bank).
        self.row: list[int | None] = [None] * 4
        self.last: dict[tuple[Command, int], int] = {}
        self.cas = 0
        self.refreshes = 0
        self.first_refresh = 0
        self.cycle = 0
        self.commands: list[tuple[int, Command]] = []
        self.reads: deque[tuple[int, int]] = deque()

    def fail(self, what: str) -> None:
        raise TimingViolation(f"cycle {self.cycle}: {what}")

    def since(self, command: Command, bank: int, needed: float, name: str, *, cycles: bool = False) -> None:
        """At least ``needed`` ns (or cycles) since the last ``command`` of ``bank``."""
        if (command, bank) in self.last:
            passed = (self.cycle - self.last[command, bank]) * (1 if cycles else self.period)
            if passed < needed - 1e-6:
                self.fail(f"{name} is {needed}, not {passed}")

    async def run(self) -> None:
        """Be the chip for ever."""
        names = ("clk_en", "ras", "cas", "we", "ba", "a", "dqm", "dq_o", "dq_oe", "dq_i")
        pin = {name: getattr(self.dut, self.prefix + name) for name in names}
        rng = random.Random(0)
        while True:
            await RisingEdge(self.dut.clk)
            if self.dut.rst.value:
                self.cycle = 0
                continue
            self.cycle += 1
            ras, cas, we = (int(pin[name].value) for name in ("ras", "cas", "we"))
            command = Command(ras | cas << 1 | we << 2)
            if pin["dq_oe"].value and command is not Command.WRITE:
                self.fail("the data are driven without a write")
            if command is not Command.NOP:
                if not pin["clk_en"].value:
                    self.fail(f"{command.name} without clock enable")
                self.commands.append((self.cycle, command))
                self.obey(command, int(pin["ba"].value), int(pin["a"].value), int(pin["dqm"].value), int(pin["dq_o"].value))
            due = bool(self.reads) and self.reads[0][0] == self.cycle
            pin["dq_i"].value = self.reads.popleft()[1] if due else rng.getrandbits(16)

    def obey(self, command: Command, bank: int, a: int, dqm: int, value: int) -> None:
        """Check and carry out one command."""
        chip = self.chip
        everything = bool(a >> 10 & 1)
        if self.cycle * self.period < chip.startup:
            self.fail(f"{command.name} before the chip has started")
        for each in range(4):
            self.since(Command.REFRESH, each, chip.rfc, "tRFC")
            self.since(Command.MODE, each, chip.mrd, "tMRD", cycles=True)
        if command in (Command.ACTIVATE, Command.READ, Command.WRITE) and not self.cas:
            self.fail(f"{command.name} before the mode is set")
        getattr(self, command.name.lower())(bank, a, dqm, value, everything)
        for each in range(4) if command in (Command.REFRESH, Command.MODE) or (command is Command.PRECHARGE and everything) else [bank]:
            self.last[command, each] = self.cycle

    def idle(self, command: str) -> None:
        """All banks are precharged."""
        if any(row is not None for row in self.row):
            self.fail(f"{command} with an open row")
        for bank in range(4):
            self.since(Command.PRECHARGE, bank, self.chip.rp, "tRP")

    def activate(self, bank, a, dqm, value, everything):
        if self.row[bank] is not None:
            self.fail(f"bank {bank} is open already")
        self.since(Command.PRECHARGE, bank, self.chip.rp, "tRP")
        self.since(Command.ACTIVATE, bank, self.chip.rc, "tRC")
        self.row[bank] = a

    def precharge(self, bank, a, dqm, value, everything):
        for each in range(4) if everything else [bank]:
            if self.row[each] is not None:
                self.since(Command.ACTIVATE, each, self.chip.ras, "tRAS")
                self.since(Command.WRITE, each, self.chip.wr, "tWR")
            self.row[each] = None

    def refresh(self, bank, a, dqm, value, everything):
        self.idle("refresh")
        self.refreshes += 1
        if not self.cas:
            self.first_refresh = self.cycle

    def mode(self, bank, a, dqm, value, everything):
        self.idle("mode")
        if self.refreshes < 8:
            self.fail(f"mode after {self.refreshes} refreshes of 8")
        if a & 0b111 or a >> 4 & 0b111 != self.chip.cas:
            self.fail(f"mode {a:#x} is not bursts of one column with a CAS latency of {self.chip.cas}")
        self.cas, self.refreshes = a >> 4 & 0b111, 0

    def check_refresh(self) -> None:
        """No row has waited for longer than the interval allows, one refresh being late at most."""
        needed = int((self.cycle - self.first_refresh) * self.period / self.chip.refresh_interval) - 1
        if self.refreshes < needed:
            self.fail(f"{self.refreshes} refreshes, {needed} needed")

    def place(self, bank: int, a: int) -> int:
        self.since(Command.ACTIVATE, bank, self.chip.rcd, "tRCD")
        row = self.row[bank]
        if row is None:
            raise TimingViolation(f"cycle {self.cycle}: bank {bank} is closed")
        self.check_refresh()
        return (row << 2 | bank) << self.chip.column_bits | a & (1 << self.chip.column_bits) - 1

    def read(self, bank, a, dqm, value, everything):
        if everything:
            self.fail("reads with auto precharge are not used")
        address = self.place(bank, a)
        # Changed just after this edge, the data are sampled at the next: one less than the CAS latency.
        self.reads.append((self.cycle + self.cas - 1, self.memory.get(address, 0)))

    def write(self, bank, a, dqm, value, everything):
        if everything:
            self.fail("writes with auto precharge are not used")
        if self.reads:
            self.fail("data of a read and of a write meet on the bus")
        for each in range(4):
            self.since(Command.READ, each, self.cas + 2, "read to write", cycles=True)
        address = self.place(bank, a)
        keep = sum(0xFF << 8 * byte for byte in range(2) if dqm >> byte & 1)
        self.memory[address] = self.memory.get(address, 0) & keep | value & ~keep & 0xFFFF
