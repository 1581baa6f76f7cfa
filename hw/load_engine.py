"""Load: words from external memory to the memories of the core."""

from typing import Any

from amaranth import *
from amaranth.lib import data, enum, stream, wiring
from amaranth.lib.wiring import In, Out, connect, flipped
from amaranth.utils import ceil_log2

from . import isa
from .bursts import Bursts, times
from .config import CoreConfig
from .epilogue.lane import TableWrite
from .isa import Error, Opcode, Target
from .load_targets import block_words, table_words, target_words
from .memory_port import ADDRESS_BITS, MemoryPort
from .row_map import MapWrite
from .scratchpad import WritePort
from .sequencer import ProgramWrite
from .transfer import accept_and_check, beyond_memory, held

__all__ = ["LoadEngine"]

#: Targets whose words are written an entry at a time.
_ENTRIES = (Target.FUNCTION_TABLE, Target.EXP_TABLE, Target.ROW_MAP, Target.CODE_TABLE, Target.PROGRAM)


class LoadEngine(wiring.Component):
    """Executes LOAD: external memory to scratchpad, constants, tables, row map or program memory. One instruction at a time.

    An instruction is checked before anything is requested: no words or no such target in this core is ``Error.FIELD``; words outside the
    target, or a load of tables or blocks of a program that does not begin with one, is ``Error.ADDRESS``. A beat that is answered with an
    error is ``Error.MEMORY_READ``: its word and those after it are not written, and the engine takes the beats that it requested. There is
    no ``done`` after an error.

    Throughput: a beat a cycle, and an entry a cycle: the first beat of a word comes with the last table entry of the word before.
    From ``start`` to ``done`` there are :meth:`cycles` cycles when the memory never waits; the next instruction may start with ``done``.

    Parameters
    ----------
    config : CoreConfig

    Members
    -------
    instruction : ``In(stream.Signature(INSTRUCTION_BITS))``
        Ready when nothing is in progress.
    base : ``In(32)``
        Added to every external address, in beats; constant while an instruction is in progress.
    cancel : ``In(1)``
        What is in progress ends without further writes, ``error`` or ``done``; the engine gets ready when the memory has answered.
        To be used instead of a reset, which would leave answers behind.
    start : ``Out(1)``
        An instruction is accepted in this cycle.
    done : ``Out(1)``
        Pulse, in the cycle after the last write.
    error : ``Out(isa.Error)``
        Pulse: three cycles after ``start``, or with the beat.
    read_request, read_data : streams
        As in :class:`.memory_port.MemoryPort`.
    write : ``Out(WritePort(20, L))``
        To the scratchpad.
    constants, norm_constants : ``Out(WritePort(n, L))``
        To the epilogue, to LayerNorm. The latter and the next one not in a serial core. These writes, and all below, may arrive a cycle
        later: nothing that waits for ``done`` begins so soon.
    exp_table : ``Out(TableWrite(config, EXP_ENTRY))``
    table : ``Out(TableWrite(config, signed(8)))``
    code_table : ``Out(TableWrite(config, CODE_ENTRY))``
        Only with ``config.narrow``.
    row_map : ``Out(MapWrite(config))``
        Only with ``config.map_rows``.
    program : ``Out(ProgramWrite(program_depth))``
        Only with ``config.program_stream``.
    """

    def __init__(self, config: CoreConfig):
        self.config = config
        lanes = config.lanes
        port = MemoryPort(config.port_bytes)
        members = {
            "instruction": In(stream.Signature(isa.INSTRUCTION_BITS)),
            "base": In(ADDRESS_BITS),
            "cancel": In(1),
            "start": Out(1),
            "done": Out(1),
            "error": Out(Error),
            "read_request": port.members["read_request"],
            "read_data": port.members["read_data"],
            "write": Out(WritePort(isa.ADDRESS.width, lanes)),
            "table": Out(TableWrite(config, signed(8))),
        }
        for name, target in (("constants", Target.CONSTANTS), ("norm_constants", Target.NORM_CONSTANTS)):
            if words := target_words(config, target):
                members[name] = Out(WritePort(ceil_log2(words), lanes))
        if not config.serial:
            members["exp_table"] = Out(TableWrite(config, isa.EXP_ENTRY))
        if config.narrow:
            members["code_table"] = Out(TableWrite(config, isa.CODE_ENTRY))
        if config.map_rows:
            members["row_map"] = Out(MapWrite(config))
        if config.program_stream:
            members["program"] = Out(ProgramWrite(config.program_depth))
        super().__init__(members)

    @staticmethod
    def cycles(config: CoreConfig, words: int, target: Target = Target.SCRATCHPAD) -> int:
        """Cycles from ``start`` to ``done`` when the memory never waits: data begins ``memory_latency`` cycles after its request."""
        entries = config.lanes // isa.ENTRY_BYTES if target in _ENTRIES else 1
        return config.memory_latency + 5 + words * (config.beats + entries - 1)

    def elaborate(self, platform):
        m = Module()
        config = self.config
        m.submodules.bursts = bursts = Bursts(config)
        connect(m, bursts=bursts.request, engine=flipped(self.read_request))
        body, counters, accept = held(config, Opcode.LOAD, self.instruction.payload, ("words", "destination"))
        words, destination = counters
        refused = Signal(Error)
        running, full, failed = Signal(), Signal(), Signal()  # full: `word` is complete and is being written
        word = Signal(8 * config.lanes, reset_less=True)
        beat, part = Signal(range(config.beats)), Signal(range(config.lanes // isa.ENTRY_BYTES))
        entries = Signal(reset_less=True)  # the target takes words entry by entry
        m.d.sync += entries.eq(
            Cat(body.target == target for target in _ENTRIES if target in self._tables() or target_words(config, target)).any()
        )
        last_part = ~entries | (part == config.lanes // isa.ENTRY_BYTES - 1)
        taken, written = Signal(), Signal()
        m.d.comb += [
            bursts.base.eq(self.base),
            bursts.memory.eq(body.memory),
            bursts.words.eq(body.words),
            self.read_data.ready.eq(running & (~full | last_part)),
            taken.eq(self.read_data.valid & self.read_data.ready),
            written.eq(full & last_part),
        ]
        self._check(m, body, refused)

        with m.FSM():
            accept_and_check(m, self, accept, failed)
            with m.State("CHECK"):
                with m.If(~failed & ~self.cancel):
                    m.d.comb += [self.error.eq(refused), bursts.begin.eq(refused == Error.NONE)]
                m.next = "IDLE"
                with m.If(bursts.begin):
                    m.next = "RUN"
            with m.State("RUN"):
                m.d.comb += running.eq(1)
                with m.If(self.cancel):
                    m.d.sync += failed.eq(1)
                with m.If(taken & self.read_data.payload.error & ~failed):
                    m.d.comb += self.error.eq(Error.MEMORY_READ)
                    m.d.sync += failed.eq(1)
                with m.If(written):
                    m.d.sync += [words.eq(words - 1), destination.eq(destination + 1)]
                    with m.If(words == 1):
                        m.next = "IDLE"
        m.d.sync += self.done.eq(written & (words == 1) & ~failed & ~self.cancel)

        with m.If(full):
            m.d.sync += [word.eq(word[8 * isa.ENTRY_BYTES :]), part.eq(Mux(last_part, 0, part + 1))]
        with m.If(written):
            m.d.sync += full.eq(0)
        with m.If(taken):
            last_beat = beat == config.beats - 1
            m.d.sync += [word.eq(Cat(word, self.read_data.payload.data)[8 * config.port_bytes :]), beat.eq(Mux(last_beat, 0, beat + 1))]
            m.d.sync += full.eq(last_beat)
        self._write(m, body, destination, word, full & ~failed, last_part, bursts.begin)
        return m

    def _check(self, m: Module, body: data.View, refused: "enum.EnumView[Error]") -> None:
        """Why the instruction is refused, ``Error.NONE`` if it is not, two cycles after ``body`` is there."""
        end = Signal(len(body.destination) + 1, reset_less=True)
        m.d.sync += end.eq(body.destination + body.words)
        with m.Switch(body.target):
            for target in Target:
                if not target_words(self.config, target):
                    continue  # as if there were no such target
                with m.Case(target):
                    outside = end > target_words(self.config, target)
                    starts = self._starts(target)
                    if starts:
                        outside |= ~Cat(body.destination == start for start in starts).any()
                    outside |= beyond_memory(self.config, body)
                    m.d.sync += refused.eq(Mux(outside, Error.ADDRESS, Error.NONE))
            with m.Default():
                m.d.sync += refused.eq(Error.FIELD)
        with m.If(body.words == 0):
            m.d.sync += refused.eq(Error.FIELD)

    def _write(self, m: Module, body: data.View, destination: Value, word: Value, valid: Value, last_part: Value, begin: Value) -> None:
        """Write ``word``, or its lowest entry, to where ``body`` says."""
        targets = {Target.SCRATCHPAD: self.write, Target.CONSTANTS: self.constants}
        if not self.config.serial:
            targets[Target.NORM_CONSTANTS] = self.norm_constants
        for target, port in targets.items():
            m.d.comb += [port.enable.eq(valid & (body.target == target)), port.address.eq(destination), port.data.eq(word)]

        # The last word of a table may have more entries than are left (L = 12): they are dropped.
        table = Signal(range(self.config.tables), reset_less=True)
        entry = Signal(range(isa.TABLE_ENTRIES + self.config.lanes // isa.ENTRY_BYTES), reset_less=True)
        with m.If(begin):
            m.d.sync += entry.eq(0)
            for index in range(self.config.tables):
                with m.If(body.destination == index * table_words(self.config.lanes)):
                    m.d.sync += table.eq(index)
        with m.Elif(valid):
            m.d.sync += entry.eq(entry + 1)
            with m.If(last_part & (entry >= isa.TABLE_ENTRIES - 1)):
                m.d.sync += [entry.eq(0), table.eq(table + 1)]
        for target, port in self._tables().items():
            m.d.comb += [
                port.enable.eq(valid & (body.target == target) & (entry < isa.TABLE_ENTRIES)),
                port.address.eq(Cat(entry[:8], table)),
                port.data.eq(word[: Shape.cast(port.data.shape()).width]),
            ]
        if self.config.map_rows:
            self._write_map(m, body, word, valid & (body.target == Target.ROW_MAP), begin)
        if self.config.program_stream:
            self._write_program(m, body, word, valid & (body.target == Target.PROGRAM), begin)

    def _starts(self, target: Target) -> list[int]:
        """Words with which a LOAD to that target may begin; empty if any may be."""
        if target is Target.PROGRAM:
            return [0, block_words(self.config)]
        return [table * table_words(self.config.lanes) for table in range(self.config.tables)] if target in self._tables() else []

    def _tables(self) -> dict[Target, Any]:
        """The port of each table that this core has."""
        if self.config.serial:
            return {Target.FUNCTION_TABLE: self.table}
        tables = {Target.FUNCTION_TABLE: self.table, Target.EXP_TABLE: self.exp_table}
        return {**tables, Target.CODE_TABLE: self.code_table} if self.config.narrow else tables

    def _write_map(self, m: Module, body: data.View, word: Value, valid: Value, begin: Value) -> None:
        """Write the lowest entry of ``word`` into the row map."""
        entry = Signal(isa.MAP_ENTRY.width + 1, reset_less=True)
        with m.If(begin):
            m.d.sync += entry.eq(times(body.destination, self.config.lanes // isa.ENTRY_BYTES))
        with m.Elif(valid):
            m.d.sync += entry.eq(entry + 1)
        port = self.row_map
        m.d.comb += [port.enable.eq(valid & (entry < self.config.map_rows)), port.address.eq(entry), port.data.eq(word)]

    def _write_program(self, m: Module, body: data.View, word: Value, valid: Value, begin: Value) -> None:
        """Write the lowest entry of ``word`` into the upper half of the program memory."""
        port, block = self.program, self.config.program_block
        index, part = Signal.like(port.index, reset_less=True), Signal.like(port.word, reset_less=True)
        with m.If(begin):
            m.d.sync += [index.eq(Mux(body.destination == 0, 2 * block, 3 * block)), part.eq(0)]
        with m.Elif(valid):
            last = part == isa.INSTRUCTION_WORDS - 1
            m.d.sync += [index.eq(index + last), part.eq(Mux(last, 0, part + 1))]
        m.d.comb += [port.enable.eq(valid), port.index.eq(index), port.word.eq(part), port.data.eq(word)]
