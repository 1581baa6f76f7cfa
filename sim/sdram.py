# amaranth: UnusedElaboratable=no
"""The SDRAM chip of ``sdram_chip.v`` in Amaranth designs, and a memory for the core's bench made of it and its controller."""
# pyright: reportAttributeAccessIssue=false

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from amaranth import *
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out, connect, flipped

from ..boards import board
from ..boards.sdram import BUS_BYTES, Sdram, SdramChip, SdramPins
from ..boards.stream_buffer import StreamBuffer
from ..compiler.layout import ceil_div
from ..compiler.program import Program
from ..hw.config import CoreConfig
from ..hw.isa import Opcode
from ..hw.memory_port import MAX_BURST, MemoryPort
from .report import model_timings

__all__ = [
    "CHIP_VERILOG",
    "ChipModel",
    "SdramMemory",
    "board_controller",
    "chip_plusargs",
    "fastest",
    "sdram_bounds",
    "started",
    "with_sdram",
]

#: To be given to :func:`.runner.build`, with any design that has a :class:`ChipModel`.
CHIP_VERILOG = Path(__file__).with_name("sdram_chip.v")
#: ns from power to the first command, in place of a real chip's.
_STARTUP = 1000
#: Registers between a board's core and its controller (:class:`..boards.linked.SdramCore`), by stream of the port.
_BUFFERS = {"read_request": 1, "read_data": 2, "write_request": 1, "write_data": 1, "write_response": 0}
_TIMES = ("rcd", "rp", "rc", "ras", "rfc", "wr", "refresh_interval", "startup")


def chip_plusargs(chip: SdramChip, clock_hz: float) -> list[str]:
    """Options of ``sdram_chip.v``: the chip's times in ps, and the period of its clock."""
    times = [f"{name}={round(1000 * getattr(chip, name))}" for name in _TIMES]
    return [*times, f"period={round(1e12 / clock_hz)}", f"cas={chip.cas}", f"mrd={chip.mrd}"]


def board_controller(name: str, preset: str = "", clock_mhz: float | None = None) -> Sdram:
    """Of the SDRAM of the board ``name``, at a clock or, by default, at that of the core of ``preset`` there."""
    sdram = board(name).at(None, preset).sdram
    if sdram is None:
        raise ValueError(f"{name} has no SDRAM chip that a core could use")
    clock_hz = sdram.clock_hz if clock_mhz is None else clock_mhz * 1e6
    return Sdram(sdram.chip.at(clock_hz), clock_hz)


def started(controller: Sdram) -> Sdram:
    """``controller``, with a chip that starts soon: before a simulated run begins."""
    return Sdram(replace(controller.chip, startup=_STARTUP), controller.clock_hz)


def with_sdram(config: CoreConfig, controller: Sdram) -> CoreConfig:
    """``config`` as the timing model has it with a board's SDRAM: every transfer begins in a row that is not open; rounded to be slower."""
    return replace(
        config,
        memory_bytes_per_cycle=BUS_BYTES,
        memory_latency=controller.latency + controller.row_cycles + _BUFFERS["read_request"] + _BUFFERS["read_data"],
        memory_efficiency=int(1000 * controller.bytes_per_cycle / BUS_BYTES),
    )


def fastest(config: CoreConfig) -> CoreConfig:
    """``config`` with a memory that answers in the next cycle and never pauses: no instruction ends earlier with any other."""
    return replace(config, memory_latency=1, memory_efficiency=1000)


