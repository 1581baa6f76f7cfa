"""Reads finished result tiles out of the accumulators, through the epilogue, into the scratchpad."""

from amaranth import *
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out
from amaranth.utils import exact_log2

from .. import isa
from ..arith import delay
from ..config import CoreConfig
from ..epilogue.epilogue import Epilogue, GroupPort
from ..scratchpad import READ_LATENCY, ReadPort
from .accumulators import Accumulators, ResultRead
from .mac_array import array_latency
from .moving import ResultTile

__all__ = ["Drain"]


class Drain(wiring.Component):
    """Third part of the array engine: row by row, group by group, while the last pass of the tile may still be running.

    A tile whose last pass begins in cycle s is drained from cycle ``max(s + delay(config), end of the drain before)`` on, for
    ``rows * period`` cycles, the period of a row being L/E (form raw: 4, one word a cycle). The last word is written ``tail(config)``
    cycles after the last of them, and ``done`` follows in the next cycle.

    The result memory has one row for each row of the tile, so the next last pass may begin only when it cannot overtake the reading of
    this one: no tile is waiting and at most min(M, M of the next) cycles are left (``ready``).

    Parameters
    ----------
    config : CoreConfig

    Members
    -------
    begin : ``In(1)``
        A last pass begins in this cycle.
    tile : ``In(ResultTile)``
    rows : ``In(13)``
        Rows of the pass that asks whether it may begin.
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
    """

    @staticmethod
    def delay(config: CoreConfig) -> int:
        """Cycles from the begin of a last pass to the first drain cycle: the first row is then in the result memories of all columns."""
        return READ_LATENCY + array_latency(config.lanes) + Accumulators.RESULT_LATENCY + config.lanes - 2

    @staticmethod
    def tail(config: CoreConfig) -> int:
        """Cycles from the last drain cycle of a row to the write of its last word."""
        return READ_LATENCY + 1 + Epilogue.latency

    def __init__(self, config: CoreConfig):
        self.config = config
        super().__init__(
            {
                "begin": In(1),
                "tile": In(ResultTile),
                "rows": In(13),
                "ready": Out(1),
                "result": Out(ResultRead(config)),
                "residual": Out(ReadPort(isa.ADDRESS.width, config.lanes)),
                "epilogue": In(GroupPort(config)),
                "address": Out(isa.ADDRESS),
                "last": Out(1),
            }
        )

    def elaborate(self, platform):
        m = Module()
        waiting, tile = Signal(), Signal(ResultTile, reset_less=True)
        pending = Signal(ResultTile, reset_less=True)
        timer = Signal(range(self.delay(self.config)))
        left = Signal(16)  # drain cycles, this one included
        take = waiting & (timer == 0) & (left <= 1)
        m.d.comb += self.ready.eq(~waiting & (left <= tile.rows) & (left <= self.rows))

        with m.If(timer != 0):
            m.d.sync += timer.eq(timer - 1)
        with m.If(self.begin):
            m.d.sync += [waiting.eq(1), pending.eq(self.tile), timer.eq(self.delay(self.config) - 2)]

        raw = tile.form == isa.Form.RAW
        phase, period_end = Signal(2), Signal()
        row, output, residual = Signal(13), Signal(isa.ADDRESS, reset_less=True), Signal(isa.ADDRESS, reset_less=True)
        m.d.comb += period_end.eq(phase == Mux(raw, 3, self.config.groups - 1))
        with m.If(left != 0):
            m.d.sync += [left.eq(left - 1), phase.eq(phase + 1)]
            with m.If(period_end):
                m.d.sync += [phase.eq(0), row.eq(row + 1), output.eq(output + tile.output_row), residual.eq(residual + tile.output_row)]
        with m.If(take):
            period = exact_log2(self.config.groups)
            pending_raw = pending.form == isa.Form.RAW
            m.d.sync += left.eq(Mux(pending_raw, pending.rows.shift_left(2), pending.rows.shift_left(period)))
            m.d.sync += [waiting.eq(0), tile.eq(pending), row.eq(0), output.eq(pending.output), residual.eq(pending.residual)]

        # The accumulators answer in 2 cycles, the scratchpad in 3: ask them a cycle later.
        first = (left != 0) & (phase == 0)
        m.d.comb += [
            self.residual.enable.eq(first & (tile.form == isa.Form.RESIDUAL)),
            self.residual.address.eq(residual),
            self.result.enable.eq(delay(m, first, READ_LATENCY - Accumulators.READ_LATENCY, name="first", reset_less=False)),
            self.result.row.eq(delay(m, row, READ_LATENCY - Accumulators.READ_LATENCY, name="row")),
            self.address.eq(delay(m, output + Mux(raw, phase, 0), self.tail(self.config), name="address")),
            self.last.eq(delay(m, (left == 1) & tile.last, self.tail(self.config), name="last", reset_less=False)),
        ]
        self._feed_epilogue(m, tile, left != 0, phase, raw)
        return m

    def _feed_epilogue(self, m: Module, tile: data.View, valid: Value, phase: Value, raw: Value) -> None:
        """Hold the row that arrives and give E accumulators of it at a time, ``READ_LATENCY`` + 1 cycles after their drain cycle."""
        lanes, groups = self.config.epilogue_lanes, self.config.groups
        sums = Signal(data.ArrayLayout(signed(32), self.config.lanes), reset_less=True)
        residuals = Signal(data.ArrayLayout(signed(8), self.config.lanes), reset_less=True)
        # For raw a group makes 4E/L words, and comes that many cycles after the group before it.
        spread = exact_log2(4 // groups)
        issue = Signal(data.StructLayout({name: self.epilogue.signature.members[name].shape for name in ("constant", "settings")}))
        group_valid = Signal()
        group = Mux(raw, phase >> spread, phase)
        m.d.comb += [
            group_valid.eq(valid & (~raw | ((phase & ((1 << spread) - 1)) == 0))),
            issue.constant.eq(tile.block * groups + group),
            *(issue.settings[name].eq(tile[name]) for name in ("form", "table", "zero_out", "residual_zero", "residual_multiplier")),
        ]
        issued = delay(m, issue, READ_LATENCY + 1, name="issue")
        issued_valid = delay(m, group_valid, READ_LATENCY + 1, name="issue_valid", reset_less=False)
        with m.If(delay(m, valid & (phase == 0), READ_LATENCY, name="arrival", reset_less=False)):
            m.d.sync += [sums.eq(self.result.data), residuals.eq(self.residual.data)]
        with m.Elif(issued_valid):
            m.d.sync += [sums.eq(sums.as_value() >> 32 * lanes), residuals.eq(residuals.as_value() >> 8 * lanes)]
        m.d.comb += [
            self.epilogue.valid.eq(issued_valid),
            self.epilogue.constant.eq(issued.constant),
            self.epilogue.settings.eq(issued.settings),
            *(self.epilogue.acc[lane].eq(sums[lane]) for lane in range(lanes)),
            *(self.epilogue.residual[lane].eq(residuals[lane]) for lane in range(lanes)),
        ]
