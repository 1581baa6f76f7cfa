"""The far end of a UART as cocotb coroutines, and a transport for :class:`..boards.host.Device` through a simulated one."""

from __future__ import annotations

from typing import Any

import cocotb
from cocotb.task import resume
from cocotb.triggers import ClockCycles, FallingEdge

__all__ = ["SimulatedTransport", "Uart"]


class Uart:
    """Sends to a pin of ``dut``, and collects what comes from another one.

    Parameters
    ----------
    dut : cocotb handle
    divisor : int
        Cycles of a bit.
    """

    def __init__(self, dut: Any, divisor: int, rx: str = "rx", tx: str = "tx") -> None:
        self.dut, self.divisor = dut, divisor
        self.rx, self.tx = getattr(dut, rx), getattr(dut, tx)
        #: What the device sent and nobody took yet.
        self.received = bytearray()
        self.rx.value = 1

    async def send(self, content: bytes) -> None:
        """Send bytes without a gap."""
        for byte in content:
            bits, index = byte << 1 | 1 << 9, 0
            while index < 10:  # a trigger for each change
                level, same = bits >> index & 1, 1
                while index + same < 10 and bits >> index + same & 1 == level:
                    same += 1
                self.rx.value = level
                await ClockCycles(self.dut.clk, same * self.divisor)
                index += same

    async def receive(self) -> None:
        """Collect bytes for ever."""
        while True:
            await FallingEdge(self.tx)
            await ClockCycles(self.dut.clk, self.divisor + self.divisor // 2)
            byte = 0
            for bit in range(8):
                byte |= int(self.tx.value) << bit
                await ClockCycles(self.dut.clk, self.divisor)
            assert self.tx.value, "the device sends a byte without a stop bit"
            self.received.append(byte)


class SimulatedTransport:
    """A :class:`..boards.host.Transport` for code in ``cocotb.task.bridge``; a read gives up after ``patience`` cycles."""

    def __init__(self, uart: Uart, patience: int) -> None:
        self.uart, self.patience = uart, patience
        cocotb.start_soon(uart.receive())

    @resume
    async def write(self, content: bytes) -> None:
        self.uart.received.clear()
        await self.uart.send(content)

    @resume
    async def read(self, timeout: float) -> bytes:
        del timeout
        step = 10 * self.uart.divisor
        for _ in range(-(-self.patience // step)):
            if self.uart.received:
                break
            await ClockCycles(self.uart.dut.clk, step)
        content = bytes(self.uart.received)
        self.uart.received.clear()
        return content

    def close(self) -> None:
        pass
