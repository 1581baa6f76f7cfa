"""The far end of a UART, a frame at a time: ``uart_far_end.v`` in Amaranth designs, and a transport for :class:`..boards.host.Device`."""
# pyright: reportAttributeAccessIssue=false

from __future__ import annotations

from pathlib import Path
from typing import Any

from amaranth import *
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out
from cocotb.task import resume
from cocotb.triggers import ClockCycles, First, RisingEdge, Timer, ValueChange

from ..boards.frames import CRC_BYTES, HEADER_BYTES, MAX_DATA

__all__ = ["FAR_END_VERILOG", "FarEnd", "FramePort", "SimulatedTransport"]

#: To be given to :func:`.runner.build`, with any design that has a :class:`FarEnd`.
FAR_END_VERILOG = Path(__file__).with_name("uart_far_end.v")
#: Of one change of the pins: a frame of which every byte is escaped, and more.
_BYTES = 2 * (HEADER_BYTES + MAX_DATA + CRC_BYTES) + 16


class FarEnd(wiring.Component):
    """The other side of a UART, which sends and collects whole frames.

    Parameters
    ----------
    divisor : int
        Cycles of a bit.

    Members
    -------
    to_device, from_device : ``Out(1)``, ``In(1)``
    others :
        Ports of ``uart_far_end.v``; a top passes them on under their names for :class:`FramePort`.
    """

    def __init__(self, divisor: int):
        self.divisor = divisor
        super().__init__({"to_device": Out(1), "from_device": In(1), **self.host()})

    @staticmethod
    def host() -> dict[str, Any]:
        """Members that :class:`FramePort` uses."""
        sent = {"send_bytes": In(8 * _BYTES), "send_count": In(32), "send": In(1), "sent": Out(1), "take": In(1)}
        return sent | {"received_bytes": Out(8 * _BYTES), "received_count": Out(32), "quiet": Out(1)}

    def connect_host(self, m: Module, top: wiring.Component) -> None:
        """Pass the members of :meth:`host` on to the same ones of ``top``."""
        for name, member in self.host().items():
            inner, outer = getattr(self, name), getattr(top, name)
            m.d.comb += inner.eq(outer) if member.flow is In else outer.eq(inner)

    def elaborate(self, platform):
        m = Module()
        ports = {f"{'i' if member.flow is In else 'o'}_{name}": getattr(self, name) for name, member in self.signature.members.items()}
        parameters = {"p_DIVISOR": self.divisor, "p_BYTES": _BYTES}
        m.submodules.far_end = Instance("uart_far_end", i_clk=ClockSignal(), i_rst=ResetSignal(), **parameters, **ports)
        return m


class FramePort:
    """Bytes to and from the ports of a :class:`FarEnd` that ``dut`` has. period : of ``dut.clk``, in ns."""

    def __init__(self, dut: Any, period: int = 10) -> None:
        self.dut, self.period = dut, period
        self.turn = 0
        dut.send.value = dut.take.value = dut.send_count.value = dut.send_bytes.value = 0

    async def send(self, content: bytes) -> None:
        """Send bytes without a gap."""
        dut = self.dut
        for low in range(0, len(content), _BYTES):
            part = content[low : low + _BYTES]
            self.turn ^= 1
            dut.send_bytes.value = int.from_bytes(part, "little")
            dut.send_count.value = len(part)
            dut.send.value = self.turn
            await ValueChange(dut.sent)

    async def receive(self, patience: int) -> bytes:
        """All that has come when the device is quiet; nothing after ``patience`` cycles."""
        dut = self.dut
        if not dut.quiet.value:
            await First(RisingEdge(dut.quiet), Timer(patience * self.period, unit="ns"))
        if not dut.quiet.value:
            return b""
        content = int(dut.received_bytes.value).to_bytes(_BYTES, "little")[: int(dut.received_count.value)]
        dut.take.value = 1
        await ClockCycles(dut.clk, 1)
        dut.take.value = 0
        await ClockCycles(dut.clk, 2)
        return content


class SimulatedTransport:
    """A :class:`..boards.host.Transport` for code in ``cocotb.task.bridge``; a read gives up after ``patience`` cycles."""

    def __init__(self, port: FramePort, patience: int) -> None:
        self.port, self.patience = port, patience

    @resume
    async def write(self, content: bytes) -> None:
        await self.port.send(content)

    @resume
    async def read(self, timeout: float) -> bytes:
        del timeout
        return await self.port.receive(self.patience)

    def close(self) -> None:
        pass
