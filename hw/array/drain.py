"""Reads finished result tiles out of the accumulators, through the epilogue, into the scratchpad."""

from typing import Any

from amaranth import *
from amaranth.lib import data, wiring
from amaranth.lib.fifo import SyncFIFO
from amaranth.lib.wiring import In, Out, connect, flipped
from amaranth.utils import ceil_log2, exact_log2

from .. import isa
from ..arith import delay
from ..config import CoreConfig
from ..epilogue.epilogue import PLACING, Epilogue, GroupPort
from ..epilogue.lane import settings_layout
from ..row_map import MapWrite, RowMap
from ..scratchpad import READ_LATENCY, ReadPort
from .accumulators import Accumulators, ResultRead
from .mac_array import array_latency
from .moving import result_tile

__all__ = ["Drain"]


class Drain(wiring.Component):
    """Third part of the array engine: row by row, group by group, while the last pass of the tile may still be running.

    A tile whose last pass begins in cycle s is drained from cycle ``d = max(s + delay(config), e of the tile before)`` on, to the cycle
    before ``e = d + M * p``, M being its rows and p the cycles of a row: L/E (form raw: 4, one word a cycle). The last word is written
    ``tail(config)`` cycles after the last drain cycle, and ``done`` follows in the next cycle.

    Several tiles may wait. The next last pass may begin from cycle ``e - slack(config, M, p)`` of the newest tile on (``ready``), so
    that it never overwrites a result that is not yet read:

    - Row r of a last pass that begins in cycle s' is written, in column 0 and later in the others, in cycle ``s' + r + A + 3`` with
      ``A = READ_LATENCY + array_latency``; the drain reads row r of the newest tile in cycle ``d + r * p + B`` with
      ``B = READ_LATENCY - Accumulators.READ_LATENCY``, all columns at once.
    - The write must be the later one: ``s' > d + r * (p - 1) - A + B - 3``. Row M - 1 asks most: ``s' >= e - (M + p + A - B + 1)``.
    - Tiles before the newest are read before it, and it is read after ``s' - A + B - 3`` in every row: they ask for less.

    So at full rate (E = L) a tile takes max(M, L + 1) cycles. As last passes are at least L + 1 cycles apart, and ``d`` is at most
    A - B + 2 = L + 6 cycles after the begin of the next one (L + 7 with ``config.double_rate``), no more than :attr:`WAITING` tiles ever
    wait: (L + 6) / (L + 1) is at most 2.

    Addresses are made ``ahead(config)`` cycles before the drain cycle, in which a row's offset is looked up and added.

    With ``config.narrow`` the sum of the moving operand's row goes with its accumulators. Packed results of a row are one part of a word;
    with ``pack_rows`` a word is written for 2**output_packing rows, and for the last ones of a tile.

    Parameters
    ----------
    config : CoreConfig

    Members
    -------
    begin : ``In(1)``
        A last pass begins in this cycle.
    tile : ``In(result_tile(config))``
    ready : ``Out(1)``
        It may begin in this cycle.
    result : ``Out(ResultRead)``
        To the accumulators.
    residual : ``Out(ReadPort)``
    epilogue : ``In(GroupPort)``
    address : ``Out(20)``
        Scratchpad address of the word that the epilogue gives in this cycle.
    last : ``Out(1)``
        That word is the last one of its instruction.
    row_map : ``In(MapWrite(config))``
        Only with ``config.map_rows``.
    """

    #: Tiles between the begin of their last pass and their first drain cycle, at most.
    WAITING = 3

    @staticmethod
    def delay(config: CoreConfig) -> int:
        """Cycles from the begin of a last pass to the first drain cycle: the first row is then in the result memories of all columns."""
        return array_latency(config) + Accumulators.RESULT_LATENCY + config.lanes - 1 + Accumulators.READ_LATENCY

    @staticmethod
    def tail(config: CoreConfig) -> int:
        """Cycles from the last drain cycle of a row to the write of its last word."""
        return READ_LATENCY + 1 + Epilogue.latency(config)

    @staticmethod
    def slack(config: CoreConfig, rows: Any, period: Any) -> Any:
        """Cycles before the end of a drain of ``rows`` rows from which on the next last pass cannot overtake it."""
        return rows + period + array_latency(config) + Accumulators.READ_LATENCY + 1

    @staticmethod
    def ahead(config: CoreConfig) -> int:
        return RowMap.latency + 1 if config.map_rows else 0

    def __init__(self, config: CoreConfig):
        self.config = config
        super().__init__(
            {
                "begin": In(1),
                "tile": In(result_tile(config)),
                "ready": Out(1),
                "result": Out(ResultRead(config)),
                "residual": Out(ReadPort(isa.ADDRESS.width, config.lanes)),
                "epilogue": In(GroupPort(config)),
                "address": Out(isa.ADDRESS),
                "last": Out(1),
                **({"row_map": In(MapWrite(config))} if config.map_rows else {}),
            }
        )

    def elaborate(self, platform):
        m = Module()
        tile, take = Signal.like(self.tile, reset_less=True), Signal()
        left = Signal(16)  # cycles of the tile, this one included
        m.submodules.waiting = waiting = SyncFIFO(width=len(Value.cast(self.tile)), depth=1 << ceil_log2(self.WAITING))
        m.d.comb += [waiting.w_en.eq(delay(m, self.begin, 1, name="begin", reset_less=False)), waiting.r_en.eq(take)]
        m.d.comb += waiting.w_data.eq(delay(m, self.tile, 1, name="begun_tile"))
        self._pace(m, take, left <= 1)

        raw = tile.form == isa.Form.RAW
        phase, period_end = Signal(2), Signal()
        row, output, residual = Signal(13), Signal(isa.ADDRESS, reset_less=True), Signal(isa.ADDRESS, reset_less=True)
        steps = [tile.output_row, tile.output_row]
        if self.config.map_rows:
            steps = [Mux(mapped, 0, tile.output_row) for mapped in tile.map]
        placing = Signal(PLACING)
        if self.config.narrow:
            self._place_in_word(m, placing, tile, row)
            steps[0] = Mux(placing.ends, steps[0], 0)
        m.d.comb += period_end.eq(phase == Mux(raw, 3, self.config.groups - 1))
        with m.If(left != 0):
            m.d.sync += [left.eq(left - 1), phase.eq(phase + 1)]
            with m.If(period_end):
                m.d.sync += [phase.eq(0), row.eq(row + 1), output.eq(output + steps[0]), residual.eq(residual + steps[1])]
        with m.If(take):
            following = self.tile.shape()(waiting.r_data)
            m.d.sync += [left.eq(self._length(following)), tile.eq(following), row.eq(0)]
            m.d.sync += [output.eq(following.output), residual.eq(following.residual)]

        ahead = self.ahead(self.config)
        first = (left != 0) & (phase == 0)
        written, read = self._place(m, tile, row, {"output": output + Mux(raw, phase, 0), "residual": residual})
        # The accumulators answer sooner than the scratchpad: ask them later.
        asked = ahead + READ_LATENCY - Accumulators.READ_LATENCY
        m.d.comb += [
            self.residual.enable.eq(delay(m, first & (tile.form == isa.Form.RESIDUAL), ahead, name="wanted", reset_less=False)),
            self.residual.address.eq(read),
            self.result.enable.eq(delay(m, first, asked, name="first", reset_less=False)),
            self.result.row.eq(delay(m, row, asked, name="row")),
            self.address.eq(delay(m, written, self.tail(self.config), name="address")),
            self.last.eq(delay(m, (left == 1) & tile.last, ahead + self.tail(self.config), name="last", reset_less=False)),
        ]
        self._feed_epilogue(m, tile, left != 0, phase, raw, placing)
        return m

    def _length(self, tile: Any) -> Value:
        """Drain cycles of a tile."""
        return Mux(tile.form == isa.Form.RAW, tile.rows.shift_left(2), tile.rows.shift_left(exact_log2(self.config.groups)))

    def _place_in_word(self, m: Module, placing: data.View, tile: Any, row: Value) -> None:
        """Where in a word the results of a row lie, and whether it is the last row there."""
        last_part = ((1 << tile.output_packing) - 1)[:3]
        m.d.comb += [
            placing.pack_rows.eq(tile.pack_rows),
            placing.part.eq(Mux(tile.pack_rows, row & last_part, tile.part)),
            placing.ends.eq(~tile.pack_rows | ((row & last_part) == last_part) | (row == tile.rows - 1)),
        ]

    def _pace(self, m: Module, take: Value, free: Value) -> None:
        """``take`` a tile when its first row is in the result memories and the drain is ``free``; tell when the next may begin."""
        begun = delay(m, self.begin, self.delay(self.config) - 1 - self.ahead(self.config), name="begun", reset_less=False)
        due = Signal(range(self.WAITING + 1))  # tiles that could be drained already
        m.d.comb += take.eq((begun | (due != 0)) & free)
        m.d.sync += due.eq(due + begun - take)

        # Cycles to the end of the newest tile's drain: all that the hardware must know of the tiles that wait.
        end = Signal(range(self.delay(self.config) + 6 * self.config.accumulator_rows))
        slack = Signal.like(end)
        m.d.sync += self.ready.eq(end <= slack)  # what the next cycle's `end` is, but after a begin, when no next one comes so soon
        with m.If(end != 0):
            m.d.sync += end.eq(end - 1)
        with m.If(self.begin):
            period = Mux(self.tile.form == isa.Form.RAW, 4, self.config.groups)
            m.d.sync += end.eq(Mux(end > self.delay(self.config), end, self.delay(self.config)) + self._length(self.tile) - 1)
            m.d.sync += slack.eq(self.slack(self.config, self.tile.rows, period) + 1)

    def _place(self, m: Module, tile: Any, row: Value, addresses: dict[str, Value]) -> list[Value]:
        """``addresses`` of output and residual, ``ahead`` cycles later and with the offset of the row where it is mapped."""
        if not self.config.map_rows:
            return list(addresses.values())
        m.submodules.row_map = row_map = RowMap(self.config)
        connect(m, drain=flipped(self.row_map), row_map=row_map.write)
        m.d.comb += row_map.entry.eq(tile.map_base + row)
        placed = []
        for mapped, (name, address) in zip(tile.map, addresses.items(), strict=True):
            mapped = delay(m, mapped, RowMap.latency, name=f"{name}_mapped")
            address = delay(m, address, RowMap.latency, name=name)
            placed.append(Signal(isa.ADDRESS, name=f"{name}_placed", reset_less=True))
            m.d.sync += placed[-1].eq(address + Mux(mapped, row_map.offset, 0))
        return placed

    def _feed_epilogue(self, m: Module, tile: data.View, valid: Value, phase: Value, raw: Value, placing: data.View) -> None:
        """Hold the row that arrives and give E accumulators of it at a time, ``READ_LATENCY`` + 1 cycles after their drain cycle."""
        arrival = self.ahead(self.config) + READ_LATENCY
        lanes, groups = self.config.epilogue_lanes, self.config.groups
        sums = Signal(data.ArrayLayout(signed(32), self.config.lanes), reset_less=True)
        residuals = Signal(data.ArrayLayout(signed(8), self.config.lanes), reset_less=True)
        # For raw a group makes 4E/L words, and comes that many cycles after the group before it.
        spread = exact_log2(4 // groups)
        names = ["constant", "settings", *(["placing"] if self.config.narrow else [])]
        issue = Signal(data.StructLayout({name: self.epilogue.signature.members[name].shape for name in names}))
        group_valid = Signal()
        group = Mux(raw, phase >> spread, phase)
        m.d.comb += [
            group_valid.eq(valid & (~raw | ((phase & ((1 << spread) - 1)) == 0))),
            issue.constant.eq(tile.block * groups + group),
            *(issue.settings[name].eq(tile[name]) for name in settings_layout(self.config).members),
        ]
        issued = delay(m, issue, arrival + 1, name="issue")
        issued_valid = delay(m, group_valid, arrival + 1, name="issue_valid", reset_less=False)
        arriving = delay(m, valid & (phase == 0), arrival - 1, name="arrival", reset_less=False)
        arrived, moves = delay(m, arriving, 1, name="arrived", reset_less=False), Signal()
        m.d.sync += moves.eq(arriving | delay(m, group_valid, arrival, name="issue_soon", reset_less=False))
        with m.If(moves):  # arrived | issued_valid, in a register for as many bits
            m.d.sync += sums.eq(Mux(arrived, self.result.data.as_value(), sums.as_value() >> 32 * lanes))
            m.d.sync += residuals.eq(Mux(arrived, self.residual.data.as_value(), residuals.as_value() >> 8 * lanes))
        m.d.comb += [
            self.epilogue.valid.eq(issued_valid),
            *(getattr(self.epilogue, name).eq(issued[name]) for name in names),
            *(self.epilogue.acc[lane].eq(sums[lane]) for lane in range(lanes)),
            *(self.epilogue.residual[lane].eq(residuals[lane]) for lane in range(lanes)),
        ]
        if self.config.narrow:
            row_sum = Signal.like(self.result.row_sum, name="row_sum", reset_less=True)
            with m.If(arrived):
                m.d.sync += row_sum.eq(self.result.row_sum)
            m.d.comb += [issue.placing.eq(placing), self.epilogue.row_sum.eq(row_sum)]
