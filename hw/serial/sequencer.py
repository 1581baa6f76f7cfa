"""The sequencer of a serial core: one instruction after the other."""

from amaranth import *
from amaranth.lib import wiring

from .. import isa
from ..config import CoreConfig
from ..ram import Ram
from ..sequencer import sequencer_members

__all__ = ["OPCODES", "SerialSequencer"]

#: What a serial core executes.
OPCODES = (isa.Opcode.LOAD, isa.Opcode.STORE, isa.Opcode.MATMUL)
_WORDS = -(-max(isa.LAYOUTS[opcode].size for opcode in OPCODES) // 32)
_SLOTS = 16


class SerialSequencer(wiring.Component):
    """Runs a program: each instruction is read into one register, offered to its engine, and has ended before the next one is read.

    So program order is the order of execution; queues are not stored, and ``wait`` and ``give`` have nothing to do. The register stays
    as it is until ``done``: engines need no copy. Ports as those of :class:`..sequencer.Sequencer`.

    Timing: an instruction is offered ``FETCH_CYCLES`` after ``start`` or after the end of the one before. SYNC ends in the cycle in which
    it would be offered. ``finished`` is in the cycle in which END would be.

    Parameters
    ----------
    config : CoreConfig

    Members
    -------
    start, halt, program_write, queues, running, finished, dispatched :
        As of :class:`..sequencer.Sequencer`; nothing is ever in the queue of the row units.
    error : ``Out(isa.Error)``
        For one cycle: OPCODE (one that this core has not, or in the wrong queue), PROGRAM (no END); otherwise NONE.
    """

    FETCH_CYCLES = _WORDS + 2

    def __init__(self, config: CoreConfig):
        self.config = config
        super().__init__(sequencer_members(config))

    def elaborate(self, platform):
        m = Module()
        instruction = Signal(32 * _WORDS, reset_less=True)
        index, word = Signal(range(self.config.program_depth)), Signal(range(_SLOTS))
        m.submodules.program = program = Ram(shape=32, depth=_SLOTS * self.config.program_depth)
        m.d.comb += [
            program.write.addr.eq(Cat(self.program_write.word, self.program_write.index)),
            program.write.data.eq(self.program_write.data),
            program.write.en.eq(self.program_write.enable),
            program.read.addr.eq(Cat(word, index)),
            program.read.en.eq(1),
            self.dispatched.eq(index),
        ]
        header = isa.HEADER(instruction[: isa.HEADER.size])
        known, accepted = Signal(), Signal()
        with m.Switch(header.opcode):
            for opcode in OPCODES:
                queue = self.queues[isa.OPCODE_QUEUE[opcode].value]
                with m.Case(opcode):
                    m.d.comb += [known.eq(header.queue == isa.OPCODE_QUEUE[opcode]), accepted.eq(queue.instruction.ready)]
        for queue in self.queues:
            m.d.comb += queue.instruction.payload.eq(instruction)

        def advance() -> None:
            m.next = "FETCH"
            with m.If(index == self.config.program_depth - 1):
                m.d.comb += self.error.eq(isa.Error.PROGRAM)
                m.next = "IDLE"
            with m.Else():
                m.d.sync += index.eq(index + 1)

        with m.FSM() as fsm:
            m.d.comb += self.running.eq(~fsm.ongoing("IDLE"))
            with m.State("IDLE"):
                with m.If(self.start):  # until then it says where the last run ended
                    m.d.sync += index.eq(0)
                    m.next = "FETCH"
            with m.State("FETCH"):
                m.d.sync += word.eq(word + 1)
                for number in range(_WORDS):
                    with m.If(word == number + 1):
                        m.d.sync += instruction.word_select(number, 32).eq(program.read.data)
                with m.If(word == _WORDS):
                    m.d.sync += word.eq(0)
                    m.next = "DISPATCH"
            with m.State("DISPATCH"), m.If(~self.halt):
                with m.If(header.opcode == isa.Opcode.END):
                    m.d.comb += self.finished.eq(1)
                    m.next = "IDLE"
                with m.Elif(header.opcode == isa.Opcode.SYNC):
                    advance()
                with m.Elif(~known):
                    m.d.comb += self.error.eq(isa.Error.OPCODE)
                    m.next = "IDLE"
                with m.Else():
                    for queue in {isa.OPCODE_QUEUE[opcode]: None for opcode in OPCODES}:
                        m.d.comb += self.queues[queue.value].instruction.valid.eq(header.queue == queue)
                    with m.If(accepted):
                        m.next = "RUN"
            with m.State("RUN"), m.If(Cat(queue.done for queue in self.queues).any()):
                advance()
        return m
