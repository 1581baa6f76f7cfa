"""Single-port RAM on the FPGA for two: a core and the host's link."""

from amaranth import *
from amaranth.lib import wiring
from amaranth.lib.wiring import In
from amaranth.utils import exact_log2

from ..hw.memory_port import MemoryPort
from ..hw.serial.scratchpad import SinglePortRam
from .arbiter import CLIENTS

__all__ = ["SharedMemory"]


class SharedMemory(wiring.Component):
    """One burst at a time, read or write, of one of two clients, the first one before the second.

    A beat at or past ``depth`` is answered with ``error`` and written nowhere.

    Latency: ``latency`` cycles from an accepted read request to its first beat; the response follows a burst's last write beat by one.
    Throughput: a beat a cycle; two cycles between bursts.

    Parameters
    ----------
    port_bytes : int
        Bytes of a beat.
    depth : int
        Beats, a power of two.

    Members
    -------
    clients : ``In(MemoryPort(port_bytes)).array(2)``
    """

    latency = 2

    def __init__(self, port_bytes: int, depth: int):
        if depth < 2 or depth & (depth - 1):
            raise ValueError(f"depth must be a power of two of at least 2, not {depth}")
        self.port_bytes = port_bytes
        self.depth = depth
        super().__init__({"clients": In(MemoryPort(port_bytes)).array(CLIENTS)})

    def elaborate(self, platform):
        m = Module()
        bits = exact_log2(self.depth)
        m.submodules.memory = memory = SinglePortRam(shape=8 * self.port_bytes, depth=self.depth)
        chosen, outside, left = Signal(), Signal(), Signal(6)
        address = Signal(bits + 1, reset_less=True)  # the highest bit is set outside
        inside = ~address[bits]
        m.d.comb += [memory.address.eq(address), memory.write_data.eq(self.clients[0].write_data.payload.data)]
        with m.If(chosen):
            m.d.comb += memory.write_data.eq(self.clients[1].write_data.payload.data)

        def access() -> None:
            m.d.comb += memory.enable.eq(inside)
            m.d.sync += [address.eq(address + 1), outside.eq(outside | ~inside)]

        with m.FSM():
            with m.State("IDLE"):
                m.d.sync += outside.eq(0)
                self._accept(m, chosen, address, left)
            with m.State("READ"):
                access()
                m.next = "GIVE"
            with m.State("GIVE"):
                for index, client in enumerate(self.clients):
                    beat = client.read_data
                    m.d.comb += [beat.valid.eq(chosen == index), beat.payload.data.eq(memory.read_data), beat.payload.error.eq(outside)]
                    with m.If(beat.valid & beat.ready):
                        m.d.sync += left.eq(left - 1)
                        with m.If(left == 0):
                            m.next = "IDLE"
                        with m.Else():
                            access()
            with m.State("WRITE"):
                m.d.comb += memory.write.eq(1)
                for index, client in enumerate(self.clients):
                    beat = client.write_data
                    m.d.comb += beat.ready.eq(chosen == index)
                    with m.If(beat.valid & beat.ready):
                        access()
                        with m.If(beat.payload.last):
                            m.next = "RESPOND"
            with m.State("RESPOND"):
                for index, client in enumerate(self.clients):
                    response = client.write_response
                    m.d.comb += [response.valid.eq(chosen == index), response.payload.error.eq(outside)]
                    with m.If(response.valid & response.ready):
                        m.next = "IDLE"
        return m

    def _accept(self, m: Module, chosen: Signal, address: Signal, left: Signal) -> None:
        """Take the first request that there is."""
        free: Value = Const(1)
        for index, client in enumerate(self.clients):
            for request, state in ((client.read_request, "READ"), (client.write_request, "WRITE")):
                m.d.comb += request.ready.eq(free)
                with m.If(free & request.valid):
                    first = request.payload.address
                    m.d.sync += [chosen.eq(index), left.eq(request.payload.beats)]
                    m.d.sync += address.eq(Cat(first[: len(address) - 1], first[len(address) - 1 :].any()))
                    m.next = state
                free = free & ~request.valid
