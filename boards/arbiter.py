"""One memory for two: a core and the host's link."""

from amaranth import *
from amaranth.lib import wiring
from amaranth.lib.fifo import SyncFIFO, SyncFIFOBuffered
from amaranth.lib.wiring import In, Out

from ..hw.memory_port import MemoryPort

__all__ = ["CLIENTS", "MemoryArbiter"]

CLIENTS = 2
#: Bursts of a direction that may be under way.
_BURSTS = 8


class MemoryArbiter(wiring.Component):
    """Gives a memory's bursts to two clients in turn, those of each in its order; adds no cycle.

    A client that does not take its answers keeps the other one's waiting.

    Parameters
    ----------
    port_bytes : int

    Members
    -------
    clients : ``In(MemoryPort(port_bytes)).array(2)``
    memory : ``Out(MemoryPort(port_bytes))``
    """

    def __init__(self, port_bytes: int):
        self.port_bytes = port_bytes
        super().__init__({"clients": In(MemoryPort(port_bytes)).array(CLIENTS), "memory": Out(MemoryPort(port_bytes))})

    def elaborate(self, platform):
        m = Module()
        memory, clients = self.memory, self.clients
        m.submodules.reads = reads = SyncFIFO(width=len(memory.read_request.payload.beats) + 1, depth=_BURSTS)
        m.submodules.writes = writes = SyncFIFOBuffered(width=1, depth=_BURSTS)
        m.submodules.responses = responses = SyncFIFO(width=1, depth=_BURSTS)

        reader = self._grant(m, "read_request", reads.w_rdy)
        writer = self._grant(m, "write_request", writes.w_rdy & responses.w_rdy)
        m.d.comb += [
            reads.w_data.eq(Cat(reader, memory.read_request.payload.beats)),
            reads.w_en.eq(memory.read_request.valid & memory.read_request.ready),
            writes.w_data.eq(writer),
            responses.w_data.eq(writer),
        ]
        for queue in (writes, responses):
            m.d.comb += queue.w_en.eq(memory.write_request.valid & memory.write_request.ready)

        count = Signal.like(memory.read_request.payload.beats)
        for index in range(CLIENTS):
            with m.If(reads.r_rdy & (reads.r_data[0] == index)):
                self._pass(m, memory.read_data, clients[index].read_data)
            with m.If(writes.r_rdy & (writes.r_data == index)):
                self._pass(m, clients[index].write_data, memory.write_data)
            with m.If(responses.r_rdy & (responses.r_data == index)):
                self._pass(m, memory.write_response, clients[index].write_response)
        with m.If(memory.read_data.valid & memory.read_data.ready):
            m.d.sync += count.eq(count + 1)
            with m.If(count == reads.r_data[1:]):
                m.d.comb += reads.r_en.eq(1)
                m.d.sync += count.eq(0)
        m.d.comb += writes.r_en.eq(memory.write_data.valid & memory.write_data.ready & memory.write_data.payload.last)
        m.d.comb += responses.r_en.eq(memory.write_response.valid & memory.write_response.ready)
        return m

    def _grant(self, m, name, room):
        """Pass the requests of the client whose turn it is, or of the other one; one that waits is not changed for another."""
        request, ports = getattr(self.memory, name), [getattr(client, name) for client in self.clients]
        turn, held, chosen = Signal(name=f"{name}_turn"), Signal(name=f"{name}_held"), Signal(name=f"{name}_chosen")
        m.d.comb += chosen.eq(Mux(ports[1].valid & ports[0].valid | held, turn, ports[1].valid))
        for index, port in enumerate(ports):
            with m.If(room & (chosen == index)):
                self._pass(m, port, request)
        with m.If(request.valid):
            m.d.sync += [held.eq(~request.ready), turn.eq(Mux(request.ready, ~chosen, chosen))]
        return chosen

    @staticmethod
    def _pass(m, source, sink):
        m.d.comb += [sink.valid.eq(source.valid), sink.payload.eq(source.payload), source.ready.eq(sink.ready)]
