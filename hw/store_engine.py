"""Store: words from the scratchpad to external memory."""

from amaranth import *
from amaranth.lib import stream, wiring
from amaranth.lib.fifo import SyncFIFO
from amaranth.lib.wiring import In, Out, connect, flipped
from amaranth.utils import ceil_log2

from . import isa
from .arith import delay
from .bursts import Bursts, times
from .config import CoreConfig
from .isa import Error, Opcode
from .memory_port import ADDRESS_BITS, MAX_BURST, MemoryPort
from .scratchpad import READ_LATENCY, ReadPort
from .transfer import accept_and_check, beyond_memory, held

__all__ = ["StoreEngine"]


class StoreEngine(wiring.Component):
    """Executes STORE: scratchpad to external memory. One instruction at a time.

    No words is ``Error.FIELD``, words outside the scratchpad ``Error.ADDRESS``; nothing is read or written then. A burst that is answered
    with an error is ``Error.MEMORY_WRITE``; the rest is still written. There is no ``done`` after an error.

    Throughput: a beat a cycle, in a serial core a word at a time. From ``start`` to ``done`` there are :meth:`cycles` cycles when the
    memory never waits; the next instruction may start with ``done``.

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
        What is in progress ends without ``error`` or ``done``; the engine gets ready when the memory has answered.
        To be used instead of a reset, which would leave answers behind.
    start : ``Out(1)``
        An instruction is accepted in this cycle.
    done : ``Out(1)``
        Pulse, in the cycle after the last response.
    error : ``Out(isa.Error)``
        Pulse: three cycles after ``start``, or with the response.
    read : ``Out(ReadPort(20, L))``
        From the scratchpad.
    write_request, write_data, write_response : streams
        As in :class:`.memory_port.MemoryPort`.
    """

    @staticmethod
    def words_ahead(config: CoreConfig) -> int:
        """Words between scratchpad and memory; with fewer than READ_LATENCY + 2 a word a cycle is not reached."""
        return 1 if config.serial else READ_LATENCY + 3

    def __init__(self, config: CoreConfig):
        self.config = config
        port = MemoryPort(config.port_bytes)
        super().__init__(
            {
                "instruction": In(stream.Signature(isa.INSTRUCTION_BITS)),
                "base": In(ADDRESS_BITS),
                "cancel": In(1),
                "start": Out(1),
                "done": Out(1),
                "error": Out(Error),
                "read": Out(ReadPort(isa.ADDRESS.width, config.lanes)),
                **{name: port.members[name] for name in ("write_request", "write_data", "write_response")},
            }
        )

    @classmethod
    def cycles(cls, config: CoreConfig, words: int) -> int:
        """Cycles from ``start`` to ``done`` when the memory never waits: a response comes ``memory_latency`` cycles after its burst."""
        waits = 0 if cls.words_ahead(config) > 1 else (words - 1) * (READ_LATENCY + 1)
        return config.memory_latency + READ_LATENCY + 5 + words * config.beats + waits

    def elaborate(self, platform):
        m = Module()
        config = self.config
        m.submodules.bursts = bursts = Bursts(config)
        connect(m, bursts=bursts.request, engine=flipped(self.write_request))
        body, counters, accept = held(config, Opcode.STORE, self.instruction.payload, ("words", "source"))
        words, source = counters
        reading, failed = Signal(), Signal()
        waiting = Signal(config.word_count_bits + ceil_log2(config.beats))  # bursts without a response
        refused, end = Signal(Error), Signal(len(body.source) + 1, reset_less=True)
        m.d.sync += end.eq(body.source + body.words)
        outside = (end > config.scratchpad_words) | beyond_memory(config, body)
        m.d.sync += refused.eq(Mux(outside, Error.ADDRESS, Error.NONE))
        with m.If(body.words == 0):
            m.d.sync += refused.eq(Error.FIELD)
        answered = Signal()
        m.d.comb += [
            bursts.base.eq(self.base),
            bursts.memory.eq(body.memory),
            bursts.words.eq(body.words),
            self.write_response.ready.eq(1),
            answered.eq(self.write_response.valid & (waiting == 1)),
        ]
        m.d.sync += self.done.eq(0)

        with m.FSM():
            accept_and_check(m, self, accept, failed)
            with m.State("CHECK"):
                with m.If(~failed & ~self.cancel):
                    m.d.comb += [self.error.eq(refused), bursts.begin.eq(refused == Error.NONE)]
                m.d.sync += [
                    reading.eq(bursts.begin),
                    waiting.eq((times(body.words, config.beats) + MAX_BURST - 1) >> ceil_log2(MAX_BURST)),
                ]
                m.next = "IDLE"
                with m.If(bursts.begin):
                    m.next = "RUN"
            with m.State("RUN"):
                with m.If(self.cancel):
                    m.d.sync += failed.eq(1)
                with m.If(self.write_response.valid):
                    m.d.sync += waiting.eq(waiting - 1)
                    with m.If(self.write_response.payload.error):
                        m.d.sync += failed.eq(1)
                        m.d.comb += self.error.eq(Mux(failed, Error.NONE, Error.MEMORY_WRITE))
                with m.If(answered):
                    m.d.sync += self.done.eq(~failed & ~self.write_response.payload.error & ~self.cancel)
                    m.next = "IDLE"
        with m.If(self.read.enable):
            m.d.sync += [source.eq(source + 1), words.eq(words - 1)]
            with m.If(words == 1):
                m.d.sync += reading.eq(0)
        self._send(m, source, words, reading, bursts.begin)
        return m

    def _send(self, m: Module, source: Value, words: Value, reading: Value, begin: Value) -> None:
        """Read words while there is room for them, and send them beat by beat."""
        config, most = self.config, self.words_ahead(self.config)
        m.submodules.fifo = fifo = SyncFIFO(width=8 * config.lanes, depth=most)
        ahead = Signal(range(most + 1))  # words that were read and not yet sent
        beat = Signal(range(config.beats))
        left = Signal(config.word_count_bits + ceil_log2(config.beats), reset_less=True)
        burst = Signal(range(MAX_BURST))
        sent = Signal()
        m.d.comb += [
            self.read.enable.eq(reading & (ahead != most)),
            self.read.address.eq(source),
            fifo.w_en.eq(delay(m, self.read.enable, READ_LATENCY, name="read_valid", reset_less=False)),
            fifo.w_data.eq(self.read.data),
            self.write_data.valid.eq(fifo.r_rdy),
            self.write_data.payload.data.eq(fifo.r_data.word_select(beat, 8 * config.port_bytes)),
            self.write_data.payload.last.eq((burst == MAX_BURST - 1) | (left == 1)),
            sent.eq(self.write_data.valid & self.write_data.ready),
            fifo.r_en.eq(sent & (beat == config.beats - 1)),
        ]
        m.d.sync += ahead.eq(ahead + self.read.enable - fifo.r_en)
        with m.If(begin):
            m.d.sync += [left.eq(times(words, config.beats)), burst.eq(0)]
        with m.Elif(sent):
            m.d.sync += [left.eq(left - 1), burst.eq(burst + 1), beat.eq(Mux(fifo.r_en, 0, beat + 1))]
