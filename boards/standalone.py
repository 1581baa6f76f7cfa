"""State machines in place of a host: one runs the core, one reads what it found."""

from amaranth import *
from amaranth.lib import wiring
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import In, Out

from ..hw import isa
from ..hw.config import CoreConfig
from ..hw.control import ControlPort
from ..hw.memory_port import MemoryPort
from .jobs import CLASSES, LOGIT_BYTES

__all__ = ["Host", "LargestLogit"]

_LOGIT_BITS = 8 * LOGIT_BYTES
#: Words of a program that need no block RAM. nextpnr finds hold times violated between flip-flops and a block RAM as ROM of a GW2A.
_SMALL = 256


class Host(wiring.Component):
    """Writes the program into the core, starts it and waits for its end; again at every ``start`` after that.

    Parameters
    ----------
    config : CoreConfig
    instructions : tuple of int

    Members
    -------
    start : ``In(1)``
    busy, done, error : ``Out(1)``
        The core is loaded or runs; it has ended; it has stopped with an error.
    control : ``Out(ControlPort())``
    """

    def __init__(self, config: CoreConfig, instructions: tuple[int, ...]):
        words = [instruction >> 32 * j & 0xFFFF_FFFF for instruction in instructions for j in range(isa.INSTRUCTION_WORDS)]
        self.config = config
        style = "block" if len(words) > _SMALL else "logic"
        self.rom = Memory(shape=32, depth=len(words), init=words, attrs={"rom_style": style})
        super().__init__({"start": In(1), "busy": Out(1), "done": Out(1), "error": Out(1), "control": Out(ControlPort())})

    def elaborate(self, platform):
        m = Module()
        m.submodules.rom = self.rom
        rom, control = self.rom.read_port(), self.control
        instruction, word = Signal(range(self.config.program_depth)), Signal(range(isa.INSTRUCTION_WORDS))
        index = Signal(range(self.rom.depth + 1))
        m.d.comb += [rom.en.eq(1), rom.addr.eq(index), self.busy.eq(~self.done & ~self.error)]

        def write(register, value, then):
            m.d.comb += [control.write.eq(1), control.address.eq(register), control.write_data.eq(value)]
            m.next = then

        with m.FSM():
            with m.State("FETCH"):
                m.d.sync += index.eq(index + 1)
                m.next = "PROGRAM"
            with m.State("PROGRAM"):
                write(isa.PROGRAM_WINDOW | Cat(word, instruction), rom.data, "FETCH")
                m.d.sync += word.eq(word + 1)
                with m.If(word == isa.INSTRUCTION_WORDS - 1):
                    m.d.sync += [word.eq(0), instruction.eq(instruction + 1)]
                with m.If(index == self.rom.depth):
                    m.next = "EXPECT"
            with m.State("EXPECT"):
                write(isa.Register.EXPECTED, self.config.fingerprint, "CLEAR")
            with m.State("CLEAR"):
                write(isa.Register.CONTROL, 0b10, "RUN")
            with m.State("RUN"):
                write(isa.Register.CONTROL, 0b01, "POLL")
            with m.State("POLL"):
                m.d.comb += [control.read.eq(1), control.address.eq(isa.Register.STATUS)]
                m.next = "CHECK"
            with m.State("CHECK"):
                busy, done, error = control.read_data[:3]
                with m.If(error):
                    m.next = "ERROR"
                with m.Elif(done):
                    m.next = "DONE"
                with m.Else():
                    m.next = "POLL"
            for state, lamp in (("DONE", self.done), ("ERROR", self.error)):
                with m.State(state):
                    m.d.comb += lamp.eq(1)
                    with m.If(self.start):
                        m.next = "CLEAR"
        return m


class LargestLogit(wiring.Component):
    """Reads the logits from memory and keeps the index of the largest; the first of equal ones wins.

    Parameters
    ----------
    port_bytes : int
        Bytes of a beat: 1, 2, or a multiple of 4.
    address : int
        Of the first logit, in bytes; a multiple of ``port_bytes``.
    classes : int
        Number of logits.

    Members
    -------
    enable : ``In(1)``
        The logits are in memory. They are read once, and again when it was low.
    index : ``Out(range(CLASSES))``
    valid : ``Out(1)``
        ``index`` is right.
    read_request, read_data :
        As in :class:`MemoryPort`.
    """

    def __init__(self, port_bytes: int, address: int, classes: int):
        self.port_bytes = port_bytes
        self.address = address
        self.classes = classes
        port = MemoryPort(port_bytes).members
        super().__init__(
            {
                "enable": In(1),
                "index": Out(range(CLASSES)),
                "valid": Out(1),
                "read_request": port["read_request"],
                "read_data": port["read_data"],
            }
        )

    def elaborate(self, platform):
        m = Module()
        port_bytes, classes = self.port_bytes, self.classes
        step = min(port_bytes, LOGIT_BYTES)  # bytes that are looked at in a cycle
        logit, best = Signal(signed(_LOGIT_BITS)), Signal(signed(_LOGIT_BITS), init=-(1 << _LOGIT_BITS - 1))
        beat, left = Signal(8 * port_bytes), Signal(range(port_bytes // step + 1))
        part, count = Signal(range(LOGIT_BYTES // step + 1)), Signal(range(CLASSES + 1))
        m.d.comb += [
            self.read_request.payload.address.eq(self.address // port_bytes),
            self.read_request.payload.beats.eq(-(-LOGIT_BYTES * classes // port_bytes) - 1),
        ]
        with m.FSM():
            with m.State("IDLE"):
                m.d.sync += [self.index.eq(0), best.eq(best.init), part.eq(0), count.eq(0)]
                m.d.comb += self.read_request.valid.eq(self.enable)
                with m.If(self.enable & self.read_request.ready):
                    m.next = "RECEIVE"
            with m.State("RECEIVE"):
                m.d.comb += self.read_data.ready.eq(1)
                m.d.sync += [beat.eq(self.read_data.payload.data), left.eq(port_bytes // step)]
                with m.If(self.read_data.valid):
                    m.next = "SHIFT"
            with m.State("SHIFT"):
                m.d.sync += [logit.eq(Cat(logit, beat[: 8 * step])[8 * step :]), beat.eq(beat >> 8 * step), left.eq(left - 1)]
                m.d.sync += part.eq(part + 1)
                m.next = "COMPARE"
            with m.State("COMPARE"):
                m.next = "SHIFT"
                with m.If(left == 0):
                    m.next = "RECEIVE"
                with m.If(part == LOGIT_BYTES // step):
                    m.d.sync += [part.eq(0), count.eq(count + 1)]
                    with m.If(logit > best):
                        m.d.sync += [best.eq(logit), self.index.eq(count)]
                    with m.If(count == classes - 1):
                        m.next = "VALID"
            with m.State("VALID"):
                m.d.comb += self.valid.eq(1)
                with m.If(~self.enable):
                    m.next = "IDLE"
        return m
