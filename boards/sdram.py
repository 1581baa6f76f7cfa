"""Controller of a single-data-rate SDRAM chip with a bus of 16 bits."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from amaranth import *
from amaranth.lib import data, enum, wiring
from amaranth.lib.fifo import SyncFIFO
from amaranth.lib.wiring import In, Out

from ..hw.memory_port import ADDRESS_BITS, MemoryPort

__all__ = ["BANKS", "BUS_BYTES", "Command", "Sdram", "SdramChip", "SdramPins", "SdramTiming"]

BUS_BYTES = 2
BANKS = 4
#: Address pin that makes a precharge one of all banks.
_ALL_BANKS = 10
_STARTUP_REFRESHES = 8
_READS_AHEAD = 16


class Command(enum.Enum, shape=3):
    """A chip's command: bit 0 is RAS, bit 1 CAS, bit 2 WE, 1 where the pin is low."""

    NOP = 0
    ACTIVATE = 1
    READ = 2
    REFRESH = 3
    PRECHARGE = 5
    WRITE = 6
    MODE = 7


@dataclass(frozen=True, kw_only=True)
class SdramTiming:
    """Cycles from a command to the first one that may follow it, named as in data sheets (:class:`SdramChip`)."""

    rcd: int
    rp: int
    rc: int
    ras: int
    rfc: int
    wr: int
    mrd: int
    cas: int
    refresh: int
    startup: int


@dataclass(frozen=True, kw_only=True)
class SdramChip:
    """A chip of four banks. The defaults are the size of MT48LC16M16A2-75 and the longest times of it, W9825G6KH-6 and AS4C32M16SB-7.

    Parameters
    ----------
    row_bits, column_bits : int
        Rows and columns of a bank are powers of two; AS4C32M16 has ``column_bits=10``.
    rcd, rp, rc, ras, rfc, wr : float
        ns: activate to read or write; precharge to activate; activate to activate of a bank; activate to precharge; refresh to any
        command; write to precharge. Activates of two banks are apart by ``rc``, too, which is more than any chip asks for.
    mrd : int
        Cycles from setting the mode to any command.
    cas : int
        Cycles from a read to its data, 2 or 3.
    cas_periods : float, float
        ns: the shortest period of a clock with ``cas`` 2, and with 3.
    refresh_interval : float
        ns between two refreshes: 64 ms / rows.
    startup : float
        ns from power to the first command.
    """

    row_bits: int = 13
    column_bits: int = 9
    rcd: float = 21
    rp: float = 21
    rc: float = 66
    ras: float = 44
    rfc: float = 66
    wr: float = 15
    mrd: int = 2
    cas: int = 2
    cas_periods: tuple[float, float] = (10, 7.5)
    refresh_interval: float = 64e6 / (1 << 13)
    startup: float = 200_000

    def __post_init__(self) -> None:
        if self.cas not in (2, 3):
            raise ValueError(f"cas must be 2 or 3 cycles, not {self.cas}")
        if not 8 <= self.column_bits <= _ALL_BANKS:
            raise ValueError(f"column_bits must be 8 to {_ALL_BANKS}, not {self.column_bits}")
        if not 11 <= self.row_bits <= 13:
            raise ValueError(f"row_bits must be 11 to 13, not {self.row_bits}")

    @property
    def beats(self) -> int:
        """Words of 16 bits."""
        return BANKS << self.row_bits + self.column_bits

    def at(self, clock_hz: float) -> SdramChip:
        """This chip with the least ``cas`` for a clock."""
        return replace(self, cas=2 if self._allows(2, clock_hz) else 3)

    def _allows(self, cas: int, clock_hz: float) -> bool:
        return clock_hz * self.cas_periods[cas - 2] <= 1e9 * (1 + 1e-6)

    def cycles(self, clock_hz: float) -> SdramTiming:
        """The times in cycles of a clock, rounded up; the refresh interval is rounded down."""
        if not self._allows(self.cas, clock_hz):
            most = 1e3 / self.cas_periods[self.cas - 2]
            raise ValueError(f"an SDRAM chip with CAS latency {self.cas} takes at most {most:.6g} MHz, not {clock_hz / 1e6:.6g} MHz")
        period = 1e9 / clock_hz
        times = {name: max(1, math.ceil(getattr(self, name) / period)) for name in ("rcd", "rp", "rc", "ras", "rfc", "wr", "startup")}
        refresh = math.floor(self.refresh_interval / period)
        if refresh < 64:
            least = 64e3 / self.refresh_interval
            raise ValueError(f"refreshing every {self.refresh_interval:.0f} ns needs a clock of at least {least:.1f} MHz")
        return SdramTiming(**times, mrd=self.mrd, cas=self.cas, refresh=refresh)


