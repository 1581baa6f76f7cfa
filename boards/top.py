"""The tops of boards' designs: pins and clock around a demo, or around a core for a host."""

from __future__ import annotations

from typing import Any

from amaranth import *
from amaranth.lib import io
from amaranth.lib.cdc import FFSynchronizer

from ..hw.array.double_product import DOUBLE_DOMAIN
from ..hw.config import CoreConfig
from . import Board, BoardSdram, BoardSpram
from .demo import Demo
from .linked import SdramCore, SpramCore
from .pll import PllClock
from .sdram import BUS_BYTES
from .uart import divisor

__all__ = ["BoardTop", "HostTop"]


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
            m.submodules.clock = PllClock(board.pll)
        m.submodules.demo = demo = self.demo
        requested: dict[tuple[str, int], Any] = {}
        lamps = [*zip(board.digits, demo.digit, strict=True), (board.busy, demo.busy), (board.done, demo.done)]
        if board.error is not None:
            lamps.append((board.error, demo.error))
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


class HostTop(Elaboratable):
    """A core with a board's memory, for a host at its UART. Lamps: busy while requests are on their way, done at the core's interrupt.

    The memory is an SDRAM chip, whose clock leads the core's by a quarter of its period, or single-port RAM on the device.

    Parameters
    ----------
    board : Board
        With ``sdram``, the rate of its core's clock and the PLL that makes it, or with ``spram``.
    config : CoreConfig
        With a memory port as wide as the chip's bus; with ``spram`` a serial core.
    """

    def __init__(self, board: Board, config: CoreConfig):
        self.board = board
        memory = self.check(board, config)
        rate = divisor(memory.clock_hz, memory.baud)
        if isinstance(memory, BoardSpram):
            self.core = SpramCore(config, memory.memory_bytes, rate)
        else:
            self.core = SdramCore(config, memory.chip, memory.clock_hz, rate)

    @staticmethod
    def check(board: Board, config: CoreConfig) -> BoardSdram | BoardSpram:
        """The board's memory. Raises ``ValueError`` unless there is some, and the core fits it."""
        if board.spram is not None:
            if not config.serial:
                raise ValueError(f"{board.name} has room for a serial core only: --preset {board.name} is one")
            return board.spram
        if board.sdram is None:
            raise ValueError(f"{board.name} has no memory that a core for a host could use")
        if config.port_bytes != BUS_BYTES:
            raise ValueError(f"an SDRAM bus of {BUS_BYTES} bytes needs memory_bytes_per_cycle={BUS_BYTES}, not {config.port_bytes}")
        return board.sdram

    def elaborate(self, platform):
        m = Module()
        m.submodules.core = core = self.core
        if self.board.connector_resources:
            platform.add_resources(getattr(platform, self.board.connector_resources))
        if self.board.sdram is not None:
            m.domains.sync = ClockDomain()
            chip_clock, double = Signal(), None
            if core.config.double_rate:
                m.domains += ClockDomain(DOUBLE_DOMAIN, reset_less=True)
                double = ClockSignal(DOUBLE_DOMAIN)
            m.submodules.clock = PllClock(self.board.sdram.pll, chip_clock, double)
            self._connect_chip(m, platform.request("sdram", 0, dir="-"), core.sdram, chip_clock)

        uart = platform.request("uart", 0, dir="-")
        m.submodules.rx = rx = io.Buffer(io.Direction.Input, uart.rx)
        m.submodules.tx = tx = io.Buffer(io.Direction.Output, uart.tx)
        m.d.comb += [core.rx.eq(rx.i), tx.o.eq(core.tx)]
        for name, value in (("busy", ~core.tx), ("done", core.interrupt)):
            resource, number, signal = getattr(self.board, name)
            port = platform.request(resource, number, dir="-")
            m.submodules[name] = lamp = io.Buffer(io.Direction.Output, getattr(port, signal) if signal else port)
            m.d.comb += lamp.o.eq(value)
        return m

    @staticmethod
    def _connect_chip(m, pads, pins, chip_clock):
        """Pads straight to the controller, whose registers are next to them."""
        names = ("clk_en", "ras", "cas", "we", "ba", "a", "dqm")
        outputs = {"clk": chip_clock, "cs": Const(1), **{name: getattr(pins, name) for name in names}}
        for name, value in outputs.items():
            m.submodules[f"sdram_{name}"] = buffer = io.Buffer(io.Direction.Output, getattr(pads, name))
            m.d.comb += buffer.o.eq(value)
        m.submodules.sdram_dq = dq = io.Buffer(io.Direction.Bidir, pads.dq)
        m.d.comb += [dq.o.eq(pins.dq_o), dq.oe.eq(pins.dq_oe), pins.dq_i.eq(dq.i)]
