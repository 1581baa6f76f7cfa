"""Control registers: how the host finds, programs, starts and watches a core."""

from importlib.metadata import version

from amaranth import *
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from . import isa
from .arith import delay
from .config import MODES, CoreConfig
from .isa import Error, Register
from .sequencer import ProgramWrite

__all__ = ["ERROR_SOURCES", "ControlPort", "ControlRegisters", "version_number"]

#: Order of ``ControlRegisters.errors``; of errors in one cycle the first counts.
ERROR_SOURCES = ("sequencer", "load", "array", "rows", "store", "scratchpad")


def version_number() -> int:
    """Version of the package as the host reads it: ``major << 16 | minor << 8 | patch``."""
    major, minor, patch = (int(part) for part in version("vitloom").split(".")[:3])
    return major << 16 | minor << 8 | patch


class ControlPort(wiring.Signature):
    """The host's access to 32-bit registers, seen from the host. Every access takes one cycle, and one may come in each.

    Members
    -------
    address : ``Out(CONTROL_ADDRESS_BITS)``
        In words.
    write : ``Out(1)``
    write_data : ``Out(32)``
    read : ``Out(1)``
    read_data : ``In(32)``
        From the cycle after ``read`` until the next read.
    """

    def __init__(self):
        super().__init__(
            {
                "address": Out(isa.CONTROL_ADDRESS_BITS),
                "write": Out(1),
                "write_data": Out(32),
                "read": Out(1),
                "read_data": In(32),
            }
        )


