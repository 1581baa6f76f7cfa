"""The array engine: executes MATMUL from the scratchpad into the scratchpad."""

from amaranth import *
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out, connect, flipped

from .. import isa
from ..config import CoreConfig
from ..epilogue.epilogue import Epilogue
from ..row_map import MapWrite
from ..scratchpad import PARTS, ReadPort, WritePort
from .accumulators import Accumulators
from .drain import Drain
from .fetch import StationaryFetch
from .mac_array import MacArray
from .moving import MovingStream

__all__ = ["ArrayEngine"]


class ArrayEngine(wiring.Component):
    """Fetch, stream and drain, each on an instruction of its own, around the array, the accumulators and the epilogue.

    The next MATMUL is fetched and streamed while this one drains; all end in order. Timing: the rules of :class:`.fetch.StationaryFetch`,
    :class:`.moving.MovingStream` and :class:`.drain.Drain`, which ``sim/array_timing.py`` repeats.

    Parameters
    ----------
    config : CoreConfig

    Members
    -------
    instruction : ``In(stream.Signature(INSTRUCTION_BITS))``
    start, done : ``Out(1)``
        An instruction is accepted in this cycle; the oldest one has ended, its last word was written in the cycle before.
    error : ``Out(isa.Error)``
        Other than NONE in the cycle in which an instruction is refused.
    moving, stationary, residual : ``Out(ReadPort)``
    output : ``Out(WritePort)``
    parts : ``Out(PARTS)``
        Eighths of the word that are written. Only with ``config.narrow``.
    constants, table :
        Writes to the epilogue's memories.
    row_map : ``In(MapWrite(config))``
        Only with ``config.map_rows``.
    """

    def __init__(self, config: CoreConfig):
        self.config = config
        self.epilogue = Epilogue(config)
        read = ReadPort(isa.ADDRESS.width, config.lanes)
        super().__init__(
            {
                "instruction": In(stream.Signature(isa.INSTRUCTION_BITS)),
                "start": Out(1),
                "done": Out(1),
                "error": Out(isa.Error),
                "moving": Out(read),
                "stationary": Out(read),
                "residual": Out(read),
                "output": Out(WritePort(isa.ADDRESS.width, config.lanes)),
                **({"parts": Out(PARTS)} if config.narrow else {}),
                "constants": self.epilogue.signature.members["constants"],
                "table": self.epilogue.signature.members["table"],
                **({"row_map": In(MapWrite(config))} if config.map_rows else {}),
            }
        )

    def elaborate(self, platform):
        m = Module()
        m.submodules.array = array = MacArray(self.config)
        m.submodules.accumulators = accumulators = Accumulators(self.config)
        m.submodules.epilogue = epilogue = self.epilogue
        m.submodules.fetch = fetch = StationaryFetch(self.config)
        m.submodules.stream = moving = MovingStream(self.config)
        m.submodules.drain = drain = Drain(self.config)

        connect(m, engine=flipped(self.instruction), fetch=fetch.instruction)
        connect(m, fetch=fetch.read, engine=flipped(self.stationary))
        connect(m, fetch=fetch.stationary, array=array.stationary)
        connect(m, fetch=fetch.body, stream=moving.body)
        connect(m, stream=moving.read, engine=flipped(self.moving))
        connect(m, stream=moving.moving, array=array.moving)
        connect(m, stream=moving.control, accumulators=accumulators.control)
        connect(m, drain=drain.result, accumulators=accumulators.read)
        connect(m, drain=drain.residual, engine=flipped(self.residual))
        connect(m, drain=drain.epilogue, epilogue=epilogue.i)
        connect(m, engine=flipped(self.constants), epilogue=epilogue.constants)
        connect(m, engine=flipped(self.table), epilogue=epilogue.table)
        if self.config.map_rows:
            connect(m, engine=flipped(self.row_map), drain=drain.row_map)
        m.d.comb += [
            self.start.eq(fetch.start),
            self.error.eq(fetch.error),
            moving.full.eq(fetch.full),
            fetch.swap.eq(moving.swap),
            accumulators.sums.eq(array.sums),
            drain.begin.eq(moving.begin),
            drain.tile.eq(moving.tile),
            moving.drain_ready.eq(drain.ready),
            self.output.enable.eq(epilogue.o.valid),
            self.output.address.eq(drain.address),
            self.output.data.eq(epilogue.o.data),
        ]
        if self.config.narrow:
            m.d.comb += [accumulators.row_sum.eq(array.row_sum), self.parts.eq(epilogue.o.parts)]
        m.d.sync += self.done.eq(epilogue.o.valid & drain.last)
        return m
