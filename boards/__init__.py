"""FPGA boards: what each one has, and where its lamps and buttons are. The pins themselves come from amaranth-boards."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from amaranth.build import TemplatedPlatform
from amaranth_boards.arty_a7 import ArtyA7_100Platform
from amaranth_boards.ecpix5 import ECPIX585Platform
from amaranth_boards.icebreaker import ICEBreakerPlatform
from amaranth_boards.ulx3s import ULX3S_85F_Platform

from .devices import DEVICES, Device
from .frames import BAUD
from .gowin import TangPrimer20kDock
from .pll import Pll
from .sdram import SdramChip

__all__ = ["BOARDS", "Board", "BoardSdram", "BoardSpram", "Pll", "board", "board_of"]

_ECP5_TOOLS = ("yosys", "nextpnr-ecp5", "ecppack")
_ICE40_TOOLS = ("yosys", "nextpnr-ice40", "icepack")
_GOWIN_TOOLS = ("yosys", "nextpnr-himbaechel-gowin", "gowin_pack")
_VIVADO = ("vivado",)


@dataclass(frozen=True, kw_only=True)
class BoardSdram:
    """What a core for a host needs: the chip, the PLL that makes the clock of core and chip, its rate, and that of the UART."""

    chip: SdramChip
    pll: Pll
    clock_hz: float
    baud: int


@dataclass(frozen=True, kw_only=True)
class BoardSpram:
    """What a serial core for a host needs: bytes of single-port RAM for external memory, and the rates of clock and UART."""

    memory_bytes: int
    clock_hz: float
    baud: int


@dataclass(frozen=True, kw_only=True)
class Board:
    """A board.

    Parameters
    ----------
    name, description : str
    platform : type
        Class of amaranth-boards.
    device : Device
        The FPGA.
    digits, busy, done, error : lamps
        Resource, number and signal (empty: the resource itself) of the four lamps for a class number, and of the three status lamps.
        ``error`` is None on a board with too few: after an error neither of the others is lit.
    button : tuple or None
        Resource and number of the start button.
    connector_resources : str
        Attribute of ``platform`` with more resources, for what is soldered to a connector.
    presets : dict
        Presets for it, beside the one of its name; by name, MHz of core and SDRAM where that is not ``sdram.clock_hz``.
    pll : Pll or None
        Makes the core's clock from the board's. None: they are the same.
    sdram : BoardSdram or None
        For a core that a host runs over the board's UART.
    spram : BoardSpram or None
        The same on a device whose memory is single-port RAM.
    tools, programmer : tuple of str, str
        What ``build_top.sh`` calls, and the command that writes its bitstream to the board. No one is needed to write the project.
    note : str
        What does not work, with numbers; empty when all does.
    """

    name: str
    description: str
    platform: type[TemplatedPlatform]
    device: Device
    digits: tuple[tuple[str, int, str], ...]
    busy: tuple[str, int, str]
    done: tuple[str, int, str]
    error: tuple[str, int, str] | None
    button: tuple[str, int] | None
    connector_resources: str = ""
    presets: Mapping[str, float | None] = field(default_factory=dict)
    pll: Pll | None = None
    sdram: BoardSdram | None = None
    spram: BoardSpram | None = None
    tools: tuple[str, ...]
    programmer: str
    note: str = ""

    def at(self, clock_mhz: float | None, preset: str = "") -> Board:
        """This board, with its SDRAM and the core for a host at another clock; None: at that of a preset for it, or its own."""
        clock_mhz = clock_mhz or self.presets.get(preset)
        if clock_mhz is None:
            return self
        if self.sdram is None:
            raise ValueError(f"{self.name} has no SDRAM whose clock could be {clock_mhz:g} MHz")
        board_hz = self.platform().default_clk_frequency
        pll = Pll.making(board_hz, clock_mhz * 1e6)
        clock_hz = board_hz * pll.feedback / pll.input
        return replace(self, sdram=replace(self.sdram, pll=pll, clock_hz=clock_hz, chip=self.sdram.chip.at(clock_hz)))


#: Boards by name; each has a preset of its name in :data:`..hw.config.PRESETS`.
BOARDS: dict[str, Board] = {
    entry.name: entry
    for entry in (
        Board(
            name="ulx3s-85f",
            description="ULX3S, Lattice LFE5U-85F speed 6",
            platform=ULX3S_85F_Platform,
            device=DEVICES["LFE5U-85F"],
            digits=tuple(("led", index, "") for index in range(4)),
            busy=("led", 5, ""),
            done=("led", 6, ""),
            error=("led", 7, ""),
            button=("button_fire", 0),
            sdram=BoardSdram(chip=SdramChip(), pll=Pll(input=5, feedback=16, output=8), clock_hz=80e6, baud=BAUD),
            presets={"ulx3s-85f": 100.0, "ulx3s-85f-l16": None},
            tools=_ECP5_TOOLS,
            programmer="openFPGALoader -b ulx3s top.bit",
        ),
        Board(
            name="ecpix5-85f",
            description="ECPIX-5, Lattice LFE5UM5G-85F speed 8",
            platform=ECPIX585Platform,
            device=DEVICES["LFE5UM5G-85F"],
            digits=tuple(("rgb_led", index, "g") for index in range(4)),
            busy=("rgb_led", 0, "b"),
            done=("rgb_led", 1, "b"),
            error=("rgb_led", 2, "r"),
            button=None,  # the reset button runs it again
            pll=Pll(input=2, feedback=1, output=12),
            tools=_ECP5_TOOLS,
            programmer="openFPGALoader -b ecpix5 top.bit",
        ),
        Board(
            name="icebreaker",
            description="iCEBreaker, Lattice iCE40UP5K",
            platform=ICEBreakerPlatform,
            device=DEVICES["iCE40UP5K"],
            digits=tuple(("led", index, "") for index in range(2, 6)),
            busy=("led", 6, ""),
            done=("led", 1, ""),
            error=("led", 0, ""),
            button=("button", 0),
            connector_resources="break_off_pmod",
            spram=BoardSpram(memory_bytes=64 << 10, clock_hz=12e6, baud=BAUD),
            tools=_ICE40_TOOLS,
            programmer="iceprog top.bin",
            note="a serial core only; its memory is empty at power-up, so without a host (--uart) it runs no network",
        ),
        Board(
            name="tang-primer-20k",
            description="Tang Primer 20K on its Dock, Gowin GW2A-18C",
            platform=TangPrimer20kDock,
            device=DEVICES["GW2A-18C"],
            digits=tuple(("led", index, "") for index in range(4)),
            busy=("led", 4, ""),
            done=("led", 5, ""),
            error=None,  # the Dock has six lamps
            button=("button", 0),
            spram=BoardSpram(memory_bytes=32 << 10, clock_hz=27e6, baud=BAUD),
            tools=_GOWIN_TOOLS,
            programmer="openFPGALoader -b tangprimer20k top.fs",
            note="a serial core only",
        ),
        Board(
            name="arty-a7-100",
            description="Arty A7-100T, Xilinx XC7A100T",
            platform=ArtyA7_100Platform,
            device=DEVICES["XC7A100T"],
            digits=tuple(("led", index, "") for index in range(4)),
            busy=("rgb_led", 0, "b"),
            done=("rgb_led", 1, "g"),
            error=("rgb_led", 2, "r"),
            button=("button", 0),
            tools=_VIVADO,
            programmer="vivado",
            note="the project is for Vivado, which has not run on it",
        ),
    )
}


def board_of(preset: str) -> Board | None:
    """The board that a preset is for."""
    return next((entry for entry in BOARDS.values() if preset == entry.name or preset in entry.presets), None)


def board(name: str) -> Board:
    """The board of that name."""
    if name not in BOARDS:
        raise ValueError(f"no board {name!r}; there are {', '.join(BOARDS)}")
    return BOARDS[name]
