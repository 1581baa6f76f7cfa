"""The core: control registers, sequencer, engines and scratchpad."""

from amaranth import *
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out, connect, flipped

from . import isa
from .arith import copies, delay
from .array.engine import ArrayEngine
from .config import CoreConfig
from .control import ERROR_SOURCES, ControlPort, ControlRegisters
from .load_engine import LoadEngine
from .memory_port import MemoryPort
from .own_reset import own_reset
from .rows.engine import RowEngine
from .scratchpad import PARTS, READERS, WRITERS, Scratchpad, WritePort
from .sequencer import Sequencer
from .serial.engine import SerialArrayEngine
from .serial.scratchpad import SerialScratchpad
from .serial.sequencer import SerialSequencer
from .store_engine import StoreEngine

__all__ = ["Core", "TracePort"]


class TracePort(wiring.Signature):
    """What a simulation compares with the golden model and the timing model.

    Members
    -------
    cycle : ``Out(32)``
        0 in the cycle in which the run starts.
    start, done : ``Out(QUEUES)``
        An instruction of that queue is accepted; the oldest one has ended.
    array, rows : ``Out(WritePort)``
        Words that the epilogue and the row engine write into the scratchpad in this cycle.
    parts : ``Out(PARTS)``
        Eighths of the epilogue's word that are written; always all in a core without a narrow mode.
    """

    def __init__(self, config: CoreConfig):
        write = WritePort(isa.ADDRESS.width, config.lanes)
        queues = {"start": Out(isa.QUEUES), "done": Out(isa.QUEUES)}
        super().__init__({"cycle": Out(32), **queues, "array": Out(write), "rows": Out(write), "parts": Out(PARTS)})


