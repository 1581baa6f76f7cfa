"""The scratchpad: single-write, single-read banks behind a crossbar of fixed latency."""

from types import SimpleNamespace
from typing import Any

from amaranth import *
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Member, Out
from amaranth.utils import ceil_log2

from . import isa
from .arith import copies, delay
from .config import CoreConfig
from .ram import Ram

__all__ = ["PARTS", "READERS", "READ_LATENCY", "WRITERS", "ReadPort", "Scratchpad", "WritePort", "scratchpad_members"]

#: Clients in the order of ``Scratchpad.reads`` and ``Scratchpad.writes``.
READERS = ("moving", "stationary", "residual", "rows", "store")
WRITERS = ("load", "epilogue", "rows")
#: A read enabled in cycle t has its data in cycle t + READ_LATENCY, and only there.
READ_LATENCY = 8
#: Parts of a word that can be written alone in a core with a narrow mode.
PARTS = 8
#: Parts of a word that have registers of their own for which bank they go to.
_SELECTS = 4


class ReadPort(wiring.Signature):
    """Reads of one client, seen from the client.

    Parameters
    ----------
    address_bits : int
        20 (``isa.ADDRESS``) at the scratchpad.
    lanes : int
        Bytes of a word.

    Members
    -------
    enable : ``Out(1)``
    address : ``Out(address_bits)``
        Word address.
    data : ``In(ArrayLayout(signed(8), lanes))``
        :data:`READ_LATENCY` cycles after ``enable``.
    """

    def __init__(self, address_bits: int, lanes: int):
        self.address_bits = address_bits
        self.lanes = lanes
        super().__init__({"enable": Out(1), "address": Out(address_bits), "data": In(data.ArrayLayout(signed(8), lanes))})


class WritePort(wiring.Signature):
    """Writes of one client, seen from the client; a write is always accepted.

    Parameters
    ----------
    address_bits : int
        20 (``isa.ADDRESS``) at the scratchpad.
    lanes : int
        Bytes of a word.

    Members
    -------
    enable : ``Out(1)``
    address : ``Out(address_bits)``
        Word address.
    data : ``Out(ArrayLayout(signed(8), lanes))``
        In the cycle of ``enable``.
    """

    def __init__(self, address_bits: int, lanes: int):
        self.address_bits = address_bits
        self.lanes = lanes
        super().__init__({"enable": Out(1), "address": Out(address_bits), "data": Out(data.ArrayLayout(signed(8), lanes))})


def scratchpad_members(config: CoreConfig) -> dict[str, Member]:
    """Ports of a scratchpad, whichever a core has."""
    return {
        "reads": In(ReadPort(isa.ADDRESS.width, config.lanes)).array(len(READERS)),
        "writes": In(WritePort(isa.ADDRESS.width, config.lanes)).array(len(WRITERS)),
        **({"parts": In(PARTS)} if config.narrow else {}),
        "halt": In(1),
        "conflict": Out(1),
        "out_of_range": Out(1),
    }


