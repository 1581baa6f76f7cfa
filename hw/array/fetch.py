"""Reads the stationary tiles of a MATMUL ahead of the moving rows."""

from typing import Any

from amaranth import *
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out

from .. import isa
from ..arith import delay
from ..config import MODES, PACKING, CoreConfig
from ..scratchpad import READ_LATENCY, ReadPort
from .mac_array import StationarySignature
from .unpack import StationaryUnpack

__all__ = ["StationaryFetch"]


class StationaryFetch(wiring.Component):
    """First part of the array engine: accepts a MATMUL, fills the shadow registers tile by tile.

    With the instruction accepted in cycle a, it is checked in ``CHECK_CYCLES`` cycles from a + 1 on, and tile t is read in cycles
    f(t) .. f(t) + L - 1, without a pause, where ``f(t) = max(a + 1, f(t - 1) + L, s(t - 1))`` and s(t - 1) is the cycle in which the
    tile before it is swapped in. Where a stored word has the values of several rows of the array (``stationary_packing``), it is read in
    the cycle of the first of them.

    Parameters
    ----------
    config : CoreConfig

    Members
    -------
    instruction : ``In(stream.Signature(INSTRUCTION_BITS))``
        Accepted when all tiles of the instruction before are read and its body is handed on.
    start : ``Out(1)``
        An instruction is accepted in this cycle.
    error : ``Out(isa.Error)``
        Other than NONE when the instruction accepted ``CHECK_CYCLES`` cycles before is refused: at most as many of its words are read.
    body : ``Out(stream.Signature(MATMUL body))``
        To the moving part.
    full : ``Out(1)``
        From the cycle after a tile's last read until ``swap``.
    swap : ``In(1)``
        The moving part begins a tile in this cycle.
    read : ``Out(ReadPort)``
    stationary : ``Out(StationarySignature)``
        To the array.
    """

    #: Body; conditions for a refusal, each in a register; the error.
    CHECK_CYCLES = 3

    def __init__(self, config: CoreConfig):
        self.config = config
        self.layout = isa.BODIES[isa.Opcode.MATMUL]
        super().__init__(
            {
                "instruction": In(stream.Signature(isa.INSTRUCTION_BITS)),
                "start": Out(1),
                "error": Out(isa.Error),
                "body": Out(stream.Signature(self.layout)),
                "full": Out(1),
                "swap": In(1),
                "read": Out(ReadPort(isa.ADDRESS.width, config.lanes)),
                "stationary": Out(StationarySignature(config)),
            }
        )

    def check(self, body) -> list[tuple[Value, isa.Error]]:
        """Conditions under which an instruction is refused, in order of precedence."""
        config = self.config
        modes = [body.mode != isa.Mode(MODES.index(mode)) for mode in config.modes]
        blocks = config.constant_channels // config.lanes
        last_block = body.constant + Mux(body.constant_n, body.n_tiles - 1, 0)
        if config.map_rows:
            maps = [(body.map == 2, isa.Error.FIELD), (body.map[0] & (body.map_base + body.rows > config.map_rows), isa.Error.ADDRESS)]
        else:
            maps = [(body.map != 0, isa.Error.FIELD)]
        if config.narrow:
            packed = (body.output_packing != 0) & ((body.form == isa.Form.RAW) | (body.form == isa.Form.RESIDUAL))
            packed |= (body.pack_rows & (body.map != 0)) | (body.part >= (1 << body.output_packing))
        else:
            packed = Cat(body.output_packing, body.pack_rows, body.part).any()
        return [
            ((body.rows == 0) | (body.rows > config.accumulator_rows), isa.Error.FIELD),
            ((body.k_tiles == 0) | (body.n_tiles == 0), isa.Error.FIELD),
            (Cat(modes).all(), isa.Error.FIELD),
            ((body.form.as_value() > max(form.value for form in isa.Form)), isa.Error.FIELD),
            (packed, isa.Error.FIELD),
            (self._misfit(body), isa.Error.FIELD),
            (last_block >= blocks, isa.Error.ADDRESS),
            *maps,
        ]

    def _misfit(self, body) -> Value:
        """Whether the operands are described as this core, or as their mode, does not have them."""
        packing, lanes = _packing(body.mode), self.config.lanes
        unit = body.codebook == isa.Codebook.UNIT
        misfit = (body.stationary_packing < packing) | ((body.direction == isa.LoadDirection.COLUMN) & (body.stationary_packing != packing))
        if not self.config.packed_weights:
            misfit = body.stationary_packing != 0
        if not self.config.narrow:
            return misfit | Cat(unit, body.moving_zero, body.k_skip, body.k_pad).any()
        misfit |= unit & (body.mode != isa.Mode.BINARY) & (body.mode != isa.Mode.LOG2)
        misfit |= (body.moving_zero != 0) & (body.mode != isa.Mode.INT4)
        return misfit | (body.k_skip >= lanes) | (body.k_pad >= lanes)

    def elaborate(self, platform):
        m = Module()
        incoming = isa.body(isa.Opcode.MATMUL, self.instruction.payload)
        body = Signal(self.layout, reset_less=True)
        loading = Signal()  # tiles are left to read
        handed = Signal(init=1)  # the moving part has the body
        checking, refused = Signal(self.CHECK_CYCLES), Signal(isa.Error)
        m.d.comb += [
            self.instruction.ready.eq(~loading & handed),
            self.start.eq(self.instruction.valid & self.instruction.ready),
            self.body.valid.eq(~handed & ~checking.any()),
            self.body.payload.eq(body),
        ]
        with m.If(self.body.ready & self.body.valid):
            m.d.sync += handed.eq(1)

        word = Signal(range(self.config.lanes))
        k, n = Signal(10), Signal(10)
        address, tile, column = (Signal(isa.ADDRESS, name=name) for name in ("address", "tile", "column"))
        fire, last, fresh = Signal(), Signal(), Signal()
        # Made ahead of their use, as a tile takes L cycles.
        last_k, last_n = Signal(), Signal()
        m.d.sync += [last_k.eq(k + 1 == body.k_tiles), last_n.eq(n + 1 == body.n_tiles)]
        m.d.comb += [
            fire.eq(loading & ((word != 0) | ~self.full | self.swap)),
            last.eq(word == self.config.lanes - 1),
            fresh.eq(self._fresh(body, word)),
            self.read.enable.eq(fire & fresh),
            self.read.address.eq(address),
        ]
        with m.If(self.swap):
            m.d.sync += self.full.eq(0)
        with m.If(fire):
            m.d.sync += word.eq(word + 1)
            with m.If(fresh):
                m.d.sync += address.eq(address + body.stationary_word)
            with m.If(last):
                m.d.sync += [self.full.eq(1), word.eq(0), k.eq(k + 1)]
                m.d.sync += [tile.eq(tile + body.stationary_k), address.eq(tile + body.stationary_k)]
                with m.If(last_k):
                    m.d.sync += [k.eq(0), n.eq(n + 1)]
                    m.d.sync += [s.eq(column + body.stationary_n) for s in (column, tile, address)]
                    with m.If(last_n):
                        m.d.sync += loading.eq(0)
        with m.If(self.instruction.ready):  # what is not valid does no harm
            m.d.sync += [body.eq(incoming), k.eq(0), n.eq(0)]
            m.d.sync += [s.eq(incoming.stationary) for s in (column, tile, address)]
        with m.If(self.start):
            m.d.sync += [loading.eq(1), handed.eq(0)]
        m.d.sync += [checking.eq(Cat(self.start, checking)), refused.eq(isa.Error.NONE)]
        for condition, error in reversed(self.check(body)):
            found = Signal(name=f"found_{error.name.lower()}")
            m.d.sync += found.eq(condition)
            with m.If(checking[1] & found):
                m.d.sync += refused.eq(error)
        m.d.comb += self.error.eq(refused)
        with m.If(refused != isa.Error.NONE):
            m.d.sync += [loading.eq(0), handed.eq(1), word.eq(0)]

        later = {"direction": body.direction, **({"mode": body.mode} if self.config.narrow else {})}
        m.d.comb += [
            self.stationary.valid.eq(delay(m, fire, READ_LATENCY, name="valid", reset_less=False)),
            self.stationary.first.eq(delay(m, fire & (word == 0), READ_LATENCY, name="first", reset_less=False)),
            *(getattr(self.stationary, name).eq(delay(m, value, READ_LATENCY, name=name)) for name, value in later.items()),
            self.stationary.data.eq(self._unpack(m, body, fresh)),
        ]
        return m

    def _fresh(self, body, word: Value) -> Value:
        """Whether this word of a tile begins a stored word."""
        if not self.config.packed_weights:
            return Const(1)
        begins = Cat(Const(1, 1), *(~word[:log2].any() for log2 in range(1, 4)))
        return begins.bit_select((body.stationary_packing - _packing(body.mode))[:2], 1)

    def _unpack(self, m: Module, body, fresh: Value) -> Any:
        """The words that were read, as the array takes them."""
        if not self.config.packed_weights:
            return self.read.data
        m.submodules.unpack = unpack = StationaryUnpack(self.config)
        for name, value in {"stored": body.stationary_packing, "packing": _packing(body.mode), "fresh": fresh}.items():
            m.d.comb += getattr(unpack, name).eq(delay(m, value, READ_LATENCY, name=name))
        m.d.comb += unpack.i.eq(self.read.data)
        return unpack.o


def _packing(mode: Value) -> Value:
    """log2 of the values that the array takes of a byte."""
    return Array(PACKING[name] for name in MODES)[mode.as_value()]
