"""Streams the moving rows of a MATMUL through the array, a pass of all rows for each stationary tile."""

from amaranth import *
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from .. import isa
from ..arith import delay
from ..config import CoreConfig
from ..epilogue.lane import settings_layout
from ..scratchpad import READ_LATENCY, ReadPort
from .accumulators import AccumulatorControl
from .mac_array import MovingSignature, array_latency

__all__ = ["MovingStream", "result_tile"]

_BODY = isa.BODIES[isa.Opcode.MATMUL]


def result_tile(config: CoreConfig) -> data.StructLayout:
    """What the drain must know of a column of tiles whose last pass begins."""
    names = ["rows", "output", "output_row", "residual", *settings_layout(config).members]
    if config.narrow:
        names += ["pack_rows", "part"]
    if config.map_rows:
        names += ["map", "map_base"]
    return data.StructLayout({**{name: _BODY[name].shape for name in names}, "block": _BODY["constant"].shape, "last": 1})


class MovingStream(wiring.Component):
    """Second part of the array engine: for each tile, reads rows 0 .. M - 1 of the moving operand, one a cycle.

    With ``output_packing`` a column of tiles fills one part of the words of its rows: ``tile.output`` is where these words are and
    ``tile.part`` which part it is. Only with ``config.narrow``.

    Tile t begins in cycle ``s(t) = max(f(t) + L, s(t - 1) + max(M, L))`` with f(t) from :class:`.fetch.StationaryFetch` and M the rows of
    tile t - 1; the last pass over k waits for ``drain_ready`` besides. The body is taken in the last cycle of the instruction before, or
    when there is none.

    Parameters
    ----------
    config : CoreConfig

    Members
    -------
    body : ``In(stream.Signature(MATMUL body))``
    full : ``In(1)``
        The next tile is in the shadow registers.
    swap : ``Out(1)``
        A tile begins in this cycle.
    drain_ready : ``In(1)``
        A last pass may begin.
    begin : ``Out(1)``
        A last pass begins in this cycle; ``tile`` tells of it.
    tile : ``Out(result_tile(config))``
    read : ``Out(ReadPort)``
    moving : ``Out(MovingSignature)``
        To the array.
    control : ``Out(AccumulatorControl)``
        To the accumulators.
    """

    def __init__(self, config: CoreConfig):
        self.config = config
        super().__init__(
            {
                "body": In(stream.Signature(_BODY)),
                "full": In(1),
                "swap": Out(1),
                "drain_ready": In(1),
                "begin": Out(1),
                "tile": Out(result_tile(config)),
                "read": Out(ReadPort(isa.ADDRESS.width, config.lanes)),
                "moving": Out(MovingSignature(config)),
                "control": Out(AccumulatorControl(config)),
            }
        )

    def elaborate(self, platform):
        m = Module()
        lanes = self.config.lanes
        body = Signal(_BODY, reset_less=True)
        active = Signal()
        row, k, n = Signal(13), Signal(10), Signal(10)
        # Conditions on the counters are registers, made a cycle or more ahead: a tile takes at least L >= 4 cycles, in which the next
        # one is loaded, so that neither of its first two rows is the last.
        first_row, last_row, inside = Signal(init=1), Signal(), Signal(init=1)
        last_k, last_n, next_k, next_n, only_k = (Signal(name=name) for name in ("last_k", "last_n", "next_k", "next_n", "only_k"))
        before_last, fire, finished = Signal.like(row, init=2), Signal(), Signal()
        m.d.comb += [
            self.swap.eq(active & first_row & self.full & (~last_k | self.drain_ready)),
            fire.eq(self.swap | ~first_row),
            self.begin.eq(self.swap & last_k),
            finished.eq(last_row & last_k & last_n),
            self.body.ready.eq(~active | finished),
        ]
        m.d.sync += [
            before_last.eq(Mux(body.rows < lanes, lanes, body.rows) - 2),
            only_k.eq(body.k_tiles == 1),
            next_k.eq(k + 2 == body.k_tiles),
            next_n.eq(n + 2 == body.n_tiles),
        ]
        address, tile = Signal(isa.ADDRESS, reset_less=True), Signal(isa.ADDRESS, reset_less=True)
        output, residual = Signal(isa.ADDRESS, reset_less=True), Signal(isa.ADDRESS, reset_less=True)
        block = Signal.like(body.constant, name="block", reset_less=True)
        part, last_part = Signal.like(body.part, name="part", reset_less=True), Const(1)
        if self.config.narrow:
            last_part = body.pack_rows | (part + 1).bit_select(body.output_packing, 1)
        with m.If(fire):
            m.d.sync += [row.eq(row + 1), address.eq(address + body.moving_row)]
            m.d.sync += [first_row.eq(0), last_row.eq(row == before_last), inside.eq(row + 1 < body.rows)]
            with m.If(last_row):
                m.d.sync += [first_row.eq(1), last_row.eq(0), inside.eq(1), last_k.eq(Mux(last_k, only_k, next_k))]
                m.d.sync += [row.eq(0), k.eq(k + 1), tile.eq(tile + body.moving_k), address.eq(tile + body.moving_k)]
                with m.If(last_k):
                    m.d.sync += [k.eq(0), n.eq(n + 1), last_n.eq(next_n), tile.eq(body.moving), address.eq(body.moving)]
                    m.d.sync += [block.eq(block + body.constant_n), residual.eq(residual + body.output_n)]
                    m.d.sync += [output.eq(output + Mux(last_part, body.output_n, 0)), part.eq(Mux(last_part, 0, part + 1))]
        with m.If(finished):
            m.d.sync += active.eq(0)
        with m.If(self.body.ready & self.body.valid):
            incoming = self.body.payload
            m.d.sync += [active.eq(1), body.eq(incoming), n.eq(0), tile.eq(incoming.moving), address.eq(incoming.moving)]
            m.d.sync += [output.eq(incoming.output), residual.eq(incoming.residual), block.eq(incoming.constant)]
            m.d.sync += [part.eq(incoming.part), last_k.eq(incoming.k_tiles == 1), last_n.eq(incoming.n_tiles == 1)]

        valid = fire & inside
        m.d.comb += [self.read.enable.eq(valid), self.read.address.eq(address)]
        here = {"output": output, "residual": residual, "block": block, "part": part, "last": last_n}
        m.d.comb += [self.tile[name].eq(here[name] if name in here else body[name]) for name, _ in self.tile.shape()]
        first_k = k == 0
        operand = {"mode": body.mode}
        if self.config.narrow:
            index = range(lanes)
            skipped = Cat(first_k & (i < body.k_skip) for i in index) | Cat(last_k & (lanes - 1 - i < body.k_pad) for i in index)
            operand |= {"codebook": body.codebook, "zero": body.moving_zero, "keep": ~skipped}
        self._delay_to_array(m, operand, valid, {"row": row, "first": first_k, "last": last_k})
        return m

    def _delay_to_array(self, m: Module, operand: dict[str, Value], valid: Value, control: dict[str, Value]) -> None:
        """Bring what goes with a row to the cycle in which its data reach the array, or its sums the first accumulator."""
        m.d.comb += [
            self.moving.data.eq(self.read.data),
            *(getattr(self.moving, name).eq(delay(m, value, READ_LATENCY, name=name)) for name, value in operand.items()),
            self.moving.swap.eq(delay(m, self.swap, READ_LATENCY, name="swap", reset_less=False)),
        ]
        cycles = READ_LATENCY + array_latency(self.config)
        m.d.comb += self.control.valid.eq(delay(m, valid, cycles, name="valid", reset_less=False))
        fields = Signal(data.StructLayout({"row": self.control.row.shape(), "first": 1, "last": 1}))
        m.d.comb += [fields[name].eq(value) for name, value in control.items()]
        fields = delay(m, fields, cycles, name="control")
        m.d.comb += [getattr(self.control, name).eq(fields[name]) for name in control]
