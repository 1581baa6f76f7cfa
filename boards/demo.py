"""A core that runs one program on one image, all of it on the FPGA: the part of a board's top that no board is needed for."""

from amaranth import *
from amaranth.lib import wiring
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import In, Out, connect, flipped

from ..hw import isa
from ..hw.config import CoreConfig
from ..hw.control import ControlPort
from ..hw.core import Core
from ..hw.memory_port import MemoryPort
from .block_memory import BlockMemory
from .jobs import CLASSES, LOGIT_BYTES, Job

__all__ = ["Demo"]

_LOGIT_BITS = 8 * LOGIT_BYTES


class _Host(wiring.Component):
    """Writes the program into the core, starts it and waits for its end; again at every ``start`` after that.

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
        self.rom = Memory(shape=32, depth=len(words), init=words, attrs={"rom_style": "block"})
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


class _LargestLogit(wiring.Component):
    """Reads the logits from memory and keeps the index of the largest; the first of equal ones wins.

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

    def __init__(self, config: CoreConfig, job: Job):
        self.config = config
        self.job = job
        port = MemoryPort(config.port_bytes).members
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
        port_bytes, classes = self.config.port_bytes, self.job.classes
        step = min(port_bytes, LOGIT_BYTES)  # bytes that are looked at in a cycle
        logit, best = Signal(signed(_LOGIT_BITS)), Signal(signed(_LOGIT_BITS), init=-(1 << _LOGIT_BITS - 1))
        beat, left = Signal(8 * port_bytes), Signal(range(port_bytes // step + 1))
        part, count = Signal(range(LOGIT_BYTES // step + 1)), Signal(range(CLASSES + 1))
        m.d.comb += [
            self.read_request.payload.address.eq(self.job.logits // port_bytes),
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


class Demo(wiring.Component):
    """A core, its memory in block RAM, and a state machine in place of a host.

    After reset it loads the program, runs it on the image in its memory and shows the class with the largest logit; at ``start`` it
    runs again.

    Parameters
    ----------
    config : CoreConfig
    job : Job

    Members
    -------
    start : ``In(1)``
    digit : ``Out(range(CLASSES))``
        The class, while ``done``.
    busy, done, error : ``Out(1)``
        One of them is high.
    """

    start: In(1)
    digit: Out(range(CLASSES))
    busy: Out(1)
    done: Out(1)
    error: Out(1)

    def __init__(self, config: CoreConfig, job: Job):
        size = config.port_bytes
        if not 1 <= len(job.instructions) <= config.program_depth:
            raise ValueError(f"a program has 1 to {config.program_depth} instructions, not {len(job.instructions)}")
        if job.logits % size:
            raise ValueError(f"logits must start at a multiple of {size} bytes, not at {job.logits}")
        beats = [int.from_bytes(job.memory[low : low + size], "little") for low in range(0, len(job.memory), size)]
        self.core = Core(config)
        self.memory = BlockMemory(size, len(beats), beats)
        self.host = _Host(config, job.instructions)
        self.largest = _LargestLogit(config, job)
        super().__init__()

    def elaborate(self, platform):
        m = Module()
        m.submodules.core = core = self.core
        m.submodules.memory = memory = self.memory
        m.submodules.host = host = self.host
        m.submodules.largest = largest = self.largest
        connect(m, host=host.control, core=core.control)
        for name in ("write_request", "write_data", "write_response"):
            connect(m, core=getattr(core.memory, name), memory=getattr(memory.port, name))
        # The core is idle when the logits are read, so the two readers need no arbiter.
        with m.If(host.done):
            for name in ("read_request", "read_data"):
                connect(m, largest=getattr(largest, name), memory=getattr(memory.port, name))
        with m.Else():
            for name in ("read_request", "read_data"):
                connect(m, core=getattr(core.memory, name), memory=getattr(memory.port, name))
        m.d.comb += [
            host.start.eq(self.start & ~self.busy),
            largest.enable.eq(host.done),
            self.digit.eq(largest.index),
            self.done.eq(host.done & largest.valid),
            self.error.eq(host.error),
            self.busy.eq(host.busy | (host.done & ~largest.valid)),
        ]
        return m