class SdramPins(wiring.Signature):
    """Pins of a chip, seen from the controller, all high-active; chip select is tied. ``dq_oe`` is the direction of all ``dq``."""

    def __init__(self, chip: SdramChip):
        super().__init__(
            {
                "clk_en": Out(1),
                "ras": Out(1),
                "cas": Out(1),
                "we": Out(1),
                "ba": Out(2),
                "a": Out(max(chip.row_bits, _ALL_BANKS + 1)),
                "dqm": Out(BUS_BYTES),
                "dq_o": Out(8 * BUS_BYTES),
                "dq_oe": Out(1),
                "dq_i": In(8 * BUS_BYTES),
            }
        )


class _Wait:
    """Counts the cycles until a kind of command may come."""

    def __init__(self, m: Module, name: str, longest: int):
        self.left = Signal(range(longest + 1), name=f"{name}_left")
        self.over = Signal(name=f"{name}_over", init=1)  # none is left
        with m.If(~self.over):
            m.d.sync += [self.left.eq(self.left - 1), self.over.eq(self.left == 1)]

    def hold(self, m: Module, cycles: int) -> None:
        """At least ``cycles`` from this one to the next command."""
        with m.If(self.left < cycles):
            m.d.sync += [self.left.eq(cycles - 1), self.over.eq(cycles == 1)]


