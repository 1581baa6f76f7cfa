"""The sequencer: program memory, dispatcher, four in-order queues and the tokens between them."""

import itertools

from amaranth import *
from amaranth.lib import data, stream, wiring
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import In, Member, Out
from amaranth.utils import exact_log2

from . import isa
from .arith import delay
from .config import CoreConfig
from .ram import Ram

__all__ = ["ProgramWrite", "QueuePort", "Sequencer", "sequencer_members"]


class ProgramWrite(wiring.Signature):
    """Writes of 32-bit words into the program memory, seen from the writer.

    Parameters
    ----------
    depth : int
        Instructions of the program memory.

    Members
    -------
    enable : ``Out(1)``
    index : ``Out(range(depth))``
        Instruction.
    word : ``Out(range(INSTRUCTION_WORDS))``
        Word of the instruction, the least significant one is 0.
    data : ``Out(32)``
    """

    def __init__(self, depth: int):
        self.depth = depth
        super().__init__({"enable": Out(1), "index": Out(range(depth)), "word": Out(range(isa.INSTRUCTION_WORDS)), "data": Out(32)})


class QueuePort(wiring.Signature):
    """What connects a queue with its engine, seen from the sequencer.

    Members
    -------
    instruction : ``Out(stream.Signature(384))``
        Header and body of the next instruction; its transfer is the start of the instruction.
    done : ``In(1)``
        Pulse: the oldest instruction in flight has ended, at the earliest in the cycle after its transfer.
    """

    def __init__(self):
        super().__init__({"instruction": Out(stream.Signature(isa.INSTRUCTION_BITS)), "done": In(1)})


class _Queue(wiring.Component):
    """Instructions that wait for one engine, and the ``give`` masks of those in flight."""

    def __init__(self, queue: isa.Queue, depth: int):
        self.queue = queue
        self.depth = depth
        # Only the bits that the engine's instructions have are stored.
        self.width = isa.HEADER.size + max(isa.BODIES[opcode].size for opcode, owner in isa.OPCODE_QUEUE.items() if owner == queue)
        super().__init__(
            {
                "port": Out(QueuePort()),
                "halt": In(1),
                "push": In(1),
                "full": Out(1),
                "idle": Out(1),
                "instruction": In(isa.INSTRUCTION_BITS),
                "tokens": In(isa.QUEUES),
                "take": Out(isa.QUEUES),
                "give": Out(isa.QUEUES),
            }
        )

    def elaborate(self, platform):
        m = Module()
        m.submodules.entries = entries = Memory(shape=self.width, depth=self.depth, init=[])
        write, read = entries.write_port(), entries.read_port(domain="comb")
        m.submodules.gives = gives = Memory(shape=isa.QUEUES, depth=Sequencer.IN_FLIGHT, init=[])
        give_write, give_read = gives.write_port(), gives.read_port(domain="comb")
        level = Signal(range(self.depth + 1))
        flying = Signal(range(Sequencer.IN_FLIGHT + 1))
        alone, many = Signal(init=1), Signal()  # none is in flight; IN_FLIGHT are

        # The first one is in a register, outside the memory.
        first, waiting = Signal(self.width, reset_less=True), Signal()
        stored = level != waiting  # more than that one wait
        head = isa.HEADER(first[: isa.HEADER.size])
        is_sync, able, pop, start, load, offered = Signal(), Signal(), Signal(), Signal(), Signal(), Signal()
        halted = Signal()  # next to the queue, however far `halt` is
        others = head.wait & ~(1 << self.queue.value)
        last = head.wait[self.queue.value] | is_sync
        m.d.comb += [
            is_sync.eq(head.opcode == isa.Opcode.SYNC),
            able.eq(offered & ~halted),
            self.port.instruction.valid.eq(able & ~is_sync),
            self.port.instruction.payload.eq(first),
            start.eq(self.port.instruction.valid & self.port.instruction.ready),
            pop.eq(start | (able & is_sync)),
            load.eq(stored & ~waiting),
        ]
        m.d.sync += halted.eq(self.halt)
        # Nobody else takes its tokens: what can be offered stays so.
        m.d.sync += offered.eq(waiting & ~pop & (others & ~self.tokens == 0) & Mux(last, alone, ~many))
        with m.If(~waiting):
            m.d.sync += [first.eq(read.data), waiting.eq(stored)]
        with m.If(pop):
            m.d.sync += waiting.eq(0)
            m.d.comb += self.take.eq(others)
        with m.If(self.port.done):
            m.d.comb += self.give.eq(give_read.data)
        with m.Elif(able & is_sync):
            m.d.comb += self.give.eq(head.give)

        m.d.comb += [write.en.eq(self.push), write.data.eq(self.instruction), give_write.en.eq(start), give_write.data.eq(head.give)]
        for step, port in ((self.push, write), (load, read), (start, give_write), (self.port.done, give_read)):
            with m.If(step):
                m.d.sync += port.addr.eq(port.addr + 1)
        m.d.sync += level.eq(level + self.push - pop)
        m.d.sync += flying.eq(flying + start - self.port.done)
        for now, number in ((alone, 0), (many, Sequencer.IN_FLIGHT)):  # flying == number, in a register
            m.d.sync += now.eq(Mux(start, Mux(self.port.done, now, flying == number - 1), Mux(self.port.done, flying == number + 1, now)))
        # full: level == depth, in a register.
        with m.If(pop):
            m.d.sync += self.full.eq(self.full & self.push)
        with m.Elif(self.push):
            m.d.sync += self.full.eq(level == self.depth - 1)
        m.d.comb += self.idle.eq((level == 0) & (flying == 0))
        return m


