"""UART: 8 data bits, no parity, 1 stop bit."""

from __future__ import annotations

from amaranth import *
from amaranth.lib import stream, wiring
from amaranth.lib.cdc import FFSynchronizer
from amaranth.lib.wiring import In, Out

__all__ = ["UartReceiver", "UartTransmitter", "divisor"]

#: What the clocks of both sides together may be off: half a bit in ten, less the sampling's grain.
_TOLERANCE = 0.025
_MIN_DIVISOR = 4


def divisor(clock_hz: float, baud: float) -> int:
    """Cycles of a bit."""
    cycles = round(clock_hz / baud)
    if cycles < _MIN_DIVISOR:
        raise ValueError(f"{baud:.0f} baud takes a clock of at least {_MIN_DIVISOR * baud / 1e6:g} MHz, not {clock_hz / 1e6:g} MHz")
    error = abs(clock_hz / cycles / baud - 1)
    if error > _TOLERANCE:
        off = f"{clock_hz / 1e6:g} MHz / {cycles} is {100 * error:.1f} % off {baud:.0f} baud"
        raise ValueError(f"{off}; {100 * _TOLERANCE:g} % are allowed")
    return cycles


class UartReceiver(wiring.Component):
    """Bytes from a pin. A byte without a stop bit is dropped, and one that comes while the one before was not taken replaces it.

    Latency: the byte is there in the middle of its stop bit.

    Parameters
    ----------
    divisor : int
        Cycles of a bit, at least 4.

    Members
    -------
    pin : ``In(1)``
    o : ``Out(stream.Signature(8))``
    """

    def __init__(self, divisor: int):
        self.divisor = divisor
        super().__init__({"pin": In(1), "o": Out(stream.Signature(8))})

    def elaborate(self, platform):
        m = Module()
        pin, shift, bits = Signal(init=1), Signal(8, reset_less=True), Signal(range(10))
        wait = Signal(range(self.divisor), reset_less=True)
        m.submodules.synchronizer = FFSynchronizer(self.pin, pin, init=1)
        with m.If(self.o.ready):
            m.d.sync += self.o.valid.eq(0)
        m.d.sync += wait.eq(wait - 1)
        with m.FSM():
            with m.State("IDLE"):
                m.d.sync += [wait.eq(self.divisor // 2 - 1), bits.eq(0)]
                with m.If(~pin):
                    m.next = "SAMPLE"
            with m.State("SAMPLE"), m.If(wait == 0):
                m.d.sync += [wait.eq(self.divisor - 1), bits.eq(bits + 1), shift.eq(Cat(shift[1:], pin))]
                with m.If((bits == 0) & pin):  # a glitch, no start bit
                    m.next = "IDLE"
                with m.Elif(bits == 9):
                    m.d.sync += shift.eq(shift)
                    with m.If(pin):
                        m.d.sync += [self.o.valid.eq(1), self.o.payload.eq(shift)]
                    m.next = "HIGH"
            with m.State("HIGH"), m.If(pin):  # a broken cable may be low for long
                m.next = "IDLE"
        return m


class UartTransmitter(wiring.Component):
    """Bytes to a pin. Throughput: a byte in ``10 * divisor`` cycles.

    Parameters
    ----------
    divisor : int
        Cycles of a bit.

    Members
    -------
    i : ``In(stream.Signature(8))``
    pin : ``Out(1)``
    """

    def __init__(self, divisor: int):
        self.divisor = divisor
        super().__init__({"i": In(stream.Signature(8)), "pin": Out(1)})

    def elaborate(self, platform):
        m = Module()
        shift, bits, wait = Signal(10, init=1), Signal(range(11)), Signal(range(self.divisor))
        line = Signal(init=1)
        m.d.comb += self.pin.eq(line)
        m.d.comb += self.i.ready.eq((wait == 0) & (bits <= 1))
        m.d.sync += line.eq(shift[0])
        with m.If(wait != 0):
            m.d.sync += wait.eq(wait - 1)
        with m.Elif(self.i.valid & self.i.ready):
            m.d.sync += [shift.eq(Cat(C(0, 1), self.i.payload, C(1, 1))), bits.eq(10), wait.eq(self.divisor - 1)]
        with m.Elif(bits != 0):
            m.d.sync += [shift.eq(Cat(shift[1:], C(1, 1))), bits.eq(bits - 1), wait.eq(self.divisor - 1)]
        return m