class Sdram(wiring.Component):
    """Serves bursts from a chip; rows stay open until another one of their bank, or a refresh.

    Beat a is at column ``a[:column_bits]`` of bank ``a[column_bits:column_bits + 2]``, the row is above; consecutive beats move
    through all banks before the row changes. Reads and writes take turns, burst by burst. A beat beyond the chip answers error.
    Requests wait until the chip has started.

    The chip must sample the pins by the clock edge that ends the cycle in which they change, and its data are sampled ``cas`` edges
    later: a board gives it a clock that leads by the time that signals take, or the controller's own where that is short.

    Latency: :attr:`latency` cycles from a read request to its first beat when the row is open, ``rcd`` more when the bank is closed, and
    ``rp`` more when another row is open (either is 2 at least); a refresh in between adds :attr:`refresh_cycles`, at most.
    Throughput: a beat a cycle within a row, over bursts of at least two beats of the same direction too. Entering another row costs
    :attr:`row_cycles`, a refresh :attr:`refresh_cycles` in every ``timing.refresh``: :attr:`bytes_per_cycle` for long sequential reads or
    writes.

    Parameters
    ----------
    chip : SdramChip
    clock_hz : float
        Of the domain ``sync``.

    Members
    -------
    port : ``In(MemoryPort(2))``
    pins : ``Out(SdramPins(chip))``
    """

    def __init__(self, chip: SdramChip, clock_hz: float):
        self.chip = chip
        self.clock_hz = clock_hz
        self.timing = chip.cycles(clock_hz)
        self.address = data.StructLayout(
            {
                "column": chip.column_bits,
                "bank": 2,
                "row": chip.row_bits,
                "beyond": ADDRESS_BITS - 2 - chip.row_bits - chip.column_bits,
            }
        )
        super().__init__({"port": In(MemoryPort(BUS_BYTES)), "pins": Out(SdramPins(chip))})

    @property
    def latency(self) -> int:
        return self.timing.cas + 5

    @property
    def row_cycles(self) -> int:
        """Cycles lost between two columns in different rows of banks: one to look the row up, precharge, activate."""
        return 1 + max(2, self.timing.rp) + max(2, self.timing.rcd)

    @property
    def refresh_cycles(self) -> int:
        """Cycles lost to a refresh: precharge, refresh, activate."""
        return max(2, self.timing.rp) + self.timing.rfc + max(2, self.timing.rcd)

    @property
    def bytes_per_cycle(self) -> float:
        """Bandwidth of long sequential bursts, rounding down."""
        columns = 1 << self.chip.column_bits
        return BUS_BYTES * columns / (columns + self.row_cycles) * (1 - self.refresh_cycles / self.timing.refresh)

    def elaborate(self, platform):
        m = Module()
        timing, pins = self.timing, self.pins
        command, running, room = Signal(Command), Signal(), Signal()
        activate = _Wait(m, "activate", max(timing.rc, timing.rfc, timing.mrd))
        m.d.sync += [pins.clk_en.eq(1), pins.a.eq(0), pins.dqm.eq(~running.replicate(BUS_BYTES)), pins.dq_oe.eq(command == Command.WRITE)]
        m.d.sync += [Cat(pins.ras, pins.cas, pins.we).eq(command), pins.dq_o.eq(self.port.write_data.payload.data)]
        self._start(m, command, activate, running)

        due, interval = Signal(), Signal(range(timing.refresh), init=timing.refresh - 1)
        with m.If(running):
            m.d.sync += interval.eq(Mux(interval == 0, timing.refresh - 1, interval - 1))
        with m.If(command == Command.REFRESH):
            m.d.sync += due.eq(0)
        with m.If(interval == 0):
            m.d.sync += due.eq(1)

        burst, following, take = self._burst(m, command, running & ~due)
        issue_read = command == Command.READ
        self._return(m, issue_read, burst.address.beyond != 0, room)
        self._schedule(m, command, burst, following, take, activate, running, due, room)
        return m

    def _start(self, m, command, activate, running):
        """Wait for the chip, then precharge, refresh and set its mode: bursts of one column, ``cas``."""
        timing, pins = self.timing, self.pins
        left = Signal(range(timing.startup + 1), init=timing.startup)
        count = Signal(range(_STARTUP_REFRESHES))
        with m.FSM():
            with m.State("STARTUP"):
                m.d.sync += left.eq(left - 1)
                with m.If(left == 0):
                    m.d.comb += command.eq(Command.PRECHARGE)
                    m.d.sync += pins.a[_ALL_BANKS].eq(1)
                    activate.hold(m, timing.rp)
                    m.next = "REFRESH"
            with m.State("REFRESH"), m.If(activate.over):
                m.d.comb += command.eq(Command.REFRESH)
                m.d.sync += count.eq(count + 1)
                activate.hold(m, timing.rfc)
                with m.If(count == _STARTUP_REFRESHES - 1):
                    m.next = "MODE"
            with m.State("MODE"), m.If(activate.over):
                m.d.comb += command.eq(Command.MODE)
                m.d.sync += [pins.a.eq(timing.cas << 4), pins.ba.eq(0)]
                activate.hold(m, timing.mrd)
                m.next = "RUN"
            with m.State("RUN"):
                m.d.sync += running.eq(1)

    def _burst(self, m, command, accepting):
        """Accept requests, reads and writes in turn, and walk through their beats; answer a write after its last beat.

        Returns the burst, the address of the next one, and whether that takes its place in this cycle.
        """
        port = self.port
        burst = Signal(
            data.StructLayout(
                {"active": 1, "write": 1, "address": self.address, "left": len(port.read_request.payload.beats), "last": 1, "failed": 1}
            )
        )
        # The next burst waits in a register, so that no path leads from the chip's command to the requests.
        following = Signal(data.StructLayout({"write": 1, "address": self.address, "left": len(port.read_request.payload.beats)}))
        present, take, write = Signal(), Signal(), Signal()
        m.d.comb += [
            take.eq(accepting & present & (~burst.active | (self._column(command) & burst.last))),
            write.eq(port.write_request.valid & ~(port.read_request.valid & following.write)),
            port.write_request.ready.eq(~present & write),
            port.read_request.ready.eq(~present & ~write),
        ]
        with m.If(port.write_response.ready):
            m.d.sync += port.write_response.valid.eq(0)
        with m.If(self._column(command)):
            failed = burst.failed | (burst.address.beyond != 0)
            m.d.sync += [burst.address.eq(burst.address.as_value() + 1), burst.left.eq(burst.left - 1), burst.failed.eq(failed)]
            m.d.sync += burst.last.eq(burst.left == 1)
            with m.If(burst.last):
                m.d.sync += burst.active.eq(0)
                with m.If(burst.write):
                    m.d.sync += [port.write_response.valid.eq(1), port.write_response.payload.error.eq(failed)]
        with m.If(take):
            m.d.sync += [present.eq(0), burst.active.eq(1), burst.failed.eq(0), burst.last.eq(following.left == 0)]
            m.d.sync += [burst[name].eq(following[name]) for name in ("write", "address", "left")]
        for request, is_write in ((port.read_request, 0), (port.write_request, 1)):
            with m.If(request.valid & request.ready):
                m.d.sync += [present.eq(1), following.write.eq(is_write)]
                m.d.sync += [following.address.eq(request.payload.address), following.left.eq(request.payload.beats)]
        return burst, following.address, take

    @staticmethod
    def _column(command):
        return (command == Command.READ) | (command == Command.WRITE)

    def _schedule(self, m, command, burst, following, take, activate, running, due, room):
        """Choose each cycle's command by the open rows and the times since earlier commands."""
        timing, pins, port = self.timing, self.pins, self.port
        precharge = _Wait(m, "precharge", max(timing.ras, timing.wr))
        column = _Wait(m, "column", timing.rcd)
        turn = _Wait(m, "turn", timing.cas + 2)  # one cycle in which nobody drives the data
        opened, rows = Signal(BANKS), Array(Signal(self.chip.row_bits, name=f"row_{bank}") for bank in range(BANKS))
        # What the table says of the burst's row, one cycle old: not to be used just after a change of either.
        hit, other, settled = Signal(), Signal(), Signal()
        address = burst.address
        # The rows of what may be the burst in the next cycle are looked up side by side, and the result is chosen.
        m.d.sync += settled.eq(1)
        for candidate, is_next in ((address, Const(1)), (following, take)):
            is_open, is_row = opened.bit_select(candidate.bank, 1), rows[candidate.bank] == candidate.row
            with m.If(is_next):
                m.d.sync += [other.eq(is_open), hit.eq(is_open & is_row)]

        able = Mux(burst.write, port.write_data.valid & turn.over & (~burst.last | ~port.write_response.valid), room)
        with m.If(running & settled & due):
            with m.If(opened.any() & precharge.over):
                m.d.comb += command.eq(Command.PRECHARGE)
                m.d.sync += [pins.a[_ALL_BANKS].eq(1), opened.eq(0), settled.eq(0)]
                activate.hold(m, timing.rp)
            with m.Elif(~opened.any() & activate.over):
                m.d.comb += command.eq(Command.REFRESH)
                m.d.sync += settled.eq(0)
                activate.hold(m, timing.rfc)
        with m.Elif(running & settled & burst.active):
            m.d.sync += pins.ba.eq(address.bank)
            with m.If(hit & column.over & able):
                m.d.comb += [command.eq(Mux(burst.write, Command.WRITE, Command.READ)), port.write_data.ready.eq(burst.write)]
                m.d.sync += [pins.a.eq(address.column), pins.dqm.eq((burst.write & (address.beyond != 0)).replicate(BUS_BYTES))]
                with m.If(address.column.all() & ~burst.last):
                    m.d.sync += settled.eq(0)
                with m.If(burst.write):
                    precharge.hold(m, timing.wr)
                with m.Else():
                    turn.hold(m, timing.cas + 2)
            with m.Elif(~hit & other & precharge.over):
                m.d.comb += command.eq(Command.PRECHARGE)
                m.d.sync += [opened.bit_select(address.bank, 1).eq(0), settled.eq(0)]
                activate.hold(m, timing.rp)
            with m.Elif(~hit & ~other & activate.over):
                m.d.comb += command.eq(Command.ACTIVATE)
                m.d.sync += [opened.bit_select(address.bank, 1).eq(1), rows[address.bank].eq(address.row)]
                m.d.sync += [pins.a.eq(address.row), settled.eq(0)]
                activate.hold(m, timing.rc)
                precharge.hold(m, timing.ras)
                column.hold(m, timing.rcd)

    def _return(self, m, issue, beyond, room):
        """Data of reads, ``cas`` cycles after the chip saw them, into a queue; no read is issued that it could not take."""
        m.submodules.queue = queue = SyncFIFO(width=8 * BUS_BYTES + 1, depth=_READS_AHEAD)
        beat = self.port.read_data
        coming, failed = Signal(self.timing.cas + 2), Signal(self.timing.cas + 2, reset_less=True)
        captured, free = Signal(8 * BUS_BYTES, reset_less=True), Signal(range(_READS_AHEAD + 1), init=_READS_AHEAD)
        m.d.sync += [coming.eq(Cat(issue, coming)), failed.eq(Cat(beyond, failed)), captured.eq(self.pins.dq_i)]
        m.d.sync += [free.eq(free - issue + (beat.valid & beat.ready)), room.eq(free > 1)]  # one is left after this cycle
        m.d.comb += [
            queue.w_en.eq(coming[-1]),
            queue.w_data.eq(Cat(captured, failed[-1])),
            queue.r_en.eq(beat.ready),
            beat.valid.eq(queue.r_rdy),
            Cat(beat.payload.data, beat.payload.error).eq(queue.r_data),
        ]