class Scratchpad(wiring.Component):
    """Banks of L-byte words, the high bits of a word address being the bank.

    A request is registered, registered again while its bank is found and a third time on its way, and at the bank; this is read into a
    register, and the bank's word is selected in two steps with a register each: no cycle has more than one of logic, block RAM and the way
    across the chip. Each bank does one read and one write a cycle. A write enabled in cycle t is seen by reads enabled in cycle t + 1 and
    later; a read of the same address in the same cycle t has an undefined result: programs order such accesses by tokens. So banks need no
    collision logic.

    Latency: ``latency`` cycles from ``enable`` to ``data``, ``WRITE_LATENCY`` from ``enable`` to the bank's write.
    Throughput: a word per client and cycle while clients of a kind use different banks.

    Parameters
    ----------
    config : CoreConfig

    Members
    -------
    reads : ``In(ReadPort(20, lanes)).array(len(READERS))``
    writes : ``In(WritePort(20, lanes)).array(len(WRITERS))``
    parts : ``In(PARTS)``
        With a write of the epilogue: which eighths of its word are written, bit 0 being the lowest bytes; the other clients write whole
        words. Only with ``config.narrow``.
    halt : ``In(1)``
        No bank is written from the cycle after on.
    conflict : ``Out(1)``
        Pulse, ``ERROR_LATENCY`` cycles after two readers or two writers used one bank: only the first reader reads, none of the writers
        writes.
    out_of_range : ``Out(1)``
        Pulse, ``ERROR_LATENCY`` cycles after an access outside the scratchpad, which is ignored.
    """

    latency = READ_LATENCY
    ERROR_LATENCY = 4
    WRITE_LATENCY = 4

    def __init__(self, config: CoreConfig):
        self.config = config
        super().__init__(scratchpad_members(config))

    def elaborate(self, platform):
        m = Module()
        config = self.config
        reads, writes = (
            [self._requested(m, f"{kind}_{client}", port) for client, port in enumerate(ports)]
            for kind, ports in (("read", self.reads), ("write", self.writes))
        )
        parts = delay(m, self.parts, 3, name="parts") if config.narrow else Const(-1)
        words, conflicts = zip(*(self._bank(m, index, reads, writes, parts) for index in range(config.banks)), strict=True)

        for client, (port, request) in enumerate(zip(self.reads, reads, strict=True)):
            bank = delay(m, request.address[ceil_log2(config.bank_words) : config.address_bits], READ_LATENCY - 5, name=f"bank_{client}")
            pairs = [Mux(bank[0], odd.as_value(), even.as_value()) for even, odd in zip(words[::2], words[1::2], strict=True)]
            pairs = [delay(m, pair, 1, name=f"pair_{client}_{index}") for index, pair in enumerate(pairs)]
            word = Array(pairs)[delay(m, bank[1:], 1, name=f"bank_{client}_late")] if len(pairs) > 1 else pairs[0]
            m.d.comb += port.data.eq(delay(m, word, 1, name=f"word_{client}"))

        outside = Cat(request.outside for request in (*reads, *writes))
        m.d.sync += [self.conflict.eq(Cat(conflicts).any()), self.out_of_range.eq(outside.any())]
        return m

    def _requested(self, m: Module, name: str, port: Any) -> SimpleNamespace:
        """``address`` and a writer's ``data`` of a port, three cycles later; with them ``banks``, the bank that is meant as a bit, or none,
        ``selects``, copies of it for parts of a writer's word, and ``outside``, that the address is none of the scratchpad.
        """
        config = self.config
        enable = delay(m, port.enable, 1, name=f"{name}_enable", reset_less=False)
        address = delay(m, port.address, 1, name=f"{name}_address")
        bank, outside = address[ceil_log2(config.bank_words) : config.address_bits], address[config.address_bits :].any()
        banks = delay(m, Mux(enable & ~outside, 1 << bank, 0)[: config.banks], 1, name=f"{name}_banks", reset_less=False)
        request = SimpleNamespace(
            address=delay(m, address, 2, name=f"{name}_address_late"),
            banks=delay(m, banks, 1, name=f"{name}_banks_late", reset_less=False),
            outside=delay(m, enable & outside, 2, name=f"{name}_outside", reset_less=False),
        )
        if isinstance(port.signature, WritePort):
            request.data = delay(m, port.data, 3, name=f"{name}_data")
            request.selects = copies(m, banks, _SELECTS, name=f"{name}_select")
        return request

    def _bank(self, m: Module, index: int, reads: list[Any], writes: list[Any], parts: Value) -> tuple[Any, Value]:
        """One bank with its request registers; returns the word that it reads, and whether clients meet in it."""
        shape, narrow = data.ArrayLayout(signed(8), self.config.lanes), self.config.narrow
        granularity = shape.size // PARTS if narrow else shape.size
        m.submodules[f"bank_{index}"] = memory = Ram(shape=shape, depth=self.config.bank_words, granularity=granularity)
        read, write = memory.read, memory.write
        here = [Cat(request.banks[index] for request in requests) for requests in (reads, writes)]
        read_address, write_address, write_data, word = (
            Signal.like(member, name=f"{name}_{index}", reset_less=True)
            for name, member in (
                ("read_address", read.addr),
                ("write_address", write.addr),
                ("write_data", write.data),
                ("word", read.data),
            )
        )
        read_valid, write_valid = Signal(name=f"read_valid_{index}"), Signal(name=f"write_valid_{index}")
        writes_here = here[1].any() & ~_several(here[1]) & ~self.halt
        m.d.sync += [read_valid.eq(here[0].any()), write_valid.eq(writes_here), word.eq(read.data)]
        # Without a request, address and data do not matter: the default saves their registers an enable.
        m.d.sync += [read_address.eq(reads[-1].address), write_address.eq(writes[-1].address), write_data.eq(writes[-1].data)]
        for client, request in reversed(list(enumerate(reads[:-1]))):  # the last assignment wins, so the first client does
            with m.If(here[0][client]):
                m.d.sync += read_address.eq(request.address)
        for client, request in enumerate(writes[:-1]):
            with m.If(here[1][client]):
                m.d.sync += write_address.eq(request.address)
            bits = shape.size // _SELECTS
            for part, select in enumerate(request.selects):
                with m.If(select[index]):
                    m.d.sync += write_data.as_value().word_select(part, bits).eq(request.data.as_value().word_select(part, bits))
        allowed = write_valid
        if narrow:
            written = Signal(PARTS, name=f"parts_{index}", reset_less=True)
            m.d.sync += written.eq(Mux(here[1][WRITERS.index("epilogue")], parts, -1))
            allowed = Mux(allowed, written, 0)
        m.d.comb += [read.en.eq(read_valid), read.addr.eq(read_address)]
        m.d.comb += [write.en.eq(allowed), write.addr.eq(write_address), write.data.eq(write_data)]
        return word, _several(here[0]) | _several(here[1])


def _several(wants: Value) -> Value:
    """Whether more than one bit is set."""
    return (wants & (wants - 1)).any()