class ControlRegisters(wiring.Component):
    """Registers (:class:`.isa.Register`) and the state of a run.

    Writing 1 to CONTROL starts the program, unless it runs or an error is held: ``start`` comes ``latency`` cycles after the write, and
    STATUS is busy from then on. When EXPECTED is not the core's fingerprint, the error is CONFIGURATION instead and nothing starts. Writing
    2 clears, at any time: ``clear`` comes ``latency`` cycles after the write, and resets every unit but this one; the program, EXPECTED,
    MEMORY_BASE and INTERRUPT stay. Bit 1 goes before bit 0.

    The first error ends the run: ``ERROR_LATENCY`` cycles later ``halt`` is high, up to and including the cycle of ``clear``. CYCLES is the
    number of cycles from ``start`` to ``finished``, or to ``ERROR_LATENCY - 1`` cycles after the error. The program memory is not written
    while the program runs.

    Parameters
    ----------
    config : CoreConfig

    Members
    -------
    control : ``In(ControlPort())``
        The host.
    program_write : ``Out(ProgramWrite(program_depth))``
        To the sequencer, in the cycle of the host's write.
    start : ``Out(1)``
        Pulse.
    finished : ``In(1)``
        Pulse of the sequencer.
    dispatched : ``In(range(program_limit))``
        Of the sequencer.
    errors : ``In(isa.Error).array(len(ERROR_SOURCES))``
        NONE, or an error in this cycle.
    halt : ``Out(1)``
        An error is held: no unit may start anything or write.
    clear : ``Out(1)``
        Pulse: synchronous reset of all other units.
    clearing : ``Out(1)``
        ``clear`` comes in the next cycle: for units that have a register of their own for it.
    memory_base : ``Out(32)``
        Added to external addresses.
    interrupt : ``Out(1)``
        Level: the run is done, or has an error, and bit 0 of INTERRUPT is set.
    """

    latency = 1
    ERROR_LATENCY = 3

    def __init__(self, config: CoreConfig):
        self.config = config
        super().__init__(
            {
                "control": In(ControlPort()),
                "program_write": Out(ProgramWrite(config.program_depth)),
                "start": Out(1),
                "finished": In(1),
                "dispatched": In(range(config.program_limit)),
                "errors": In(Error).array(len(ERROR_SOURCES)),
                "halt": Out(1),
                "clear": Out(1),
                "clearing": Out(1),
                "memory_base": Out(32),
                "interrupt": Out(1),
            }
        )

    def elaborate(self, platform):
        m = Module()
        busy, done, failed = Signal(), Signal(), Signal()
        error, error_instruction = Signal(Error), Signal.like(self.dispatched)
        cycles, expected, command = Signal(32 if self.config.serial else 64), Signal(32), Signal(2)
        enable, base = Signal(init=1), Signal(self.config.memory_bits)
        m.d.comb += self.memory_base.eq(base)
        self._write(m, {Register.EXPECTED: expected, Register.MEMORY_BASE: base, Register.INTERRUPT: enable}, busy)
        with m.If(self.control.write & (self.control.address == Register.CONTROL)):
            m.d.comb += command.eq(self.control.write_data)
        self._read(
            m,
            {
                Register.STATUS: Cat(busy, done, failed),
                Register.ERROR: error,
                Register.ERROR_INSTRUCTION: error_instruction,
                Register.EXPECTED: expected,
                Register.CYCLES_LOW: cycles[:32],
                Register.CYCLES_HIGH: cycles[32:],
                Register.MEMORY_BASE: base,
                Register.INTERRUPT: enable,
            },
        )

        shown, new_error, place = Signal(Error), Signal(Error), Signal.like(self.dispatched, reset_less=True)
        # The last assignment wins, so the first source does.
        for name, source in zip(reversed(ERROR_SOURCES), reversed(self.errors), strict=True):
            error_before = Signal(Error, name=f"{name}_error")
            m.d.sync += error_before.eq(Mux(self.clear, Error.NONE, source))
            with m.If(error_before != Error.NONE):
                m.d.comb += shown.eq(error_before)
        m.d.comb += self.clearing.eq(command[1])
        m.d.sync += new_error.eq(Mux(self.clear, Error.NONE, shown))
        m.d.sync += place.eq(delay(m, self.dispatched, self.ERROR_LATENCY - 2, name="dispatched"))

        m.d.sync += [self.start.eq(0), self.clear.eq(command[1]), self.halt.eq(failed)]
        with m.If(busy & ~self.finished & (new_error == Error.NONE)):
            m.d.sync += cycles.eq(cycles + 1)
        with m.If(command[1]):
            m.d.sync += [busy.eq(0), done.eq(0), error.eq(Error.NONE), failed.eq(0), self.halt.eq(1)]
        with m.Elif((new_error != Error.NONE) & ~failed & ~self.clear):
            m.d.sync += [busy.eq(0), done.eq(0), error.eq(new_error), error_instruction.eq(place)]
            m.d.sync += [failed.eq(1), self.halt.eq(1)]
        with m.Elif(command[0] & ~busy & ~failed):
            m.d.sync += [done.eq(0), cycles.eq(0), error_instruction.eq(0)]
            with m.If(expected == self.config.fingerprint):
                m.d.sync += [busy.eq(1), self.start.eq(1)]
            with m.Else():
                m.d.sync += [error.eq(Error.CONFIGURATION), failed.eq(1), self.halt.eq(1)]
        with m.Elif(busy & self.finished):
            m.d.sync += [busy.eq(0), done.eq(1)]
        m.d.comb += self.interrupt.eq((done | failed) & enable)
        return m

    def _write(self, m, registers, busy):
        """Writes of the host: to a register, or to the program memory."""
        control = self.control
        for address, register in registers.items():
            with m.If(control.write & (control.address == address)):
                m.d.sync += register.eq(control.write_data)
        offset = control.address - isa.PROGRAM_WINDOW
        index, word = offset[4:], offset[:4]
        inside = (control.address >= isa.PROGRAM_WINDOW) & (index < self.config.program_depth) & (word < isa.INSTRUCTION_WORDS)
        m.d.comb += [
            self.program_write.enable.eq(control.write & inside & ~busy),
            self.program_write.index.eq(index),
            self.program_write.word.eq(word),
            self.program_write.data.eq(control.write_data),
        ]

    def _read(self, m, registers):
        """Reads of the host; what is not a register reads as 0."""
        config = self.config
        modes = sum(1 << MODES.index(mode) for mode in config.modes)
        constants = {
            Register.IDENTITY: isa.IDENTITY,
            Register.VERSION: version_number(),
            Register.CONFIGURATION: config.fingerprint,
            Register.SHAPE: config.lanes | config.epilogue_lanes << 8 | config.port_bytes << 16 | modes << 24,
        }
        with m.If(self.control.read):
            m.d.sync += self.control.read_data.eq(0)
            with m.Switch(self.control.address):
                for address, value in (constants | registers).items():
                    with m.Case(int(address)):
                        m.d.sync += self.control.read_data.eq(value)