class Core(wiring.Component):
    """A whole accelerator: a host loads a program and starts it through ``control``; data move through ``memory``.

    Timing: the cycles in which instructions start and end, and the cycles of a run, are those of ``sim/timing.py`` when the memory accepts
    every request, answers ``memory_latency`` cycles later and never pauses. Results do not depend on the memory's timing.

    Parameters
    ----------
    config : CoreConfig
    trace : bool
        Have the port ``trace``, for simulation.

    Members
    -------
    control : ``In(ControlPort())``
    interrupt : ``Out(1)``
        As in :class:`.control.ControlRegisters`.
    memory : ``Out(MemoryPort(port_bytes))``
    trace : ``Out(TracePort(config))``
        Only with ``trace``.
    """

    def __init__(self, config: CoreConfig, *, trace: bool = False):
        self.config = config
        self.has_trace = trace
        super().__init__(
            {
                "control": In(ControlPort()),
                "interrupt": Out(1),
                "memory": Out(MemoryPort(config.port_bytes)),
                **({"trace": Out(TracePort(config))} if trace else {}),
            }
        )

    def elaborate(self, platform):
        m = Module()
        config = self.config
        m.submodules.registers = registers = ControlRegisters(config)
        # The memory may still answer when a run is cleared: load and store are cancelled, the others reset.
        sequencer = SerialSequencer(config) if config.serial else Sequencer(config)
        array = SerialArrayEngine(config) if config.serial else ArrayEngine(config)
        rows = None if config.serial else RowEngine(config)
        resets = copies(m, registers.clearing | ResetSignal(allow_reset_less=True), 3, name="reset")  # in the cycle of `clear`
        for reset, (name, unit) in zip(resets, (("sequencer", sequencer), ("array", array), ("rows", rows)), strict=True):
            if unit is not None:
                m.submodules[name] = own_reset(m, name, unit, reset)
        m.submodules.load = load = LoadEngine(config)
        m.submodules.store = store = StoreEngine(config)
        m.submodules.scratchpad = scratchpad = SerialScratchpad(config) if config.serial else Scratchpad(config)

        connect(m, host=flipped(self.control), registers=registers.control)
        connect(m, registers=registers.program_write, sequencer=sequencer.program_write)
        if config.program_stream:
            self._write(m, load.program, sequencer.refill)
        m.d.comb += [
            self.interrupt.eq(registers.interrupt),
            sequencer.start.eq(registers.start),
            sequencer.halt.eq(registers.halt),
            registers.finished.eq(sequencer.finished),
            registers.dispatched.eq(sequencer.dispatched),
            scratchpad.halt.eq(registers.halt),
        ]
        for engine in (load, store):
            m.d.comb += [engine.base.eq(registers.memory_base), engine.cancel.eq(registers.clear)]
        engines = {isa.Queue.LOAD: load, isa.Queue.ARRAY: array, isa.Queue.ROWS: rows, isa.Queue.STORE: store}
        engines = {queue: engine for queue, engine in engines.items() if engine is not None}
        for queue, engine in engines.items():
            connect(m, sequencer=sequencer.queues[queue.value].instruction, engine=engine.instruction)
            m.d.comb += sequencer.queues[queue.value].done.eq(engine.done)

        self._connect_memories(m, scratchpad, load, array, rows, store)
        sources = {"sequencer": sequencer, "load": load, "array": array, "store": store, **({} if rows is None else {"rows": rows})}
        self._collect_errors(m, registers, sources, scratchpad)
        if self.has_trace:
            self._trace(m, registers, engines, array, rows)
        return m

    def _connect_memories(self, m: Module, scratchpad, load, array, rows, store) -> None:
        """Scratchpad ports, constants and tables, and the external memory."""
        readers = {
            "moving": array.moving,
            "stationary": array.stationary,
            "store": store.read,
        }
        writers = {"load": load.write, "epilogue": array.output}
        if rows is not None:
            readers |= {"residual": array.residual, "rows": rows.read}
            writers["rows"] = rows.write
        for name, client in readers.items():
            connect(m, client=client, scratchpad=scratchpad.reads[READERS.index(name)])
        for name, client in writers.items():
            connect(m, client=client, scratchpad=scratchpad.writes[WRITERS.index(name)])
        if self.config.narrow:
            m.d.comb += scratchpad.parts.eq(array.parts)
        self._write(m, load.constants, array.constants)
        self._write(m, load.table, array.table)
        if rows is not None:
            self._write(m, load.norm_constants, rows.norm_write)
            self._write(m, load.exp_table, rows.exp_write)
            if self.config.narrow:
                self._write(m, load.code_table, rows.code_write)
            if self.config.map_rows:
                self._write(m, load.row_map, array.row_map, rows.row_map)
        for name in ("read_request", "read_data"):
            connect(m, load=getattr(load, name), memory=flipped(getattr(self.memory, name)))
        for name in ("write_request", "write_data", "write_response"):
            connect(m, store=getattr(store, name), memory=flipped(getattr(self.memory, name)))

    def _write(self, m: Module, port, *targets) -> None:
        """Connect writes of LOAD with the memories that they are for, which are a register away."""
        for name in port.signature.members:
            value = getattr(port, name)
            for target in targets:
                cycles = 0 if self.config.serial else 1
                label = f"{name}_to_{targets.index(target)}"
                m.d.comb += getattr(target, name).eq(delay(m, value, cycles, name=label, reset_less=name != "enable"))

    def _collect_errors(self, m: Module, registers, sources, scratchpad) -> None:
        """Errors of all units, in the order of the control registers."""
        for name, source in sources.items():
            m.d.comb += registers.errors[ERROR_SOURCES.index(name)].eq(source.error)
        error = registers.errors[ERROR_SOURCES.index("scratchpad")]
        with m.If(scratchpad.out_of_range):
            m.d.comb += error.eq(isa.Error.ADDRESS)
        with m.Elif(scratchpad.conflict):
            m.d.comb += error.eq(isa.Error.BANK_CONFLICT)

    def _trace(self, m: Module, registers, engines, array, rows) -> None:
        """Drive the trace port."""
        cycle = Signal(32)
        m.d.sync += cycle.eq(self.trace.cycle + 1)
        m.d.comb += [
            self.trace.cycle.eq(Mux(registers.start, 0, cycle)),
            *(self.trace.start[queue.value].eq(engine.start) for queue, engine in engines.items()),
            *(self.trace.done[queue.value].eq(engine.done) for queue, engine in engines.items()),
        ]
        written = [(self.trace.array, array.output), *([] if rows is None else [(self.trace.rows, rows.write)])]
        for traced, port in written:
            m.d.comb += [getattr(traced, name).eq(getattr(port, name)) for name in ("enable", "address", "data")]
        m.d.comb += self.trace.parts.eq(array.parts if self.config.narrow else -1)
