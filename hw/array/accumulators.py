"""Accumulator memories under the array's columns."""

from itertools import pairwise
from typing import Any

from amaranth import *
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out
from amaranth.utils import ceil_log2

from ..arith import delay
from ..config import CoreConfig
from ..ram import Ram
from .row_sum import row_sum_width

__all__ = ["AccumulatorControl", "Accumulators", "ResultRead"]


class AccumulatorControl(wiring.Signature):
    """What to do with a row of sums: ``valid``, ``row``, ``first`` (add it to zero), ``last`` (the total is a result)."""

    def __init__(self, config: CoreConfig) -> None:
        super().__init__({"valid": Out(1), "row": Out(ceil_log2(config.accumulator_rows)), "first": Out(1), "last": Out(1)})


class ResultRead(wiring.Signature):
    """Read port of the results: ``enable``, ``row``; ``data`` (L signed(32)) some cycles later.

    With ``config.narrow`` also ``row_sum`` (signed(config.row_sum_bits)), with ``data``: the sum of the moving operand's row.
    """

    def __init__(self, config: CoreConfig) -> None:
        members = {"enable": Out(1), "row": Out(ceil_log2(config.accumulator_rows))}
        members["data"] = In(data.ArrayLayout(signed(32), config.lanes))
        if config.narrow:
            members["row_sum"] = In(signed(config.row_sum_bits))
        super().__init__(members)


class Accumulators(wiring.Component):
    """Adds up the sums that leave the array, one memory of partial totals and one of results in each column.

    Arithmetic: exact in 32 bits; the quantiser proves that nothing overflows. ``control`` comes in the cycle in which ``sums[0]`` carries
    its row and follows the wavefront: c cycles later it is for ``sums[c]``. The last total of a row goes to the results only, so the
    next tile accumulates while these are read.

    With ``config.narrow`` the sums of the moving rows are one more column, ``row_sum``, in time with column 0.

    Latency: a total written in cycle t + 3 + c is read for the next sum of its row from t + ``ACCUMULATE_LATENCY`` + c on, so a row
    comes again that many cycles later or later. A result may be read (``read.enable``) from ``RESULT_LATENCY`` + L - 1 cycles after its
    control word on, all columns at once; data come ``READ_LATENCY`` cycles after the enable. Throughput: a row a cycle, and a read a cycle.

    Neither memory is read and written at one address in one cycle when these rules are kept, as :class:`..ram.Ram` demands.

    Parameters
    ----------
    config : :class:`CoreConfig`

    Members
    -------
    control : ``In(AccumulatorControl(config))``
    sums : ``In(ArrayLayout(signed(config.sum_bits), L))``
    row_sum : ``In(signed(row_sum_width(config)))``
        Only with ``config.narrow``.
    read : ``In(ResultRead(config))``
    """

    control: Any
    sums: data.View
    row_sum: Any
    read: Any

    ACCUMULATE_LATENCY = 4
    RESULT_LATENCY = 4
    READ_LATENCY = 2

    def __init__(self, config: CoreConfig) -> None:
        self.config = config
        super().__init__(
            {
                "control": In(AccumulatorControl(config)),
                "sums": In(data.ArrayLayout(signed(config.sum_bits), config.lanes)),
                **({"row_sum": In(signed(row_sum_width(config)))} if config.narrow else {}),
                "read": In(ResultRead(config)),
            }
        )

    def elaborate(self, platform):
        m = Module()
        # One chain serves all columns: stage c + n is what column c did n cycles ago.
        layout = data.StructLayout({"valid": 1, "row": ceil_log2(self.config.accumulator_rows), "first": 1, "last": 1})
        control = [Signal(layout, name=f"control_{stage}") for stage in range(self.config.lanes + 3)]
        m.d.comb += [control[0][name].eq(getattr(self.control, name)) for name in layout.members]
        m.d.sync += [later.eq(earlier) for earlier, later in pairwise(control)]
        for c in range(self.config.lanes):
            m.submodules[f"column_{c}"] = column = Module()
            self._accumulate(column, control[c : c + 4], self.sums[c], self.read.data[c])
        if self.config.narrow:
            m.submodules.row_sums = column = Module()
            self._accumulate(column, control[:4], self.row_sum, self.read.row_sum)
        return m

    def _accumulate(self, m: Module, control: list[data.View], added: Value, result: Value) -> None:
        """Add up ``added`` as ``control`` says in four cycles, to totals as wide as ``result``, in which they are when they are read."""
        shape, rows = result.shape(), self.config.accumulator_rows
        m.submodules.totals = totals = Ram(shape=shape, depth=rows)
        m.submodules.results = results = Ram(shape=shape, depth=rows)
        fetch, store = totals.read, totals.write
        read, write = results.read, results.write
        before, total = (Signal(shape, name=name, reset_less=True) for name in ("before", "total"))
        sum_q = delay(m, added, 2, name="sum")
        m.d.comb += [fetch.en.eq(control[0].valid), fetch.addr.eq(control[0].row)]
        m.d.sync += [before.eq(Mux(control[1].first, 0, fetch.data)), total.eq(before + sum_q)]
        done = control[3]
        for port, enable in ((store, ~done.last), (write, done.last)):
            m.d.comb += [port.en.eq(done.valid & enable), port.addr.eq(done.row), port.data.eq(total)]
        m.d.comb += [read.en.eq(self.read.enable), read.addr.eq(self.read.row)]
        m.d.sync += result.eq(read.data)