class _Dispatcher(wiring.Component):
    """Program memory, and the state machine that moves its instructions into the queues.

    When an instruction is dispatched, the address of the next one is registered; that one is read in the cycle after, decoded in the
    second one, and dispatched in the third one at the earliest.
    """

    def __init__(self, config: CoreConfig):
        self.config = config
        super().__init__(
            {
                "start": In(1),
                "halt": In(1),
                "program_write": In(ProgramWrite(config.program_depth)),
                "push": Out(isa.QUEUES),
                "instruction": Out(isa.INSTRUCTION_BITS),
                "full": In(isa.QUEUES),
                "idle": In(1),
                "loaded": In(1),
                "running": Out(1),
                "finished": Out(1),
                "error": Out(isa.Error),
                "dispatched": Out(range(config.program_limit)),
                **({"refill": In(ProgramWrite(config.program_depth))} if config.program_stream else {}),
            }
        )

    def elaborate(self, platform):
        m = Module()
        config = self.config
        m.submodules.program = program = Ram(shape=isa.INSTRUCTION_BITS, depth=config.program_depth, granularity=32)
        read = program.read
        write = {name: Signal.like(getattr(program.write, name), name=f"write_{name}") for name in ("en", "addr", "data")}
        self._write(m, write, self.program_write)
        if config.program_stream:
            with m.If(self.refill.enable):
                self._write(m, write, self.refill)
        # A cycle later, also when a reset comes between: the host may write right after it has cleared a run.
        m.d.comb += [getattr(program.write, name).eq(delay(m, value, 1, name=f"write_{name}")) for name, value in write.items()]
        index = Signal(range(config.program_limit + 1))  # of the instruction that is read next
        current = Signal.like(self.dispatched, reset_less=True)
        fetch, wait, past = Signal(), Signal(), Signal()
        end, known, queue, loads = Signal(), Signal(), Signal(isa.QUEUES), Signal()
        self._decode(m, isa.HEADER(read.data[: isa.HEADER.size]), end, known, queue, loads)
        m.d.comb += self.instruction.eq(read.data)
        m.d.sync += [read.en.eq(fetch), read.addr.eq(self._address(index))]

        with m.FSM() as fsm:
            m.d.comb += self.running.eq(~fsm.ongoing("IDLE"))
            with m.State("IDLE"):
                m.d.comb += fetch.eq(self.start)
                m.d.sync += index.eq(0)
                with m.If(self.start):
                    m.next = "READ"
            with m.State("READ"):
                m.next = "DECODE"
            with m.State("DECODE"):
                m.next = "DISPATCH"
            with m.State("DISPATCH"), m.If(~self.halt):
                m.d.sync += self.dispatched.eq(current)
                with m.If(end):
                    m.next = "END"
                with m.Elif(~known):
                    m.d.comb += self.error.eq(isa.Error.OPCODE)
                    m.next = "IDLE"
                with m.Elif(~(queue & self.full).any()):
                    m.d.comb += [self.push.eq(queue), fetch.eq(~wait)]
                    m.next = "READ"
                    with m.If(past):
                        m.next = "PAST"
                    with m.Elif(wait):
                        m.next = "WAIT"
            with m.State("WAIT"):
                m.d.comb += fetch.eq(~wait)
                with m.If(~wait):
                    m.next = "READ"
            with m.State("PAST"):
                m.d.comb += self.error.eq(isa.Error.PROGRAM)
                m.next = "IDLE"
            with m.State("END"):
                m.d.sync += index.eq(0)
                with m.If(self.idle & ~self.halt):
                    m.d.comb += self.finished.eq(1)
                    m.next = "IDLE"
        with m.If(fetch):
            m.d.sync += [current.eq(index), index.eq(index + 1)]
        if config.program_stream:
            self._blocks(m, index, loads, wait, past)
        else:
            m.d.comb += past.eq(index == config.program_depth)
        return m

    def _write(self, m: Module, write: dict[str, Signal], port) -> None:
        """Write what comes at a port: words of the host while no program runs, those of LOADs while one does."""
        m.d.comb += [
            write["addr"].eq(port.index),
            write["data"].eq(port.data.replicate(isa.INSTRUCTION_WORDS)),
            write["en"].eq(port.enable << port.word),
        ]

    def _decode(self, m: Module, header: data.View, end: Signal, known: Signal, queue: Signal, loads: Signal) -> None:
        """What dispatching takes of the instruction that was read, in registers."""
        right = Signal()
        with m.Switch(header.opcode):
            for opcode, owner in isa.OPCODE_QUEUE.items():
                with m.Case(opcode):
                    m.d.comb += right.eq(header.queue == owner)
            with m.Case(isa.Opcode.SYNC):
                m.d.comb += right.eq(1)
        m.d.sync += [
            end.eq(header.opcode == isa.Opcode.END),
            known.eq(right),
            queue.eq(1 << header.queue.as_value()),
            loads.eq((header.queue == isa.Queue.LOAD) & header.give[isa.Queue.LOAD.value]),
        ]

    def _address(self, index: Value) -> Value:
        """Where an instruction lies: those from the middle of the program memory on take turns in its upper half."""
        if not self.config.program_stream:
            return index
        half = exact_log2(self.config.program_depth // 2)
        return Cat(index[:half], index[half:].any())

    def _blocks(self, m: Module, index: Value, loads: Signal, wait: Signal, past: Signal) -> None:
        """Before the first instruction of a block ``wait`` for the LOADs that bring blocks; past the program memory there must be one."""
        depth, pushed = self.config.program_depth, Signal()
        first, there = Signal(), Signal()  # `there`: a LOAD of the block before brings this one
        pending = Signal(Sequencer.TOKEN_BITS)
        m.d.comb += [
            pushed.eq(self.push[isa.Queue.LOAD.value] & loads),
            first.eq(index[: exact_log2(self.config.program_block)] == 0),
            wait.eq(first & (pushed | (pending != 0))),
            past.eq(first & (index[exact_log2(depth) :] != 0) & ~(pushed | there) | (index == self.config.program_limit)),
        ]
        m.d.sync += pending.eq(pending + pushed - self.loaded)
        with m.If(pushed):
            m.d.sync += there.eq(1)
        with m.If(first & (self.push != 0) | ~self.running):
            m.d.sync += there.eq(0)


def sequencer_members(config: CoreConfig) -> dict[str, Member]:
    """Ports of a sequencer, whichever a core has."""
    return {
        "start": In(1),
        "halt": In(1),
        "program_write": In(ProgramWrite(config.program_depth)),
        "queues": Out(QueuePort()).array(isa.QUEUES),
        "running": Out(1),
        "finished": Out(1),
        "error": Out(isa.Error),
        "dispatched": Out(range(config.program_limit)),
        **({"refill": In(ProgramWrite(config.program_depth))} if config.program_stream else {}),
    }


class Sequencer(wiring.Component):
    """Runs a program: gives each engine its instructions in order, as soon as their tokens are there.

    The timing is exact, and :func:`..sim.sequencer_timing.simulate_queues` reproduces it:

    - The dispatcher takes instruction i in cycle ``d(i) = d(i - 1) + DISPATCH_CYCLES``, or in the first later cycle in which its queue has
      room; ``d(-1)`` is the cycle of ``start``. A full queue has room from the cycle after one of its instructions started.
    - An instruction is offered to its engine (``valid``) in the first cycle that is at least ``QUEUE_LATENCY`` after its dispatch,
      ``TOKEN_LATENCY`` after the ``done`` that gave the last token of its ``wait``, ``START_CYCLES`` after the start of the instruction
      before it in its queue, and ``TOKEN_LATENCY`` after the ``done`` of the ``IN_FLIGHT``-th instruction before it. With its own queue's
      bit in ``wait``, it comes as long after the ``done`` of every instruction before it in its queue. It starts when the engine is ready,
      and then takes its tokens.
    - ``done`` gives the tokens of the oldest instruction in flight; the own queue's bit in ``give`` has no meaning but this one:
    - With ``config.program_stream`` a program consists of blocks of ``config.program_block`` instructions. Blocks 0 and 1 lie where the
      host wrote them, in the lower half of the program memory, and stay; later ones take turns in the two quarters of its upper half. LOAD
      instructions of the program bring them: one in block k, when all of block k - 1 is dispatched, may bring block k + 1, and has the own
      queue's bit in ``give``. The first instruction of a block is not dispatched before ``LOADED_CYCLES`` after the last ``done`` of such
      instructions of earlier blocks. A program that is not longer than the program memory needs none of this.
    - SYNC waits as if it had its own queue's bit in ``wait``, and needs no engine: its ``start`` and ``done`` are one cycle.
    - END stops the dispatcher; its masks have no meaning. ``finished`` comes ``FINISH_LATENCY`` after END's dispatch or after the last
      ``done``, whichever is later.

    ``start`` clears the tokens. A synchronous reset of this component keeps the program.

    Parameters
    ----------
    config : CoreConfig

    Members
    -------
    start : ``In(1)``
        Pulse: run the program from instruction 0. Not while ``running``.
    halt : ``In(1)``
        While high nothing is dispatched, and from the cycle after on nothing is offered; an offer that is not taken yet is withdrawn. Only
        a reset goes on from here.
    program_write : ``In(ProgramWrite(program_depth))``
        Not while ``running``.
    refill : ``In(ProgramWrite(program_depth))``
        What LOADs to the program memory write. Only with ``config.program_stream``.
    queues : ``Out(QueuePort()).array(QUEUES)``
        By :class:`.isa.Queue`.
    running : ``Out(1)``
        From the cycle after ``start`` to that of ``finished``, or of the dispatcher's error.
    finished : ``Out(1)``
        Pulse.
    error : ``Out(isa.Error)``
        For one cycle: OPCODE (unknown, or in the wrong queue), PROGRAM (no END), TOKEN (a 64th token); otherwise NONE.
    dispatched : ``Out(range(program_limit))``
        Last instruction that the dispatcher put into a queue, or the one with the error.
    """

    DISPATCH_CYCLES = 3
    QUEUE_LATENCY = 4
    START_CYCLES = 3
    TOKEN_LATENCY = 2
    FINISH_LATENCY = 1
    LOADED_CYCLES = 4
    IN_FLIGHT = 8
    TOKEN_BITS = 6

    def __init__(self, config: CoreConfig):
        self.config = config
        super().__init__(sequencer_members(config))

    def elaborate(self, platform):
        m = Module()
        m.submodules.dispatcher = dispatcher = _Dispatcher(self.config)
        queues = [_Queue(queue, self.config.queue_depth) for queue in isa.Queue]
        # From block RAM to the queues there is a register.
        push, instruction = Signal(isa.QUEUES), Signal(isa.INSTRUCTION_BITS, reset_less=True)
        m.d.sync += [push.eq(dispatcher.push), instruction.eq(dispatcher.instruction)]
        for queue, port in zip(queues, self.queues, strict=True):
            m.submodules[f"queue_{queue.queue.name.lower()}"] = queue
            wiring.connect(m, queue.port, wiring.flipped(port))
            m.d.comb += [
                queue.halt.eq(self.halt),
                queue.push.eq(push[queue.queue.value]),
                queue.instruction.eq(instruction),
            ]
        for name in ("program_write", *(["refill"] if self.config.program_stream else [])):
            wiring.connect(m, getattr(dispatcher, name), wiring.flipped(getattr(self, name)))
        m.d.comb += [
            dispatcher.start.eq(self.start),
            dispatcher.halt.eq(self.halt),
            dispatcher.loaded.eq(queues[isa.Queue.LOAD.value].give[isa.Queue.LOAD.value]),
            dispatcher.full.eq(Cat(queue.full for queue in queues)),
            dispatcher.idle.eq(Cat(queue.idle for queue in queues).all()),
            self.running.eq(dispatcher.running),
            self.finished.eq(dispatcher.finished),
            self.dispatched.eq(dispatcher.dispatched),
        ]
        error = Signal(isa.Error)
        m.d.sync += error.eq(dispatcher.error)
        m.d.comb += self.error.eq(Mux(self._tokens(m, queues), isa.Error.TOKEN, error))
        return m

    def _tokens(self, m, queues):
        """The token counters; returns whether one has overflowed in the cycle before: then its highest bit is set for a cycle."""
        overflows = []
        for source, target in itertools.permutations(queues, 2):
            count = Signal(self.TOKEN_BITS + 1, name=f"tokens_{source.queue.name.lower()}_{target.queue.name.lower()}")
            held, some = count[: self.TOKEN_BITS], Signal(name=f"some_{count.name}")
            give, take = source.give[target.queue.value], target.take[source.queue.value]
            m.d.comb += target.tokens[source.queue.value].eq(some)  # held.any(), in a register
            m.d.sync += some.eq(~self.start & (give | Mux(take, held[1:].any(), some)))
            m.d.sync += count.eq(Mux(self.start, 0, held + give - take))
            overflows.append(count[-1])
        return Cat(overflows).any()