def sdram_bounds(program: Program, controller: Sdram) -> tuple[int, int]:
    """Least and most cycles of a run whose memory is the controller's chip.

    The least is the timing model's with :func:`fastest`. The most is that with :func:`with_sdram` and, for every load, one more change
    of the row and a refresh (what a share of the long run's pauses may miss); plus, for every burst that is stored, its beats and two
    changes of row and direction: reads and writes share the chip's bus, which the timing model does not know. Such a wait makes what comes
    after it later by itself at most (:func:`.stalls.cycle_bounds`).
    """
    config = with_sdram(program.config, controller)
    slower = replace(config, memory_latency=config.memory_latency + controller.row_cycles + controller.refresh_cycles)
    beats = [i.fields["words"] * config.beats for i in program.instructions if i.opcode is Opcode.STORE]
    turn = controller.row_cycles + controller.timing.cas + 2
    shared = sum(count + 2 * turn * ceil_div(count, MAX_BURST) for count in beats)
    return model_timings(program, fastest(config))[1], model_timings(program, slower)[1] + shared


class ChipModel(wiring.Component):
    """A chip that holds its controller to the data sheet.

    Parameters
    ----------
    chip : SdramChip
        Its size; the times are options of the simulation (:func:`chip_plusargs`).
    beats : int
        Words of 16 bits that are kept.

    Members
    -------
    pins : ``In(SdramPins(chip))``
    load, dump, run : ``In(1)``, ``In(1)``, ``In(32)``
        Replace memory by a file of run number ``run``; write it to one.
    refreshes : ``Out(32)``
        So far.
    """

    def __init__(self, chip: SdramChip, beats: int):
        self.chip, self.beats = chip, beats
        super().__init__({"pins": In(SdramPins(chip)), "load": In(1), "dump": In(1), "run": In(32), "refreshes": Out(32)})

    def elaborate(self, platform):
        m = Module()
        chip, pins = self.chip, self.pins
        inputs = ("clk_en", "ras", "cas", "we", "ba", "a", "dqm", "dq_o", "dq_oe")
        m.submodules.chip = Instance(
            "sdram_chip",
            p_ROW_BITS=chip.row_bits,
            p_COLUMN_BITS=chip.column_bits,
            p_ADDRESS_PINS=len(pins.a),
            p_BEATS=self.beats,
            i_clk=ClockSignal(),
            i_rst=ResetSignal(),
            i_load=self.load,
            i_dump=self.dump,
            i_run=self.run,
            o_dq_i=pins.dq_i,
            o_refreshes=self.refreshes,
            **{f"i_{name}": getattr(pins, name) for name in inputs},
        )
        return m


class SdramMemory(wiring.Component):
    """A controller and its chip, with the ports of the memory in ``testbench.v``.

    Parameters
    ----------
    chip : SdramChip
    clock_hz : float
    beats : int
        As in :class:`ChipModel`.
    buffered : bool
        Whether it has the registers that are between a board's core and its controller, too.

    Members
    -------
    read_request, read_data, write_request, write_data, write_response : as in ``In(MemoryPort(2))``
    load, dump, run, refreshes : as in :class:`ChipModel`
    """

    def __init__(self, chip: SdramChip, clock_hz: float, beats: int, *, buffered: bool = False):
        self.buffered = buffered
        self.controller, self.chip = Sdram(chip, clock_hz), ChipModel(chip, beats)
        port = MemoryPort(BUS_BYTES).flip().members
        super().__init__({**dict(port), "load": In(1), "dump": In(1), "run": In(32), "refreshes": Out(32)})

    def elaborate(self, platform):
        m = Module()
        m.submodules.controller = controller = self.controller
        m.submodules.chip = chip = self.chip
        connect(m, controller=controller.pins, chip=chip.pins)
        for name in MemoryPort(BUS_BYTES).members:
            ends = [flipped(getattr(self, name)), getattr(controller.port, name)]
            source, sink = ends if name in ("read_request", "write_request", "write_data") else reversed(ends)
            for index in range(_BUFFERS[name] if self.buffered else 0):
                m.submodules[f"{name}_{index}"] = buffer = StreamBuffer(source.payload.shape())
                connect(m, source=source, buffer=buffer.i)
                source = buffer.o
            connect(m, source=source, sink=sink)
        m.d.comb += [chip.load.eq(self.load), chip.dump.eq(self.dump), chip.run.eq(self.run), self.refreshes.eq(chip.refreshes)]
        return m
