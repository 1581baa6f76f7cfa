"""The PLL of an ECP5: which clocks it makes, and the clock of a design that it drives."""

from __future__ import annotations

from dataclasses import dataclass

from amaranth import *
from amaranth.lib import io
from amaranth.lib.cdc import ResetSynchronizer

__all__ = ["Pll", "PllClock"]

#: Limits of phase detector and VCO in Hz, and of dividers, as in Project Trellis's ecppll.
_LEAST_COMPARED = 3.125e6
_VCO = (400e6, 800e6)
_INPUTS, _FEEDBACKS, _OUTPUTS = range(1, 129), range(1, 81), range(2, 129, 2)


@dataclass(frozen=True, kw_only=True)
class Pll:
    """Dividers of an ECP5 PLL: output = input * ``feedback`` / ``input``; output * ``output`` is the VCO, 400 to 800 MHz."""

    input: int
    feedback: int
    output: int

    @classmethod
    def making(cls, input_hz: float, output_hz: float) -> Pll:
        """The PLL for ``output_hz``, to a hundred thousandth.

        Of those that there are, its phase detector is fastest, its ``output`` even, and its VCO nearest to the middle.
        """
        inputs = [divider for divider in _INPUTS if input_hz / divider >= _LEAST_COMPARED]
        clocks = {input_hz * feedback / divider: (divider, feedback) for divider in reversed(inputs) for feedback in _FEEDBACKS}
        outputs = {clock: [n for n in _OUTPUTS if _VCO[0] <= clock * n <= _VCO[1]] for clock in clocks}
        near = min((clock for clock in clocks if outputs[clock]), key=lambda clock: abs(clock - output_hz))
        if abs(near - output_hz) > 1e-5 * output_hz:
            raise ValueError(f"the PLL makes no {output_hz / 1e6:g} MHz of {input_hz / 1e6:g} MHz; the nearest is {near / 1e6:g} MHz")
        divider, feedback = clocks[near]
        return cls(input=divider, feedback=feedback, output=min(outputs[near], key=lambda n: abs(near * n - sum(_VCO) / 2)))


class PllClock(Elaboratable):
    """Drives the ``sync`` domain from an ECP5 PLL that is fed by the board's clock; reset until the PLL has locked.

    ``leading``, if given, is a clock that leads it by a quarter of its period, and ``double`` one of twice its rate, with a rising edge at
    each of its edges; the PLL's ``output`` is even then.
    """

    def __init__(self, pll: Pll, leading: Signal | None = None, double: Value | None = None):
        self.pll = pll
        self.leading = leading
        self.double = double

    def elaborate(self, platform):
        m = Module()
        m.submodules.pin = pin = io.Buffer(io.Direction.Input, platform.request(platform.default_clk, dir="-"))
        locked, clock = Signal(), Signal()
        m.d.comb += ClockSignal().eq(clock)
        second = {}
        if self.leading is not None:
            # Three quarters of a period, in periods of the VCO and eighths of one.
            delay, eighths = divmod(8 * 3 * self.pll.output // 4, 8)
            second = {"p_CLKOS_DIV": self.pll.output, "p_CLKOS_CPHASE": self.pll.output - 1 + delay, "p_CLKOS_FPHASE": eighths}
            second |= {"p_CLKOS_ENABLE": "ENABLED", "o_CLKOS": self.leading}
        if self.double is not None:
            half = self.pll.output // 2
            second |= {"p_CLKOS2_DIV": half, "p_CLKOS2_CPHASE": half - 1, "p_CLKOS2_ENABLE": "ENABLED", "o_CLKOS2": self.double}
        m.submodules.pll = Instance(
            "EHXPLLL",
            **second,
            p_CLKI_DIV=self.pll.input,
            p_CLKFB_DIV=self.pll.feedback,
            p_CLKOP_DIV=self.pll.output,
            p_CLKOP_CPHASE=self.pll.output - 1,
            p_CLKOP_ENABLE="ENABLED",
            p_FEEDBK_PATH="CLKOP",
            i_CLKI=pin.i,
            i_CLKFB=clock,
            i_RST=Const(0),
            i_STDBY=Const(0),
            i_PHASESEL0=Const(0),
            i_PHASESEL1=Const(0),
            i_PHASEDIR=Const(0),
            i_PHASESTEP=Const(0),
            i_PHASELOADREG=Const(0),
            i_PLLWAKESYNC=Const(0),
            i_ENCLKOP=Const(0),
            o_CLKOP=clock,
            o_LOCK=locked,
        )
        unlocked = ~locked
        if platform.default_rst is not None:
            m.submodules.reset_pin = reset = io.Buffer(io.Direction.Input, platform.request(platform.default_rst, dir="-"))
            unlocked = unlocked | reset.i
        # The last register before all that is reset may lie in the middle of the chip.
        m.domains.locking = ClockDomain(local=True)
        first, last = Signal(init=1), Signal(init=1)
        m.d.locking += [first.eq(0), last.eq(first)]
        m.d.comb += [ClockSignal("locking").eq(clock), ResetSignal().eq(last)]
        m.submodules.reset = ResetSynchronizer(unlocked, domain="locking")
        return m
