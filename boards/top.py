"""The top of a board's design: clock, lamps and button around a demo."""

from __future__ import annotations

from typing import Any

from amaranth import *
from amaranth.lib import io
from amaranth.lib.cdc import FFSynchronizer, ResetSynchronizer

from . import Board, Pll
from .demo import Demo

__all__ = ["BoardTop"]


class BoardTop(Elaboratable):
    """A demo with a board's clock, lamps and button.

    Parameters
    ----------
    board : Board
    demo : Demo
    """

    def __init__(self, board: Board, demo: Demo):
        self.board = board
        self.demo = demo

    def elaborate(self, platform):
        m = Module()
        board = self.board
        if board.connector_resources:
            platform.add_resources(getattr(platform, board.connector_resources))
        if board.pll is not None:
            m.domains.sync = ClockDomain()
            m.submodules.clock = _PllClock(board.pll)
        m.submodules.demo = demo = self.demo
        requested: dict[tuple[str, int], Any] = {}
        lamps = [*zip(board.digits, demo.digit, strict=True), (board.busy, demo.busy), (board.done, demo.done), (board.error, demo.error)]
        for (resource, number, signal), value in lamps:
            if (resource, number) not in requested:
                requested[resource, number] = platform.request(resource, number, dir="-")
            port = requested[resource, number]
            m.submodules[f"{resource}_{number}_{signal or 'o'}"] = buffer = io.Buffer(
                io.Direction.Output, getattr(port, signal) if signal else port
            )
            m.d.comb += buffer.o.eq(value)
        if board.button is not None:
            m.submodules.button = button = io.Buffer(io.Direction.Input, platform.request(*board.button, dir="-"))
            m.submodules.button_sync = FFSynchronizer(button.i, demo.start)
        return m


class _PllClock(Elaboratable):
    """Drives the ``sync`` domain from an ECP5 PLL that is fed by the board's clock; reset until the PLL has locked."""

    def __init__(self, pll: Pll):
        self.pll = pll

    def elaborate(self, platform):
        m = Module()
        m.submodules.pin = pin = io.Buffer(io.Direction.Input, platform.request(platform.default_clk, dir="-"))
        locked, clock = Signal(), Signal()
        m.d.comb += ClockSignal().eq(clock)
        m.submodules.pll = Instance(
            "EHXPLLL",
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
        m.submodules.reset = ResetSynchronizer(unlocked)
        return m
